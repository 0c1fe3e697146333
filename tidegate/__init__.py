"""Tidegate: ask several departments one question, under rules that are checked and recorded on every request.

    import tidegate

    with tidegate.connect() as exchange:
        result = exchange.query("SELECT count(*) FROM aviation.flights", purpose="transport.planning")
        print(result.to_arrow())
        result.receipt.verify()

Importing is fast: what a call needs is loaded when it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tidegate.core.errors import (
    CallerError,
    IntegrityError,
    InternalError,
    Overloaded,
    PeerError,
    Refused,
    TidegateError,
)

if TYPE_CHECKING:
    from tidegate.client.session import Session

__version__ = "0.1.0"
__all__ = [
    "CallerError",
    "IntegrityError",
    "InternalError",
    "Overloaded",
    "PeerError",
    "Refused",
    "TidegateError",
    "__version__",
    "connect",
]


def connect(context: str | None = None, *, identity: str | None = None, purpose: str | None = None) -> Session:
    """Connect to an exchange that this user has joined.

    Args:
        context: name of a context made by ``tidegate join``; None for ``TIDEGATE_CONTEXT``, else the current one.
        identity: path of an identity folder; wins over ``context``.
        purpose: default purpose of the session's queries.

    Raises:
        CallerError: CLIENT_NO_CONTEXT, ID_CERTIFICATE_EXPIRED ...: said before anything is sent.
    """
    from tidegate.client.session import open_session

    return open_session(context, identity=identity, purpose=purpose)


def load_ipython_extension(shell: Any) -> None:
    """Add the magic ``%%tidegate`` to a notebook: ``%load_ext tidegate`` calls this; see ``tidegate.client.jupyter``."""
    from tidegate.client.jupyter import load

    load(shell)


def unload_ipython_extension(shell: Any) -> None:
    """Take the magic out again and close what it opened: ``%unload_ext tidegate`` calls this."""
    from tidegate.client.jupyter import unload

    unload(shell)


def __getattr__(name: str) -> Any:
    """Load ``tidegate.dbapi`` when it is first named."""
    if name == "dbapi":
        from importlib import import_module

        return import_module("tidegate.dbapi")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""What the verbs share: options, and opening a session."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Annotated

import typer

from tidegate.cli.output import Format

if TYPE_CHECKING:
    from tidegate.client.session import Session

ContextOption = Annotated[
    str | None, typer.Option("--context", envvar="TIDEGATE_CONTEXT", help="Context to use; default: the current one.")
]
IdentityOption = Annotated[
    str | None, typer.Option("--identity", help="Identity folder to use instead of a context.", show_default=False)
]
OutputOption = Annotated[Format, typer.Option("--output", "-o", help="Format of the data on stdout.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]


def session(context: str | None, identity: str | None) -> Session:
    """Open a session under the chosen context or identity folder."""
    from tidegate.client.session import open_session

    return open_session(context, identity=identity, purpose=None)


def new_key() -> str:
    """Make an idempotency key for one write."""
    return secrets.token_hex(16)

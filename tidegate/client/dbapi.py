"""DB-API 2.0 (PEP 249) over Arrow Flight SQL: what ``tidegate.dbapi`` offers.

The connection is ADBC's own object, not one of ours around it: pandas and polars recognise it and take Arrow from it. What is
ours is how it is opened (identity, purpose, limits) and how its errors are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tidegate.client.contexts import Context, Contexts, with_environment
from tidegate.client.extras import load
from tidegate.client.tools import ADBC_CA, ADBC_CERTIFICATE, ADBC_HEADER, ADBC_KEY, call_headers
from tidegate.client.wire import from_status_details
from tidegate.core.clock import SystemClock
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.limits import MESSAGE_BYTES_MAX, QUERY_DEADLINE_S_MAX
from tidegate.identity.folder import IdentityFolder
from tidegate.identity.joining import renew_if_due

if TYPE_CHECKING:
    from adbc_driver_flightsql.dbapi import Connection

EXTRA = "adbc"
_DETAILS = "grpc-status-details-bin"
_TIMEOUTS = ("adbc.flight.sql.rpc.timeout_seconds.query", "adbc.flight.sql.rpc.timeout_seconds.fetch")
_MESSAGE_SIZE = "adbc.flight.sql.client_option.with_max_msg_size"


def connect(
    context: str | None = None,
    *,
    identity: str | None = None,
    purpose: str | None = None,
    legal_basis: str | None = None,
    deadline_s: float | None = None,
    db_kwargs: Mapping[str, str] | None = None,
    conn_kwargs: Mapping[str, str] | None = None,
) -> Connection:
    """Open a DB-API 2.0 connection to an exchange that this user has joined. Needs ``pip install 'tidegate[adbc]'``.

    The connection shows the certificate that it was opened with, for as long as that is valid (at most a day): a program that
    runs longer connects again. There are no transactions: nothing is ever changed.

    Args:
        context: name of a context made by ``tidegate join``; None for ``TIDEGATE_CONTEXT``, else the current one.
        identity: path of an identity folder; wins over ``context``.
        purpose: of every query of the connection; None for ``TIDEGATE_PURPOSE``, else the context's. An empty text sends
            none, for a caller who gives the header ``x-tidegate-purpose`` with each statement.
        legal_basis: as ``purpose``.
        deadline_s: of each query and of reading its answer, seconds; None for the exchange's.
        db_kwargs, conn_kwargs: more options of the ADBC driver, which win over ours.

    Raises:
        CallerError: CLIENT_INPUT (the driver is not installed), CLIENT_NO_CONTEXT, ID_CERTIFICATE_EXPIRED ...: said before
            anything is sent. PeerError: CLIENT_UNREACHABLE, when the certificate has to be renewed first.
    """
    driver = load("adbc_driver_flightsql.dbapi", EXTRA)
    chosen = with_environment(Context("", Path(identity))) if identity else Contexts().find(context)
    local = renew_if_due(IdentityFolder(chosen.identity))
    local.check(SystemClock().now())
    headers = call_headers(
        chosen.purpose if purpose is None else purpose, chosen.legal_basis if legal_basis is None else legal_basis
    )
    options = {
        ADBC_CERTIFICATE: local.presented_pem.decode(),
        ADBC_KEY: local.key_pem.decode(),
        ADBC_CA: local.root_pem.decode(),
        _MESSAGE_SIZE: str(MESSAGE_BYTES_MAX),
        **{f"{ADBC_HEADER}{name}": value for name, value in headers.items()},
        **_deadline(deadline_s),
        **(db_kwargs or {}),
    }
    connection: Connection = driver.connect(
        f"grpc+tls://{local.exchange.callers}", options, dict(conn_kwargs or {}), autocommit=True
    )
    return connection


def _deadline(seconds: float | None) -> dict[str, str]:
    if seconds is None:
        return {}
    if not 0 < seconds <= QUERY_DEADLINE_S_MAX:
        raise error_for(Code.CLIENT_INPUT, f"deadline_s: expected more than 0 and at most {QUERY_DEADLINE_S_MAX:g}")
    return dict.fromkeys(_TIMEOUTS, f"{seconds:.3f}")


def error_of(error: BaseException) -> TidegateError | None:
    """Read what the exchange says in an error of ADBC: code, reasons, whom to ask, request id, receipt of the refusal.

    Looks at the error and at its causes, so that an error of pandas or polars around it is read too. Give the receipt to
    ``Session.verify_refusal``.

    Returns:
        None when the exchange said nothing: the driver or the network failed.
    """
    current: BaseException | None = error
    seen: set[int] = set()
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        for name, value in getattr(current, "details", None) or ():
            key = name.decode("ascii", "replace") if isinstance(name, bytes) else name
            found = from_status_details(value) if key == _DETAILS else None
            if found is not None:
                return found
        current = current.__cause__ or current.__context__
    return None

"""DB-API 2.0 (PEP 249) for the exchange, through ADBC and Arrow Flight SQL: ``pip install 'tidegate[adbc]'``.

    import tidegate.dbapi

    with tidegate.dbapi.connect(purpose="transport.planning") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT district, count(*) FROM parking.visits WHERE weekday = ? GROUP BY 1", ("Mon",))
        print(cursor.fetchall())

Connection, cursor and exceptions are ADBC's; ``error_of`` reads what the exchange says in one of them. Receipts of answers do
not come through ADBC: a program that has to keep them asks with ``tidegate.connect().query``.
"""

from __future__ import annotations

from typing import Any

from tidegate.client.dbapi import EXTRA, connect, error_of
from tidegate.client.extras import load

apilevel = "2.0"
threadsafety = 1  # threads may share the module, but not a connection
paramstyle = "qmark"

_OF_THE_DRIVER = (
    "BINARY",
    "DATETIME",
    "NUMBER",
    "ROWID",
    "STRING",
    "Connection",
    "Cursor",
    "DataError",
    "DatabaseError",
    "Date",
    "DateFromTicks",
    "Error",
    "IntegrityError",
    "InterfaceError",
    "InternalError",
    "NotSupportedError",
    "OperationalError",
    "ProgrammingError",
    "Time",
    "TimeFromTicks",
    "Timestamp",
    "TimestampFromTicks",
    "Warning",
)
__all__ = ["apilevel", "connect", "error_of", "paramstyle", "threadsafety"]


def __getattr__(name: str) -> Any:
    """Give the types and exceptions of PEP 249, which are the driver's.

    Raises:
        CallerError: CLIENT_INPUT; the driver is not installed.
    """
    if name in _OF_THE_DRIVER:
        return getattr(load("adbc_driver_flightsql.dbapi", EXTRA), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_OF_THE_DRIVER})

"""A PostgreSQL database as a source, over ADBC: columns and statistics for the description, and scans as Arrow chunks.

The role that the URL names should be able to read the datasets' tables and nothing else; the session is read-only and has
a statement timeout besides. Error texts of the server never leave this module: they quote values.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tidegate import ipc
from tidegate.core.dataset import Column
from tidegate.core.errors import Code, error_for
from tidegate.sql.model import RenderedSql

try:
    import adbc_driver_postgresql.dbapi as adbc
except ModuleNotFoundError:  # a node that serves files alone does without the extra `postgres`; PostgresSource says so
    adbc = None

_TYPES = {
    "bool": "BOOLEAN",
    "int2": "SMALLINT",
    "int4": "INTEGER",
    "int8": "BIGINT",
    "float4": "FLOAT",
    "float8": "DOUBLE",
    "text": "VARCHAR",
    "varchar": "VARCHAR",
    "bpchar": "VARCHAR",
    "date": "DATE",
    "time": "TIME",
    "timestamp": "TIMESTAMP",
    "timestamptz": "TIMESTAMP WITH TIME ZONE",
    "bytea": "BLOB",
    "uuid": "UUID",
}
_DECIMAL = re.compile(r"DECIMAL\((\d+),(\d+)\)")
_DECIMAL_DIGITS_MAX = 38  # DuckDB's and Arrow's decimal128
_TABLE_PARTS_MAX = 2

# pg_catalog rather than information_schema: the latter hides numeric's typmod of domains and is slow on large catalogues.
_COLUMNS_SQL = """
SELECT a.attname, t.typname, a.atttypmod, a.attnotnull
FROM pg_catalog.pg_attribute a
JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
WHERE n.nspname = $1 AND c.relname = $2 AND a.attnum > 0 AND NOT a.attisdropped
  AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
ORDER BY a.attnum
"""


@dataclass(frozen=True, slots=True)
class PostgresColumn:
    """A column of a table; ``type`` is empty when the exchange has no type for it."""

    name: str
    type: str
    nullable: bool


def split_table(table: str) -> tuple[str, str]:
    """Give (schema, table) of ``table`` or ``schema.table``; the schema defaults to ``public``."""
    parts = table.split(".")
    if len(parts) > _TABLE_PARTS_MAX or not all(parts):
        raise error_for(Code.CONFIG_INVALID, "PostgreSQL table: expected table or schema.table")
    return ("public", parts[0]) if len(parts) == 1 else (parts[0], parts[1])


def quote(name: str) -> str:
    """Quote an identifier; the quote character is the same in DuckDB and PostgreSQL."""
    return '"' + name.replace('"', '""') + '"'


class PostgresSource:
    """One database. A connection per scan: a scan that is cancelled or fails takes its connection with it.

    Raises:
        CallerError: CONFIG_INVALID when the driver is not installed.
    """

    def __init__(self, url: str, *, statement_timeout_s: float) -> None:
        if adbc is None:
            message = "PostgreSQL source: its driver is not installed; pip install 'tidegate-exchange[postgres]'"
            raise error_for(Code.CONFIG_INVALID, message)
        self._url = url
        self._timeout_ms = max(int(statement_timeout_s * 1000), 1)

    @contextmanager
    def _cursor(self) -> Iterator[Any]:
        try:
            connection = adbc.connect(self._url)
        except adbc.Error as error:
            raise _failed("cannot be reached", error) from None
        try:
            with connection.cursor() as cursor:
                for setting in (
                    f"statement_timeout = {self._timeout_ms}",
                    "default_transaction_read_only = on",
                    "TimeZone = 'UTC'",
                ):
                    cursor.execute(f"SET {setting}")
                connection.commit()  # else a rollback would take the settings back
                yield cursor
        finally:
            connection.rollback()
            connection.close()

    def columns(self, table: str) -> list[PostgresColumn]:
        """Give the table's columns in order.

        Raises:
            PeerError: NODE_EXECUTE when the database cannot be asked.
        """
        with self._cursor() as cursor:
            rows = _fetch(cursor, _COLUMNS_SQL, split_table(table))
        return [
            PostgresColumn(name, _type_text(kind, modifier), not not_null) for name, kind, modifier, not_null in rows
        ]

    def row(self, sql: str) -> tuple[Any, ...]:
        """Give the one row of a statement of our own."""
        with self._cursor() as cursor:
            return _fetch(cursor, sql, ())[0]

    def scan(
        self, query: RenderedSql, columns: Sequence[Column], *, cancel: threading.Event, deadline_s: float
    ) -> Iterator[bytes]:
        """Run a scan of our own rendering; Arrow chunks, schema first, with the columns' catalogue types.

        Stops, also at the server, once ``cancel`` is set or the deadline is over.

        Raises:
            PeerError: NODE_EXECUTE; CallerError: QUERY_CANCELLED.
        """
        with self._cursor() as cursor:
            _fetch(cursor, f"SET statement_timeout = {max(int(deadline_s * 1000), 1)}", ())
            ended = threading.Event()
            watcher = threading.Thread(target=_watch, args=(cursor, cancel, ended), name="postgres-cancel", daemon=True)
            watcher.start()
            try:
                cursor.execute(query.text, tuple(query.parameters) or None)
                reader = cursor.fetch_record_batch()
                schema = _target(reader.schema, columns)
                yield from ipc.cut(schema, _batches(reader, schema, cancel))
            except (adbc.Error, pa.ArrowException, OSError) as error:
                if cancel.is_set():
                    raise error_for(Code.QUERY_CANCELLED) from None
                raise _failed("the scan failed", error) from None
            finally:
                ended.set()
                watcher.join()


def _watch(cursor: Any, cancel: threading.Event, ended: threading.Event) -> None:
    while not ended.wait(0.1):
        if cancel.is_set():
            try:
                cursor.adbc_cancel()
            except adbc.Error:
                return  # nothing was running: the scan sees `cancel` by itself
            return


def _target(found: pa.Schema, columns: Sequence[Column]) -> pa.Schema:
    """Give the schema that the worker is to see: ADBC hands numerics over as opaque texts, which become decimals here."""
    types = {column.name: _DECIMAL.fullmatch(column.type) for column in columns}
    fields = []
    for field in found:
        decimal = types.get(field.name)
        fields.append(pa.field(field.name, pa.decimal128(int(decimal[1]), int(decimal[2]))) if decimal else field)
    return pa.schema([field.remove_metadata() for field in fields])


def _batches(reader: Any, schema: pa.Schema, cancel: threading.Event) -> Iterator[pa.RecordBatch]:
    for batch in reader:
        if cancel.is_set():
            raise error_for(Code.QUERY_CANCELLED)
        arrays = [_as(array, field.type) for array, field in zip(batch.columns, schema, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def _as(array: pa.Array, kind: pa.DataType) -> pa.Array:
    if array.type == kind:
        return array
    storage = array.storage if isinstance(array, pa.ExtensionArray) else array
    return storage.cast(kind)


def _fetch(cursor: Any, sql: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
    try:
        cursor.execute(sql, tuple(parameters) or None)
        return list(cursor.fetchall())
    except adbc.Error as error:
        raise _failed("the description failed", error) from None


def _failed(what: str, error: Exception) -> Exception:
    """Make the public error; of the server's text only its SQLSTATE goes to the log: the text may quote a value."""
    state = re.search(r"SQLSTATE:?\s*([0-9A-Z]{5})", str(error))
    detail = f"{type(error).__name__} {state.group(1) if state else ''}".strip()
    return error_for(Code.NODE_EXECUTE, f"PostgreSQL source: {what}", detail=detail)


def _type_text(kind: str, modifier: int) -> str:
    """Give DuckDB's type text of a PostgreSQL type, or empty when the exchange carries no such type."""
    if kind != "numeric":
        return _TYPES.get(kind, "")
    if modifier < 0:
        return ""  # unbounded numeric fits no decimal of fixed size; a view with a cast makes it one
    precision, scale = (modifier - 4) >> 16 & 0xFFFF, (modifier - 4) & 0x7FF
    return f"DECIMAL({precision},{scale})" if scale <= precision <= _DECIMAL_DIGITS_MAX else ""

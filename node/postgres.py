"""A PostgreSQL database as a source, over ADBC: its tables as the node knows them, and queries of our own as Arrow streams.

The role that the URL names should be able to read the datasets' tables and nothing else; the session is read-only besides, its
settings are pinned, and each query has a transaction of its own with a deadline that the server keeps too. Error texts of the
server never leave this module: they quote values.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from node import postgres_arrow
from node.postgres_session import INSTALLED, Failed, Sessions, problem
from tidegate import ipc
from tidegate.core.dataset import Column
from tidegate.core.errors import Code, error_for
from tidegate.sql import postgres
from tidegate.sql.model import RenderedSql
from tidegate.sql.postgres_query import PostgresQuery
from tidegate.sql.postgres_types import NativeColumn, NativeTable

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
_DECIMAL_DIGITS_MAX = 38  # DuckDB's and Arrow's decimal128
_TABLE_PARTS_MAX = 2

# pg_catalog rather than information_schema: the latter hides numeric's typmod of domains and is slow on large catalogues.
_COLUMNS_SQL = """
SELECT a.attname, t.typname, a.atttypmod, a.attnotnull,
  CASE WHEN l.collname IS NULL OR NOT l.collisdeterministic THEN '' ELSE l.collname END
FROM pg_catalog.pg_attribute a
JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_catalog.pg_collation l ON l.oid = a.attcollation
WHERE n.nspname = $1 AND c.relname = $2 AND a.attnum > 0 AND NOT a.attisdropped
  AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
ORDER BY a.attnum
"""
_FACTS_SQL = """
SELECT pg_catalog.current_setting('server_version_num')::int4,
  pg_catalog.current_setting('server_encoding') = 'UTF8',
  pg_catalog.has_database_privilege(pg_catalog.current_database(), 'TEMP')
"""
_TABLES_SQL = """
SELECT c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f') ORDER BY c.relname
"""


@dataclass(frozen=True, slots=True)
class PostgresColumn:
    """A column of a table; ``type`` is empty when the exchange has no type for it; ``collation`` as in ``NativeColumn``."""

    name: str
    type: str
    nullable: bool
    native: str = ""
    collation: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the server and the role can do."""

    version: int
    utf8: bool
    may_make_views: bool


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
    """One database. Thread-safe: each query has a connection to itself, and one that is cancelled or fails is closed.

    Raises:
        CallerError: CONFIG_INVALID when the driver is not installed.
    """

    def __init__(self, url: str, *, statement_timeout_s: float) -> None:
        if not INSTALLED:
            message = "PostgreSQL source: its driver is not installed; pip install 'tidegate-exchange[postgres]'"
            raise error_for(Code.CONFIG_INVALID, message)
        self._sessions = Sessions(url)
        self._timeout_s = statement_timeout_s
        self._facts: Facts | None = None

    def close(self) -> None:
        """Close the connections that wait for work."""
        self._sessions.close()

    @property
    def facts(self) -> Facts:
        """What server and role can do, asked once.

        Raises:
            PeerError: NODE_SOURCE_AWAY, NODE_EXECUTE.
        """
        if self._facts is None:
            version, utf8, views = self._rows(_FACTS_SQL)[0]
            self._facts = Facts(int(version), bool(utf8), bool(views))
        return self._facts

    def columns(self, table: str) -> list[PostgresColumn]:
        """Give the table's columns in order.

        Raises:
            PeerError: NODE_SOURCE_AWAY, NODE_EXECUTE when the database cannot be asked.
        """
        rows = self._rows(_COLUMNS_SQL, split_table(table))
        return [
            PostgresColumn(name, _type_text(kind, modifier), not not_null, kind, collation)
            for name, kind, modifier, not_null, collation in rows
        ]

    def tables(self, schema: str) -> list[str]:
        """Give the names of a schema's tables and views.

        Raises:
            PeerError: as ``columns``.
        """
        return [str(name) for (name,) in self._rows(_TABLES_SQL, (schema,))]

    def native(self, table: str) -> NativeTable:
        """Give the table as a translation needs it (``tidegate.sql.postgres_query``)."""
        schema, name = split_table(table)
        # Without UTF-8 at the server its bytes are not those that DuckDB compares: texts are then only read.
        utf8 = self.facts.utf8
        found = {item.name: NativeColumn(item.native, item.collation if utf8 else "") for item in self.columns(table)}
        return NativeTable(schema, name, found)

    def row(self, sql: str) -> tuple[Any, ...]:
        """Give the one row of a statement of our own."""
        return self._rows(sql)[0]

    def scan(
        self, query: RenderedSql, columns: Sequence[Column], *, cancel: threading.Event, deadline_s: float
    ) -> Iterator[bytes]:
        """Run a scan of our own rendering; Arrow chunks, schema first, with the columns' catalogue types.

        Stops, also at the server, once ``cancel`` is set or the deadline is over.

        Raises:
            PeerError: NODE_EXECUTE, NODE_SOURCE_AWAY; CallerError: QUERY_CANCELLED, QUERY_DEADLINE.
        """
        until_s = time.monotonic() + deadline_s
        types = [(column.name, column.type) for column in columns]
        text = postgres_arrow.scaled(postgres.inlined(query), postgres_arrow.decimals_of(types))
        with self._sessions.query((), text, cancel=cancel, until_s=until_s) as reader:
            schema = postgres_arrow.schema_of(reader.schema, types)
            yield from ipc.cut(schema, postgres_arrow.converted(reader, schema, units=True))

    def ask(
        self, query: PostgresQuery, schema: pa.Schema, *, cancel: threading.Event, deadline_s: float
    ) -> Generator[bytes, None, None]:
        """Run a translated fragment; Arrow chunks, schema first, of exactly ``schema``.

        Raises:
            PeerError: NODE_EXECUTE, NODE_SOURCE_AWAY; CallerError: QUERY_CANCELLED, QUERY_DEADLINE.
        """
        until_s = time.monotonic() + deadline_s
        # A sub-query's order holds no longer than itself.
        text = query.text if query.ordered else postgres_arrow.scaled(query.text, schema)
        with self._sessions.query(query.setup, text, cancel=cancel, until_s=until_s) as reader:
            yield from ipc.cut(schema, postgres_arrow.converted(reader, schema, units=not query.ordered))

    @contextmanager
    def stream(
        self, table: tuple[str, str], columns: Sequence[tuple[str, str]], *, stop: threading.Event, deadline_s: float
    ) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
        """Read a whole table in one read-only REPEATABLE READ transaction: its schema, and its batches.

        Args:
            columns: (name, DuckDB type) of those that are wanted.

        Raises:
            PeerError: NODE_EXECUTE, NODE_SOURCE_AWAY; CallerError: QUERY_CANCELLED (``stop``), QUERY_DEADLINE.
        """
        native = {item.name: item.native for item in self.columns(".".join(table))}
        items = ", ".join(postgres.raw(name, native.get(name, "")) for name, _ in columns)
        plain = f"SELECT {items} FROM {quote(table[0])}.{quote(table[1])}"  # noqa: S608 - quoted names
        text = postgres_arrow.scaled(plain, postgres_arrow.decimals_of(columns))
        until_s = time.monotonic() + deadline_s
        with self._sessions.query((), text, cancel=stop, until_s=until_s) as reader:
            schema = postgres_arrow.schema_of(reader.schema, columns)
            yield schema, postgres_arrow.converted(reader, schema, units=True)

    def _rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a small statement of our own; whatever fails has public words without a value in them."""
        try:
            return self._sessions.rows(sql, parameters, until_s=time.monotonic() + self._timeout_s)
        except Failed as error:
            raise problem(error) from None


def _type_text(kind: str, modifier: int) -> str:
    """Give DuckDB's type text of a PostgreSQL type, or empty when the exchange carries no such type."""
    if kind != "numeric":
        return _TYPES.get(kind, "")
    if modifier < 0:
        return ""  # unbounded numeric fits no decimal of fixed size; a view with a cast makes it one
    precision, scale = (modifier - 4) >> 16 & 0xFFFF, (modifier - 4) & 0x7FF
    return f"DECIMAL({precision},{scale})" if scale <= precision <= _DECIMAL_DIGITS_MAX else ""

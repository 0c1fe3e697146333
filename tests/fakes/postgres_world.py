"""The tables of a ``World`` in a real PostgreSQL database and in DuckDB: what one says, the other must say."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import psycopg
import pyarrow as pa
from psycopg import sql

from node.postgres import PostgresSource
from node.shapes import Shapes
from tests.fakes.sql_world import KEYS, Decide, Table, World, load, whole
from tidegate import ipc
from tidegate.core.dataset import Dataset
from tidegate.core.names import DatasetName
from tidegate.core.values import Value
from tidegate.sql.postgres_query import PostgresQuery, translate
from tidegate.sql.postgres_types import NativeTable
from tidegate.sql.restrict import KeyRelation, RestrictedQuery, restrict

_NATIVE = {
    "VARCHAR": "text",
    "DOUBLE": "float8",
    "FLOAT": "float4",
    "BLOB": "bytea",
    "TINYINT": "int2",
    "TIMESTAMP WITH TIME ZONE": "timestamptz",
}


def native_type(kind: str) -> str:
    """Give PostgreSQL's spelling of a type."""
    return _NATIVE.get(kind, kind.replace("DECIMAL", "numeric").lower())


def fill(url: str, tables: Sequence[Table], natives: Mapping[str, str] | None = None) -> None:
    """Make the tables: a schema for each department.

    Args:
        natives: column name -> PostgreSQL type, where it is not the usual one.
    """
    with psycopg.connect(url) as connection:
        for item in tables:
            name = item.dataset.name
            columns = ", ".join(
                f'"{column.name}" {(natives or {}).get(column.name, native_type(column.type))}'
                for column in item.dataset.columns
            )
            connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(name.department)))
            connection.execute(f'CREATE TABLE "{name.department}"."{name.name}" ({columns})'.encode())
            marks = ", ".join(["%s"] * len(item.dataset.columns))
            with connection.cursor() as cursor:
                statement = f'INSERT INTO "{name.department}"."{name.name}" VALUES ({marks})'.encode()
                cursor.executemany(statement, list(item.rows))
            connection.execute(f'ANALYZE "{name.department}"."{name.name}"'.encode())


@dataclass
class PostgresWorld:
    """Datasets in both engines."""

    source: PostgresSource
    local: duckdb.DuckDBPyConnection
    world: World
    natives: Mapping[DatasetName, NativeTable]
    shapes: Shapes

    @staticmethod
    def of(world: World, url: str) -> PostgresWorld:
        """Open a world whose tables were filled."""
        source = PostgresSource(url, statement_timeout_s=60)
        local = duckdb.connect()
        local.execute("SET GLOBAL TimeZone = 'UTC'")
        for item in world.tables.values():
            load(local, item)
        natives = {item.dataset.name: source.native(str(item.dataset.name)) for item in world.tables.values()}
        return PostgresWorld(source, local, world, natives, Shapes())

    @property
    def datasets(self) -> Mapping[DatasetName, Dataset]:
        """Every base dataset."""
        return {item.dataset.name: item.dataset for item in self.world.tables.values()}

    def restricted(
        self, text: str, parameters: Any = (), policy: Decide = whole, reductions: Sequence[KeyRelation] = ()
    ) -> tuple[RestrictedQuery, Any]:
        """Bind and restrict; gives the bound query too."""
        bound = self.world.bind(text, parameters)
        return restrict(bound, policy(bound), KEYS, schema=self.world.schema, reductions=reductions), bound

    def translated(
        self,
        made: RestrictedQuery,
        bound: Any,
        *,
        keys: Mapping[str, Sequence[Value]] | None = None,
        may_make_views: bool = True,
    ) -> PostgresQuery:
        """Translate; raises Unsaid."""
        given = {name: (lambda values=values: values) for name, values in (keys or {}).items()}
        return translate(made, bound, self.natives, schema=self.world.schema, keys=given, may_make_views=may_make_views)

    def in_postgres(self, query: PostgresQuery, made: RestrictedQuery, bound: Any) -> pa.Table:
        """Run it in the database, in the types that DuckDB would give."""
        wanted = self.shapes.of(made, [self.datasets[name] for name in {leaf.dataset for leaf in bound.leaves}])
        schema, batches = ipc.read(self.source.ask(query, wanted, cancel=threading.Event(), deadline_s=60))
        return pa.Table.from_batches(list(batches), schema)

    def in_duckdb(self, made: RestrictedQuery, keys: Mapping[str, pa.Table] | None = None) -> pa.Table:
        """Run it in DuckDB, as a worker does."""
        cursor = self.local.cursor()
        for name, table in (keys or {}).items():
            cursor.register(name, table)
        for statement in made.setup:
            cursor.execute(statement)
        try:
            return cursor.sql(made.query.text, params=list(made.query.parameters)).to_arrow_table()
        finally:
            cursor.close()

"""PostgreSQL as peers know it: one database per department, and ``postgres_fdw`` from a fifth one over all of them.

It is tuned as its manual says: primary keys and indexes on foreign keys, ANALYZE on both sides, ``use_remote_estimate``,
``async_capable``, ``fetch_size`` 50000, memory enough to hold the data.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from urllib.parse import urlsplit

import duckdb
import psycopg
from psycopg import sql

from benchmarks.harness import Answer, SideTimeout
from benchmarks.tpch_data import Held
from examples.postgres import postgres_server

SERVER = {
    "shared_buffers": "2GB",
    "effective_cache_size": "6GB",
    "work_mem": "512MB",
    "maintenance_work_mem": "1GB",
    "max_wal_size": "8GB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_parallel_workers_per_gather": "2",
    "random_page_cost": "1.1",
    "jit": "off",
    "max_connections": "100",
}
FOREIGN = {"fetch_size": "50000", "async_capable": "true", "use_remote_estimate": "true"}
HUB = "hub"
MISSING = "PostgreSQL is not installed (Debian: apt-get install postgresql)"

_INDEXES = {
    "region": ["PRIMARY KEY (r_regionkey)"],
    "nation": ["PRIMARY KEY (n_nationkey)"],
    "supplier": ["PRIMARY KEY (s_suppkey)", "(s_nationkey)"],
    "customer": ["PRIMARY KEY (c_custkey)", "(c_nationkey)"],
    "part": ["PRIMARY KEY (p_partkey)"],
    "partsupp": ["PRIMARY KEY (ps_partkey, ps_suppkey)", "(ps_suppkey)"],
    "orders": ["PRIMARY KEY (o_orderkey)", "(o_custkey)"],
    "lineitem": ["PRIMARY KEY (l_orderkey, l_linenumber)", "(l_partkey, l_suppkey)", "(l_suppkey)"],
}


class PeerError(Exception):
    """A peer cannot be had; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Databases:
    """A running server with the departments' databases. ``url`` is the server's own database."""

    url: str
    members: tuple[str, ...]

    def database(self, name: str) -> str:
        """Give the URL of one database."""
        return f"{self.url.rpartition('/')[0]}/{name}"


@contextmanager
def databases(held: Iterable[Held]) -> Iterator[Databases]:
    """Run a server, load every department's tables into a database of its own, index and analyse them.

    Raises:
        PeerError: PostgreSQL is not installed.
    """
    held = tuple(held)
    with postgres_server(SERVER) as url:
        if url is None:
            raise PeerError(MISSING)
        found = Databases(url, tuple(sorted({item.member for item in held})))
        with psycopg.connect(url, autocommit=True) as connection:
            for name in (*found.members, HUB):
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        with ThreadPoolExecutor(2) as loaders:
            list(loaders.map(lambda item: _load(found.database(item.member), item), held))
        yield found


def _load(url: str, held: Held) -> None:
    """Load one table, and make what its queries want: keys, indexes, statistics."""
    import adbc_driver_postgresql.dbapi as adbc

    with duckdb.connect(str(held.file), read_only=True) as engine:
        columns = engine.execute(f"DESCRIBE {held.table}").fetchall()
        described = ", ".join(f"{column[0]} {column[1]} NOT NULL" for column in columns)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"CREATE TABLE {held.table} ({described})")  # DuckDB's type names are PostgreSQL's here
        rows = engine.sql(f"SELECT * FROM {held.table}").to_arrow_reader(100_000)
        with adbc.connect(url) as copying, copying.cursor() as cursor:
            cursor.adbc_ingest(held.table, rows, mode="append")
            copying.commit()
    with psycopg.connect(url, autocommit=True) as connection:
        for index in _INDEXES[held.table]:
            primary = index.startswith("PRIMARY")
            statement = f"ALTER TABLE {held.table} ADD {index}" if primary else f"CREATE INDEX ON {held.table} {index}"
            connection.execute(statement)
        connection.execute(f"VACUUM ANALYZE {held.table}")


class PostgresFdw:
    """The peer ``postgres_fdw``: a PostgreSQL whose tables are all foreign, in schemas named like the departments.

    Args:
        limit_s: for one query; what takes longer is cancelled, and its time is said to be at least that.
    """

    name = "postgres_fdw"

    def __init__(self, found: Databases, *, limit_s: float, budget_s: float) -> None:
        self.budget_s = budget_s
        self._limit_s = limit_s
        self._connection = psycopg.connect(found.database(HUB), autocommit=True)
        server = urlsplit(found.url)
        self._connection.execute("CREATE EXTENSION postgres_fdw")
        for member in found.members:
            self._attach(member, {"host": server.hostname or "", "port": str(server.port), "dbname": member}, server)
        self._connection.execute(f"SET statement_timeout = {int(limit_s * 1000)}")

    def _attach(self, member: str, where: Mapping[str, str], server: object) -> None:
        user = {"user": getattr(server, "username", ""), "password": getattr(server, "password", "")}
        name = sql.Identifier(member)
        statements = [
            sql.SQL("CREATE SERVER {} FOREIGN DATA WRAPPER postgres_fdw OPTIONS ({})").format(
                name, _options({**where, **FOREIGN})
            ),
            sql.SQL("CREATE USER MAPPING FOR CURRENT_USER SERVER {} OPTIONS ({})").format(name, _options(user)),
            sql.SQL("CREATE SCHEMA {}").format(name),
            sql.SQL("IMPORT FOREIGN SCHEMA public FROM SERVER {} INTO {}").format(name, name),
        ]
        for statement in statements:
            self._connection.execute(statement)
        listed = "SELECT foreign_table_name FROM information_schema.foreign_tables WHERE foreign_table_schema = %s"
        for (table,) in self._connection.execute(listed, (member,)).fetchall():
            self._connection.execute(sql.SQL("ANALYZE {}.{}").format(name, sql.Identifier(table)))

    def __enter__(self) -> PostgresFdw:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def run(self, name: str, text: str) -> Answer:
        """Answer one query.

        Raises:
            SideTimeout: it took longer than the limit.
        """
        started = time.perf_counter()
        try:
            rows = self._connection.execute(text.encode()).fetchall()
        except psycopg.errors.QueryCanceled as error:
            raise SideTimeout(self._limit_s) from error
        return Answer(rows, time.perf_counter() - started)


def _options(values: Mapping[str, str]) -> sql.Composed:
    pairs = [sql.SQL("{} {}").format(sql.Identifier(key), sql.Literal(value)) for key, value in values.items()]
    return sql.SQL(", ").join(pairs)

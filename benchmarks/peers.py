"""Peers: what the exchange is compared with. ``duckdb`` is one DuckDB with all tables in memory, in this process."""

from __future__ import annotations

import time
from types import TracebackType

import duckdb

from benchmarks.harness import Answer
from benchmarks.tpch_data import Layout
from benchmarks.tpch_policy import Terms, terms

THREADS = 2
_RAW = "raw"
PEERS = ("duckdb", "postgres_fdw", "duckdb_postgres")


class LocalDuckdb:
    """One local DuckDB: every table in memory, under the very names that the exchange uses.

    Args:
        layout: what the departments hold; the parts of a collection are loaded as their union.
        policy: under ``restricted`` each name is a plain view that follows the same rules.
    """

    name = "duckdb"
    budget_s = float("inf")

    def __init__(self, layout: Layout, policy: str, *, threads: int = THREADS) -> None:
        self._engine = duckdb.connect()
        self._engine.execute(f"SET threads = {threads}")
        self._engine.execute(f"CREATE SCHEMA {_RAW}")
        files = {item.member: item.file for item in layout.held}
        for member, file in files.items():
            self._engine.execute(f"ATTACH '{file}' AS at_{member} (READ_ONLY)")
        for dataset, parts in layout.datasets.items():
            schema, _, table = dataset.partition(".")
            self._engine.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
            union = " UNION ALL ".join(f"SELECT * FROM at_{item.member}.{item.table}" for item in parts)
            rules = terms(policy, table)
            if rules == Terms():
                self._engine.execute(f"CREATE TABLE {dataset} AS {union}")
            else:
                self._engine.execute(f"CREATE TABLE {_RAW}.{table} AS {union}")
                self._engine.execute(f"CREATE VIEW {dataset} AS {rules.view(f'{_RAW}.{table}')}")
        for member in files:
            self._engine.execute(f"DETACH at_{member}")

    def __enter__(self) -> LocalDuckdb:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._engine.close()

    def run(self, name: str, sql: str) -> Answer:
        """Answer one query; the answer comes as Arrow, as the exchange's does."""
        started = time.perf_counter()
        table = self._engine.sql(sql).to_arrow_table()  # the way without a copy of the rows
        elapsed = time.perf_counter() - started
        return Answer(list(zip(*(column.to_pylist() for column in table.columns), strict=True)), elapsed)

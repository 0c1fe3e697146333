"""A small world for the SQL tests: a schema of three departments and a collection, and the same data in a DuckDB."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from tidegate.core.dataset import Column, Dataset, DatasetClass
from tidegate.core.names import DatasetName

DATA = Path(__file__).parent / "data" / "sql"


def dataset(name: str, columns: dict[str, str], *, parts: tuple[str, ...] = (), withdrawn: bool = False) -> Dataset:
    full = DatasetName.parse(name)
    return Dataset(
        name=full,
        owner=full.department,
        node="" if parts else "main",
        title=name,
        dataset_class=DatasetClass.OPEN,
        columns=tuple(Column(column, kind) for column, kind in columns.items()),
        parts=tuple(DatasetName.parse(part) for part in parts),
        withdrawn=withdrawn,
    )


FLIGHTS = {
    "flight_id": "BIGINT",
    "carrier": "VARCHAR",
    "origin": "VARCHAR",
    "dest": "VARCHAR",
    "dep_delay": "INTEGER",
    "distance": "DOUBLE",
    "day": "DATE",
    "departed": "TIMESTAMP",
    "tags": "VARCHAR[]",
}
HOURS = {"origin": "VARCHAR", "day": "DATE", "temp": "DOUBLE", "wind": "INTEGER"}
PERMITS = {"id": "BIGINT", "kind": "VARCHAR", "cost": "DECIMAL(12,2)"}
DATASETS = (
    dataset("aviation.flights", FLIGHTS),
    dataset("weather.hours", HOURS),
    dataset("city.permits", PERMITS, parts=("north.permits", "south.permits")),
    dataset("north.permits", PERMITS),
    dataset("south.permits", PERMITS),
    dataset("north.old", PERMITS, withdrawn=True),
)
SCHEMA = {item.name: item for item in DATASETS}
TABLES = frozenset(str(name) for name in SCHEMA)

_SETUP = """
CREATE SCHEMA aviation; CREATE SCHEMA weather; CREATE SCHEMA city; CREATE SCHEMA north; CREATE SCHEMA south;
CREATE TABLE aviation.flights AS SELECT i AS flight_id, ['AA', 'UA', 'DL', NULL][1 + i % 4] AS carrier,
    ['JFK', 'LGA', 'EWR'][1 + i % 3] AS origin, ['BOS', 'ORD', 'SFO'][1 + (i // 2) % 3] AS dest,
    CASE WHEN i % 7 = 0 THEN NULL ELSE (i * 13 % 41 - 8)::INTEGER END AS dep_delay, (100 + i * 37 % 900)::DOUBLE AS distance,
    DATE '2024-01-01' + (i % 25)::INTEGER AS day, TIMESTAMP '2024-01-01 05:00:00' + to_minutes(i * 17) AS departed,
    CASE WHEN i % 5 = 0 THEN NULL ELSE ['a', 'b', 'c'][1 + i % 2:] END AS tags FROM range(40) AS r(i);
CREATE TABLE weather.hours AS SELECT ['JFK', 'LGA', 'BUF'][1 + i % 3] AS origin, DATE '2024-01-01' + (i % 20)::INTEGER AS day,
    (i * 7 % 23 - 4)::DOUBLE AS temp, (i % 6)::INTEGER AS wind FROM range(30) AS r(i);
CREATE TABLE north.permits AS SELECT i AS id, ['house', 'shop'][1 + i % 2] AS kind, (i * 10.25)::DECIMAL(12,2) AS cost
    FROM range(7) AS r(i);
CREATE TABLE south.permits AS SELECT i + 100 AS id, ['house', 'farm'][1 + i % 2] AS kind, (i * 3.5)::DECIMAL(12,2) AS cost
    FROM range(5) AS r(i);
CREATE VIEW city.permits AS SELECT * FROM north.permits UNION ALL SELECT * FROM south.permits;
"""


@dataclass(frozen=True)
class Case:
    id: str
    kind: str
    sql: str
    params: Any = ()


def world() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute(_SETUP)
    return connection


def cases(file: str) -> Iterator[Case]:
    """Read a corpus of this project (``escapes``, ``benign``)."""
    for line in (DATA / f"{file}.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        yield Case(row["id"], row["class"], row["sql"], row.get("params", ()))


def statements(file: str) -> list[str]:
    """Give the statements of a corpus."""
    return [case.sql for case in cases(file)]

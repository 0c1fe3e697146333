"""Self-description of files: types, counts, statistics; and what is never told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest
import structlog

from node.config import parse_config
from node.sources import Sources, open_sources
from policies.question import column_mask
from tidegate.core.dataset import Column
from tidegate.core.errors import CallerError, Code
from tidegate.core.names import DatasetName

Make = Callable[..., Sources]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    connection = duckdb.connect(str(tmp_path / "held.duckdb"))
    connection.execute("CREATE SCHEMA inner_schema")
    connection.execute(
        """CREATE TABLE inner_schema.people AS SELECT i AS id, 'name ' || i % 10 AS name,
        DATE '2020-01-01' + i::INTEGER AS born, (i / 4)::DECIMAL(8,2) AS wage, [i, i + 1] AS list,
        i::BIT AS odd FROM range(100) t(i)"""
    )
    connection.execute(f"COPY (SELECT * EXCLUDE odd FROM inner_schema.people) TO '{tmp_path}/people.parquet'")
    connection.close()
    (tmp_path / "wind.csv").write_text("station;speed;at\nA;1,5;01.02.2026\n-;2,5;02.02.2026\n", encoding="utf-8")

    def opened(**fields: Any) -> Sources:
        document = {"node": {"identity": "i", "state": "s"}, "dataset": [{"name": "people", "class": "open", **fields}]}
        config = parse_config(document, tmp_path, {})
        log = structlog.get_logger()
        return open_sources(config.datasets, member="health", node="gate", limits=config.limits, log=log)

    return opened


def columns(sources: Sources) -> dict[str, Column]:
    (dataset,) = sources.datasets.values()
    return {column.name: column for column in dataset.columns}


def test_parquet_is_described_with_types_and_statistics(make: Make) -> None:
    sources = make(source="parquet", path="people.parquet")
    found = columns(sources)
    (dataset,) = sources.datasets.values()
    assert (str(dataset.name), dataset.owner, dataset.node, dataset.rows) == ("health.people", "health", "gate", 100)
    assert {name: column.type for name, column in found.items()} == {
        "id": "BIGINT",
        "name": "VARCHAR",
        "born": "DATE",
        "wage": "DECIMAL(8,2)",
        "list": "BIGINT[]",
    }
    assert (found["id"].distinct, found["id"].minimum, found["id"].maximum) == (100, "0", "99")
    assert (found["name"].distinct, found["name"].minimum) == (10, None)
    assert sources.files[0].format == "parquet"


def test_a_column_of_a_type_that_the_exchange_does_not_carry_is_left_out(make: Make) -> None:
    assert "odd" not in columns(make(source="duckdb", path="held.duckdb", table="inner_schema.people"))


def test_a_duckdb_table_may_have_another_schema_and_name(make: Make) -> None:
    sources = make(source="duckdb", path="held.duckdb", table="inner_schema.people")
    assert sources.files[0].relation == ("inner_schema", "people")
    assert sources.databases[0][1] == sources.files[0].database


def test_csv_is_read_with_the_configured_options_and_types(make: Make) -> None:
    options = {"delim": ";", "decimal_separator": ",", "nullstr": ["-"], "dateformat": "%d.%m.%Y"}
    sources = make(source="csv", path="wind.csv", csv=options, column_types={"speed": "DECIMAL(4,1)"})
    found = columns(sources)
    assert {name: column.type for name, column in found.items()} == {
        "station": "VARCHAR",
        "speed": "DECIMAL(4,1)",
        "at": "DATE",
    }
    assert (found["station"].distinct, found["at"].maximum) == (1, "2026-02-02")


@pytest.mark.parametrize(
    ("fields", "silent"),
    [
        ({"columns": {"born": {"sensitivity": "restricted"}}}, "born"),
        ({"columns": {"born": {"sensitivity": "secret"}}}, "born"),
        ({"subject_column": "id"}, "id"),
    ],
)
def test_nothing_is_told_of_sensitive_and_subject_columns(make: Make, fields: dict[str, Any], silent: str) -> None:
    found = columns(make(source="parquet", path="people.parquet", **fields))
    assert (found[silent].distinct, found[silent].minimum, found[silent].maximum) == (None, None, None)
    assert found["wage"].maximum == "24.75"


@pytest.mark.parametrize("fields", [{"class": "closed", "citation": "Law 1"}, {"statistics": False}])
def test_a_closed_dataset_tells_its_columns_alone(make: Make, fields: dict[str, Any]) -> None:
    sources = make(source="parquet", path="people.parquet", **fields)
    (dataset,) = sources.datasets.values()
    assert dataset.rows is None
    assert {(column.distinct, column.maximum) for column in dataset.columns} == {(None, None)}


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"source": "parquet", "path": "wind.csv"}, "cannot be read"),
        ({"source": "duckdb", "path": "people.parquet"}, "cannot be read"),
        ({"source": "duckdb", "path": "held.duckdb", "table": "nothing"}, "cannot be read"),
        ({"source": "parquet", "path": "people.parquet", "keys": ["no_such"]}, "no column no_such"),
        ({"source": "parquet", "path": "people.parquet", "subject_column": "no_such"}, "no column no_such"),
        ({"source": "postgres", "url": "postgresql://127.0.0.1:1/none"}, "cannot be reached"),
    ],
)
def test_a_dataset_that_cannot_be_served_is_named(make: Make, fields: dict[str, Any], word: str) -> None:
    with pytest.raises(CallerError, match=word) as caught:
        make(**fields)
    assert caught.value.code is Code.CONFIG_INVALID
    assert "people: " in caught.value.message


def test_masks_are_declared_beside_the_columns_and_checked_at_start(make: Make) -> None:
    sources = make(source="parquet", path="people.parquet", columns={"name": {"mask": "last_n:4"}})
    (dataset,) = sources.datasets.values()
    assert column_mask(dataset, "name") == ({"kind": "last_n", "n": 4}, False)
    with pytest.raises(CallerError, match="column name: not a mask of the library"):
        make(source="parquet", path="people.parquet", columns={"name": {"mask": "blur"}})


def test_the_workers_may_read_exactly_the_datasets_files(make: Make, tmp_path: Path) -> None:
    sources = make(source="parquet", path="people.parquet")
    (table,) = sources.files
    assert table.paths == (str(tmp_path / "people.parquet"),)
    assert DatasetName(table.schema, table.name) in sources.datasets

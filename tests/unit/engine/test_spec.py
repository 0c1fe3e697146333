"""Specs: contradictions are refused before a process starts, and a spec survives its way to the worker."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine.spec import FileTable, WorkerSpec
from tidegate.core.errors import CallerError, Code

PARQUET = FileTable("d", "t", ("/data/a.parquet",), "parquet", (("a", ""),))
CSV = FileTable("d", "c", ("/data/a.csv",), "csv", (("a", "INTEGER"),), options={"nullstr": ("NA", ""), "header": True})
TABLE = FileTable("d", "b", (), "duckdb", (("a", ""),), database="src", relation=("main", "b"))


def test_round_trip() -> None:
    spec = WorkerSpec(
        kind="files",
        threads=2,
        temp_directory="/spill",
        databases=(("/data/x.duckdb", "src"),),
        files=(PARQUET, CSV, TABLE),
    )
    assert WorkerSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize(
    "fields",
    [
        {"threads": 0},
        {"threads": 65},
        {"memory_limit_bytes": 1},
        {"address_space_bytes": 1},
        {"kind": "join", "files": (PARQUET,)},
        {"kind": "join", "databases": (("/data/x.duckdb", "src"),)},
        {"kind": "files", "databases": (("/data/x.duckdb", "src"), ("/data/y.duckdb", "src"))},
        {"kind": "files", "databases": (("/data/x.duckdb", "a b"),)},
        {"kind": "files", "databases": (("x.duckdb", "src"),)},
        {"kind": "files", "files": (TABLE,)},
    ],
)
def test_contradictions_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(CallerError) as caught:
        WorkerSpec(**fields)
    assert caught.value.code is Code.CONFIG_INVALID


@pytest.mark.parametrize(
    "fields",
    [
        {"schema": 'd"; DROP'},
        {"name": "tg_own"},
        {"columns": ()},
        {"columns": (("a b", ""),)},
        {"paths": ()},
        {"paths": ("relative.parquet",)},
        {"paths": ("/data/*.parquet",)},
        {"database": "src", "format": "duckdb"},
    ],
)
def test_tables_that_cannot_be_are_refused(fields: dict[str, Any]) -> None:
    whole = {
        "schema": "d",
        "name": "t",
        "paths": ("/data/a.parquet",),
        "format": "parquet",
        "columns": (("a", ""),),
    } | fields
    with pytest.raises(CallerError) as caught:
        FileTable(**whole)
    assert caught.value.code is Code.CONFIG_INVALID

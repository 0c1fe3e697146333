"""Inputs that hold keys: a worker refuses one that is not exactly what its job says."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import Any

import pyarrow as pa
import pytest

from engine.pool import WorkerPool
from engine.spec import KeyShape, WorkerSpec
from tests.unit.engine.running import failure, job, rows
from tidegate.core.errors import Code

SQL = "SELECT k FROM tg_k0 ORDER BY k"


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    pool = WorkerPool(WorkerSpec(), 1)
    yield pool
    pool.close()


@pytest.mark.parametrize(
    ("kind", "values", "data_type"),
    [
        ("integer", [1, 2], pa.int8()),
        ("integer", [1, 2**64 - 1], pa.uint64()),
        ("text", ["a", "ü"], pa.string()),
        ("date", [date(2024, 1, 1)], pa.date32()),
        ("integer", [], pa.int64()),
    ],
)
def test_keys_are_a_relation(pool: WorkerPool, kind: Any, values: list[Any], data_type: pa.DataType) -> None:
    keys = pa.table({"k": pa.array(values, data_type)})
    work = job(SQL, inputs={"tg_k0": keys}, keys={"tg_k0": KeyShape(kind, len(values))})
    assert rows(pool, work) == [(value,) for value in values]


@pytest.mark.parametrize(
    ("keys", "kind", "count"),
    [
        (pa.table({"k": [1, 2]}), "integer", 1),
        (pa.table({"k": [1, 2]}), "integer", 3),
        (pa.table({"k": [1, None]}), "integer", 2),
        (pa.table({"q": [1]}), "integer", 1),
        (pa.table({"k": [1], "q": [1]}), "integer", 1),
        (pa.table({"k": ["1"]}), "integer", 1),
        (pa.table({"k": [1]}), "text", 1),
        (pa.table({"k": [1]}), "date", 1),
        (pa.table({"k": [1.0]}), "integer", 1),
        (pa.table({"k": pa.array([1], pa.timestamp("s"))}), "date", 1),
    ],
)
def test_what_is_not_as_said_ends_the_job(pool: WorkerPool, keys: pa.Table, kind: Any, count: int) -> None:
    error = failure(pool, job(SQL, inputs={"tg_k0": keys}, keys={"tg_k0": KeyShape(kind, count)}))
    assert error.code is Code.FETCH_INVALID_DATA
    assert error.message.startswith("tg_k0: ")

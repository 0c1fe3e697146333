"""Floors: hidden counts are cut off and small groups dropped, also when a count is missing."""

from __future__ import annotations

import pyarrow as pa
import pytest

from engine import floors
from tidegate.core.errors import InternalError
from tidegate.sql.model import Floor

SCHEMA = pa.schema([("g", pa.string()), ("c", pa.int64()), ("n0", pa.int64()), ("n1", pa.int64())])
BATCHES = [
    pa.RecordBatch.from_arrays(
        [pa.array(["a", "b", "c"]), pa.array([1, 2, 3]), pa.array([10, 9, None], pa.int64()), pa.array([5, 5, 5])],
        schema=SCHEMA,
    ),
    pa.RecordBatch.from_arrays(
        [pa.array(["d", "e"]), pa.array([4, 5]), pa.array([11, 12]), pa.array([4, 6])], schema=SCHEMA
    ),
]
BOTH = (Floor(2, 10, "r0"), Floor(3, 5, "r1"))


def test_group_below_any_floor_or_without_a_count_is_dropped_and_counted() -> None:
    schema, batches, counter = floors.apply(SCHEMA, BATCHES, BOTH)
    rows = [row for batch in batches for row in batch.to_pylist()]
    assert rows == [{"g": "a", "c": 1}, {"g": "e", "c": 5}]
    assert schema.names == ["g", "c"]
    assert counter.groups == 3


def test_without_floors_everything_passes() -> None:
    schema, batches, counter = floors.apply(SCHEMA, BATCHES, ())
    assert schema == SCHEMA
    assert list(batches) == BATCHES
    assert counter.groups == 0


@pytest.mark.parametrize(
    "wanted",
    [
        (Floor(1, 10, "r0"),),
        (Floor(3, 5, "r0"), Floor(3, 5, "r1")),
        (Floor(4, 5, "r0"),),
        tuple(Floor(i, 1, "r") for i in range(4)),
    ],
)
def test_floors_that_are_not_the_trailing_columns_are_refused(wanted: tuple[Floor, ...]) -> None:
    with pytest.raises(InternalError):
        floors.apply(SCHEMA, BATCHES, wanted)


def test_hidden_column_of_another_type_is_refused() -> None:
    with pytest.raises(InternalError):
        floors.apply(pa.schema([("g", pa.string()), ("n", pa.float64())]), [], (Floor(1, 2, "r0"),))

"""Suppress small groups: read the hidden counts of subjects at the end of a result, drop what is below, cut them off.

Stands between an engine's result and whoever it is delivered to: at the node for a whole query, at the broker for a joined one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from tidegate.core.errors import Code, error_for
from tidegate.sql.model import Floor


@dataclass(slots=True)
class Suppressed:
    """How many groups were dropped; complete when the batches are exhausted. It is for the log, not for the caller."""

    groups: int = 0


def apply(
    schema: pa.Schema, batches: Iterable[pa.RecordBatch], floors: Sequence[Floor]
) -> tuple[pa.Schema, Iterator[pa.RecordBatch], Suppressed]:
    """Give the schema and batches without hidden columns and without groups below any floor.

    A count that is NULL, or not there, suppresses: if unsure, refuse.

    Raises:
        InternalError: the hidden columns are not the trailing int64 columns that the floors name.
    """
    counter = Suppressed()
    if not floors:
        return schema, iter(batches), counter
    first = len(schema) - len(floors)
    if sorted(floor.column for floor in floors) != list(range(first, len(schema))) or first < 1:
        raise error_for(Code.INTERNAL, detail="floors: the hidden columns are not the trailing ones")
    if any(schema.field(floor.column).type != pa.int64() for floor in floors):
        raise error_for(Code.INTERNAL, detail="floors: a hidden column is not int64")
    visible = pa.schema([schema.field(index) for index in range(first)], metadata=schema.metadata)
    return visible, _cut(visible, batches, floors, first, counter), counter


def _cut(
    visible: pa.Schema, batches: Iterable[pa.RecordBatch], floors: Sequence[Floor], first: int, counter: Suppressed
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        keep = pa.array([True] * batch.num_rows, type=pa.bool_())
        for floor in floors:
            enough = pc.greater_equal(batch.column(floor.column), floor.minimum)
            keep = pc.and_(keep, pc.fill_null(enough, False))
        shown = pa.RecordBatch.from_arrays([batch.column(index) for index in range(first)], schema=visible).filter(keep)
        counter.groups += batch.num_rows - shown.num_rows
        yield shown

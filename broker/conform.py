"""Bring an answer to the schema that its caller was told, where a department's engine gives other Arrow types.

One engine computes what another announced: a PostgreSQL behind a node, a Parquet file with dictionaries. The values are the
same; only their Arrow form is changed, and never at the price of a value: what cannot be cast exactly ends the answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import pyarrow as pa

from tidegate import ipc
from tidegate.core.errors import Code, error_for

Counted = Iterator[tuple[bytes, int]]
"""Chunks (``tidegate.ipc``) with the rows in each, schema first."""


def conformed(chunks: Counted, announced: bytes) -> tuple[Counted, bool]:
    """Give the chunks under the announced schema, and whether they had to be made anew.

    Raises:
        IntegrityError: FETCH_INVALID_DATA, here or while they are read: a value does not fit the announced type.
    """
    first, _ = next(chunks)
    if first == announced:
        return chain([(first, 0)], chunks), False
    target, found = ipc.parse_schema(announced), ipc.parse_schema(first)
    if len(target) != len(found):
        raise _misfit("another number of columns than announced")
    return _cast(first, chunks, target), True


def _cast(first: bytes, chunks: Counted, target: pa.Schema) -> Counted:
    _, batches = ipc.read(chain([first], (chunk for chunk, _ in chunks)))
    rows = 0

    def made() -> Iterator[pa.RecordBatch]:
        nonlocal rows
        for batch in batches:
            rows += batch.num_rows
            yield _batch(batch, target)

    before = 0
    for chunk in ipc.cut(target, made()):
        yield chunk, rows - before
        before = rows


def _batch(batch: pa.RecordBatch, target: pa.Schema) -> pa.RecordBatch:
    try:
        columns = [
            column if column.type == field.type else column.cast(field.type)
            for column, field in zip(batch.columns, target, strict=True)
        ]
    except pa.ArrowException as error:
        raise _misfit(type(error).__name__) from error
    if any(column.null_count and not field.nullable for column, field in zip(columns, target, strict=True)):
        raise _misfit("a NULL where none was announced")
    return pa.RecordBatch.from_arrays(columns, schema=target)


def _misfit(detail: str) -> Exception:
    message = "the answer does not have the types that the catalogue promises"
    return error_for(Code.FETCH_INVALID_DATA, message, detail=f"conform: {detail}")

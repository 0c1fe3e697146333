"""Text by the shorter way is as valid, and as invalid, as Arrow's full validation says; heads tell rows and compression."""

from __future__ import annotations

import struct

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tidegate import arrow_check, ipc
from tidegate.core.errors import Code, TidegateError


def column(offsets: list[int], values: bytes, valid: list[bool] | None = None) -> pa.Array:
    """Make a text column out of raw parts, valid or not."""
    bits = None if valid is None else pa.array(valid).buffers()[1]
    parts = [bits, pa.py_buffer(struct.pack(f"<{len(offsets)}i", *offsets)), pa.py_buffer(values)]
    return pa.Array.from_buffers(pa.string(), len(offsets) - 1, parts)


def says(array: pa.Array) -> tuple[bool, bool]:
    """Give Arrow's verdict and ours."""
    batch = pa.RecordBatch.from_arrays([array], names=["t"])
    verdicts = []
    for check in (lambda: batch.validate(full=True), lambda: arrow_check.validate(batch)):
        try:
            check()
        except pa.ArrowInvalid:
            verdicts.append(False)
        else:
            verdicts.append(True)
    return verdicts[0], verdicts[1]


@given(st.lists(st.integers(-2, 12), min_size=2, max_size=6), st.binary(max_size=10), st.booleans())
@example([0, 1, 2], "é".encode(), False)  # whole it is text, cut it is not
@example([0, 2, 2], "é".encode(), True)
@example([0, 5, 3, 8], b"abcdefgh", False)
@example([0, 3, 1 << 30], b"abc", False)
@example([-4, 0, 3], b"abc", False)
def test_the_verdict_is_arrows(offsets: list[int], values: bytes, nulls: bool) -> None:
    valid = [place % 2 == 0 for place in range(len(offsets) - 1)] if nulls else None
    try:
        array = column(offsets, values, valid)
    except pa.ArrowInvalid:
        return  # refused before anybody validates in full
    theirs, ours = says(array)
    assert ours == theirs


@pytest.mark.parametrize("texts", [["plain", "", None], ["größer", "日本"], [None, None], []])
def test_good_text_is_good(texts: list[str | None]) -> None:
    array = pa.array(texts, pa.string())
    assert says(array) == (True, True)
    assert says(array[1:]) == (True, True)


def test_rows_are_told_from_the_head() -> None:
    table = pa.table({"a": list(range(100)), "t": ["x"] * 100, "d": pa.array(["u", "v"] * 50).dictionary_encode()})
    for schema_and_rest in (table, table.drop_columns("d")):
        schema, *rest = ipc.cut(schema_and_rest.schema, schema_and_rest.to_batches(max_chunksize=30))
        assert arrow_check.rows(schema) == 0
        assert [arrow_check.rows(chunk) for chunk in rest] == [30, 30, 30, 10]


@pytest.mark.parametrize("more", ["twice", "tail", "head", "schema"])
def test_a_chunk_is_exactly_one_batch(more: str) -> None:
    table = pa.table({"a": [1, 2, 3]})
    schema, batch = ipc.cut(table.schema, table.to_batches())
    hostile = {"twice": batch * 2, "tail": batch + b"\0" * 8, "head": batch[:-8], "schema": schema}[more]
    with pytest.raises(TidegateError) as caught:
        list(ipc.read(iter([schema, hostile]))[1])
    assert caught.value.code is Code.FETCH_INVALID_DATA


def test_the_digest_is_of_schema_and_rows_apart() -> None:
    table = pa.table({"a": [1, 2, 3]})
    renamed = table.rename_columns(["b"])
    chunks, others = (list(ipc.cut(item.schema, item.to_batches(max_chunksize=1))) for item in (table, renamed))
    digest = ipc.Digest()
    for chunk in chunks:
        digest.update(chunk)
    assert digest.hexdigest() == ipc.digest(chunks) != ipc.digest(others)
    assert digest.under(others[0]) == ipc.digest(others)
    assert ipc.digest([chunks[0], *reversed(chunks[1:])]) != ipc.digest(chunks)

"""What leaves is validated, counted, held to the limits and signed as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from node.answer import Answer, trailer_bytes
from tidegate import ipc
from tidegate.core.clock import SystemClock
from tidegate.core.errors import Code, TidegateError

SCHEMA = pa.schema([pa.field("c0", pa.string())])


def chunks_of(*sizes: int) -> list[bytes]:
    batches = [pa.record_batch([pa.array([f"row {i}" for i in range(size)])], schema=SCHEMA) for size in sizes]
    return list(ipc.cut(SCHEMA, batches))


def answer(chunks: Iterator[bytes], **changes: Any) -> tuple[Answer, list[str]]:
    closed: list[str] = []
    fields: dict[str, Any] = {
        "fragment_id": "f0",
        "grant_id": "g0",
        "entry_index": 7,
        "rows_max": 100,
        "bytes_max": 1 << 20,
        "suppressed": lambda: 3,
        "close": lambda: closed.append("closed"),
        "clock": SystemClock(),
        "started_s": 0.0,
    }
    return Answer(chunks, **{**fields, **changes}), closed


def test_the_chunks_pass_unchanged_and_the_trailer_is_about_them() -> None:
    chunks = chunks_of(3, 40)
    made, closed = answer(iter(chunks))
    assert list(made.chunks()) == chunks
    signed: list[bytes] = []

    def sign(data: bytes) -> bytes:
        signed.append(data)
        return b"signature"

    trailer = made.trailer(sign)
    digest = ipc.digest(chunks)
    assert (trailer.rows, trailer.size_bytes, trailer.digest) == (43, sum(map(len, chunks)), digest)
    assert (trailer.suppressed_groups, trailer.entry_index, trailer.signature) == (3, 7, b"signature")
    assert signed == [trailer_bytes(digest, "f0", "g0", 43)]
    assert closed


def test_an_answer_without_rows_is_an_answer() -> None:
    made, _ = answer(iter(chunks_of()))
    assert list(made.chunks()) == chunks_of()
    assert made.trailer(lambda _: b"").rows == 0


def test_no_trailer_before_the_end() -> None:
    made, _ = answer(iter(chunks_of(3, 40)))
    next(made.chunks())
    with pytest.raises(TidegateError):
        made.trailer(lambda _: b"")


@pytest.mark.parametrize("limit", [{"rows_max": 42}, {"bytes_max": 600}])
def test_a_limit_that_is_passed_is_an_error_and_no_trailer(limit: dict[str, int]) -> None:
    made, closed = answer(iter(chunks_of(3, 40)), **limit)
    with pytest.raises(TidegateError) as caught:
        list(made.chunks())
    assert caught.value.code is Code.FETCH_LIMIT
    assert closed
    with pytest.raises(TidegateError):
        made.trailer(lambda _: b"")


def test_a_batch_that_does_not_validate_never_leaves() -> None:
    schema, first, second = chunks_of(3, 40)
    # The offsets of the second batch's strings lie in its body; a huge one would point outside of the values.
    position = second.index((5).to_bytes(4, "little") + (10).to_bytes(4, "little"))
    bad = second[:position] + (1 << 30).to_bytes(4, "little") + second[position + 4 :]
    made, _ = answer(iter([schema, first, bad]))
    sent: list[bytes] = []
    with pytest.raises(TidegateError) as caught:
        sent.extend(made.chunks())
    assert caught.value.code is Code.FETCH_INVALID_DATA
    assert sent == [schema, first]


def test_the_workers_error_passes_through_and_frees_it() -> None:
    def failing() -> Iterator[bytes]:
        yield from chunks_of(3)
        raise TidegateError(Code.QUERY_CANCELLED, "stop")

    made, closed = answer(failing())
    with pytest.raises(TidegateError, match="stop"):
        list(made.chunks())
    assert closed

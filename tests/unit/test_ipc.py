"""Arrow streams cut into chunks: whole again at the other end, of every type, and hostile ones refused."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate import ipc
from tidegate.core.errors import Code, TidegateError
from tidegate.core.limits import BATCH_BYTES_MAX, BATCH_ROWS_MAX

TYPES = """
SELECT range AS i, range::HUGEINT AS h, (range / 3)::DECIMAL(12, 4) AS d, 'v' || range AS s,
       ('x' || (range % 2))::ENUM('x0', 'x1') AS e,
       DATE '2024-01-01' + range::INTEGER AS day, TIMESTAMPTZ '2024-01-01 00:00:00+00' + to_hours(range) AS at,
       INTERVAL (range) DAY AS span, [range, NULL] AS l, {'a': range, 'b': 's'} AS st, MAP {range: 'm'} AS m, 'b'::BLOB AS b,
       uuid '00000000-0000-0000-0000-000000000001' AS u, NULL AS n, range % 2 = 0 AS t
FROM range(1000)
"""


def table(sql: str = TYPES) -> pa.Table:
    with duckdb.connect() as engine:
        return engine.sql(sql).to_arrow_table()


def test_every_type_comes_back_as_it_went() -> None:
    sent = table()
    schema, batches = ipc.read(ipc.cut(sent.schema, sent.to_batches()))
    assert schema.equals(sent.schema)
    assert pa.Table.from_batches(batches, schema).equals(sent)


def test_the_schema_comes_first_and_alone() -> None:
    sent = table("SELECT 1 AS a")

    def later() -> Iterator[pa.RecordBatch]:
        raise AssertionError("asked for a batch too early")
        yield

    first = next(ipc.cut(sent.schema, later()))
    assert ipc.parse_schema(first).equals(sent.schema)
    assert first == ipc.schema_chunk(sent.schema)


def test_an_empty_answer_is_a_schema_and_nothing_more() -> None:
    sent = table("SELECT 1 AS a WHERE false")
    chunks = list(ipc.cut(sent.schema, sent.to_batches()))
    assert len(chunks) == 1
    schema, batches = ipc.read(iter(chunks))
    assert list(batches) == [] and schema.equals(sent.schema)


def test_large_batches_are_sliced_by_rows_and_bytes() -> None:
    sent = table("SELECT range AS i, repeat('x', 500) AS s FROM range(100000)").combine_chunks()
    chunks = list(ipc.cut(sent.schema, sent.to_batches()))
    assert max(map(len, chunks)) < 2 * BATCH_BYTES_MAX
    _, batches = ipc.read(iter(chunks))
    assert max(batch.num_rows for batch in batches) <= BATCH_ROWS_MAX


def test_a_row_larger_than_a_message_is_refused() -> None:
    sent = table("SELECT repeat('x', 20000000) AS s")
    with pytest.raises(TidegateError) as caught:
        list(ipc.cut(sent.schema, sent.to_batches()))
    assert caught.value.code is Code.FETCH_LIMIT


def test_an_error_of_the_source_passes_through() -> None:
    sent = table()
    chunks = list(ipc.cut(sent.schema, sent.to_batches()))

    def broken() -> Iterator[bytes]:
        yield from chunks[:2]
        raise ConnectionError

    _, batches = ipc.read(broken())
    with pytest.raises(ConnectionError):
        list(batches)


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_a_compressed_body_is_refused(codec: str) -> None:
    sent = table("SELECT 0 AS i, ('x' || (range % 2))::ENUM('x0', 'x1') AS e FROM range(60000)")
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, sent.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
        writer.write_table(sent)
    with pytest.raises(TidegateError) as caught:
        _, batches = ipc.read(iter([sink.getvalue().to_pybytes()]))
        list(batches)
    assert caught.value.code is Code.FETCH_INVALID_DATA


def test_a_forged_length_allocates_nothing() -> None:
    sent = table("SELECT range AS i FROM range(10)")
    chunks = list(ipc.cut(sent.schema, sent.to_batches()))
    for place in range(len(chunks[1])):
        forged = chunks[1][:place] + b"\x7f" + chunks[1][place + 1 :]
        try:
            _, batches = ipc.read(iter([chunks[0], forged]))
            list(batches)
        except TidegateError as error:
            assert error.code is Code.FETCH_INVALID_DATA  # noqa: PT017 - most changes are refused, some are only other data


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_changed_byte_is_data_or_a_refusal_never_a_crash(data: st.DataObject) -> None:
    sent = table("SELECT range AS i, 'v' || range AS s, [range] AS l FROM range(50)")
    chunks = list(ipc.cut(sent.schema, sent.to_batches()))
    which = data.draw(st.integers(0, len(chunks) - 1))
    place = data.draw(st.integers(0, len(chunks[which]) - 1))
    changed = bytearray(chunks[which])
    changed[place] ^= data.draw(st.integers(1, 255))
    chunks[which] = bytes(changed)
    try:
        _, batches = ipc.read(iter(chunks))
        for batch in batches:
            batch.to_pylist()
    except (TidegateError, UnicodeDecodeError):
        pass


@given(st.lists(st.binary(max_size=200), max_size=4))
def test_noise_is_refused(chunks: list[bytes]) -> None:
    with pytest.raises(TidegateError):
        _, batches = ipc.read(iter(chunks))
        list(batches)

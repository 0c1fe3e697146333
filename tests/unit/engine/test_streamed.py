"""Inputs that pass through a worker: larger than its memory, in step with the reader, held where a plan reads twice."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute
import pytest

from engine.inputs import STREAMED_CHUNKS_MAX
from engine.pool import WorkerPool
from engine.spec import Job, WorkerSpec
from tests.unit.engine.running import failure, job, rows
from tidegate import ipc
from tidegate.core.errors import Code, error_for

LIMIT_BYTES = 64 << 20
SCHEMA = pa.schema([("a", pa.int64()), ("t", pa.string())])
ROWS = 1_000  # of a batch, of about a MiB
TEXTS = pa.array(["x" * 1_000] * ROWS)


class Source:
    """Chunks without end or with one; counts what was taken of it."""

    def __init__(self, batches: int) -> None:
        self.batches = batches
        self.given = 0
        self.closed = threading.Event()

    def chunks(self) -> Iterator[bytes]:
        try:
            yield from ipc.cut(SCHEMA, self._batches())
        finally:
            self.closed.set()

    def _batches(self) -> Iterator[pa.RecordBatch]:
        for number in range(self.batches):
            self.given += 1
            yield pa.record_batch([pa.array(range(number * ROWS, (number + 1) * ROWS)), TEXTS], schema=SCHEMA)


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    made = WorkerPool(WorkerSpec(memory_limit_bytes=LIMIT_BYTES, address_space_bytes=1 << 30), 1)
    yield made
    made.close()


def streamed(sql: str, source: Source) -> Job:
    return job(sql, inputs={"f0": source.chunks()}, streamed=frozenset({"f0"}))


def worker_rss_peak_bytes() -> int:
    """Give the largest peak of this process's children."""
    peaks = []
    for task in Path("/proc/self/task").iterdir():
        for child in (task / "children").read_text().split():
            status = Path(f"/proc/{child}/status").read_text()
            peaks.append(next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM")))
    return max(peaks)


def test_ten_times_the_memory_passes_through(pool: WorkerPool) -> None:
    batches = 10 * LIMIT_BYTES // (1 << 20)
    found, total = 0, 0
    source = Source(batches)
    with pool.run(
        streamed("SELECT a + 1 AS c0, upper(t) AS c1 FROM f0 WHERE a >= 0", source), deadline_s=120
    ) as result:
        _, answer = ipc.read(result.chunks)
        for batch in answer:
            found += batch.num_rows
            total += pa.compute.sum(batch.column(0)).as_py()
    count = batches * ROWS
    assert (found, total) == (count, count * (count + 1) // 2)
    assert worker_rss_peak_bytes() < 3 * LIMIT_BYTES + (200 << 20)  # an idle worker has about 150 MiB


def test_rows_leave_before_the_last_came_in_and_a_slow_reader_slows_the_source(pool: WorkerPool) -> None:
    source = Source(1_000)
    with pool.run(streamed("SELECT a AS c0, t AS c1 FROM f0", source), deadline_s=120) as result:
        chunks = [next(result.chunks) for _ in range(3)]
        assert len(chunks) == 3
        # What lies between source and reader: the head that is looked at, what the engine reads ahead, the sockets.
        assert source.given < 60 + STREAMED_CHUNKS_MAX
    assert source.closed.wait(10)


def test_a_union_of_two_passes_through(pool: WorkerPool) -> None:
    half = 4 * LIMIT_BYTES // (1 << 20)
    inputs = {"f0": Source(half).chunks(), "f1": Source(half).chunks()}
    query = job(
        "(SELECT a AS c0, t AS c1 FROM f0) UNION ALL (SELECT a, t FROM f1)", inputs=inputs, streamed=frozenset(inputs)
    )
    with pool.run(query, deadline_s=120) as result:
        _, answer = ipc.read(result.chunks)
        total = sum(pa.compute.sum(batch.column(0)).as_py() for batch in answer)
    assert total == 2 * sum(range(half * ROWS))


@pytest.mark.parametrize(
    ("sql", "answer"),
    [
        ("SELECT count(*) AS c0 FROM f0 AS x JOIN f0 AS y ON x.a = y.a", 30 * ROWS),
        ("WITH w AS (SELECT a FROM f0) SELECT count(*) AS c0 FROM w AS x JOIN w AS y ON x.a = y.a", 30 * ROWS),
        ("SELECT count(*) AS c0 FROM f0 WHERE a > (SELECT avg(a) FROM f0)", 15 * ROWS),
        ("SELECT max(c) AS c0 FROM (SELECT count(*) OVER () AS c FROM f0)", 30 * ROWS),
    ],
)
def test_what_reads_an_input_twice_gets_all_of_it_twice(pool: WorkerPool, sql: str, answer: int) -> None:
    assert rows(pool, streamed(sql, Source(30))) == [(answer,)]


def test_what_must_be_held_is_held_to_the_limit(pool: WorkerPool) -> None:
    found = failure(pool, streamed("SELECT count(*) AS c0 FROM f0 AS x JOIN f0 AS y ON x.a = y.a", Source(200)))
    assert found.code is Code.JOIN_LIMIT


def test_an_error_of_the_source_ends_the_answer_in_its_own_words(pool: WorkerPool) -> None:
    def broken() -> Iterator[bytes]:
        yield from Source(40).chunks()
        raise error_for(Code.FETCH_NODE_FAILED, "health: its node stopped")

    query = job("SELECT a AS c0, t AS c1 FROM f0", inputs={"f0": broken()}, streamed=frozenset({"f0"}))
    found = failure(pool, query)
    assert (found.code, found.message) == (Code.FETCH_NODE_FAILED, "health: its node stopped")


@pytest.mark.parametrize("place", [3, 40])
def test_a_chunk_that_is_not_valid_is_refused_by_the_inputs_name(pool: WorkerPool, place: int) -> None:
    def hostile() -> Iterator[bytes]:
        for number, chunk in enumerate(Source(60).chunks()):
            yield os.urandom(len(chunk)) if number == place else chunk

    query = job("SELECT a AS c0, t AS c1 FROM f0", inputs={"f0": hostile()}, streamed=frozenset({"f0"}))
    found = failure(pool, query)
    assert found.code is Code.FETCH_INVALID_DATA
    assert found.message.startswith("f0: ")


def test_a_cancel_ends_a_stream_that_nobody_reads(pool: WorkerPool) -> None:
    cancel = threading.Event()
    source = Source(1_000_000)
    with pool.run(streamed("SELECT a AS c0, t AS c1 FROM f0", source), deadline_s=120, cancel=cancel) as result:
        next(result.chunks)
        cancel.set()
        assert source.closed.wait(1.0)

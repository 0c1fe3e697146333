"""Large answers: the first rows come before the last were made, memory stays bounded, a slow reader slows the department."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from benchmarks.machine import reset_peaks, tree
from tests.federation.streaming_world import LINES, World, until, world

pytestmark = pytest.mark.xdist_group("federation-streaming")

LIMIT_MIB = 64
RELAYED = "SELECT id, words, price FROM alpha.lines"  # about 200 MB
JOINED = "SELECT id, words, price FROM alpha.lines UNION ALL SELECT id, words, price FROM beta.lines"  # twice that
# What a broker's process may grow by while it passes an answer of any size on: chunks of at most 4 MiB in queues of a fixed
# length, in gRPC's and the kernel's buffers, and what the C library keeps (engine.memory).
GROWTH_BYTES_MAX = 160 << 20


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    limits = {"worker_memory_mib": LIMIT_MIB, "worker_address_space_mib": 1024}
    with world(tmp_path_factory.mktemp("streaming"), limits) as made:
        with made.session() as session:
            assert session.query("SELECT count(*) AS n FROM alpha.lines, beta.numbers WHERE x = 1").to_arrow().num_rows
        yield made


def memory_bytes(running: World, name: str, kind: str) -> dict[int, int]:
    """Give ``VmHWM`` (peak) or ``VmRSS`` of a process and all below it."""
    found = {}
    for pid in tree(running.pid(name)):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        found[pid] = next(int(line.split()[1]) << 10 for line in lines if line.startswith(kind))
    return found


def rows_of(running: World, sql: str) -> int:
    with running.session() as session:
        return sum(batch.num_rows for batch in session.query(sql).reader())


@pytest.mark.parametrize("sql", [RELAYED, JOINED], ids=["relayed", "joined"])
def test_the_first_rows_come_while_the_department_still_makes_others(running: World, sql: str) -> None:
    with running.session() as session:
        result = session.query(sql)
        reader = result.reader()
        first: pa.RecordBatch = next(iter(reader))
        assert first.num_rows > 0
        assert not running.ended("alpha-node1", f"{result.request_id}-f0")
        assert first.num_rows + sum(batch.num_rows for batch in reader) == result.finished.rows
        until(lambda: running.ended("alpha-node1", f"{result.request_id}-f0"), 5)


@pytest.mark.parametrize(("sql", "rows"), [(RELAYED, LINES), (JOINED, 2 * LINES)], ids=["relayed", "joined"])
def test_an_answer_of_many_times_the_limit_takes_bounded_memory(running: World, sql: str, rows: int) -> None:
    before = memory_bytes(running, "broker", "VmRSS")
    reset_peaks([running.pid("broker")])
    assert rows_of(running, sql) == rows
    peaks = memory_bytes(running, "broker", "VmHWM")
    for pid, peak in peaks.items():
        print(f"process {pid}: {before.get(pid, 0) >> 20} MiB before, {peak >> 20} MiB at most")
        limit = (LIMIT_MIB << 20) + GROWTH_BYTES_MAX
        assert peak <= before.get(pid, 0) + limit


def test_a_slow_reader_makes_nothing_grow(running: World) -> None:
    with running.session() as session:
        result = session.query(RELAYED)
        reader = result.reader()
        found = next(iter(reader)).num_rows

        def stalled() -> bool:
            """Everything waits for the reader: nobody computes."""
            before = running.cpu_s("alpha-node1"), running.cpu_s("broker")
            time.sleep(0.2)  # the time over which is measured
            return running.cpu_s("alpha-node1") - before[0] + running.cpu_s("broker") - before[1] <= 0.04

        until(stalled, 20)
        for name in ("broker", "alpha-node1"):
            full = memory_bytes(running, name, "VmRSS")
            assert stalled()
            now = memory_bytes(running, name, "VmRSS")
            assert sum(now.values()) <= sum(full.values()) + (1 << 20), name
        assert not running.ended("alpha-node1", f"{result.request_id}-f0")
        assert found + sum(batch.num_rows for batch in reader) == LINES

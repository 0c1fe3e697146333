"""Who cancels, runs out of time or goes away ends the work everywhere within a second, and leaves nothing behind."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.machine import tree
from tests.federation.streaming_world import World, until, world
from tidegate.client.session import Session
from tidegate.core.errors import Code, TidegateError

pytestmark = pytest.mark.xdist_group("federation-cancel")

AT_A_NODE = "SELECT sum(a.x * b.x % 7) AS s FROM alpha.numbers AS a, alpha.numbers AS b"
AT_THE_BROKER = "SELECT sum(a.x * b.x % 7) AS s FROM alpha.numbers AS a, beta.numbers AS b"
MANY_ROWS = "SELECT id, words, price FROM alpha.lines"
STOPPED_S = 1.0
BUSY_S = 0.3
RSS_GROWTH_BYTES_MAX = 48 << 20


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("cancel")) as made:
        with made.session() as session:  # everything was used once: planners, workers, the first pages of every library
            for sql in ("SELECT count(*) FROM alpha.numbers", MANY_ROWS):
                assert sum(batch.num_rows for batch in session.query(sql).reader())
        yield made


class Asking:
    """A query that a thread waits for; its connection can be cut."""

    def __init__(self, running: World, sql: str, deadline_s: float = 60.0) -> None:
        self.session: Session = running.session()
        self.error: TidegateError | None = None
        self._thread = threading.Thread(target=self._ask, args=(sql, deadline_s))
        self._thread.start()

    def _ask(self, sql: str, deadline_s: float) -> None:
        try:
            self.session.query(sql, deadline_s=deadline_s).to_arrow()
        except TidegateError as error:
            self.error = error

    def cut(self) -> None:
        self.session.close()
        self.join()

    def join(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()


def ended(running: World, node: str = "alpha-node1") -> int:
    return running.log(node).count("answered")


def is_idle(running: World, name: str) -> bool:
    before = running.cpu_s(name)
    time.sleep(0.1)  # the time over which is measured
    return running.cpu_s(name) - before <= 0.03


def wait_busy(running: World, name: str, before_s: float) -> None:
    until(lambda: running.cpu_s(name) >= before_s + BUSY_S, 20)


def test_a_caller_who_goes_away_stops_a_node(running: World) -> None:
    count, before = ended(running), running.cpu_s("alpha-node1")
    asking = Asking(running, AT_A_NODE)
    wait_busy(running, "alpha-node1", before)
    asking.cut()
    until(lambda: ended(running) > count, STOPPED_S)
    assert "TG-QUERY-002" in running.log("alpha-node1").splitlines()[-1] or asking.error is not None
    assert is_idle(running, "alpha-node1")


def test_a_deadline_stops_a_node(running: World) -> None:
    count = ended(running)
    asking = Asking(running, AT_A_NODE, deadline_s=1.5)
    asking.join()
    until(lambda: ended(running) > count, STOPPED_S)
    assert asking.error is not None
    assert asking.error.code is Code.QUERY_DEADLINE
    assert is_idle(running, "alpha-node1")
    asking.session.close()


def test_a_caller_who_goes_away_stops_a_join(running: World) -> None:
    before = running.cpu_s("broker")
    asking = Asking(running, AT_THE_BROKER)
    wait_busy(running, "broker", before)
    asking.cut()
    until(lambda: is_idle(running, "broker"), STOPPED_S)
    assert is_idle(running, "alpha-node1")
    assert is_idle(running, "beta-node1")


def test_a_deadline_stops_a_join(running: World) -> None:
    asking = Asking(running, AT_THE_BROKER, deadline_s=1.5)
    asking.join()
    until(lambda: is_idle(running, "broker"), STOPPED_S)
    assert asking.error is not None
    assert asking.error.code is Code.QUERY_DEADLINE
    asking.session.close()


def test_a_slow_reader_who_goes_away_stops_a_stream(running: World) -> None:
    with running.session() as session:
        result = session.query(MANY_ROWS)
        next(iter(result.reader()))
        fragment = f"{result.request_id}-f0"
        assert not running.ended("alpha-node1", fragment)
        result.cancel()
        until(lambda: running.ended("alpha-node1", fragment), STOPPED_S)
        assert is_idle(running, "alpha-node1")


def test_a_slow_reader_is_ended_by_the_deadline(running: World) -> None:
    with running.session() as session:
        started = time.monotonic()
        result = session.query(MANY_ROWS, deadline_s=2.0)
        reader = result.reader()
        next(iter(reader))
        fragment = f"{result.request_id}-f0"
        until(lambda: running.ended("alpha-node1", fragment), 2.0 + STOPPED_S)
        assert time.monotonic() - started < 2.0 + STOPPED_S + 0.5
        with pytest.raises(TidegateError) as caught:
            for _ in reader:
                pass
        assert caught.value.code is Code.QUERY_DEADLINE


@dataclass(frozen=True)
class Held:
    """What the processes of broker and nodes hold."""

    processes: int
    threads: int
    files: int
    rss_bytes: int


def held(running: World) -> dict[str, Held]:
    found = {}
    for name in running.exchange.running:
        root = running.pid(name)
        status = Path(f"/proc/{root}/status").read_text().splitlines()
        facts = {line.partition(":")[0]: line.split() for line in status}
        found[name] = Held(
            processes=len(tree(root)),
            threads=int(facts["Threads"][1]),
            files=len(os.listdir(f"/proc/{root}/fd")),
            rss_bytes=int(facts["VmRSS"][1]) << 10,
        )
    return found


def cancel_some(running: World, times: int) -> None:
    with running.session() as session:
        for number in range(times):
            result = session.query(MANY_ROWS)
            if number % 2:
                next(iter(result.reader()))
            result.cancel()


def no_leak(running: World, times: int) -> None:
    cancel_some(running, 10)
    until(lambda: all(is_idle(running, name) for name in running.exchange.running), 20)
    before = held(running)
    cancel_some(running, times)
    until(lambda: all(is_idle(running, name) for name in running.exchange.running), 20)

    def is_small() -> bool:
        """Memory is given back once nothing was to do for a while."""
        return all(
            after.rss_bytes <= before[name].rss_bytes + RSS_GROWTH_BYTES_MAX for name, after in held(running).items()
        )

    until(is_small, 10)
    for name, after in held(running).items():
        was = before[name]
        print(f"{name}: {was} -> {after}")
        assert after.processes <= was.processes, name
        assert after.threads <= was.threads + 4, name  # a pool of threads that grows on demand
        assert after.files <= was.files + 4, name
    with running.session() as session:
        assert session.query("SELECT count(*) AS n FROM alpha.numbers").to_arrow().num_rows == 1


def test_cancelled_queries_leave_nothing_behind(running: World) -> None:
    no_leak(running, 30)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_thousand_cancelled_queries_leave_nothing_behind(running: World) -> None:
    no_leak(running, 1_000)

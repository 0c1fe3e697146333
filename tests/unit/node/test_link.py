"""The conversation with one broker, over a line of the test's own: order, drain, silence, back-off."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import structlog

from node.answer import Answer, Signer
from node.conversation import AgreementPushed, Beat, Cancelled, DescribeAsked, Drained, Heard, Line, Offered, Welcomed
from node.link import BACKOFF_S_MAX, BACKOFF_S_MIN, Link, LinkState, backoff_s
from node.values import FragmentOffer, Session, Trailer
from tidegate.core.clock import SystemClock, SystemIds
from tidegate.core.dataset import Dataset
from tidegate.core.errors import Code, TidegateError, error_for

WAIT_S = 10.0


class TapeLine:
    """A line whose broker is the test."""

    def __init__(self) -> None:
        self.down: queue.Queue[Heard | TidegateError | None] = queue.Queue()
        self.said: queue.Queue[tuple[Any, ...]] = queue.Queue()
        self.hung_up = threading.Event()
        self.renewed = False

    def hear(self) -> Iterator[Heard]:
        while True:
            item = self.down.get()
            if item is None:
                return
            if isinstance(item, TidegateError):
                raise item
            yield item

    def say_answer(self, answer: Answer, sign: Signer) -> Trailer:
        raise AssertionError("the work of these tests answers by itself")

    def say_failure(self, fragment_id: str, error: TidegateError) -> None:
        self.said.put(("failure", fragment_id, error.code))

    def say_description(self, datasets: tuple[Dataset, ...]) -> None:
        self.said.put(("description", datasets))

    def say_acknowledged(self, agreement_id: str, error: TidegateError | None) -> None:
        self.said.put(("ack", agreement_id, error and error.code))

    def say_beat(self, count: int) -> None:
        self.said.put(("beat", count))

    def renew(self) -> bool:
        return self.renewed

    def hang_up(self) -> None:
        if not self.hung_up.is_set():
            self.hung_up.set()
            self.down.put(None)

    def next_said(self, kind: str) -> tuple[Any, ...]:
        while True:
            said = self.said.get(timeout=WAIT_S)
            if said[0] == kind:
                return said


class TapeDialler:
    """Gives the lines, and notes the nonces."""

    address = "broker:7444"

    def __init__(self) -> None:
        self.lines: queue.Queue[TapeLine] = queue.Queue()
        self.nonces: list[bytes] = []
        self.refuse = 0

    def dial(self, nonce: bytes, datasets: tuple[Dataset, ...]) -> TapeLine:
        self.nonces.append(nonce)
        if self.refuse:
            self.refuse -= 1
            raise error_for(Code.CLIENT_UNREACHABLE)
        line = TapeLine()
        self.lines.put(line)
        return line

    def next_line(self) -> TapeLine:
        return self.lines.get(timeout=WAIT_S)


class HeldWork:
    """Work that lasts until the test lets it go or it is cancelled."""

    datasets: tuple[Dataset, ...] = ()

    def __init__(self) -> None:
        self.started: queue.Queue[tuple[FragmentOffer, Session]] = queue.Queue()
        self.go = threading.Event()
        self.outcomes: queue.Queue[tuple[str, str]] = queue.Queue()

    def describe(self) -> tuple[Dataset, ...]:
        return ()

    def serve(self, offer: FragmentOffer, session: Session, line: Line) -> None:
        self.started.put((offer, session))
        pause = threading.Event()
        while not (self.go.is_set() or offer.cancel.is_set()):
            pause.wait(0.005)
        self.outcomes.put((offer.id, "cancelled" if offer.cancel.is_set() else "done"))

    def take_agreement(self, pushed: AgreementPushed) -> None:
        if pushed.agreement_id == "bad":
            raise error_for(Code.CAT_AGREEMENT)


def offer(name: str = "f0") -> Offered:
    return Offered(FragmentOffer(name, b"", b"", b"", "", "[]", 10.0, 1, 1))


@contextmanager
def linked(*, slots: int = 4, drain_s: float = WAIT_S) -> Iterator[tuple[Link, TapeDialler, HeldWork, list[LinkState]]]:
    dialler, work, states = TapeDialler(), HeldWork(), []
    with ThreadPoolExecutor(4) as threads:
        link = Link(
            dialler,
            work=work,
            threads=threads,
            slots=threading.Semaphore(slots),
            drain_s=drain_s,
            clock=SystemClock(),
            ids=SystemIds(),
            changed=lambda state: states.append(LinkState(state.address, state.attached, state.broker)),
            log=structlog.get_logger(),
        )
        runner = threading.Thread(target=link.run, daemon=True)
        runner.start()
        try:
            yield link, dialler, work, states
        finally:
            work.go.set()
            link.stop()
            runner.join(WAIT_S)
            assert not runner.is_alive()


def welcome(heartbeat_s: float = 30.0) -> Welcomed:
    return Welcomed("spiffe://city.example/broker/main", heartbeat_s)


def test_serves_after_the_welcome_with_the_sessions_nonce() -> None:
    with linked() as (_, dialler, work, states):
        line = dialler.next_line()
        line.down.put(welcome())
        line.down.put(offer())
        held, session = work.started.get(timeout=WAIT_S)
        assert held.id == "f0"
        assert session == Session("spiffe://city.example/broker/main", dialler.nonces[0].hex())
        assert states[0].attached


@pytest.mark.parametrize("first", [Beat(), offer(), Cancelled("f0"), DescribeAsked(), Drained(0.0)])
def test_nothing_is_done_before_the_welcome(first: Heard) -> None:
    with linked() as (_, dialler, work, _):
        dialler.next_line().down.put(first)
        dialler.next_line()  # the link was given up and dialled anew
        assert work.started.empty()
        assert len(set(dialler.nonces)) == 2


def test_a_second_welcome_ends_the_session() -> None:
    with linked() as (_, dialler, _, _):
        line = dialler.next_line()
        line.down.put(welcome())
        line.down.put(welcome())
        assert line.hung_up.wait(WAIT_S)
        dialler.next_line()


def test_a_cancel_reaches_the_work_and_no_other() -> None:
    with linked() as (_, dialler, work, _):
        line = dialler.next_line()
        for message in (welcome(), offer("f0"), offer("f1"), Cancelled("f1"), Cancelled("unknown")):
            line.down.put(message)
        assert work.outcomes.get(timeout=WAIT_S) == ("f1", "cancelled")
        work.go.set()
        assert work.outcomes.get(timeout=WAIT_S) == ("f0", "done")


def test_a_lost_line_cancels_what_runs() -> None:
    with linked() as (_, dialler, work, _):
        line = dialler.next_line()
        line.down.put(welcome())
        line.down.put(offer())
        work.started.get(timeout=WAIT_S)
        line.down.put(error_for(Code.CLIENT_UNREACHABLE))
        assert work.outcomes.get(timeout=WAIT_S) == ("f0", "cancelled")
        dialler.next_line()


def test_more_than_the_limit_is_told_to_come_back() -> None:
    with linked(slots=1) as (_, dialler, work, _):
        line = dialler.next_line()
        for message in (welcome(), offer("f0"), offer("f1")):
            line.down.put(message)
        assert line.next_said("failure") == ("failure", "f1", Code.BUSY)
        work.go.set()
        assert work.outcomes.get(timeout=WAIT_S) == ("f0", "done")


def test_a_fragments_id_that_is_used_twice_ends_the_session() -> None:
    with linked() as (_, dialler, _, _):
        line = dialler.next_line()
        for message in (welcome(), offer("f0"), offer("f0")):
            line.down.put(message)
        assert line.hung_up.wait(WAIT_S)


def test_a_drain_lets_the_work_end_and_takes_no_more() -> None:
    with linked() as (_, dialler, work, _):
        line = dialler.next_line()
        for message in (welcome(), offer("f0")):
            line.down.put(message)
        work.started.get(timeout=WAIT_S)
        line.down.put(Drained(0.0))
        refused = _refused_once_draining(line)
        assert refused == Code.BUSY
        assert not line.hung_up.is_set()
        work.go.set()
        assert work.outcomes.get(timeout=WAIT_S) == ("f0", "done")
        assert line.hung_up.wait(WAIT_S)
        dialler.next_line()


def _refused_once_draining(line: TapeLine) -> Code:
    """Offer work under new names until the drain, which is heard by another thread, has begun."""
    for number in range(1000):
        line.down.put(offer(f"g{number}"))
        try:
            return line.said.get(timeout=0.05)[2]  # type: ignore[no-any-return]
        except queue.Empty:
            continue
    raise AssertionError("never refused")


def test_a_stop_waits_for_the_work_but_not_for_ever() -> None:
    with linked(drain_s=0.05) as (link, dialler, work, _):
        line = dialler.next_line()
        line.down.put(welcome())
        line.down.put(offer())
        work.started.get(timeout=WAIT_S)
        link.stop()
        assert work.outcomes.get(timeout=WAIT_S) == ("f0", "cancelled")


def test_acknowledges_agreements_and_says_what_is_wrong() -> None:
    with linked() as (_, dialler, _, _):
        line = dialler.next_line()
        line.down.put(welcome())
        for name in ("good", "bad"):
            line.down.put(AgreementPushed(name, "", b"", b"", ""))
        said = {line.next_said("ack")[1:] for _ in range(2)}
        assert said == {("good", None), ("bad", Code.CAT_AGREEMENT)}


def test_beats_and_renews() -> None:
    with linked() as (_, dialler, _, _):
        line = dialler.next_line()
        line.down.put(welcome(heartbeat_s=0.0))  # held to the least
        assert line.next_said("beat") == ("beat", 1)
        line.renewed = True
        assert line.hung_up.wait(WAIT_S)
        dialler.next_line()  # with the new certificate


def test_a_silent_broker_is_given_up() -> None:
    with linked() as (link, dialler, _, _):
        line = dialler.next_line()
        line.down.put(welcome(heartbeat_s=0.2))
        assert line.hung_up.wait(WAIT_S)
        dialler.next_line()
        assert "silent" in link.state.problem


def test_dials_again_after_refusals() -> None:
    with linked() as (_, dialler, work, _):
        dialler.refuse = 2
        dialler.next_line().down.put(None)
        line = dialler.next_line()
        line.down.put(welcome())
        line.down.put(offer())
        work.started.get(timeout=WAIT_S)
        assert len(dialler.nonces) == 4


def test_the_back_off_grows_and_is_bounded() -> None:
    assert all(BACKOFF_S_MIN <= backoff_s(attempt) <= BACKOFF_S_MAX for attempt in range(40))
    assert max(backoff_s(1) for _ in range(200)) < 2.0
    assert max(backoff_s(30) for _ in range(200)) > 10.0

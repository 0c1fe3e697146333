"""The watch over open calls, with a clock that stands still: who is told, who is cancelled, and when."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.open_calls import GRACE_S, TICK_S, OpenCall, OpenCalls
from tests.fakes.exchange import ManualClock, SmallExchange
from tidegate.core.errors import Code, TidegateError
from tidegate.identity.folder import LocalIdentity


class Context:
    """A call that counts how often it was cancelled."""

    def __init__(self) -> None:
        self.cancelled = 0

    def cancel(self) -> None:
        self.cancelled += 1


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def exchange(tmp_path: Path, clock: ManualClock) -> SmallExchange:
    return SmallExchange(tmp_path, clock)


@pytest.fixture
def calls(exchange: SmallExchange) -> Iterator[OpenCalls]:
    yield exchange.open_calls
    exchange.open_calls.close()


def opened(exchange: SmallExchange, identity: LocalIdentity) -> OpenCall:
    caller = exchange.identify.examine(identity.facts)
    return OpenCall(Context(), identity.facts, caller, "/test/Method", "request")


def cancelled(call: OpenCall) -> int:
    assert isinstance(call.context, Context)
    return call.context.cancelled


def test_the_promise_fits_into_a_second() -> None:
    assert 2 * TICK_S + GRACE_S < 1.0


def test_an_end_is_told_first_and_enforced_after_the_grace(
    exchange: SmallExchange, calls: OpenCalls, clock: ManualClock
) -> None:
    call = opened(exchange, exchange.member())
    told: list[str] = []
    with calls.enter(call):
        calls.on_end(call.context, lambda: told.append("hook"))
        calls.review()
        call.check()
        clock.move(hours=24, seconds=1)
        calls.review()
        assert told == ["hook"]
        with pytest.raises(TidegateError) as caught:
            call.check()
        assert caught.value.code is Code.ID_CERTIFICATE_EXPIRED
        assert cancelled(call) == 0
        clock.move(seconds=GRACE_S)
        calls.review()
        assert cancelled(call) >= 1
    assert len(calls) == 0


def test_a_hook_that_comes_too_late_runs_at_once(exchange: SmallExchange, calls: OpenCalls, clock: ManualClock) -> None:
    call = opened(exchange, exchange.member())
    told: list[str] = []
    with calls.enter(call):
        clock.move(hours=25)
        calls.review()
        calls.on_end(call.context, lambda: told.append("late"))
    calls.on_end(call.context, lambda: told.append("gone"))
    assert told == ["late", "gone"]


def test_a_hook_that_fails_stops_neither_the_next_nor_the_cancel(
    exchange: SmallExchange, calls: OpenCalls, clock: ManualClock
) -> None:
    call = opened(exchange, exchange.member())
    told: list[str] = []

    def broken() -> None:
        raise RuntimeError("broken hook")

    with calls.enter(call):
        calls.on_end(call.context, broken)
        calls.on_end(call.context, lambda: told.append("next"))
        clock.move(hours=25)
        calls.review()
        clock.move(seconds=GRACE_S)
        calls.review()
    assert told == ["next"]
    assert cancelled(call) >= 1


def test_a_directory_that_fails_ends_every_call(exchange: SmallExchange, calls: OpenCalls, tmp_path: Path) -> None:
    call = opened(exchange, exchange.member())
    with calls.enter(call):
        exchange.members._engine.dispose()
        for path in tmp_path.glob("members.db*"):
            path.unlink()
        (tmp_path / "members.db").mkdir()
        clock = exchange.clock
        assert isinstance(clock, ManualClock)
        clock.move(seconds=10)  # past the directory's snapshot
        calls.review()
        with pytest.raises(TidegateError):
            call.check()


def test_only_those_who_lost_something_are_ended(exchange: SmallExchange, calls: OpenCalls) -> None:
    kept, lost = exchange.member(name="kept", roles=["analyst"]), exchange.member(name="lost", roles=["analyst"])
    first, second = opened(exchange, kept), opened(exchange, lost)
    with calls.enter(first), calls.enter(second):
        assert {item.fingerprint for item in calls.certificates(kept.spiffe)} == {kept.facts.fingerprint}
        exchange.members.set_identity(str(lost.spiffe), ["steward"], "internal")
        calls.review()
        first.check()
        with pytest.raises(TidegateError) as caught:
            second.check()
        assert caught.value.code is Code.ID_ROLE_MISSING


def test_after_closing_no_call_is_let_in(exchange: SmallExchange) -> None:
    call = opened(exchange, exchange.member())
    exchange.open_calls.close()
    with pytest.raises(TidegateError) as caught, exchange.open_calls.enter(call):
        raise AssertionError("entered")
    assert caught.value.code is Code.BUSY

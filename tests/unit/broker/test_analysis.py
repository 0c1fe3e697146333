"""EXPLAIN ANALYZE's figures: times by room, and counts only where they may be told."""

from __future__ import annotations

import pytest

from broker.analysis import Analysis, Stopwatch, cost
from broker.values import ClosedRecord, Closing, FragmentReport, KeysGiven, RecordedPlan
from tests.fakes.exchange import ManualClock
from tests.unit.broker.test_stages import recorded_plan
from tidegate.core.names import DatasetName
from tidegate.sql.model import Fragment, Reduction, RenderedSql


def fragment(number: int, *, keys_of: int | None = None) -> Fragment:
    ref = f"r{number}"
    return Fragment(
        f"f{number}",
        f"m{number}",
        "n",
        RenderedSql("SELECT 1", ()),
        {ref: DatasetName(f"m{number}", "d")},
        ("c0",),
        whole=False,
        reductions=() if keys_of is None else (Reduction(ref, "k", ((f"f{keys_of}", "c0"),)),),
    )


def report(number: int, first_row_s: float) -> FragmentReport:
    return FragmentReport(
        f"f{number}",
        f"m{number}",
        "n",
        rows=7,
        bytes=70,
        suppressed=9,
        elapsed_s=0.25,
        first_row_s=first_row_s,
        rules=("x",),
        keys_given=(KeysGiven("m1.d.k", (("f0", "m0", 3),)),) if number == 1 else (),
    )


def measured(modes: dict[str, str], first_row_s: float = 0.125) -> tuple[RecordedPlan, Analysis]:
    plan = recorded_plan([fragment(0), fragment(1, keys_of=0), fragment(2)], {}, modes, 5.0)
    reports = tuple(report(number, first_row_s) for number in range(3))
    closing = Closing(5, 50, 27, "d", reports, 0.5, "")
    return plan, Analysis(closing, ClosedRecord(4, b"", b"", b""), {"plan": 0.001, "join": 0.0000004})


def test_rooms_are_timed_in_their_order_and_an_error_is_timed_too() -> None:
    clock = ManualClock()
    watch = Stopwatch(clock)
    with watch.room("plan"):
        clock.move(seconds=2)
    with pytest.raises(ValueError), watch.room("decide"):
        clock.move(seconds=3)
        raise ValueError
    with watch.room("plan"):
        clock.move(seconds=1)
    assert list(watch.rooms.items()) == [("plan", 3.0), ("decide", 3.0)]
    silent = Stopwatch()
    with silent.room("plan"):
        pass
    assert silent.rooms == {}


def test_times_are_milliseconds_and_what_did_not_come_has_none() -> None:
    spent = cost(*measured({}))
    assert (spent.rows, spent.bytes, spent.elapsed_ms) == (5, 50, 500.0)
    assert spent.rooms_ms == {"plan": 1.0, "join": 0.0}
    assert (spent.fragments["f0"].first_row_ms, spent.fragments["f0"].elapsed_ms) == (125.0, 250.0)
    assert cost(*measured({}, first_row_s=0.0)).fragments["f0"].first_row_ms is None


@pytest.mark.parametrize(
    ("modes", "told", "keys"),
    [
        ({}, ["f0", "f1", "f2"], 3),
        ({"r2": "aggregate"}, ["f0", "f1"], 3),
        ({"r1": "aggregate"}, ["f0", "f2"], None),
        ({"r0": "aggregate"}, ["f1", "f2"], None),
    ],
)
def test_counts_are_told_of_what_is_shared_row_by_row(modes: dict[str, str], told: list[str], keys: int | None) -> None:
    spent = cost(*measured(modes))
    assert [name for name, item in spent.fragments.items() if item.rows is not None] == told
    assert [name for name, item in spent.fragments.items() if item.bytes is not None] == told
    assert spent.fragments["f1"].keys == (("m0", "m1.d.k", keys),)
    assert "27" not in str(spent) and "suppressed" not in str(spent)

"""A decision is kept only while the rules say so, and only for exactly the same question."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from policies.bundle import load
from policies.engines import EmbeddedEngine
from policies.point import DecisionPoint
from tests.unit.policies.cases import NOW, FixedClock, agreement, question
from tidegate.core.clock import timestamp
from tidegate.core.decision import Decision

OVERLAY = """package tidegate.overlay.shift
import rego.v1
{said}
restrictions := {{r.ref: {{}} | some r in input.resources}}
"""


class Counting:
    """The embedded engine, counting how often it is asked."""

    may_be_kept = True

    def __init__(self, overlays: tuple[Path, ...] = ()) -> None:
        self._engine = EmbeddedEngine(load(overlays))
        self.revision = self._engine.revision
        self.asked = 0

    def ask(self, asked: Mapping[str, Any]) -> Any:
        self.asked += 1
        return self._engine.ask(asked)


def later(asked: dict[str, Any], clock: FixedClock, **more: float) -> dict[str, Any]:
    """Give the same question again, later, under another id."""
    clock.moment += timedelta(**more)
    again = copy.deepcopy(asked)
    again["request"] |= {"id": "f" * 32, "time": timestamp(clock.moment)}
    return again


def _overlay(folder: Path, said: str) -> tuple[Path, ...]:
    path = folder / "shift.rego"
    path.write_text(OVERLAY.format(said=said))
    return (path,)


def test_the_same_question_is_not_asked_twice() -> None:
    engine, clock = Counting(), FixedClock()
    point = DecisionPoint(engine, clock)
    first = point.decide(question())
    assert first.allow
    assert point.decide(later(question(), clock, seconds=1)) == first
    assert engine.asked == 1


CHANGES: dict[str, Any] = {
    "a role was lost": lambda asked: asked["caller"].update(roles=[]),
    "clearance": lambda asked: asked["caller"].update(clearance="public"),
    "the agreement was revoked": lambda asked: asked["agreements"].clear(),
    "another agreement": lambda asked: asked["agreements"].append(agreement("a2")),
    "purpose": lambda asked: asked["request"].update(purpose="research.statistics"),
    "not registered": lambda asked: asked.update(registered=False),
    "a column more": lambda asked: asked["resources"][0]["columns"][0].update(used_as=["predicate"]),
    "mask declared": lambda asked: asked["resources"][0]["masks"].update(tailnum={"kind": "redact"}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_question_is_asked(change: str) -> None:
    engine, clock = Counting(), FixedClock()
    point = DecisionPoint(engine, clock)
    point.decide(question())
    again = later(question(), clock, seconds=1)
    CHANGES[change](again)
    point.decide(again)
    assert engine.asked == 2


def test_an_answer_ends_with_the_first_agreement() -> None:
    engine, clock = Counting(), FixedClock()
    point = DecisionPoint(engine, clock)
    asked = question(agreements=[agreement(expires_at=timestamp(NOW + timedelta(seconds=30)))])
    assert point.decide(asked).allow
    assert point.decide(later(asked, clock, seconds=29)).allow
    assert engine.asked == 1
    assert not point.decide(later(asked, clock, seconds=2)).allow
    assert engine.asked == 2


def test_nothing_is_kept_for_longer_than_the_limit_or_for_an_earlier_time() -> None:
    engine, clock = Counting(), FixedClock()
    point = DecisionPoint(engine, clock)
    point.decide(question())
    point.decide(later(question(), clock, seconds=-1))
    assert engine.asked == 2
    point.decide(later(question(), clock, seconds=302))
    assert engine.asked == 3


@pytest.mark.parametrize(
    ("said", "asked"),
    [
        ("", 2),
        ('cache_until := "never"', 2),
        ('cache_until := "2026-11-21T18:00:00+08:00"', 2),
        ("cache_until := 1", 2),
        ('cache_until := "9999-12-31T23:59:59.999999Z"', 1),
        ('cache_until := "2026-11-21T10:00:00.500000Z"', 2),
    ],
)
def test_an_overlay_says_how_long_or_forbids(tmp_path: Path, said: str, asked: int) -> None:
    engine, clock = Counting(_overlay(tmp_path, said)), FixedClock()
    point = DecisionPoint(engine, clock)
    first: Decision = point.decide(question())
    assert first.allow
    point.decide(later(question(), clock, seconds=1))
    assert engine.asked == asked


def test_a_server_is_asked_each_time_for_its_rules_may_change_under_us() -> None:
    engine, clock = Counting(), FixedClock()
    engine.may_be_kept = False
    point = DecisionPoint(engine, clock)
    point.decide(question())
    point.decide(later(question(), clock, seconds=1))
    assert engine.asked == 2

"""The exchange's rules by the embedded engine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from policies.bundle import load
from policies.engines import EmbeddedEngine
from policies.point import DecisionPoint
from tests.unit.policies.cases import CASES, Case, FixedClock, at


@pytest.fixture(scope="module")
def point() -> Iterator[DecisionPoint]:
    engine = EmbeddedEngine(load())
    yield DecisionPoint(engine, FixedClock())
    engine.close()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rules_say_what_the_case_expects(point: DecisionPoint, case: Case) -> None:
    decision = point.decide(case.question)
    assert tuple(reason.code for reason in decision.reasons) == case.codes
    assert decision.allow is case.allow
    for path, value in case.shows:
        assert at(decision.to_json(), path) == value


@pytest.mark.parametrize("case", [case for case in CASES if not case.allow], ids=lambda case: case.name)
def test_refusals_explain_themselves(point: DecisionPoint, case: Case) -> None:
    for reason in point.decide(case.question).reasons:
        assert reason.text
        assert reason.ask_for
        assert reason.decided_by

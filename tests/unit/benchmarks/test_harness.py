"""The harness: turns, medians, void rows, and when two answers are one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from benchmarks.harness import Answer, SideTimeout, Timed, geomean, interleave, ratio
from benchmarks.harness_answers import difference


@dataclass
class Scripted:
    """A side that gives its answers one after the other, and says so in a shared book."""

    name: str
    answers: Sequence[Answer | Exception]
    book: list[str] = field(default_factory=list)
    budget_s: float = float("inf")
    asked: int = 0

    def run(self, name: str, sql: str) -> Answer:
        self.book.append(self.name)
        answer = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        if isinstance(answer, Exception):
            raise answer
        return answer


def took(seconds: float, *rows: tuple[Any, ...]) -> Answer:
    return Answer(rows or ((1,),), seconds)


def test_sides_take_turns_and_the_warm_up_is_not_timed() -> None:
    book: list[str] = []
    ours = Scripted("ours", [took(9.0), took(2.0), took(4.0), took(3.0)], book)
    peer = Scripted("peer", [took(9.0), took(1.0)], book)
    marks: list[int] = []
    timed = interleave([ours, peer], "Q", "SELECT 1", runs=3, before_timed=lambda: marks.append(len(book)))
    assert book == ["ours", "peer"] * 4
    assert marks == [2]
    assert timed["ours"].seconds == [2.0, 4.0, 3.0]
    assert timed["ours"].to_json() == {"median_s": 3.0, "min_s": 2.0, "runs": 3}
    assert ratio(timed["ours"], timed["peer"]) == 3.0


def test_a_wrong_answer_voids_the_row() -> None:
    sides = [Scripted("ours", [took(1.0, (2,))]), Scripted("peer", [took(1.0, (1,))])]
    timed = interleave(sides, "Q", "", runs=1, reference="peer")
    assert timed["ours"].wrong == "column 0: 2, expected 1"
    assert timed["ours"].median_s is None
    assert ratio(timed["ours"], timed["peer"]) is None


def test_one_wrong_answer_among_many_is_found() -> None:
    ours = Scripted("ours", [took(1.0, (1,)), took(1.0, (2,)), took(1.0, (1,))])
    timed = interleave([ours, Scripted("peer", [took(1.0, (1,))])], "Q", "", runs=2, reference="peer")
    assert timed["ours"].wrong


def test_a_side_that_fails_loses_its_row_and_is_not_asked_again() -> None:
    ours = Scripted("ours", [ValueError("no")])
    timed = interleave([ours, Scripted("peer", [took(1.0)])], "Q", "", runs=3, reference="peer")
    assert ours.asked == 1
    assert timed["ours"].failed == "ValueError: no"
    assert ratio(timed["ours"], timed["peer"]) is None


def test_an_answer_without_a_reference_is_not_called_right() -> None:
    timed = interleave(
        [Scripted("ours", [took(1.0)]), Scripted("peer", [ValueError("no")])], "Q", "", runs=1, reference="peer"
    )
    assert timed["ours"].failed


def test_a_peers_time_limit_is_a_lower_bound_of_its_time() -> None:
    peer = Scripted("peer", [SideTimeout(45.0)])
    timed = interleave([Scripted("ours", [took(1.5)]), peer], "Q", "", runs=3)
    assert peer.asked == 1
    assert timed["peer"].to_json() == {"median_s": 45.0, "min_s": None, "runs": 0, "timed_out": True}
    assert ratio(timed["ours"], timed["peer"]) == pytest.approx(1 / 30)


def test_our_own_time_limit_voids_the_row() -> None:
    timed = interleave([Scripted("ours", [SideTimeout(45.0)]), Scripted("peer", [took(1.0)])], "Q", "", runs=1)
    assert ratio(timed["ours"], timed["peer"]) is None


def test_a_slow_side_is_asked_less_often() -> None:
    slow = Scripted("slow", [took(1.0), took(6.0)], budget_s=10.0)
    slowest = Scripted("slowest", [took(11.0)], budget_s=10.0)
    timed = interleave([Scripted("ours", [took(0.1)]), slow, slowest], "Q", "", runs=5)
    assert timed["slow"].seconds == [6.0, 6.0]
    assert timed["slowest"].to_json() == {"median_s": 11.0, "min_s": 11.0, "runs": 1, "cold": True}


def test_the_geometric_mean_is_that_of_ratios() -> None:
    assert geomean([1.0, 4.0]) == pytest.approx(2.0)
    assert geomean([]) is None
    assert Timed().median_s is None


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ([(1, "a"), (2, "b")], [(2, "b"), (1, "a")]),
        ([(Decimal("1.50"),)], [(Decimal("1.5"),)]),
        ([(Decimal("7"),)], [(7,)]),
        ([(0.1 + 0.2,)], [(0.3,)]),
        ([(Decimal("0.3333333333333333"),)], [(1 / 3,)]),
        ([(float("nan"), None)], [(float("nan"), None)]),
        ([(1.0, "a"), (1.0000000000000002, "b")], [(1.0000000000000002, "a"), (1.0, "b")]),
        ([], []),
    ],
)
def test_answers_that_are_one(ours: list[tuple[Any, ...]], theirs: list[tuple[Any, ...]]) -> None:
    assert difference(ours, theirs) == ""


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ([(1,)], [(1,), (1,)]),
        ([(1,), (1,), (2,)], [(1,), (2,), (2,)]),
        ([(1, 2)], [(1,)]),
        ([(Decimal("1.50"),)], [(Decimal("1.51"),)]),
        ([(1.0,)], [(1.00000001,)]),
        ([(0.0,)], [(1e-12,)]),
        ([(None,)], [(0,)]),
        ([(None,)], [("",)]),
        ([("1",)], [(1,)]),
        ([(True,)], [(1,)]),
        ([(date(2024, 1, 1),)], [("2024-01-01",)]),
        ([(float("nan"),)], [(1.0,)]),
    ],
)
def test_answers_that_differ(ours: list[tuple[Any, ...]], theirs: list[tuple[Any, ...]]) -> None:
    assert difference(ours, theirs)
    assert difference(theirs, ours)


def test_a_fixed_sequence_is_compared_and_ties_may_come_in_any_order() -> None:
    ours = [(3, "a"), (3, "b"), (1, "c")]
    assert difference(ours, [(3, "b"), (3, "a"), (1, "c")], ordered_by=(0,)) == ""
    assert difference(ours, [(1, "c"), (3, "a"), (3, "b")], ordered_by=(0,)).startswith("order: row 0")
    assert difference(ours, [(3, "b"), (3, "a"), (1, "d")], ordered_by=(0,)) == "column 1: 'c', expected 'd'"

"""The harness: two or more sides answer the same question in turns, each answer is compared, medians give the ratio.

A side is anything that can answer a query and say how long it took. Sides are interleaved (ours, peer, ours, peer ...), so that
a busy moment of the machine meets all of them. A wrong answer voids its row.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from benchmarks.harness_answers import Row, difference


class SideTimeout(Exception):
    """The side did not answer within its limit, in seconds."""

    def __init__(self, limit_s: float) -> None:
        super().__init__(f"no answer within {limit_s:g} s")
        self.limit_s = limit_s


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer.

    Args:
        elapsed_s: wall clock from sending the text to holding the last row.
        facts: whatever else the side can tell: bytes per department, fragments.
    """

    rows: Sequence[Row]
    elapsed_s: float
    facts: Mapping[str, Any] = field(default_factory=dict)


class Side(Protocol):
    """One of those that are compared.

    ``budget_s`` bounds the time that its timed runs of one query may take together (one is made in any case). A side whose
    warm-up alone took longer is not asked again: the warm-up is its time, and is said to be one.
    """

    name: str
    budget_s: float

    def run(self, name: str, sql: str) -> Answer:
        """Answer one query.

        Raises:
            SideTimeout: not within the side's own limit.
        """
        ...


@dataclass
class Timed:
    """What one side did with one query."""

    seconds: list[float] = field(default_factory=list)
    answer: Answer | None = None
    wrong: str = ""  # how its answer differs from the reference
    failed: str = ""
    limit_s: float = 0.0  # it ran into its limit: the time is at least this
    cold: bool = False  # the warm-up was the only run: it took longer than the side's budget

    @property
    def median_s(self) -> float | None:
        """The median of the timed runs; the limit for a side that did not answer in time."""
        if self.limit_s:
            return self.limit_s
        return statistics.median(self.seconds) if self.seconds and not (self.wrong or self.failed) else None

    def to_json(self) -> dict[str, Any]:
        """Give the figures: seconds."""
        found: dict[str, Any] = {
            "median_s": None if self.median_s is None else round(self.median_s, 6),
            "min_s": round(min(self.seconds), 6) if self.seconds else None,
            "runs": len(self.seconds),
        }
        if self.limit_s:
            found["timed_out"] = True  # the median is a lower bound
        if self.cold:
            found["cold"] = True
        if self.wrong or self.failed:
            found["error"] = self.wrong or self.failed
        return found


def interleave(
    sides: Sequence[Side],
    name: str,
    sql: str,
    *,
    runs: int,
    warm_ups: int = 1,
    ordered_by: Sequence[int] = (),
    reference: str = "",
    before_timed: Callable[[], None] = lambda: None,
) -> dict[str, Timed]:
    """Let the sides answer one query in turns: warm-ups, then ``runs`` timed rounds.

    Args:
        reference: the side whose answer is right by definition; empty: the first side's.
        before_timed: called after the warm-ups.
    """
    timed = {side.name: Timed() for side in sides}
    for turn in range(warm_ups + runs):
        if turn == warm_ups:
            before_timed()
        for side in sides:
            done = timed[side.name]
            over = done.cold or (bool(done.seconds) and sum(done.seconds) >= side.budget_s)
            if not (done.failed or done.limit_s or over):
                _once(side, done, name, sql, keep=turn >= warm_ups)
    right = timed[reference or sides[0].name].answer
    for done in timed.values():
        if done.answer is not None and right is not None:
            done.wrong = done.wrong or difference(done.answer.rows, right.rows, ordered_by)
        elif right is None and not (done.failed or done.limit_s):
            done.failed = "the reference gave no answer to compare with"
    return timed


def _once(side: Side, done: Timed, name: str, sql: str, *, keep: bool) -> None:
    try:
        answer = side.run(name, sql)
    except SideTimeout as error:
        done.limit_s = error.limit_s
        return
    except Exception as error:  # noqa: BLE001 a side that fails loses its row, not the run of all others
        done.failed = f"{type(error).__name__}: {error}"[:2000]
        return
    if done.answer is not None and not done.wrong:  # every answer counts, not the last one alone
        done.wrong = difference(answer.rows, done.answer.rows)
    done.answer = answer
    done.cold = not keep and answer.elapsed_s > side.budget_s
    if keep or done.cold:
        done.seconds.append(answer.elapsed_s)


def ratio(ours: Timed, theirs: Timed) -> float | None:
    """Give our median over theirs; None for a void row. Below 1: we are faster. Where the peer timed out: an upper bound."""
    if ours.median_s is None or theirs.median_s is None or ours.limit_s:
        return None
    return ours.median_s / theirs.median_s


def geomean(values: Sequence[float]) -> float | None:
    """Give the geometric mean."""
    return math.exp(sum(math.log(value) for value in values) / len(values)) if values else None

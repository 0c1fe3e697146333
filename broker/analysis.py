"""EXPLAIN ANALYZE: what a query cost, room by room and department by department, without one of its rows.

A count is told only where ``RecordedPlan.counted`` permits it: over data that is shared row by row. Of keys, how many there
were is a count of the rows that they come from, so that it must be permitted there too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from broker.values import ClosedRecord, Closing, FragmentReport, RecordedPlan
from tidegate.core.clock import Clock
from tidegate.sql.explain import Cost, FragmentCost
from tidegate.telemetry import NO_TRACE, Trace, spanning

MS_DIGITS = 3  # of a time in milliseconds: the clock's microseconds


class Stopwatch:
    """Times the rooms of one request, and makes a span of each; without a clock it lets them pass. Of one thread.

    Args:
        trace: the request's span; the rooms' are under it.
        seen: told the seconds of each room as it is left.
    """

    def __init__(
        self, clock: Clock | None = None, *, trace: Trace = NO_TRACE, seen: Callable[[str, float], None] | None = None
    ) -> None:
        self._clock = clock
        self._trace = trace
        self._seen = seen
        self._rooms: dict[str, float] = {}

    @contextmanager
    def room(self, name: str) -> Iterator[None]:
        """Time what is done in a room; an error in it is timed too."""
        if self._clock is None:
            yield
            return
        begun = self._clock.monotonic_s()
        try:
            with spanning(self._trace, name):
                yield
        finally:
            self._left(name, self._clock.monotonic_s() - begun)

    def enter(self, name: str) -> Callable[[], None]:
        """Begin to time a room that is left elsewhere; gives what is called then, once or more often."""
        if self._clock is None:
            return _nothing
        clock, begun, span = self._clock, self._clock.monotonic_s(), self._trace.child(name)
        left: list[bool] = []

        def leave() -> None:
            if not left:
                left.append(True)
                self._left(name, clock.monotonic_s() - begun)
                if span is not self._trace:
                    span.end()

        return leave

    def _left(self, name: str, seconds: float) -> None:
        self._rooms[name] = self._rooms.get(name, 0.0) + seconds
        if self._seen is not None:
            self._seen(name, seconds)

    @property
    def rooms(self) -> Mapping[str, float]:
        """Seconds by room, in the order in which they were entered first."""
        return dict(self._rooms)


def _nothing() -> None:
    """Leave a room that was not timed."""


@dataclass(frozen=True, slots=True)
class Analysis:
    """What a request that was run to its end cost: its closed record, and seconds by room."""

    closing: Closing
    record: ClosedRecord
    rooms: Mapping[str, float]


def cost(recorded: RecordedPlan, analysis: Analysis) -> Cost:
    """Give what the caller may be told of it."""
    closing = analysis.closing
    sources = {
        fragment.id: {source for item in fragment.reductions for source, _ in item.sources}
        for fragment in recorded.restricted.federated.fragments
    }
    return Cost(
        fragments={
            report.fragment: _fragment(report, recorded.counted, sources[report.fragment]) for report in closing.reports
        },
        rows=closing.rows,
        bytes=closing.bytes,
        elapsed_ms=_ms(closing.duration_s),
        rooms_ms={name: _ms(seconds) for name, seconds in analysis.rooms.items()},
    )


def _fragment(report: FragmentReport, counted: frozenset[str], sources: set[str]) -> FragmentCost:
    told = report.fragment in counted
    keys_told = told and sources <= counted
    return FragmentCost(
        rows=report.rows if told else None,
        bytes=report.bytes if told else None,
        first_row_ms=_ms(report.first_row_s) if report.first_row_s > 0 else None,
        elapsed_ms=_ms(report.elapsed_s),
        rules=report.rules,
        keys=tuple((member, column, count if keys_told else None) for member, column, count in report.keys_received),
    )


def _ms(seconds: float) -> float:
    return round(seconds * 1000, MS_DIGITS)

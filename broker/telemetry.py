"""What a broker tells its operator: traces, metrics, and how each call ended. Never a row, SQL text or a person.

The rooms know nothing of it: the hall and the guard call it, and what is off costs a comparison. Labels are closed sets
(doors, rooms, methods, codes) and the members that are attached, which ``attachments_max`` bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from broker.analysis import Stopwatch
from broker.metrics import BrokerMetrics
from broker.values import ClosedRecord, Closing, RecordedPlan, Request
from tidegate.core.clock import Clock, SystemClock
from tidegate.core.errors import TidegateError
from tidegate.telemetry import NO_TRACE, NO_TRACING, Trace, Tracing

Outcome = Callable[[RecordedPlan, Closing], ClosedRecord]

_NOT_TRACED = ("/grpc.", "/tidegate.v1.NodeService/")
"""Probes would drown what matters; an attachment is no request, and lasts for days."""


@dataclass(slots=True)
class SeenCall:
    """One call of a listener, for as long as it is open. Of one thread.

    Args:
        code: of the error that it ended with; empty: none.
    """

    trace: Trace = NO_TRACE
    code: str = ""


class Telemetry:
    """The broker's. Thread-safe.

    Args:
        metrics: None: nothing is counted.
    """

    def __init__(
        self, *, clock: Clock | None = None, tracing: Tracing = NO_TRACING, metrics: BrokerMetrics | None = None
    ) -> None:
        self._clock = clock or SystemClock()
        self._tracing = tracing
        self._metrics = metrics

    @property
    def is_on(self) -> bool:
        """True when anything is traced or counted."""
        return self._metrics is not None or self._tracing is not NO_TRACING

    @contextmanager
    def call(self, method: str, traceparent: Callable[[], str]) -> Iterator[SeenCall]:
        """Hold one call of a listener.

        Args:
            method: its full name; one that a service of ours has, so that there are not many.
            traceparent: gives the caller's. Trust: a stranger's.
        """
        if not self.is_on:
            yield SeenCall()
            return
        seen = SeenCall()
        if self._tracing is not NO_TRACING and not method.startswith(_NOT_TRACED):
            seen.trace = self._tracing.begin(method.strip("/"), traceparent())
        begun = self._clock.monotonic_s()
        try:
            yield seen
        finally:
            seen.trace.end(seen.code)
            if self._metrics is not None:
                self._metrics.called(method, seen.code, self._clock.monotonic_s() - begun)

    def watch(self, request: Request, *, always: bool = False) -> Stopwatch:
        """Give the stopwatch of a request; one that lets the rooms pass when nothing is on, unless ``always``."""
        if not self.is_on and not always:
            return Stopwatch()
        request.trace.note(request_id=request.id, door=request.door, member=request.caller.member)
        return Stopwatch(self._clock, trace=request.trace, seen=self.left)

    def left(self, room: str, seconds: float) -> None:
        """Count the time in a room."""
        if self._metrics is not None:
            self._metrics.left(room, seconds)

    def refused(self, request: Request, error: TidegateError) -> None:
        """Count a request that ended before anything was fetched."""
        if self._metrics is not None:
            seconds = self._clock.monotonic_s() - request.started
            self._metrics.ended(request.door, error.code.value, seconds, rows=0, size_bytes=0)

    def observed(self, outcome: Outcome) -> Outcome:
        """Wrap what writes outcomes, so that each request that was permitted is counted as it ends."""

        def written(recorded: RecordedPlan, closing: Closing) -> ClosedRecord:
            try:
                return outcome(recorded, closing)
            finally:
                self._ended(recorded, closing)

        return written

    def _ended(self, recorded: RecordedPlan, closing: Closing) -> None:
        request = recorded.request
        for report in closing.reports:
            if report.trace is not request.trace:
                report.trace.end("" if report.elapsed_s > 0 else closing.error, after_s=report.elapsed_s)
        if self._metrics is None:
            return
        told = not request.explain  # whoever asked what it costs was given no rows
        self._metrics.ended(
            request.door,
            closing.error,
            closing.duration_s,
            rows=closing.rows if told else 0,
            size_bytes=closing.bytes if told else 0,
        )

    def close(self) -> None:
        """Send what is waiting, for a bounded time."""
        self._tracing.close()

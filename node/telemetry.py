"""What a node tells its department's operator: spans under the broker's, metrics, the admin port. Never a row, SQL or a person.

Its collector and its page are the department's own. What the broker sends of a trace names it and decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import structlog
from prometheus_client import Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from audit.log import AuditLog
from audit.metrics import AuditMetrics
from engine.admin import AdminServer
from engine.metrics import LATENCY_S, Readings, new_registry, outcome_of
from engine.planning import PlanningPool
from engine.pool import WorkerPool
from node.config import NodeConfig
from node.link import LinkState
from node.values import FragmentOffer
from tidegate.core.clock import Clock, SystemClock
from tidegate.identity.certificates import CertificateFacts
from tidegate.telemetry import NO_TRACE, NO_TRACING, Trace, Tracing, open_tracing, spanning, valid_traceparent

SERVICE = "tidegate-node"


class NodeMetrics:
    """What is counted. Thread-safe; one registry for one node."""

    def __init__(self) -> None:
        self.registry = new_registry()
        registry = self.registry
        self._fragments = Counter(
            "tidegate_node_fragments", "Fragments that ended, by outcome.", ("outcome",), registry=registry
        )
        self._codes = Counter(
            "tidegate_node_errors", "Fragments that ended with an error, by its code.", ("code",), registry=registry
        )
        self._fragment_s = Histogram(
            "tidegate_node_fragment_seconds", "Time of fragments.", registry=registry, buckets=LATENCY_S
        )
        self._step_s = Histogram(
            "tidegate_node_step_seconds", "Time in each step.", ("step",), registry=registry, buckets=LATENCY_S
        )
        self._rows = Counter("tidegate_node_rows", "Rows sent to brokers.", registry=registry)
        self._bytes = Counter("tidegate_node_bytes", "Bytes of answers sent to brokers.", registry=registry)

    def step(self, name: str, seconds: float) -> None:
        """Count the time in a step."""
        self._step_s.labels(name).observe(seconds)

    def ended(self, code: str, seconds: float, rows: int, size_bytes: int) -> None:
        """Count a fragment; ``code`` is empty when it was answered."""
        self._fragments.labels(outcome_of(code)).inc()
        self._fragment_s.observe(seconds)
        if code:
            self._codes.labels(code).inc()
        self._rows.inc(rows)
        self._bytes.inc(size_bytes)


class SeenFragment:
    """One fragment while the node works on it. Of one thread; ``code`` is of the error that ended it."""

    def __init__(self, trace: Trace, clock: Clock, metrics: NodeMetrics | None) -> None:
        self.trace = trace
        self.code = ""
        self.rows = 0
        self.size_bytes = 0
        self._clock = clock
        self._metrics = metrics

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step and make a span of it."""
        begun_s = self._clock.monotonic_s()
        try:
            with spanning(self.trace, name):
                yield
        finally:
            if self._metrics is not None:
                self._metrics.step(name, self._clock.monotonic_s() - begun_s)


class Telemetry:
    """The node's. Thread-safe.

    Args:
        metrics: None: nothing is counted.
    """

    def __init__(
        self, *, clock: Clock | None = None, tracing: Tracing = NO_TRACING, metrics: NodeMetrics | None = None
    ) -> None:
        self._clock = clock or SystemClock()
        self._tracing = tracing
        self._metrics = metrics

    @contextmanager
    def fragment(self, offer: FragmentOffer) -> Iterator[SeenFragment]:
        """Hold one fragment. Trust: its ``traceparent`` is a broker's; only W3C's form of it counts."""
        trace = NO_TRACE
        if self._tracing is not NO_TRACING:
            trace = self._tracing.begin("tidegate.node/fragment", valid_traceparent(offer.traceparent))
        seen = SeenFragment(trace, self._clock, self._metrics)
        begun_s = self._clock.monotonic_s()
        try:
            yield seen
        finally:
            trace.end(seen.code)
            if self._metrics is not None:
                seconds = self._clock.monotonic_s() - begun_s
                self._metrics.ended(seen.code, seconds, seen.rows, seen.size_bytes)

    def close(self) -> None:
        """Send what is waiting, for a bounded time."""
        self._tracing.close()


@dataclass(frozen=True, slots=True)
class NodeSources:
    """Whom the page asks when it is asked for.

    Args:
        links: what each link does.
        ages: of each dataset that is a snapshot, the age of its newest copy in seconds.
        lookups: statements and answers of look-ups that were run together.
    """

    links: Callable[[], tuple[LinkState, ...]]
    facts: Callable[[], CertificateFacts]
    ages: Callable[[], Mapping[str, float]]
    lookups: Callable[[], tuple[int, int]]
    slots: Callable[[], int]
    slots_max: int
    planning: PlanningPool
    workers: WorkerPool
    clock: Clock

    def read(self) -> Iterable[Metric]:
        """Read everything once."""
        states = self.links()
        yield _gauge("links", "Links to brokers.", len(states))
        yield _gauge("links_attached", "Links that are attached.", sum(state.attached for state in states))
        yield _gauge("fragments_open", "Fragments under way.", self.slots())
        yield _gauge("fragments_max", "Fragments that may be under way.", self.slots_max)
        left_s = (self.facts().not_after - self.clock.now()).total_seconds()
        yield _gauge("certificate_expiry_seconds", "Time until the node's certificate ends.", left_s)
        ages = GaugeMetricFamily("tidegate_node_snapshot_age_seconds", "Age of the newest copy.", labels=("dataset",))
        for name, age_s in self.ages().items():
            ages.add_metric((name,), age_s)
        replaced = CounterMetricFamily(
            "tidegate_node_workers_replaced", "Processes that were lost and replaced.", labels=("kind",)
        )
        replaced.add_metric(("execute",), self.workers.replaced)
        replaced.add_metric(("planning",), self.planning.replaced)
        statements, answers = self.lookups()
        yield from (
            ages,
            replaced,
            CounterMetricFamily("tidegate_node_lookup_statements", "Statements of look-ups.", value=statements),
            CounterMetricFamily("tidegate_node_lookup_answers", "Look-ups that they answered.", value=answers),
        )


def _gauge(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"tidegate_node_{name}", help_text, value=value)


class Observability:
    """All by which an operator sees the node, wired together. ``serve`` once everything else stands; then ``close``.

    Raises:
        CallerError: CONFIG_INVALID.
    """

    def __init__(self, config: NodeConfig, *, instance: str, clock: Clock, log: structlog.stdlib.BoundLogger) -> None:
        self._config = config
        self._log = log
        self._metrics = NodeMetrics() if config.admin else None
        tracing = open_tracing(SERVICE, instance, config.traces, log.warning)
        self.telemetry = Telemetry(clock=clock, tracing=tracing, metrics=self._metrics)
        self._admin: AdminServer | None = None

    def serve(self, sources: NodeSources, log: AuditLog, ready: Callable[[], bool]) -> None:
        """Open the admin port, if there is one.

        Raises:
            CallerError: CONFIG_INVALID, its address cannot be used.
        """
        if self._metrics is None:
            return
        self._metrics.registry.register(Readings(sources.read))
        AuditMetrics(log, self._metrics.registry)
        self._admin = AdminServer(self._config.admin, self._metrics.registry, ready, self._log)
        self._log.info("admin port up", port=self._admin.port)

    def close(self) -> None:
        """Close the admin port, and send the spans that are waiting."""
        if self._admin is not None:
            self._admin.close()
        self.telemetry.close()

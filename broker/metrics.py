"""The broker's numbers for Prometheus: those that are counted as things happen, and those that are read when asked for.

One registry for one broker, none of the process's. Every label is of a closed set, or a member whose node is attached.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from broker.admission import Admission
from broker.attachments import Attachments
from broker.authority import BrokerIdentity
from broker.open_calls import OpenCalls
from broker.plan_cache import PlanCache
from engine.metrics import LATENCY_S, new_registry, outcome_of
from engine.planning import PlanningPool
from engine.pool import WorkerPool
from policies.point import DecisionPoint
from tidegate.core.clock import Clock
from tidegate.core.names import IdentityKind

MEMBERS_MAX = 1_000  # series of one kind that name a member


class BrokerMetrics:
    """What is counted. Thread-safe."""

    def __init__(self) -> None:
        self.registry: CollectorRegistry = new_registry()
        registry = self.registry
        self._requests = Counter(
            "tidegate_broker_requests",
            "Requests that ended, by door and outcome.",
            ("door", "outcome"),
            registry=registry,
        )
        self._codes = Counter(
            "tidegate_broker_errors", "Requests that ended with an error, by its code.", ("code",), registry=registry
        )
        self._request_s = Histogram(
            "tidegate_broker_request_seconds", "Time of requests.", ("door",), registry=registry, buckets=LATENCY_S
        )
        self._rows = Counter("tidegate_broker_rows", "Rows delivered to callers.", ("door",), registry=registry)
        self._bytes = Counter(
            "tidegate_broker_bytes", "Bytes of answers delivered to callers.", ("door",), registry=registry
        )
        self._room_s = Histogram(
            "tidegate_broker_room_seconds",
            "Time of requests in each room.",
            ("room",),
            registry=registry,
            buckets=LATENCY_S,
        )
        self._calls = Counter(
            "tidegate_broker_calls",
            "gRPC calls that ended, by method and outcome.",
            ("method", "outcome"),
            registry=registry,
        )
        self._call_s = Histogram(
            "tidegate_broker_call_seconds", "Time of gRPC calls.", ("method",), registry=registry, buckets=LATENCY_S
        )

    def called(self, method: str, code: str, seconds: float) -> None:
        """Count a gRPC call."""
        name = method.strip("/")
        self._calls.labels(name, outcome_of(code)).inc()
        self._call_s.labels(name).observe(seconds)

    def left(self, room: str, seconds: float) -> None:
        """Count the time in a room."""
        self._room_s.labels(room).observe(seconds)

    def ended(self, door: str, code: str, seconds: float, *, rows: int, size_bytes: int) -> None:
        """Count a request; ``code`` is empty when it was answered."""
        self._requests.labels(door, outcome_of(code)).inc()
        self._request_s.labels(door).observe(seconds)
        if code:
            self._codes.labels(code).inc()
        if rows:
            self._rows.labels(door).inc(rows)
        if size_bytes:
            self._bytes.labels(door).inc(size_bytes)


@dataclass(frozen=True, slots=True)
class Sources:
    """Whom the page asks when it is asked for."""

    admission: Admission
    attachments: Attachments
    attachments_max: int
    open_calls: OpenCalls
    plans: PlanCache
    point: DecisionPoint
    planning: PlanningPool
    workers: WorkerPool
    identity: BrokerIdentity
    clock: Clock

    def read(self) -> Iterable[Metric]:
        """Read everything once."""
        under_way, places = self.admission.places
        yield _gauge("requests_open", "Requests under way.", under_way)
        yield _gauge("requests_max", "Requests that may be under way.", places)
        yield _gauge("calls_open", "gRPC calls that are open.", len(self.open_calls))
        yield _gauge("attachments_max", "Nodes that may be attached.", self.attachments_max)
        yield from self._attached()
        yield _gauge(
            "certificate_expiry_seconds",
            "Time until the broker's certificate ends.",
            (self.identity.current().facts.not_after - self.clock.now()).total_seconds(),
        )
        yield from self._memories()

    def _attached(self) -> Iterable[Metric]:
        attached = GaugeMetricFamily("tidegate_broker_attachments", "Nodes attached, by member.", labels=("member",))
        pending = GaugeMetricFamily(
            "tidegate_broker_fragments_open", "Fragments that a member's nodes work on.", labels=("member",)
        )
        expiry = GaugeMetricFamily(
            "tidegate_broker_node_certificate_expiry_seconds",
            "Time until the first certificate of a member's attached nodes ends.",
            labels=("member",),
        )
        counted: dict[str, list[int]] = {}
        for item in self.attachments.all():
            of = counted.setdefault(item.identity.member, [0, 0])
            of[0] += 1
            of[1] += item.open_fragments
        for member, (nodes, fragments) in list(counted.items())[:MEMBERS_MAX]:
            attached.add_metric((member,), nodes)
            pending.add_metric((member,), fragments)
        now = self.clock.now()
        ends: dict[str, float] = {}
        for facts in self.open_calls.shown(IdentityKind.NODE):
            left = (facts.not_after - now).total_seconds()
            ends[facts.identity.member] = min(left, ends.get(facts.identity.member, left))
        for member, left in list(ends.items())[:MEMBERS_MAX]:
            expiry.add_metric((member,), left)
        yield from (attached, pending, expiry)

    def _memories(self) -> Iterable[Metric]:
        looked = CounterMetricFamily(
            "tidegate_broker_cache", "Look-ups in memories of plans and decisions.", labels=("cache", "result")
        )
        for name, (hits, misses) in {**self.plans.counts, "decisions": self.point.kept}.items():
            looked.add_metric((name, "hit"), hits)
            looked.add_metric((name, "miss"), misses)
        replaced = CounterMetricFamily(
            "tidegate_broker_workers_replaced", "Processes that were lost and replaced.", labels=("kind",)
        )
        replaced.add_metric(("join",), self.workers.replaced)
        replaced.add_metric(("planning",), self.planning.replaced)
        yield from (looked, replaced)


def _gauge(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"tidegate_broker_{name}", help_text, value=value)

"""A log's numbers for Prometheus: how long appends took to be durable, its size, and what no checkpoint covers yet."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from audit.log import AuditLog

_APPEND_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)


class AuditMetrics(Collector):
    """The numbers of one log, in a registry. Thread-safe."""

    def __init__(self, log: AuditLog, registry: CollectorRegistry) -> None:
        self._log = log
        self._appended = Histogram(
            "tidegate_audit_append_seconds",
            "Time until an entry was durable, by its type.",
            ("type",),
            registry=registry,
            buckets=_APPEND_S,
        )
        log.on_append = self._seen
        registry.register(self)

    def _seen(self, kind: str, seconds: float) -> None:
        self._appended.labels(kind).observe(seconds)

    def collect(self) -> Iterable[Metric]:
        """Read the log's state."""
        log = self._log
        yield GaugeMetricFamily("tidegate_audit_entries", "Durable entries of the log.", value=log.size)
        uncovered, undecided = log.pending
        yield GaugeMetricFamily(
            "tidegate_audit_entries_uncovered", "Durable entries that no checkpoint covers yet.", value=uncovered
        )
        yield GaugeMetricFamily(
            "tidegate_audit_decisions_open", "Decisions whose outcome is still to come.", value=undecided
        )

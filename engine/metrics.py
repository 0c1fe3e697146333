"""What the metrics of a broker and of a node have in common: a registry of its own, buckets, and values read when asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Info, PlatformCollector, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

import tidegate
from tidegate.core.errors import CODES, Code

LATENCY_S = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1),
    *(0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0),
)
"""Seconds: from a look-up's rooms to the longest query's deadline."""

_FAMILIES = {code.value: info.family.value for code, info in CODES.items()}


def outcome_of(code: str) -> str:
    """Give the outcome for a label: ``ok``, or who must act on the error."""
    return _FAMILIES.get(code, Code.INTERNAL.name.lower()) if code else "ok"


def new_registry() -> CollectorRegistry:
    """Make a registry with what every process tells: memory, processor time, file descriptors, version."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    Info("tidegate_build", "Version of this process.", registry=registry).info({"version": tidegate.__version__})
    return registry


class Readings(Collector):
    """Values that are read when the page is made, not when they change."""

    def __init__(self, read: Callable[[], Iterable[Metric]]) -> None:
        self._read = read

    def describe(self) -> Iterable[Metric]:
        """Nothing ahead: what is read may not be there yet."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Read."""
        return tuple(self._read())

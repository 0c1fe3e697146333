"""All by which an operator sees a broker, wired together: traces, metrics, admin port, and each listener's health.

The composition root makes it first and closes it last; what is not configured is not opened, and nothing of it is imported.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import grpc
import structlog

from audit.log import AuditLog
from audit.metrics import AuditMetrics
from broker.config import BrokerConfig
from broker.metrics import BrokerMetrics, Sources
from broker.telemetry import Telemetry
from broker.wire.guard import Guard
from broker.wire.health import Health
from broker.wire.reflection import add_reflection
from engine.admin import AdminServer
from engine.metrics import Readings
from tidegate.core.clock import Clock
from tidegate.telemetry import open_tracing

Last = Callable[[Sequence[str], grpc.Server], None]
SERVICE = "tidegate-broker"


class Observability:
    """See the module. ``serve`` once everything else stands; then ``drain``, ``close``.

    Args:
        instance: the broker's SPIFFE id, by which a collector tells one from another.

    Raises:
        CallerError: CONFIG_INVALID.
    """

    def __init__(self, config: BrokerConfig, *, instance: str, clock: Clock, log: structlog.stdlib.BoundLogger) -> None:
        self._config = config
        self._clock = clock
        self._log = log
        self._metrics = BrokerMetrics() if config.listen.admin else None
        tracing = open_tracing(SERVICE, instance, config.traces, log.warning)
        self.telemetry = Telemetry(clock=clock, tracing=tracing, metrics=self._metrics)
        self._health: list[Health] = []
        self._ready = threading.Event()
        self._admin: AdminServer | None = None

    def last(self, guard: Guard | None = None) -> Last:
        """Give what a listener adds after its services: health of each, and with a guard reflection, if it is on."""

        def add(names: Sequence[str], server: grpc.Server) -> None:
            health = Health()
            health.serve(names, server)
            self._health.append(health)
            if guard is not None and self._config.listen.reflection:
                add_reflection((*names, "grpc.health.v1.Health"), server, guard, self._clock)

        return add

    def serve(self, sources: Sources, log: AuditLog) -> None:
        """Be ready: open the admin port, if there is one.

        Raises:
            CallerError: CONFIG_INVALID, its address cannot be used.
        """
        if self._metrics is not None:
            self._metrics.registry.register(Readings(sources.read))
            AuditMetrics(log, self._metrics.registry)
            self._admin = AdminServer(self._config.listen.admin, self._metrics.registry, self._ready.is_set, self._log)
            self._log.info("admin port up", port=self._admin.port)
        self._ready.set()

    def drain(self) -> None:
        """Say everywhere that nothing new is taken."""
        self._ready.clear()
        for health in self._health:
            health.drain()

    def close(self) -> None:
        """Close the admin port, and send the spans that are waiting."""
        if self._admin is not None:
            self._admin.close()
        self.telemetry.close()

"""gRPC's health service on every listener: ``Check`` alone, for each service that the listener serves and for the whole.

``Watch`` would hold a thread of a bounded pool for each watcher. On the enrolment listener anybody may call, so eight watchers
without a certificate would keep everybody from joining. The health protocol allows a server to leave ``Watch`` out: a client
then takes the server for healthy and does not ask again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

SERVICE = "grpc.health.v1.Health"


class Health(health.HealthServicer):
    """The service of one listener. ``""`` is the whole of it; a service that it does not serve is NOT_FOUND."""

    def __init__(self) -> None:
        super().__init__()
        self._names: tuple[str, ...] = ("",)

    def serve(self, names: Sequence[str], server: grpc.Server) -> None:
        """Say that these services answer, and serve beside them."""
        self._names = ("", SERVICE, *names)
        for name in self._names:
            self.set(name, health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(self, server)

    def drain(self) -> None:
        """Say that none of them takes new calls any more; for good."""
        for name in self._names:
            self.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)

    def Watch(
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext, send_response_callback: Any = None
    ) -> Any:
        """Refuse."""
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "health: ask with Check; watching is not offered")

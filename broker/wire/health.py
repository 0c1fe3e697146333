"""gRPC's health service on every listener: ``Check`` alone. ``Watch`` would hold a thread of a bounded pool for each watcher.

On the enrolment listener anybody may call, so eight watchers without a certificate would keep everybody from joining. The
health protocol allows a server to leave ``Watch`` out: a client then takes the server for healthy and does not ask again.
"""

from __future__ import annotations

from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2


class Health(health.HealthServicer):
    """The service. ``set("", ...)`` says how the broker is."""

    def Watch(
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext, send_response_callback: Any = None
    ) -> Any:
        """Refuse."""
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "health: ask with Check; watching is not offered")

"""Which service is served on which listener."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from broker.wire.flight.service import add_flight_service
from broker.wire.node import add_node_service
from broker.wire.query import add_query_service
from tidegate.v1 import (
    audit_service_pb2_grpc,
    catalogue_service_pb2_grpc,
    member_service_pb2_grpc,
)

Add = Callable[[grpc.Server], object]


@dataclass(frozen=True, slots=True)
class Services:
    """What each listener serves."""

    callers: Sequence[Add]
    nodes: Sequence[Add]
    enrolment: Sequence[Add]
    bearer: Sequence[Add]


def add_services(
    *,
    query: Any,
    flight: Any,
    catalogue: Any,
    audit: Any,
    members: Any,
    nodes: Any,
    enrolment: Any,
    bearer_flight: Any = None,
) -> Services:
    """Assign the services to the listeners (design doors.md)."""
    return Services(
        callers=(
            lambda server: add_query_service(query, server),
            lambda server: add_flight_service(flight, server),
            lambda server: catalogue_service_pb2_grpc.add_CatalogueServiceServicer_to_server(catalogue, server),
            lambda server: audit_service_pb2_grpc.add_AuditServiceServicer_to_server(audit, server),
            lambda server: member_service_pb2_grpc.add_MemberServiceServicer_to_server(members, server),
        ),
        nodes=(lambda server: add_node_service(nodes, server),),
        enrolment=(lambda server: member_service_pb2_grpc.add_EnrolmentServiceServicer_to_server(enrolment, server),),
        bearer=() if bearer_flight is None else (lambda server: add_flight_service(bearer_flight, server),),
    )

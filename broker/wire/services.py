"""Which service is served on which listener, and the guard of the listener that knows nobody yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import structlog

from broker.wire.guard import clean_errors, guarded
from tidegate.core.clock import Ids
from tidegate.v1 import (
    audit_service_pb2_grpc,
    catalogue_service_pb2_grpc,
    member_service_pb2_grpc,
    node_service_pb2_grpc,
    query_service_pb2_grpc,
)

Add = Callable[[grpc.Server], object]


@dataclass(frozen=True, slots=True)
class Services:
    """What each listener serves."""

    callers: Sequence[Add]
    nodes: Sequence[Add]
    enrolment: Sequence[Add]


def add_services(*, query: Any, catalogue: Any, audit: Any, members: Any, nodes: Any, enrolment: Any) -> Services:
    """Assign the services to the listeners (design doors.md)."""
    return Services(
        callers=(
            lambda server: query_service_pb2_grpc.add_QueryServiceServicer_to_server(query, server),
            lambda server: catalogue_service_pb2_grpc.add_CatalogueServiceServicer_to_server(catalogue, server),
            lambda server: audit_service_pb2_grpc.add_AuditServiceServicer_to_server(audit, server),
            lambda server: member_service_pb2_grpc.add_MemberServiceServicer_to_server(members, server),
        ),
        nodes=(lambda server: node_service_pb2_grpc.add_NodeServiceServicer_to_server(nodes, server),),
        enrolment=(lambda server: member_service_pb2_grpc.add_EnrolmentServiceServicer_to_server(enrolment, server),),
    )


class _Nobody:
    """A call of somebody who is not known yet: nothing can end it from outside."""

    def check(self) -> None:
        """Never ended."""


class EnrolmentGuard(grpc.ServerInterceptor):  # type: ignore[type-arg]
    """Clean errors for the enrolment listener, where nobody has a certificate."""

    def __init__(self, log: structlog.stdlib.BoundLogger, ids: Ids) -> None:
        self._log = log
        self._ids = ids

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Put clean errors around the handler of a call."""
        handler = continuation(handler_call_details)
        return None if handler is None else guarded(handler, self._admitted)

    @contextmanager
    def _admitted(self, context: grpc.ServicerContext) -> Iterator[_Nobody]:
        with clean_errors(context, self._ids.request_id(), self._log, self._ids):
            yield _Nobody()


def enrolment_guard(log: structlog.stdlib.BoundLogger, ids: Ids) -> EnrolmentGuard:
    """Make the guard of the enrolment listener."""
    return EnrolmentGuard(log, ids)

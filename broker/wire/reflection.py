"""gRPC's reflection, for grpcurl and its like: what services a listener serves, and how their messages look.

Off unless the operator says so. It goes through the guard like all else, and its stream is bounded in time and questions. The
descriptors are our own protocol's and nothing else that happens to be loaded. Flight's service has Arrow's name on the wire
and our messages (``broker.wire.flight.messages``): it gets a description of its own, in a pool that only reflection reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import descriptor_pb2, empty_pb2
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from broker.wire.flight.messages import SERVICE as FLIGHT
from tidegate.core.clock import Clock
from tidegate.v1 import (
    audit_service_pb2,
    catalogue_service_pb2,
    flight_sql_pb2,
    member_service_pb2,
    node_service_pb2,
    query_service_pb2,
)
from tidegate.v1 import flight_pb2 as flight

if TYPE_CHECKING:
    from broker.wire.guard import Guard

METHOD = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
STREAM_S_MAX = 30.0
QUESTIONS_MAX = 1_000  # of one stream; grpcurl asks a dozen
_OURS = (
    audit_service_pb2,
    catalogue_service_pb2,
    empty_pb2,
    flight,
    flight_sql_pb2,
    member_service_pb2,
    node_service_pb2,
    query_service_pb2,
    health_pb2,
    reflection_pb2,
)
_FLIGHT_FILE = "arrow/flight/protocol/service.proto"
# Method: request, answer, whether each is a stream. Source: Arrow's Flight.proto, whose messages ours are by field numbers.
_FLIGHT_METHODS: dict[str, tuple[type[Message], type[Message], bool, bool]] = {
    "Handshake": (flight.FlightHandshake, flight.FlightHandshake, True, True),
    "ListFlights": (flight.FlightCriteria, flight.FlightInfo, False, True),
    "GetFlightInfo": (flight.FlightDescriptor, flight.FlightInfo, False, False),
    "PollFlightInfo": (flight.FlightDescriptor, flight.FlightPollInfo, False, False),
    "GetSchema": (flight.FlightDescriptor, flight.FlightSchemaResult, False, False),
    "DoGet": (flight.FlightTicket, flight.FlightData, False, True),
    "DoPut": (flight.FlightData, flight.FlightPutResult, True, True),
    "DoExchange": (flight.FlightData, flight.FlightData, True, True),
    "DoAction": (flight.FlightAction, flight.FlightResult, False, True),
    "ListActions": (empty_pb2.Empty, flight.FlightActionType, False, True),
}


class Reflection(reflection_pb2_grpc.ServerReflectionServicer):  # type: ignore[misc]
    """The service of one listener, around grpcio's own."""

    def __init__(self, names: Sequence[str], guard: Guard, clock: Clock) -> None:
        self._answers: Any = reflection.ReflectionServicer([*names, reflection.SERVICE_NAME], pool=descriptors())
        self._guard = guard
        self._clock = clock

    def ServerReflectionInfo(
        self, request_iterator: Iterator[Any], context: grpc.ServicerContext
    ) -> Iterator[reflection_pb2.ServerReflectionResponse]:
        """Answer questions, for a while."""
        self._guard.until(context, self._clock.monotonic_s() + STREAM_S_MAX)
        yield from self._answers.ServerReflectionInfo(islice(request_iterator, QUESTIONS_MAX), context)


def add_reflection(names: Sequence[str], server: grpc.Server, guard: Guard, clock: Clock) -> None:
    """Serve reflection of these services."""
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(Reflection(names, guard, clock), server)


def descriptors() -> DescriptorPool:
    """Make the pool: the files of our services, and the description of Flight's."""
    pool = DescriptorPool()
    added: set[str] = set()
    for module in _OURS:
        _add(module.DESCRIPTOR, pool, added)
    file = descriptor_pb2.FileDescriptorProto(
        name=_FLIGHT_FILE,
        package=FLIGHT.rpartition(".")[0],
        syntax="proto3",
        dependency=[flight.DESCRIPTOR.name, empty_pb2.DESCRIPTOR.name],
    )
    service = file.service.add(name=FLIGHT.rpartition(".")[2])
    for name, (asked, answered, client_streams, server_streams) in _FLIGHT_METHODS.items():
        service.method.add(
            name=name,
            input_type=f".{asked.DESCRIPTOR.full_name}",
            output_type=f".{answered.DESCRIPTOR.full_name}",
            client_streaming=client_streams,
            server_streaming=server_streams,
        )
    pool.AddSerializedFile(file.SerializeToString())
    return pool


def _add(file: FileDescriptor, pool: DescriptorPool, added: set[str]) -> None:
    if file.name in added:
        return
    added.add(file.name)
    for dependency in file.dependencies:
        _add(dependency, pool, added)
    pool.AddSerializedFile(file.serialized_pb)

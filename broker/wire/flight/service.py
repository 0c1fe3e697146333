"""FlightService as Flight SQL speaks it: which call and which command goes where.

The handlers are given to gRPC by hand: the service's name is Arrow's, our copies of its messages have a package of their own,
and batches leave as bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import Message

from broker.admission import Admission
from broker.wire.flight import messages, parameters
from broker.wire.flight.actions import CREATE, Actions, refuse_transaction
from broker.wire.flight.framing import framed_batches
from broker.wire.flight.metadata import COMMANDS, Metadata
from broker.wire.flight.sessions import Link, Sessions
from broker.wire.flight.statements import Statement, Statements
from broker.wire.flight.turns import Turns
from tidegate import ipc
from tidegate.core.caller import Caller
from tidegate.core.errors import Code, error_for
from tidegate.v1 import flight_pb2, flight_sql_pb2

if TYPE_CHECKING:
    from broker.wire.guard import Guard

_PLANNED = ("DoGet", "DoPut", "GetFlightInfo", "GetSchema", "PollFlightInfo")
# Without DoAction: whoever has taken every place must still be able to cancel. What it plans has a place by admission.
LONG_METHODS = frozenset(f"/{messages.SERVICE}/{name}" for name in _PLANNED)
_CHANGES = (
    flight_sql_pb2.CommandStatementUpdate,
    flight_sql_pb2.CommandPreparedStatementUpdate,
    flight_sql_pb2.CommandStatementIngest,
)

Handshake = Callable[[Iterator[flight_pb2.FlightHandshake], grpc.ServicerContext], Iterator[flight_pb2.FlightHandshake]]


class FlightServicer:
    """The service. Trust: every message is the caller's.

    Args:
        handshake: of a listener whose callers have no certificate; None: callers are known by theirs.
    """

    def __init__(
        self,
        *,
        guard: Guard,
        admission: Admission,
        statements: Statements,
        metadata: Metadata,
        sessions: Sessions,
        handshake: Handshake | None = None,
    ) -> None:
        self._guard = guard
        self._admission = admission
        self._statements = statements
        self._metadata = metadata
        self._sessions = sessions
        self._actions = Actions(statements=statements, sessions=sessions)
        self._turns = Turns()
        self._handshake = handshake

    def GetFlightInfo(
        self, request: flight_pb2.FlightDescriptor, context: grpc.ServicerContext
    ) -> flight_pb2.FlightInfo:
        """Describe an answer, and give a ticket for it."""
        with self._asked(context) as caller:
            return self._info(caller, request, context)

    def PollFlightInfo(
        self, request: flight_pb2.FlightDescriptor, context: grpc.ServicerContext
    ) -> flight_pb2.FlightPollInfo:
        """Describe an answer as one that is ready: it is computed while it is read, and never waited for here."""
        with self._asked(context) as caller:
            return flight_pb2.FlightPollInfo(info=self._info(caller, request, context), progress=1.0)

    def GetSchema(
        self, request: flight_pb2.FlightDescriptor, context: grpc.ServicerContext
    ) -> flight_pb2.FlightSchemaResult:
        """Give the schema of an answer."""
        with self._asked(context) as caller:
            command = messages.unpack(request.cmd)
            if type(command) in COMMANDS:
                return flight_pb2.FlightSchemaResult(schema=ipc.schema_chunk(self._metadata.schema(command)))
            statement = self._statement(caller, command, context)
            return flight_pb2.FlightSchemaResult(schema=self._statements.announced(caller, statement, context).schema)

    def DoGet(self, request: flight_pb2.FlightTicket, context: grpc.ServicerContext) -> Iterator[bytes]:
        """Redeem a ticket."""
        with self._asked(context) as caller:
            command = messages.unpack(request.ticket)
            if type(command) in COMMANDS:
                found = self._turns.taken(caller.member, lambda: self._metadata.batches(command, caller))
                yield from framed_batches(self._metadata.schema(command), found)
            elif isinstance(command, flight_sql_pb2.TicketStatementQuery):
                yield from self._statements.answer(caller, command.statement_handle, context)
            else:
                raise error_for(Code.WIRE_INVALID, "Flight: not a ticket of this broker")

    def DoPut(
        self, requests: Iterator[flight_pb2.FlightData], context: grpc.ServicerContext
    ) -> Iterator[flight_pb2.FlightPutResult]:
        """Bind values to a prepared statement; whatever would change data is refused."""
        with self._asked(context) as caller:
            first = _first(requests)
            command = messages.unpack(first.flight_descriptor.cmd)
            self._refuse_changes(caller, command, context)
            if not isinstance(command, flight_sql_pb2.CommandPreparedStatementQuery):
                raise error_for(Code.WIRE_UNSUPPORTED, "Flight SQL: a command that takes no data here")
            handle = command.prepared_statement_handle
            statement = self._statements.prepared(caller, handle, context)
            values, size = parameters.read(chain([first], requests), statement.names)
            bound = Statement(statement.sql, statement.department, statement.names, values, size)
            self._statements.bind(caller, handle, bound, context)
            result = flight_sql_pb2.DoPutPreparedStatementResult(prepared_statement_handle=handle)
            yield flight_pb2.FlightPutResult(app_metadata=result.SerializeToString())

    def DoAction(
        self, request: flight_pb2.FlightAction, context: grpc.ServicerContext
    ) -> Iterator[flight_pb2.FlightResult]:
        """Do what an action says."""
        with self._guard.stream(context) as caller:
            plans = request.type == CREATE
            with self._admission.admitted(caller.member) if plans else nullcontext():
                body = self._actions.do(caller, request, context)
            if body is not None:
                yield flight_pb2.FlightResult(body=body)

    def ListActions(self, request: Message, context: grpc.ServicerContext) -> Iterator[flight_pb2.FlightActionType]:
        """Say which actions there are."""
        with self._guard.stream(context):
            yield from self._actions.types()

    def ListFlights(
        self, request: flight_pb2.FlightCriteria, context: grpc.ServicerContext
    ) -> Iterator[flight_pb2.FlightInfo]:
        """Give no flight: what there is to ask for is in the catalogue, and every answer begins with a question."""
        with self._guard.stream(context):
            yield from ()

    def Handshake(
        self, requests: Iterator[flight_pb2.FlightHandshake], context: grpc.ServicerContext
    ) -> Iterator[flight_pb2.FlightHandshake]:
        """Refuse to ask for a name and a password, where a certificate says who calls."""
        with self._guard.stream(context):
            first = list(islice(requests, 1))  # some clients say all that they have to say in a header
            if self._handshake is None:
                raise error_for(
                    Code.WIRE_UNSUPPORTED,
                    "Flight: callers are known by their certificates here; leave out user name, password and token",
                )
            yield from self._handshake(chain(first, requests), context)

    def DoExchange(
        self, requests: Iterator[flight_pb2.FlightData], context: grpc.ServicerContext
    ) -> Iterator[flight_pb2.FlightData]:
        """Refuse: nothing of Flight SQL needs it."""
        with self._guard.stream(context):
            for _ in requests:
                raise error_for(Code.WIRE_UNSUPPORTED, "Flight: this broker exchanges no streams")
            yield from ()

    # ------------------------------------------------------------------------------------------------------------------

    @contextmanager
    def _asked(self, context: grpc.ServicerContext) -> Iterator[Caller]:
        with self._guard.stream(context) as caller, self._admission.admitted(caller.member):
            yield caller

    def _info(
        self, caller: Caller, descriptor: flight_pb2.FlightDescriptor, context: grpc.ServicerContext
    ) -> flight_pb2.FlightInfo:
        command = messages.unpack(descriptor.cmd)
        if type(command) in COMMANDS:
            schema, ticket = ipc.schema_chunk(self._metadata.schema(command)), descriptor.cmd
        else:
            statement = self._statement(caller, command, context)
            ticket, announced = self._statements.ticket(caller, statement, context)
            schema = announced.schema
        return flight_pb2.FlightInfo(
            schema=schema,
            flight_descriptor=descriptor,
            endpoint=[flight_pb2.FlightEndpoint(ticket=flight_pb2.FlightTicket(ticket=ticket))],
            total_records=-1,  # how many there are is an answer by itself
            total_bytes=-1,
        )

    def _statement(self, caller: Caller, command: Message, context: grpc.ServicerContext) -> Statement:
        self._refuse_changes(caller, command, context)
        if isinstance(command, flight_sql_pb2.CommandStatementQuery):
            refuse_transaction(command)
            return Statement(command.query, self._sessions.department(caller, Link.of(context)))
        if isinstance(command, flight_sql_pb2.CommandPreparedStatementQuery):
            return self._statements.prepared(caller, command.prepared_statement_handle, context)
        raise error_for(Code.WIRE_UNSUPPORTED, "Flight SQL: a command that this broker does not answer")

    def _refuse_changes(self, caller: Caller, command: Message, context: grpc.ServicerContext) -> None:
        if isinstance(command, _CHANGES):
            raise self._statements.refused(caller, error_for(Code.FLIGHT_READ_ONLY), context)


def _first(requests: Iterator[Any]) -> Any:
    first = next(requests, None)
    if first is None:
        raise error_for(Code.WIRE_INVALID, "the call ended without a request")
    return first


def _bytes(data: bytes) -> bytes:
    return data


METHODS: Mapping[str, tuple[Callable[..., Any], Any, Any]] = {
    "GetFlightInfo": (grpc.unary_unary_rpc_method_handler, flight_pb2.FlightDescriptor, flight_pb2.FlightInfo),
    "PollFlightInfo": (grpc.unary_unary_rpc_method_handler, flight_pb2.FlightDescriptor, flight_pb2.FlightPollInfo),
    "GetSchema": (grpc.unary_unary_rpc_method_handler, flight_pb2.FlightDescriptor, flight_pb2.FlightSchemaResult),
    "DoGet": (grpc.unary_stream_rpc_method_handler, flight_pb2.FlightTicket, None),
    "DoPut": (grpc.stream_stream_rpc_method_handler, flight_pb2.FlightData, flight_pb2.FlightPutResult),
    "DoAction": (grpc.unary_stream_rpc_method_handler, flight_pb2.FlightAction, flight_pb2.FlightResult),
    "ListActions": (grpc.unary_stream_rpc_method_handler, flight_pb2.FlightCriteria, flight_pb2.FlightActionType),
    "ListFlights": (grpc.unary_stream_rpc_method_handler, flight_pb2.FlightCriteria, flight_pb2.FlightInfo),
    "Handshake": (grpc.stream_stream_rpc_method_handler, flight_pb2.FlightHandshake, flight_pb2.FlightHandshake),
    "DoExchange": (grpc.stream_stream_rpc_method_handler, flight_pb2.FlightData, flight_pb2.FlightData),
}
"""Each method: its arity, the message that it takes, and the message that it gives; None: bytes."""


def add_flight_service(servicer: FlightServicer, server: grpc.Server) -> None:
    """Serve Arrow's FlightService."""
    handlers = {
        name: handler(
            getattr(servicer, name),
            request_deserializer=asked.FromString,
            response_serializer=given.SerializeToString if given is not None else _bytes,
        )
        for name, (handler, asked, given) in METHODS.items()
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(messages.SERVICE, handlers),))

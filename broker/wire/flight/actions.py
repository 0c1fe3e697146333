"""The actions of Flight and Flight SQL: prepared statements, cancelling, sessions.

Results of Flight SQL's own actions travel in an envelope, those of Flight's not; so say their specifications.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from broker.wire.flight import messages
from broker.wire.flight.sessions import Link, Sessions
from broker.wire.flight.statements import Statement, Statements
from tidegate.core.caller import Caller
from tidegate.core.errors import Code, error_for
from tidegate.v1 import flight_pb2, flight_sql_pb2

CREATE = "CreatePreparedStatement"
ENDPOINTS_MAX = 100  # of what one call cancels
_Status = flight_pb2.FlightCancelInfoResult
_Result = flight_sql_pb2.ActionCancelQueryResult

M = TypeVar("M", bound=Message)


class Actions:
    """Does them. Thread-safe."""

    def __init__(self, *, statements: Statements, sessions: Sessions) -> None:
        self._statements = statements
        self._sessions = sessions
        self._known: dict[str, tuple[str, Callable[[Caller, bytes, grpc.ServicerContext], bytes | None]]] = {
            CREATE: ("Plan a query and keep it, to be executed often.", self._create),
            "ClosePreparedStatement": ("Forget a prepared query.", self._close),
            "CancelFlightInfo": ("End an answer, or give up its ticket.", self._cancel_info),
            "CancelQuery": ("The same, as older clients ask for it.", self._cancel_query),
            "SetSessionOptions": ("Set where names of one part are looked for.", self._set_options),
            "GetSessionOptions": ("Say where names of one part are looked for.", self._get_options),
            "CloseSession": ("Forget the session's options.", self._close_session),
        }

    def types(self) -> Iterator[flight_pb2.FlightActionType]:
        """Give what there is, with a sentence for each."""
        for name, (text, _) in self._known.items():
            yield flight_pb2.FlightActionType(type=name, description=text)

    def do(self, caller: Caller, action: flight_pb2.FlightAction, context: grpc.ServicerContext) -> bytes | None:
        """Do an action; give the body of its result, or None when it has none.

        Raises:
            CallerError: WIRE_UNSUPPORTED, WIRE_INVALID; FLIGHT_HANDLE.
        """
        if len(action.body) > messages.COMMAND_BYTES_MAX:
            raise error_for(Code.WIRE_INVALID, f"Flight: a body longer than {messages.COMMAND_BYTES_MAX} bytes")
        known = self._known.get(action.type)
        if known is None:
            raise error_for(Code.WIRE_UNSUPPORTED, "Flight: an action that this broker does not know")
        return known[1](caller, action.body, context)

    def _create(self, caller: Caller, body: bytes, context: grpc.ServicerContext) -> bytes:
        asked = _unpack(body, flight_sql_pb2.ActionCreatePreparedStatementRequest)
        refuse_transaction(asked)
        department = self._sessions.department(caller, Link.of(context))
        return messages.pack(self._statements.prepare(caller, Statement(asked.query, department), context))

    def _close(self, caller: Caller, body: bytes, context: grpc.ServicerContext) -> None:
        asked = _unpack(body, flight_sql_pb2.ActionClosePreparedStatementRequest)
        self._statements.close(caller, asked.prepared_statement_handle, context)

    def _cancel_info(self, caller: Caller, body: bytes, context: grpc.ServicerContext) -> bytes:
        asked = _parse(body, flight_pb2.FlightCancelInfoRequest)
        done = self._cancel(caller, asked.info)
        status = _Status.STATUS_CANCELLED if done else _Status.STATUS_NOT_CANCELLABLE
        return flight_pb2.FlightCancelInfoResult(status=status).SerializeToString()

    def _cancel_query(self, caller: Caller, body: bytes, context: grpc.ServicerContext) -> bytes:
        asked = _unpack(body, flight_sql_pb2.ActionCancelQueryRequest)
        done = self._cancel(caller, _parse(asked.info, flight_pb2.FlightInfo))
        result = _Result.RESULT_CANCELLED if done else _Result.RESULT_NOT_CANCELLABLE
        return messages.pack(flight_sql_pb2.ActionCancelQueryResult(result=result))

    def _cancel(self, caller: Caller, info: flight_pb2.FlightInfo) -> bool:
        if len(info.endpoint) > ENDPOINTS_MAX:
            raise error_for(Code.WIRE_INVALID, f"Flight: more than {ENDPOINTS_MAX} endpoints")
        done = False
        for endpoint in info.endpoint:
            ticket = messages.unpack(endpoint.ticket.ticket)
            if isinstance(ticket, flight_sql_pb2.TicketStatementQuery):
                done = self._statements.cancel(caller, ticket.statement_handle) or done
        return done

    def _set_options(self, caller: Caller, body: bytes, context: grpc.ServicerContext) -> bytes:
        asked = _parse(body, flight_pb2.FlightSetSessionOptionsRequest)
        result, leading = self._sessions.set_options(asked, caller, Link.of(context))
        if leading:
            context.send_initial_metadata(leading)
        return result.SerializeToString()

    def _get_options(self, caller: Caller, body: bytes, context: grpc.ServicerContext) -> bytes:
        _parse(body, flight_pb2.FlightGetSessionOptionsRequest)
        return self._sessions.get_options(caller, Link.of(context)).SerializeToString()

    def _close_session(self, caller: Caller, body: bytes, context: grpc.ServicerContext) -> bytes:
        _parse(body, flight_pb2.FlightCloseSessionRequest)
        return self._sessions.close(caller, Link.of(context)).SerializeToString()


def refuse_transaction(command: Any) -> None:
    """Refuse a command inside of a transaction: there are none.

    Raises:
        CallerError: WIRE_UNSUPPORTED.
    """
    if command.transaction_id:
        raise error_for(Code.WIRE_UNSUPPORTED, "Flight SQL: there are no transactions; every query stands by itself")


def _unpack(body: bytes, kind: type[M]) -> M:
    message = messages.unpack(body)
    if not isinstance(message, kind):
        raise error_for(Code.WIRE_INVALID, "Flight SQL: another message than the action takes")
    return message


def _parse(body: bytes, kind: type[M]) -> M:
    message = kind()
    try:
        message.ParseFromString(body)
    except DecodeError as error:
        raise error_for(Code.WIRE_INVALID, "Flight: another message than the action takes") from error
    return message

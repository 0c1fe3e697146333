"""Statements of the second door: prepared ones, the tickets that executing them gives, and the answers that tickets bring.

Nothing runs before its ticket is redeemed. Preparing and describing plan and decide, so that who may not ask hears it at once;
the answer is decided again and recorded when it is fetched, and only if what was announced still holds (``Pipeline.prepare``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import grpc
import pyarrow as pa

from broker.pipeline import Pipeline
from broker.values import Announced, Request
from broker.wire.asking import Asked, Asking
from broker.wire.flight import handles, headers, messages
from broker.wire.flight.framing import framed
from broker.wire.flight.handles import Handles
from broker.wire.flight.parameters import Parameters
from broker.wire.flight.refusals import Refusals
from broker.wire.flight.running import Running
from tidegate import arrow_check, ipc
from tidegate.core.caller import Caller
from tidegate.core.clock import Clock, Ids
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.limits import QUERY_DEADLINE_S_MAX
from tidegate.sql.parameters import Wanted
from tidegate.v1 import flight_sql_pb2

DOOR = "flight"
_STATE_BYTES = 1_000  # of what is kept behind a handle, beside texts and values
# What values alone may bring about: other values may be planned, and make a form of query that policy permits.
_TENTATIVE = frozenset({Code.PLAN_PARAMETERS, Code.PLAN_TYPE, Code.PLAN_NOT_ALLOWED, Code.POLICY_STRUCTURE})
# When a text cannot be planned without its values. Not empty: drivers take a statement without columns for an update.
_UNKNOWN_YET = ipc.schema_chunk(pa.schema([pa.field("answer", pa.null())]))


@dataclass(frozen=True, slots=True)
class Statement:
    """A text with the values that it was last given. Holds no right: each use is decided.

    Args:
        department: where its names of one part are looked for.
        names: of its parameters.
        size_bytes: of the values.
    """

    sql: str
    department: str = ""
    names: tuple[str, ...] = ()
    parameters: Parameters = ()
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Ticket:
    """An answer that may be fetched once: the question as it was put, and what was said of its answer."""

    statement: Statement
    purpose: str
    legal_basis: str
    announced: Announced


class Statements:
    """See the module. Thread-safe."""

    def __init__(self, *, pipeline: Pipeline, asking: Asking, clock: Clock, ids: Ids) -> None:
        self._pipeline = pipeline
        self._asking = asking
        self._refusals = Refusals(clock)
        self._prepared: Handles[Statement] = Handles(
            handles.STATEMENTS, what="prepared statement", clock=clock, ids=ids
        )
        self._tickets: Handles[Ticket] = Handles(handles.TICKETS, what="ticket", clock=clock, ids=ids)
        self._running = Running()

    # --- prepared statements ------------------------------------------------------------------------------------------

    def prepare(
        self, caller: Caller, statement: Statement, context: grpc.ServicerContext
    ) -> flight_sql_pb2.ActionCreatePreparedStatementResult:
        """Plan and decide a text with stand-ins for its values, and keep it."""
        request = self._request(caller, statement, context)
        expected = self._pipeline.expected(request)
        schema = self._expected_schema(request, expected.wanted)
        kept = replace(statement, names=tuple(item.name for item in expected.wanted))
        return flight_sql_pb2.ActionCreatePreparedStatementResult(
            prepared_statement_handle=self._prepared.give(kept, caller.fingerprint, _size(kept)),
            dataset_schema=schema,
            parameter_schema=expected.schema,
            is_update=False,
        )

    def _expected_schema(self, request: Request, wanted: Sequence[Wanted]) -> bytes:
        """Say what the answer will look like, as far as that can be known without the values."""
        if not wanted:
            return self._pipeline.preview(request).announced.schema
        for attempt in range(max(len(item.stand_ins) for item in wanted)):
            values = {item.name: item.stand_ins[min(attempt, len(item.stand_ins) - 1)] for item in wanted}
            try:
                return self._pipeline.preview(replace(request, parameters=values), _TENTATIVE).announced.schema
            except TidegateError as error:
                if error.code not in _TENTATIVE:
                    raise
        return _UNKNOWN_YET

    def prepared(self, caller: Caller, handle: bytes, context: grpc.ServicerContext) -> Statement:
        """Find a prepared statement.

        Raises:
            CallerError: FLIGHT_HANDLE.
        """
        with self._recorded(caller, context):
            return self._prepared.find(handle, caller.fingerprint)

    def bind(self, caller: Caller, handle: bytes, statement: Statement, context: grpc.ServicerContext) -> None:
        """Keep a prepared statement with other values.

        Raises:
            CallerError: FLIGHT_HANDLE.
        """
        with self._recorded(caller, context):
            self._prepared.change(handle, statement, caller.fingerprint, _size(statement))

    def close(self, caller: Caller, handle: bytes, context: grpc.ServicerContext) -> None:
        """Forget a prepared statement.

        Raises:
            CallerError: FLIGHT_HANDLE.
        """
        with self._recorded(caller, context):
            self._prepared.take(handle, caller.fingerprint)

    # --- answers ------------------------------------------------------------------------------------------------------

    def announced(self, caller: Caller, statement: Statement, context: grpc.ServicerContext) -> Announced:
        """Plan and decide a statement; give what its answer will look like."""
        return self._pipeline.preview(self._request(caller, statement, context)).announced

    def ticket(self, caller: Caller, statement: Statement, context: grpc.ServicerContext) -> tuple[bytes, Announced]:
        """Plan and decide a statement; give a ticket for its answer."""
        request = self._request(caller, statement, context)
        announced = self._pipeline.preview(request).announced
        ticket = Ticket(statement, request.purpose, request.legal_basis, announced)
        handle = self._tickets.give(ticket, caller.fingerprint, _size(statement) + len(announced.schema))
        return messages.pack(flight_sql_pb2.TicketStatementQuery(statement_handle=handle)), announced

    def answer(self, caller: Caller, handle: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        """Redeem a ticket: decide again, record, run; give the messages of the answer.

        Raises:
            CallerError: FLIGHT_HANDLE, FLIGHT_STALE, FLIGHT_PURPOSE; recorded.
            TidegateError: as ``Pipeline.prepare`` and ``run``.
        """
        with self._recorded(caller, context):
            ticket = self._tickets.take(handle, caller.fingerprint)
            headers.hold_purpose(context, ticket.purpose)
        # Whoever set no deadline reads at the pace of a person or of a tool: it has the longest that there is.
        request = self._asked(
            caller, ticket.statement, ticket.purpose, ticket.legal_basis, context, QUERY_DEADLINE_S_MAX
        )
        with self._running.enter(handle, caller.fingerprint, request.cancel, context):
            recorded = self._pipeline.prepare(request, announced=ticket.announced)
            answer = self._pipeline.run(recorded, announced=ticket.announced)
            context.send_initial_metadata(headers.leading(recorded))
            plain = not arrow_check.has_dictionary(ipc.parse_schema(ticket.announced.schema))
            for chunk in answer.chunks():
                yield from framed(chunk, plain=plain)
            if answer.record is None:
                raise error_for(Code.INTERNAL, detail="an answer ended without closing its record")
            context.set_trailing_metadata(headers.trailing(recorded.decision, answer.record))

    def cancel(self, caller: Caller, handle: bytes) -> bool:
        """End an answer that streams, or give up a ticket; False when there is neither any more."""
        if self._running.cancel(handle, caller.fingerprint):
            return True
        try:
            self._tickets.take(handle, caller.fingerprint)
        except TidegateError:
            return False
        return True

    def refused(self, caller: Caller, error: TidegateError, context: grpc.ServicerContext) -> TidegateError:
        """Record a refusal that has no question; gives the error for the caller."""
        if not self._refusals.is_recorded(caller.fingerprint):
            return error
        return self._pipeline.refused(self._asked(caller, Statement(""), "", "", context), error)

    # --- requests -----------------------------------------------------------------------------------------------------

    @contextmanager
    def _recorded(self, caller: Caller, context: grpc.ServicerContext) -> Iterator[None]:
        try:
            yield
        except TidegateError as error:
            raise self.refused(caller, error, context) from error

    def _request(self, caller: Caller, statement: Statement, context: grpc.ServicerContext) -> Request:
        with self._recorded(caller, context):
            purpose, basis = headers.purpose(context), headers.legal_basis(context)
        return self._asked(caller, statement, purpose, basis, context)

    def _asked(
        self,
        caller: Caller,
        statement: Statement,
        purpose: str,
        legal_basis: str,
        context: grpc.ServicerContext,
        deadline_s: float = 0.0,
    ) -> Request:
        asked = Asked(
            sql=statement.sql,
            purpose=purpose,
            legal_basis=legal_basis,
            parameters=statement.parameters,
            department=statement.department,
            deadline_s=deadline_s,
        )
        return self._asking.request(caller, asked, context, door=DOOR)


def _size(statement: Statement) -> int:
    return _STATE_BYTES + 4 * len(statement.sql) + statement.size_bytes

"""What both doors do to make a request of a call: its deadline, its cancelling, its id, its trace.

Nothing of it knows how the caller said what it wants; the doors read that off their own messages.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from broker.replay import UsedIds
from broker.values import Request
from tidegate.core.caller import Caller
from tidegate.core.clock import Clock, Ids, timestamp
from tidegate.core.errors import Code, error_for
from tidegate.core.limits import QUERY_DEADLINE_S, QUERY_DEADLINE_S_MAX
from tidegate.core.values import Value

if TYPE_CHECKING:
    from broker.wire.guard import Guard

PARAMETERS_BYTES_MAX = 1 << 20
DEADLINE_GRACE_S = 1.0  # after a request's deadline, for the rooms to say so themselves
_REQUEST_ID = re.compile(r"[0-9a-f]{32}\Z")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a caller said. Trust: every field is the caller's.

    Args:
        department: where names of one part are looked for; empty: nowhere.
        deadline_s: how long it will wait; 0: the exchange's own default.
        key: its idempotency key, which becomes the request's id; empty: one is made.
    """

    sql: str
    purpose: str
    legal_basis: str = ""
    parameters: Sequence[Value] | Mapping[str, Value] = ()
    department: str = ""
    deadline_s: float = 0.0
    key: str = ""
    explain: bool = False


class Asking:
    """Makes requests of calls. Thread-safe; both doors share one, so that no id is used at either twice."""

    def __init__(self, *, guard: Guard, used: UsedIds, clock: Clock, ids: Ids) -> None:
        self._guard = guard
        self._used = used
        self._clock = clock
        self._ids = ids

    def request(self, caller: Caller, asked: Asked, context: grpc.ServicerContext, *, door: str) -> Request:
        """Make the request of a call, and have it cancelled when the call ends before it.

        Raises:
            CallerError: WIRE_INVALID, CAT_CONFLICT: the idempotency key is none, or was used before.
        """
        cancel = threading.Event()
        if not context.add_callback(cancel.set):
            cancel.set()  # the call is over already, and nobody will call back
        self._guard.on_end(context, cancel.set)  # revoked, expired, or a role lost: the departments are told to stop
        started = self._clock.monotonic_s()
        deadline = started + _seconds(asked.deadline_s, context)
        self._guard.until(context, deadline + DEADLINE_GRACE_S)
        return Request(
            id=self._id(asked.key),
            caller=caller,
            sql=asked.sql,
            purpose=asked.purpose,
            legal_basis=asked.legal_basis,
            parameters=asked.parameters,
            door=door,
            deadline=deadline,
            started=started,
            received_at=timestamp(self._clock.now()),
            explain=asked.explain,
            department=asked.department,
            cancel=cancel,
            trace=self._guard.trace(context),
        )

    def _id(self, key: str) -> str:
        """Take the caller's idempotency key as the request's id, once.

        An id that was made here is used up too: its caller learns it from the first message, and must not bring it again
        while its fragments are under way under names made from it.
        """
        if not key:
            key = self._ids.request_id()
            self._used.take(key)
            return key
        if not _REQUEST_ID.match(key):
            raise error_for(Code.WIRE_INVALID, "request id: expected 32 lower-case hexadecimal digits")
        if not self._used.take(key):
            raise error_for(Code.CAT_CONFLICT, "request id: was used before; its answer is not sent twice")
        return key


def _seconds(asked_s: float, context: grpc.ServicerContext) -> float:
    """Give the seconds that the request has: what it asked for, at most the limit, at most what the call has left."""
    seconds = asked_s if asked_s > 0 else QUERY_DEADLINE_S
    left = context.time_remaining()
    if left is not None:
        seconds = min(seconds, left)
    return min(seconds, QUERY_DEADLINE_S_MAX)

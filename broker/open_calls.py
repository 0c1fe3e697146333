"""Every call that is open now, and the watch that ends those whose caller lost the right to it.

gRPC looks at a certificate once per connection; a stream may outlive its certificate, its caller's role or its member.
One thread reviews all open calls every ``TICK_S`` and at once when the directory tells of a change. A call that must
end is told so (``ended`` is set, its hooks run, so that its handler can end it with a status that says why); one that
has not ended ``GRACE_S`` later is cancelled. Together they stay under the second that design doors.md allows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

from broker.identify import Directory, Identify
from tidegate.core.caller import Caller
from tidegate.core.clock import Clock
from tidegate.core.dataset import SENSITIVITIES
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.names import IdentityKind, SpiffeId
from tidegate.identity.certificates import CertificateFacts
from tidegate.telemetry import NO_TRACE, Trace

TICK_S = 0.25
GRACE_S = 0.35


class Cancellable(Protocol):
    """The part of a gRPC context that the watch needs."""

    def cancel(self) -> None:
        """End the call."""
        ...


@dataclass(eq=False, slots=True)
class OpenCall:
    """One call. ``ended`` and ``cancel_at_s`` are written under the watch's lock; the handler only reads ``ended``.

    ``until_s`` is the handler's to set: the end of its deadline on the monotonic clock. A handler that heeds its deadline
    is gone by then; one that is stuck in a peer who does not read is ended by the watch.
    """

    context: Cancellable
    facts: CertificateFacts
    caller: Caller
    method: str
    request_id: str
    trace: Trace = NO_TRACE
    ended: TidegateError | None = None
    cancel_at_s: float = 0.0
    until_s: float | None = None
    hooks: list[Callable[[], None]] = field(default_factory=list)

    def check(self) -> None:
        """Raise what ended the call, if anything did: before each message in either direction."""
        if self.ended is not None:
            raise self.ended


class OpenCalls:
    """The registry and its watch. One for all listeners of a broker."""

    def __init__(self, *, identify: Identify, directory: Directory, clock: Clock) -> None:
        self._identify = identify
        self._clock = clock
        self._changed = threading.Condition()  # owns everything below
        self._calls: dict[int, OpenCall] = {}
        self._news = False
        self._closed = False
        self._thread: threading.Thread | None = None
        self._unsubscribe = directory.subscribe(self._wake)

    def __len__(self) -> int:
        return len(self._calls)

    @contextmanager
    def enter(self, call: OpenCall) -> Iterator[OpenCall]:
        """Keep the call under watch while its handler runs."""
        with self._changed:
            if self._closed:
                raise error_for(Code.BUSY, "the broker is going down", retry_after_s=1.0)
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="open-calls", daemon=True)
                self._thread.start()
            if not self._calls:
                self._changed.notify_all()
            self._calls[id(call.context)] = call
        try:
            yield call
        finally:
            with self._changed:
                self._calls.pop(id(call.context), None)

    def find(self, context: object) -> OpenCall | None:
        """Find the open call of a context."""
        # An id is unique while its object lives, and an entry here keeps its context alive.
        return self._calls.get(id(context))

    def certificates(self, identity: SpiffeId) -> tuple[CertificateFacts, ...]:
        """Give the certificates with which an identity has calls open now."""
        with self._changed:
            shown = {call.facts.fingerprint: call.facts for call in self._calls.values()}
        return tuple(item for item in shown.values() if item.identity == identity)

    def shown(self, kind: IdentityKind) -> tuple[CertificateFacts, ...]:
        """Give the certificates of one kind with which calls are open now."""
        with self._changed:
            found = {call.facts.fingerprint: call.facts for call in self._calls.values()}
        return tuple(item for item in found.values() if item.identity.kind is kind)

    def on_end(self, context: object, hook: Callable[[], None]) -> None:
        """Have the hook called when the watch ends the call, so that a handler that waits can wake up and end."""
        with self._changed:
            call = self._calls.get(id(context))
            if call is not None:
                call.hooks.append(hook)
                if call.ended is None:
                    return
        hook()  # the call is over already: the handler must not wait for a hook that came too late

    def until(self, context: object, until_s: float) -> None:
        """Have the watch end the call at that time on the monotonic clock, should it still be open then."""
        call = self._calls.get(id(context))
        if call is not None:
            call.until_s = until_s

    def review(self) -> None:
        """Look at every open call once. The watch does this; a test may do it itself."""
        now_s = self._clock.monotonic_s()
        with self._changed:
            calls = list(self._calls.values())
        verdicts: dict[str, Caller | TidegateError] = {}
        for call in calls:
            if call.ended is not None:
                if now_s >= call.cancel_at_s:
                    call.context.cancel()
                continue
            if call.until_s is not None and now_s >= call.until_s:
                self._end(call, error_for(Code.QUERY_DEADLINE), now_s)
                continue
            if call.facts.fingerprint not in verdicts:
                verdicts[call.facts.fingerprint] = self._verdict(call.facts)
            error = _lost(call.caller, verdicts[call.facts.fingerprint])
            if error is not None:
                self._end(call, error, now_s)

    def close(self) -> None:
        """Stop the watch; open calls are the server's to stop."""
        self._unsubscribe()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _verdict(self, facts: CertificateFacts) -> Caller | TidegateError:
        try:
            return self._identify.examine(facts)
        except TidegateError as error:
            return error
        except Exception as error:  # noqa: BLE001 - whatever keeps us from knowing ends the call: fail closed
            return error_for(Code.INTERNAL, detail=type(error).__name__)

    def _end(self, call: OpenCall, error: TidegateError, now_s: float) -> None:
        with self._changed:
            if call.ended is not None:
                return  # another review was faster: a call ends once, for one reason
            call.ended, call.cancel_at_s = error, now_s + GRACE_S
            hooks = list(call.hooks)
        for hook in hooks:
            with suppress(Exception):  # a hook's failure leaves the cancel, which needs nobody's help
                hook()

    def _wake(self) -> None:
        with self._changed:
            self._news = True
            self._changed.notify_all()

    def _watch(self) -> None:
        while True:
            with self._changed:
                if not self._news and not self._closed:
                    self._changed.wait(TICK_S if self._calls else None)
                if self._closed:
                    return
                self._news = False
            self.review()


def _lost(before: Caller, now: Caller | TidegateError) -> TidegateError | None:
    """Say what a caller lost since its call began, or None: a role, some clearance, or everything."""
    if isinstance(now, TidegateError):
        return error_for(now.code, now.message, detail=now.detail)
    if not set(before.roles) <= set(now.roles):
        return error_for(Code.ID_ROLE_MISSING, "a role that the call began with was taken away")
    if SENSITIVITIES.index(now.clearance) < SENSITIVITIES.index(before.clearance):
        return error_for(Code.ID_ROLE_MISSING, "the clearance that the call began with was lowered")
    if now.tier != before.tier:
        return error_for(Code.ID_ROLE_MISSING, "the tier of the caller's member was changed")
    return None

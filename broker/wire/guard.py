"""The guard of a listener: no handler runs before its caller is known, and nothing but clean errors leaves.

One interceptor in front of every service of a listener. For each call it names the caller, holds the call to the
listener's limits, reads the request (garbage is a clean refusal), keeps the call under the watch of
``broker.open_calls``, and turns whatever goes wrong into one of our errors: ours as they are, everything else into an
internal error with an id that the structured log can find. Handlers raise; they need not know gRPC's statuses.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import structlog

from broker.identify import Credentials, Identify
from broker.open_calls import OpenCall, OpenCalls
from broker.telemetry import SeenCall, Telemetry
from broker.wire.doorstep import SILENT_MAX, Doorstep, Handler, guarded
from tidegate.core.caller import Caller
from tidegate.core.clock import Clock, Ids
from tidegate.core.errors import CODES, Code, Family, TidegateError, error_for
from tidegate.core.names import IdentityKind
from tidegate.identity import keys
from tidegate.identity.certificates import CertificateFacts
from tidegate.telemetry import NO_TRACE, Trace, read_traceparent, spanning
from tidegate.wire import abort

REFUSAL_RECORD_S = 60.0  # one entry per certificate and code in this time: a refused caller must not fill the log
REFUSALS_KNOWN_MAX = 10_000
BUSY_RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class CallLimits:
    """How much of a listener the long calls may take, so that short ones always find a thread.

    Args:
        long_methods: full names of the methods that may run for long.
        long_max: of them at once, over all callers.
        per_caller_max: calls at once of one identity.
    """

    long_methods: frozenset[str] = frozenset()
    long_max: int = 1_000_000
    per_caller_max: int = 1_000_000


@dataclass(frozen=True, slots=True)
class RefusedIdentity:
    """Somebody whose certificate is the exchange's, and who was refused all the same. For the log.

    Args:
        caller: as far as the directory knows it, without any right.
    """

    caller: Caller
    serial_hex: str
    error: TidegateError
    method: str
    request_id: str


@dataclass(slots=True)
class _Load:
    """Calls that are open. Owned by the guard's lock."""

    long: int = 0
    per_caller: Counter[str] = field(default_factory=Counter)


class Guard(grpc.ServerInterceptor):  # type: ignore[type-arg]
    """See the module. Every listener with client certificates has one; they share the ``OpenCalls``.

    Args:
        kinds: of identities that may call here.
        kinds_for: the same for methods whose full name begins with a prefix, in place of ``kinds``.
        refused: told of refusals where there is an identity; it must not block for long.
        silent_max: calls whose request has not come; fewer than the listener has threads.
    """

    def __init__(
        self,
        *,
        identify: Identify,
        open_calls: OpenCalls,
        clock: Clock,
        ids: Ids,
        kinds: frozenset[IdentityKind],
        kinds_for: Mapping[str, frozenset[IdentityKind]] | None = None,
        limits: CallLimits | None = None,
        refused: Callable[[RefusedIdentity], None] | None = None,
        log: structlog.stdlib.BoundLogger | None = None,
        silent_max: int = SILENT_MAX,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._identify = identify
        self._telemetry = telemetry or Telemetry(clock=clock)
        self._open_calls = open_calls
        self._clock = clock
        self._ids = ids
        self._kinds = kinds
        self._kinds_for = dict(kinds_for or {})
        self._limits = limits or CallLimits()
        self._refused = refused
        self._log = log or structlog.get_logger(__name__)
        self._lock = threading.Lock()
        self._load = _Load()
        self._recorded: dict[tuple[str, Code], float] = {}
        self._doorstep = Doorstep(silent_max)
        self.refusals: Counter[Code] = Counter()

    # --- for servicers ------------------------------------------------------------------------------------------------

    def caller(self, context: grpc.ServicerContext) -> Caller:
        """Say who is calling, held to time, deny-list and directory now, not as they were when the call began."""
        call = self._open_calls.find(context)
        if call is None:
            shown = self.read(context)
            caller = self._identify.examine(shown)
            self._check_kind(shown, "")
            return caller
        call.check()
        return self._identify.examine(call.facts)

    def read(self, context: grpc.ServicerContext) -> CertificateFacts:
        """Read what the call shows of its caller: here the connection's certificate (``broker.wire.bearer``: a token)."""
        return self._identify.read(credentials(context))

    def request_id(self, context: grpc.ServicerContext) -> str:
        """Give the id of the call, which its errors carry; a fresh one for a call that no guard admitted."""
        call = self._open_calls.find(context)
        return call.request_id if call is not None else self._ids.request_id()

    def certificate(self, context: grpc.ServicerContext) -> CertificateFacts:
        """Give what the certificate on the link says."""
        call = self._open_calls.find(context)
        return call.facts if call is not None else self.read(context)

    def trace(self, context: grpc.ServicerContext) -> Trace:
        """Give the span of a call, for the request that it brings."""
        call = self._open_calls.find(context)
        return call.trace if call is not None else NO_TRACE

    @contextmanager
    def call(self, context: grpc.ServicerContext) -> Iterator[Caller]:
        """Run a handler's body as its caller. Behind the interceptor this is ``caller``; alone it guards by itself."""
        if self._open_calls.find(context) is not None:
            yield self.caller(context)
            return
        with self._admitted(context, "") as call:
            yield call.caller

    stream = call

    def on_end(self, context: grpc.ServicerContext, hook: Callable[[], None]) -> None:
        """Have the hook called when the call's right ends: a handler that waits returns, and the caller hears why."""
        self._open_calls.on_end(context, hook)

    def until(self, context: grpc.ServicerContext, until_s: float) -> None:
        """Have the call ended at that time on the monotonic clock, even when its peer reads nothing."""
        self._open_calls.until(context, until_s)

    def verifier(self, caller: Caller) -> Callable[[bytes, bytes], bool]:
        """Give a check of (data, signature) by the key of the caller's certificate.

        A node that renewed its certificate has two for a while; the other one counts while it has a call open here.
        """
        own = tuple(
            item for item in self._open_calls.certificates(caller.identity) if item.fingerprint == caller.fingerprint
        )

        def check(data: bytes, signature: bytes) -> bool:
            return any(_signed(item, data, signature) for item in own) or any(
                _signed(item, data, signature) for item in self._open_calls.certificates(caller.identity)
            )

        return check

    # --- the interceptor ----------------------------------------------------------------------------------------------

    def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Handler | None], handler_call_details: Any
    ) -> Handler | None:
        """Put the guard before the handler of a call."""
        handler = continuation(handler_call_details)
        if handler is None:
            return None  # gRPC says UNIMPLEMENTED
        method = handler_call_details.method
        return guarded(handler, lambda context: self._admitted(context, method), self._doorstep)

    @contextmanager
    def _admitted(self, context: grpc.ServicerContext, method: str) -> Iterator[OpenCall]:
        request_id = self._ids.request_id()
        with (
            self._telemetry.call(method, lambda: read_traceparent(context.invocation_metadata())) as seen,
            clean_errors(context, request_id, self._log, self._ids, seen),
        ):
            shown, caller = self._identified(context, method, request_id, seen.trace)
            with (
                self._counted(shown, method),
                self._open_calls.enter(OpenCall(context, shown, caller, method, request_id, seen.trace)) as call,
            ):
                try:
                    yield call
                except Exception as error:
                    if call.ended is not None and error is not call.ended:
                        raise call.ended from error  # why it ended says more than how the handler noticed
                    raise
                call.check()

    def _identified(
        self, context: grpc.ServicerContext, method: str, request_id: str, trace: Trace
    ) -> tuple[CertificateFacts, Caller]:
        """Room 1: say who calls, and time it."""
        if not self._telemetry.is_on:
            return self._let_in(context, method, request_id)
        begun_s = self._clock.monotonic_s()
        try:
            with spanning(trace, "identify"):
                return self._let_in(context, method, request_id)
        finally:
            self._telemetry.left("identify", self._clock.monotonic_s() - begun_s)

    def _let_in(self, context: grpc.ServicerContext, method: str, request_id: str) -> tuple[CertificateFacts, Caller]:
        shown: CertificateFacts | None = None
        try:
            shown = self.read(context)
            caller = self._identify.examine(shown)
            self._check_kind(shown, method)
        except TidegateError as error:
            with self._lock:
                self.refusals[error.code] += 1
            if shown is not None:
                self._tell(shown, error, method, request_id)
            raise
        return shown, caller

    def _check_kind(self, shown: CertificateFacts, method: str) -> None:
        allowed = next((kinds for prefix, kinds in self._kinds_for.items() if method.startswith(prefix)), self._kinds)
        if shown.identity.kind not in allowed:
            raise error_for(Code.ID_WRONG_KIND, f"a certificate of kind {shown.identity.kind.value} may not call this")

    @contextmanager
    def _counted(self, shown: CertificateFacts, method: str) -> Iterator[None]:
        limits, identity, long = self._limits, str(shown.identity), method in self._limits.long_methods
        with self._lock:
            if self._load.per_caller[identity] >= limits.per_caller_max:
                raise error_for(Code.BUSY, "too many calls of this caller at once", retry_after_s=BUSY_RETRY_S)
            if long and self._load.long >= limits.long_max:
                raise error_for(Code.BUSY, retry_after_s=BUSY_RETRY_S)
            self._load.per_caller[identity] += 1
            self._load.long += long
        try:
            yield
        finally:
            with self._lock:
                self._load.long -= long
                self._load.per_caller[identity] -= 1
                if not self._load.per_caller[identity]:
                    del self._load.per_caller[identity]

    def _tell(self, shown: CertificateFacts, error: TidegateError, method: str, request_id: str) -> None:
        now_s, key = self._clock.monotonic_s(), (shown.fingerprint, error.code)
        with self._lock:
            last = self._recorded.get(key)
            if last is not None and now_s - last < REFUSAL_RECORD_S:
                return
            if len(self._recorded) >= REFUSALS_KNOWN_MAX:
                self._recorded.clear()
            self._recorded[key] = now_s
        caller = self._identify.stranger(shown)
        self._log.warning("identity refused", member=caller.member, code=error.code.value, method=method)
        if self._refused is None:
            return
        try:
            self._refused(RefusedIdentity(caller, shown.serial_hex, error, method, request_id))
        except Exception as failure:  # noqa: BLE001 - the refusal stands, recorded or not; nothing is given away by it
            self._log.error("a refused identity could not be recorded", member=caller.member, error=_kind(failure))


@dataclass(frozen=True, slots=True)
class _Anybody:
    """A call that nobody's certificate opened; there is nothing that could end it."""

    def check(self) -> None:
        """Nothing to check."""


class Porch(grpc.ServerInterceptor):  # type: ignore[type-arg]
    """What stands before the enrolment listener, where nobody has a certificate: clean requests, clean errors."""

    def __init__(self, *, ids: Ids, log: structlog.stdlib.BoundLogger | None = None) -> None:
        self._ids = ids
        self._log = log or structlog.get_logger(__name__)
        self._doorstep = Doorstep()

    def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Handler | None], handler_call_details: Any
    ) -> Handler | None:
        """Put the porch before the handler of a call."""
        handler = continuation(handler_call_details)
        return None if handler is None else guarded(handler, self._admitted, self._doorstep)

    @contextmanager
    def _admitted(self, context: grpc.ServicerContext) -> Iterator[_Anybody]:
        with clean_errors(context, self._ids.request_id(), self._log, self._ids):
            yield _Anybody()


def credentials(context: grpc.ServicerContext) -> Credentials:
    """Read what the transport knows of the peer."""
    known: Mapping[str, Any] = context.auth_context()
    certificates, versions = known.get("x509_pem_cert", ()), known.get("ssl_tls_version", ())
    return Credentials(
        certificate_pem=bytes(certificates[0]) if len(certificates) == 1 else b"",
        tls_version=bytes(versions[0]).decode("ascii", "replace") if len(versions) == 1 else "",
    )


@contextmanager
def clean_errors(
    context: grpc.ServicerContext,
    request_id: str,
    log: structlog.stdlib.BoundLogger,
    ids: Ids,
    seen: SeenCall | None = None,
) -> Iterator[None]:
    """Turn whatever the body raises into a clean status; what ``abort`` raises passes. ``seen`` is told the code."""
    seen = seen or SeenCall()
    try:
        yield
    except GeneratorExit:
        seen.code = Code.QUERY_CANCELLED.value  # the caller went away in the middle of a stream
        raise
    except TidegateError as error:
        seen.code = error.code.value
        error.request_id = error.request_id or request_id
        if CODES[error.code].family in (Family.INTERNAL, Family.INTEGRITY) or error.detail:
            log.warning(
                "call failed", request_id=error.request_id, code=seen.code, detail=error.detail, **seen.trace.ids
            )
        abort(context, error)
    except grpc.RpcError:
        seen.code = Code.QUERY_CANCELLED.value
        raise  # gRPC's own: the call is over
    except Exception as error:
        said: Any = getattr(context, "code", lambda: None)()
        if type(error) is Exception and not error.args and said not in (None, grpc.StatusCode.OK):
            raise  # somebody below said `context.abort`, which raises exactly this
        error_id, seen.code = ids.nonce(8).hex(), Code.INTERNAL.value
        log.exception("internal error", error_id=error_id, request_id=request_id, **seen.trace.ids)
        public = error_for(Code.INTERNAL, f"an internal error, id {error_id}", request_id=request_id)
        abort(context, public)


def _kind(failure: Exception) -> str:
    """Name a failure for the log: ours by its code, others by their class; a text might name a person."""
    return failure.code.value if isinstance(failure, TidegateError) else type(failure).__name__


def _signed(shown: CertificateFacts, data: bytes, signature: bytes) -> bool:
    try:
        keys.verify(shown.public_key, data, signature)
    except TidegateError:
        return False
    return True

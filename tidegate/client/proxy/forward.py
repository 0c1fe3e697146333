"""Forwarding one call: bytes straight through both ways, under the proxy's identity.

What the broker offers to a caller's tools is carried, and nothing that makes credentials or changes members or the
catalogue: a tool that knows the proxy's secret may use its holder's certificate for as long as the proxy runs, never take
one away. Of the metadata only what the exchange reads is carried; ``authorization`` ends here.

One message at a time goes either way, so a slow reader slows the broker and a slow broker the writer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import grpc

from tidegate.client.proxy.secret import Secret
from tidegate.client.proxy.upstream import Dialled, Upstream
from tidegate.core.clock import Clock
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.limits import QUERY_DEADLINE_S_MAX
from tidegate.wire import abort

FLIGHT = "/arrow.flight.protocol.FlightService/"
HANDSHAKE = f"{FLIGHT}Handshake"
CARRIED = (
    FLIGHT,
    "/tidegate.v1.QueryService/",
    # Of the catalogue what is read: the holder may be a steward, and a tool must not be able to withdraw a dataset.
    "/tidegate.v1.CatalogueService/Get",
    "/tidegate.v1.CatalogueService/List",
    "/tidegate.v1.CatalogueService/Search",
    "/tidegate.v1.AuditService/",
    "/tidegate.v1.MemberService/WhoAmI",
    "/grpc.health.v1.Health/Check",
    "/grpc.reflection.v1.ServerReflection/",
    "/grpc.reflection.v1alpha.ServerReflection/",
)
# The methods to which a caller sends more than one message; of every other the first is the only one.
STREAMED = frozenset(
    {
        f"{FLIGHT}DoPut",
        f"{FLIGHT}DoExchange",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    }
)
CALL_S_MAX = QUERY_DEADLINE_S_MAX + 60.0  # the broker ends a query before; whoever is silent for longer is ended here
HANDSHAKE_MESSAGES_MAX = 8

PURPOSE = "x-tidegate-purpose"
LEGAL_BASIS = "x-tidegate-legal-basis"
_OURS = "x-tidegate-"
_UP = frozenset({"traceparent", "cookie"})
_DOWN = frozenset({"set-cookie", "grpc-status-details-bin"})

Metadata: TypeAlias = "Sequence[tuple[str, str | bytes]]"


@dataclass(frozen=True, slots=True)
class Defaults:
    """What is sent for a client that names no purpose. A tool that cannot send headers works under one purpose."""

    purpose: str = ""
    legal_basis: str = ""


def upward(metadata: Metadata, defaults: Defaults) -> list[tuple[str, str | bytes]]:
    """Give what the broker is sent: the exchange's own headers, the trace, the session's cookie, a default purpose.

    The default legal basis goes with the default purpose alone: under another purpose it would mean nothing.
    """
    kept = [(key, value) for key, value in metadata if key.startswith(_OURS) or key in _UP]
    named = {value for key, value in kept if key == PURPOSE}
    if not named and defaults.purpose:
        kept.append((PURPOSE, defaults.purpose))
    fits = not named or named == {defaults.purpose}
    if fits and defaults.legal_basis and not any(key == LEGAL_BASIS for key, _ in kept):
        kept.append((LEGAL_BASIS, defaults.legal_basis))
    return kept


def downward(metadata: Metadata | None) -> list[tuple[str, str | bytes]]:
    """Give what the client is sent: the exchange's own headers, the session's cookie, the details of an error."""
    return [(key, value) for key, value in metadata or () if key.startswith(_OURS) or key in _DOWN]


class _Status(NamedTuple):
    """A ``grpc.Status`` as the broker gave it."""

    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, str | bytes], ...]


class Forward(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """The handler of every method."""

    def __init__(self, *, upstream: Upstream, secret: Secret, defaults: Defaults, clock: Clock) -> None:
        self._upstream = upstream
        self._secret = secret
        self._defaults = defaults
        self._clock = clock
        self._lock = threading.Lock()
        self._open: dict[int, tuple[Any, float]] = {}  # contexts, with the end of their time on the monotonic clock
        self.refused = 0

    def service(self, details: Any) -> Any:
        """Give the handler of a call."""
        method = details.method

        def behave(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            return self._call(method, requests, context)

        return grpc.stream_stream_rpc_method_handler(behave, request_deserializer=None, response_serializer=None)

    def end_overdue(self) -> None:
        """End the calls that are open for longer than any may be."""
        now_s = self._clock.monotonic_s()
        with self._lock:
            late = [context for context, until_s in self._open.values() if now_s >= until_s]
        for context in late:
            context.cancel()

    def _call(self, method: str, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        try:
            self._secret.check(context.invocation_metadata())
            if method != HANDSHAKE and not method.startswith(CARRIED):
                raise error_for(Code.WIRE_UNSUPPORTED, "the proxy does not carry this call")
        except TidegateError as error:
            with self._lock:
                self.refused += error.code is Code.CLIENT_PROXY_SECRET
            abort(context, error)
        with self._lock:
            self._open[id(context)] = (context, self._clock.monotonic_s() + CALL_S_MAX)
        try:
            if method == HANDSHAKE:
                yield from self._handshake(requests, context)
            else:
                yield from self._forward(method, requests, context)
        except TidegateError as error:
            abort(context, error)
        finally:
            with self._lock:
                self._open.pop(id(context), None)

    def _handshake(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        """Answer a user and a password with the token to send from now on. The headers go first: clients wait for them."""
        context.send_initial_metadata((("authorization", self._secret.bearer),))
        for count, _ in enumerate(requests, start=1):
            if count >= HANDSHAKE_MESSAGES_MAX:
                raise error_for(Code.WIRE_INVALID, "handshake: too many messages")
        yield from ()

    def _forward(self, method: str, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        request = None if method in STREAMED else next(requests, None)
        if request is None and method not in STREAMED:
            raise error_for(Code.WIRE_INVALID, "the call ended without a request")
        with self._upstream.call() as dialled:
            call = self._dial(dialled, method, requests if request is None else request, context)
            try:
                if not context.add_callback(call.cancel):
                    call.cancel()  # the client has gone already, and nobody will call back
                context.send_initial_metadata(tuple(downward(call.initial_metadata())))
                yield from call
            except grpc.RpcError:
                pass  # the status below says it
            finally:
                call.cancel()  # of a call that has ended this does nothing
            self._end(call, dialled, context)

    def _dial(self, dialled: Dialled, method: str, requests: bytes | Iterator[bytes], context: Any) -> Any:
        timeout = min(context.time_remaining(), CALL_S_MAX)
        metadata = tuple(upward(context.invocation_metadata(), self._defaults))
        if isinstance(requests, bytes):
            one = dialled.channel.unary_stream(method, request_serializer=None, response_deserializer=None)
            return one(requests, metadata=metadata, timeout=timeout)
        many: Callable[..., Any] = dialled.channel.stream_stream(
            method, request_serializer=None, response_deserializer=None
        )
        return many(_quiet(requests), metadata=metadata, timeout=timeout)

    def _end(self, call: Any, dialled: Dialled, context: Any) -> None:
        """Hand the broker's status on, as it is."""
        code, trailing = call.code(), tuple(downward(call.trailing_metadata()))
        if code is grpc.StatusCode.OK:
            context.set_trailing_metadata(trailing)
            return
        if code is grpc.StatusCode.UNAVAILABLE and not trailing:
            self._upstream.unreachable(dialled)
            raise error_for(
                Code.CLIENT_UNREACHABLE, "proxy: the exchange cannot be reached", detail=call.details() or ""
            )
        context.abort_with_status(_Status(code, call.details() or "", trailing))


def _quiet(requests: Iterator[bytes]) -> Iterator[bytes]:
    """Give the client's messages; that it went away is said by the cancelled call, not by a traceback of gRPC's thread."""
    try:
        yield from requests
    except Exception:  # noqa: BLE001 - gRPC raises a bare one of its own
        return

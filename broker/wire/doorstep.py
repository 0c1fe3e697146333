"""Where a call waits until its request has come: read inside the guard, bounded, and the oldest silent one makes room.

gRPC gives a call a thread of the listener's pool when its headers arrive; a peer who then says nothing would keep it. So no
handler is given to gRPC as one that takes a single message: on the wire that is the same as a stream of one, and so the guard
counts and names the caller before the first message is waited for. When too many wait, the one that has waited longest is
ended: whoever means to ask sends the request with the headers.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import grpc

from tidegate.core.errors import Code, error_for

SILENT_MAX = 24  # calls of one listener whose request has not come; three quarters of the smallest pool, enrolment's

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Decode: TypeAlias = Callable[[bytes], Any]


class Doorstep:
    """The calls of one listener whose first message has not come. Thread-safe."""

    def __init__(self, silent_max: int = SILENT_MAX) -> None:
        self._silent_max = silent_max
        self._lock = threading.Lock()
        self._silent: OrderedDict[int, Any] = OrderedDict()  # contexts, oldest first

    def first(self, raw: Iterator[bytes], context: grpc.ServicerContext) -> bytes | None:
        """Wait for the first message; None when the peer ended its side without one."""
        with self._lock:
            evicted = self._silent.popitem(last=False)[1] if len(self._silent) >= self._silent_max else None
            self._silent[id(context)] = context
        try:
            if evicted is not None:
                evicted.cancel()
            return next(raw, None)
        finally:
            with self._lock:
                self._silent.pop(id(context), None)


Admit: TypeAlias = "Callable[[grpc.ServicerContext], Any]"


def guarded(handler: Handler, admit: Admit, doorstep: Doorstep) -> Handler:
    """Wrap a handler of any arity: ``admit(context)`` is a context manager that gives something with ``check()``.

    The request is read inside, from raw bytes, so that garbage becomes a clean refusal by the same way.
    """
    decode, encode = handler.request_deserializer or bytes, handler.response_serializer
    behave: Any = next(
        function
        for function in (handler.unary_unary, handler.unary_stream, handler.stream_unary, handler.stream_stream)
        if function is not None
    )

    def read(raw: Iterator[bytes], call: Any, context: grpc.ServicerContext) -> Any:
        if handler.request_streaming:
            return _requests(raw, decode, call, lambda: doorstep.first(raw, context))
        first = doorstep.first(raw, context)
        if first is None:
            raise error_for(Code.WIRE_INVALID, "the call ended without a request")
        return _decoded(first, decode)

    def one(raw: Iterator[bytes], context: grpc.ServicerContext) -> Any:
        with admit(context) as call:
            return behave(read(raw, call, context), context)

    def many(raw: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Any]:
        with admit(context) as call:
            answers = behave(read(raw, call, context), context)
            try:
                for answer in answers:
                    call.check()
                    yield answer
            finally:
                if hasattr(answers, "close"):
                    answers.close()  # now, not when the collector comes: its `finally` frees what the stream holds

    wrapped: Handler
    if handler.response_streaming:
        wrapped = grpc.stream_stream_rpc_method_handler(many, request_deserializer=None, response_serializer=encode)
    else:
        wrapped = grpc.stream_unary_rpc_method_handler(one, request_deserializer=None, response_serializer=encode)
    return wrapped


def _decoded(raw: bytes, decode: Decode) -> Any:
    try:
        return decode(raw)
    except Exception as error:
        raise error_for(Code.WIRE_INVALID, "the request is not a message of this service") from error


def _requests(raw: Iterator[bytes], decode: Decode, call: Any, first: Callable[[], bytes | None]) -> Iterator[Any]:
    item = first()
    while item is not None:
        call.check()
        yield _decoded(item, decode)
        item = next(raw, None)

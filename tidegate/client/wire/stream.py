"""One answer as it comes over the wire: its first word, its chunks, its last word."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc

from tidegate import chunk_wire
from tidegate.client.facts import FinishedFacts, RawReceipt, StartedFacts
from tidegate.client.wire.reading import json_list, json_object
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.telemetry import NO_TRACE, Trace
from tidegate.v1 import common_pb2, query_service_pb2
from tidegate.wire import from_rpc_error


def receipt_facts(message: common_pb2.Receipt) -> RawReceipt:
    """Read a receipt as it came; nothing is verified yet."""
    return RawReceipt(message.note, message.entry, message.index)


def item(raw: bytes) -> query_service_pb2.ExecuteResponse | bytes:
    """Read one message of an answer: a chunk as its bytes, anything else as the message that it is."""
    chunk = chunk_wire.answered(raw)
    return query_service_pb2.ExecuteResponse.FromString(raw) if chunk is None else chunk


class Stream:
    """An answer under way: started, then chunks, then finished. Its span ends with it."""

    def __init__(self, call: Any, trace: Trace = NO_TRACE) -> None:
        self._call = call
        self._trace = trace
        self.finished: FinishedFacts | None = None
        self._whole: query_service_pb2.Whole | None = None  # a small answer, which comes as one message
        self.started: StartedFacts = self._start()

    def _next(self) -> query_service_pb2.ExecuteResponse | bytes | None:
        try:
            found: query_service_pb2.ExecuteResponse | bytes | None = next(self._call, None)
        except grpc.RpcError as error:
            failure = from_rpc_error(error)
            self._trace.end(failure.code.value)
            raise failure from error
        if found is None:
            self._trace.end("" if self.finished is not None else Code.CLIENT_UNREACHABLE.value)
        return found

    def _start(self) -> StartedFacts:
        message = self._next()
        kind = message.WhichOneof("kind") if isinstance(message, query_service_pb2.ExecuteResponse) else None
        if not isinstance(message, query_service_pb2.ExecuteResponse) or kind not in ("started", "whole"):
            raise _cut_short()
        started = message.started
        if kind == "whole":
            started, self._whole = message.whole.started, message.whole
        return StartedFacts(
            request_id=started.request_id,
            receipt=receipt_facts(started.receipt),
            schema=started.schema,
            disclosure=json_object(started.disclosure_json, "disclosure"),
        )

    def chunks(self) -> Iterator[bytes]:
        """Give the Arrow chunks, schema first.

        Raises:
            PeerError: the answer ended without its last word: it is no answer.
        """
        yield self.started.schema
        if self._whole is not None:
            yield from self._whole.batches
            self.finished = _finished(self._whole.finished)
        while (message := self._next()) is not None:
            if isinstance(message, bytes):
                yield message
                continue
            kind = message.WhichOneof("kind")
            if kind == "batch":
                yield message.batch.ipc
            elif kind == "finished":
                self.finished = _finished(message.finished)
        if self.finished is None:
            raise _cut_short()

    def cancel(self) -> None:
        """Tell the broker that nobody reads any more; it stops the departments."""
        self._call.cancel()
        self._trace.end(Code.QUERY_CANCELLED.value)


def _finished(done: query_service_pb2.Finished) -> FinishedFacts:
    return FinishedFacts(
        rows=done.rows,
        bytes=done.bytes,
        result_digest=done.result_digest,
        digest_nonce=done.digest_nonce,
        receipt=receipt_facts(done.receipt),
        report=json_list(done.report_json, "report"),
    )


def _cut_short() -> TidegateError:
    return error_for(Code.CLIENT_UNREACHABLE, "the answer ended before its last word, so it is not an answer")

"""QueryService: our own door. Started, batches, Finished; without Finished there was no answer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import grpc

from broker.admission import Admission
from broker.analysis import Analysis, cost
from broker.deliver import Answer, report_json
from broker.disclosure import disclosure
from broker.pipeline import Pipeline
from broker.values import ClosedRecord, RecordedPlan, Request
from broker.wire.asking import PARAMETERS_BYTES_MAX, Asked, Asking
from tidegate import chunk_wire
from tidegate.core.caller import Caller
from tidegate.core.canonical import parse_json
from tidegate.core.errors import Code, error_for
from tidegate.core.limits import FEATURE_WHOLE, PROTOCOL_VERSION, SMALL_ANSWER_BYTES_MAX, SQL_PARAMETERS_MAX
from tidegate.core.values import Value, decode
from tidegate.sql.barriers import Barrier
from tidegate.sql.explain import explain as explain_plan
from tidegate.sql.explain import picture
from tidegate.v1 import common_pb2, query_service_pb2, query_service_pb2_grpc

if TYPE_CHECKING:
    from broker.wire.guard import Guard


class QueryServicer(query_service_pb2_grpc.QueryServiceServicer):
    """The service. Trust: every field is the caller's."""

    def __init__(self, *, guard: Guard, pipeline: Pipeline, admission: Admission, asking: Asking) -> None:
        self._guard = guard
        self._pipeline = pipeline
        self._admission = admission
        self._asking = asking

    def Execute(  # type: ignore[override]  # chunks leave as bytes, see add_query_service
        self, request: query_service_pb2.ExecuteRequest, context: grpc.ServicerContext
    ) -> Iterator[query_service_pb2.ExecuteResponse | bytes]:
        """Answer one query."""
        with self._guard.stream(context) as caller, self._admission.admitted(caller.member):
            if request.version.protocol not in (0, PROTOCOL_VERSION):
                raise error_for(Code.WIRE_VERSION, f"query: this broker speaks protocol {PROTOCOL_VERSION}")
            asked = self._request(caller, request, context, deadline_s=request.deadline_s, key=request.request_id)
            recorded = self._pipeline.prepare(asked)
            answer = self._pipeline.run(recorded)
            yield from _responses(recorded, answer, whole=FEATURE_WHOLE in request.version.features)

    def Explain(
        self, request: query_service_pb2.ExplainRequest, context: grpc.ServicerContext
    ) -> query_service_pb2.ExplainResponse:
        """Plan, decide and record; run nothing. With ``analyze``, run it as any query; its cost is told, not its rows."""
        with self._guard.call(context) as caller, self._admission.admitted(caller.member):
            asked = self._request(caller, request, context, deadline_s=request.deadline_s, key="")
            if not request.analyze:
                recorded, barriers = self._pipeline.explain(asked)
                return _explained(recorded, barriers, None)
            recorded, barriers, analysis = self._pipeline.analyze(asked, self._pipeline.watch(asked))
            return _explained(recorded, barriers, analysis)

    def _request(
        self,
        caller: Caller,
        message: query_service_pb2.ExecuteRequest | query_service_pb2.ExplainRequest,
        context: grpc.ServicerContext,
        *,
        deadline_s: float,
        key: str,
    ) -> Request:
        asked = Asked(
            sql=message.sql,
            purpose=message.purpose,
            legal_basis=message.legal_basis,
            parameters=_parameters(message.parameters_json),
            deadline_s=deadline_s,
            key=key,
            explain=isinstance(message, query_service_pb2.ExplainRequest),
        )
        return self._asking.request(caller, asked, context, door="grpc")


def _serialized(item: query_service_pb2.ExecuteResponse | bytes) -> bytes:
    return item if isinstance(item, bytes) else item.SerializeToString()


def add_query_service(servicer: QueryServicer, server: grpc.Server) -> None:
    """Serve the methods of query_service.proto; as the generated function does, but chunks leave as bytes."""
    handlers = {
        "Execute": grpc.unary_stream_rpc_method_handler(
            servicer.Execute,
            request_deserializer=query_service_pb2.ExecuteRequest.FromString,
            response_serializer=_serialized,
        ),
        "Explain": grpc.unary_unary_rpc_method_handler(
            servicer.Explain,
            request_deserializer=query_service_pb2.ExplainRequest.FromString,
            response_serializer=query_service_pb2.ExplainResponse.SerializeToString,
        ),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("tidegate.v1.QueryService", handlers),))


def _parameters(text: str) -> Sequence[Value] | Mapping[str, Value]:
    if not text:
        return ()
    data: Any = parse_json(text, size_bytes_max=PARAMETERS_BYTES_MAX)
    if isinstance(data, list) and len(data) <= SQL_PARAMETERS_MAX:
        return [decode(item) for item in data]
    if isinstance(data, dict) and len(data) <= SQL_PARAMETERS_MAX:
        return {name: decode(item) for name, item in data.items()}
    raise error_for(Code.PLAN_PARAMETERS, f"parameters: expected a list or an object of at most {SQL_PARAMETERS_MAX}")


def _receipt(record: ClosedRecord) -> common_pb2.Receipt:
    return common_pb2.Receipt(note=record.receipt, entry=record.entry, index=record.index)


def _explained(
    recorded: RecordedPlan, barriers: Mapping[str, Barrier], analysis: Analysis | None
) -> query_service_pb2.ExplainResponse:
    restricted = recorded.restricted
    shown = (restricted.federated, restricted.decided.decision, restricted.decided.plan.bound)
    spent = cost(recorded, analysis) if analysis is not None else None
    return query_service_pb2.ExplainResponse(
        plan_json=json.dumps(explain_plan(*shown, barriers=barriers, cost=spent)),
        picture=picture(*shown, barriers=barriers, cost=spent),
        request_id=recorded.request.id,
        receipt=_receipt(recorded.decision),
        outcome=_receipt(analysis.record) if analysis is not None else None,
    )


def _responses(
    recorded: RecordedPlan, answer: Answer, *, whole: bool
) -> Iterator[query_service_pb2.ExecuteResponse | bytes]:
    chunks = answer.chunks()
    schema = next(chunks)
    started = query_service_pb2.Started(
        request_id=recorded.request.id,
        receipt=_receipt(recorded.decision),
        schema=schema,
        disclosure_json=json.dumps(disclosure(recorded)),
    )
    small, is_all = _small(chunks) if whole and answer.is_whole else ([], False)
    if is_all:
        said = query_service_pb2.Whole(started=started, batches=small, finished=_finished(recorded, answer))
        yield query_service_pb2.ExecuteResponse(whole=said)
        return
    yield query_service_pb2.ExecuteResponse(started=started)
    for chunk in chain(small, chunks):
        yield chunk_wire.execute_response(chunk)
    yield query_service_pb2.ExecuteResponse(finished=_finished(recorded, answer))


def _small(chunks: Iterator[bytes]) -> tuple[list[bytes], bool]:
    """Read chunks up to what one message may hold of a small answer; says whether that was all of it."""
    found, size = [], 0
    for chunk in chunks:
        found.append(chunk)
        size += len(chunk)
        if size > SMALL_ANSWER_BYTES_MAX:
            return found, False
    return found, True


def _finished(recorded: RecordedPlan, answer: Answer) -> query_service_pb2.Finished:
    closing, record = answer.closing, answer.record
    if closing is None or record is None:
        raise error_for(Code.INTERNAL, detail="an answer ended without closing its record")
    return query_service_pb2.Finished(
        rows=closing.rows,
        bytes=closing.bytes,
        # Never told: how many small groups there were is an answer about the persons in them (engine.floors).
        result_digest=closing.result_digest,
        receipt=_receipt(record),
        report_json=json.dumps(report_json(closing, recorded.counted)),
        digest_nonce=record.salt.hex(),
    )

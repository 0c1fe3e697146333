"""A QueryService that answers from a script, over real gRPC, with receipts of a real log: for every way to answer wrongly."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa

from audit.log import AuditLog
from tests.unit.audit.support import decision, outcome
from tidegate import ipc
from tidegate.client.result import Result
from tidegate.client.wire import Transport
from tidegate.core.clock import SystemClock, SystemIds
from tidegate.v1 import common_pb2, query_service_pb2, query_service_pb2_grpc

REQUEST = "ab" * 16
DISCLOSURE: dict[str, Any] = {
    "datasets": [
        {
            "ref": "t0",
            "dataset": "aviation.flights",
            "mode": "aggregate",
            "row_filter": ["origin"],
            "masked": {"tailnum": "pseudonym"},
            "min_group_size": 10,
        }
    ],
    "departments": [],
    "reasons": [],
}
REPORT = [{"member": "aviation", "rows": 3, "rules": ["aviation.flights: carrier: masked (hash)"]}]
Messages = list[query_service_pb2.ExecuteResponse]


class _Servicer(query_service_pb2_grpc.QueryServiceServicer):
    def __init__(self) -> None:
        self.messages: Messages = []
        self.asked: list[Any] = []

    def Execute(self, request: Any, context: grpc.ServicerContext) -> Iterator[query_service_pb2.ExecuteResponse]:
        self.asked.append(request)
        yield from self.messages

    def Explain(self, request: Any, context: grpc.ServicerContext) -> query_service_pb2.ExplainResponse:
        self.asked.append(request)
        return query_service_pb2.ExplainResponse(plan_json='{"a": 1}', picture="picture", request_id=REQUEST)


class ScriptedExchange:
    """The server, its log, and a transport to it."""

    def __init__(self, transport: Transport, log: AuditLog, servicer: _Servicer) -> None:
        self.transport = transport
        self.log = log
        self._servicer = servicer

    @property
    def asked(self) -> list[Any]:
        return self._servicer.asked

    def answers(self, messages: Messages) -> None:
        self._servicer.messages = messages

    def honest(self, table: pa.Table, *, request_id: str = REQUEST) -> Messages:
        """Give the messages of a right answer."""
        chunks = list(ipc.cut(table.schema, table.to_batches()))
        digest = ipc.digest(chunks)
        decided = self.log.append(decision(request_id), commit={"query": b"SELECT 1"})
        ended = self.log.append(outcome(request_id, decided.index), commit={"result": digest.encode()})
        started = query_service_pb2.Started(
            request_id=request_id, receipt=_receipt(decided), schema=chunks[0], disclosure_json=json.dumps(DISCLOSURE)
        )
        finished = query_service_pb2.Finished(
            rows=table.num_rows,
            bytes=sum(map(len, chunks)),
            result_digest=digest,
            receipt=_receipt(ended),
            report_json=json.dumps(REPORT),
            digest_nonce=_salt(ended, "result"),
        )
        return [
            query_service_pb2.ExecuteResponse(started=started),
            *(query_service_pb2.ExecuteResponse(batch=query_service_pb2.Batch(ipc=chunk)) for chunk in chunks[1:]),
            query_service_pb2.ExecuteResponse(finished=finished),
        ]

    def ask(self, messages: Messages, *, keep: Path | None = None) -> Result:
        """Send the messages as the answer of a query; give what the client makes of it."""
        self.answers(messages)
        stream = self.transport.execute("SELECT 1", purpose="p", legal_basis="", parameters=None, deadline_s=30)
        return Result(stream, self.log.verifier_key, lambda index: self.log.prove(index, 30), keep=keep)


def _receipt(appended: Any) -> common_pb2.Receipt:
    return common_pb2.Receipt(note=appended.receipt, entry=appended.entry, index=appended.index)


def _salt(appended: Any, name: str) -> str:
    from audit.entries import salt

    return salt(appended.nonce, name).hex()


def tables(rows: int = 3) -> pa.Table:
    schema = pa.schema([("n", pa.int64()), ("t", pa.string())])
    return pa.table({"n": list(range(rows)), "t": [f"row {number}" for number in range(rows)]}, schema=schema)


@contextmanager
def scripted_exchange(folder: Path) -> Iterator[ScriptedExchange]:
    """Run the server for the length of the block."""
    log = AuditLog.create(
        folder / "log", "scripted/audit", SystemClock(), SystemIds(), reserve_bytes=0, checkpoint_period_s=0.02
    )
    servicer = _Servicer()
    server = grpc.server(ThreadPoolExecutor(2))
    query_service_pb2_grpc.add_QueryServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with Transport(grpc.insecure_channel(f"127.0.0.1:{port}")) as transport:
            yield ScriptedExchange(transport, log, servicer)
    finally:
        server.stop(0).wait()
        log.close()


def changed(messages: Messages, position: int, kind: str, **fields: Any) -> Messages:
    """Give the messages with fields of one of them replaced."""
    copies = [query_service_pb2.ExecuteResponse.FromString(message.SerializeToString()) for message in messages]
    part = getattr(copies[position], kind)
    for name, value in fields.items():
        if isinstance(value, common_pb2.Receipt):
            getattr(part, name).CopyFrom(value)
        else:
            setattr(part, name, value)
    return copies


def receipts_of(messages: Sequence[Any]) -> tuple[common_pb2.Receipt, common_pb2.Receipt]:
    return messages[0].started.receipt, messages[-1].finished.receipt

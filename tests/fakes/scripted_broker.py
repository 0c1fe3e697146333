"""A broker that does what a test says: a real gRPC listener over mutual TLS, a real log, grants right or wrong in one field."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa

from audit import entries
from audit.log import AuditLog
from broker.wire.guard import Guard
from node.answer import trailer_bytes
from tests.fakes.exchange import EXCHANGE, RunningExchange, running_exchange
from tidegate import ipc
from tidegate.core.caller import Caller
from tidegate.core.canonical import sha256_hex
from tidegate.core.clock import SystemClock, SystemIds, timestamp
from tidegate.core.grant import Grant, GrantedKeys, KeyTerms, fragment_bytes
from tidegate.core.names import IdentityKind, SpiffeId
from tidegate.core.values import Value, encode
from tidegate.identity import keys as signing
from tidegate.identity.certificates import facts
from tidegate.identity.folder import ExchangeInfo, IdentityFolder, LocalIdentity
from tidegate.v1 import common_pb2, node_service_pb2, node_service_pb2_grpc

WAIT_S = 20.0
PURPOSE = "operations.planning"
Up = node_service_pb2.AttachUp
Down = node_service_pb2.AttachDown


@dataclass
class Received:
    """One answer, as the broker saw it."""

    schema: bytes
    messages: list[bytes]
    trailer: node_service_pb2.Trailer
    delivered: bool
    fragment_id: str
    grant_id: str = ""

    @property
    def rows(self) -> list[dict[str, Any]]:
        schema, batches = ipc.read(iter([self.schema, *self.messages]))
        return list(pa.Table.from_batches(list(batches), schema).to_pylist())


@dataclass
class Attached:
    """One session of a node."""

    hello: node_service_pb2.Hello
    down: queue.SimpleQueue[Down | None] = field(default_factory=queue.SimpleQueue)
    heard: queue.SimpleQueue[Up | None] = field(default_factory=queue.SimpleQueue)
    beats: int = 0
    caller: Caller | None = None

    def hear(self, kind: str) -> Any:
        """Wait for the next message of a kind."""
        while True:
            message = self.heard.get(timeout=WAIT_S)
            assert message is not None, f"the node left before it said {kind}"
            if message.WhichOneof("kind") == kind:
                return getattr(message, kind)


class ScriptedBroker(node_service_pb2_grpc.NodeServiceServicer):
    """The service; ``sessions`` gives each attachment as it comes."""

    def __init__(self, log: AuditLog, *, heartbeat_s: float = 10.0) -> None:
        self.log = log
        self.heartbeat_s = heartbeat_s
        self.sessions: queue.SimpleQueue[Attached] = queue.SimpleQueue()
        self.deliveries: queue.SimpleQueue[Received | common_pb2.ErrorDetail] = queue.SimpleQueue()
        self.silent = False
        self.running: RunningExchange
        self.guard: Guard
        self.ids = SystemIds()
        self.clock = SystemClock()

    # --- the service

    def Attach(self, request_iterator: Iterator[Up], context: grpc.ServicerContext) -> Iterator[Down]:
        hello = next(request_iterator).hello
        session = Attached(hello, caller=self.guard.caller(context))
        listener = threading.Thread(target=self._listen, args=(request_iterator, session), daemon=True)
        listener.start()
        version = common_pb2.Version(protocol=1)
        yield Down(welcome=node_service_pb2.Welcome(version=version, broker=self.spiffe, heartbeat_s=self.heartbeat_s))
        self.sessions.put(session)
        while True:
            try:
                message = session.down.get(timeout=self.heartbeat_s)
            except queue.Empty:
                if not self.silent:
                    yield Down(heartbeat=node_service_pb2.Heartbeat(count=1))
                continue
            if message is None:
                return
            yield message

    def _listen(self, messages: Iterator[Up], session: Attached) -> None:
        try:
            for message in messages:
                session.beats += message.WhichOneof("kind") == "heartbeat"
                session.heard.put(message)
        except grpc.RpcError:
            pass
        session.heard.put(None)
        session.down.put(None)

    def Deliver(
        self, request_iterator: Iterator[node_service_pb2.DeliverRequest], context: grpc.ServicerContext
    ) -> node_service_pb2.DeliverResponse:
        start = next(request_iterator).start
        messages: list[bytes] = []
        for message in request_iterator:
            match message.WhichOneof("kind"):
                case "message":
                    messages.append(message.message)
                case "trailer":
                    received = Received(
                        start.schema, messages, message.trailer, True, start.fragment_id, start.grant_id
                    )
                    self.deliveries.put(received)
                    return node_service_pb2.DeliverResponse(accepted=True)
                case "failure":
                    self.deliveries.put(message.failure)
        return node_service_pb2.DeliverResponse(accepted=False)

    def RenewLink(
        self, request: node_service_pb2.RenewLinkRequest, context: grpc.ServicerContext
    ) -> node_service_pb2.RenewLinkResponse:
        issued = self.running.exchange.enrolment.renew_over_link(self.guard.caller(context), request.csr_pem)
        return node_service_pb2.RenewLinkResponse(certificate_pem=issued.pem, chain_pem=issued.chain_pem)

    # --- what a test says

    @property
    def spiffe(self) -> str:
        return str(self.running.broker.spiffe)

    @property
    def info(self) -> ExchangeInfo:
        return replace(self.running.exchange.info, log_origin=self.log.origin, log_verifier_key=self.log.verifier_key)

    def member(self, kind: IdentityKind, member: str, name: str, **choices: Any) -> LocalIdentity:
        return replace(self.running.exchange.member(kind, member, name, **choices), exchange=self.info)

    def node_folder(self, path: Path, member: str = "aviation", name: str = "gate", **choices: Any) -> IdentityFolder:
        folder = IdentityFolder(path)
        folder.save(self.member(IdentityKind.NODE, member, name, **choices))
        return folder

    def forget_sessions(self) -> None:
        """Forget the attachments of nodes that are gone."""
        while not self.sessions.empty():
            self.sessions.get()

    def attached(self) -> Attached:
        return self.sessions.get(timeout=WAIT_S)

    def offer(self, session: Attached, fragment: node_service_pb2.Fragment) -> None:
        session.down.put(Down(fragment=fragment))

    def ask(self, session: Attached, fragment: node_service_pb2.Fragment) -> Received | common_pb2.ErrorDetail:
        """Send a fragment and wait for its answer, small or delivered, or its failure."""
        self.offer(session, fragment)
        return self.reply(session)

    def reply(self, session: Attached) -> Received | common_pb2.ErrorDetail:
        while True:
            try:
                return self.deliveries.get(timeout=0.02)
            except queue.Empty:
                pass
            try:
                message = session.heard.get(timeout=0.02)
            except queue.Empty:
                continue
            assert message is not None, "the node left"
            if message.WhichOneof("kind") == "answer":
                answer = message.answer
                return Received(answer.schema, list(answer.messages), answer.trailer, False, answer.fragment_id)
            if message.WhichOneof("kind") == "failure":
                return message.failure.error

    def fragment(
        self,
        session: Attached,
        sql: str,
        refs: Mapping[str, str],
        decision: Mapping[str, Any],
        *,
        parameters: Sequence[Value] = (),
        node: str = f"spiffe://{EXCHANGE}/member/aviation/node/gate",
        grant: Mapping[str, Any] | None = None,
        entry: Mapping[str, Any] | None = None,
        message: Mapping[str, Any] | None = None,
        signer: LocalIdentity | None = None,
        commit: bool = True,
        purpose: str = PURPOSE,
        caller: Caller | None = None,
        reductions: Sequence[KeyTerms] = (),
        batches: Sequence[tuple[int, Sequence[bytes], int]] = (),
    ) -> node_service_pb2.Fragment:
        """Make a genuine fragment, changed as the test says: fields of the grant (or functions of them), entry, message."""
        caller = caller or weather_analyst()
        request_id = self.ids.request_id()
        encoded = [encode(value) for value in parameters]
        digest = sha256_hex(fragment_bytes(sql, encoded, reductions))
        recorded = entries.decision(
            request_id=request_id,
            caller=caller,
            purpose=purpose,
            legal_basis="",
            datasets=dict.fromkeys(refs.values(), 1),
            policy_revision="test",
            obligations="",
            agreements=(),
            deadline=timestamp(self.clock.now() + timedelta(seconds=60)),
        )
        appended = self.log.append(
            {**recorded, **(entry or {})}, commit={"plan": [digest.encode()]} if commit else None
        )
        now = self.clock.now()
        made = Grant(
            id=self.ids.request_id(),
            broker=self.spiffe,
            node=node,
            session=session.hello.session_nonce.hex(),
            issued_at=timestamp(now),
            expires_at=timestamp(now + timedelta(seconds=30)),
            request={
                "id": request_id,
                "time": timestamp(now),
                "purpose": purpose,
                "legal_basis": "",
                "door": "query",
                "emergency": None,
            },
            caller=caller.to_question(),
            caller_fingerprint=caller.fingerprint,
            query=dict(QUERY_SHAPE),
            decision=dict(decision),
            refs=dict(refs),
            fragment=digest,
            entry=appended.entry.decode(),
            receipt=appended.receipt.decode(),
            plan_nonce=appended.salt("plan").hex(),
            subject_key="ab" * 32,
            whole=True,
            keys=tuple(granted_keys(reductions[place], chunks, count).to_json() for place, chunks, count in batches),
        )
        changes = {key: value(getattr(made, key)) if callable(value) else value for key, value in (grant or {}).items()}
        data = replace(made, **changes).signed_bytes()
        identity = signer or self.running.broker.current()
        fields: dict[str, Any] = {
            "id": f"{request_id}-f0",
            "grant": data,
            "signature": signing.sign(identity.key, data),
            "chain_pem": identity.presented_pem,
            "sql": sql,
            "parameters_json": json.dumps(encoded),
            "deadline_s": 20.0,
            "rows_max": 1_000_000,
            "bytes_max": 1 << 30,
            "reductions": [reduction_message(terms) for terms in reductions],
            "keys": [key_batch(place, chunks) for place, chunks, _ in batches],
        }
        return node_service_pb2.Fragment(**{**fields, **(message or {})})

    def check_trailer(self, received: Received, fragment: node_service_pb2.Fragment, node: LocalIdentity) -> None:
        """Hold an answer to what its node signed."""
        digest = ipc.digest([received.schema, *received.messages])
        grant_id = str(json.loads(fragment.grant)["id"])
        signed = trailer_bytes(digest, fragment.id, grant_id, received.trailer.rows)
        signing.verify(facts(node.certificate_pem).public_key, signed, received.trailer.signature)
        assert received.trailer.digest == digest
        assert received.trailer.rows == len(received.rows)


QUERY_SHAPE = {
    "aggregated": False,
    "group_by": [],
    "functions": [],
    "joins": [],
    "set_operations": [],
    "limit": None,
}


def granted_keys(terms: KeyTerms, chunks: Sequence[bytes], count: int) -> GrantedKeys:
    """Name a batch as the broker's grant does."""
    return GrantedKeys(terms, (count,) * len(terms.sources), count, ipc.digest(chunks))


def reduction_message(terms: KeyTerms) -> node_service_pb2.Reduction:
    """Give a reduction as it travels."""
    return node_service_pb2.Reduction(
        ref=terms.ref,
        column=terms.column,
        sources=[node_service_pb2.KeySource(**source.to_json()) for source in terms.sources],
    )


def key_batch(place: int, chunks: Sequence[bytes]) -> node_service_pb2.KeyBatch:
    """Give a batch of keys as it travels."""
    return node_service_pb2.KeyBatch(reduction=place, schema=chunks[0], messages=chunks[1:])


def weather_analyst(**changes: Any) -> Caller:
    fields: dict[str, Any] = {
        "roles": ("analyst",),
        "clearance": "internal",
        "tier": "government",
        "fingerprint": "ab" * 32,
    }
    return Caller(identity=SpiffeId(EXCHANGE, IdentityKind.SERVICE, "weather", "desk"), **{**fields, **changes})


def allowing(*columns: str, ref: str = "r0", **changes: Any) -> dict[str, Any]:
    """Give a broker's decision that lets the named columns through; ``changes`` go into the resource's constraints."""
    constraints = {
        "mode": "rows",
        "min_group_size": 1,
        "count_entity": "",
        "allowed_aggregates": [],
        "max_rows": 1_000_000,
        "key_lookup_only": False,
        "keys_max": 100,
        "keys_may_go_to": [],
        **{key: value for key, value in changes.items() if key not in ("row_filter", "columns", "allow")},
    }
    rules = {name: {"access": "plain"} for name in columns} | dict(changes.get("columns", {}))
    return {
        "version": 1,
        "allow": changes.get("allow", True),
        "reasons": [{"code": "test", "text": "a test allows"}],
        "resources": {
            ref: {
                "allow": changes.get("allow", True),
                "row_filter": changes.get("row_filter", {}),
                "columns": rules,
                "constraints": constraints,
            }
        },
        "obligations": {"expires_at": None, "cache_until": None, "watermark": False, "notify_owner": False},
    }


@contextmanager
def scripted_broker(folder: Path, *, heartbeat_s: float = 10.0) -> Iterator[ScriptedBroker]:
    """Run one for the length of the block."""
    log = AuditLog.create(
        folder / "broker-log", f"{EXCHANGE}/main/audit/2026", SystemClock(), SystemIds(), reserve_bytes=4096
    )
    broker = ScriptedBroker(log, heartbeat_s=heartbeat_s)

    def register(server: grpc.Server, guard: Guard) -> None:
        broker.guard = guard
        node_service_pb2_grpc.add_NodeServiceServicer_to_server(broker, server)

    try:
        with running_exchange(folder / "exchange", nodes=[register]) as running:
            broker.running = running
            yield broker
    finally:
        log.close()

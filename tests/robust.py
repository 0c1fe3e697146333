"""What the tests of robustness share: a whole broker in this process, identities made by its authority, light nodes, raw calls.

The broker is the composition root itself, on real listeners with real certificates; only its neighbours are played. Every
status that any of these tests sees passes ``Seen.take``, which refuses texts that no stranger may read.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import queue
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_status import rpc_status

import tidegate.v1
from audit.wal import read_segment
from broker.app import Broker
from broker.authority import Authority
from broker.config import load_config, parse_config
from broker.setup import create_exchange
from broker.wire.flight.messages import SERVICE as FLIGHT_SERVICE
from broker.wire.flight.service import METHODS as FLIGHT_METHODS
from catalogue.members import MemberDirectory
from node.answer import trailer_bytes
from tidegate import ipc
from tidegate.channel import open_channel
from tidegate.client.result import Result
from tidegate.client.session import Session
from tidegate.client.wire import Transport
from tidegate.core.clock import Clock, SystemClock, SystemIds
from tidegate.core.dataset import Column, Dataset, DatasetClass
from tidegate.core.errors import CODES, Code, TidegateError, error_for
from tidegate.core.limits import PROTOCOL_VERSION
from tidegate.core.names import DatasetName, IdentityKind, SpiffeId
from tidegate.identity import keys
from tidegate.identity.certificates import make_csr
from tidegate.identity.folder import ExchangeInfo, LocalIdentity
from tidegate.v1 import common_pb2, node_service_pb2
from tidegate.wire import to_detail

EXCHANGE = "city"
PURPOSE, BASIS = "operations.planning", "city.act.1"
ROLES = ("analyst", "auditor", "operator", "steward")
CANARY = "CANARY-47110815"
CALL_S_MAX = 20.0
Up, Down = node_service_pb2.AttachUp, node_service_pb2.AttachDown


# --- texts that strangers see ---------------------------------------------------------------------------------------------

_NEVER = re.compile(r"Traceback|\.py\b|site-packages|\\\\|(?<![:/\w])/[A-Za-z0-9_.-]+|" + CANARY)


def check_text(text: str) -> None:
    """Refuse a text for strangers that holds a traceback, a path of the machine, or the planted value."""
    found = _NEVER.search(text)
    assert found is None, f"a stranger reads {found.group()!r} in {text[:300]!r}"


@dataclass(frozen=True)
class Seen:
    """One status, read and checked."""

    status: grpc.StatusCode
    code: Code | None
    message: str
    answers: int

    @classmethod
    def take(cls, error: Any, answers: int) -> Seen:
        """Read the status of a failed call; everything in it must be fit for strangers."""
        text = error.details() or ""
        check_text(text)
        rich = rpc_status.from_call(error)
        if rich is None:
            return cls(error.code(), None, text, answers)
        detail = common_pb2.ErrorDetail()
        assert len(rich.details) == 1 and rich.details[0].Unpack(detail), "details of another kind"
        for part in (detail.message, detail.request_id, detail.next_step):
            check_text(part)
        for reason in detail.reasons:
            check_text(f"{reason.code} {reason.text} {reason.ask_for} {reason.decided_by}")
        code = Code(detail.code)
        assert error.code().name == CODES[code].grpc_status
        return cls(error.code(), code, detail.message, answers)


# --- every RPC, from the descriptors --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rpc:
    """A method of one of the services."""

    path: str
    message: type[Any]
    streams_up: bool

    @property
    def fields(self) -> Sequence[FieldDescriptor]:
        return list(self.message.DESCRIPTOR.fields)


def every_rpc() -> list[Rpc]:
    """Give every method of every service that the exchange serves; a new one is there by itself."""
    names = [item.name for item in pkgutil.iter_modules(tidegate.v1.__path__) if item.name.endswith("_service_pb2")]
    files = [importlib.import_module(f"tidegate.v1.{name}").DESCRIPTOR for name in names] + [health_pb2.DESCRIPTOR]
    described = [
        Rpc(f"/{service.full_name}/{method.name}", GetMessageClass(method.input_type), method.client_streaming)
        for file in files
        for service in file.services_by_name.values()
        for method in service.methods
    ]
    flight = [
        Rpc(f"/{FLIGHT_SERVICE}/{name}", asked, handler is grpc.stream_stream_rpc_method_handler)
        for name, (handler, asked, _) in FLIGHT_METHODS.items()
    ]
    return described + flight


def call_raw(channel: grpc.Channel, path: str, *payloads: bytes, timeout_s: float = CALL_S_MAX) -> Seen:
    """Call any method with raw bytes. On the wire one message and a stream of one are the same thing."""
    call = channel.stream_stream(path)(iter(payloads), timeout=timeout_s)
    answers = 0
    try:
        for _ in call:
            answers += 1
    except grpc.RpcError as error:
        return Seen.take(error, answers)
    finally:
        call.cancel()
    return Seen(grpc.StatusCode.OK, None, "", answers)


# --- identities -----------------------------------------------------------------------------------------------------------


@dataclass
class Issuer:
    """Makes identities that have joined, without the wire between: what enrolment does, done by the authority itself."""

    authority: Authority
    members: MemberDirectory
    info: ExchangeInfo

    def identity(
        self, member: str, name: str, kind: IdentityKind = IdentityKind.SERVICE, roles: Sequence[str] = ("analyst",)
    ) -> LocalIdentity:
        if self.members.member(member) is None:
            self.members.add_member(member, member.title(), "government")
        spiffe = SpiffeId(self.info.exchange, kind, member, name)
        self.members.set_identity(str(spiffe), roles, "internal")
        key = keys.new_key()
        issued = self.authority.issue(make_csr(key), spiffe)
        shown = issued.facts
        self.members.record_certificate(shown.serial_hex, str(spiffe), shown.fingerprint, shown.not_after)
        return LocalIdentity(key, issued.certificate_pem, issued.chain_pem, self.authority.root_pem, self.info)


def open_as(identity: LocalIdentity) -> Session:
    """Open a session under an identity that lies in no folder."""
    channel = open_channel(identity.exchange.callers, identity)
    return Session(identity, Transport(channel), purpose=PURPOSE, legal_basis=BASIS)


# --- a broker in this process ---------------------------------------------------------------------------------------------


@dataclass
class World:
    """A running broker and what a test needs of it."""

    folder: Path
    broker: Broker
    info: ExchangeInfo
    issuer: Issuer
    _open: list[Session] = field(default_factory=list)

    def session(self, member: str, name: str = "desk", **choices: Any) -> Session:
        session = open_as(self.issuer.identity(member, name, **choices))
        self._open.append(session)
        return session

    def close(self) -> None:
        for session in self._open:
            session.close()


@contextmanager
def broker_world(
    folder: Path, *, clock: Clock | None = None, settings: Mapping[str, Mapping[str, object]] | None = None
) -> Iterator[World]:
    """Make an exchange and run its broker in this process: one planning process, one worker."""
    create_exchange(folder, exchange=EXCHANGE, host="127.0.0.1", listen="127.0.0.1", port=0, operator="operator")
    written = load_config(folder, {})
    document = written.model_dump(exclude={"folder"})
    limits = {"planning_workers": 1, "join_workers": 1, "drain_s": 1.0}
    for section, values in {"limits": limits, **(settings or {})}.items():
        document[section] = {**document[section], **limits, **values} if section == "limits" else dict(values)
    config = parse_config(document, folder, {})
    broker = Broker(config, clock=clock)
    info = broker.start()
    issuer = Issuer(Authority.load(config.authority_folder, clock or SystemClock()), broker.members, info)
    world = World(folder, broker, info, issuer)
    try:
        operator = world.session("operator", "chief", roles=ROLES)
        operator.transport.add_purpose(PURPOSE, "Planning of operations", [BASIS], SystemIds().request_id())
        yield world
    finally:
        world.close()
        broker.stop()


def described(
    owner: str, name: str, *, node: str = "node1", dataset_class: DatasetClass = DatasetClass.OPEN, **more: Any
) -> Dataset:
    """Describe a small dataset."""
    return Dataset(
        name=DatasetName.parse(f"{owner}.{name}"),
        owner=owner,
        node=node,
        title=f"The {name} of {owner}",
        dataset_class=dataset_class,
        columns=(Column("id", "BIGINT"), Column("word", "VARCHAR")),
        **more,
    )


# --- nodes that a test plays ----------------------------------------------------------------------------------------------

OnFragment = Callable[["LightNode", node_service_pb2.Fragment], None]


class LightNode:
    """An attached node of one thread over real mutual TLS. It answers fragments as the test says, by default never.

    ``fragments`` gives every fragment as it came.
    """

    def __init__(
        self, identity: LocalIdentity, *, datasets: Sequence[Dataset] = (), on_fragment: OnFragment | None = None
    ) -> None:
        self.identity = identity
        self.fragments: queue.SimpleQueue[node_service_pb2.Fragment] = queue.SimpleQueue()
        self.cancelled: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.ended: queue.SimpleQueue[Seen | None] = queue.SimpleQueue()
        self.attached = threading.Event()
        self.on_fragment = on_fragment
        self._up: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.channel = open_channel(identity.exchange.nodes, identity)
        hello = node_service_pb2.Hello(
            version=common_pb2.Version(protocol=PROTOCOL_VERSION),
            session_nonce=SystemIds().nonce(16),
            dataset_json=[json.dumps(item.to_json()) for item in datasets],
        )
        self.say(Up(hello=hello))
        attach = self.channel.stream_stream("/tidegate.v1.NodeService/Attach", response_deserializer=Down.FromString)
        self._call: Any = attach(iter(self._up.get, None))
        self._thread = threading.Thread(target=self._hear, name="light-node", daemon=True)
        self._thread.start()

    def _hear(self) -> None:
        try:
            for message in self._call:
                match message.WhichOneof("kind"):
                    case "welcome":
                        self.attached.set()
                    case "fragment":
                        if self.on_fragment is not None:
                            self.on_fragment(self, message.fragment)
                        self.fragments.put(message.fragment)
                    case "cancel":
                        self.cancelled.put(message.cancel.fragment_id)
            self.ended.put(None)
        except grpc.RpcError as error:
            self.ended.put(Seen.take(error, 0))

    def wait(self) -> LightNode:
        assert self.attached.wait(CALL_S_MAX), f"not attached: {None if self.ended.empty() else self.ended.get()}"
        return self

    def say(self, message: Up) -> None:
        self._up.put(message.SerializeToString())

    def say_raw(self, data: bytes) -> None:
        self._up.put(data)

    def grant_id(self, fragment: node_service_pb2.Fragment) -> str:
        found: str = json.loads(fragment.grant)["id"]
        return found

    def answer(self, fragment: node_service_pb2.Fragment, table: pa.Table, *, signature: bytes = b"") -> None:
        """Answer with a table, signed as a node signs."""
        self.answer_chunks(fragment, list(ipc.cut(table.schema, table.to_batches())), table.num_rows, signature)

    def answer_chunks(
        self, fragment: node_service_pb2.Fragment, chunks: Sequence[bytes], rows: int = 1, signature: bytes = b""
    ) -> None:
        digest = ipc.digest(chunks)
        signed = trailer_bytes(digest, fragment.id, self.grant_id(fragment), rows)
        trailer = node_service_pb2.Trailer(
            rows=rows, digest=digest, signature=signature or keys.sign(self.identity.key, signed)
        )
        schema, *messages = chunks
        answer = node_service_pb2.FragmentAnswer(
            fragment_id=fragment.id, schema=schema, messages=messages, trailer=trailer
        )
        self.say(Up(answer=answer))

    def fail(self, fragment_id: str, code: Code, message: str = "") -> None:
        detail = to_detail(error_for(code, message))
        self.say(Up(failure=node_service_pb2.FragmentFailure(fragment_id=fragment_id, error=detail)))

    def close(self) -> None:
        self._up.put(None)
        self._call.cancel()
        self._thread.join()
        self.channel.close()


def drained(items: queue.SimpleQueue[Any]) -> list[Any]:
    """Give what is in a queue now."""
    found = []
    while not items.empty():
        found.append(items.get())
    return found


def on_disk(log_folder: Path) -> dict[int, bytes]:
    """Give the entries that a recovery would find in the write-ahead log now."""
    found: dict[int, bytes] = {}
    for segment in sorted((log_folder / "wal").iterdir()):
        first = int(segment.stem)
        records, _ = read_segment(segment.read_bytes(), first)
        found.update(enumerate((record.entry for record in records), first))
    return found


def rows_of(result: Result) -> list[dict[str, Any]]:
    """Read an answer to its end; the client checks its digest."""
    rows: list[dict[str, Any]] = result.to_arrow().to_pylist()
    return rows


def ask(session: Session, sql: str, **choices: Any) -> Seen:
    """Ask a query to its end; give how it ended. The client's reading of the status is checked against the status itself."""
    try:
        result = session.query(sql, **choices)
        result.to_arrow()
    except TidegateError as error:
        cause: Any = error.__cause__
        if not isinstance(cause, grpc.RpcError):
            check_text(str(error))
            return Seen(grpc.StatusCode.UNKNOWN, error.code, error.message, 0)
        return Seen.take(cause, 0)
    return Seen(grpc.StatusCode.OK, None, "", 1)

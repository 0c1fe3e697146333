"""NodeService: the nodes' door. Nodes dial in; work goes down the Attach stream, answers come up it or by Deliver."""

from __future__ import annotations

import json
import math
import queue
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import grpc
import structlog

from broker.attachments import (
    AgreementOrder,
    Attachment,
    Attachments,
    CancelOrder,
    DescribeOrder,
    DrainOrder,
    FragmentOrder,
    Order,
    PendingFragment,
    TrailerFacts,
)
from broker.keys import SentKeys
from tidegate import chunk_wire
from tidegate.core.agreement import KEYS_MEMBERS_MAX
from tidegate.core.caller import Caller
from tidegate.core.dataset import Dataset
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.grant import KeyTerms
from tidegate.core.limits import PROTOCOL_VERSION
from tidegate.core.names import IdentityKind
from tidegate.v1 import common_pb2, node_service_pb2, node_service_pb2_grpc
from tidegate.wire import from_detail, plain_text

if TYPE_CHECKING:
    from broker.enrolment import Enrolment
    from broker.wire.guard import Guard

HEARTBEAT_S = 10.0
DATASETS_DESCRIBED_MAX = 10_000
RULES_MAX = 200
RULE_CHARS_MAX = 200
RETRY_AFTER_S_MAX = 3_600.0
_FEATURES = ("deliver", "agreements")
_NODES_CODES = ("NODE_", "POLICY_", "FETCH_", "QUERY_", "BUSY", "AUDIT_UNAVAILABLE")
"""Beginnings of the names of codes that a node may answer with; any other is "its node failed"."""


class NodeServicer(node_service_pb2_grpc.NodeServiceServicer):
    """The service. Trust: every message is a node's, hostile until checked."""

    def __init__(
        self,
        *,
        guard: Guard,
        attachments: Attachments,
        enrolment: Enrolment,
        broker: str,
        attached: Callable[[Attachment], None],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._guard = guard
        self._attachments = attachments
        self._enrolment = enrolment
        self._broker = broker
        self._attached = attached
        self._log = log

    def Attach(
        self, request_iterator: Iterator[node_service_pb2.AttachUp], context: grpc.ServicerContext
    ) -> Iterator[node_service_pb2.AttachDown]:
        """Keep one node attached until it goes, is revoked, or the broker drains."""
        with self._guard.stream(context) as caller:
            first = next(request_iterator, None)
            attachment = self._hello(caller, first)
            self._attachments.enter(attachment)
            self._guard.on_end(context, attachment.leave)  # revoked or expired: whoever waits here wakes up
            context.add_callback(attachment.leave)
            self._log.info("node attached", node=str(caller.identity), datasets=len(attachment.described))
            broken: list[TidegateError] = []  # what the node said wrong; it hears of it as the link ends
            listener = threading.Thread(
                target=self._listen,
                args=(request_iterator, attachment, broken),
                name=f"attach-{caller.member}",
                daemon=True,
            )
            try:
                yield node_service_pb2.AttachDown(
                    welcome=node_service_pb2.Welcome(version=_version(), broker=self._broker, heartbeat_s=HEARTBEAT_S)
                )
                listener.start()
                self._attached(attachment)
                yield from self._talk(attachment, context)
                if broken:
                    raise broken[0]
            finally:
                self._attachments.leave(attachment)
                self._log.info("node left", node=str(caller.identity))

    def _hello(self, caller: Caller, first: node_service_pb2.AttachUp | None) -> Attachment:
        if caller.identity.kind is not IdentityKind.NODE:
            raise error_for(Code.ID_WRONG_KIND, "attach: expected a node's certificate")
        if first is None or first.WhichOneof("kind") != "hello":
            raise error_for(Code.WIRE_INVALID, "attach: expected a hello first")
        hello = first.hello
        if hello.version.protocol != PROTOCOL_VERSION:
            raise error_for(Code.WIRE_VERSION, f"attach: this broker speaks protocol {PROTOCOL_VERSION}")
        if len(hello.session_nonce) != 16:
            raise error_for(Code.WIRE_INVALID, "attach: expected a session nonce of 16 bytes")
        return Attachment(
            identity=caller.identity,
            session=hello.session_nonce.hex(),
            features=tuple(hello.version.features),
            verify=self._guard.verifier(caller),
            described=_datasets(list(hello.dataset_json), caller.member),
        )

    def _talk(self, attachment: Attachment, context: grpc.ServicerContext) -> Iterator[node_service_pb2.AttachDown]:
        beats = 0
        while context.is_active():
            try:
                order = attachment.orders.get(timeout=HEARTBEAT_S)
            except queue.Empty:
                beats += 1
                yield node_service_pb2.AttachDown(heartbeat=node_service_pb2.Heartbeat(count=beats))
                continue
            if order is None:
                return
            yield _down(order)

    def _listen(
        self, messages: Iterator[node_service_pb2.AttachUp], attachment: Attachment, broken: list[TidegateError]
    ) -> None:
        try:
            for message in messages:
                self._hear(message, attachment)
        except grpc.RpcError:
            pass  # the stream ended; leaving says so to everybody who waits
        except TidegateError as error:
            broken.append(error)
            self._log.warning("node sent something unexpected", node=str(attachment.identity), code=error.code.value)
        except Exception as error:  # noqa: BLE001 - a hostile node must not take the thread's traceback anywhere
            broken.append(error_for(Code.INTERNAL))
            self._log.error("attach listener failed", node=str(attachment.identity), error=type(error).__name__)
        finally:
            attachment.leave()

    def _hear(self, message: node_service_pb2.AttachUp, attachment: Attachment) -> None:
        match message.WhichOneof("kind"):
            case "answer":
                pending = attachment.pending(message.answer.fragment_id)
                if pending is not None:
                    chunks = (message.answer.schema, *message.answer.messages)
                    pending.take(chunks, _trailer(message.answer.trailer))
            case "failure":
                pending = attachment.pending(message.failure.fragment_id)
                if pending is not None:
                    pending.fail(_named(from_detail(message.failure.error), attachment.identity.member))
            case "description":
                attachment.described = _datasets(list(message.description.dataset_json), attachment.identity.member)
            case "agreement_ack":
                attachment.acknowledged(message.agreement_ack.agreement_id, stored=message.agreement_ack.stored)
            case "heartbeat":
                pass
            case _:
                raise error_for(Code.WIRE_INVALID, "attach: unexpected message")

    def Deliver(
        self, request_iterator: Iterator[node_service_pb2.DeliverRequest | bytes], context: grpc.ServicerContext
    ) -> node_service_pb2.DeliverResponse:
        """Take one larger answer. The first message must name a fragment that this very node was given."""
        with self._guard.stream(context) as caller:
            first = next(request_iterator, None)
            if not isinstance(first, node_service_pb2.DeliverRequest) or first.WhichOneof("kind") != "start":
                raise error_for(Code.WIRE_INVALID, "deliver: expected a start first")
            pending = self._find(caller, first.start.fragment_id, first.start.grant_id)
            stopped = error_for(Code.FETCH_NODE_FAILED, f"{caller.member}: its node stopped in the middle of an answer")
            self._guard.on_end(context, lambda: pending.fail(stopped))  # revoked or expired: whoever waits wakes up
            try:
                return _delivered(first.start.schema, request_iterator, pending, caller.member)
            finally:
                pending.fail(
                    stopped
                )  # unless it is over: however this call ends, its reader does not wait for the deadline

    def _find(self, caller: Caller, fragment_id: str, grant_id: str) -> PendingFragment:
        attachment = self._attachments.find(caller.member, caller.identity.name)
        pending = attachment.pending(fragment_id)
        if pending is None or pending.order.grant_id != grant_id:
            raise error_for(Code.NODE_FRAGMENT, "deliver: no such fragment is under way")
        return pending

    def RenewLink(
        self, request: node_service_pb2.RenewLinkRequest, context: grpc.ServicerContext
    ) -> node_service_pb2.RenewLinkResponse:
        """Renew the node's certificate over the link that it has."""
        with self._guard.call(context) as caller:
            issued = self._enrolment.renew_over_link(caller, request.csr_pem)
            return node_service_pb2.RenewLinkResponse(certificate_pem=issued.pem, chain_pem=issued.chain_pem)


def _delivered(
    schema: bytes, messages: Iterator[node_service_pb2.DeliverRequest | bytes], pending: PendingFragment, member: str
) -> node_service_pb2.DeliverResponse:
    pending.put(schema)
    for message in messages:
        if pending.is_closed:
            break
        if isinstance(message, bytes):
            pending.put(message)
            continue
        match message.WhichOneof("kind"):
            case "message":
                pending.put(message.message)
            case "trailer":
                pending.finish(_trailer(message.trailer))
                return node_service_pb2.DeliverResponse(accepted=True)
            case "failure":
                pending.fail(_named(from_detail(message.failure), member))
                break
            case _:
                raise error_for(Code.WIRE_INVALID, "deliver: unexpected message")
    return node_service_pb2.DeliverResponse(accepted=False)


def _delivered_item(raw: bytes) -> node_service_pb2.DeliverRequest | bytes:
    chunk = chunk_wire.delivered(raw)
    return node_service_pb2.DeliverRequest.FromString(raw) if chunk is None else chunk


def add_node_service(servicer: NodeServicer, server: grpc.Server) -> None:
    """Serve the methods of node_service.proto; as the generated function does, but chunks come as bytes."""
    handlers = {
        "Attach": grpc.stream_stream_rpc_method_handler(
            servicer.Attach,
            request_deserializer=node_service_pb2.AttachUp.FromString,
            response_serializer=node_service_pb2.AttachDown.SerializeToString,
        ),
        "Deliver": grpc.stream_unary_rpc_method_handler(
            servicer.Deliver,
            request_deserializer=_delivered_item,
            response_serializer=node_service_pb2.DeliverResponse.SerializeToString,
        ),
        "RenewLink": grpc.unary_unary_rpc_method_handler(
            servicer.RenewLink,
            request_deserializer=node_service_pb2.RenewLinkRequest.FromString,
            response_serializer=node_service_pb2.RenewLinkResponse.SerializeToString,
        ),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("tidegate.v1.NodeService", handlers),))


def _version() -> common_pb2.Version:
    return common_pb2.Version(protocol=PROTOCOL_VERSION, features=_FEATURES)


def _datasets(documents: list[str], member: str) -> tuple[Dataset, ...]:
    """Read a node's self-description; what is not valid or not its own is left out, never a reason to refuse the node."""
    found = []
    for text in documents[:DATASETS_DESCRIBED_MAX]:
        try:
            dataset = Dataset.from_json(json.loads(text))
        except (TidegateError, ValueError, RecursionError):
            continue
        if dataset.owner == member:
            found.append(dataset)
    return tuple(found)


def _trailer(message: node_service_pb2.Trailer) -> TrailerFacts:
    return TrailerFacts(
        rows=message.rows,
        size_bytes=message.bytes,
        digest=message.digest,
        signature=message.signature,
        suppressed_groups=message.suppressed_groups,
        entry_index=message.entry_index,
        elapsed_s=message.elapsed_s,
        rules=tuple(plain_text(rule, RULE_CHARS_MAX) for rule in message.rules[:RULES_MAX]),
        keys_may_go_to=tuple(message.keys_may_go_to[:KEYS_MEMBERS_MAX]),
    )


def _named(error: TidegateError, member: str) -> TidegateError:
    """Put the department's name before what its node said. Receipt and request id are the broker's to give, not a node's.

    Trust: a node says what it likes. It speaks for itself alone, not of the caller's certificate or SQL.
    """
    code = error.code if error.code.name.startswith(_NODES_CODES) else Code.FETCH_NODE_FAILED
    message = f"{member}: {error.message}"
    return error_for(code, message, reasons=error.reasons, retry_after_s=_seconds(error.retry_after_s))


def _seconds(value: float) -> float:
    return min(max(value, 0.0), RETRY_AFTER_S_MAX) if math.isfinite(value) else 0.0


def _reduction(terms: KeyTerms) -> node_service_pb2.Reduction:
    return node_service_pb2.Reduction(
        ref=terms.ref,
        column=terms.column,
        sources=[
            node_service_pb2.KeySource(fragment=item.fragment, column=item.column, member=item.member)
            for item in terms.sources
        ],
    )


def _key_batch(keys: SentKeys) -> node_service_pb2.KeyBatch:
    return node_service_pb2.KeyBatch(reduction=keys.place, schema=keys.chunks[0], messages=keys.chunks[1:])


def _down(order: Order) -> node_service_pb2.AttachDown:
    match order:
        case FragmentOrder():
            return node_service_pb2.AttachDown(
                fragment=node_service_pb2.Fragment(
                    id=order.id,
                    grant=order.grant,
                    signature=order.signature,
                    chain_pem=order.chain_pem,
                    sql=order.sql,
                    parameters_json=order.parameters_json,
                    deadline_s=order.deadline_s,
                    rows_max=order.rows_max,
                    bytes_max=order.bytes_max,
                    reductions=map(_reduction, order.reductions),
                    keys=map(_key_batch, order.keys),
                    traceparent=order.traceparent,
                )
            )
        case CancelOrder():
            return node_service_pb2.AttachDown(cancel=node_service_pb2.Cancel(fragment_id=order.fragment_id))
        case DescribeOrder():
            return node_service_pb2.AttachDown(describe=node_service_pb2.Describe())
        case DrainOrder():
            return node_service_pb2.AttachDown(drain=node_service_pb2.Drain(reconnect_after_s=order.reconnect_after_s))
        case AgreementOrder():
            return node_service_pb2.AttachDown(
                agreement=node_service_pb2.AgreementPush(
                    agreement_json=order.agreement_json,
                    signature=order.signature,
                    chain_pem=order.chain_pem,
                    revoked=bool(order.revocation_json),
                    revocation_json=order.revocation_json,
                )
            )

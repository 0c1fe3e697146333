"""NodeService from the node's side: the one module here that knows generated messages (node_service.proto)."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

import grpc
import structlog

from node.answer import Answer, Signer
from node.conversation import AgreementPushed, Beat, Cancelled, DescribeAsked, Drained, Heard, Offered, Welcomed
from node.values import FragmentOffer, OfferedKeys, Trailer
from tidegate import chunk_wire
from tidegate.channel import open_channel
from tidegate.core.clock import Clock
from tidegate.core.dataset import Dataset
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.grant import KeySource, KeyTerms
from tidegate.core.limits import PROTOCOL_VERSION, SMALL_ANSWER_BYTES_MAX
from tidegate.identity.folder import IdentityFolder, LocalIdentity
from tidegate.identity.joining import renew_expired, renew_over_link
from tidegate.v1 import common_pb2, node_service_pb2, node_service_pb2_grpc
from tidegate.wire import from_rpc_error, to_detail

FEATURES = ("deliver", "agreements")
SOFTWARE = "tidegate-node"
DELIVER_DEADLINE_S = 3_600.0  # the broker ends a delivery by its query's deadline; this bounds one that it forgot
RENEWAL_RETRY = timedelta(minutes=5)  # a broker that refuses to renew is not asked at each heartbeat


class GrpcDialler:
    """Dials one broker with the identity that the folder holds at that moment."""

    def __init__(
        self, address: str, *, folder: IdentityFolder, clock: Clock, log: structlog.stdlib.BoundLogger
    ) -> None:
        self.address = address
        self._folder = folder
        self._clock = clock
        self._log = log

    def dial(self, nonce: bytes, datasets: tuple[Dataset, ...]) -> GrpcLine:
        """Open the stream and say hello; a certificate that has ended is renewed at the enrolment listener first.

        Raises:
            CallerError: ID_*. PeerError: CLIENT_UNREACHABLE.
        """
        identity = self._folder.load()
        if self._clock.now() > identity.facts.not_after:
            identity = renew_expired(identity, self._clock.now())
            self._folder.save(identity)
            self._log.info("certificate renewed at enrolment", not_after=str(identity.facts.not_after))
        channel = open_channel(self.address, identity, clock=self._clock)
        return GrpcLine(channel, identity, nonce, datasets, folder=self._folder, clock=self._clock, log=self._log)


class GrpcLine:
    """One Attach stream over a channel of its own."""

    def __init__(
        self,
        channel: grpc.Channel,
        identity: LocalIdentity,
        nonce: bytes,
        datasets: tuple[Dataset, ...],
        *,
        folder: IdentityFolder,
        clock: Clock,
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._channel = channel
        self._identity = identity
        self._folder = folder
        self._clock = clock
        self._log = log
        self._renewal_asked_at: datetime | None = None
        self._up: queue.SimpleQueue[node_service_pb2.AttachUp | None] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._stub = node_service_pb2_grpc.NodeServiceStub(channel)
        self._deliver_call = channel.stream_unary(
            "/tidegate.v1.NodeService/Deliver",
            request_serializer=_serialized,
            response_deserializer=node_service_pb2.DeliverResponse.FromString,
        )
        hello = node_service_pb2.Hello(version=_version(), session_nonce=nonce, dataset_json=_documents(datasets))
        self._up.put(node_service_pb2.AttachUp(hello=hello))
        self._call = self._stub.Attach(iter(self._up.get, None))

    def hear(self) -> Iterator[Heard]:
        """Give what the broker says until the line ends.

        Raises:
            TidegateError: what the broker said as it ended the call, or WIRE_INVALID for what nobody can understand.
        """
        try:
            for message in self._call:
                yield _heard(message)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        finally:
            self.hang_up()

    def say_answer(self, answer: Answer, sign: Signer) -> Trailer:
        """Send a small answer on the stream, a larger one in a Deliver call."""
        chunks = answer.chunks()
        schema = next(chunks)
        small: list[bytes] = []
        size = len(schema)
        for chunk in chunks:
            small.append(chunk)
            size += len(chunk)
            if size > SMALL_ANSWER_BYTES_MAX:
                return self._deliver(answer, schema, small, chunks, sign)
        trailer = answer.trailer(sign)
        message = node_service_pb2.FragmentAnswer(
            fragment_id=answer.fragment_id, schema=schema, messages=small, trailer=_trailer(trailer)
        )
        self._say(node_service_pb2.AttachUp(answer=message))
        return trailer

    def _deliver(
        self, answer: Answer, schema: bytes, first: list[bytes], rest: Iterator[bytes], sign: Signer
    ) -> Trailer:
        outcome: list[Trailer | TidegateError] = []

        def messages() -> Iterator[node_service_pb2.DeliverRequest | bytes]:
            # gRPC reads this in a thread of its own, one message ahead at most: a slow broker slows the worker.
            yield node_service_pb2.DeliverRequest(
                start=node_service_pb2.DeliverStart(
                    fragment_id=answer.fragment_id, grant_id=answer.grant_id, schema=schema
                )
            )
            try:
                while first:
                    yield chunk_wire.deliver_request(first.pop(0))
                for chunk in rest:
                    yield chunk_wire.deliver_request(chunk)
                trailer = answer.trailer(sign)
                outcome.append(trailer)
                yield node_service_pb2.DeliverRequest(trailer=_trailer(trailer))
            except TidegateError as error:
                outcome.append(error)
                yield node_service_pb2.DeliverRequest(failure=to_detail(error))
            except Exception as error:  # noqa: BLE001 - it would vanish in gRPC's thread, and its text with it
                outcome.append(error_for(Code.INTERNAL, detail=type(error).__name__))
                yield node_service_pb2.DeliverRequest(failure=to_detail(error_for(Code.INTERNAL)))

        try:
            reply = self._deliver_call(messages(), timeout=DELIVER_DEADLINE_S)
        except grpc.RpcError as error:
            answer.close()
            raise from_rpc_error(error) from error
        if not outcome or not reply.accepted:
            answer.close()
            ended = outcome[-1] if outcome else None
            unwanted = error_for(Code.QUERY_CANCELLED, "the broker took no more")
            raise ended if isinstance(ended, TidegateError) else unwanted
        last = outcome[-1]
        if isinstance(last, TidegateError):
            raise last
        return last

    def say_failure(self, fragment_id: str, error: TidegateError) -> None:
        """Say that a fragment failed: the public part alone."""
        message = node_service_pb2.FragmentFailure(fragment_id=fragment_id, error=to_detail(error))
        self._say(node_service_pb2.AttachUp(failure=message))

    def say_description(self, datasets: tuple[Dataset, ...]) -> None:
        """Say what the node holds."""
        message = node_service_pb2.Description(dataset_json=_documents(datasets))
        self._say(node_service_pb2.AttachUp(description=message))

    def say_acknowledged(self, agreement_id: str, error: TidegateError | None) -> None:
        """Say that an agreement or revocation is stored, or why not."""
        message = node_service_pb2.AgreementAck(agreement_id=agreement_id, stored=error is None)
        if error is not None:
            message.error.CopyFrom(to_detail(error))
        self._say(node_service_pb2.AttachUp(agreement_ack=message))

    def say_beat(self, count: int) -> None:
        """Say that the node is alive."""
        self._say(node_service_pb2.AttachUp(heartbeat=node_service_pb2.Heartbeat(count=count)))

    def _say(self, message: node_service_pb2.AttachUp) -> None:
        if not self._closed.is_set():
            self._up.put(message)

    def renew(self) -> bool:
        """Renew over this channel once half of the certificate's life has passed.

        Returns:
            True when the folder holds a newer certificate than this line was opened with.
        """
        now = self._clock.now()
        if not self._identity.facts.renewal_due(now):
            return False
        current = self._folder.load()  # another link of this node may have renewed it
        if current.facts.serial_hex != self._identity.facts.serial_hex:
            return True
        if self._renewal_asked_at is not None and now - self._renewal_asked_at < RENEWAL_RETRY:
            return False
        self._renewal_asked_at = now
        try:
            renewed = renew_over_link(self._identity, self._channel, now)
        except TidegateError as error:
            self._log.warning("certificate not renewed", problem=str(error), detail=error.detail)
            return False
        self._folder.save(renewed)
        self._log.info("certificate renewed over the link", not_after=str(renewed.facts.not_after))
        return True

    def hang_up(self) -> None:
        """End the line: half-close, then end the call and the channel."""
        if not self._closed.is_set():
            self._closed.set()
            self._up.put(None)
            self._call.cancel()  # type: ignore[no-untyped-call]
            self._channel.close()


def _serialized(item: node_service_pb2.DeliverRequest | bytes) -> bytes:
    return item if isinstance(item, bytes) else item.SerializeToString()


def _version() -> common_pb2.Version:
    return common_pb2.Version(protocol=PROTOCOL_VERSION, features=FEATURES, software=SOFTWARE)


def _documents(datasets: tuple[Dataset, ...]) -> list[str]:
    return [json.dumps(dataset.to_json(), sort_keys=True) for dataset in datasets]


def _trailer(trailer: Trailer) -> node_service_pb2.Trailer:
    return node_service_pb2.Trailer(
        rows=trailer.rows,
        bytes=trailer.size_bytes,
        digest=trailer.digest,
        signature=trailer.signature,
        suppressed_groups=trailer.suppressed_groups,
        entry_index=trailer.entry_index,
        elapsed_s=trailer.elapsed_s,
        rules=trailer.rules,
        keys_may_go_to=trailer.keys_may_go_to,
    )


def _heard(message: node_service_pb2.AttachDown) -> Heard:
    """Read a message of the broker's. Trust: hostile until the gate has checked it."""
    readers: dict[str, Callable[[], Heard]] = {
        "welcome": lambda: _welcome(message.welcome),
        "fragment": lambda: Offered(_offer(message.fragment)),
        "cancel": lambda: Cancelled(message.cancel.fragment_id),
        "heartbeat": Beat,
        "describe": DescribeAsked,
        "agreement": lambda: _agreement(message.agreement),
        "drain": lambda: Drained(message.drain.reconnect_after_s),
    }
    reader = readers.get(message.WhichOneof("kind") or "")
    if reader is None:
        raise error_for(Code.WIRE_INVALID, "attach: the broker sent a message of an unknown kind")
    return reader()


def _welcome(message: node_service_pb2.Welcome) -> Welcomed:
    if message.version.protocol != PROTOCOL_VERSION:
        raise error_for(Code.WIRE_VERSION, f"attach: this node speaks protocol {PROTOCOL_VERSION}")
    return Welcomed(message.broker, message.heartbeat_s)


def _offer(message: node_service_pb2.Fragment) -> FragmentOffer:
    return FragmentOffer(
        id=message.id,
        grant=message.grant,
        signature=message.signature,
        chain_pem=message.chain_pem,
        sql=message.sql,
        parameters_json=message.parameters_json,
        deadline_s=message.deadline_s,
        rows_max=message.rows_max,
        bytes_max=message.bytes_max,
        reductions=tuple(map(_reduction, message.reductions)),
        keys=tuple(OfferedKeys(item.reduction, (item.schema, *item.messages)) for item in message.keys),
        traceparent=message.traceparent,
    )


def _reduction(message: node_service_pb2.Reduction) -> KeyTerms:
    sources = tuple(KeySource(item.fragment, item.column, item.member) for item in message.sources)
    return KeyTerms(message.ref, message.column, sources)


def _agreement(message: node_service_pb2.AgreementPush) -> AgreementPushed:
    revocation = message.revocation_json if message.revoked else ""
    document, key = (revocation, "revoke") if message.revoked else (message.agreement_json, "id")
    try:
        read = json.loads(document)
        agreement_id = str(read[key]) if isinstance(read, dict) and key in read else ""
    except (ValueError, RecursionError):
        agreement_id = ""  # the acknowledgement says what is wrong with it
    return AgreementPushed(agreement_id, message.agreement_json, message.signature, message.chain_pem, revocation)

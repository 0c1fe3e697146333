"""How the proxy carries a call: over real TLS to a real guard, with a service behind it that can wait, fail and count."""

from __future__ import annotations

import base64
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from broker.wire.guard import Guard
from tests.fakes.exchange import RunningExchange, running_exchange
from tests.federation.streaming_world import until
from tidegate.client.proxy import secret as secrets_of
from tidegate.client.proxy.forward import CARRIED, FLIGHT, STREAMED, Defaults, Forward
from tidegate.client.proxy.secret import Secret
from tidegate.client.proxy.serve import Proxy, Settings, loopback
from tidegate.core.clock import SystemClock
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.names import IdentityKind
from tidegate.identity.folder import IdentityFolder
from tidegate.v1 import audit_service_pb2, catalogue_service_pb2, member_service_pb2, query_service_pb2
from tidegate.wire import from_rpc_error

SECRET = Secret("s" * 43)
BEARER = (("authorization", f"Bearer {SECRET.value}"),)
DEADLINE_S = 10.0
MIB = 1 << 20


@dataclass
class Behind:
    """A service under Flight's name, for the parts of gRPC that a forwarder could get wrong."""

    seen: queue.Queue[dict[str, Any]] = field(default_factory=queue.Queue)
    over: queue.Queue[float] = field(default_factory=queue.Queue)
    given: int = 0

    def register(self, server: grpc.Server, guard: Guard) -> None:
        def info(request: bytes, context: Any) -> bytes:
            with guard.call(context) as caller:
                self.seen.put({"caller": str(caller.identity), "metadata": list(context.invocation_metadata())})
            context.send_initial_metadata((("x-tidegate-request-id", "abc"), ("server-secret", "1")))
            context.set_trailing_metadata((("x-tidegate-receipt-bin", b"\x00\x01"), ("set-cookie", "a=b"), ("x", "1")))
            return request[::-1]

        def refuse(request: bytes, context: Any) -> bytes:
            raise error_for(Code.POLICY_REFUSED, "not for this purpose")

        def many(request: bytes, context: Any) -> Iterator[bytes]:
            for _ in range(400):
                self.given += 1
                yield bytes(MIB)

        def wait(request: bytes, context: Any) -> Iterator[bytes]:
            gone = threading.Event()
            context.add_callback(gone.set)
            guard.on_end(context, gone.set)
            try:
                yield b"first"
                gone.wait(DEADLINE_S)
            finally:  # also when the caller went away before it was asked for more
                self.over.put(time.monotonic())

        def left(request: bytes, context: Any) -> bytes:
            return str(context.time_remaining()).encode()

        def echo(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            for number, item in enumerate(requests):
                if item == b"end":
                    raise error_for(Code.WIRE_INVALID, "said so", detail=str(number))
                yield item

        handlers = {
            "GetFlightInfo": grpc.unary_unary_rpc_method_handler(info),
            "GetSchema": grpc.unary_unary_rpc_method_handler(refuse),
            "DoGet": grpc.unary_stream_rpc_method_handler(many),
            "DoAction": grpc.unary_stream_rpc_method_handler(wait),
            "PollFlightInfo": grpc.unary_unary_rpc_method_handler(left),
            "DoPut": grpc.stream_stream_rpc_method_handler(echo),
        }
        service = FLIGHT.strip("/")
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))


@dataclass(frozen=True)
class World:
    running: RunningExchange
    behind: Behind
    proxy: Proxy
    folder: IdentityFolder

    def channel(self) -> Any:
        return grpc.insecure_channel(
            self.proxy.address,
            options=[("grpc.max_receive_message_length", 4 * MIB), ("grpc.use_local_subchannel_pool", 1)],
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    behind = Behind()
    with running_exchange(tmp_path_factory.mktemp("proxy"), callers=[behind.register]) as running:
        folder = IdentityFolder(tmp_path_factory.mktemp("identity"))
        folder.save(running.exchange.member(IdentityKind.PERSON, "health", "lin", roles=("analyst",)))
        proxy = Proxy(Settings("127.0.0.1:0", folder.path, SECRET, Defaults("care", "act.1")), print)
        try:
            yield World(running, behind, proxy, folder)
        finally:
            proxy.stop()


@pytest.fixture
def channel(world: World) -> Iterator[Any]:
    with world.channel() as opened:
        yield opened


def to(proxy: Proxy) -> Any:
    return grpc.insecure_channel(proxy.address)


def unary(channel: Any, method: str, metadata: Any = BEARER, **more: Any) -> bytes:
    answer: bytes = channel.unary_unary(FLIGHT + method)(b"abc", metadata=metadata, timeout=DEADLINE_S, **more)
    return answer


def failed(channel: Any, method: str, metadata: Any) -> TidegateError:
    with pytest.raises(grpc.RpcError) as caught:
        unary(channel, method, metadata)
    return from_rpc_error(caught.value)


def test_a_call_is_made_under_the_proxys_identity(world: World, channel: Any) -> None:
    sent = (
        *BEARER,
        ("traceparent", "00-1-2-01"),
        ("cookie", "a=b"),
        ("x-other", "1"),
        ("x-tidegate-note-bin", b"\x01"),
    )
    answer, call = channel.unary_unary(f"{FLIGHT}GetFlightInfo").with_call(b"abc", metadata=sent, timeout=DEADLINE_S)
    assert answer == b"cba"
    seen = world.behind.seen.get(timeout=DEADLINE_S)
    assert seen["caller"].endswith("/member/health/person/lin")
    carried = {key: value for key, value in seen["metadata"] if key != "user-agent"}
    assert carried == {
        "traceparent": "00-1-2-01",
        "cookie": "a=b",
        "x-tidegate-note-bin": b"\x01",
        "x-tidegate-purpose": "care",
        "x-tidegate-legal-basis": "act.1",
    }
    assert dict(call.initial_metadata()) == {"x-tidegate-request-id": "abc"}
    assert dict(call.trailing_metadata()) == {"x-tidegate-receipt-bin": b"\x00\x01", "set-cookie": "a=b"}


@pytest.mark.parametrize(
    ("sent", "carried"),
    [
        ((("x-tidegate-purpose", "other"),), {("x-tidegate-purpose", "other")}),
        ((("x-tidegate-purpose", "care"),), {("x-tidegate-purpose", "care"), ("x-tidegate-legal-basis", "act.1")}),
        ((("x-tidegate-legal-basis", "act.9"),), {("x-tidegate-purpose", "care"), ("x-tidegate-legal-basis", "act.9")}),
        (
            (("x-tidegate-purpose", "care"), ("x-tidegate-purpose", "other")),
            {("x-tidegate-purpose", "care"), ("x-tidegate-purpose", "other")},
        ),
    ],
)
def test_a_default_purpose_is_for_those_who_name_none(
    world: World, channel: Any, sent: Any, carried: set[tuple[str, str]]
) -> None:
    unary(channel, "GetFlightInfo", (*BEARER, *sent))
    metadata = world.behind.seen.get(timeout=DEADLINE_S)["metadata"]
    assert {(key, value) for key, value in metadata if key.startswith("x-tidegate-")} == carried


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("authorization", "Bearer " + "t" * 43),),
        (("authorization", f"Bearer {SECRET.value[:-1]}"),),
        (("authorization", f"Digest {SECRET.value}"),),
        (("authorization", "Basic !!"),),
        (("authorization", "Basic " + base64.b64encode(b"any:wrong").decode()),),
        (("authorization", "Bearer " + "s" * 5_000),),
        (("x-authorization", f"Bearer {SECRET.value}"),),
    ],
)
def test_nobody_gets_in_without_the_secret(channel: Any, metadata: Any) -> None:
    for method in ("GetFlightInfo", "Handshake", "Nothing"):
        assert failed(channel, method, metadata).code is Code.CLIENT_PROXY_SECRET


@pytest.mark.parametrize("padding", ["", "="])
def test_a_password_is_changed_for_a_token(channel: Any, padding: str) -> None:
    basic = base64.b64encode(f"lin2:{SECRET.value}".encode()).decode().rstrip("=") + padding
    call = channel.stream_stream(f"{FLIGHT}Handshake")(
        iter(()), metadata=(("authorization", f"Basic {basic}"),), timeout=DEADLINE_S
    )
    assert list(call) == []
    token = dict(call.initial_metadata())["authorization"]
    assert unary(channel, "GetFlightInfo", (("authorization", token),)) == b"cba"


def test_what_makes_credentials_or_changes_anything_is_not_carried(channel: Any) -> None:
    methods = [
        f"/tidegate.v1.MemberService/{name}" for name in ("RenewCertificate", "IssueToken", "AddMember", "Revoke")
    ]
    changes = ("Register", "Update", "Withdraw", "AddPurpose", "GrantAgreement", "RevokeAgreement")
    methods += [f"/tidegate.v1.CatalogueService/{name}" for name in changes]
    for method in (*methods, "/tidegate.v1.NodeService/Attach", "/tidegate.v1.EnrolmentService/Join", "/x/y"):
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(method)(b"", metadata=BEARER, timeout=DEADLINE_S)
        assert from_rpc_error(caught.value).code is Code.WIRE_UNSUPPORTED, method


def test_our_own_services_are_carried(channel: Any) -> None:
    who = channel.unary_unary(
        "/tidegate.v1.MemberService/WhoAmI",
        request_serializer=member_service_pb2.WhoAmIRequest.SerializeToString,
        response_deserializer=member_service_pb2.WhoAmIResponse.FromString,
    )(member_service_pb2.WhoAmIRequest(), metadata=BEARER, timeout=DEADLINE_S)
    assert list(who.roles) == ["analyst"]


def test_the_methods_of_many_requests_are_those_of_the_protocol() -> None:
    modules = (audit_service_pb2, catalogue_service_pb2, member_service_pb2, query_service_pb2)
    streamed = {
        f"/{service.full_name}/{method.name}"
        for module in modules
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
        if method.client_streaming
    }
    assert {method for method in streamed if method.startswith(CARRIED)} <= STREAMED


def test_an_error_comes_back_as_the_broker_said_it(channel: Any) -> None:
    error = failed(channel, "GetSchema", BEARER)
    assert (error.code, error.message) == (Code.POLICY_REFUSED, "not for this purpose")
    assert len(error.request_id) == 32


def test_streams_go_both_ways_a_message_at_a_time(channel: Any) -> None:
    outgoing: queue.Queue[bytes | None] = queue.Queue()
    call = channel.stream_stream(f"{FLIGHT}DoPut")(iter(outgoing.get, None), metadata=BEARER, timeout=DEADLINE_S)
    for number in range(3):
        outgoing.put(str(number).encode())
        assert next(call) == str(number).encode()
    outgoing.put(b"end")
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    assert from_rpc_error(caught.value).message == "said so"
    outgoing.put(None)


def test_a_slow_reader_slows_the_broker(world: World, channel: Any) -> None:
    world.behind.given = 0
    call = channel.unary_stream(f"{FLIGHT}DoGet")(b"", metadata=BEARER, timeout=60.0)
    next(call)

    def stalled() -> bool:
        before = world.behind.given
        time.sleep(0.3)  # the time over which is measured
        return world.behind.given == before

    until(stalled, 10)
    assert world.behind.given < 100
    assert 1 + sum(1 for _ in call) == 400


def test_a_cancel_reaches_the_broker(world: World, channel: Any) -> None:
    call = channel.unary_stream(f"{FLIGHT}DoAction")(b"", metadata=BEARER, timeout=DEADLINE_S)
    next(call)
    cancelled = time.monotonic()
    call.cancel()
    assert world.behind.over.get(timeout=DEADLINE_S) - cancelled < 1.0


def test_a_client_that_goes_away_reaches_the_broker(world: World) -> None:
    opened = world.channel()
    call = opened.unary_stream(f"{FLIGHT}DoAction")(b"", metadata=BEARER, timeout=DEADLINE_S)
    next(call)
    closed = time.monotonic()
    opened.close()
    assert world.behind.over.get(timeout=DEADLINE_S) - closed < 1.0


def test_a_deadline_is_carried(world: World, channel: Any) -> None:
    left = float(channel.unary_unary(f"{FLIGHT}PollFlightInfo")(b"", metadata=BEARER, timeout=5.0))
    assert 3.0 < left < 5.5  # the wire rounds
    started = time.monotonic()
    call = channel.unary_stream(f"{FLIGHT}DoAction")(b"", metadata=BEARER, timeout=1.0)
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert world.behind.over.get(timeout=DEADLINE_S) - started < 2.0


def test_a_call_without_a_deadline_gets_one(channel: Any) -> None:
    left = float(channel.unary_unary(f"{FLIGHT}PollFlightInfo")(b"", metadata=BEARER))
    assert 600.0 < left < 661.0


def test_a_message_over_the_limit_is_refused(channel: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"{FLIGHT}GetFlightInfo")(bytes(5 * MIB), metadata=BEARER, timeout=DEADLINE_S)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_renewed_certificate_is_shown_and_the_old_channel_ends_when_it_is_idle(tmp_path: Path) -> None:
    behind = Behind()
    with running_exchange(tmp_path / "exchange", callers=[behind.register]) as running:
        folder = IdentityFolder(tmp_path / "identity")
        folder.save(running.exchange.member(IdentityKind.SERVICE, lifetime=timedelta(hours=24)))
        proxy = Proxy(Settings("127.0.0.1:0", folder.path, SECRET, Defaults()), print)
        with to(proxy) as channel:
            held = channel.unary_stream(f"{FLIGHT}DoAction")(b"", metadata=BEARER, timeout=DEADLINE_S)
            next(held)
            old = proxy._upstream._dialled
            folder.save(running.exchange.member(IdentityKind.SERVICE, lifetime=timedelta(hours=20)))
            proxy._upstream._look(wait=True)
            assert proxy._upstream._dialled is not old
            assert (old.retired, old.calls) == (True, 1)
            shown = running.exchange.refused
            unary(channel, "GetFlightInfo")
            assert shown == []
            held.cancel()
            until(lambda: old.calls == 0, DEADLINE_S)
        proxy.stop()


def test_a_revoked_identity_is_refused_through_the_proxy(tmp_path: Path) -> None:
    behind = Behind()
    with running_exchange(tmp_path / "exchange", callers=[behind.register]) as running:
        folder = IdentityFolder(tmp_path / "identity")
        identity = running.exchange.member(IdentityKind.PERSON, "health", "wu")
        folder.save(identity)
        proxy = Proxy(Settings("127.0.0.1:0", folder.path, SECRET, Defaults()), print)
        with to(proxy) as channel:
            held = channel.unary_stream(f"{FLIGHT}DoAction")(b"", metadata=BEARER, timeout=DEADLINE_S)
            next(held)
            running.exchange.members.revoke(identity=str(identity.spiffe), reason="test")
            started = time.monotonic()
            with pytest.raises(grpc.RpcError) as caught:
                next(held)
            assert time.monotonic() - started < 1.0
            assert from_rpc_error(caught.value).code is Code.ID_REVOKED
            assert failed(channel, "GetFlightInfo", BEARER).code is Code.ID_REVOKED
        proxy.stop()


def test_without_a_secret_everybody_is_let_in_and_a_handshake_still_answers(world: World) -> None:
    proxy = Proxy(Settings("[::1]:0", world.folder.path, secrets_of.none(), Defaults()), print)
    with to(proxy) as channel:
        call = channel.stream_stream(f"{FLIGHT}Handshake")(iter(()), timeout=DEADLINE_S)
        assert list(call) == []
        assert dict(call.initial_metadata())["authorization"] == "Bearer none"
        assert unary(channel, "GetFlightInfo", ()) == b"cba"
        world.behind.seen.get(timeout=DEADLINE_S)
    proxy.stop()


def test_tls_with_a_certificate_of_its_own(world: World, tmp_path: Path) -> None:
    file = tmp_path / "proxy.pem"
    proxy = Proxy(Settings("127.0.0.1:0", world.folder.path, SECRET, Defaults(), file), print)
    assert proxy.uri.startswith("grpc+tls://127.0.0.1:")
    credentials = grpc.ssl_channel_credentials(file.read_bytes())
    opened: Any = grpc.secure_channel(proxy.address, credentials)
    with opened as channel:
        assert unary(channel, "GetFlightInfo") == b"cba"
        world.behind.seen.get(timeout=DEADLINE_S)
    assert b"PRIVATE" not in file.read_bytes()
    proxy.stop()


def test_a_call_that_is_open_for_too_long_is_ended(world: World) -> None:
    class Late:
        """Cancelled when its time is over."""

        cancelled = False

        def cancel(self) -> None:
            self.cancelled = True

    forward = Forward(upstream=world.proxy._upstream, secret=SECRET, defaults=Defaults(), clock=SystemClock())
    now_s = SystemClock().monotonic_s()
    late, early = Late(), Late()
    forward._open = {1: (late, now_s - 1.0), 2: (early, now_s + 100.0)}
    forward.end_overdue()
    assert (late.cancelled, early.cancelled) == (True, False)


@pytest.mark.parametrize(
    "listen", ["0.0.0.0:7446", "192.0.2.1:7446", "[::]:7446", "example.com:1", "127.0.0.1", ":1", "127.0.0.1:x"]
)
def test_only_the_loopback_is_listened_on(listen: str) -> None:
    with pytest.raises(TidegateError) as caught:
        loopback(listen)
    assert caught.value.code is Code.CLIENT_INPUT


def test_an_address_that_is_taken_is_said(world: World) -> None:
    with pytest.raises(TidegateError) as caught:
        Proxy(Settings(world.proxy.address, world.folder.path, SECRET, Defaults()), print)
    assert caught.value.code is Code.CLIENT_INPUT


def test_a_secret_file_is_made_for_its_owner_alone_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    made = secrets_of.made(file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert secrets_of.made(file).value == made.value
    assert len(made.value) == 43
    assert secrets_of.made(None).value != secrets_of.made(None).value
    file.chmod(0o644)
    with pytest.raises(TidegateError) as caught:
        secrets_of.made(file)
    assert caught.value.code is Code.CONFIG_INVALID
    file.write_text("password\n")
    file.chmod(0o600)
    with pytest.raises(TidegateError) as caught:
        secrets_of.made(file)
    assert caught.value.code is Code.CONFIG_INVALID

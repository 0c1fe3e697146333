"""Identity over real TLS on loopback: joining, renewal, every kind of refusal, and streams that end in time."""

from __future__ import annotations

import queue
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from broker.open_calls import OpenCall
from broker.wire.guard import CallLimits, Guard
from tests.fakes.exchange import EXCHANGE, RunningExchange, SmallExchange, free_port, running_exchange
from tidegate.channel import open_channel, open_enrolment_channel
from tidegate.core.clock import SystemClock
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.names import IdentityKind
from tidegate.identity import joining
from tidegate.identity.folder import IdentityFolder, LocalIdentity
from tidegate.v1 import member_service_pb2, member_service_pb2_grpc
from tidegate.wire import from_rpc_error

NOW = SystemClock().now
DEADLINE_S = 10.0
END_S_MAX = 1.0


@dataclass
class Probe:
    """A service with one method of each arity, made to wait, to fail and to count."""

    started: queue.Queue[str] = field(default_factory=queue.Queue)
    release: threading.Event = field(default_factory=threading.Event)
    gone: queue.Queue[str] = field(default_factory=queue.Queue)

    def register(self, server: grpc.Server, guard: Guard) -> None:
        def fail(request: bytes, context: grpc.ServicerContext) -> bytes:
            raise ValueError("secret value 4711 in /srv/private/file.py")

        def refuse(request: bytes, context: grpc.ServicerContext) -> bytes:
            raise error_for(Code.POLICY_REFUSED, "no", detail="private detail")

        def said_abort(request: bytes, context: grpc.ServicerContext) -> bytes:
            context.abort(grpc.StatusCode.NOT_FOUND, "said so")
            return b""

        def who(request: bytes, context: grpc.ServicerContext) -> bytes:
            with guard.call(context) as caller:
                return str(caller.identity).encode()

        def fail_late(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
            yield b"first"
            raise ValueError("secret value 4711 in /srv/private/file.py")

        def wait(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
            """Blocks and never looks up: only the watch can end it."""
            over = threading.Event()
            context.add_callback(over.set)
            yield b"first"
            self.started.put("wait")
            over.wait(DEADLINE_S)
            self.gone.put("wait")

        def polite(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
            """Blocks, but has the guard wake it."""
            over = threading.Event()
            yield b"first"
            guard.on_end(context, over.set)
            self.started.put("polite")
            over.wait(DEADLINE_S)
            self.gone.put("polite")

        def hold(request: bytes, context: grpc.ServicerContext) -> bytes:
            self.started.put("hold")
            self.release.wait(DEADLINE_S)
            return b"held"

        def gather(requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
            return b"".join(requests)

        def echo(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            yield from requests

        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        handlers = {
            "Fail": unary(fail),
            "Refuse": unary(refuse),
            "Abort": unary(said_abort),
            "Who": unary(who),
            "Hold": unary(hold),
            "FailLate": stream(fail_late),
            "Wait": stream(wait),
            "Polite": stream(polite),
            "Gather": grpc.stream_unary_rpc_method_handler(gather),
            "Echo": grpc.stream_stream_rpc_method_handler(echo),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Probe", handlers),))


@dataclass(frozen=True)
class World:
    running: RunningExchange
    probe: Probe

    @property
    def exchange(self) -> SmallExchange:
        return self.running.exchange

    def channel(self, identity: LocalIdentity) -> grpc.Channel:
        node = identity.spiffe.kind is IdentityKind.NODE
        return open_channel(self.exchange.info.nodes if node else self.exchange.info.callers, identity)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    probe = Probe()
    limits = CallLimits(long_methods=frozenset({"/test.Probe/Hold"}), long_max=4, per_caller_max=6)
    folder = tmp_path_factory.mktemp("exchange")
    with running_exchange(folder, callers=[probe.register], nodes=[probe.register], limits=limits) as running:
        yield World(running, probe)
        probe.release.set()


def ask(channel: grpc.Channel, method: str, request: bytes = b"") -> bytes:
    try:
        answer: bytes = channel.unary_unary(f"/test.Probe/{method}")(request, timeout=DEADLINE_S)
    except grpc.RpcError as error:
        raise from_rpc_error(error) from error
    return answer


def refused(function: Callable[..., Any], *arguments: Any) -> TidegateError:
    with pytest.raises(TidegateError) as caught:
        function(*arguments)
    return caught.value


def who_am_i(channel: grpc.Channel) -> member_service_pb2.WhoAmIResponse:
    stub = member_service_pb2_grpc.MemberServiceStub(channel)
    return stub.WhoAmI(member_service_pb2.WhoAmIRequest(), timeout=DEADLINE_S)


# --- joining and renewal ----------------------------------------------------------------------------------------------


def invite(world: World, kind: IdentityKind, name: str) -> str:
    enrolment = world.exchange.enrolment
    return enrolment.invite(member="health", kind=kind, name=name, roles=["analyst"], tier="government").token


def test_a_department_joins_and_is_known(world: World, tmp_path: Path) -> None:
    folder = IdentityFolder(tmp_path / "id")
    identity = joining.join(invite(world, IdentityKind.PERSON, "ann"), folder)
    assert folder.load().certificate_pem == identity.certificate_pem
    with world.channel(folder.load()) as channel:
        answer = who_am_i(channel)
    assert answer.identity == f"spiffe://{EXCHANGE}/member/health/person/ann"
    assert list(answer.roles) == ["analyst"]
    assert "/person/ann" not in repr(world.exchange.entries)


def test_a_replayed_token_is_refused_and_harms_nothing(world: World, tmp_path: Path) -> None:
    token = invite(world, IdentityKind.SERVICE, "replayed")
    joining.join(token, IdentityFolder(tmp_path / "first"))
    error = refused(joining.join, token, IdentityFolder(tmp_path / "second"))
    assert error.code is Code.ID_JOIN_TOKEN
    assert not IdentityFolder(tmp_path / "second").exists


def test_an_identity_is_not_overwritten_and_its_token_not_spent(world: World, tmp_path: Path) -> None:
    folder = IdentityFolder(tmp_path)
    joining.join(invite(world, IdentityKind.SERVICE, "one"), folder)
    token = invite(world, IdentityKind.SERVICE, "two")
    assert refused(joining.join, token, folder).code is Code.CONFIG_INVALID
    assert joining.join(token, folder, replace=True).spiffe.name == "two"


def test_a_server_that_is_not_the_tokens_exchange_gets_nothing(world: World, tmp_path: Path) -> None:
    """The token of one exchange, pointed at another: refused before the token leaves the house."""
    with running_exchange(tmp_path / "other") as other:
        theirs = other.exchange.info.enrolment
        true = joining.JoinToken.parse(invite(world, IdentityKind.SERVICE, "lured"))
        lured = joining.JoinToken.make(theirs, true.root_fingerprint, b"\3" * 32)
        error = refused(joining.join, lured.text, IdentityFolder(tmp_path / "id"))
        assert error.code is Code.AUDIT_VERIFICATION
        assert other.exchange.entries == []


def test_nobody_at_the_address_is_a_clear_error(tmp_path: Path) -> None:
    token = joining.JoinToken.make(f"127.0.0.1:{free_port()}", "ab" * 32, b"\3" * 32)
    assert refused(joining.join, token.text, IdentityFolder(tmp_path)).code is Code.CLIENT_UNREACHABLE


@pytest.mark.parametrize("kind", [IdentityKind.PERSON, IdentityKind.SERVICE])
def test_a_caller_renews_over_its_link(world: World, kind: IdentityKind) -> None:
    old = world.exchange.member(kind, name="renews")
    with world.channel(old) as channel:
        new = joining.renew_over_link(old, channel, NOW())
    with world.channel(new) as channel:
        assert who_am_i(channel).identity == str(old.spiffe)


def test_a_node_that_was_off_for_two_days_comes_back_by_itself(world: World, tmp_path: Path) -> None:
    node = world.exchange.member(IdentityKind.NODE, name="slept")
    slept = world.exchange.forge([str(node.spiffe)], start=timedelta(hours=-72), end=timedelta(hours=-48), key=node.key)
    folder = IdentityFolder(tmp_path)
    folder.save(slept)
    assert refused(world.channel, folder.load()).code is Code.ID_CERTIFICATE_EXPIRED
    renewed = joining.renew_if_due(folder)
    assert renewed.spiffe == node.spiffe
    with world.channel(folder.load()) as channel:
        assert ask(channel, "Who") == str(node.spiffe).encode()


def test_a_young_certificate_is_left_alone_and_an_ageing_one_renewed(world: World, tmp_path: Path) -> None:
    folder, young = IdentityFolder(tmp_path), world.exchange.member(name="ages")
    folder.save(young)
    assert joining.renew_if_due(folder).facts.serial_hex == young.facts.serial_hex
    folder.save(world.exchange.forge([str(young.spiffe)], start=timedelta(hours=-20), end=timedelta(hours=4)))
    assert joining.renew_if_due(folder).facts.not_after > NOW() + timedelta(hours=23)


def test_an_ageing_certificate_serves_on_while_the_broker_is_away(world: World, tmp_path: Path) -> None:
    ageing = world.exchange.forge(
        [f"spiffe://{EXCHANGE}/member/health/service/desk"], start=timedelta(hours=-20), end=timedelta(hours=4)
    )
    nowhere = replace(ageing, exchange=replace(ageing.exchange, callers=f"127.0.0.1:{free_port()}"))
    folder = IdentityFolder(tmp_path)
    folder.save(nowhere)
    assert joining.renew_if_due(folder).facts.serial_hex == ageing.facts.serial_hex


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_refused_handshake_is_explained_by_the_client_itself(world: World, tmp_path: Path) -> None:
    good = world.exchange.member()
    other = SmallExchange(tmp_path, SystemClock()).member()
    expired = world.exchange.forge([str(good.spiffe)], start=timedelta(hours=-30), end=timedelta(hours=-6))
    assert refused(world.channel, expired).code is Code.ID_CERTIFICATE_EXPIRED
    for bad in (
        replace(other, root_pem=good.root_pem),
        replace(good, key=other.key),
        world.exchange.forge([str(good.spiffe), f"spiffe://{EXCHANGE}/broker/main"]),
    ):
        assert refused(world.channel, bad).code is Code.ID_CERTIFICATE_INVALID


def raw_channel(address: str, root_pem: bytes, identity: LocalIdentity | None) -> grpc.Channel:
    """Open a channel as somebody would who does not check its own certificate first."""
    credentials = grpc.ssl_channel_credentials(
        root_pem, identity.key_pem if identity else None, identity.presented_pem if identity else None
    )
    return grpc.secure_channel(address, credentials, options=[("grpc.use_local_subchannel_pool", 1)])


def test_the_server_refuses_them_too(world: World, tmp_path: Path) -> None:
    good, address = world.exchange.member(), world.exchange.info.callers
    stranger = SmallExchange(tmp_path, SystemClock()).member()
    expired = world.exchange.forge([str(good.spiffe)], start=timedelta(hours=-30), end=timedelta(hours=-6))
    for bad in (None, stranger, expired):
        with raw_channel(address, good.root_pem, bad) as channel:
            assert refused(ask, channel, "Who").code is Code.CLIENT_UNREACHABLE  # the handshake carries no status
    two = world.exchange.forge([str(good.spiffe), f"spiffe://{EXCHANGE}/member/health/service/other"])
    with raw_channel(address, good.root_pem, two) as channel:
        assert refused(ask, channel, "Who").code is Code.ID_CERTIFICATE_INVALID


def test_the_wrong_kind_of_certificate_is_refused_and_recorded(world: World) -> None:
    node = world.exchange.member(IdentityKind.NODE, name="astray")
    service = world.exchange.member(name="astray")
    broker = world.exchange.forge([f"spiffe://{EXCHANGE}/broker/evil"])
    for identity, address in (
        (node, world.exchange.info.callers),
        (service, world.exchange.info.nodes),
        (broker, world.exchange.info.callers),
    ):
        with open_channel(address, identity) as channel:
            assert refused(ask, channel, "Who").code is Code.ID_WRONG_KIND
            assert refused(ask, channel, "Who").code is Code.ID_WRONG_KIND
        told = [item for item in world.exchange.refused if item.serial_hex == identity.facts.serial_hex]
        assert [item.error.code for item in told] == [Code.ID_WRONG_KIND]  # once, however often it knocks


def test_a_members_certificate_cannot_stand_in_for_a_broker(world: World) -> None:
    """A member runs a server with its own certificate; our client does not talk to it."""
    member, caller = world.exchange.member(name="posing"), world.exchange.member(name="victim")
    from concurrent.futures import ThreadPoolExecutor

    server = grpc.server(ThreadPoolExecutor(2))
    shown = grpc.ssl_server_credentials([(member.key_pem, member.presented_pem)], member.root_pem, True)
    port = server.add_secure_port("127.0.0.1:0", shown)
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                "test.Probe", {"Who": grpc.unary_unary_rpc_method_handler(lambda request, context: b"fooled")}
            ),
        )
    )
    server.start()
    try:
        with open_channel(f"127.0.0.1:{port}", caller) as channel:
            assert refused(ask, channel, "Who").code is Code.CLIENT_UNREACHABLE
    finally:
        server.stop(0).wait()


def test_a_revoked_certificate_on_an_open_channel_is_refused_at_once_and_recorded(world: World) -> None:
    identity = world.exchange.member(name="leaves")
    with world.channel(identity) as channel:
        assert ask(channel, "Who")
        world.exchange.members.revoke(serial=identity.facts.serial_hex, reason="lost")
        assert refused(ask, channel, "Who").code is Code.ID_REVOKED
    assert any(item.serial_hex == identity.facts.serial_hex for item in world.exchange.refused)


# --- what leaves the house --------------------------------------------------------------------------------------------


def test_no_failure_says_more_than_it_should(world: World) -> None:
    with world.channel(world.exchange.member()) as channel:
        for method in ("Fail", "Refuse", "Abort", "FailLate"):
            call = channel.unary_stream(f"/test.Probe/{method}")(b"", timeout=DEADLINE_S)
            with pytest.raises(grpc.RpcError) as caught:
                list(call)
            text = repr(caught.value) + repr(caught.value.trailing_metadata())
            for secret in ("4711", "/srv", "Traceback", ".py", "private detail", "ValueError"):
                assert secret not in text, (method, secret)
    assert "4711" in "".join(world.exchange.logged)  # the operator sees what the caller does not


def test_an_internal_error_has_an_id(world: World) -> None:
    with world.channel(world.exchange.member()) as channel:
        error = refused(ask, channel, "Fail")
    assert error.code is Code.INTERNAL
    assert len(error.message.rpartition(" ")[2]) == 16
    assert error.request_id


def test_our_errors_and_aborts_pass_as_they_are(world: World) -> None:
    with world.channel(world.exchange.member()) as channel:
        assert refused(ask, channel, "Refuse").code is Code.POLICY_REFUSED
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/test.Probe/Abort")(b"", timeout=DEADLINE_S)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert caught.value.details() == "said so"


def test_every_arity_works_behind_the_guard(world: World) -> None:
    with world.channel(world.exchange.member()) as channel:
        messages = [b"a", b"", b"c"]
        assert channel.stream_unary("/test.Probe/Gather")(iter(messages), timeout=DEADLINE_S) == b"ac"
        assert list(channel.stream_stream("/test.Probe/Echo")(iter(messages), timeout=DEADLINE_S)) == messages
        assert ask(channel, "Who") == str(world.exchange.member().spiffe).encode()


GARBAGE = [b"\xff\xff\xff\xff", b"\x0a\xff\xff\xff\xff\x0f", b"\x00", b"\x0a\x02\xff\xfe"]


METHODS = ["AddMember", "ListMembers", "Revoke", "SetRoles", "RenewCertificate", "WhoAmI"]
# The last of the garbage is a field that two of the messages do not know, which protobuf lets pass.
PAIRS = [
    (method, raw)
    for method in METHODS
    for raw in GARBAGE
    if (method[0], raw) not in {("L", GARBAGE[3]), ("W", GARBAGE[3])}
]


@pytest.mark.parametrize(("method", "raw"), PAIRS)
def test_garbage_gets_a_clean_status(world: World, method: str, raw: bytes) -> None:
    operator = world.exchange.member(name="operator", roles=["operator"])
    with world.channel(operator) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/tidegate.v1.MemberService/{method}")(raw, timeout=DEADLINE_S)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert from_rpc_error(caught.value).code is Code.WIRE_INVALID


@pytest.mark.parametrize("raw", [*GARBAGE, b""])
@pytest.mark.parametrize("method", ["Join", "Renew"])
def test_garbage_at_the_enrolment_door_gets_a_clean_status(world: World, method: str, raw: bytes) -> None:
    info, root = world.exchange.info, world.exchange.authority.root_pem
    with open_enrolment_channel(info.enrolment, root) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/tidegate.v1.EnrolmentService/{method}")(raw, timeout=DEADLINE_S)
    assert from_rpc_error(caught.value).code in (Code.WIRE_INVALID, Code.WIRE_VERSION)


def test_a_message_over_the_limit_and_an_unknown_method_are_refused(world: World) -> None:
    with world.channel(world.exchange.member()) as channel:
        for method, request, status in (
            ("/test.Probe/Who", b"x" * (5 << 20), grpc.StatusCode.RESOURCE_EXHAUSTED),
            ("/test.Probe/Nothing", b"", grpc.StatusCode.UNIMPLEMENTED),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(method)(request, timeout=DEADLINE_S)
            assert caught.value.code() is status
        assert ask(channel, "Who")


def test_long_calls_leave_room_for_short_ones(world: World) -> None:
    greedy, other = world.exchange.member(name="greedy"), world.exchange.member(name="patient")
    with world.channel(greedy) as channel, world.channel(other) as elsewhere:
        held = [channel.unary_unary("/test.Probe/Hold").future(b"", timeout=DEADLINE_S) for _ in range(4)]
        for _ in held:
            assert world.probe.started.get(timeout=DEADLINE_S) == "hold"
        error = refused(ask, elsewhere, "Hold")
        assert error.code is Code.BUSY
        assert error.retry_after_s > 0
        assert ask(elsewhere, "Who")
        assert ask(channel, "Who")
        world.probe.release.set()
        assert [item.result() for item in held] == [b"held"] * 4
        assert ask(elsewhere, "Hold") == b"held"
        assert world.probe.started.get(timeout=DEADLINE_S) == "hold"


# --- streams end in time ----------------------------------------------------------------------------------------------


def revoke_serial(exchange: SmallExchange, identity: LocalIdentity) -> None:
    exchange.members.revoke(serial=identity.facts.serial_hex, reason="lost")


def revoke_member(exchange: SmallExchange, identity: LocalIdentity) -> None:
    exchange.members.revoke(member=identity.spiffe.member, reason="left")


def take_role(exchange: SmallExchange, identity: LocalIdentity) -> None:
    exchange.members.set_identity(str(identity.spiffe), [], "internal")


def lower_clearance(exchange: SmallExchange, identity: LocalIdentity) -> None:
    exchange.members.set_identity(str(identity.spiffe), ["analyst"], "public")


LOSSES = [
    (revoke_serial, Code.ID_REVOKED),
    (revoke_member, Code.ID_REVOKED),
    (take_role, Code.ID_ROLE_MISSING),
    (lower_clearance, Code.ID_ROLE_MISSING),
]


def end_of(call: Any) -> tuple[TidegateError | grpc.StatusCode, float]:
    started = time.monotonic()
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    took = time.monotonic() - started
    code = caught.value.code()
    return (code if code is grpc.StatusCode.CANCELLED else from_rpc_error(caught.value)), took


@pytest.mark.parametrize(("lose", "code"), LOSSES)
@pytest.mark.parametrize("kind", [IdentityKind.SERVICE, IdentityKind.NODE])
def test_a_loss_ends_open_streams_within_a_second(
    world: World, lose: Callable[..., None], code: Code, kind: IdentityKind
) -> None:
    member = f"m{lose.__name__.replace('_', '')}{kind.value}"
    identity = world.exchange.member(kind, member, "streams", ["analyst"])
    with world.channel(identity) as channel:
        polite = channel.unary_stream("/test.Probe/Polite")(b"", timeout=DEADLINE_S)
        waiting = channel.unary_stream("/test.Probe/Wait")(b"", timeout=DEADLINE_S)
        assert (next(polite), next(waiting)) == (b"first", b"first")
        assert {world.probe.started.get(timeout=DEADLINE_S) for _ in range(2)} == {"wait", "polite"}
        begin = time.monotonic()
        lose(world.exchange, identity)
        reason, _ = end_of(polite)
        assert isinstance(reason, TidegateError)
        assert reason.code is code
        ended, _ = end_of(waiting)
        assert ended is grpc.StatusCode.CANCELLED or (isinstance(ended, TidegateError) and ended.code is code)
        assert time.monotonic() - begin < END_S_MAX
        # and the threads that served them are free again
        assert {world.probe.gone.get(timeout=DEADLINE_S) for _ in range(2)} == {"wait", "polite"}


def test_a_certificate_that_ends_ends_its_streams_within_a_second(world: World) -> None:
    member = world.exchange.member(name="ends", roles=["analyst"])
    identity = world.exchange.forge([str(member.spiffe)], end=timedelta(seconds=3))
    with world.channel(identity) as channel:
        polite = channel.unary_stream("/test.Probe/Polite")(b"", timeout=DEADLINE_S)
        assert next(polite) == b"first"
        assert world.probe.started.get(timeout=DEADLINE_S) == "polite"
        reason, _ = end_of(polite)
        late_s = (NOW() - identity.facts.not_after).total_seconds()
        assert isinstance(reason, TidegateError)
        assert reason.code is Code.ID_CERTIFICATE_EXPIRED
        assert 0 <= late_s < END_S_MAX
        assert refused(ask, channel, "Who").code is Code.ID_CERTIFICATE_EXPIRED  # the channel itself is still open
        assert world.probe.gone.get(timeout=DEADLINE_S) == "polite"


def test_a_gain_ends_nothing(world: World) -> None:
    identity = world.exchange.member(name="gains", roles=["analyst"])
    with world.channel(identity) as channel:
        sent: queue.Queue[bytes | None] = queue.Queue()
        call = channel.stream_stream("/test.Probe/Echo")(iter(sent.get, None), timeout=DEADLINE_S)
        sent.put(b"one")
        assert next(call) == b"one"
        world.exchange.members.set_identity(str(identity.spiffe), ["analyst", "steward"], "secret")
        world.exchange.open_calls.review()
        sent.put(b"two")
        assert next(call) == b"two"
        sent.put(None)
        assert list(call) == []


def test_a_call_that_is_over_is_forgotten(world: World) -> None:
    with world.channel(world.exchange.member()) as channel:
        for _ in range(5):
            ask(channel, "Who")
            refused(ask, channel, "Fail")
        call = channel.unary_stream("/test.Probe/Wait")(b"", timeout=DEADLINE_S)
        assert next(call) == b"first"
        assert world.probe.started.get(timeout=DEADLINE_S) == "wait"
        call.cancel()
        assert world.probe.gone.get(timeout=DEADLINE_S) == "wait"
    assert _open(world.exchange) == []


def _open(exchange: SmallExchange) -> list[OpenCall]:
    """Give what is open once the server's threads had their turn; bounded by the watch's own tick."""
    limit = time.monotonic() + DEADLINE_S
    while len(exchange.open_calls) and time.monotonic() < limit:
        threading.Event().wait(0.01)
    return list(exchange.open_calls._calls.values())


# --- members and roles ------------------------------------------------------------------------------------------------


def test_only_an_operator_touches_members(world: World) -> None:
    analyst = world.exchange.member(name="curious", roles=["analyst", "steward", "auditor"])
    with world.channel(analyst) as channel:
        stub = member_service_pb2_grpc.MemberServiceStub(channel)
        for call, request in (
            (
                stub.AddMember,
                member_service_pb2.AddMemberRequest(member="x", kind="node", name="n", idempotency_key="k"),
            ),
            (stub.ListMembers, member_service_pb2.ListMembersRequest()),
            (stub.Revoke, member_service_pb2.RevokeRequest(member="health", reason="r", idempotency_key="k")),
            (stub.SetRoles, member_service_pb2.SetRolesRequest(identity=str(analyst.spiffe), idempotency_key="k")),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                call(request, timeout=DEADLINE_S)
            assert from_rpc_error(caught.value).code is Code.ID_ROLE_MISSING


def test_an_operator_adds_lists_changes_and_revokes(world: World, tmp_path: Path) -> None:
    operator = world.exchange.member(name="operator", roles=["operator"])
    with world.channel(operator) as channel:
        stub = member_service_pb2_grpc.MemberServiceStub(channel)
        request = member_service_pb2.AddMemberRequest(
            member="attached", title="Attached", tier="external", kind="service", name="s", roles=["analyst"],
            clearance="internal", idempotency_key="add-1",
        )  # fmt: skip
        added = stub.AddMember(request, timeout=DEADLINE_S)
        assert stub.AddMember(request, timeout=DEADLINE_S).token == added.token
        request.name = "other"
        with pytest.raises(grpc.RpcError) as caught:
            stub.AddMember(request, timeout=DEADLINE_S)
        assert from_rpc_error(caught.value).code is Code.CAT_CONFLICT
        joined = joining.join(added.token, IdentityFolder(tmp_path))
        listed = {item.name: item for item in stub.ListMembers(member_service_pb2.ListMembersRequest()).members}
        assert listed["attached"].attached
        assert not listed["health"].attached
        assert [item.spiffe_id for item in listed["attached"].identities] == [str(joined.spiffe)]
        stub.SetRoles(
            member_service_pb2.SetRolesRequest(
                identity=added.identity, roles=["steward"], clearance="public", idempotency_key="set-1"
            )
        )
        with world.channel(joined) as theirs:
            assert list(who_am_i(theirs).roles) == ["steward"]
            stub.Revoke(member_service_pb2.RevokeRequest(member="attached", reason="over", idempotency_key="r-1"))
            with pytest.raises(grpc.RpcError) as caught:
                who_am_i(theirs)
            assert from_rpc_error(caught.value).code is Code.ID_REVOKED
    kinds = [(entry["kind"], entry["action"]) for entry in world.exchange.entries[-4:]]
    assert kinds == [("enrolment", "invited"), ("certificate", "joined"), ("role", "set"), ("revocation", "revoked")]


def test_a_write_needs_an_idempotency_key_and_a_known_identity(world: World) -> None:
    operator = world.exchange.member(name="operator", roles=["operator"])
    with world.channel(operator) as channel:
        stub = member_service_pb2_grpc.MemberServiceStub(channel)
        for call, request, code in (
            (stub.Revoke, member_service_pb2.RevokeRequest(member="health", reason="r"), Code.WIRE_INVALID),
            (
                stub.SetRoles,
                member_service_pb2.SetRolesRequest(
                    identity=f"spiffe://{EXCHANGE}/member/health/service/ghost", clearance="public", idempotency_key="g"
                ),
                Code.ID_MEMBER_UNKNOWN,
            ),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                call(request, timeout=DEADLINE_S)
            assert from_rpc_error(caught.value).code is code


def test_the_listeners_show_a_renewed_certificate_without_a_restart(tmp_path: Path) -> None:
    """A broker's certificate past the half of its life is replaced at the next handshake, and clients go on."""
    with running_exchange(tmp_path, broker_lifetime=timedelta(minutes=4)) as running:  # backdated by five: always due
        address, port = joining.split_address(running.exchange.info.enrolment)
        shown = {ssl.get_server_certificate((address, port)) for _ in range(3)}
        assert len(shown) == 3
        assert running.broker.handshakes >= 3 and running.broker.swaps >= 3
        identity = running.exchange.member()
        for _ in range(2):
            with open_channel(running.exchange.info.callers, identity) as channel:
                assert who_am_i(channel).identity == str(identity.spiffe)


def test_hundreds_of_handshakes_at_once_leave_the_broker_standing(tmp_path: Path) -> None:
    """All of a city's nodes dial at one moment, after a broker's start. Swapping credentials under them crashed gRPC."""
    with running_exchange(tmp_path) as running:
        identity = running.exchange.member()
        failed: list[object] = []

        def dial() -> None:
            for _ in range(25):
                with open_channel(running.exchange.info.callers, identity) as channel:
                    try:
                        grpc.channel_ready_future(channel).result(timeout=60)
                    except grpc.FutureTimeoutError as error:
                        failed.append(error)

        threads = [threading.Thread(target=dial) for _ in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed
        assert running.broker.handshakes >= 600 and running.broker.swaps == 0
        with open_channel(running.exchange.info.callers, identity) as channel:
            assert who_am_i(channel).identity == str(identity.spiffe)

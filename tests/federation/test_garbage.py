"""Garbage at every door: a clean status that says nothing about the machine, and nobody else is hurt (design doors.md)."""

from __future__ import annotations

import random
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import grpc
import pyarrow as pa
import pytest
from google.protobuf.descriptor import FieldDescriptor as Field
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.robust import (
    CALL_S_MAX,
    CANARY,
    ROLES,
    LightNode,
    OnFragment,
    Rpc,
    Up,
    World,
    ask,
    broker_world,
    call_raw,
    described,
    every_rpc,
    rows_of,
)
from tidegate import ipc
from tidegate.channel import open_channel, open_enrolment_channel, split_address
from tidegate.core.errors import Code
from tidegate.core.limits import CONTROL_MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX
from tidegate.core.names import IdentityKind
from tidegate.v1 import common_pb2, node_service_pb2

pytestmark = pytest.mark.xdist_group("federation-garbage")

RPCS = every_rpc()
TABLE = pa.table({"c0": [1, 2, 3], "c1": ["a", "b", "c"]})
OK = grpc.StatusCode.OK
_INTEGERS = {Field.TYPE_UINT32, Field.TYPE_UINT64, Field.TYPE_INT32, Field.TYPE_INT64, Field.TYPE_ENUM, Field.TYPE_BOOL}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with broker_world(tmp_path_factory.mktemp("garbage") / CANARY) as found:
        yield found


@pytest.fixture(scope="module")
def doors(world: World) -> Iterator[dict[str, grpc.Channel]]:
    """One channel for each listener, under an identity with every role, so that garbage gets as far as it can."""
    desk = world.issuer.identity("health", "desk", roles=ROLES)
    node = world.issuer.identity("health", "node1", kind=IdentityKind.NODE, roles=())
    found = {
        "callers": open_channel(world.info.callers, desk),
        "nodes": open_channel(world.info.nodes, node),
        "enrolment": open_enrolment_channel(world.info.enrolment, desk.root_pem),
    }
    yield found
    for channel in found.values():
        channel.close()


def served_at(doors: dict[str, grpc.Channel], rpc: Rpc) -> list[tuple[str, grpc.Channel]]:
    """Give the listeners that serve a method; every method is served somewhere."""
    found = [
        (name, channel)
        for name, channel in doors.items()
        if call_raw(channel, rpc.path, b"\xff").status is not grpc.StatusCode.UNIMPLEMENTED
    ]
    assert found or rpc.path.endswith("/Watch"), f"{rpc.path} is served nowhere"
    return found


def tag(number: int, kind: int) -> bytes:
    """Give a field's tag as a varint."""
    value, found = number << 3 | kind, bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def text_field(number: int, value: bytes) -> bytes:
    return tag(number, 2) + varint(len(value)) + value


def undecodable(rpc: Rpc) -> list[bytes]:
    """Give bytes that are no message at all."""
    chance = random.Random(rpc.path)
    found = [b"\xff", b"\x0b" * 5000, text_field(1, b"x" * 20)[:-3], tag(1, 2) + b"\xff" * 11]
    found += [b"\x07" + chance.randbytes(size) for size in (3, 300, 30_000)]
    found += [text_field(item.number, b"ab\xff\xfe\xc0\x80") for item in rpc.fields if item.type == Field.TYPE_STRING]
    return found


def decodable(rpc: Rpc) -> list[bytes]:
    """Give messages that can be read, and mean nothing: empty, unknown fields, wrong types, long and hostile texts."""
    found = [b"", tag(500, 0) + b"\x01", text_field(501, b"x" * 1000)]
    hostile = [
        "x" * 1_000_000,
        "\u0436\U0001f600" * 20_000,
        "\x00\x1b[2J\r\n\u202e",
        "' OR 1=1 --",
        "{" * 50_000,
        "-1",
        "NaN",
        "[" * 50_000,
        '{"a":1e999}',
        "1" * 5000,
        f"SELECT {CANARY}",
        '{"\\ud800": "\\ud800"}',
        '["\\ud800"]',
    ]
    for item in rpc.fields:
        wrong = tag(item.number, 2 if item.type in _INTEGERS else 0) + b"\x05" + b"\x08" * 5
        found.append(wrong)
        if item.type == Field.TYPE_STRING:
            found += [text_field(item.number, text.encode()) for text in hostile]
        elif item.type == Field.TYPE_BYTES:
            found += [text_field(item.number, bytes_) for bytes_ in (b"\x00" * 1_000_000, b"\xff" * 100, b"-----BEGIN")]
        elif item.type in _INTEGERS:
            found.append(tag(item.number, 0) + b"\xff" * 9 + b"\x01")
        elif item.type == Field.TYPE_DOUBLE:
            found += [tag(item.number, 1) + bits for bits in (b"\xff" * 8, b"\x00" * 6 + b"\xf0\x7f")]
    return found


@pytest.mark.parametrize("rpc", RPCS, ids=lambda rpc: rpc.path)
def test_bytes_that_are_no_message_are_refused_as_such(doors: dict[str, grpc.Channel], rpc: Rpc) -> None:
    for _, channel in served_at(doors, rpc):
        for payload in undecodable(rpc):
            seen = call_raw(channel, rpc.path, payload)
            assert (seen.code, seen.answers) == (Code.WIRE_INVALID, 0), f"{payload[:20]!r}: {seen}"


@pytest.mark.parametrize("rpc", RPCS, ids=lambda rpc: rpc.path)
def test_messages_that_mean_nothing_end_clean(doors: dict[str, grpc.Channel], rpc: Rpc) -> None:
    for name, channel in served_at(doors, rpc):
        for payload in decodable(rpc):
            seen = call_raw(channel, rpc.path, payload)
            clean(rpc, name, payload, seen)


def clean(rpc: Rpc, listener: str, payload: bytes, seen: Any) -> None:
    """An answer, or one of our errors that is somebody else's fault than ours."""
    said = f"{rpc.path} at {listener} with {payload[:40]!r} of {len(payload)}: {seen}"
    if seen.status is OK:
        return
    assert seen.code is not None or rpc.path.startswith("/grpc.health."), said
    assert seen.status not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED), (
        said
    )


@pytest.mark.parametrize("rpc", RPCS, ids=lambda rpc: rpc.path)
def test_a_message_over_the_limit_is_refused_before_it_is_read(doors: dict[str, grpc.Channel], rpc: Rpc) -> None:
    for name, channel in served_at(doors, rpc):
        limit = MESSAGE_BYTES_MAX if name == "nodes" else CONTROL_MESSAGE_BYTES_MAX
        if name == "nodes" and limit >= MESSAGE_BYTES_MAX:
            continue  # our own channel sends no more either; a bare one is tried below
        seen = call_raw(channel, rpc.path, text_field(1, b"x" * (limit + 1)))
        assert seen.status is grpc.StatusCode.RESOURCE_EXHAUSTED, seen


FIELD_VALUES = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=40).map(str.encode),
    st.sampled_from([b"{}", b"[]", b'{"v":1}', b"null", b"1"]),
)
MESSAGES = st.one_of(
    st.binary(max_size=200),
    st.lists(
        st.one_of(
            st.tuples(st.integers(1, 12), FIELD_VALUES).map(lambda pair: text_field(*pair)),
            st.tuples(st.integers(1, 12), st.integers(0, 2**64 - 1)).map(
                lambda pair: tag(pair[0], 0) + varint(pair[1])
            ),
        ),
        max_size=8,
    ).map(b"".join),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(payload=MESSAGES)
def test_any_bytes_at_any_door_end_clean(doors: dict[str, grpc.Channel], payload: bytes) -> None:
    for rpc in RPCS:
        for name, channel in doors.items():
            seen = call_raw(channel, rpc.path, payload)
            if seen.status is not grpc.StatusCode.UNIMPLEMENTED:
                clean(rpc, name, payload, seen)


# --- without a certificate --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("listener", ["callers", "nodes"])
def test_without_a_certificate_there_is_no_conversation(world: World, listener: str) -> None:
    address = getattr(world.info, listener)
    root = world.issuer.authority.root_pem
    with grpc.secure_channel(address, grpc.ssl_channel_credentials(root)) as channel:
        for rpc in RPCS:
            call = channel.stream_stream(rpc.path)(iter([b""]), timeout=10)
            with pytest.raises(grpc.RpcError) as caught:
                list(call)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE, rpc.path  # type: ignore[attr-defined]
            break  # every call of a channel shares its one handshake
    context = ssl.create_default_context(cadata=root.decode())
    context.check_hostname = False
    host, port = split_address(address)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        talk_without_certificate(host, port, context)


def talk_without_certificate(host: str, port: int, context: ssl.SSLContext) -> None:
    """TLS 1.3 tells a client that its certificate is missing after the client's own last word."""
    with socket.create_connection((host, port), timeout=10) as raw, context.wrap_socket(raw) as secured:
        secured.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        while secured.recv(4096):
            pass
    raise ConnectionError("closed without a word")


@pytest.mark.parametrize("listener", ["callers", "nodes", "enrolment"])
def test_bytes_that_are_not_tls_hurt_nobody(world: World, doors: dict[str, grpc.Channel], listener: str) -> None:
    host, port = split_address(getattr(world.info, listener))
    for size in (1, 100, 100_000):
        with socket.create_connection((host, port), timeout=10) as raw:
            raw.settimeout(10)
            with suppress(ConnectionError):
                raw.sendall(random.Random(size).randbytes(size))
                with suppress(OSError):  # the listener may have hung up already
                    raw.shutdown(socket.SHUT_WR)
                while answer := raw.recv(4096):
                    assert len(answer) < 200, "a stranger is told more than an alert"
    assert call_raw(doors[listener], "/grpc.health.v1.Health/Check", b"").answers == 1


def test_a_request_over_the_limit_of_nodes_is_refused(world: World) -> None:
    node = world.issuer.identity("health", "bulky", kind=IdentityKind.NODE, roles=())
    with open_channel(world.info.nodes, node, message_bytes_max=4 * MESSAGE_BYTES_MAX) as channel:
        for rpc in RPCS:
            if rpc.path.startswith("/tidegate.v1.NodeService/"):
                seen = call_raw(channel, rpc.path, text_field(1, b"x" * (MESSAGE_BYTES_MAX + 1)))
                assert seen.status is grpc.StatusCode.RESOURCE_EXHAUSTED, seen


# --- a node that misbehaves ---------------------------------------------------------------------------------------------------


SQL = "SELECT id, word FROM {}.tides"


@pytest.fixture(scope="module")
def coast(world: World) -> World:
    """Two departments whose datasets are registered: ``ebb`` will misbehave, ``flood`` answers well."""
    for member in ("ebb", "flood"):
        steward = world.session(member, "steward", kind=IdentityKind.PERSON, roles=["steward"])
        steward.catalogue.register(described(member, "tides"))
    return world


def node_of(world: World, member: str, on_fragment: OnFragment | None = None) -> LightNode:
    identity = world.issuer.identity(member, "node1", kind=IdentityKind.NODE, roles=())
    return LightNode(identity, datasets=[described(member, "tides")], on_fragment=on_fragment).wait()


def answers_well(node: LightNode, fragment: node_service_pb2.Fragment) -> None:
    node.answer(fragment, TABLE)


def garbage_down_the_stream(node: LightNode, fragment: node_service_pb2.Fragment) -> None:
    node.say_raw(b"\xff\xff\xff")


def empty_message(node: LightNode, fragment: node_service_pb2.Fragment) -> None:
    node.say(Up())


def second_hello(node: LightNode, fragment: node_service_pb2.Fragment) -> None:
    node.say(Up(hello=node_service_pb2.Hello(session_nonce=b"x" * 16)))


def chunks_that_are_not_arrow(node: LightNode, fragment: node_service_pb2.Fragment) -> None:
    node.answer_chunks(fragment, [b"not a schema", b"\x00" * 100])


def chunk_with_a_wild_length(node: LightNode, fragment: node_service_pb2.Fragment) -> None:
    schema, *rest = ipc.cut(TABLE.schema, TABLE.to_batches())
    node.answer_chunks(fragment, [schema, b"\xff\xff\xff\xff\xff\xff\xff\x7f" + rest[0][8:]])


def other_columns_than_asked(node: LightNode, fragment: node_service_pb2.Fragment) -> None:
    node.answer(fragment, pa.table({"c0": ["x"]}))


def unsigned(node: LightNode, fragment: node_service_pb2.Fragment) -> None:
    node.answer(fragment, TABLE, signature=b"\x00" * 70)


def unknown_code_and_a_flood_of_words(node: LightNode, fragment: node_service_pb2.Fragment) -> None:
    reason = common_pb2.Reason(
        code="x" * 10_000, text="\u0436" * 10_000, ask_for="\x1b[2J" * 5000, decided_by="y" * 10_000
    )
    error = common_pb2.ErrorDetail(
        code="TG-NONE-999",
        message="\u0436\x1b]0;owned\x07" * 20_000,
        reasons=[reason] * 200,
        request_id="z" * 10_000,
        retry_after_s=float("nan"),
        next_step="n" * 10_000,
        receipt=b"r" * 1_000_000,
    )
    node.say(Up(failure=node_service_pb2.FragmentFailure(fragment_id=fragment.id, error=error)))


def deliver_garbage(node: LightNode, fragment: node_service_pb2.Fragment) -> None:
    start = node_service_pb2.DeliverStart(
        fragment_id=fragment.id, grant_id=node.grant_id(fragment), schema=b"no schema"
    )
    first = node_service_pb2.DeliverRequest(start=start).SerializeToString()
    seen = call_raw(node.channel, "/tidegate.v1.NodeService/Deliver", first, b"\xff\xff")
    assert seen.code is Code.WIRE_INVALID


def deliver_half(node: LightNode, fragment: node_service_pb2.Fragment) -> None:
    start = node_service_pb2.DeliverStart(
        fragment_id=fragment.id, grant_id=node.grant_id(fragment), schema=next(ipc.cut(TABLE.schema, []))
    )
    call_raw(
        node.channel,
        "/tidegate.v1.NodeService/Deliver",
        node_service_pb2.DeliverRequest(start=start).SerializeToString(),
    )


FETCH_FAILURES = (Code.FETCH_INVALID_DATA, Code.FETCH_NODE_AWAY, Code.FETCH_NODE_FAILED)
MISBEHAVIOURS = [
    garbage_down_the_stream,
    empty_message,
    second_hello,
    chunks_that_are_not_arrow,
    chunk_with_a_wild_length,
    other_columns_than_asked,
    unsigned,
    unknown_code_and_a_flood_of_words,
    deliver_garbage,
    deliver_half,
]


@pytest.mark.parametrize("misbehave", MISBEHAVIOURS, ids=lambda item: item.__name__)
def test_a_node_that_sends_garbage_hurts_nobody_else(coast: World, misbehave: OnFragment) -> None:
    """The caller hears which department it was, alone and in a join; everybody else goes on; so may the department."""
    desk = coast.session("health")
    good = node_of(coast, "flood", answers_well)
    try:
        for sql in (SQL.format("ebb"), "SELECT e.id, f.word FROM ebb.tides AS e JOIN flood.tides AS f USING (id)"):
            bad = node_of(coast, "ebb", misbehave)
            try:
                seen = ask(desk, sql)
            finally:
                bad.close()
            alone = "JOIN" not in sql
            if misbehave is other_columns_than_asked and not alone:
                assert seen.code is Code.JOIN_FAILED, seen  # the engine finds out, and says nothing of what it read
            else:
                assert seen.code in FETCH_FAILURES and "ebb" in seen.message, seen
            assert rows_of(desk.query(SQL.format("flood"))) == TABLE.rename_columns(["id", "word"]).to_pylist()
            assert good.ended.empty()
        again = node_of(coast, "ebb", answers_well)
        assert len(rows_of(desk.query(SQL.format("ebb")))) == TABLE.num_rows
        again.close()
    finally:
        good.close()


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff", b""])
def test_a_node_hears_why_its_link_was_ended(coast: World, garbage: bytes) -> None:
    node = node_of(coast, "ebb")
    try:
        node.say_raw(garbage)
        seen = node.ended.get(timeout=CALL_S_MAX)
        assert seen is not None and seen.code is Code.WIRE_INVALID
    finally:
        node.close()


def test_a_node_may_not_deliver_for_another(coast: World) -> None:
    thief, victim = node_of(coast, "ebb"), node_of(coast, "flood")
    desk = coast.session("health")
    try:
        asked = threading.Thread(target=lambda: ask(desk, SQL.format("flood")))
        asked.start()
        fragment = victim.fragments.get(timeout=CALL_S_MAX)
        start = node_service_pb2.DeliverStart(
            fragment_id=fragment.id, grant_id=victim.grant_id(fragment), schema=next(ipc.cut(TABLE.schema, []))
        )
        message = node_service_pb2.DeliverRequest(start=start).SerializeToString()
        seen = call_raw(thief.channel, "/tidegate.v1.NodeService/Deliver", message)
        assert seen.code is Code.NODE_FRAGMENT
        thief.answer(fragment, TABLE)  # not its own: nobody waits for it there
        thief.say(Up(failure=node_service_pb2.FragmentFailure(fragment_id=fragment.id)))
        victim.fail(fragment.id, Code.NODE_EXECUTE)
        asked.join(CALL_S_MAX)
        assert not asked.is_alive()
    finally:
        thief.close()
        victim.close()


def test_errors_with_long_words_of_any_script_reach_the_caller_whole(coast: World) -> None:
    desk = coast.session("health")
    for name in ("x" * 5000, "\u0436" * 5000, "\U0001f30a" * 5000, "a\u0301" * 3000):
        seen = ask(desk, f'SELECT "{name}" FROM flood.tides')
        assert seen.code is not None and seen.status is not grpc.StatusCode.RESOURCE_EXHAUSTED, seen
        seen = ask(desk, f'SELECT 1 FROM flood."{name}"')
        assert seen.code is not None and seen.status is not grpc.StatusCode.RESOURCE_EXHAUSTED, seen
        seen = ask(desk, "SELECT 1", purpose=name)
        assert seen.code is Code.POLICY_PURPOSE, seen

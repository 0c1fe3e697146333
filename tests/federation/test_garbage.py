"""Garbage at every door: a clean status that says nothing about the machine, and nobody else is hurt (design doors.md)."""

from __future__ import annotations

import random
import ssl
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor as Field
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.robust import CANARY, ROLES, LightNode, Rpc, World, broker_world, call_raw, described, drained, every_rpc, open_as
from tidegate.channel import open_channel, open_enrolment_channel, split_address
from tidegate.core.clock import SystemIds
from tidegate.core.errors import Code, TidegateError
from tidegate.core.limits import CONTROL_MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX
from tidegate.core.names import IdentityKind
from tidegate.v1 import common_pb2, node_service_pb2

pytestmark = pytest.mark.xdist_group("federation-garbage")

RPCS = every_rpc()
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
    hostile = ["x" * 1_000_000, "\u0436\U0001f600" * 20_000, "\x00\x1b[2J\r\n\u202e", "' OR 1=1 --", "{" * 50_000, "-1", "NaN",
               "[" * 50_000, '{"a":1e999}', "1" * 5000, f"SELECT {CANARY}"]
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
    assert seen.status not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED), said


@pytest.mark.parametrize("rpc", RPCS, ids=lambda rpc: rpc.path)
def test_a_message_over_the_limit_is_refused_before_it_is_read(doors: dict[str, grpc.Channel], rpc: Rpc) -> None:
    for name, channel in served_at(doors, rpc):
        limit = MESSAGE_BYTES_MAX if name == "nodes" else CONTROL_MESSAGE_BYTES_MAX
        if name == "nodes" and limit >= MESSAGE_BYTES_MAX:
            continue  # our own channel sends no more either; a bare one is tried below
        seen = call_raw(channel, rpc.path, text_field(1, b"x" * (limit + 1)))
        assert seen.status is grpc.StatusCode.RESOURCE_EXHAUSTED, seen


FIELD_VALUES = st.one_of(
    st.binary(max_size=60), st.text(max_size=40).map(str.encode), st.sampled_from([b"{}", b"[]", b'{"v":1}', b"null", b"1"])
)
MESSAGES = st.one_of(
    st.binary(max_size=200),
    st.lists(
        st.one_of(
            st.tuples(st.integers(1, 12), FIELD_VALUES).map(lambda pair: text_field(*pair)),
            st.tuples(st.integers(1, 12), st.integers(0, 2**64 - 1)).map(lambda pair: tag(pair[0], 0) + varint(pair[1])),
        ),
        max_size=8,
    ).map(b"".join),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(payload=MESSAGES)
def test_any_bytes_at_any_door_end_clean(doors: dict[str, grpc.Channel], payload: bytes) -> None:
    for rpc in RPCS:
        for name, channel in doors.items():
            seen = call_raw(channel, rpc.path, payload)
            if seen.status is not grpc.StatusCode.UNIMPLEMENTED:
                clean(rpc, name, payload, seen)

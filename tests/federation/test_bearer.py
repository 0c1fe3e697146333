"""The bearer listener with real clients: whom it lets in, to what, for how long, and what the log says of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import adbc_driver_flightsql.dbapi as flight_sql
import adbc_driver_manager
import grpc
import pytest
from adbc_driver_flightsql import DatabaseOptions
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.federation.streaming_world import until
from tests.federation.unbound_world import MARKED, ROWS, UNMARKED, WAIT_S, World, abandon, answer, world
from tidegate.core.errors import Code, TidegateError
from tidegate.identity.folder import IdentityFolder
from tidegate.wire import from_rpc_error

pytestmark = pytest.mark.xdist_group("federation-bearer")

MANY = f"SELECT id, words FROM {MARKED}"
FEW = f"SELECT count(*) AS n FROM {MARKED}"
DEADLINE_S = 10.0


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("bearer")) as made:
        yield made


def refused(running: World, token: str, sql: str = FEW, **more: str) -> str:
    with pytest.raises(adbc_driver_manager.Error) as caught, running.by_token(token, **more) as connection:
        answer(connection, sql)
    return str(caught.value)


def call(running: World, method: str, metadata: Any, request: bytes = b"") -> bytes:
    credentials = grpc.ssl_channel_credentials(running.root_pem.encode())
    opened: Any = grpc.secure_channel(running.bearer, credentials)
    with opened as channel:
        given: bytes = channel.unary_unary(method)(request, metadata=metadata, timeout=DEADLINE_S)
        return given


def refusal(running: World, method: str, metadata: Any) -> TidegateError:
    with pytest.raises(grpc.RpcError) as caught:
        call(running, method, metadata)
    return from_rpc_error(caught.value)


def test_a_token_answers_on_marked_data_and_is_recorded_as_unbound(running: World) -> None:
    token = running.token("lin")
    with running.by_token(token) as connection:
        table = answer(connection, FEW)
    assert table["n"].to_pylist() == [ROWS]
    entry = running.entries("decision")[0]
    assert (entry["bound"], entry["door"], entry["member"]) == ("bearer", "flight", "city")
    issued = next(item for item in running.entries("admin") if item["action"] == "bearer_token")
    assert issued["details"] == {"lifetime_s": 900}
    assert "bound" not in issued
    until(lambda: any(item.get("bound") == "bearer" for item in running.log_of_node("execute")), WAIT_S)
    everything = "".join(item.log.read_text(errors="replace") for item in running.exchange.running.values())
    assert token not in everything
    assert token.removeprefix("tgbearer1_")[:16] not in everything
    assert all(token not in str(item) for kind in ("admin", "decision") for item in running.entries(kind))


def test_data_that_is_not_marked_is_refused_with_what_to_ask_for(running: World) -> None:
    said = refused(running, running.token("lin"), f"SELECT count(*) FROM {UNMARKED}")
    assert "TG-POLICY-001" in said
    assert "bearer token" in said
    entry = running.entries("refusal")[0]
    assert (entry["bound"], entry["reasons"]) == ("bearer", ["bearer_not_permitted"])
    both = refused(running, running.token("lin"), f"SELECT count(*) FROM {MARKED}, {UNMARKED}")
    assert "TG-POLICY-001" in both


def test_the_certificate_of_the_same_person_needs_no_mark(running: World) -> None:
    with running.proxy("--purpose", "research.statistics") as proxy:
        options = {DatabaseOptions.AUTHORIZATION_HEADER.value: f"Bearer {proxy.secret}"}
        with flight_sql.connect(proxy.uri, db_kwargs=options, autocommit=True) as connection:
            assert answer(connection, f"SELECT count(*) AS n FROM {UNMARKED}")["n"].to_pylist() == [1000]
    assert "bound" not in running.entries("decision")[0]


def test_the_node_decides_the_same_from_its_own_description(running: World) -> None:
    """The catalogue is told that the data is marked; the department's own gate says that it is not."""
    steward = running.exchange.session("alpha", "steward")
    held = next(item for item in steward.catalogue.held_by_node() if str(item.name) == UNMARKED)
    assert not held.bearer_ok
    steward.catalogue.update(replace(steward.catalogue[UNMARKED], bearer_ok=True))
    try:
        said = refused(running, running.token("lin"), f"SELECT x FROM {UNMARKED}")
        assert "this department's own gate refused" in said
        assert running.entries("outcome")[0]["error"] == "TG-POLICY-001"
        until(lambda: bool(running.log_of_node("refuse")), WAIT_S)
        assert running.log_of_node("refuse")[-1]["details"]["reasons"] == "bearer_not_permitted"
    finally:
        steward.catalogue.update(replace(steward.catalogue[UNMARKED], bearer_ok=False))


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("authorization", "Bearer tgbearer1_" + "A" * 43),),
        (("authorization", "Bearer "),),
        (("authorization", "Bearer " + "A" * 3000),),
        (("authorization", "Basic bGluOnB3"),),
    ],
)
def test_nobody_gets_in_without_a_token(running: World, metadata: Any) -> None:
    for method in ("Handshake", "GetFlightInfo"):
        error = refusal(running, f"/arrow.flight.protocol.FlightService/{method}", metadata)
        assert error.code in (Code.ID_BEARER, Code.BUSY)
        if error.code is Code.ID_BEARER:
            assert "tidegate token" in error.message


def test_a_password_is_not_taken_and_the_answer_says_how(running: World) -> None:
    said = refused(running, "", username="lin", password="secret")
    assert "no password is taken here" in said or "too many calls" in said


def test_two_tokens_in_one_call_are_refused(running: World) -> None:
    token = running.token("lin")
    metadata = (("authorization", f"Bearer {token}"), ("authorization", f"Bearer {token}"))
    assert refusal(running, "/grpc.health.v1.Health/Check", metadata).code in (Code.ID_BEARER, Code.BUSY)


def test_health_is_there_and_our_own_services_are_not(running: World) -> None:
    token = join_and_token(running, "wu")
    metadata = (("authorization", f"Bearer {token}"),)
    credentials = grpc.ssl_channel_credentials(running.root_pem.encode())
    with grpc.secure_channel(running.bearer, credentials) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        status = stub.Check(health_pb2.HealthCheckRequest(), metadata=metadata, timeout=DEADLINE_S)
        assert status.status == health_pb2.HealthCheckResponse.SERVING
    for method in ("QueryService/Explain", "MemberService/IssueToken", "CatalogueService/List", "AuditService/Search"):
        with pytest.raises(grpc.RpcError) as caught:
            call(running, f"/tidegate.v1.{method}", metadata)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED, method


def join_and_token(running: World, name: str, lifetime_s: int = 900) -> str:
    running.join(name)
    return running.token(name, lifetime_s)


def test_a_service_gets_no_token_and_a_lifetime_has_bounds(running: World) -> None:
    with pytest.raises(TidegateError) as caught:
        running.token("desk")
    assert caught.value.code is Code.ID_WRONG_KIND
    for lifetime_s in (1, 901, 1 << 20):
        with pytest.raises(TidegateError) as caught:
            running.token("lin", lifetime_s)
        assert caught.value.code is Code.WIRE_INVALID


def test_a_person_has_only_so_many_tokens(running: World) -> None:
    join_and_token(running, "many")
    for _ in range(7):
        running.token("many")
    with pytest.raises(TidegateError) as caught:
        running.token("many")
    assert caught.value.code is Code.BUSY
    assert 0 < caught.value.retry_after_s <= 900


def mid_stream(running: World, name: str) -> tuple[Any, Any, Any, str]:
    """Start a long answer by a token, and read its beginning."""
    token = join_and_token(running, name)
    connection = running.by_token(token)
    cursor = connection.cursor()
    cursor.execute(MANY)
    reader = cursor.fetch_record_batch()
    next(reader)
    return connection, cursor, reader, token


@pytest.mark.parametrize("what", ["identity", "serial"])
def test_a_revocation_ends_a_stream_within_a_second(running: World, what: str) -> None:
    name = f"leaving-{what}"
    connection, cursor, reader, token = mid_stream(running, name)
    facts = IdentityFolder(running.exchange.identity("city", name)).load().facts
    value = str(facts.identity) if what == "identity" else facts.serial_hex
    whom = {"member": "", "identity": "", "serial": "", what: value}
    count = len(running.entries("outcome"))
    running.exchange.operator().transport.revoke(**whom, reason="test", key="c" * 31 + what[0])
    until(lambda: len(running.entries("outcome")) > count, 2.0)
    assert running.entries("outcome")[0]["error"]
    with pytest.raises((adbc_driver_manager.Error, OSError)):
        for _ in reader:
            pass
    del reader
    abandon(cursor, connection)
    assert "TG-ID-004" in refused(running, token)


def test_a_token_ends(running: World) -> None:
    token = join_and_token(running, "brief", 60)
    started = time.monotonic()
    with running.by_token(token) as connection:
        cursor = connection.cursor()
        cursor.execute(FEW)
        assert cursor.fetchone() == (ROWS,)
        cursor.close()
    assert time.monotonic() - started < 60

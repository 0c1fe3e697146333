"""grpcurl, a client that knows nothing of us: with reflection on it lists, describes and calls; without, it learns nothing."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2

from examples.local import LocalExchange
from tests.grpcurl_binary import require_grpcurl
from tidegate.channel import open_channel
from tidegate.identity.folder import IdentityFolder

pytestmark = [pytest.mark.xdist_group("federation-grpcurl"), pytest.mark.go]
PURPOSE = "research.statistics"
FLIGHT = "arrow.flight.protocol.FlightService"
SERVICES = {
    FLIGHT,
    "grpc.health.v1.Health",
    "grpc.reflection.v1alpha.ServerReflection",
    "tidegate.v1.AuditService",
    "tidegate.v1.CatalogueService",
    "tidegate.v1.MemberService",
    "tidegate.v1.QueryService",
}
REFLECT = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


class Curl:
    """grpcurl with the certificate of one identity."""

    def __init__(self, exchange: LocalExchange, folder: Path, member: str = "city", name: str = "app") -> None:
        self._binary = require_grpcurl()
        self.identity = IdentityFolder(exchange.identity(member, name)).load()
        self.address = self.identity.exchange.callers
        self._files = {kind: folder / f"{member}-{name}-{kind}.pem" for kind in ("root", "chain", "key")}
        self._files["root"].write_bytes(self.identity.root_pem)
        self._files["chain"].write_bytes(self.identity.presented_pem)
        self._files["key"].write_bytes(self.identity.key_pem)

    def __call__(self, *words: str, data: str = "", address: str = "") -> subprocess.CompletedProcess[str]:
        tls = ["-cacert", self._files["root"], "-cert", self._files["chain"], "-key", self._files["key"]]
        said = ["-d", data] if data else []
        where = address or self.address
        environment = {**os.environ, "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}
        # grpcurl wants its flags before the address, and verbs and names after it.
        command = [str(item) for item in (self._binary, "-max-time", "30", *tls, *said, where, *words)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)


@pytest.fixture(scope="module")
def exchange(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalExchange]:
    require_grpcurl()
    settings = {"listen": {"reflection": True}, "limits": {"join_workers": 1, "planning_workers": 1}}
    with LocalExchange(tmp_path_factory.mktemp("curled"), name="curled", broker_settings=settings) as made:
        made.start()
        made.operator().transport.add_purpose(PURPOSE, "Statistics", ["statistics.act.5"], os.urandom(16).hex())
        made.join("city", "app", roles=["analyst"])
        made.join("city", "node1", kind="node")
        yield made


@pytest.fixture
def curl(exchange: LocalExchange, tmp_path: Path) -> Curl:
    return Curl(exchange, tmp_path)


def test_it_lists_what_the_callers_listener_serves(curl: Curl) -> None:
    done = curl("list")
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == SERVICES


def test_it_describes_our_services_and_flight_under_its_own_name(curl: Curl) -> None:
    ours = curl("describe", "tidegate.v1.CatalogueService")
    assert "rpc ListPurposes" in ours.stdout, ours.stderr
    theirs = curl("describe", FLIGHT)
    assert "rpc DoGet" in theirs.stdout, theirs.stderr
    assert "rpc GetFlightInfo" in theirs.stdout


def test_it_calls_health_of_each_service(curl: Curl) -> None:
    for name in ("", *SERVICES - {"grpc.reflection.v1alpha.ServerReflection"}):
        done = curl("grpc.health.v1.Health/Check", data=json.dumps({"service": name}))
        assert json.loads(done.stdout or "{}") == {"status": "SERVING"}, (name, done.stderr)
    unknown = curl("grpc.health.v1.Health/Check", data=json.dumps({"service": "tidegate.v1.NodeService"}))
    assert "NotFound" in unknown.stderr


def test_it_calls_the_catalogue(curl: Curl) -> None:
    done = curl("tidegate.v1.CatalogueService/ListPurposes")
    assert [item["code"] for item in json.loads(done.stdout)["purposes"]] == [PURPOSE], done.stderr


def test_reflection_goes_through_the_guard_as_all_else(exchange: LocalExchange, curl: Curl, tmp_path: Path) -> None:
    node = Curl(exchange, tmp_path, name="node1")("list")
    assert node.returncode != 0
    assert "TG-ID-005" in node.stderr
    anonymous = curl("list", address=curl.identity.exchange.enrolment)
    assert anonymous.returncode != 0  # the enrolment listener, where anybody may call, tells nobody


def test_a_stream_of_reflection_ends_by_itself_and_leaves_the_threads_to_others(curl: Curl) -> None:
    with open_channel(curl.address, curl.identity) as channel:
        ask = channel.stream_stream(
            REFLECT,
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        stop = threading.Event()

        def questions() -> Iterator[reflection_pb2.ServerReflectionRequest]:
            while not stop.is_set():
                yield request

        answers = ask(questions(), timeout=60)
        assert sum(1 for _ in answers) == 1_000
        stop.set()


def test_with_reflection_off_it_learns_nothing(tmp_path: Path) -> None:
    settings = {"limits": {"join_workers": 1, "planning_workers": 1}}
    with LocalExchange(tmp_path / "off", name="off", broker_settings=settings) as made:
        made.start()
        made.join("city", "app", roles=["analyst"])
        curl = Curl(made, tmp_path)
        done = curl("list")
        assert done.returncode != 0
        assert "does not support the reflection API" in done.stderr
        with open_channel(curl.address, curl.identity) as channel:
            call = channel.stream_stream(REFLECT)(iter([b""]), timeout=10)
            with pytest.raises(grpc.RpcError) as caught:
                list(call)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED

"""The service over real gRPC: who may read what, that searches are recorded, and that garbage gets a clean status."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import grpc
import pytest

from audit import entries
from audit.log import AuditLog
from audit.wire import AuditServicer
from tests.unit.audit.conftest import OpenLog
from tests.unit.audit.support import caller, decision
from tidegate.core.caller import Caller
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.tlog.checkpoint import open_checkpoint
from tidegate.tlog.proof import TlogProof
from tidegate.v1 import audit_service_pb2 as pb
from tidegate.v1 import audit_service_pb2_grpc as rpc
from tidegate.wire import from_rpc_error

AUDITOR = caller("court", "carla", person="p-9", roles=("auditor",))


@dataclass
class Service:
    log: AuditLog
    stub: rpc.AuditServiceStub
    channel: grpc.Channel
    callers: list[Caller] = field(default_factory=lambda: [AUDITOR])
    failure: Exception | None = None

    def identify(self, context: grpc.ServicerContext) -> Caller:
        if self.failure is not None:
            raise self.failure
        return self.callers[0]


@pytest.fixture
def service(open_log: OpenLog) -> Iterator[Service]:
    log = open_log()
    server = grpc.server(ThreadPoolExecutor(4))
    port = server.add_insecure_port("127.0.0.1:0")
    channel = grpc.insecure_channel(f"127.0.0.1:{port}")
    result = Service(log, rpc.AuditServiceStub(channel), channel)
    rpc.add_AuditServiceServicer_to_server(AuditServicer(log, result.identify), server)
    server.start()
    yield result
    channel.close()
    server.stop(None).wait()


def failure_of(call: object, request: object) -> TidegateError:
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=30)  # type: ignore[operator]
    error = from_rpc_error(caught.value)
    assert "Traceback" not in str(error)
    assert "/" not in error.message
    return error


def test_checkpoint_and_proof_verify_at_the_caller(service: Service) -> None:
    service.callers[:] = [caller()]
    done = service.log.append(decision())
    proof = service.stub.Prove(pb.ProveRequest(index=0), timeout=30).tlog_proof
    answer = service.stub.Checkpoint(pb.CheckpointRequest(), timeout=30)
    assert open_checkpoint(answer.checkpoint, answer.verifier_key).size == 1
    TlogProof.parse(proof).verify(done.leaf_hash, answer.verifier_key)
    assert len(service.stub.ReadTile(pb.ReadTileRequest(path="tile/0/000.p/1"), timeout=30).data) == 32


def test_entries_and_search_need_an_auditor(service: Service) -> None:
    service.log.append(decision())
    service.log.prove(0, 10)
    size = service.log.size
    service.callers[:] = [caller(roles=("analyst", "steward", "operator"))]
    requests = (
        (service.stub.ReadTile, pb.ReadTileRequest(path="tile/entries/000.p/1")),
        (service.stub.Search, pb.AuditSearchRequest()),
    )
    for call, request in requests:
        assert failure_of(call, request).code is Code.ID_ROLE_MISSING
    assert service.log.size == size
    service.callers[:] = [AUDITOR]
    assert service.stub.ReadTile(requests[0][1], timeout=30).data


def test_a_search_is_recorded_before_it_is_answered_and_names_nobody(service: Service) -> None:
    alice = caller("weather", "alice", person="p-17")
    service.log.append(decision(who=alice), entries.side_of(alice, sql="SELECT 1"))
    answer = service.stub.Search(pb.AuditSearchRequest(member="weather", with_side=True), timeout=30)
    assert [item.index for item in answer.entries] == [0]
    assert json.loads(answer.entries[0].entry_json)["person"] == "p-17"
    assert json.loads(answer.entries[0].side_json) == {"identity": str(alice.identity), "sql": "SELECT 1"}
    record = json.loads(service.log.entry(1))
    assert (record["type"], record["kind"], record["action"]) == ("admin", "search", "search_with_side")
    assert record["person"] == "p-9"
    assert record["details"]["filters"] == "member"
    assert b"weather" not in service.log.entry(1)
    assert b"carla" not in service.log.entry(1)
    assert (service.log.side(1) or {})["filters"] == {"member": "weather"}
    plain = service.stub.Search(pb.AuditSearchRequest(member="weather"), timeout=30)
    assert plain.entries[0].side_json == ""


def test_pages_of_a_search_follow_each_other(service: Service) -> None:
    for number in range(5):
        service.log.append(decision(f"r{number}"))
    first = service.stub.Search(pb.AuditSearchRequest(type="decision", page_size=3), timeout=30)
    rest = service.stub.Search(
        pb.AuditSearchRequest(type="decision", page_size=3, page_token=first.next_page_token), timeout=30
    )
    assert [item.index for item in (*first.entries, *rest.entries)] == [4, 3, 2, 1, 0]
    assert rest.next_page_token == ""


def test_a_page_of_large_side_material_stays_within_a_message(service: Service) -> None:
    for number in range(8):
        service.log.append(decision(f"r{number}"), {"sql": "x" * 900_000})
    seen, token = [], ""
    while True:
        request = pb.AuditSearchRequest(type="decision", with_side=True, page_token=token)
        answer = service.stub.Search(request, timeout=30)
        seen += [item.index for item in answer.entries]
        token = answer.next_page_token
        if not token:
            break
        assert len(answer.entries) == 2
    assert seen == list(range(7, -1, -1))


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (pb.AuditSearchRequest(page_size=1001), Code.WIRE_INVALID),
        (pb.AuditSearchRequest(page_token="x"), Code.WIRE_INVALID),
        (pb.AuditSearchRequest(page_token="1 OR 1"), Code.WIRE_INVALID),
        (pb.AuditSearchRequest(since="now"), Code.WIRE_INVALID),
        (pb.AuditSearchRequest(until="x" * 1000), Code.WIRE_INVALID),
        (pb.AuditSearchRequest(identity="x" * 1000), Code.WIRE_INVALID),
        (pb.ReadTileRequest(path="x" * 200), Code.WIRE_INVALID),
        (pb.ReadTileRequest(path="tile/entries/../../../keys/log.key"), Code.AUDIT_NOT_FOUND),
        (pb.ReadTileRequest(path="../log.json"), Code.AUDIT_NOT_FOUND),
        (pb.ReadTileRequest(path=""), Code.AUDIT_NOT_FOUND),
        (pb.ProveRequest(index=5), Code.AUDIT_NOT_FOUND),
        (pb.ProveRequest(index=2**64 - 1), Code.AUDIT_NOT_FOUND),
    ],
)
def test_malformed_requests_are_refused_and_not_recorded(service: Service, request_: object, code: Code) -> None:
    call = {
        pb.AuditSearchRequest: service.stub.Search,
        pb.ReadTileRequest: service.stub.ReadTile,
        pb.ProveRequest: service.stub.Prove,
    }[type(request_)]
    assert failure_of(call, request_).code is code
    assert service.log.size == 0


def test_random_bytes_end_in_a_status_without_details(service: Service) -> None:
    for method in ("Checkpoint", "Prove", "ReadTile", "Search"):
        raw = service.channel.unary_unary(f"/tidegate.v1.AuditService/{method}")
        with pytest.raises(grpc.RpcError) as caught:
            raw(b"\xff\xfe\x00garbage", timeout=30)
        assert "Traceback" not in caught.value.details()


def test_a_search_that_cannot_be_recorded_is_not_answered(service: Service) -> None:
    service.log.append(decision())
    service.log.close()
    assert failure_of(service.stub.Search, pb.AuditSearchRequest()).code is Code.AUDIT_UNAVAILABLE


def test_an_unidentified_caller_gets_the_identifiers_error(service: Service) -> None:
    service.failure = error_for(Code.ID_REVOKED)
    for call, request in (
        (service.stub.Checkpoint, pb.CheckpointRequest()),
        (service.stub.Prove, pb.ProveRequest()),
        (service.stub.ReadTile, pb.ReadTileRequest(path="checkpoint")),
        (service.stub.Search, pb.AuditSearchRequest()),
    ):
        assert failure_of(call, request).code is Code.ID_REVOKED


def test_our_own_mistake_becomes_an_error_id(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> bytes:
        raise ValueError("secret detail of the machine")

    monkeypatch.setattr(service.log, "checkpoint", broken)
    error = failure_of(service.stub.Checkpoint, pb.CheckpointRequest())
    assert error.code is Code.INTERNAL
    assert "secret" not in error.message

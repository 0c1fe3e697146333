"""The catalogue's service over a real channel: who may do what, and what nobody learns."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from broker.authority import Authority
from catalogue.wire import CatalogueServicer
from tests.contract.catalogue_setup import HeldClock, city, dataset, opened
from tidegate.core.agreement import Agreement, SignedAgreement
from tidegate.core.caller import Caller
from tidegate.core.clock import timestamp
from tidegate.core.dataset import Dataset
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.names import DatasetName, SpiffeId
from tidegate.identity import keys
from tidegate.identity.certificates import CertificateFacts, make_csr
from tidegate.identity.documents import verify_document
from tidegate.v1 import catalogue_service_pb2 as pb
from tidegate.v1 import catalogue_service_pb2_grpc as pb_grpc
from tidegate.wire import abort, from_rpc_error

IDENTITY = "x-test-identity"
STEWARD = "spiffe://city.example/member/aviation/person/sam"
ANALYST = "spiffe://city.example/member/aviation/person/ana"
NODE = "spiffe://city.example/member/aviation/node/n1"
OTHER = "spiffe://city.example/member/weather/person/wu"
HEALTH = "spiffe://city.example/member/health/person/hi"
AUDITOR = "spiffe://city.example/member/east/person/au"
OPERATOR = "spiffe://city.example/member/east/person/op"


class ErrorsToStatus(grpc.ServerInterceptor):  # type: ignore[type-arg]
    """The part of the listener's guard that this service relies on."""

    def intercept_service(self, continuation: Callable[..., Any], details: grpc.HandlerCallDetails) -> Any:
        handler = continuation(details)

        def unary(request: Any, context: grpc.ServicerContext) -> Any:
            try:
                return handler.unary_unary(request, context)
            except TidegateError as error:
                abort(context, error)

        return grpc.unary_unary_rpc_method_handler(unary, handler.request_deserializer, handler.response_serializer)


@dataclass
class FakeNodes:
    """Nodes that remember what they were sent; ``there`` says whether one is attached."""

    there: bool = True
    agreements: list[SignedAgreement] = field(default_factory=list)
    revocations: list[bytes] = field(default_factory=list)

    def push_agreement(self, owner: str, signed: SignedAgreement) -> bool:
        if not self.there:
            raise error_for(Code.FETCH_NODE_AWAY)
        self.agreements.append(signed)
        return True

    def push_revocation(self, owner: str, document: bytes, signature: bytes, chain_pem: bytes) -> bool:
        if self.there:
            self.revocations.append(document)
        return self.there

    def description(self, member: str, node: str) -> Sequence[Dataset]:
        return [dataset(f"{member}.flights", node=node or "n1")]


@dataclass
class House:
    """A server, a way to call it as anybody, and what it recorded."""

    stub: pb_grpc.CatalogueServiceStub
    entries: list[dict[str, Any]]
    nodes: FakeNodes
    catalogue: Any
    clock: HeldClock
    authority: Authority

    def call(self, method: str, who: str, message: Any) -> Any:
        return getattr(self.stub, method)(message, metadata=((IDENTITY, who),), timeout=20)

    def refused(self, method: str, who: str, message: Any) -> TidegateError:
        with pytest.raises(grpc.RpcError) as caught:
            self.call(method, who, message)
        return from_rpc_error(caught.value)

    def register(self, who: str = STEWARD, name: str = "aviation.flights", **changes: Any) -> Any:
        return self.call("Register", who, pb.RegisterRequest(dataset_json=text(dataset(name, **changes))))

    def sign(self, data: bytes, who: str = STEWARD) -> tuple[bytes, bytes]:
        key = keys.new_key()
        issued = self.authority.issue(make_csr(key), SpiffeId.parse(who))
        return keys.sign(key, data), issued.certificate_pem + issued.chain_pem

    def agreement(self, **changes: Any) -> pb.GrantAgreementRequest:
        now = self.clock.now()
        values: dict[str, Any] = {
            "id": "a1",
            "dataset": DatasetName("aviation", "flights"),
            "owner": "aviation",
            "grantee": "health",
            "purposes": ("traffic.planning",),
            "legal_basis": "law.roads",
            "columns": ("id",),
            "mode": "rows",
            "min_group_size": 1,
            "row_filter": {},
            "issued_at": timestamp(now),
            "expires_at": timestamp(now + timedelta(days=1)),
            "granted_by": STEWARD,
        }
        document = Agreement(**(values | changes)).signed_bytes()
        signature, chain = self.sign(document)
        return pb.GrantAgreementRequest(agreement_json=document.decode(), signature=signature, chain_pem=chain)

    def revocation(self) -> pb.RevokeAgreementRequest:
        document = json.dumps({"revoke": "a1", "at": timestamp(self.clock.now()), "reason": "over"})
        signature, chain = self.sign(document.encode())
        return pb.RevokeAgreementRequest(revocation_json=document, signature=signature, chain_pem=chain)


def text(value: Dataset) -> str:
    return json.dumps(value.to_json())


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    clock, entries, nodes = HeldClock(), list[dict[str, Any]](), FakeNodes()
    authority = Authority.create(tmp_path / "authority", "city.example", clock)

    def verify(data: bytes, signature: bytes, chain_pem: bytes, at: datetime) -> CertificateFacts:
        return verify_document(data, signature, chain_pem, authority.root_pem, at)

    with opened("sqlite", tmp_path) as engine:
        catalogue, directory = city(engine, clock, verify=verify)
        for who, roles in (
            (STEWARD, ("steward",)),
            (ANALYST, ("analyst",)),
            (NODE, ()),
            (OTHER, ("steward",)),
            (HEALTH, ("steward",)),
            (AUDITOR, ("auditor",)),
            (OPERATOR, ("operator",)),
        ):
            directory.set_identity(who, roles, "internal")

        def identify(context: grpc.ServicerContext) -> Caller:
            who = dict(context.invocation_metadata())[IDENTITY]
            record = directory.identity(str(who))
            if record is None:
                raise error_for(Code.ID_MEMBER_UNKNOWN)
            return Caller(SpiffeId.parse(record.spiffe), record.roles, record.clearance, record.tier, "", record.person)

        server = grpc.server(futures.ThreadPoolExecutor(4), interceptors=[ErrorsToStatus()])
        servicer = CatalogueServicer(catalogue, identify, entries.append, nodes)
        pb_grpc.add_CatalogueServiceServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                stub = pb_grpc.CatalogueServiceStub(channel)
                yield House(stub, entries, nodes, catalogue, clock, authority)
        finally:
            server.stop(0).wait()


def test_a_steward_or_a_node_of_the_owner_registers_and_the_log_says_who(house: House) -> None:
    done = house.register()
    assert json.loads(done.dataset_json)["version"] == 1
    house.register(NODE, "aviation.planes")
    assert [(entry["kind"], entry["action"], entry["member"], entry["identity"]) for entry in house.entries] == [
        ("catalogue", "register", "aviation", STEWARD),
        ("catalogue", "register", "aviation", NODE),
    ]
    assert house.entries[0]["person"].startswith("p")
    assert "sam" not in house.entries[0]["person"]


@pytest.mark.parametrize(
    ("who", "name"),
    [
        (ANALYST, "aviation.flights"),
        (OTHER, "aviation.flights"),
        (NODE, "weather.hours"),
        (OPERATOR, "aviation.flights"),
    ],
)
def test_others_do_not_register(house: House, who: str, name: str) -> None:
    request = pb.RegisterRequest(dataset_json=text(dataset(name)))
    assert house.refused("Register", who, request).code is Code.ID_ROLE_MISSING
    assert house.entries == []


def test_change_and_withdraw_are_the_owners(house: House) -> None:
    house.register()
    changed = replace(dataset("aviation.flights"), title="Departures")
    update = pb.UpdateRequest(dataset_json=text(changed), expected_version=1, idempotency_key="u1")
    withdraw = pb.WithdrawRequest(name="aviation.flights", reason="old")
    for who in (OTHER, ANALYST):
        assert house.refused("Update", who, update).code is Code.ID_ROLE_MISSING
        assert house.refused("Withdraw", who, withdraw).code is Code.ID_ROLE_MISSING
    stolen = pb.UpdateRequest(dataset_json=text(replace(changed, owner="weather")), expected_version=1)
    assert house.refused("Update", OTHER, stolen).code in (Code.CAT_INVALID, Code.ID_ROLE_MISSING)
    assert house.refused("Update", STEWARD, stolen).code in (Code.CAT_INVALID, Code.ID_ROLE_MISSING)
    assert json.loads(house.call("Update", STEWARD, update).dataset_json)["title"] == "Departures"
    assert json.loads(house.call("Update", STEWARD, update).dataset_json)["version"] == 2
    house.call("Withdraw", STEWARD, withdraw)
    assert [entry["action"] for entry in house.entries] == ["register", "update", "withdraw"]
    assert house.refused("Get", OTHER, pb.GetRequest(name="aviation.flights")).code is Code.CAT_NOT_FOUND


def test_hidden_unknown_and_impossible_names_get_the_same_answer(house: House) -> None:
    house.register(hidden_from=("weather",))
    answers = set()
    for name in ("aviation.flights", "aviation.none", "no such name", "a.b.c", ""):
        for method, request in (
            ("Get", pb.GetRequest(name=name)),
            ("Withdraw", pb.WithdrawRequest(name=name, reason="r")),
        ):
            error = house.refused(method, OTHER, request)
            answers.add((error.code, error.message, error.reasons))
    hidden = pb.UpdateRequest(dataset_json=text(dataset("aviation.flights")), expected_version=1)
    absent = pb.UpdateRequest(dataset_json=text(dataset("aviation.none")), expected_version=1)
    for request in (hidden, absent):
        error = house.refused("Update", OTHER, request)
        answers.add((error.code, error.message, error.reasons))
    assert len(answers) == 1
    assert house.call("List", OTHER, pb.ListRequest()).dataset_json == []
    assert "hidden_from" not in str(
        [
            key
            for key, value in json.loads(
                house.call("Get", HEALTH, pb.GetRequest(name="aviation.flights")).dataset_json
            ).items()
            if value
        ]
    )


def test_get_list_search_and_versions(house: House) -> None:
    house.register(title="Flights")
    house.register(name="aviation.planes")
    got = house.call("Get", OTHER, pb.GetRequest(name="aviation.flights"))
    assert (json.loads(got.dataset_json)["title"], list(got.versions)) == ("Flights", [1])
    page = house.call("List", OTHER, pb.ListRequest(page_size=1))
    rest = house.call("List", OTHER, pb.ListRequest(page_size=1, page_token=page.next_page_token))
    assert [json.loads(item)["name"] for item in (*page.dataset_json, *rest.dataset_json)] == [
        "aviation.flights",
        "aviation.planes",
    ]
    assert rest.next_page_token == ""
    found = house.call("Search", OTHER, pb.SearchRequest(words="flight"))
    assert (found.total, json.loads(found.facets_json)["owner"]) == (1, {"aviation": 1})


def test_a_nodes_description_is_for_its_own_stewards(house: House) -> None:
    answer = house.call("NodeDescription", STEWARD, pb.NodeDescriptionRequest(node="n7"))
    (described,) = [json.loads(item) for item in answer.dataset_json]
    assert (described["name"], described["node"]) == ("aviation.flights", "n7")
    assert house.refused("NodeDescription", ANALYST, pb.NodeDescriptionRequest()).code is Code.ID_ROLE_MISSING


def test_purposes_are_the_operators_to_add_and_everybodys_to_read(house: House) -> None:
    request = pb.AddPurposeRequest(purpose=pb.Purpose(code="a.b", title="T", legal_bases=["c"]))
    assert house.refused("AddPurpose", STEWARD, request).code is Code.ID_ROLE_MISSING
    house.call("AddPurpose", OPERATOR, request)
    listed = house.call("ListPurposes", ANALYST, pb.ListPurposesRequest())
    assert [item.code for item in listed.purposes] == ["a.b", "epidemic.control", "traffic.planning"]
    assert house.entries[-1]["identity"] == OPERATOR


def test_an_agreement_goes_to_the_node_and_is_seen_by_both_sides(house: House) -> None:
    house.register()
    assert house.call("GrantAgreement", STEWARD, house.agreement()).at_node
    assert [item.agreement.id for item in house.nodes.agreements] == ["a1"]
    assert house.entries[-1]["action"] == "grant"
    for who, count in ((STEWARD, 1), (HEALTH, 1), (OTHER, 0), (AUDITOR, 1), (OPERATOR, 0)):
        listed = house.call("ListAgreements", who, pb.ListAgreementsRequest())
        assert [item.state for item in listed.agreements] == ["granted"] * count, who
    assert house.call("RevokeAgreement", STEWARD, house.revocation()).at_node
    assert len(house.nodes.revocations) == 1
    assert house.call("ListAgreements", HEALTH, pb.ListAgreementsRequest()).agreements[0].state == "revoked"


def test_a_node_that_is_away_gets_it_later(house: House) -> None:
    house.register()
    house.nodes.there = False
    assert not house.call("GrantAgreement", STEWARD, house.agreement()).at_node
    assert len(house.catalogue.agreements_of_owner("aviation", pending=True)) == 1
    house.nodes.there = True
    assert house.call("GrantAgreement", STEWARD, house.agreement()).at_node
    assert house.catalogue.agreements_of_owner("aviation", pending=True) == ()


def test_agreements_need_a_steward_of_the_owner(house: House) -> None:
    house.register()
    assert house.refused("GrantAgreement", OTHER, house.agreement()).code is Code.CAT_NOT_FOUND
    assert house.refused("GrantAgreement", ANALYST, house.agreement()).code is Code.ID_ROLE_MISSING
    assert house.refused("GrantAgreement", NODE, house.agreement()).code is Code.ID_ROLE_MISSING
    house.call("GrantAgreement", STEWARD, house.agreement())
    assert house.refused("RevokeAgreement", OTHER, house.revocation()).code is Code.CAT_NOT_FOUND
    assert house.refused("RevokeAgreement", ANALYST, house.revocation()).code is Code.ID_ROLE_MISSING
    assert house.catalogue.agreement("a1").state == "granted"


@pytest.mark.parametrize(
    "garbage",
    ["", "null", "[]", "{}", "{", '{"name": 1}', '{"name":"a.b","name":"a.c"}', "[" * 3_000, '"' + "x" * (1 << 20)],
)
def test_garbage_has_a_clean_status(house: House, garbage: str) -> None:
    clean = {Code.WIRE_INVALID, Code.CAT_INVALID, Code.CAT_AGREEMENT, Code.CAT_NOT_FOUND}
    calls = (
        ("Register", pb.RegisterRequest(dataset_json=garbage)),
        ("Update", pb.UpdateRequest(dataset_json=garbage)),
        ("GrantAgreement", pb.GrantAgreementRequest(agreement_json=garbage)),
        ("RevokeAgreement", pb.RevokeAgreementRequest(revocation_json=garbage)),
        ("Get", pb.GetRequest(name=garbage[:1_000])),
        ("List", pb.ListRequest(page_token=garbage[:1_000] or "x")),
    )
    for method, request in calls:
        error = house.refused(method, STEWARD, request)
        assert error.code in clean, (method, error)
    assert house.entries == []

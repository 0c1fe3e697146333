"""A whole node against a scripted broker: real gRPC over mutual TLS, real workers, real logs, real policy."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from node.app import Node
from node.config import parse_config
from node.values import Session
from node.wire import _offer
from policies.engines import EngineError
from tests.fakes.scripted_broker import PURPOSE, Attached, Received, ScriptedBroker, allowing, scripted_broker
from tidegate.core.agreement import Agreement
from tidegate.core.canonical import canonical
from tidegate.core.clock import SystemClock, SystemIds, timestamp
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.names import DatasetName, IdentityKind
from tidegate.identity.documents import sign_document
from tidegate.identity.folder import LocalIdentity
from tidegate.tlog.receipt import sign_receipt
from tidegate.tlog.verify import folder_source, verify_log
from tidegate.v1 import node_service_pb2

pytestmark = pytest.mark.xdist_group("node")
FLIGHTS = 40_000


def make_data(folder: Path) -> None:
    connection = duckdb.connect(str(folder / "aviation.duckdb"))
    connection.execute(
        """CREATE TABLE flights AS SELECT i AS id, ['JFK', 'LGA', 'EWR'][1 + i % 3] AS origin, 'N' || (i % 50) AS tailnum,
        DATE '2013-01-01' + (i % 365)::INTEGER AS day, (i * 7 % 100)::INTEGER AS delay FROM range(40000) t(i)"""
    )
    connection.execute(f"COPY flights TO '{folder}/flights.parquet'")
    connection.execute("CREATE TABLE airlines AS SELECT 'A' || i AS code, 'Airline ' || i AS name FROM range(5) t(i)")
    connection.execute(f"COPY airlines TO '{folder}/airlines.csv' (HEADER)")
    connection.close()


DATASETS: list[dict[str, Any]] = [
    {
        "name": "flights",
        "source": "parquet",
        "path": "flights.parquet",
        "class": "open",
        "subject_column": "tailnum",
        "columns": {"tailnum": {"sensitivity": "restricted"}},
    },
    {"name": "flights_held", "source": "duckdb", "path": "aviation.duckdb", "table": "flights", "class": "conditional"},
    {"name": "airlines", "source": "csv", "path": "airlines.csv", "class": "open"},
    {"name": "secrets", "source": "csv", "path": "airlines.csv", "class": "closed", "citation": "Air Security Act 7"},
]


@dataclass
class World:
    broker: ScriptedBroker
    node: Node
    session: Attached
    identity: LocalIdentity
    steward: LocalIdentity
    folder: Path

    def ask(self, sql: str, refs: dict[str, str], decision: dict[str, Any], **changes: Any) -> Any:
        fragment = self.broker.fragment(self.session, sql, refs, decision, **changes)
        reply = self.broker.ask(self.session, fragment)
        if isinstance(reply, Received):
            self.broker.check_trailer(reply, fragment, self.identity)
        return reply

    def rows(self, sql: str, refs: dict[str, str], decision: dict[str, Any], **changes: Any) -> list[dict[str, Any]]:
        reply = self.ask(sql, refs, decision, **changes)
        assert isinstance(reply, Received), reply
        return reply.rows

    def refused(self, sql: str, refs: dict[str, str], decision: dict[str, Any], **changes: Any) -> Any:
        reply = self.ask(sql, refs, decision, **changes)
        assert not isinstance(reply, Received), "the node answered"
        return reply


def wait_until(condition: Callable[[], bool], limit_s: float = 20.0) -> bool:
    """Look again and again until the condition holds or the limit is over."""
    pause = threading.Event()
    for _ in range(int(limit_s / 0.01)):
        if condition():
            return True
        pause.wait(0.01)
    return False


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("node")
    make_data(folder)
    with scripted_broker(folder) as broker:
        identity = broker.node_folder(folder / "identity").load()
        steward = broker.member(IdentityKind.PERSON, "aviation", "ann", roles=("steward",))
        config = parse_config(
            {
                "node": {"identity": "identity", "state": "state", "stewards": [str(steward.spiffe)]},
                "limits": {"workers": 1, "drain_s": 5},
                "dataset": DATASETS,
            },
            folder,
            {},
        )
        node = Node(config)
        node.start()
        try:
            yield World(broker, node, broker.attached(), identity, steward, folder)
        finally:
            node.stop()


FLIGHTS_SQL = 'SELECT "r0"."origin" AS "c0", "r0"."delay" AS "c1" FROM "aviation"."flights" AS "r0" WHERE "r0"."id" < 4'
REFS = {"r0": "aviation.flights"}
PLAIN = allowing("origin", "delay", "id")


def test_says_hello_with_a_fresh_nonce_and_its_datasets(world: World) -> None:
    assert len(world.session.hello.session_nonce) == 16
    documents = "".join(world.session.hello.dataset_json)
    assert '"aviation.flights"' in documents
    assert '"rows": 40000' in documents


def test_answers_a_small_fragment_on_the_stream_and_signs_it(world: World) -> None:
    reply = world.ask(FLIGHTS_SQL, REFS, PLAIN)
    assert isinstance(reply, Received)
    assert not reply.delivered
    assert sorted((row["c0"], row["c1"]) for row in reply.rows) == [("EWR", 14), ("JFK", 0), ("JFK", 21), ("LGA", 7)]


def test_delivers_a_larger_answer_in_a_call_of_its_own(world: World) -> None:
    sql = 'SELECT "r0"."id" AS "c0", "r0"."day" AS "c1", "r0"."origin" AS "c2" FROM "aviation"."flights" AS "r0"'
    reply = world.ask(sql, REFS, allowing("id", "day", "origin"))
    assert isinstance(reply, Received)
    assert reply.delivered
    assert len({row["c0"] for row in reply.rows}) == FLIGHTS
    assert reply.trailer.bytes == len(reply.schema) + sum(map(len, reply.messages))


def test_records_the_execution_before_it_answers(world: World) -> None:
    reply = world.ask(FLIGHTS_SQL, REFS, PLAIN)
    entry = json.loads(world.node.audit.entry(reply.trailer.entry_index))
    assert (entry["kind"], entry["action"], entry["member"]) == ("node_execution", "execute", "weather")
    assert entry["datasets"] == [{"name": "aviation.flights", "version": "1"}]
    side = world.node.audit.side(reply.trailer.entry_index)
    assert side is not None
    assert side["sql"] == FLIGHTS_SQL


def test_parameters_reach_the_worker_as_values(world: World) -> None:
    sql = 'SELECT "r0"."id" AS "c0" FROM "aviation"."flights" AS "r0" WHERE "r0"."origin" = $1 AND "r0"."id" < $2'
    assert world.rows(sql, REFS, allowing("id", "origin"), parameters=("LGA", 6)) == [{"c0": 1}, {"c0": 4}]


class FullLog:
    """A log that accepts nothing any more."""

    def append(self, *_: Any, **__: Any) -> Any:
        raise error_for(Code.AUDIT_UNAVAILABLE)


def test_no_record_no_data(world: World) -> None:
    record = world.node._gate._record
    genuine = record._log
    record._log = FullLog()  # type: ignore[assignment]
    try:
        assert world.refused(FLIGHTS_SQL, REFS, PLAIN).code == "TG-AUDIT-001"
    finally:
        record._log = genuine
    assert world.rows(FLIGHTS_SQL, REFS, PLAIN)


class NoEngine:
    """A policy engine that is away."""

    revision = "sha256:" + "00" * 32

    def ask(self, question: Any) -> Any:
        raise EngineError("away")


def test_no_decision_no_data(world: World) -> None:
    point = world.node._point
    genuine = point._engine
    point._engine = NoEngine()
    try:
        assert world.refused(FLIGHTS_SQL, REFS, PLAIN).code == "TG-POLICY-002"
    finally:
        point._engine = genuine
    assert world.rows(FLIGHTS_SQL, REFS, PLAIN)


# --- the decision: the stricter of the two


def test_the_brokers_row_filter_holds(world: World) -> None:
    only = {"type": "field", "field": "origin", "operator": "eq", "value": "JFK"}
    rows = world.rows(FLIGHTS_SQL, REFS, allowing("origin", "delay", "id", row_filter=only))
    assert {row["c0"] for row in rows} == {"JFK"}
    assert len(rows) == 2


def test_the_brokers_mask_holds(world: World) -> None:
    masked = {"origin": {"access": "masked", "mask": {"kind": "redact"}}}
    rows = world.rows(FLIGHTS_SQL, REFS, allowing("delay", "id", columns=masked))
    assert {row["c0"] for row in rows} == {"***"}


def test_a_broker_that_allows_more_than_the_node_gets_nothing(world: World) -> None:
    sql = 'SELECT "r0"."tailnum" AS "c0" FROM "aviation"."flights" AS "r0"'
    error = world.refused(sql, REFS, allowing("tailnum"))
    assert error.code == "TG-POLICY-001"
    assert error.reasons
    last = json.loads(world.node.audit.entry(world.node.audit.size - 1))
    assert (last["kind"], last["action"], last["details"]["code"]) == ("node_execution", "refuse", "TG-POLICY-001")


def test_a_broker_that_refuses_is_heeded(world: World) -> None:
    assert world.refused(FLIGHTS_SQL, REFS, allowing("origin", "delay", "id", allow=False)).code == "TG-POLICY-001"


def test_a_column_that_the_broker_did_not_name_is_denied(world: World) -> None:
    assert world.refused(FLIGHTS_SQL, REFS, allowing("origin", "id")).code == "TG-POLICY-001"


def test_a_closed_dataset_stays_closed_and_says_why(world: World) -> None:
    sql = 'SELECT "r0"."code" AS "c0" FROM "aviation"."secrets" AS "r0"'
    error = world.refused(sql, {"r0": "aviation.secrets"}, allowing("code"))
    assert error.code == "TG-POLICY-001"
    assert "Air Security Act 7" in str(error.reasons)


AGGREGATE: dict[str, Any] = {
    "mode": "aggregate",
    "min_group_size": 10,
    "count_entity": "tailnum",
    "allowed_aggregates": ["count"],
}


def test_small_groups_are_suppressed_at_the_node(world: World) -> None:
    sql = (
        'SELECT "r0"."origin" AS "c0", count("r0"."delay") AS "c1" FROM "aviation"."flights" AS "r0" '
        "WHERE {} GROUP BY 1"
    )
    decision = allowing("origin", "delay", "id", **AGGREGATE)
    large = world.ask(sql.format('"r0"."id" >= 0'), REFS, decision)
    assert sorted(row["c0"] for row in large.rows) == ["EWR", "JFK", "LGA"]
    assert [set(row) for row in large.rows] == [{"c0", "c1"}] * 3
    assert large.trailer.suppressed_groups == 0
    small = world.ask(sql.format('"r0"."id" < 20'), REFS, decision)
    assert small.rows == []
    assert small.trailer.suppressed_groups == 3


def test_groups_are_not_left_out_of_a_part_of_a_query(world: World) -> None:
    sql = 'SELECT "r0"."origin" AS "c0", count("r0"."delay") AS "c1" FROM "aviation"."flights" AS "r0" GROUP BY 1'
    error = world.refused(sql, REFS, allowing("origin", "delay", **AGGREGATE), grant={"whole": False})
    assert error.code == "TG-POLICY-003"
    assert "part_of_groups" in str(error.reasons)


def test_subjects_travel_as_pseudonyms_of_this_query_alone(world: World) -> None:
    sql = 'SELECT "r0"."origin" AS "c0", "r0"."tg_subject" AS "c1" FROM "aviation"."flights" AS "r0" WHERE "r0"."id" < 100'
    decision = allowing("origin", "id", **AGGREGATE)
    first = world.rows(sql, REFS, decision)
    assert len({row["c1"] for row in first}) == 50
    assert not any(row["c1"].startswith("N") for row in first)
    second = world.rows(sql, REFS, decision, grant={"subject_key": "cd" * 32})
    assert not {row["c1"] for row in first} & {row["c1"] for row in second}


def test_subjects_without_a_key_are_refused(world: World) -> None:
    sql = 'SELECT "r0"."tg_subject" AS "c0" FROM "aviation"."flights" AS "r0"'
    error = world.refused(sql, REFS, allowing(**AGGREGATE), grant={"subject_key": ""})
    assert error.code in ("TG-NODE-004", "TG-POLICY-003")


# --- agreements


HELD_SQL = 'SELECT "r0"."id" AS "c0" FROM "aviation"."flights_held" AS "r0" WHERE "r0"."id" < 3'
HELD = {"r0": "aviation.flights_held"}


def agreement_of(world: World, **changes: Any) -> Agreement:
    now = SystemClock().now()
    fields: dict[str, Any] = {
        "id": SystemIds().request_id(),
        "dataset": DatasetName("aviation", "flights_held"),
        "owner": "aviation",
        "grantee": "weather",
        "purposes": (PURPOSE,),
        "legal_basis": "",
        "columns": ("id",),
        "mode": "rows",
        "min_group_size": 1,
        "row_filter": {"type": "field", "field": "id", "operator": "lt", "value": 2},
        "issued_at": timestamp(now),
        "expires_at": timestamp(now + timedelta(days=30)),
        "granted_by": str(world.steward.spiffe),
    }
    return Agreement(**{**fields, **changes})


def push(world: World, agreement: Agreement, signer: LocalIdentity) -> Any:
    document = agreement.signed_bytes()
    signature, chain = sign_document(signer, document)
    message = node_service_pb2.AgreementPush(agreement_json=document.decode(), signature=signature, chain_pem=chain)
    world.session.down.put(node_service_pb2.AttachDown(agreement=message))
    return world.session.hear("agreement_ack")


def revoke(world: World, agreement: Agreement, signer: LocalIdentity) -> Any:
    document = canonical({"revoke": agreement.id, "at": timestamp(SystemClock().now()), "reason": "a test"})
    signature, chain = sign_document(signer, document)
    message = node_service_pb2.AgreementPush(
        revoked=True, revocation_json=document.decode(), signature=signature, chain_pem=chain
    )
    world.session.down.put(node_service_pb2.AttachDown(agreement=message))
    return world.session.hear("agreement_ack")


def test_an_agreement_opens_a_conditional_dataset_and_its_revocation_closes_it(world: World) -> None:
    assert world.refused(HELD_SQL, HELD, allowing("id")).code == "TG-POLICY-001"
    agreement = agreement_of(world)
    ack = push(world, agreement, world.steward)
    assert (ack.agreement_id, ack.stored) == (agreement.id, True)
    assert world.rows(HELD_SQL, HELD, allowing("id")) == [{"c0": 0}, {"c0": 1}]  # its row filter holds too
    ack = revoke(world, agreement, world.steward)
    assert (ack.agreement_id, ack.stored) == (agreement.id, True)
    assert world.refused(HELD_SQL, HELD, allowing("id")).code == "TG-POLICY-001"
    assert push(world, agreement, world.steward).stored  # known, but it stays revoked
    assert world.refused(HELD_SQL, HELD, allowing("id")).code == "TG-POLICY-001"


def test_agreements_that_the_departments_steward_did_not_sign_are_not_stored(world: World) -> None:
    stranger = world.broker.member(IdentityKind.PERSON, "aviation", "eve")
    other = world.broker.member(IdentityKind.PERSON, "weather", "wim", roles=("steward",))
    for signer in (stranger, other, world.identity):
        agreement = agreement_of(world, granted_by=str(signer.spiffe))
        assert push(world, agreement, signer).error.code == "TG-CAT-004"
    assert push(world, agreement_of(world), stranger).error.code == "TG-CAT-004"
    assert world.refused(HELD_SQL, HELD, allowing("id")).code == "TG-POLICY-001"
    kept = agreement_of(world)
    assert not revoke(world, kept, stranger).stored


# --- admission


def other_node(world: World) -> dict[str, Any]:
    return {"grant": {"node": "spiffe://city.example/member/weather/node/gate"}}


def times(start_s: float, end_s: float) -> dict[str, str]:
    now = SystemClock().now()
    return {
        "issued_at": timestamp(now + timedelta(seconds=start_s)),
        "expires_at": timestamp(now + timedelta(seconds=end_s)),
    }


def wrong_log(world: World) -> dict[str, Any]:
    key = Ed25519PrivateKey.generate()
    stamp = timestamp(SystemClock().now())
    note = sign_receipt(key, world.broker.log.origin, 0, bytes(32), stamp)
    return {"grant": {"receipt": note.decode()}}


WRONG: dict[str, tuple[Any, str]] = {
    "made for another node": (other_node, "TG-NODE-001"),
    "made for another attachment": ({"grant": {"session": "00" * 16}}, "TG-NODE-001"),
    "names another broker": ({"grant": {"broker": "spiffe://city.example/broker/other"}}, "TG-NODE-001"),
    "expired": (lambda _: {"grant": times(-40, -1)}, "TG-NODE-001"),
    "valid for too long": (lambda _: {"grant": times(0, 61)}, "TG-NODE-001"),
    "ends before it begins": (lambda _: {"grant": times(3, 2)}, "TG-NODE-001"),
    "from the future": (lambda _: {"grant": times(30, 60)}, "TG-NODE-001"),
    "times of no form": ({"grant": {"issued_at": "yesterday"}}, "TG-NODE-001"),
    "an id of another form": ({"grant": {"id": "1"}}, "TG-NODE-001"),
    "another fragment": ({"message": {"sql": FLIGHTS_SQL.replace("4", "5")}}, "TG-NODE-001"),
    "other parameters": ({"message": {"parameters_json": '[{"t": "i", "v": "1"}]'}}, "TG-NODE-001"),
    "parameters of no form": ({"message": {"parameters_json": "{"}}, "TG-NODE-004"),
    "signed by a node": (lambda world: {"signer": world.identity}, "TG-NODE-001"),
    "signed by a service": (
        lambda world: {"signer": world.broker.member(IdentityKind.SERVICE, "aviation", "app")},
        "TG-NODE-001",
    ),
    "a signature of nothing": ({"message": {"signature": b"\x30\x06\x02\x01\x01\x02\x01\x01"}}, "TG-NODE-001"),
    "no signature": ({"message": {"signature": b""}}, "TG-NODE-001"),
    "no chain": ({"message": {"chain_pem": b""}}, "TG-NODE-001"),
    "a grant of random bytes": ({"message": {"grant": bytes(range(256))}}, "TG-NODE-001"),
    "a receipt of another key": (wrong_log, "TG-NODE-003"),
    "no receipt": ({"grant": {"receipt": ""}}, "TG-NODE-003"),
    "another entry": ({"grant": {"entry": '{"type":"decision"}'}}, "TG-NODE-003"),
    "an entry that is not the receipt's": (
        {"grant": {"entry": lambda entry: entry.replace('"door":""', '"door":"other"')}},
        "TG-NODE-003",
    ),
    "an entry of another type": ({"entry": {"type": "refusal"}}, "TG-NODE-003"),
    "an entry of another request": ({"entry": {"request_id": "ff" * 16}}, "TG-NODE-003"),
    "an entry of another purpose": ({"entry": {"purpose": "audit.supervision"}}, "TG-NODE-003"),
    "an entry of another member": ({"entry": {"member": "health"}}, "TG-NODE-003"),
    "an entry without commitment": ({"commit": False}, "TG-NODE-003"),
    "a salt that opens nothing": ({"grant": {"plan_nonce": "00" * 32}}, "TG-NODE-003"),
    "a salt of no form": ({"grant": {"plan_nonce": "x"}}, "TG-NODE-003"),
    "a decision of no form": ({"grant": {"decision": {"allow": True}}}, "TG-NODE-001"),
    "a decision about nothing": (
        {"grant": {"decision": {**allowing("origin"), "resources": {}}}},
        "TG-NODE-001",
    ),
    "other datasets than it names": ({"grant": {"refs": {"r0": "aviation.airlines"}}}, "TG-NODE-004"),
}


@pytest.mark.parametrize("what", WRONG)
def test_refuses_a_grant(world: World, what: str) -> None:
    changes, code = WRONG[what]
    changes = changes(world) if callable(changes) else changes
    error = world.refused(FLIGHTS_SQL, REFS, PLAIN, **changes)
    assert error.code == code, error
    assert world.rows(FLIGHTS_SQL, REFS, PLAIN)  # the next genuine one is served


def test_only_a_brokers_certificate_makes_a_broker(world: World) -> None:
    """Also where everything else fits: the link says that the service is the broker, and the grant says so too."""
    service = world.broker.member(IdentityKind.SERVICE, "aviation", "app")
    claims = {"grant": {"broker": str(service.spiffe)}, "signer": service}
    fragment = world.broker.fragment(world.session, FLIGHTS_SQL, REFS, PLAIN, **claims)
    session = Session(str(service.spiffe), world.session.hello.session_nonce.hex())
    with pytest.raises(TidegateError, match="not signed by a broker"):
        world.node._gate._admit.admit(_offer(fragment), session)


def test_a_grant_is_used_once(world: World) -> None:
    fragment = world.broker.fragment(world.session, FLIGHTS_SQL, REFS, PLAIN)
    assert isinstance(world.broker.ask(world.session, fragment), Received)
    again = world.broker.ask(world.session, fragment)
    assert again.code == "TG-NODE-002"


@pytest.mark.parametrize(
    "sql",
    [
        'SELECT content AS "c0" FROM read_text(\'/etc/hostname\') AS "r0"',
        'SELECT "r0"."id" AS "c0" FROM "aviation"."nothing" AS "r0"',
        'SELECT "r0"."id" AS "c0" FROM "weather"."flights" AS "r0"',
        'SELECT "r0"."id" AS "c0" FROM "aviation"."flights" AS "r0"; SELECT 1',
        'DELETE FROM "aviation"."flights"',
        "COPY (SELECT 1) TO 'x'",
        "SELECT ((" + "(" * 500 + "1" + ")" * 500 + "))",
        "SELECT \x00",
        "",
    ],
)
def test_refuses_a_fragment_that_is_not_an_allowed_query(world: World, sql: str) -> None:
    error = world.refused(sql, REFS, PLAIN)
    assert error.code == "TG-NODE-004"
    assert "hostname" not in str(error)


# --- limits, deadlines, cancelling


SLOW_SQL = (
    'SELECT count(*) AS "c0" FROM "aviation"."flights" AS "r0" JOIN "aviation"."flights" AS "r1" '
    'ON "r0"."delay" < "r1"."delay" JOIN "aviation"."flights" AS "r2" ON "r1"."delay" < "r2"."delay"'
)
SLOW_REFS = dict.fromkeys(("r0", "r1", "r2"), "aviation.flights")


def slow_decision() -> dict[str, Any]:
    decision = allowing("delay")
    decision["resources"] = dict.fromkeys(SLOW_REFS, decision["resources"]["r0"])
    return decision


def test_more_rows_than_the_limit_are_an_error_and_never_fewer_rows(world: World) -> None:
    sql = 'SELECT "r0"."id" AS "c0" FROM "aviation"."flights" AS "r0"'
    assert world.refused(sql, REFS, allowing("id"), message={"rows_max": 100}).code == "TG-FETCH-004"
    assert world.refused(sql, REFS, allowing("id", max_rows=100)).code == "TG-FETCH-004"
    assert world.refused(sql, REFS, allowing("id"), message={"bytes_max": 1000}).code == "TG-FETCH-004"
    assert len(world.rows(sql + ' WHERE "r0"."id" < 100', REFS, allowing("id", max_rows=100))) == 100


def test_a_deadline_ends_the_work(world: World) -> None:
    error = world.refused(SLOW_SQL, SLOW_REFS, slow_decision(), message={"deadline_s": 1.0})
    assert error.code == "TG-QUERY-001"
    assert world.rows(FLIGHTS_SQL, REFS, PLAIN)


def test_a_cancel_ends_the_work(world: World) -> None:
    before = world.node.audit.size
    fragment = world.broker.fragment(world.session, SLOW_SQL, SLOW_REFS, slow_decision())
    world.broker.offer(world.session, fragment)
    assert wait_until(lambda: world.node.audit.size > before)  # recorded: the worker has it now
    cancel = node_service_pb2.Cancel(fragment_id=fragment.id)
    world.session.down.put(node_service_pb2.AttachDown(cancel=cancel))
    assert world.session.hear("failure").error.code == "TG-QUERY-002"
    assert world.rows(FLIGHTS_SQL, REFS, PLAIN)


def test_describes_itself_again_when_asked(world: World) -> None:
    world.session.down.put(node_service_pb2.AttachDown(describe=node_service_pb2.Describe()))
    described = [json.loads(text) for text in world.session.hear("description").dataset_json]
    flights = next(item for item in described if item["name"] == "aviation.flights")
    columns = {column["name"]: column for column in flights["columns"]}
    assert flights["rows"] == FLIGHTS
    assert (columns["delay"]["distinct"], columns["delay"]["minimum"], columns["delay"]["maximum"]) == (100, "0", "99")
    assert columns["tailnum"]["distinct"] is None
    assert columns["origin"]["minimum"] is None


def test_the_log_verifies(world: World) -> None:
    log = world.node.audit
    log.prove(log.size - 1, 10.0)  # waits for a checkpoint that covers everything
    verified = verify_log(folder_source(log.published_folder), log.verifier_key)
    assert verified.size == log.size


# Last: it ends the session that the others use.
def test_attaches_again_when_the_broker_hangs_up_and_old_grants_are_dead(world: World) -> None:
    old = world.session
    stale = world.broker.fragment(old, FLIGHTS_SQL, REFS, PLAIN)
    old.down.put(None)
    world.session = world.broker.attached()
    assert world.session.hello.session_nonce != old.hello.session_nonce
    assert world.broker.ask(world.session, stale).code == "TG-NODE-001"
    assert world.rows(FLIGHTS_SQL, REFS, PLAIN)
    drain = node_service_pb2.Drain(reconnect_after_s=0.1)
    world.session.down.put(node_service_pb2.AttachDown(drain=drain))
    world.session = world.broker.attached()
    assert world.rows(FLIGHTS_SQL, REFS, PLAIN)

"""The second door and policy that moves: what was agreed when a ticket was given need not hold when it is brought.

Real broker, nodes, agreements and overlays. The schema that is announced is the stream's whatever the policy makes of the
columns, and a statement that was prepared once is decided as often as it is executed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from examples.local import LocalExchange
from tests.federation.flight_calls import Flight, prepared, refused, schema_of
from tests.robust import on_disk
from tidegate.client.session import open_session
from tidegate.core.agreement import Agreement
from tidegate.core.canonical import canonical
from tidegate.core.clock import SystemClock, SystemIds, timestamp
from tidegate.core.dataset import Dataset
from tidegate.core.errors import Code, TidegateError
from tidegate.core.names import DatasetName
from tidegate.identity.documents import sign_document
from tidegate.identity.folder import IdentityFolder
from tidegate.v1 import flight_pb2

pytestmark = pytest.mark.xdist_group("federation-flight-policy")

ROWS, GROUPS, BASIS = "research.statistics", "operations.planning", "health.act.7"
FLOOR = 5
FEW = 3  # persons in the district that no group may show
CASES = (
    "CREATE TABLE cases AS SELECT i AS id, i AS person, 'name ' || i AS name, 'code ' || (i % 7) AS code, "
    "'note ' || i AS note, 'mail' || i || '@example' AS mail, 'street ' || i AS street, "
    "'kind ' || (i % 2) AS kind, (i * 137)::INTEGER AS salary, "
    "(i * 3.37)::DECIMAL(9,2) AS price, (i / 7)::DOUBLE AS score, DATE '1960-03-05' + i::INTEGER AS born, "
    "TIMESTAMP '2026-01-05 10:11:12' + to_days(i::INTEGER) AS seen, TIMESTAMPTZ '2026-01-05 10:11:12+02' AS at, "
    f"CASE WHEN i < {FEW} THEN 'few' WHEN i % 2 = 0 THEN 'even' ELSE 'odd' END AS district FROM range(60) AS r(i)"
)
VISITS = "CREATE TABLE visits AS SELECT i AS id, i % 10 AS person, 'ward ' || (i % 3) AS ward FROM range(40) AS r(i)"
TRIPS = "CREATE TABLE trips AS SELECT i AS id, i % 10 AS person, 'line ' || (i % 3) AS line FROM range(40) AS r(i)"
AREAS = "CREATE TABLE areas AS SELECT * FROM (VALUES ('even', 'north'), ('odd', 'south'), ('few', 'west')) AS t(district, area)"
MASKS = {
    "id": "pseudonym",
    "name": "pseudonym",
    "code": "hash",
    "note": "null",
    "mail": "last_n:4",
    "street": "redact",
    "salary": "bucket:1000",
    "price": "bucket:10",
    "score": "bucket:2",
    "born": "truncate_date:year",
    "seen": "truncate_date:month",
    "at": "truncate_date:day",
}
OVERLAY = """package tidegate.overlay.rail

import rego.v1

cache_until := "9999-12-31T23:59:59.999999Z"

restrictions := {{r.ref: {rule} | some r in input.resources}}
"""
PSEUDONYMS = '{"masks": {"line": {"kind": "pseudonym", "key": "recipient"}}}'


@dataclass
class World:
    exchange: LocalExchange
    held: dict[tuple[str, str], str] = field(default_factory=dict)

    def grant(
        self, table: str, purpose: str, *, mode: str = "rows", only: Any = None, columns: tuple[str, ...] = ()
    ) -> None:
        """Put the one agreement of a dataset and a purpose in force, in place of the one before."""
        self.revoke(table, purpose)
        steward, now = self.exchange.session("health", "steward"), SystemClock().now()
        dataset = steward.catalogue[f"health.{table}"]
        agreement = Agreement(
            id=SystemIds().request_id(),
            dataset=DatasetName("health", table),
            owner="health",
            grantee="city",
            purposes=(purpose,),
            legal_basis=BASIS,
            columns=columns or tuple(column.name for column in dataset.columns),
            mode=mode,
            min_group_size=FLOOR if mode == "aggregate" else 1,
            row_filter=only or {},
            issued_at=timestamp(now),
            expires_at=timestamp(now + timedelta(days=1)),
            granted_by=str(steward.identity.spiffe),
        )
        document = agreement.signed_bytes()
        assert steward.transport.grant_agreement(
            document, *sign_document(steward.identity, document), SystemIds().request_id()
        )
        self.held[table, purpose] = agreement.id

    def revoke(self, table: str, purpose: str) -> None:
        held = self.held.pop((table, purpose), None)
        if held is None:
            return
        steward = self.exchange.session("health", "steward")
        document = canonical({"revoke": held, "at": timestamp(SystemClock().now()), "reason": "a test"})
        signed = sign_document(steward.identity, document)
        assert steward.transport.revoke_agreement(document, *signed, SystemIds().request_id())

    def change(self, table: str, **more: Any) -> None:
        catalogue = self.exchange.session("health", "steward").catalogue
        catalogue.update(Dataset.from_json({**catalogue[f"health.{table}"].to_json(), **more}))

    def flight(self, purpose: str = ROWS) -> Flight:
        return Flight(IdentityFolder(self.exchange.identity("city", "desk")).load(), purpose)

    def first_door(self, sql: str, purpose: str = ROWS) -> pa.Table:
        with open_session(None, identity=str(self.exchange.identity("city", "desk")), purpose=purpose) as session:
            return session.query(sql).to_arrow()

    def log(self) -> list[dict[str, Any]]:
        found = on_disk(self.exchange.broker_folder / "log")
        return [json.loads(found[index]) for index in sorted(found)]

    def asked(self, name: str = "health-node1") -> int:
        """Count what a node was asked for; it writes of each fragment, answered or not."""
        return self.exchange.running[name].log.read_text(errors="replace").count("answered")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("flight-policy")
    hints = folder / "hints.rego"
    hints.write_text(OVERLAY.format(rule="{}"))
    own = folder / "own.rego"
    own.write_text(OVERLAY.format(rule=PSEUDONYMS))
    settings = {"limits": {"join_workers": 1, "planning_workers": 1}, "policy": {"overlays": [str(hints)]}}
    with LocalExchange(folder, broker_settings=settings) as exchange:
        exchange.start()
        for purpose in (ROWS, GROUPS):
            exchange.operator().transport.add_purpose(purpose, purpose, [BASIS], SystemIds().request_id())
        exchange.join("city", "desk", roles=["analyst"])
        _department(exchange, "health", (CASES, VISITS), {})
        _department(exchange, "rail", (TRIPS, AREAS), {"policy": {"overlays": [str(own)]}})
        exchange.wait_attached(["health", "rail"])
        for member in ("health", "rail"):
            catalogue = exchange.session(member, "steward").catalogue
            for dataset in catalogue.held_by_node():
                catalogue.register(dataset)
        running = World(exchange)
        running.grant("cases", ROWS)
        running.grant("cases", GROUPS, mode="aggregate")
        yield running


def _department(exchange: LocalExchange, member: str, tables: tuple[str, ...], settings: dict[str, object]) -> None:
    database = exchange.folder / f"{member}.duckdb"
    with duckdb.connect(str(database)) as engine:
        engine.execute("SET TimeZone = 'UTC'")
        for statement in tables:
            engine.execute(statement)
    exchange.join(member, "node1", kind="node")
    exchange.join(member, "steward", kind="person", roles=["steward"])
    exchange.start_node(member, [_held(database, statement.split()[2]) for statement in tables], settings=settings)


def _held(database: Path, table: str) -> dict[str, object]:
    described = {"name": table, "source": "duckdb", "path": str(database), "table": table}
    if table in ("trips", "areas"):
        return {**described, "class": "open", "licence": "CC0-1.0"}
    columns = {name: {"mask": mask} for name, mask in MASKS.items()} if table == "cases" else {}
    more: dict[str, object] = {"subject_column": "person", "columns": columns}
    return {**described, "class": "conditional", "legal_basis": BASIS, **more}


@pytest.fixture
def desk(world: World) -> Iterator[Flight]:
    with world.flight() as opened:
        yield opened


def refuses(world: World, code: Code, call: Any, *arguments: Any) -> TidegateError:
    """Have a call refused, with a receipt, by one entry of the log and without a node's doing anything."""
    before, asked = len(world.log()), world.asked()
    with pytest.raises(TidegateError) as caught:
        call(*arguments)
    error = refused(caught)
    assert error.code is code, error
    assert error.receipt and error.request_id
    (entry,) = world.log()[before:]
    assert (entry["type"], entry["error"], entry["door"]) == ("refusal", code.value, "flight")
    assert entry["request_id"] == error.request_id
    assert world.asked() == asked
    return error


# --- a ticket under a policy that has changed -------------------------------------------------------------------------

SEEN = "SELECT person, ward FROM health.visits WHERE person < 5"
COUNTED = "SELECT ward, count(*) AS n FROM health.visits GROUP BY ward"
FILTER = {"type": "field", "field": "person", "operator": "lt", "value": 2}


@pytest.fixture
def visits(world: World) -> Iterator[World]:
    world.grant("visits", ROWS)
    yield world
    world.revoke("visits", ROWS)


def test_an_agreement_that_is_revoked_after_the_ticket_was_given(visits: World, desk: Flight) -> None:
    info, other = desk.info(SEEN), desk.info(SEEN)
    assert desk.get(other).table.num_rows == 20
    visits.revoke("visits", ROWS)
    error = refuses(visits, Code.POLICY_REFUSED, desk.get, info)
    assert [reason.code for reason in error.reasons] == ["agreement_missing"]
    refuses(visits, Code.FLIGHT_HANDLE, desk.get, info)
    refuses(visits, Code.POLICY_REFUSED, desk.info, SEEN)


def test_columns_that_are_no_longer_agreed_are_refused(visits: World, desk: Flight) -> None:
    info, unmoved = desk.info(SEEN), desk.info("SELECT ward FROM health.visits")
    visits.grant("visits", ROWS, columns=("ward",))
    before = len(visits.log())
    error = refuses(visits, Code.POLICY_REFUSED, desk.get, info)
    assert [reason.code for reason in error.reasons] == ["column_not_in_agreement"]
    assert desk.get(unmoved).table.num_rows == 40, "policy says of these columns what it said before"
    assert [entry["type"] for entry in visits.log()[before:]] == ["refusal", "decision", "outcome"]


def test_rows_that_are_no_longer_agreed_make_a_ticket_stale(visits: World, desk: Flight) -> None:
    info = desk.info(SEEN)
    visits.grant("visits", ROWS, only=FILTER)
    refuses(visits, Code.FLIGHT_STALE, desk.get, info)
    assert desk.get(desk.info(SEEN)).table.num_rows == 8


def test_groups_in_place_of_rows_make_a_ticket_stale(visits: World, desk: Flight) -> None:
    info, rows = desk.info(COUNTED), desk.info(SEEN)
    visits.grant("visits", ROWS, mode="aggregate")
    refuses(visits, Code.FLIGHT_STALE, desk.get, info)
    refuses(visits, Code.POLICY_STRUCTURE, desk.get, rows)
    again = desk.info(COUNTED)
    streamed = desk.get(again)
    assert streamed.schema.equals(schema_of(again.schema), check_metadata=True)
    assert streamed.table.num_rows == 3


def test_another_mask_makes_a_ticket_stale(visits: World, desk: Flight) -> None:
    info = desk.info(SEEN)
    visits.change("visits", extra={"mask.ward": "redact"})
    try:
        refuses(visits, Code.FLIGHT_STALE, desk.get, info)
        assert set(desk.get(desk.info(SEEN)).table["ward"].to_pylist()) == {"***"}
    finally:
        visits.change("visits", extra={})


def test_a_statement_that_was_prepared_once_is_decided_each_time(visits: World, desk: Flight) -> None:
    made = desk.prepare("SELECT id, ward FROM health.visits WHERE person < ?")
    command = prepared(made.prepared_statement_handle)
    desk.bind(made.prepared_statement_handle, pa.record_batch({"0": [5]}))

    def rows() -> int:
        before = len(visits.log())
        found = desk.get(desk.info(command)).table.num_rows
        assert [entry["type"] for entry in visits.log()[before:]] == ["decision", "outcome"]
        return found

    assert rows() == 20
    visits.grant("visits", ROWS, only=FILTER)
    assert rows() == 8
    visits.revoke("visits", ROWS)
    refuses(visits, Code.POLICY_REFUSED, desk.info, command)
    visits.grant("visits", ROWS, columns=("id", "ward"))
    refuses(visits, Code.POLICY_REFUSED, desk.info, command)  # the condition reads person
    visits.grant("visits", ROWS, mode="aggregate")
    refuses(visits, Code.POLICY_STRUCTURE, desk.info, command)
    visits.grant("visits", ROWS)
    assert rows() == 20


# --- the schema that was announced is the stream's --------------------------------------------------------------------


def described(flight: Flight, command: Any) -> tuple[flight_pb2.FlightInfo, Any]:
    """Ask twice of one command: what its answer looks like, and the answer; both say the same."""
    info = flight.info(command)
    asked = flight.call("GetSchema", info.flight_descriptor.SerializeToString())[0]
    assert flight_pb2.FlightSchemaResult.FromString(asked).schema == info.schema
    streamed = flight.get(info)
    assert streamed.schema.equals(schema_of(info.schema), check_metadata=True)
    return info, streamed


MASKED = [
    "SELECT * FROM health.cases",
    "SELECT name, name, id AS name FROM health.cases WHERE person < 3",
    "SELECT born, seen, at, salary, price, score FROM health.cases WHERE person < 0",
    "SELECT max(born) AS b, min(at) AS a, sum(salary) AS s, avg(price) AS p, count(note) AS n FROM health.cases",
    "SELECT upper(mail) AS m, salary + 1 AS s, price * 2 AS p, date_trunc('month', seen) AS d, note || 'x' AS x "
    "FROM health.cases ORDER BY person LIMIT 7",
    "SELECT c.name, c.salary, c.at, t.line, c.note FROM health.cases c JOIN rail.trips t ON c.person = t.person",
    "SELECT name, sum(price) AS s, any_value(note) AS n FROM health.cases GROUP BY name",
    "SELECT t.line, c.code, count(*) AS n FROM health.cases c LEFT JOIN rail.trips t ON c.person = t.person GROUP BY ALL",
    "SELECT id FROM health.cases UNION ALL SELECT id FROM rail.trips",
    "SELECT line, upper(line) AS line, id FROM rail.trips",
]


@pytest.mark.parametrize("sql", MASKED)
def test_masked_columns_have_the_types_that_were_announced(world: World, desk: Flight, sql: str) -> None:
    _, streamed = described(desk, sql)
    table = world.first_door(sql)
    assert streamed.table.schema.types == table.schema.types
    assert sorted(map(str, streamed.table.to_pylist())) == sorted(map(str, table.to_pylist()))


def test_masks_keep_the_type_of_their_column_and_hide_its_value(world: World, desk: Flight) -> None:
    _, streamed = described(desk, "SELECT * FROM health.cases WHERE person = 8")
    utc = pa.timestamp("us", "UTC")
    assert {name: streamed.schema.field(name).type for name in MASKS} == {
        "id": pa.int64(),
        "name": pa.string(),
        "code": pa.string(),
        "note": pa.string(),
        "mail": pa.string(),
        "street": pa.string(),
        "salary": pa.int32(),
        "price": pa.decimal128(9, 2),
        "score": pa.float64(),
        "born": pa.date32(),
        "seen": pa.timestamp("us"),
        "at": utc,
    }
    (row,) = streamed.table.to_pylist()
    assert row["id"] != 8 and len(row["name"]) == 32 and len(row["code"]) == 64
    assert (row["note"], row["mail"], row["street"]) == (None, "***mple", "***")
    assert (row["salary"], str(row["price"]), row["score"]) == (1000, "20.00", 0.0)
    assert [str(row[name])[:10] for name in ("born", "seen", "at")] == ["1960-01-01", "2026-01-01", "2026-01-05"]
    assert row["district"] == "even"


def test_the_owners_own_rules_mask_what_the_broker_announced_plain(world: World, desk: Flight) -> None:
    """The node's overlay is in force, and the broker need not know it: values change, types do not."""
    _, streamed = described(desk, "SELECT line, id FROM rail.trips")
    assert all(len(line) == 32 for line in streamed.table["line"].to_pylist())


GROUPED = [
    ("SELECT district, count(*) AS n FROM health.cases GROUP BY district", 2),
    (
        "SELECT district, count(*) AS n, count(*) AS n, avg(salary) AS a, sum(price) AS s FROM health.cases GROUP BY ALL",
        2,
    ),
    ("SELECT born, count(*) AS n, sum(score) AS s FROM health.cases WHERE district = 'few' GROUP BY born", 0),
    ("SELECT count(*) AS n, sum(salary) AS s FROM health.cases WHERE person < 2", 0),
    (
        "SELECT c.district, a.area, count(*) AS n FROM health.cases c JOIN rail.areas a ON c.district = a.district "
        "GROUP BY c.district, a.area",
        2,
    ),
]


@pytest.mark.parametrize(("sql", "groups"), GROUPED)
def test_groups_under_a_floor_have_the_schema_that_was_announced(world: World, sql: str, groups: int) -> None:
    with world.flight(GROUPS) as flight:
        info, streamed = described(flight, sql)
        assert flight.prepare(sql).dataset_schema == info.schema
    table = world.first_door(sql, GROUPS)
    assert streamed.table.schema.types == table.schema.types
    assert sorted(map(str, streamed.table.to_pylist())) == sorted(map(str, table.to_pylist()))
    assert streamed.table.num_rows == groups
    assert "few" not in str(streamed.table.to_pylist())


def test_parameters_under_masks_and_floors(world: World, desk: Flight) -> None:
    with world.flight(GROUPS) as flight:
        before = len(world.log())
        made = flight.prepare(
            "SELECT district, count(*) AS n, ? AS said FROM health.cases WHERE person < ? GROUP BY district"
        )
        assert len(world.log()) == before, "values that stand in for the caller's are refused in nobody's name"
        assert schema_of(made.parameter_schema).types == [pa.string(), pa.int64()]
        assert schema_of(made.dataset_schema).names == ["district", "n", "said"]
        for least, said, data_type, groups in (
            (60, "x", pa.string(), 2),
            (60, 7, pa.int32(), 2),
            (3, 1.5, pa.float64(), 0),
        ):
            flight.bind(made.prepared_statement_handle, pa.record_batch({"0": [said], "1": [least]}))
            _, streamed = described(flight, prepared(made.prepared_statement_handle))
            assert streamed.schema.field("said").type == data_type
            assert streamed.table.num_rows == groups
    made = desk.prepare("SELECT name, born, $1 AS name FROM health.cases WHERE born >= $2")
    desk.bind(made.prepared_statement_handle, pa.record_batch({"0": [None], "1": ["1961-01-01"]}))
    _, streamed = described(desk, prepared(made.prepared_statement_handle))
    assert streamed.schema.names == ["name", "born", "name"] and streamed.table.num_rows == 0


# --- an overlay that the broker reads at its start --------------------------------------------------------------------


def test_after_a_restart_under_other_rules_no_ticket_is_left(world: World) -> None:
    """Rules are read at a start, and tickets do not outlive one: what they were given under cannot be lost from sight."""
    sql = "SELECT line FROM rail.trips WHERE line = 'line 1'"
    with world.flight() as flight:
        info, made = flight.info(sql), flight.prepare(sql)
    exchange = world.exchange
    (exchange.folder / "hints.rego").write_text(OVERLAY.format(rule='{"deny": ["line"]}'))
    exchange.stop("broker")
    exchange.start_broker()
    exchange.wait_attached(["health", "rail"])
    with world.flight() as flight:
        refuses(world, Code.FLIGHT_HANDLE, flight.get, info)
        refuses(world, Code.FLIGHT_HANDLE, flight.info, prepared(made.prepared_statement_handle))
        error = refuses(world, Code.POLICY_REFUSED, flight.info, sql)
        assert [reason.code for reason in error.reasons] == ["column_denied_by_overlay"]

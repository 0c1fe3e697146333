"""Tickets and handles: once, by their owner, in their time, under the rules of then; anything else is refused and recorded.

The broker is the composition root itself; its clock can be moved, and its departments are played.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from broker.wire.flight import handles, messages, refusals
from tests.federation.flight_calls import Flight, descriptor, prepared, put, schema_of
from tests.robust import PURPOSE, ROLES, LightNode, World, broker_world, described, on_disk
from tidegate.core.clock import SystemClock
from tidegate.core.dataset import Dataset
from tidegate.core.errors import Code, TidegateError
from tidegate.core.names import IdentityKind
from tidegate.tlog.receipt import verify_receipt
from tidegate.v1 import flight_pb2, flight_sql_pb2, node_service_pb2

pytestmark = pytest.mark.xdist_group("federation-flight-tickets")

SQL = "SELECT id, word FROM ebb.tides"
TABLE = pa.table({"c0": pa.array([1, 2], pa.int64()), "c1": ["a", "b"]})


class MovableClock(SystemClock):
    """The machine's clock, whose seconds a test can put forward. The time of day stays: certificates are real."""

    ahead_s = 0.0

    def monotonic_s(self) -> float:
        return super().monotonic_s() + self.ahead_s


CLOCK = MovableClock()


def answers(node: LightNode, fragment: node_service_pb2.Fragment) -> None:
    node.answer(fragment, node_table["now"])


node_table = {"now": TABLE}


@pytest.fixture(scope="module")
def coast(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with broker_world(tmp_path_factory.mktemp("tickets"), clock=CLOCK) as world:
        steward = world.session("ebb", "steward", kind=IdentityKind.PERSON, roles=["steward"])
        steward.catalogue.register(described("ebb", "tides"))
        identity = world.issuer.identity("ebb", "node1", kind=IdentityKind.NODE, roles=())
        node = LightNode(identity, datasets=[described("ebb", "tides")], on_fragment=answers).wait()
        yield world
        node.close()


@pytest.fixture
def desk(coast: World) -> Iterator[Flight]:
    """A fresh certificate for each test, so that none meets the refusals of another."""
    with Flight(coast.issuer.identity("health", "desk"), PURPOSE) as opened:
        yield opened


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    node_table["now"] = TABLE
    yield
    node_table["now"] = TABLE


def log(coast: World) -> list[dict[str, Any]]:
    found = on_disk(coast.broker.config.log_folder)
    return [json.loads(found[index]) for index in sorted(found)]


def refusals_since(coast: World, before: int) -> list[str]:
    entries = log(coast)[before:]
    assert all(entry["door"] == "flight" for entry in entries if entry["type"] in ("refusal", "decision"))
    return [entry["error"] for entry in entries if entry["type"] == "refusal"]


def refuses(code: Code, call: Any, *arguments: Any) -> TidegateError:
    with pytest.raises(TidegateError) as caught:
        call(*arguments)
    assert caught.value.code is code, caught.value
    return caught.value


def test_a_ticket_brings_one_answer_and_both_receipts(coast: World, desk: Flight) -> None:
    before = len(log(coast))
    info = desk.info(SQL)
    assert len(log(coast)) == before, "what was only described is no access"
    streamed = desk.get(info)
    assert streamed.table.to_pydict() == {"id": [1, 2], "word": ["a", "b"]}
    kinds = [entry["type"] for entry in log(coast)[before:]]
    assert kinds == ["decision", "outcome"]
    decision, outcome = log(coast)[before:]
    assert decision["request_id"] == outcome["request_id"] == streamed.leading["x-tidegate-request-id"]
    for name in ("receipt", "outcome"):
        verify_receipt(streamed.trailing[f"x-tidegate-{name}-bin"], coast.info.log_verifier_key)
    said = json.loads(streamed.leading["x-tidegate-disclosure-bin"])
    assert said["purpose"] == PURPOSE and said["datasets"][0]["dataset"] == "ebb.tides"


def test_a_second_use_is_refused_and_recorded(coast: World, desk: Flight) -> None:
    info = desk.info(SQL)
    desk.get(info)
    before = len(log(coast))
    error = refuses(Code.FLIGHT_HANDLE, desk.get, info)
    assert error.receipt and error.request_id
    assert refusals_since(coast, before) == [Code.FLIGHT_HANDLE.value]


def test_another_certificate_is_refused_and_recorded_and_takes_nothing_away(coast: World, desk: Flight) -> None:
    info, made = desk.info(SQL), desk.prepare(SQL)
    before = len(log(coast))
    command = prepared(made.prepared_statement_handle)
    with (
        Flight(coast.issuer.identity("health", "desk"), PURPOSE) as renewed,
        Flight(coast.issuer.identity("rival", "desk", roles=ROLES), PURPOSE) as thief,
    ):
        for other in (renewed, thief):
            refuses(Code.FLIGHT_HANDLE, other.get, info)
            refuses(Code.FLIGHT_HANDLE, other.info, command)
            refuses(Code.FLIGHT_HANDLE, other.call, "DoPut", *put(messages.pack(command), pa.record_batch({"1": [1]})))
            closing = flight_sql_pb2.ActionClosePreparedStatementRequest(
                prepared_statement_handle=made.prepared_statement_handle
            )
            refuses(Code.FLIGHT_HANDLE, other.action, "ClosePreparedStatement", messages.pack(closing))
            cancel = flight_pb2.FlightCancelInfoRequest(info=info).SerializeToString()
            status = flight_pb2.FlightCancelInfoResult.FromString(other.action("CancelFlightInfo", cancel)).status
            assert status == flight_pb2.FlightCancelInfoResult.STATUS_NOT_CANCELLABLE
    assert refusals_since(coast, before) == [Code.FLIGHT_HANDLE.value] * 8
    assert desk.get(info).table.num_rows == 2
    assert desk.get(desk.info(command)).table.num_rows == 2


def test_after_its_time_is_refused_and_recorded(coast: World, desk: Flight) -> None:
    info, made = desk.info(SQL), desk.prepare(SQL)
    CLOCK.ahead_s += handles.TICKETS.lifetime_s + 1
    before = len(log(coast))
    refuses(Code.FLIGHT_HANDLE, desk.get, info)
    assert desk.get(desk.info(prepared(made.prepared_statement_handle))).table.num_rows == 2
    CLOCK.ahead_s += handles.STATEMENTS.lifetime_s + 1
    refuses(Code.FLIGHT_HANDLE, desk.info, prepared(made.prepared_statement_handle))
    assert refusals_since(coast, before) == [Code.FLIGHT_HANDLE.value] * 2


def test_a_statement_is_executed_often_and_each_time_decided_and_recorded(coast: World, desk: Flight) -> None:
    made = desk.prepare("SELECT id FROM ebb.tides WHERE word = ?")
    assert schema_of(made.parameter_schema) == pa.schema([("1", pa.string())])
    handle = made.prepared_statement_handle
    refuses(Code.PLAN_PARAMETERS, desk.info, prepared(handle))
    before = len(log(coast))
    node_table["now"] = pa.table({"c0": pa.array([7], pa.int64())})
    for word in ("a", "b", "c"):
        desk.bind(handle, pa.record_batch({"0": [word]}))
        assert desk.get(desk.info(prepared(handle))).table.to_pydict() == {"id": [7]}
    assert [entry["type"] for entry in log(coast)[before:]] == ["decision", "outcome"] * 3
    closing = flight_sql_pb2.ActionClosePreparedStatementRequest(prepared_statement_handle=handle)
    assert desk.action("ClosePreparedStatement", messages.pack(closing)) == b""
    refuses(Code.FLIGHT_HANDLE, desk.info, prepared(handle))


def changed(coast: World, **more: Any) -> Dataset:
    steward = coast.session("ebb", "steward", kind=IdentityKind.PERSON, roles=["steward"])
    held = steward.catalogue["ebb.tides"]
    document = {**held.to_json(), **more}
    return steward.catalogue.update(Dataset.from_json(document))


def test_after_the_catalogue_changed_is_refused_and_recorded(coast: World, desk: Flight) -> None:
    info = desk.info(SQL)
    changed(coast, title="The same tides under another title")
    before = len(log(coast))
    assert refuses(Code.FLIGHT_STALE, desk.get, info).receipt
    assert refusals_since(coast, before) == [Code.FLIGHT_STALE.value]
    assert [entry["type"] for entry in log(coast)[before:]] == ["refusal"]
    assert desk.get(desk.info(SQL)).table.num_rows == 2


def test_after_the_policy_no_longer_permits_it_is_refused_and_recorded(coast: World, desk: Flight) -> None:
    info, made = desk.info(SQL), desk.prepare(SQL)
    changed(coast, **{"class": "conditional"})
    before = len(log(coast))
    try:
        with pytest.raises(TidegateError) as caught:
            desk.get(info)
        refuses(caught.value.code, desk.info, prepared(made.prepared_statement_handle))
        assert refusals_since(coast, before) == [caught.value.code.value] * 2
        assert caught.value.code in (Code.POLICY_REFUSED, Code.PLAN_UNKNOWN_DATASET)
    finally:
        changed(coast, **{"class": "open"})


@pytest.mark.parametrize(
    ("purposes", "word"),
    [((), "x-tidegate-purpose"), ((PURPOSE, "research.statistics"), "several values"), (("",), "x-tidegate-purpose")],
)
def test_no_purpose_or_two_are_refused_with_the_way_and_recorded(
    coast: World, purposes: tuple[str, ...], word: str
) -> None:
    before = len(log(coast))
    with Flight(coast.issuer.identity("health", "desk"), purposes) as opened:
        for call in (opened.info, opened.prepare):
            assert word in refuses(Code.FLIGHT_PURPOSE, call, SQL).message
    assert refusals_since(coast, before) == [Code.FLIGHT_PURPOSE.value] * 2


def test_one_purpose_named_twice_is_one(coast: World) -> None:
    with Flight(coast.issuer.identity("health", "desk"), (PURPOSE, PURPOSE)) as opened:
        assert opened.get(opened.info(SQL)).table.num_rows == 2


def test_a_ticket_is_for_the_purpose_that_it_was_given_for(coast: World) -> None:
    identity = coast.issuer.identity("health", "desk")
    with Flight(identity, PURPOSE) as first, Flight(identity, "research.statistics") as other, Flight(identity) as none:
        info = first.info(SQL)
        refuses(Code.FLIGHT_PURPOSE, other.get, info)
        assert none.get(first.info(SQL)).table.num_rows == 2


def test_whoever_tries_handles_does_not_fill_the_log(coast: World, desk: Flight) -> None:
    before = len(log(coast))
    for number in range(refusals.EACH_MAX + 8):
        refuses(Code.FLIGHT_HANDLE, desk.info, prepared(bytes([number]) * handles.HANDLE_BYTES))
    assert len(refusals_since(coast, before)) == refusals.EACH_MAX


def test_what_would_change_data_is_refused_and_recorded(coast: World, desk: Flight) -> None:
    before = len(log(coast))
    row = pa.record_batch({"a": [1]})
    for command in (
        flight_sql_pb2.CommandStatementUpdate(query="DELETE FROM ebb.tides"),
        flight_sql_pb2.CommandPreparedStatementUpdate(prepared_statement_handle=b"x"),
        flight_sql_pb2.CommandStatementIngest(),
    ):
        refuses(Code.FLIGHT_READ_ONLY, desk.call, "DoPut", *put(messages.pack(command), row))
        refuses(Code.FLIGHT_READ_ONLY, desk.info, command)
    assert refusals_since(coast, before) == [Code.FLIGHT_READ_ONLY.value] * 6


def test_a_ticket_that_is_given_up_is_gone(coast: World, desk: Flight) -> None:
    info = desk.info(SQL)
    body = flight_pb2.FlightCancelInfoRequest(info=info).SerializeToString()
    statuses = [
        flight_pb2.FlightCancelInfoResult.FromString(desk.action("CancelFlightInfo", body)).status for _ in "12"
    ]
    assert statuses == [
        flight_pb2.FlightCancelInfoResult.STATUS_CANCELLED,
        flight_pb2.FlightCancelInfoResult.STATUS_NOT_CANCELLABLE,
    ]
    refuses(Code.FLIGHT_HANDLE, desk.get, info)


# --- a department's engine gives other Arrow types than the catalogue's -------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        pa.array(["a", "b"]).dictionary_encode(),
        pa.array(["a", None], pa.large_string()),
        pa.array(["a", "b"], pa.string_view()),
    ],
    ids=lambda array: str(array.type),
)
def test_other_arrow_types_are_cast_to_what_was_announced(coast: World, desk: Flight, words: pa.Array) -> None:
    field = pa.field("c0", pa.int32(), nullable=False, metadata={"unit": "m"})
    node_table["now"] = pa.table([pa.array([1, 2], pa.int32()), words], schema=pa.schema([field, ("c1", words.type)]))
    info = desk.info(SQL)
    streamed = desk.get(info)
    assert streamed.schema.equals(schema_of(info.schema), check_metadata=True)
    assert streamed.schema == pa.schema([("id", pa.int64()), ("word", pa.string())])
    assert streamed.table.to_pydict() == {"id": [1, 2], "word": words.to_pylist()}
    outcome = log(coast)[-1]
    assert (outcome["type"], outcome["rows"], outcome["error"]) == ("outcome", 2, "")


@pytest.mark.parametrize(
    "ids",
    [
        pa.array([1.5, 2.0]),
        pa.array([2**63, 1], pa.uint64()),
        pa.array(["1", "x"]),
        pa.array([{"a": 1}, {"a": 2}]),
    ],
    ids=lambda array: str(array.type),
)
def test_what_cannot_be_cast_exactly_ends_the_answer_and_closes_its_record(
    coast: World, desk: Flight, ids: pa.Array
) -> None:
    node_table["now"] = pa.table({"c0": ids, "c1": ["a", "b"]})
    refuses(Code.FETCH_INVALID_DATA, desk.get, desk.info(SQL))
    outcome = log(coast)[-1]
    assert (outcome["type"], outcome["error"]) == ("outcome", Code.FETCH_INVALID_DATA.value)


# --- garbage of a certain intelligence ----------------------------------------------------------------------------------------


def test_parameters_that_are_not_arrow_are_refused(coast: World, desk: Flight) -> None:
    made = desk.prepare("SELECT id FROM ebb.tides WHERE word = ?")
    command = messages.pack(prepared(made.prepared_statement_handle))
    good = list(put(command, pa.record_batch({"0": ["x"]})))
    schema, batch = (flight_pb2.FlightData.FromString(raw) for raw in good)

    def sent(*items: flight_pb2.FlightData) -> list[bytes]:
        first = flight_pb2.FlightData(flight_descriptor=schema.flight_descriptor)
        return [first.SerializeToString(), *(item.SerializeToString() for item in items)]

    bare = flight_pb2.FlightData(data_header=schema.data_header)
    for header in (b"x", b"\xff" * 64, schema.data_header[:-8], bytes(64), schema.data_header + b"\x01" * 8):
        refuses(Code.WIRE_INVALID, desk.call, "DoPut", *sent(bare, flight_pb2.FlightData(data_header=header)))
    for size in (0, 1, len(batch.data_body) - 1):
        cut = flight_pb2.FlightData(data_header=batch.data_header, data_body=batch.data_body[:size])
        refuses(Code.WIRE_INVALID, desk.call, "DoPut", *sent(bare, cut))
    wild = bytearray(batch.data_body)
    wild[4:8] = b"\xff\xff\xff\x7f"
    bad = flight_pb2.FlightData(data_header=batch.data_header, data_body=bytes(wild))
    refuses(Code.WIRE_INVALID, desk.call, "DoPut", *sent(bare, bad))
    refuses(Code.WIRE_INVALID, desk.call, "DoPut", *sent())
    refuses(Code.PLAN_PARAMETERS, desk.call, "DoPut", *sent(bare))
    desk.call("DoPut", *good)


@pytest.mark.parametrize(
    "row",
    [
        pa.record_batch({"0": ["a", "b"]}),
        pa.record_batch({"0": pa.array([], pa.string())}),
        pa.record_batch({"0": ["a"], "1": ["b"]}),
        pa.record_batch({"0": [{"a": 1}]}),
        pa.record_batch({"0": pa.array([(1, 2, 3)], pa.month_day_nano_interval())}),
        pa.record_batch({"0": pa.array([1], pa.timestamp("ns"))}),
        pa.record_batch({"0": ["x" * (1 << 20)]}),
    ],
    ids=["rows", "none", "columns", "struct", "interval", "nanoseconds", "large"],
)
def test_parameters_that_cannot_be_bound_are_refused(coast: World, desk: Flight, row: pa.RecordBatch) -> None:
    made = desk.prepare("SELECT id FROM ebb.tides WHERE word = ?")
    refuses(Code.PLAN_PARAMETERS, desk.bind, made.prepared_statement_handle, row)


def test_a_transaction_is_refused(coast: World, desk: Flight) -> None:
    asked = flight_sql_pb2.ActionCreatePreparedStatementRequest(query=SQL, transaction_id=b"1")
    refuses(Code.WIRE_UNSUPPORTED, desk.action, "CreatePreparedStatement", messages.pack(asked))
    refuses(Code.WIRE_UNSUPPORTED, desk.info, flight_sql_pb2.CommandStatementQuery(query=SQL, transaction_id=b"1"))


def test_calls_that_the_exchange_does_not_offer_say_so(coast: World, desk: Flight) -> None:
    for name in ("Handshake", "DoExchange"):
        refuses(Code.WIRE_UNSUPPORTED, desk.call, name, b"")
    refuses(Code.WIRE_UNSUPPORTED, desk.action, "BeginTransaction", b"")
    assert desk.call("ListFlights", b"") == []
    known = [flight_pb2.FlightActionType.FromString(item).type for item in desk.call("ListActions", b"")]
    assert "CreatePreparedStatement" in known and len(known) == len(set(known)) == 7
    polled = flight_pb2.FlightPollInfo.FromString(desk.call("PollFlightInfo", descriptor(SQL))[0])
    assert not polled.HasField("flight_descriptor") and polled.progress == 1.0
    assert desk.get(polled.info).table.num_rows == 2


def test_a_text_that_needs_its_values_to_be_planned_can_still_be_prepared(coast: World, desk: Flight) -> None:
    before = len(log(coast))
    made = desk.prepare("SELECT repeat(word, ?) AS w FROM ebb.tides LIMIT ?")
    assert schema_of(made.dataset_schema) is not None and refusals_since(coast, before) == []
    assert len(schema_of(made.parameter_schema)) == 2
    node_table["now"] = pa.table({"c0": ["aa"]})
    desk.bind(made.prepared_statement_handle, pa.record_batch({"0": [2], "1": [1]}))
    info = desk.info(prepared(made.prepared_statement_handle))
    assert schema_of(info.schema) == desk.get(info).schema == pa.schema([("w", pa.string())])


def test_the_type_of_a_value_is_the_type_that_is_announced(coast: World, desk: Flight) -> None:
    made = desk.prepare("SELECT ? AS v, id FROM ebb.tides")
    kept = prepared(made.prepared_statement_handle)
    for value, data_type in ((1, pa.int32()), (2**40, pa.int64()), ("x", pa.string()), (1.5, pa.float64())):
        desk.bind(made.prepared_statement_handle, pa.record_batch({"0": [value]}))
        node_table["now"] = pa.table({"c0": pa.array([value], data_type), "c1": pa.array([1], pa.int64())})
        info = desk.info(kept)
        assert schema_of(info.schema).field("v").type == data_type
        assert desk.get(info).table.to_pylist() == [{"v": value, "id": 1}]


def test_a_folder_of_the_broker_holds_no_value(coast: World, desk: Flight, tmp_path: Path) -> None:
    desk.prepare("SELECT id FROM ebb.tides WHERE word = 'CANARY-WORD-4711'")
    entries = json.dumps(log(coast))
    assert "CANARY-WORD-4711" not in entries

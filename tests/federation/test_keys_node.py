"""Keys at the door of a real node: what its grant does not name, or what is no set of keys, is refused and recorded.

A scripted broker makes genuine fragments and changes one thing at a time; the broker is who an attacker would be here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from node.app import Node
from node.config import parse_config
from tests.fakes.scripted_broker import (
    Attached,
    Received,
    ScriptedBroker,
    allowing,
    granted_keys,
    key_batch,
    reduction_message,
    scripted_broker,
)
from tidegate import ipc
from tidegate.core.grant import KeySource, KeyTerms
from tidegate.core.limits import KEYS_MAX
from tidegate.identity.folder import LocalIdentity

pytestmark = pytest.mark.xdist_group("node-keys")

OVERLAY = """package tidegate.overlay.house

import rego.v1

restrictions := {r.ref: rules(r) | some r in input.resources}

rules(r) := {"masks": {"tail": {"kind": "pseudonym"}}, "keys_may_go_to": ["rail", "land"]} if r.dataset == "aviation.flights"

rules(r) := {"mode": "aggregate", "min_group_size": 2} if r.dataset == "aviation.crowd"
"""
SQL = 'SELECT "r0"."id" AS "c0", "r0"."tail" AS "c1" FROM "aviation"."flights" AS "r0"'
REFS = {"r0": "aviation.flights"}
ALLOWED = allowing("id", "tail", "day", keys_may_go_to=["*"])
SOURCE = KeySource("f0", "c0", "health")
TERMS = KeyTerms("r0", "id", (SOURCE,))
GRANT, REPLAYED, FRAGMENT, REFUSED = "TG-NODE-001", "TG-NODE-002", "TG-NODE-004", "TG-POLICY-001"


def chunks_of(*values: Any, name: str = "k", kind: pa.DataType | None = None) -> tuple[bytes, ...]:
    data = pa.record_batch([pa.array(values, kind)], names=[name])
    return tuple(ipc.cut(data.schema, [data]))


@dataclass
class World:
    broker: ScriptedBroker
    node: Node
    session: Attached
    identity: LocalIdentity

    def ask(self, chunks: Sequence[bytes] | None, count: int = 0, **changes: Any) -> Any:
        fields = {"reductions": (TERMS,), "sql": SQL, "refs": REFS, "decision": ALLOWED, **changes}
        batches = () if chunks is None else ((0, chunks, count),)
        fragment = self.broker.fragment(self.session, **{"batches": batches, **fields})
        reply = self.broker.ask(self.session, fragment)
        if isinstance(reply, Received):
            self.broker.check_trailer(reply, fragment, self.identity)
        return reply

    def ids(self, chunks: Sequence[bytes] | None, count: int = 0, **changes: Any) -> list[int]:
        reply = self.ask(chunks, count, **changes)
        assert isinstance(reply, Received), reply
        return sorted(row["c0"] for row in reply.rows)

    def refused(self, chunks: Sequence[bytes] | None, count: int = 0, **changes: Any) -> str:
        reply = self.ask(chunks, count, **changes)
        assert not isinstance(reply, Received), "the node answered"
        last = json.loads(self.node.audit.entry(self.node.audit.size - 1))
        assert (last["action"], last["details"]["code"]) == ("refuse", reply.code)
        return str(reply.code)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("node-keys")
    with duckdb.connect() as engine:
        rows = (
            "SELECT i AS id, 'N' || (i % 7) AS tail, DATE '2024-01-01' + (i % 30)::INTEGER AS day FROM range(100) r(i)"
        )
        engine.execute(f"COPY ({rows}) TO '{folder}/flights.parquet'")
    (folder / "house").mkdir()
    (folder / "house" / "house.rego").write_text(OVERLAY)
    held = [
        {"name": name, "source": "parquet", "path": "flights.parquet", "class": "open", "subject_column": "tail"}
        for name in ("flights", "crowd")
    ]
    with scripted_broker(folder) as broker:
        identity = broker.node_folder(folder / "identity").load()
        config = parse_config(
            {
                "node": {"identity": "identity", "state": "state", "stewards": []},
                "limits": {"workers": 1, "drain_s": 5},
                "policy": {"overlays": ["house"]},
                "dataset": held,
            },
            folder,
            {},
        )
        node = Node(config)
        node.start()
        try:
            yield World(broker, node, broker.attached(), identity)
        finally:
            node.stop()


# --- what genuine keys do


def test_only_rows_whose_key_was_given_leave(world: World) -> None:
    reply = world.ask(chunks_of(3, 5, 400), 3)
    assert sorted(row["c0"] for row in reply.rows) == [3, 5]
    assert "aviation.flights: id: only keys that were received" in reply.trailer.rules
    entry = json.loads(world.node.audit.entry(reply.trailer.entry_index))
    assert entry["keys"] == [{"column": "aviation.flights.id", "from": {"health": 3}, "sources": ["f0"]}]


def test_no_keys_leave_no_row_and_none_sent_leave_every_row(world: World) -> None:
    empty = (ipc.schema_chunk(pa.schema([("k", pa.int64())])),)
    assert world.ids(empty, 0) == []
    assert world.ids(None) == list(range(100))


def test_a_narrower_type_is_compared_without_a_cast_of_the_column(world: World) -> None:
    assert world.ids(chunks_of(3, 5, kind=pa.int8()), 2) == [3, 5]
    assert world.ids(chunks_of(3, 2**64 - 1, kind=pa.uint64()), 2) == [3]


def test_dates_are_keys(world: World) -> None:
    terms = replace(TERMS, column="day")
    sql = 'SELECT "r0"."id" AS "c0", "r0"."day" AS "c1" FROM "aviation"."flights" AS "r0"'
    day = chunks_of(19723, kind=pa.int32())  # days since 1970, as an integer: no date
    assert world.refused(day, 1, reductions=(terms,), sql=sql) == FRAGMENT
    assert world.ids(chunks_of(19723, kind=pa.date32()), 1, reductions=(terms,), sql=sql) == [0, 30, 60, 90]


def test_keys_for_a_column_that_this_department_masks_are_left_unused(world: World) -> None:
    terms = replace(TERMS, column="tail")
    reply = world.ask(chunks_of("N1"), 1, reductions=(terms,))
    assert len(reply.rows) == 100
    assert not any("keys" in rule for rule in reply.trailer.rules)


def test_the_nodes_own_rules_say_where_its_keys_may_go(world: World) -> None:
    reply = world.ask(None, grant={"keys_go_to": ("rail", "police", "land")})
    assert list(reply.trailer.keys_may_go_to) == ["rail", "land"]
    assert json.loads(world.node.audit.entry(reply.trailer.entry_index))["keys_may_go_to"] == ["rail", "land"]
    narrow = allowing("id", "tail", keys_may_go_to=["land"])
    assert list(world.ask(None, decision=narrow, grant={"keys_go_to": ("rail", "land")}).trailer.keys_may_go_to) == [
        "land"
    ]
    assert list(world.ask(None).trailer.keys_may_go_to) == []


# --- what is not as the grant and the record say


def other(chunks: Sequence[bytes], place: int = 0) -> dict[str, Any]:
    return {"message": {"keys": [key_batch(place, chunks)]}}


def test_other_keys_than_the_granted_are_refused(world: World) -> None:
    assert world.refused(chunks_of(3), 1, **other(chunks_of(4))) == GRANT


def test_keys_without_a_grant_are_refused(world: World) -> None:
    assert world.refused(None, **other(chunks_of(3))) == GRANT


def test_granted_keys_that_did_not_come_are_refused(world: World) -> None:
    assert world.refused(chunks_of(3), 1, message={"keys": []}) == GRANT


def test_an_extra_batch_is_refused(world: World) -> None:
    twice = {"keys": [key_batch(0, chunks_of(3)), key_batch(0, chunks_of(3))]}
    assert world.refused(chunks_of(3), 1, message=twice) == GRANT
    granted = granted_keys(TERMS, chunks_of(3), 1).to_json()
    assert world.refused(chunks_of(3), 1, message=twice, grant={"keys": (granted, granted)}) == FRAGMENT


@pytest.mark.parametrize("place", [1, 7, 2**32 - 1])
def test_a_reduction_that_is_not_there_is_refused(world: World, place: int) -> None:
    assert world.refused(chunks_of(3), 1, **other(chunks_of(3), place)) == FRAGMENT


@pytest.mark.parametrize(
    "terms",
    [
        replace(TERMS, column="day"),
        replace(TERMS, ref="r1"),
        replace(TERMS, sources=(replace(SOURCE, member="police"),)),
        replace(TERMS, sources=(replace(SOURCE, fragment="f9"),)),
        replace(TERMS, sources=(SOURCE, SOURCE)),
    ],
)
def test_a_grant_for_another_reduction_than_the_recorded_is_refused(world: World, terms: KeyTerms) -> None:
    granted = granted_keys(terms, chunks_of(3), 1).to_json()
    assert world.refused(chunks_of(3), 1, grant={"keys": (granted,)}) == GRANT


def test_a_reduction_that_the_record_does_not_hold_is_refused(world: World) -> None:
    changed = {"reductions": [reduction_message(replace(TERMS, column="day"))]}
    assert world.refused(chunks_of(3), 1, message=changed) == GRANT
    assert world.refused(None, message={"reductions": []}) == GRANT
    assert world.refused(None, reductions=(), message={"reductions": [reduction_message(TERMS)]}) == GRANT


@pytest.mark.parametrize("terms", [replace(TERMS, ref="r9"), replace(TERMS, column="day"), replace(TERMS, column="no")])
def test_keys_for_what_the_fragment_does_not_read_are_refused(world: World, terms: KeyTerms) -> None:
    assert world.refused(chunks_of(3), 1, reductions=(terms,)) == FRAGMENT


Change = Callable[[dict[str, Any]], dict[str, Any]]
MALFORMED: dict[str, Change] = {
    "no count": lambda item: {key: value for key, value in item.items() if key != "count"},
    "more": lambda item: {**item, "more": 1},
    "count is a text": lambda item: {**item, "count": "1"},
    "count is negative": lambda item: {**item, "count": -1},
    "count is a bool": lambda item: {**item, "count": True},
    "counts of another length": lambda item: {**item, "counts": [1, 1]},
    "no counts": lambda item: {**item, "counts": [], "sources": []},
    "a source with more": lambda item: {**item, "sources": [{**item["sources"][0], "more": ""}]},
    "a source that is none": lambda item: {**item, "sources": ["f0"]},
    "ref is a number": lambda item: {**item, "ref": 0},
}


@pytest.mark.parametrize("change", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_grant_of_keys_is_refused(world: World, change: Change) -> None:
    def changed(keys: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        return (change(dict(keys[0])),)

    assert world.refused(chunks_of(3), 1, grant={"keys": changed}) == GRANT


@pytest.mark.parametrize("value", [["f"], "f", [{}]])
def test_keys_that_are_no_list_of_objects_are_refused(world: World, value: Any) -> None:
    assert world.refused(None, grant={"keys": value}) == GRANT


def test_more_keys_than_the_limit_are_refused(world: World) -> None:
    assert world.refused(chunks_of(3), KEYS_MAX + 1) == FRAGMENT


# --- what is no set of keys: found by the worker, for nothing of it is read outside of one


@pytest.mark.parametrize(
    ("chunks", "count"),
    [
        (chunks_of(3, 5), 1),
        (chunks_of(3), 2),
        (chunks_of(3, None), 2),
        (chunks_of(3, name="q"), 1),
        (chunks_of("3"), 1),
        (chunks_of(3.0), 1),
        (chunks_of(True), 1),
        (chunks_of([3]), 1),
        (tuple(ipc.cut((two := pa.record_batch({"k": [3], "more": [4]})).schema, [two])), 1),
        (tuple(ipc.cut((no := pa.record_batch([pa.array([3]).dictionary_encode()], names=["k"])).schema, [no])), 1),
    ],
    ids=["too many", "too few", "NULL", "name", "text", "float", "bool", "list", "two columns", "dictionary"],
)
def test_keys_that_are_not_what_was_said_are_refused(world: World, chunks: tuple[bytes, ...], count: int) -> None:
    assert world.refused(chunks, count) == FRAGMENT


@pytest.mark.parametrize(
    "chunks",
    [
        (b"",),
        (b"no Arrow at all",),
        (chunks_of(3)[0], b"\xff\xff\xff\xff\x00\x00\x00\x10nonsense"),
        (chunks_of(3)[0], chunks_of(3)[1][:-8]),
        (chunks_of(3)[1], chunks_of(3)[0]),
        (chunks_of(3)[0], bytes(64)),
    ],
    ids=["empty", "text", "message", "cut short", "order", "zeros"],
)
def test_bytes_that_are_no_arrow_are_refused_and_the_node_goes_on(world: World, chunks: tuple[bytes, ...]) -> None:
    assert world.refused(chunks, 1) == FRAGMENT
    assert world.ids(chunks_of(3), 1) == [3]


def test_a_flipped_byte_is_refused_or_is_another_set_of_keys(world: World) -> None:
    schema, batch = chunks_of(*range(9))
    outcomes = set()
    for position in range(0, len(batch), 7):
        flipped = bytearray(batch)
        flipped[position] ^= 0x55
        reply = world.ask((schema, bytes(flipped)), 9)
        if isinstance(reply, Received):
            assert {row["c0"] for row in reply.rows} <= set(range(100))
            outcomes.add("answered")
        else:
            assert reply.code == FRAGMENT, position
            outcomes.add("refused")
    assert outcomes == {"answered", "refused"}  # values may be any; the form may not


# --- policy


def test_keys_for_data_that_is_shared_in_groups_are_refused(world: World) -> None:
    sql = 'SELECT "r0"."day" AS "c0", count("r0"."id") AS "c1" FROM "aviation"."crowd" AS "r0" GROUP BY 1'
    groups: dict[str, Any] = {
        "mode": "aggregate",
        "min_group_size": 2,
        "count_entity": "tail",
        "allowed_aggregates": ["count"],
    }
    for decision in (allowing("id", "day", **groups), allowing("id", "day")):
        fields: dict[str, Any] = {"sql": sql, "refs": {"r0": "aviation.crowd"}, "decision": decision}
        assert isinstance(world.ask(None, **fields), Received)
        assert world.refused(chunks_of(3), 1, **fields) == REFUSED

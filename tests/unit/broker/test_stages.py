"""Stages: who is asked when, with which keys, under whose permission; and that everything ends when the query does.

The room ``fetch`` over real attachments; at their other ends threads that answer as nodes do, keys included.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from sqlglot import exp

from broker import stages
from broker.attachments import Attachment, Attachments, CancelOrder, FragmentOrder, TrailerFacts
from broker.fetch import Fetch
from broker.join import Join
from broker.values import ClosedRecord, DecidedPlan, FetchedStreams, QueryPlan, RecordedPlan, Request, RestrictedPlan
from engine.pool import WorkerPool
from engine.spec import WorkerSpec
from tidegate import ipc
from tidegate.core.caller import Caller
from tidegate.core.clock import SystemClock, SystemIds
from tidegate.core.decision import Constraints, Decision, ResourceDecision
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.grant import Grant
from tidegate.core.limits import ENTRY_BYTES_MAX
from tidegate.core.names import DatasetName, IdentityKind, SpiffeId
from tidegate.sql.model import BoundQuery, FederatedPlan, Fragment, Reduction, RenderedSql

CLOCK = SystemClock()
WAIT_S = 10.0
CALLER = Caller(SpiffeId("x", IdentityKind.SERVICE, "city", "desk"), ("analyst",), "internal", "government", "ab")


def table(*values: Any, width: int = 1) -> pa.Table:
    """Make an answer: the same values in columns c0 ..."""
    return pa.table({f"c{number}": pa.array(values) for number in range(width)})


@dataclass
class Node:
    """A department's node: a thread that answers what it is asked from its tables, smaller by the keys that it is given."""

    member: str
    tables: Mapping[str, pa.Table | TidegateError]
    forbids: frozenset[str] = frozenset()
    held: dict[str, threading.Event] = field(default_factory=dict)
    orders: dict[str, FragmentOrder] = field(default_factory=dict)
    batch_rows: int = 2
    cancelled: list[str] = field(default_factory=list)
    asked: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.attachment = Attachment(
            SpiffeId("x", IdentityKind.NODE, self.member, "n"), "00" * 16, (), lambda data, signature: True
        )
        self.thread = threading.Thread(target=self._work, name=f"node-{self.member}", daemon=True)
        self.thread.start()

    def _work(self) -> None:
        while (order := self.attachment.orders.get()) is not None:
            if isinstance(order, FragmentOrder):
                self.orders[order.id.partition("-")[2]] = order
                self.asked.set()
                threading.Thread(target=self._answer, args=(order,), daemon=True).start()
            elif isinstance(order, CancelOrder):
                self.cancelled.append(order.fragment_id.partition("-")[2])

    def _answer(self, order: FragmentOrder) -> None:
        name = order.id.partition("-")[2]
        pending = self.attachment.pending(order.id)
        if pending is None:
            return
        if name in self.held and not self.held[name].wait(WAIT_S):
            return
        answer = self.tables[name]
        if isinstance(answer, TidegateError):
            pending.fail(answer)
            return
        for keys in order.keys:
            schema, batches = ipc.read(iter(keys.chunks))
            values = pa.Table.from_batches(list(batches), schema).column(0)
            answer = answer.filter(pc.is_in(answer.column(0), value_set=values))
        chunks = list(ipc.cut(answer.schema, answer.to_batches(max_chunksize=self.batch_rows)))
        for chunk in chunks:
            pending.put(chunk)
        asked = Grant.parse(order.grant).keys_go_to
        pending.finish(
            TrailerFacts(answer.num_rows, 0, ipc.digest(chunks), b"", 0, 1, 0.0, (), tuple(set(asked) - self.forbids))
        )


def fragment(name: str, member: str, *reductions: tuple[str, tuple[tuple[str, str], ...]]) -> Fragment:
    ref = f"r{name[1:]}"
    made = tuple(Reduction(ref, column, sources) for column, sources in reductions)
    return Fragment(name, member, "n", RenderedSql(f"SELECT {name}", ()), {ref: DatasetName(member, "data")}, ("c0",),
                    False, reductions=made)  # fmt: skip


def by(*sources: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    return "k", tuple((source, "c0") for source in sources)


@dataclass
class World:
    """One query under way."""

    nodes: Mapping[str, Node]
    streams: FetchedStreams
    request: Request

    def read(self, *names: str) -> dict[str, list[Any] | TidegateError]:
        """Read streams as the join does: each in a thread of its own."""
        found: dict[str, list[Any] | TidegateError] = {}

        def pump(name: str) -> None:
            try:
                schema, batches = ipc.read(iter(list(self.streams.streams[name].chunks)))
                found[name] = pa.Table.from_batches(list(batches), schema).column(0).to_pylist()
            except TidegateError as error:
                found[name] = error

        threads = [threading.Thread(target=pump, args=(name,)) for name in names or self.streams.streams]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
        assert not any(thread.is_alive() for thread in threads)
        return found

    def reports(self) -> dict[str, Any]:
        return {report.fragment: report for report in self.streams.reports}


@pytest.fixture
def run() -> Iterator[Callable[..., World]]:
    """Make a world; everything in it is over at the end of the test."""
    made: list[World] = []
    before = set(threading.enumerate())

    def start(
        nodes: Sequence[Node],
        *fragments: Fragment,
        permits: Mapping[str, tuple[str, ...]] | None = None,
        mode: str | Mapping[str, str] = "rows",
        deadline_s: float = WAIT_S,
    ) -> World:
        attachments = Attachments(attachments_max=9)
        for node in nodes:
            attachments.enter(node.attachment)
        recorded = recorded_plan(fragments, permits or {}, mode, deadline_s)
        world = World({node.member: node for node in nodes}, room(attachments).fetch(recorded), recorded.request)
        made.append(world)
        return world

    yield start
    for world in made:
        world.streams.close()
        for node in world.nodes.values():
            for event in node.held.values():
                event.set()
            node.attachment.leave()
    for thread in set(threading.enumerate()) - before:
        thread.join(WAIT_S)
        assert not thread.is_alive(), thread.name


def room(attachments: Attachments) -> Fetch:
    return Fetch(
        attachments=attachments,
        signer=lambda data: (b"signature", b"chain"),
        broker="spiffe://x/broker/main",
        clock=CLOCK,
        ids=SystemIds(),
    )


ANY_SQL = RenderedSql("SELECT 1", ())


def recorded_plan(
    fragments: Sequence[Fragment],
    permits: Mapping[str, tuple[str, ...]],
    mode: Any,
    deadline_s: float,
    final: RenderedSql = ANY_SQL,
) -> RecordedPlan:
    def modes(ref: str) -> Any:
        return mode if isinstance(mode, str) else mode.get(ref, "rows")

    now = CLOCK.monotonic_s()
    request = Request("q", CALLER, "SELECT 1", "p", "", (), "grpc", now + deadline_s, "", now)
    plan = QueryPlan(request, BoundQuery(exp.select("1"), (), ("a",), (), {}), {})
    resources = {
        ref: ResourceDecision(True, {}, {}, Constraints(modes(ref), 1, "", (), 100, False, 0, permits.get(ref, ("*",))))
        for item in fragments
        for ref in item.refs
    }
    decision = Decision(True, (), MappingProxyType(resources))
    question: dict[str, Any] = {"request": {"id": "q"}, "caller": {"member": "city"}, "query": {}}
    decided = DecidedPlan(plan, question, decision, "", ())
    federated = FederatedPlan(tuple(fragments), final, (), ("a",), 100)
    salts = {item.id: b"\0" * 16 for item in fragments}
    return RecordedPlan(RestrictedPlan(decided, federated), ClosedRecord(0, b"{}", b"r", b""), salts)


SOURCE, TARGET = fragment("f0", "air"), fragment("f1", "sea", by("f0"))


def two(**changes: Any) -> list[Node]:
    return [
        Node("air", {"f0": table(1, 2, 2, None)}, **changes),
        Node("sea", {"f1": table(*range(10))}),
    ]


def test_a_fragment_waits_for_its_keys_and_is_asked_with_them(run: Callable[..., World]) -> None:
    nodes = two(held={"f0": threading.Event()})
    world = run(nodes, SOURCE, TARGET)
    assert nodes[0].asked.wait(WAIT_S)
    assert nodes[1].orders == {}
    nodes[0].held["f0"].set()
    assert world.read() == {"f0": [1, 2, 2, None], "f1": [1, 2]}
    grant = Grant.parse(nodes[1].orders["f1"].grant)
    (keys,) = grant.keys
    assert (keys["count"], keys["counts"], keys["ref"], keys["column"]) == (2, [2], "r1", "k")
    assert keys["sources"] == [{"fragment": "f0", "column": "c0", "member": "air"}]
    assert Grant.parse(nodes[0].orders["f0"].grant).keys_go_to == ("sea",)
    assert world.reports()["f1"].keys_received == (("air", "sea.data.k", 2),)
    assert world.reports()["f0"].keys_received == ()


def test_what_waits_for_nothing_is_asked_at_once(run: Callable[..., World]) -> None:
    """Two fragments of one node and one of another, before anything was answered or read."""
    closed = {name: threading.Event() for name in ("f0", "f2", "f3")}
    nodes = [
        Node("air", {"f0": table(1), "f2": table(2)}, held=dict(closed)),
        Node("sea", {"f1": table(1), "f3": table(3)}, held=dict(closed)),
    ]
    world = run(nodes, SOURCE, TARGET, fragment("f2", "air"), fragment("f3", "sea"))
    until = time.monotonic() + WAIT_S
    while {*nodes[0].orders, *nodes[1].orders} != {"f0", "f2", "f3"}:
        assert time.monotonic() < until
        nodes[1].asked.wait(0.001)
    for event in closed.values():
        event.set()
    assert world.read()["f1"] == [1]


def test_no_keys_at_all_are_keys_too(run: Callable[..., World]) -> None:
    empty = pa.table({"c0": pa.array([], pa.int64())})
    world = run([Node("air", {"f0": empty}), Node("sea", {"f1": table(1, 2)})], SOURCE, TARGET)
    assert world.read() == {"f0": [], "f1": []}
    assert world.reports()["f1"].keys_received == (("air", "sea.data.k", 0),)


def test_the_parts_of_a_collection_give_their_keys_together(run: Callable[..., World]) -> None:
    nodes = [
        Node("air", {"f0": table(1, 2)}),
        Node("land", {"f1": table(2, 3)}),
        Node("sea", {"f2": table(*range(10))}),
    ]
    world = run(nodes, SOURCE, fragment("f1", "land"), fragment("f2", "sea", by("f0", "f1")))
    assert world.read()["f2"] == [1, 2, 3]
    assert world.reports()["f2"].keys_received == (("air", "sea.data.k", 2), ("land", "sea.data.k", 2))


def test_chains_run_one_after_the_other_and_side_by_side(run: Callable[..., World]) -> None:
    nodes = [
        Node("air", {"f0": table(1, 2, 3), "f3": table(7)}),
        Node("sea", {"f1": table(2, 3, 4)}),
        Node("land", {"f2": table(3, 4, 5), "f4": table(6, 7)}),
    ]
    world = run(
        nodes, SOURCE, TARGET, fragment("f2", "land", by("f1")), fragment("f3", "air"), fragment("f4", "land", by("f3"))
    )
    assert world.read() == {"f0": [1, 2, 3], "f1": [2, 3], "f2": [3], "f3": [7], "f4": [7]}


# --- permission


@pytest.mark.parametrize(
    ("permits", "forbids", "mode"),
    [
        ({"r0": ()}, (), "rows"),
        ({"r0": ("land",)}, (), "rows"),
        ({}, ("sea",), "rows"),
        ({}, (), {"r0": "aggregate"}),
        ({}, (), {"r1": "aggregate"}),
    ],
)
def test_without_permission_of_broker_and_node_no_key_travels(
    run: Callable[..., World], permits: dict[str, tuple[str, ...]], forbids: tuple[str, ...], mode: Any
) -> None:
    nodes = two(forbids=frozenset(forbids))
    world = run(nodes, SOURCE, TARGET, permits=permits, mode=mode)
    assert world.read()["f1"] == list(range(10))
    assert nodes[1].orders["f1"].keys == ()
    assert Grant.parse(nodes[1].orders["f1"].grant).keys == ()
    assert world.reports()["f1"].keys_received == ()


def test_a_members_own_nodes_need_no_permission(run: Callable[..., World]) -> None:
    node = Node("air", {"f0": table(1), "f1": table(1, 2)})
    world = run([node], SOURCE, fragment("f1", "air", by("f0")), permits={"r0": ()})
    assert world.read()["f1"] == [1]


def test_keys_that_show_a_third_departments_keys_need_its_permission_too(run: Callable[..., World]) -> None:
    """``air`` lets its keys go to ``sea`` alone; what ``sea`` answers by them must not tell ``land``."""
    nodes = [
        Node("air", {"f0": table(1, 2)}),
        Node("sea", {"f1": table(1, 2, 3)}),
        Node("land", {"f2": table(1, 3)}),
    ]
    world = run(nodes, SOURCE, TARGET, fragment("f2", "land", by("f1")), permits={"r0": ("sea",), "r1": ("land",)})
    assert world.read() == {"f0": [1, 2], "f1": [1, 2], "f2": [1, 3]}


def test_keys_of_an_answer_that_no_third_ones_keys_made_smaller_go_on(run: Callable[..., World]) -> None:
    nodes = [
        Node("air", {"f0": table(1, 2)}),
        Node("sea", {"f1": table(1, 2, 3)}),
        Node("land", {"f2": table(1, 3, 9)}),
    ]
    world = run(nodes, SOURCE, TARGET, fragment("f2", "land", by("f1")), permits={"r0": (), "r1": ("land",)})
    assert world.read() == {"f0": [1, 2], "f1": [1, 2, 3], "f2": [1, 3]}


# --- limits


def test_more_keys_than_the_limit_do_not_go(run: Callable[..., World], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "KEYS_MAX", 1)
    nodes = two()
    world = run(nodes, SOURCE, TARGET)
    assert world.read()["f1"] == list(range(10))
    assert world.reports()["f1"].keys_received == ()


def test_keys_that_the_record_has_no_room_for_do_not_go(
    run: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = 150  # bytes are what the sources and one destination take; a second destination takes more than is left
    monkeypatch.setattr(stages, "OUTCOME_BYTES", ENTRY_BYTES_MAX - 3 * stages.LEAF_BYTES - one)
    nodes = [*two(), Node("land", {"f2": table(1, 3, 9)})]
    world = run(nodes, SOURCE, TARGET, fragment("f2", "land", by("f0")))
    answers = world.read()
    assert sorted(len(world.reports()[name].keys_received) for name in ("f1", "f2")) == [0, 1]
    assert (answers["f1"], answers["f2"]) in (([1, 2], [1, 3, 9]), (list(range(10)), [1]))


def test_a_type_without_a_safe_comparison_gives_no_keys_and_holds_nobody_up(run: Callable[..., World]) -> None:
    """The target is asked after the first batch of its source: the rest of that answer says no more."""
    nodes = [Node("air", {"f0": table(1.5, 2.5, 3.5)}), Node("sea", {"f1": table(1, 2)})]
    world = run(nodes, SOURCE, TARGET)
    assert world.read() == {"f0": [1.5, 2.5, 3.5], "f1": [1, 2]}


# --- the end


def code_of(outcome: Any) -> Code:
    assert isinstance(outcome, TidegateError), outcome
    return outcome.code


def test_a_source_that_fails_fails_those_that_wait_for_it(run: Callable[..., World]) -> None:
    failure = error_for(Code.NODE_EXECUTE, "air: broken")
    nodes = [
        Node("air", {"f0": failure}),
        Node("sea", {"f1": table(1)}),
        Node("land", {"f2": table(1)}),
    ]
    world = run(nodes, SOURCE, TARGET, fragment("f2", "land", by("f1")))
    answers = world.read()
    assert {code_of(answers[name]) for name in ("f0", "f1", "f2")} == {Code.NODE_EXECUTE}
    assert nodes[1].orders == nodes[2].orders == {}


def test_a_source_that_is_no_arrow_is_named_by_its_department(run: Callable[..., World]) -> None:
    node = Node("air", {"f0": error_for(Code.FETCH_INVALID_DATA, "Arrow stream: not valid")})
    world = run([node, Node("sea", {"f1": table(1)})], SOURCE, TARGET)
    answers = world.read()
    assert code_of(answers["f0"]) is code_of(answers["f1"]) is Code.FETCH_INVALID_DATA
    assert str(answers["f0"]).count("air: ") == 1


def test_an_answer_without_the_column_of_the_keys_is_refused(run: Callable[..., World]) -> None:
    nodes = [Node("air", {"f0": pa.table({"other": [1]})}), Node("sea", {"f1": table(1)})]
    assert code_of(run(nodes, SOURCE, TARGET).read()["f1"]) is Code.FETCH_INVALID_DATA


def test_a_node_that_left_meanwhile_is_named(run: Callable[..., World]) -> None:
    nodes = two(held={"f0": threading.Event()})
    world = run(nodes, SOURCE, TARGET)
    nodes[1].attachment.leave()
    nodes[0].held["f0"].set()
    answers = world.read()
    assert answers["f0"] == [1, 2, 2, None]
    assert code_of(answers["f1"]) is Code.FETCH_NODE_AWAY
    assert "sea" in str(answers["f1"])
    assert world.reports()["f1"].keys_received == ()


@pytest.mark.parametrize("how", ["close", "cancel"])
def test_a_cancel_during_a_stage_ends_every_reader_at_once(run: Callable[..., World], how: str) -> None:
    nodes = two(held={"f0": threading.Event()})
    world = run(nodes, SOURCE, TARGET)
    readers = threading.Thread(target=lambda: answers.update(world.read()))
    answers: dict[str, Any] = {}
    readers.start()
    assert nodes[0].asked.wait(WAIT_S)
    started = time.monotonic()
    world.request.cancel.set() if how == "cancel" else world.streams.close()
    readers.join(WAIT_S)
    assert time.monotonic() - started < 1.0
    assert {code_of(answer) for answer in answers.values()} == {Code.QUERY_CANCELLED}
    world.streams.close()
    nodes[0].held["f0"].set()
    nodes[0].attachment.leave()
    nodes[0].thread.join(WAIT_S)
    assert nodes[0].cancelled == ["f0"]
    assert nodes[1].orders == {}


def test_the_deadline_ends_those_that_wait(run: Callable[..., World]) -> None:
    nodes = two(held={"f0": threading.Event()})
    answers = run(nodes, SOURCE, TARGET, deadline_s=0.3).read()
    assert {code_of(answer) for answer in answers.values()} == {Code.QUERY_DEADLINE}


def test_a_reader_that_gives_up_in_the_middle_fails_those_that_wait(run: Callable[..., World]) -> None:
    world = run(two(), SOURCE, TARGET)
    chunks = world.streams.streams["f0"].chunks
    next(chunks)
    chunks.close()  # type: ignore[attr-defined]
    assert code_of(world.read("f1")["f1"]) is Code.QUERY_CANCELLED


def test_nothing_goes_after_the_close(run: Callable[..., World]) -> None:
    nodes = two()
    world = run(nodes, SOURCE, TARGET)
    chunks = world.streams.streams["f0"].chunks
    for _ in range(3):  # schema and both batches; the end is not heard yet
        next(chunks)
    world.streams.close()
    with pytest.raises(TidegateError):
        next(chunks)
    nodes[1].attachment.leave()
    nodes[1].thread.join(WAIT_S)
    assert nodes[1].orders == {}


def test_a_join_reads_side_by_side_what_waits_for_one_another() -> None:
    """A final query without a join, whose inputs could pass through a worker one after the other: here they must not."""
    values = list(range(200_000))
    wide = pa.table({f"c{number}": pa.array(values) for number in range(16)})
    nodes = [Node("air", {"f0": wide}, batch_rows=16_384), Node("sea", {"f1": table(*range(-5, 5))})]
    attachments = Attachments(attachments_max=9)
    for node in nodes:
        attachments.enter(node.attachment)
    final = RenderedSql('SELECT "c0" FROM "f1" WHERE "c0" IN (SELECT "c0" FROM "f0") ORDER BY 1', ())
    recorded = recorded_plan((SOURCE, TARGET), {}, "rows", WAIT_S, final)
    pool = WorkerPool(WorkerSpec(), 1)
    try:
        joined = Join(pool=pool, clock=CLOCK).join(recorded, room(attachments).fetch(recorded))
        schema, batches = ipc.read(chunk for chunk, _ in joined.chunks)
        assert pa.Table.from_batches(list(batches), schema).column(0).to_pylist() == list(range(5))
        joined.close()
    finally:
        pool.close()
        for node in nodes:
            node.attachment.leave()

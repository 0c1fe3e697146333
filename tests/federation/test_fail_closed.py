"""No receipt, no data: a spy at the transport shows that no node hears a word before the decision is durable.

The spy is an attached node over real mutual TLS. At the moment a fragment arrives it reads the broker's write-ahead log from
the disk, as recovery would, and looks for the very entry whose receipt the grant carries.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import grpc
import pyarrow as pa
import pytest

from audit.entries import opens
from tests.opa_binary import opa_server, require_opa
from tests.robust import (
    CALL_S_MAX,
    LightNode,
    World,
    ask,
    broker_world,
    described,
    drained,
    on_disk,
    rows_of,
)
from tidegate.core.clock import SystemClock
from tidegate.core.dataset import DatasetClass
from tidegate.core.errors import Code
from tidegate.core.names import IdentityKind
from tidegate.tlog.merkle import leaf_hash
from tidegate.tlog.receipt import verify_receipt
from tidegate.v1 import node_service_pb2

pytestmark = pytest.mark.xdist_group("federation-fail-closed")

TABLE = pa.table({"c0": [1, 2], "c1": ["a", "b"]})
NORTH = "SELECT id, word FROM north.tides"
BOTH = "SELECT n.id, s.word FROM north.tides AS n JOIN south.tides AS s USING (id)"


class SteppedClock(SystemClock):
    """The machine's clock, which somebody may set back."""

    back = timedelta()

    def now(self) -> datetime:
        return super().now() - self.back


@dataclass
class Spy:
    """What a node sees of the exchange; ``wrong`` holds what must not be."""

    log_folder: Path
    verifier_key: str
    seen: list[int] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def __call__(self, node: LightNode, fragment: node_service_pb2.Fragment) -> None:
        try:
            self._look(fragment)
        except Exception as error:
            self.wrong.append(repr(error))
        node.answer(fragment, TABLE)

    def _look(self, fragment: node_service_pb2.Fragment) -> None:
        grant = json.loads(fragment.grant)
        promise = verify_receipt(grant["receipt"].encode(), self.verifier_key)
        entry = on_disk(self.log_folder)[promise.index]
        assert leaf_hash(entry) == promise.leaf_hash, "the receipt is of another entry"
        assert entry.decode() == grant["entry"]
        fields = json.loads(entry)
        assert fields["type"] == "decision"
        assert fields["request_id"] == grant["request"]["id"]
        assert opens(fields, "plan", bytes.fromhex(grant["plan_nonce"]), grant["fragment"].encode())
        self.seen.append(promise.index)


@dataclass
class Coast:
    """Two departments, both spied on, a third that is closed, and callers."""

    world: World
    clock: SteppedClock
    spy: Spy
    nodes: dict[str, LightNode] = field(default_factory=dict)

    def attach(self, member: str) -> LightNode:
        identity = self.world.issuer.identity(member, "node1", kind=IdentityKind.NODE, roles=())
        node = LightNode(identity, datasets=[described(member, "tides")], on_fragment=self.spy).wait()
        self.nodes[member] = node
        return node

    def fragments(self) -> list[node_service_pb2.Fragment]:
        return [item for node in self.nodes.values() for item in drained(node.fragments)]

    @property
    def entries(self) -> list[dict[str, object]]:
        return [json.loads(entry) for _, entry in sorted(on_disk(self.spy.log_folder).items())]


@contextmanager
def coast_world(folder: Path, **choices: object) -> Iterator[Coast]:
    clock = SteppedClock()
    with broker_world(folder, clock=clock, **choices) as world:  # type: ignore[arg-type]
        coast = Coast(world, clock, Spy(world.broker.config.log_folder, world.info.log_verifier_key))
        for member, kind in (
            ("north", DatasetClass.OPEN),
            ("south", DatasetClass.OPEN),
            ("vault", DatasetClass.CLOSED),
        ):
            steward = world.session(member, "steward", kind=IdentityKind.PERSON, roles=["steward"])
            more = {"citation": "Secrets Act, section 1"} if kind is DatasetClass.CLOSED else {}
            steward.catalogue.register(described(member, "tides", dataset_class=kind, **more))
            coast.attach(member)
        try:
            yield coast
        finally:
            for node in coast.nodes.values():
                node.close()


@pytest.fixture(scope="module")
def coast(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coast]:
    with coast_world(tmp_path_factory.mktemp("fail-closed") / "broker") as found:
        yield found


def test_every_fragment_comes_after_its_entry_is_on_the_disk(coast: Coast) -> None:
    """Under load, so that entries share syncs and a receipt could overtake its batch."""
    before = len(coast.spy.seen)
    sessions = [coast.world.session(f"office{number}") for number in range(4)]
    failed: list[object] = []

    def work(number: int) -> None:
        for _ in range(6):
            seen = ask(sessions[number], BOTH)
            if seen.status is not grpc.StatusCode.OK:
                failed.append(seen)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert not coast.spy.wrong
    assert len(coast.spy.seen) - before == 4 * 6 * 2
    assert len(coast.fragments()) == 4 * 6 * 2


REFUSED = {
    "closed": ("SELECT id FROM vault.tides", {}, Code.POLICY_REFUSED),
    "one closed of two": (
        "SELECT n.id FROM north.tides AS n JOIN vault.tides AS v USING (id)",
        {},
        Code.POLICY_REFUSED,
    ),
    "purpose that nobody registered": (NORTH, {"purpose": "curiosity"}, Code.POLICY_PURPOSE),
    "legal basis of another purpose": (NORTH, {"legal_basis": "none.act.9"}, Code.POLICY_PURPOSE),
    "dataset that is not there": ("SELECT id FROM north.nothing", {}, Code.PLAN_UNKNOWN_DATASET),
    "column that is not there": ("SELECT secret FROM north.tides", {}, Code.PLAN_UNKNOWN_COLUMN),
    "two statements": (f"{NORTH}; {NORTH}", {}, Code.PLAN_SYNTAX),
    "function that reads files": ("SELECT * FROM north.tides, read_text('x')", {}, Code.PLAN_NOT_ALLOWED),
    "no query": ("hello", {}, Code.PLAN_SYNTAX),
    "explained alone": (f"EXPLAIN ANALYZE {NORTH}", {}, None),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_asks_no_node_and_is_on_the_disk_when_the_caller_hears_it(coast: Coast, case: str) -> None:
    sql, choices, code = REFUSED[case]
    coast.fragments()
    seen = ask(coast.world.session("office"), sql, **choices)
    assert seen.status is not grpc.StatusCode.OK, seen
    assert code is None or seen.code is code, seen
    newest = coast.entries[-1]
    assert newest["type"] == "refusal"
    assert not coast.fragments()


def test_explaining_asks_no_node(coast: Coast) -> None:
    coast.fragments()
    explained = coast.world.session("office").explain(BOTH)
    assert explained.receipt.index >= 0
    assert not coast.fragments()


def test_a_department_that_is_away_is_named_before_any_other_is_asked(coast: Coast) -> None:
    session = coast.world.session("office")
    coast.fragments()
    gone = coast.nodes.pop("south")
    gone.close()
    seen = ask(session, BOTH)
    while seen.status is grpc.StatusCode.OK:  # the broker has not noticed yet
        seen = ask(session, BOTH)
    assert seen.code is Code.FETCH_NODE_AWAY
    assert "south" in seen.message
    drained(gone.fragments)
    coast.fragments()
    seen = ask(session, BOTH)
    assert seen.code is Code.FETCH_NODE_AWAY
    assert not coast.fragments(), "north was asked for nothing"
    newest = coast.entries[-1]
    assert (newest["type"], newest["error"]) == ("outcome", Code.FETCH_NODE_AWAY.value)
    coast.attach("south")
    assert len(rows_of(session.query(BOTH))) == TABLE.num_rows


def test_when_nothing_can_be_recorded_nobody_is_asked_and_nothing_is_told(coast: Coast) -> None:
    """The clock goes back: the log refuses to sign. Refusals and permissions alike end with that word."""
    session = coast.world.session("office")
    coast.fragments()
    size = coast.world.broker.log.size
    coast.clock.back = timedelta(seconds=60)
    try:
        for sql in (NORTH, BOTH, "SELECT id FROM vault.tides", "hello"):
            assert ask(session, sql).code is Code.AUDIT_UNAVAILABLE
    finally:
        coast.clock.back = timedelta()
    assert coast.world.broker.log.size == size
    assert not coast.fragments()
    assert len(rows_of(session.query(NORTH))) == TABLE.num_rows, "and when the clock is right again, all is well"


def test_an_answer_whose_end_cannot_be_recorded_is_no_answer(coast: Coast) -> None:
    session = coast.world.session("office")
    look = coast.spy

    def answer_and_break_the_log(node: LightNode, fragment: node_service_pb2.Fragment) -> None:
        coast.clock.back = timedelta(seconds=60)
        look(node, fragment)

    coast.nodes["north"].on_fragment = answer_and_break_the_log
    try:
        seen = ask(session, NORTH)
    finally:
        coast.nodes["north"].on_fragment = look
        coast.clock.back = timedelta()
    assert seen.code is Code.AUDIT_UNAVAILABLE


def test_a_caller_who_goes_or_runs_out_of_time_sets_the_departments_free(coast: Coast) -> None:
    session = coast.world.session("office")
    coast.nodes.pop("north").close()
    identity = coast.world.issuer.identity("north", "node1", kind=IdentityKind.NODE, roles=())
    silent = LightNode(identity, datasets=[described("north", "tides")]).wait()
    try:
        seen = ask(session, NORTH, deadline_s=1.0)
        assert seen.code is Code.QUERY_DEADLINE
        fragment = silent.fragments.get(timeout=CALL_S_MAX)
        assert fragment.deadline_s <= 1.0
        assert silent.cancelled.get(timeout=CALL_S_MAX) == fragment.id

        leaver = coast.world.session("office", "leaver")
        thread = threading.Thread(target=lambda: ask(leaver, NORTH))
        thread.start()
        fragment = silent.fragments.get(timeout=CALL_S_MAX)
        leaver.close()
        assert silent.cancelled.get(timeout=CALL_S_MAX) == fragment.id
        thread.join(CALL_S_MAX)
        assert not thread.is_alive()
    finally:
        silent.close()
        coast.attach("north")


def test_without_its_policy_engine_the_broker_refuses_everything(tmp_path: Path) -> None:
    binary = require_opa()
    with ExitStack() as engine:
        url = engine.enter_context(opa_server(binary))
        with coast_world(tmp_path / "broker", settings={"policy": {"opa_url": url}}) as coast:
            session = coast.world.session("office")
            assert len(rows_of(session.query(NORTH))) == TABLE.num_rows
            coast.fragments()
            engine.close()  # the engine is gone
            for sql in (NORTH, BOTH, "SELECT id FROM vault.tides"):
                seen = ask(session, sql)
                assert seen.code is Code.POLICY_UNAVAILABLE, seen
                assert coast.entries[-1]["type"] == "refusal"
            assert not coast.fragments()
            assert not coast.spy.wrong


def test_a_log_that_is_closed_closes_the_exchange(tmp_path: Path) -> None:
    with coast_world(tmp_path / "broker") as coast:
        session = coast.world.session("office")
        coast.world.broker.log.close()
        for sql in (NORTH, BOTH, "hello"):
            assert ask(session, sql).code is Code.AUDIT_UNAVAILABLE
        assert not coast.fragments()

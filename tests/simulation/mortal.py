"""An exchange whose processes a test may kill at any moment, callers who keep every receipt, and what must hold afterwards."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from examples.local import LocalExchange, Running
from tests.simulation.nursery import Nursery
from tidegate.client.session import Session, open_session
from tidegate.core.clock import SystemIds
from tidegate.core.errors import TidegateError
from tidegate.tlog.merkle import leaf_hash
from tidegate.tlog.receipt import verify_receipt
from tidegate.tlog.verify import verify_log

PURPOSE, BASIS = "operations.planning", "city.act.1"
MEMBERS = ("aviation", "weather")
CALLERS = 4
LARGE_ROWS = 60_000  # an answer of 2 MB goes by a Deliver call
QUESTIONS = (
    "SELECT count(*) AS n FROM aviation.flights",
    "SELECT f.id, h.wind FROM aviation.flights AS f JOIN weather.hours AS h USING (id) WHERE f.id < 500",
    "SELECT id, word FROM aviation.flights",
    "SELECT id FROM aviation.nothing",
    "SELECT max(wind) AS wind FROM weather.hours",
)
CLOSING = ("outcome", "orphan")


class MortalExchange(LocalExchange):
    """A local exchange whose processes are forked, so that many can be started in a short time."""

    nursery: Nursery

    def _spawn(self, name: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        logs = self.folder / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        path = logs / f"{name}.log"
        path.write_bytes(b"")
        self.running[name] = Running(name, self.nursery.start(arguments, path), path)  # type: ignore[arg-type]

    def begin_broker(self) -> None:
        """Start the broker and do not wait for it."""
        self._spawn("broker", ["up", str(self.broker_folder)])

    def forget_sessions(self) -> None:
        """Close the sessions, whose channels may be waiting to dial again after a broker's death."""
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()

    @property
    def verifier_key(self) -> str:
        return self.operator().identity.exchange.log_verifier_key


@contextmanager
def mortal_exchange(folder: Path) -> Iterator[MortalExchange]:
    """Run two departments with one node each, one small and one large dataset."""
    data = folder / "data"
    data.mkdir(parents=True)
    ids = list(range(LARGE_ROWS))
    words = [f"word {item * 7919 % 100_003} of flight" for item in ids]
    pq.write_table(pa.table({"id": ids, "word": words}), data / "flights.parquet")
    pq.write_table(pa.table({"id": ids[:1000], "wind": [item % 17 for item in ids[:1000]]}), data / "hours.parquet")
    held = {"aviation": "flights", "weather": "hours"}
    nursery = Nursery()
    try:
        limits = {"limits": {"planning_workers": 1, "join_workers": 1}}
        with MortalExchange(folder / "exchange", name="mortal", broker_settings=limits) as exchange:
            exchange.nursery = nursery
            exchange.start()
            exchange.operator().transport.add_purpose(PURPOSE, "Planning", [BASIS], SystemIds().request_id())
            for member, name in held.items():
                exchange.join(member, "node1", kind="node")
                exchange.join(member, "steward", kind="person", roles=["steward"])
                source = {"source": "parquet", "path": str(data / f"{name}.parquet")}
                exchange.start_node(member, [{"name": name, "class": "open", **source}])
            for number in range(CALLERS):
                exchange.join(f"office{number}", "desk", roles=["analyst"])
            exchange.wait_attached(MEMBERS)
            for member in MEMBERS:
                catalogue = exchange.session(member, "steward").catalogue
                for dataset in catalogue.held_by_node():
                    catalogue.register(dataset)
            yield exchange
    finally:
        nursery.close()


@dataclass
class Held:
    """What the callers hold: receipts by index, and which node entry answered which request. Guarded by ``changed``."""

    changed: threading.Condition = field(default_factory=threading.Condition)
    receipts: dict[int, bytes] = field(default_factory=dict)
    answered: dict[tuple[str, int], str] = field(default_factory=dict)
    answers: int = 0
    twice: list[int] = field(default_factory=list)

    def take(self, verifier_key: str, receipt: bytes) -> None:
        promise = verify_receipt(receipt, verifier_key)
        with self.changed:
            if self.receipts.get(promise.index, promise.leaf_hash) != promise.leaf_hash:
                self.twice.append(promise.index)
            self.receipts[promise.index] = promise.leaf_hash
            self.changed.notify_all()

    def finished(self, request_id: str, report: list[dict[str, object]]) -> None:
        with self.changed:
            self.answers += 1
            for part in report:
                self.answered[str(part["member"]), int(str(part["node_entry"]))] = request_id

    def wait_for(self, more: int) -> None:
        """Wait until so many receipts have come since now."""
        with self.changed:
            goal = len(self.receipts) + more
            assert self.changed.wait_for(lambda: len(self.receipts) >= goal, 60), "the load makes no progress"


class Load:
    """Callers who ask without pause, whatever happens, until told to stop."""

    def __init__(self, exchange: MortalExchange, held: Held) -> None:
        self._stop = threading.Event()
        self._exchange = exchange
        self._held = held
        self.strange: list[BaseException] = []
        self._threads = [threading.Thread(target=self._work, args=(number,)) for number in range(CALLERS)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _work(self, number: int) -> None:
        folder = str(self._exchange.identity(f"office{number}", "desk"))
        try:
            with open_session(None, identity=folder, purpose=PURPOSE) as session:
                turn = number
                while not self._stop.is_set():
                    self._ask(session, QUESTIONS[turn % len(QUESTIONS)])
                    turn += 1
        except BaseException as error:
            self.strange.append(error)

    def _ask(self, session: Session, sql: str) -> None:
        key = session.identity.exchange.log_verifier_key
        try:
            result = session.query(sql, deadline_s=20.0)
            self._held.take(key, result.receipt.raw.note)
            result.to_arrow()
            self._held.take(key, result.outcome.raw.note)
            self._held.finished(result.request_id, result.report)
        except TidegateError as error:
            if error.receipt:
                self._held.take(key, error.receipt)
            else:
                self._stop.wait(0.02)  # the broker is away or busy; do not storm it


@dataclass
class Story:
    """A log as it was read and verified: leaves, what each request's entries were, what each node entry was about."""

    leaves: dict[int, bytes] = field(default_factory=dict)
    decisions: dict[str, int] = field(default_factory=dict)
    closings: dict[str, list[str]] = field(default_factory=dict)
    requests: dict[int, str] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)  # how many of each; of an ``admin`` entry by its kind

    @property
    def open(self) -> set[str]:
        return set(self.decisions) - set(self.closings)


def read_log(folder: Path, verifier_key: str) -> Story:
    """Verify a published log from its first entry to its last, and give what it tells."""
    story = Story()

    def see(index: int, entry: bytes) -> None:
        story.leaves[index] = leaf_hash(entry)
        fields = json.loads(entry)
        kind, request_id = fields["type"], fields.get("request_id", "")
        word = fields.get("kind", kind)
        story.types[word] = story.types.get(word, 0) + 1
        story.requests[index] = request_id
        if kind == "decision":
            story.decisions[request_id] = index
        elif kind in CLOSING:
            story.closings.setdefault(request_id, []).append(kind)

    verify_log(folder, verifier_key, on_entry=see)
    return story


def node_log(exchange: MortalExchange, member: str) -> Story:
    """Verify a node's own log."""
    folder = exchange.folder / "members" / member / "node1-state" / "log"
    key: str = json.loads((folder / "log.json").read_text())["verifier_key"]
    return read_log(folder / "published", key)


def left_of(sessions: set[int]) -> set[int]:
    """Give those process sessions of which something still runs."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                session = os.getsid(int(entry.name))
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except (OSError, IndexError):
                continue
            if session in sessions and state != "Z":
                found.add(session)
    return found

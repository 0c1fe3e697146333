"""kill -9 of the broker and of nodes at random moments under load: every receipt holds, the log verifies, orphans are named.

One exchange lives through all of it. After each death the process is started again by its own command; the nodes attach again
by themselves; nobody repairs anything.
"""

from __future__ import annotations

import json
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.robust import on_disk
from tests.simulation.mortal import (
    CLOSING,
    LARGE_ROWS,
    MEMBERS,
    PURPOSE,
    Held,
    Load,
    MortalExchange,
    Story,
    left_of,
    mortal_exchange,
    node_log,
    read_log,
)
from tidegate.client.session import Session, open_session
from tidegate.core.errors import Code, TidegateError

pytestmark = pytest.mark.xdist_group("simulation-kill")

KILLS_SHORT = 51
KILLS_LONG = 600
INTERRUPTED_STARTS = 2  # after each death under load: a death of the start, whose recovery is interrupted
CLOSED_S_MAX = 30.0
BROKER = "broker"
NODES = tuple(f"{member}-node1" for member in MEMBERS)


@pytest.fixture(scope="module")
def exchange(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MortalExchange]:
    with mortal_exchange(tmp_path_factory.mktemp("kill")) as found:
        yield found


# --- one department, whose only worker is kept busy -------------------------------------------------------------------------

COUNT = "SELECT count(*) AS n FROM aviation.flights"
WIND = "SELECT max(wind) AS wind FROM weather.hours"
ENDLESS = (
    "SELECT count(*) AS n FROM aviation.flights a, aviation.flights b, aviation.flights c WHERE a.id + b.id < c.id"
)


def desk(exchange: MortalExchange, number: int = 0) -> Session:
    folder = exchange.identity(f"office{number}", "desk")
    return open_session(None, identity=str(folder), purpose=PURPOSE)


def refused(session: Session, sql: str, deadline_s: float = 60.0) -> TidegateError:
    with pytest.raises(TidegateError) as caught:
        session.query(sql, deadline_s=deadline_s).to_arrow()
    return caught.value


def executions(exchange: MortalExchange) -> int:
    """Count what the department has recorded as executed, on its disk."""
    log = exchange.folder / "members" / "aviation" / "node1-state" / "log"
    return sum(json.loads(entry).get("kind") == "node_execution" for entry in on_disk(log).values())


@contextmanager
def endless_query(exchange: MortalExchange) -> Iterator[tuple[Session, queue.SimpleQueue[TidegateError]]]:
    """Have the department work on a query without end; goes on once its log says that a worker has it."""
    before = executions(exchange)
    ended: queue.SimpleQueue[TidegateError] = queue.SimpleQueue()
    session = desk(exchange)
    asking = threading.Thread(target=lambda: ended.put(refused(session, ENDLESS)))
    asking.start()
    try:
        eventually(lambda: executions(exchange) > before, "the node was not asked")
        yield session, ended
    finally:
        session.close()
        asking.join()


def answers_again(exchange: MortalExchange) -> None:
    """The department has one worker: that it answers shows that the worker is free."""
    with desk(exchange, 1) as session:
        assert session.query(COUNT, deadline_s=30.0).to_arrow().to_pylist() == [{"n": LARGE_ROWS}]


def test_a_deadline_reaches_the_departments_worker(exchange: MortalExchange) -> None:
    with desk(exchange) as session:
        assert refused(session, ENDLESS, deadline_s=2.0).code is Code.QUERY_DEADLINE
    answers_again(exchange)


def test_a_caller_who_leaves_sets_the_departments_worker_free(exchange: MortalExchange) -> None:
    with endless_query(exchange) as (session, ended):
        session.close()
        assert ended.get(timeout=CLOSED_S_MAX).code in (Code.QUERY_CANCELLED, Code.CLIENT_UNREACHABLE)
        answers_again(exchange)


def test_a_department_that_goes_in_the_middle_is_named_and_comes_back(exchange: MortalExchange) -> None:
    with endless_query(exchange) as (_, ended):
        exchange.stop("aviation-node1", kill=True)
        error = ended.get(timeout=CLOSED_S_MAX)
        assert error.code is Code.FETCH_NODE_AWAY
        assert error.message.startswith("aviation: ")
    with desk(exchange) as session:
        error = refused(session, COUNT)
        assert error.code is Code.FETCH_NODE_AWAY
        assert error.message.startswith("aviation: ")
        assert session.query(WIND).to_arrow().to_pylist() == [{"wind": 16}], "the other department goes on"
        exchange.run_node("aviation")
        exchange.wait_attached(MEMBERS)
        answers_again(exchange)


# --- death ------------------------------------------------------------------------------------------------------------------


def test_nothing_that_was_acknowledged_is_lost_by_any_death(exchange: MortalExchange) -> None:
    live_and_die(exchange, KILLS_SHORT)


@pytest.mark.long
def test_nothing_is_lost_by_hundreds_of_deaths(tmp_path: Path) -> None:
    with mortal_exchange(tmp_path) as found:
        live_and_die(found, KILLS_LONG)


def live_and_die(exchange: MortalExchange, kills: int) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    chance = random.Random(seed)
    held, dead = Held(), Deaths(exchange, seed)
    while len(dead.pids) < kills:
        victims = chance.choice([(BROKER, *NODES), (*NODES, BROKER), (NODES[0], BROKER, NODES[1])])
        load = Load(exchange, held)
        try:
            held.wait_for(chance.randint(1, 25))
            for victim in victims:
                dead.kill(victim)
        finally:
            load.stop()
        assert not load.strange, f"{load.strange}; seed {seed}"
        exchange.forget_sessions()
        for _ in range(INTERRUPTED_STARTS):
            dead.in_recovery(victims, chance)
        restart(exchange, victims)
        check_receipts(exchange, held, seed)
    check_story(exchange, held, seed)
    eventually(lambda: not left_of(dead.pids), "workers outlive their broker or node")


@dataclass
class Deaths:
    """Kills, and remembers whom."""

    exchange: MortalExchange
    seed: int
    pids: set[int] = field(default_factory=set)

    def kill(self, name: str) -> None:
        self.pids.add(self.exchange.running[name].process.pid)
        assert self.exchange.stop(name, kill=True) == -9, f"{name} ended by itself; seed {self.seed}"

    def in_recovery(self, names: tuple[str, ...], chance: random.Random) -> None:
        """Start all of them, and kill each at a random moment of its start: recovery may be interrupted too."""
        for name in names:
            begin(self.exchange, name)
        for name in chance.sample(names, len(names)):
            threading.Event().wait(chance.uniform(0.0, 0.5))
            self.kill(name)


def begin(exchange: MortalExchange, name: str) -> None:
    if name == BROKER:
        exchange.begin_broker()
    else:
        exchange.run_node(name.removesuffix("-node1"))


def restart(exchange: MortalExchange, names: tuple[str, ...]) -> None:
    """Start what died, in the order of its death; the nodes dial until the broker is there, and attach by themselves."""
    for name in names:
        begin(exchange, name)
    exchange.wait_attached(MEMBERS)


def check_receipts(exchange: MortalExchange, held: Held, seed: int) -> Story:
    """Every receipt that a caller holds is of an entry of the log; the log verifies from its first entry."""
    story = read_log(exchange.log_folder, exchange.verifier_key)
    wrong = [index for index, leaf in held.receipts.items() if story.leaves.get(index) != leaf]
    assert not wrong, f"acknowledged, and not in the log: {wrong[:5]}; seed {seed}"
    assert not held.twice, f"an index was given twice: {held.twice[:5]}; seed {seed}"
    return story


def check_story(exchange: MortalExchange, held: Held, seed: int) -> None:
    """Every decision has one end: its outcome or, where nobody was left to write it, an orphan; and the nodes' logs agree."""

    def told() -> bool:
        return not read_log(exchange.log_folder, exchange.verifier_key).open

    eventually(told, f"decisions without an end; seed {seed}")
    story = check_receipts(exchange, held, seed)
    several = {name: ends for name, ends in story.closings.items() if len(ends) != 1}
    assert not several, f"closed more than once: {several}; seed {seed}"
    assert set(story.closings) == set(story.decisions), f"seed {seed}"
    assert story.types["orphan"] > 0, f"no death met a query under way; seed {seed}"
    assert held.answers > 0
    assert set(CLOSING) < set(story.types)
    for member in MEMBERS:
        own = node_log(exchange, member)
        lost = [
            index
            for (answered, index), request_id in held.answered.items()
            if answered == member and own.requests.get(index) != request_id
        ]
        assert not lost, f"{member} answered, and its own log does not know: {lost[:5]}; seed {seed}"


def eventually(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + CLOSED_S_MAX
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)

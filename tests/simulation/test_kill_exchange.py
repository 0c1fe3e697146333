"""kill -9 of the broker and of nodes at random moments under load: every receipt holds, the log verifies, orphans are named.

One exchange lives through all of it. After each death the process is started again by its own command; the nodes attach again
by themselves; nobody repairs anything.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.simulation.mortal import (
    CLOSING,
    MEMBERS,
    Held,
    Load,
    MortalExchange,
    Story,
    left_of,
    mortal_exchange,
    node_log,
    read_log,
)

pytestmark = pytest.mark.xdist_group("simulation-kill")

KILLS_SHORT = 51
KILLS_LONG = 600
CLOSED_S_MAX = 30.0
BROKER = "broker"
NODES = tuple(f"{member}-node1" for member in MEMBERS)


@pytest.fixture(scope="module")
def exchange(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MortalExchange]:
    with mortal_exchange(tmp_path_factory.mktemp("kill")) as found:
        yield found


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

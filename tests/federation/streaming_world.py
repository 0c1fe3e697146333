"""An exchange with two departments that hold many rows, for the tests of large and of abandoned answers."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from benchmarks.machine import tree
from engine import landlock
from examples.local import LocalExchange
from tidegate.client.session import Session, open_session

PURPOSE = "research.statistics"
MEMBERS = ("alpha", "beta")
LINES = 300_000  # of about 700 bytes
NUMBERS = 100_000
POLL_S = 0.01


@dataclass
class World:
    exchange: LocalExchange

    def session(self) -> Session:
        """A connection of its own, which a test may cut."""
        return open_session(None, identity=str(self.exchange.identity("city", "analyst")), purpose=PURPOSE)

    def pid(self, name: str) -> int:
        return self.exchange.running[name].process.pid

    def log(self, name: str) -> str:
        return self.exchange.running[name].log.read_text(errors="replace")

    def ended(self, name: str, fragment: str) -> bool:
        """Whether a node said of a fragment that it is over."""
        return any(
            fragment in line and re.search("fragment (not )?answered", line) for line in self.log(name).splitlines()
        )

    def cpu_s(self, name: str) -> float:
        """What a process and all below it have used; of those that are alive."""
        ticks = 0
        for pid in tree(self.pid(name)):
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


def until(true: Callable[[], bool], within_s: float) -> float:
    """Wait for something; give the seconds that it took."""
    started = time.monotonic()
    while not true():
        elapsed = time.monotonic() - started
        assert elapsed < within_s, f"not within {within_s} s"
        time.sleep(POLL_S)
    return time.monotonic() - started


@contextmanager
def world(
    folder: Path, limits: Mapping[str, Any] | None = None, node_limits: Mapping[str, Any] | None = None
) -> Iterator[World]:
    sandbox = "required" if landlock.abi() else "available"
    settings = {"limits": {"sandbox": sandbox, "join_workers": 2, "planning_workers": 1, **(limits or {})}}
    with LocalExchange(folder, name="streams", broker_settings=settings) as exchange:
        exchange.start()
        exchange.operator().transport.add_purpose(PURPOSE, "Statistics", ["statistics.act.5"], os.urandom(16).hex())
        for member in MEMBERS:
            database = folder / f"{member}.duckdb"
            with duckdb.connect(str(database)) as engine:
                engine.execute(
                    "CREATE TABLE lines AS SELECT range AS id, repeat(md5(range::VARCHAR), 20) AS words, "
                    f"(range / 7)::DECIMAL(15, 2) AS price FROM range({LINES})"
                )
                engine.execute(f"CREATE TABLE numbers AS SELECT range + 1 AS x FROM range({NUMBERS})")
            exchange.join(member, "node1", kind="node")
            exchange.join(member, "steward", kind="person", roles=["steward"])
            datasets = [
                {
                    "name": table,
                    "source": "duckdb",
                    "path": str(database),
                    "table": table,
                    "title": table,
                    "class": "open",
                    "licence": "CC0-1.0",
                    "columns": {name: {"sensitivity": "public"} for name in columns},
                }
                for table, columns in (("lines", ("id", "words", "price")), ("numbers", ("x",)))
            ]
            own = {"planners": 1, "workers": 1, "sandbox": sandbox, **(node_limits or {})}
            exchange.start_node(member, datasets, settings={"limits": own})
        exchange.join("city", "analyst", roles=["analyst"])
        exchange.wait_attached(MEMBERS)
        for member in MEMBERS:
            steward = exchange.session(member, "steward")
            for dataset in steward.catalogue.held_by_node():
                steward.catalogue.register(dataset)
        yield World(exchange)

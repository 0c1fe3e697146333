"""``python -m benchmarks.stream``: a large answer, node -> broker -> caller, beside a bare grpcio relay of the same chunks.

Ours is a whole exchange: real processes, mutual TLS, policy, both logs, DuckDB that scans the rows, every batch validated and
every chunk under a signed digest. The relay's producer holds the very chunks that ours made in memory and nobody looks at
them. Both sides take turns. ``ratio_raw`` is our throughput over the relay's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks import relay, stream_big
from benchmarks.machine import machine, tree, versions
from benchmarks.tpch_data import DataError, four_departments
from benchmarks.tpch_exchange import ANALYST, DEADLINE_S, PURPOSE, Exchange, local_exchange

ROWS = 6_000_000
RUNS = 5
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_by_process(roots: Mapping[str, int]) -> dict[str, float]:
    """Give the CPU seconds that each process below the roots has used, by a name that says what it does."""
    found: dict[str, float] = {}
    for name, root in roots.items():
        for pid in [root] if root == os.getpid() else tree(root):
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue  # it has ended
            kind = next((word.decode() for word in words if word.startswith(b"engine.")), "")
            label = f"{name} {kind}".strip()
            found[label] = found.get(label, 0.0) + (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
    return found


class Ours:
    """Our side."""

    def __init__(self, exchange: Exchange, rows: int) -> None:
        self._session = exchange.exchange.session(*ANALYST)
        self._exchange = exchange
        # At scale 1 the sparse keys of orders reach as far as there are lines.
        self._sql = "SELECT * FROM shipping.lineitem" + (f" WHERE l_orderkey <= {rows}" if rows < ROWS else "")

    @property
    def processes(self) -> dict[str, int]:
        """Everybody who takes part."""
        return {**self._exchange.processes, "caller": os.getpid()}

    def chunks(self) -> Iterator[bytes]:
        """Ask, and give the very chunks of the answer."""
        stream = self._session.transport.execute(
            self._sql, purpose=PURPOSE[0], legal_basis="", parameters=None, deadline_s=DEADLINE_S
        )
        return stream.chunks()

    def run(self) -> tuple[float, int]:
        """Ask, and read the answer batch by batch as a caller does: validated, and held to the broker's digest."""
        started = time.perf_counter()
        result = self._session.query(self._sql, purpose=PURPOSE[0], deadline_s=DEADLINE_S)
        rows = sum(batch.num_rows for batch in result.reader())
        elapsed = time.perf_counter() - started
        if rows != result.finished.rows:
            raise SystemExit("the answer was not whole")
        return elapsed, result.finished.bytes


class Timed:
    """One side's runs."""

    def __init__(self, run: Callable[[], tuple[float, int]], processes: Mapping[str, int]) -> None:
        self._run = run
        self._processes = processes
        self._cpu: list[dict[str, float]] = []
        self.seconds: list[float] = []
        self.size = 0

    def once(self, *, keep: bool) -> None:
        """Run once."""
        before = cpu_by_process(self._processes)
        seconds, self.size = self._run()
        after = cpu_by_process(self._processes)
        if keep:
            self.seconds.append(seconds)
            self._cpu.append({name: used - before.get(name, 0.0) for name, used in after.items()})

    @property
    def bytes_per_s(self) -> float:
        """By the median of the runs."""
        return self.size / statistics.median(self.seconds)

    def to_json(self) -> dict[str, Any]:
        """Give the figures."""
        cpu = {
            name: statistics.median([run.get(name, 0.0) for run in self._cpu]) / self.size * 1e9
            for name in sorted(self._cpu[-1])
        }
        return {
            "median_s": round(statistics.median(self.seconds), 3),
            "runs_s": [round(item, 3) for item in self.seconds],
            "bytes": self.size,
            "mb_per_s": round(self.bytes_per_s / 1e6, 1),
            "cpu_s_per_gb": {name: round(used, 2) for name, used in cpu.items() if used >= 0.005},
            "cpu_s_per_gb_total": round(sum(cpu.values()), 2),
        }


def compare(folder: Path, rows: int, runs: int) -> dict[str, Any]:
    """Run both sides in turns and give the figures."""
    held = [item for item in four_departments(1) if item.table == "lineitem"]
    with local_exchange(folder / "exchange") as local:
        exchange = Exchange(local)
        exchange.open(held)
        ours = Ours(exchange, rows)
        peer = relay.start(folder, ours.chunks())
        try:
            bare = {"relay": peer.relay.pid, "producer": peer.producer.pid, "caller": os.getpid()}
            sides = {
                "tidegate": Timed(ours.run, ours.processes),
                "relay": Timed(peer.stream, bare),
                "one_hop": Timed(lambda: peer.stream(one_hop=True), bare),
            }
            for turn in range(runs + 1):
                for side in sides.values():
                    side.once(keep=turn > 0)
        finally:
            peer.close()
    rates = {name: side.bytes_per_s for name, side in sides.items()}
    return {
        "ratio_raw": round(rates["tidegate"] / rates["relay"], 3),
        "ratio_one_hop": round(rates["tidegate"] / rates["one_hop"], 3),
        "ratio_relay_one_hop": round(rates["relay"] / rates["one_hop"], 3),
        "sides": {name: side.to_json() for name, side in sides.items()},
    }


def main(arguments: list[str]) -> None:
    """Run, print, and write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stream", description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS, help="about how many rows of lineitem, at most 6 million")
    parser.add_argument("--runs", type=int, default=RUNS, help="timed turns of each side")
    parser.add_argument("--big", action="store_true", help="answers of 2 GB under a broker limit of 512 MB instead")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = stream_big.run(Path(folder)) if options.big else compare(Path(folder), options.rows, options.runs)
        except DataError as error:
            raise SystemExit(str(error)) from error
    document = {"benchmark": "stream", "rows": options.rows, "machine": machine(), "versions": versions(), **found}
    text = json.dumps(document, indent=2)
    if options.json:
        options.json.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main(sys.argv[1:])

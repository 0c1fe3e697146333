"""``python -m benchmarks.governance``: what policy and audit cost, and where the milliseconds of a small query go.

Two exchanges run side by side over the same data: the ordinary one, and one whose processes decide nothing and write no log
(``benchmarks.instrumented``, a composition of this benchmark alone). Both answer the same query of 10 ms or more in turns;
``overhead_percent`` is by how much the ordinary one is slower, in the median of the pairs. Then a third exchange, whole and
with clocks in it, answers single-key queries: each with another text, so that nothing is cached, and one text again and again.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.instrumented import STEPS
from benchmarks.machine import machine, versions
from benchmarks.registers import ASKING, DATASET, LOOK_UP, PURPOSES, ROWS, keeper_of, open_register
from examples.local import LocalExchange, Running
from tidegate.client.session import Session, open_session

AGGREGATE = f"SELECT model, count(*) AS n, max(keeper) AS last FROM {DATASET} GROUP BY model ORDER BY model"
RUNS, SMALL = 15, 100
TIMINGS_S_MAX = 10.0


class Instrumented(LocalExchange):
    """An exchange whose broker and nodes run through ``benchmarks.instrumented``."""

    how = ""

    def _spawn(self, name: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        path = self.folder / "logs" / f"{name}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        own = {"GRPC_VERBOSITY": "NONE", "BENCHMARK_TIMINGS": str(self.folder / "timings")}
        with path.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.instrumented", self.how, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **own, **(environment or {})},
                start_new_session=True,
            )
        self.running[name] = Running(name, process, path)


class Bare(Instrumented):
    """Without policy and log."""

    how = "bare"


class Timed(Instrumented):
    """Whole, with clocks."""

    how = "timed"

    def timings(self) -> dict[str, list[float]]:
        """Take the sums of every process since the last time: step -> (count, wall seconds, processor seconds)."""
        files = {item.process.pid: self.folder / f"timings.{item.process.pid}" for item in self.running.values()}
        for pid, file in files.items():
            file.unlink(missing_ok=True)
            os.kill(pid, signal.SIGUSR1)
        until_s, found = time.monotonic() + TIMINGS_S_MAX, dict[str, list[float]]()
        while not all(file.exists() for file in files.values()):
            if time.monotonic() > until_s:
                raise SystemExit("a process did not write its timings")
            time.sleep(0.02)
        for file in files.values():
            found |= json.loads(file.read_text(encoding="utf-8"))
        return found


def _time(session: Session, sql: str, params: list[Any] | None = None) -> tuple[float, list[dict[str, Any]]]:
    started = time.monotonic()
    answer = session.query(sql, purpose=PURPOSES[0], params=params).to_arrow()
    return time.monotonic() - started, answer.to_pylist()


def overhead(folder: Path, *, rows: int, runs: int) -> dict[str, Any]:
    """Let both exchanges answer in turns."""
    with (
        open_register(folder / "whole", rows=rows) as whole,
        open_register(folder / "bare", rows=rows, kind=Bare) as bare,
    ):
        sessions = [exchange.session(ASKING[0], "app") for exchange in (whole, bare)]
        expected = [_time(session, AGGREGATE)[1] for session in sessions]  # planned, and decided, once
        if expected[0] != expected[1] or not expected[0]:
            raise SystemExit("the two exchanges gave different answers")
        pairs = []
        for run in range(runs):
            order = (0, 1) if run % 2 == 0 else (1, 0)
            taken = {side: _time(sessions[side], AGGREGATE)[0] for side in order}
            pairs.append((taken[0], taken[1]))
    ours, without = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
    return {
        "query_ms": round(ours * 1000, 2),
        "query_without_ms": round(without * 1000, 2),
        "overhead_percent": round((statistics.median(a / b for a, b in pairs) - 1) * 100, 2),
    }


def small(folder: Path, *, rows: int, count: int) -> dict[str, Any]:
    """Say where the time of a small query goes, uncached and cached."""
    with open_register(folder / "timed", rows=rows, kind=Timed) as found:
        assert isinstance(found, Timed)  # it was asked for
        session = found.session(ASKING[0], "app")
        _time(session, LOOK_UP, [0])
        handshakes = []
        for _ in range(5):
            started = time.monotonic()
            with open_session(None, identity=str(found.identity(ASKING[0], "app")), purpose=None) as other:
                other.whoami()
                handshakes.append(time.monotonic() - started)
        found.timings()

        def phase(text: Callable[[int], str]) -> dict[str, Any]:
            taken = []
            for key in range(count):
                elapsed, answer = _time(session, text(key), [key])
                if [row["keeper"] for row in answer] != [keeper_of(key)]:
                    raise SystemExit("a look-up gave a wrong answer")
                taken.append(elapsed)
            sums = found.timings()
            steps = {step: _mean(sums.get(step)) for step, _, _ in STEPS}
            return {"total_ms": round(statistics.median(taken) * 1000, 3), "steps": steps}

        uncached = phase(lambda key: LOOK_UP.replace("SELECT", f"SELECT {key} AS run,"))
        cached = phase(lambda _key: LOOK_UP)
    return {"handshake_ms": round(statistics.median(handshakes) * 1000, 2), "uncached": uncached, "cached": cached}


def _mean(sums: list[float] | None) -> dict[str, float]:
    count, wall, cpu = sums or [1, 0.0, 0.0]
    return {"wall_ms": round(wall / count * 1000, 3), "cpu_ms": round(cpu / count * 1000, 3)}


def benchmark(folder: Path, *, rows: int, runs: int, count: int) -> dict[str, Any]:
    """Run everything; give the figures."""
    result = {"machine": machine(), "versions": versions(), "rows": rows}
    return result | overhead(folder, rows=rows, runs=runs) | {"small": small(folder, rows=rows, count=count)}


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description="What policy and audit cost.")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--small", type=int, default=SMALL, help="how many small queries, cached and not")
    parser.add_argument("--json", type=Path, help="write the result there")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tidegate-governance-") as folder:
        result = benchmark(Path(folder), rows=asked.rows, runs=asked.runs, count=asked.small)
    if asked.json:
        asked.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"query {result['query_ms']} ms, without policy and log {result['query_without_ms']} ms")
    print(f"overhead {result['overhead_percent']} %")
    table = result["small"]
    print(f"{'a small query, ms (wall, processor)':36} {'uncached':>18} {'cached':>18}")
    print(f"{'  handshake, once':36} {table['handshake_ms']:18} {'':>18}")
    for step, _, _ in STEPS:
        cells = [table[phase]["steps"][step] for phase in ("uncached", "cached")]
        print(f"  {step:34} " + " ".join(f"{cell['wall_ms']:9} {cell['cpu_ms']:8}" for cell in cells))
    print(f"{'  in all, at the caller':36} {table['uncached']['total_ms']:18} {table['cached']['total_ms']:18}")


if __name__ == "__main__":
    main()

"""Callers in processes of their own: threads that ask, each over its own session, and tell how long each answer took.

``python -m benchmarks.callers`` reads one JSON line (the work), says ``ready``, and begins when it reads another line. It
prints one JSON line at the end. Every answer is compared with what the register holds: a wrong one ends the run.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.registers import LOOK_UP, keeper_of
from tidegate.channel import open_channel
from tidegate.client.session import Session, open_session
from tidegate.identity.folder import IdentityFolder

ECHO_METHOD = "/benchmarks.Echo/Echo"


@dataclass
class Run:
    """What a set of callers measured."""

    answered: int = 0
    elapsed_s: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)
    cpu_s: float = 0.0

    @property
    def per_s(self) -> float:
        """Answers a second."""
        return self.answered / self.elapsed_s if self.elapsed_s else 0.0

    def percentile_ms(self, share: float) -> float:
        """Give the latency that this share of the answers did not exceed."""
        ordered = sorted(self.latencies_ms)
        return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0


def run_callers(specs: Sequence[dict[str, Any]]) -> Run:
    """Run one process for each specification, all at once; add up what they measured."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.callers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in specs
    ]
    try:
        for process, spec in zip(processes, specs, strict=True):
            _say(process, json.dumps(spec))
        for process in processes:
            if _heard(process) != "ready":
                raise RuntimeError("a calling process did not start")
        for process in processes:
            _say(process, "go")
        return _sum([json.loads(_heard(process)) for process in processes])
    finally:
        for process in processes:
            if process.stdin:
                process.stdin.close()
            process.wait(30)


def _say(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None  # it was opened as a pipe
    process.stdin.write(line + "\n")
    process.stdin.flush()


def _heard(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None  # it was opened as a pipe
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"a calling process ended with {process.wait(30)}")
    return line.strip()


def _sum(reports: Sequence[dict[str, Any]]) -> Run:
    total = Run()
    for report in reports:
        total.answered += report["answered"]
        total.elapsed_s = max(total.elapsed_s, report["elapsed_s"])
        total.latencies_ms += report["latencies_ms"]
        total.cpu_s += report["cpu_s"]
    return total


def _look_up(session: Session, spec: dict[str, Any], place: int) -> Any:
    rows, step = spec["rows"], spec["threads"] * spec["processes"]
    key = spec["first"] + place  # distinct keys: each caller has its own residue
    purpose = spec["purposes"][place % len(spec["purposes"])]

    def ask() -> None:
        nonlocal key
        key = (key + step * 7) % rows
        answer = session.query(LOOK_UP, purpose=purpose, params=[key]).to_arrow()
        if answer.column("keeper").to_pylist() != [keeper_of(key)]:
            raise SystemExit("a look-up gave a wrong answer")

    return ask


def _echo(call: Any) -> Any:
    payload = b"x" * 100

    def ask() -> None:
        if call(payload, timeout=30) != payload:
            raise SystemExit("the echo gave a wrong answer")

    return ask


def _calls(spec: dict[str, Any]) -> list[Any]:
    """Give one function for each thread; two threads of one identity share its session, as one application's would."""
    folders = [Path(item) for item in spec["identities"]]
    if spec["kind"] == "echo":
        channels = [open_channel(spec["address"], IdentityFolder(folder).load()) for folder in folders]
        calls = [
            channel.unary_unary(ECHO_METHOD, request_serializer=None, response_deserializer=None)
            for channel in channels
        ]
        return [_echo(calls[place % len(calls)]) for place in range(spec["threads"])]
    sessions = [open_session(None, identity=str(folder), purpose=None) for folder in folders]
    return [_look_up(sessions[place % len(sessions)], spec, place) for place in range(spec["threads"])]


def _work(ask: Any, until_s: float, latencies: list[float]) -> None:
    while (started := time.monotonic()) < until_s:
        ask()
        latencies.append((time.monotonic() - started) * 1000)


def main() -> None:
    """Do what one line of JSON says."""
    spec = json.loads(sys.stdin.readline())
    calls = _calls(spec)
    for ask in calls:  # connections, and what a first request costs, are not measured
        ask()
    print("ready", flush=True)
    sys.stdin.readline()
    started, cpu = time.monotonic(), time.process_time()
    kept: list[list[float]] = [[] for _ in calls]
    threads = [
        threading.Thread(target=_work, args=(ask, started + spec["seconds"], mine))
        for ask, mine in zip(calls, kept, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed, latencies = time.monotonic() - started, [item for mine in kept for item in mine]
    report = {
        "answered": len(latencies),
        "elapsed_s": elapsed,
        "latencies_ms": [round(item, 3) for item in latencies],
        "cpu_s": time.process_time() - cpu,
    }
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()

"""``python -m benchmarks.lookup``: governed point look-ups beside grpcio's unary echo, and a batch of keys as one request.

Sixteen callers of four members, distinct keys, three purposes: each request is identified, decided, recorded durably at broker
and node, fetched and answered, and each answer is compared. The echo has the same number of callers and the same TLS, and the
sides take turns in one run. The callers are two processes of eight threads and share the machine with everything else. At the
end the log is counted: every answered request has its decision and its outcome.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.callers import Run, run_callers
from benchmarks.echo import EchoServer
from benchmarks.machine import machine, usages, versions
from benchmarks.registers import ASKING, DATASET, OWNER, PURPOSES, ROWS, keeper_of, open_register
from examples.local import LocalExchange, Running
from tidegate.core.values import Value
from tidegate.tlog.verify import verify_log

PROCESSES, THREADS = 2, 8
ROUNDS, SECONDS = 3, 4.0
BATCH_KEYS = 10_000
BATCH = f"SELECT id, keeper FROM {DATASET} WHERE id IN (SELECT unnest($1))"
NODE = f"{OWNER}-node1"


def specifications(
    exchange: LocalExchange, kind: str, *, rows: int, seconds: float, address: str = ""
) -> list[dict[str, Any]]:
    """Say what each calling process does."""
    common = {
        "kind": kind,
        "rows": rows,
        "threads": THREADS,
        "processes": PROCESSES,
        "purposes": list(PURPOSES),
        "identities": [str(exchange.identity(member, "app")) for member in ASKING],
        "seconds": seconds,
        "address": address,
    }
    return [{**common, "first": place * THREADS} for place in range(PROCESSES)]


def measure(exchange: LocalExchange, echo: EchoServer, *, rows: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Let echo and look-ups take turns."""
    ours, theirs = [], []
    cpu: dict[str, float] = {}
    for _ in range(rounds):
        theirs.append(run_callers(specifications(exchange, "echo", rows=rows, seconds=seconds, address=echo.address)))
        roots = {name: item.process.pid for name, item in exchange.running.items()}
        before = usages(roots)
        ours.append(run_callers(specifications(exchange, "lookup", rows=rows, seconds=seconds)))
        for name, used in usages(roots).items():
            cpu[name] = cpu.get(name, 0.0) + used.cpu_s - before[name].cpu_s
    answered = sum(run.answered for run in ours)
    every = Run(latencies_ms=[item for run in ours for item in run.latencies_ms])
    return {
        "ratio_echo": round(statistics.median(a.per_s / b.per_s for a, b in zip(ours, theirs, strict=True)), 4),
        "lookups_per_s": round(statistics.median(run.per_s for run in ours), 1),
        "echoes_per_s": round(statistics.median(run.per_s for run in theirs), 1),
        "p50_ms": round(every.percentile_ms(0.5), 2),
        "p99_ms": round(every.percentile_ms(0.99), 2),
        "answered": answered,
        "cpu_us_per_lookup": {
            **{name: round(seconds_used / answered * 1e6) for name, seconds_used in cpu.items()},
            "callers": round(sum(run.cpu_s for run in ours) / answered * 1e6),
        },
        "cpu_us_per_echo_caller": round(sum(run.cpu_s for run in theirs) / sum(run.answered for run in theirs) * 1e6),
    }


def batches(exchange: LocalExchange, *, rows: int, keys: int, rounds: int) -> dict[str, Any]:
    """Ask for many keys in one request; every row is compared."""
    session = exchange.session(ASKING[0], "app")
    taken = []
    for place in range(rounds + 1):
        asked: list[Value] = [(place * 31 + number * 7) % rows for number in range(keys)]
        started = time.monotonic()
        answer = session.query(BATCH, purpose=PURPOSES[0], params=[asked]).to_arrow()
        taken.append(time.monotonic() - started)
        found = dict(zip(answer.column("id").to_pylist(), answer.column("keeper").to_pylist(), strict=True))
        if found != {key: keeper_of(key) for key in asked if isinstance(key, int)}:
            raise SystemExit("a batch gave a wrong answer")
    best = statistics.median(taken[1:])  # the first one is planned
    return {"batch_keys": keys, "batch_ms": round(best * 1000, 1), "batch_keys_per_s": round(keys / best)}


def count_log(exchange: LocalExchange) -> dict[str, int]:
    """Verify the whole log as an outsider would, and count the entries of look-ups by type."""
    counts = {"decision": 0, "outcome": 0, "refusal": 0}
    requests: dict[str, set[str]] = {"decision": set(), "outcome": set()}

    def take(_index: int, entry: bytes) -> None:
        said = json.loads(entry)
        kind = said["type"]
        if kind in counts and said.get("member", ASKING[0]) in ASKING:
            counts[kind] += 1
            if kind in requests:
                requests[kind].add(said["request_id"])

    key = exchange.session(ASKING[0], "app").identity.exchange.log_verifier_key
    verify_log(exchange.log_folder, key, on_entry=take)
    return {**counts, "open": len(requests["decision"] ^ requests["outcome"])}


def count_when_written(exchange: LocalExchange, wanted: int) -> dict[str, int]:
    """Count once the checkpoint covers what was answered (one is made each second)."""
    until_s = time.monotonic() + 30
    counts = count_log(exchange)
    while (counts["outcome"] < wanted or counts["open"]) and time.monotonic() < until_s:
        time.sleep(0.2)
        counts = count_log(exchange)
    return counts


def run_alone(exchange: LocalExchange) -> None:
    """Replace the node by one that runs each look-up alone."""
    exchange.stop(NODE)
    file = exchange.folder / "members" / OWNER / "node1.toml"
    log = exchange.folder / "logs" / f"{NODE}-alone.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.node_alone", "node", "serve", str(file)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    exchange.running[NODE] = Running(NODE, process, log)
    exchange.wait_attached([OWNER])


def benchmark(folder: Path, *, rows: int, rounds: int, seconds: float, keys: int, alone: bool) -> dict[str, Any]:
    """Run everything; give the figures."""
    with open_register(folder, rows=rows) as exchange, EchoServer(exchange.broker_folder) as echo:
        result: dict[str, Any] = {
            "machine": machine(),
            "versions": versions(),
            "callers": PROCESSES * THREADS,
            "rows": rows,
        }
        result |= measure(exchange, echo, rows=rows, rounds=rounds, seconds=seconds)
        result |= batches(exchange, rows=rows, keys=keys, rounds=max(rounds, 2))
        result["log"] = count_when_written(exchange, result["answered"])
        if result["log"]["decision"] < result["answered"] or result["log"]["open"]:
            raise SystemExit(f"the log does not hold a decision and an outcome for every answer: {result['log']}")
        if alone:
            run_alone(exchange)
            found = measure(exchange, echo, rows=rows, rounds=1, seconds=seconds)
            names = ("ratio_echo", "lookups_per_s", "p99_ms")
            result["without_coalescing"] = {name: found[name] for name in names}
        return result


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description="Governed point look-ups beside grpcio's unary echo.")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each side, in each round")
    parser.add_argument("--keys", type=int, default=BATCH_KEYS, help="of one batch")
    parser.add_argument("--json", type=Path, help="write the result there")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tidegate-lookup-") as folder:
        result = benchmark(
            Path(folder), rows=asked.rows, rounds=asked.rounds, seconds=asked.seconds, keys=asked.keys, alone=True
        )
    if asked.json:
        asked.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"look-ups   {result['lookups_per_s']:8.0f}/s  p50 {result['p50_ms']} ms  p99 {result['p99_ms']} ms")
    print(f"echo       {result['echoes_per_s']:8.0f}/s  ratio {result['ratio_echo']}")
    print(
        f"one batch  {result['batch_keys_per_s']:8.0f} keys/s ({result['batch_keys']} keys in {result['batch_ms']} ms)"
    )
    without = result["without_coalescing"]
    print(f"alone      {without['lookups_per_s']:8.0f}/s  p99 {without['p99_ms']} ms (each look-up its own statement)")
    print(f"log        {result['log']}")


if __name__ == "__main__":
    main()

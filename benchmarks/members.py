"""``python -m benchmarks.members``: one broker with 1, 10, 85 and 1,000 attached nodes: its memory, and the latency of queries.

One node is real and holds the data that is asked for. The others are stand-ins: each has a member, an identity in the directory
and a certificate of the exchange's authority, dials the nodes' listener over mutual TLS, says hello and beats, all from one
process; it holds nothing. A real node is four processes, of which a small machine cannot run 85.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import structlog

from benchmarks.machine import machine, tree, versions
from benchmarks.registers import ASKING, DATASET, LOOK_UP, PURPOSES, keeper_of, open_register
from broker.authority import Authority
from catalogue.database import open_database
from catalogue.members import MemberDirectory
from examples.local import LocalExchange
from node.conversation import Welcomed
from node.wire import GrpcLine
from tidegate.channel import open_channel
from tidegate.client.session import Session
from tidegate.core.clock import SystemClock, SystemIds
from tidegate.core.errors import TidegateError
from tidegate.core.names import IdentityKind, SpiffeId
from tidegate.identity import keys
from tidegate.identity.certificates import make_csr
from tidegate.identity.folder import IdentityFolder, LocalIdentity

COUNTS = (1, 10, 85, 1_000)
ROWS, QUERIES = 100_000, 40
BEAT_S = 10.0
WELCOME_S = 120.0  # for all of them together
SEEN_S = (
    1.0  # until a broker sees what another process wrote into the directory (catalogue.members.STALE_S_MAX, and a tick)
)
KINDS = {
    "look-up": (LOOK_UP, True),
    "filter": (f"SELECT plate FROM {DATASET} WHERE id < 50 AND model = 'model-7'", False),
    "aggregate": (f"SELECT model, count(*) AS n FROM {DATASET} GROUP BY model", False),
    "self-join": (f"SELECT count(*) AS n FROM {DATASET} a JOIN {DATASET} b ON a.id = b.id WHERE a.id < 1000", False),
    "nested": (f"SELECT count(*) AS n FROM {DATASET} WHERE id = (SELECT max(id) FROM {DATASET})", False),
}
LIMITS = {"requests_max": 64, "requests_per_member_max": 64, "attachments_max": 1_100}


class StandIns:
    """A process of stand-ins that stays attached until it is closed."""

    def __init__(self, broker_folder: Path, identity: Path, names: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.members", "--stand-ins", str(broker_folder), str(identity)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin is not None  # both were opened as pipes
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(list(names)) + "\n")
        self._process.stdin.flush()
        said = self._process.stdout.readline().strip()
        if said != str(len(names)):
            self.__exit__(None, None, None)
            raise SystemExit(f"stand-ins: {said or 'none'} of {len(names)} attached")

    def __enter__(self) -> StandIns:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait(60)


def _attach(broker_folder: Path, identity: Path, names: Sequence[str]) -> None:
    """Be the stand-ins: make identities, dial, beat until the input ends."""
    clock, ids = SystemClock(), SystemIds()
    authority = Authority.load(broker_folder / "authority", clock)
    directory = MemberDirectory(open_database(f"sqlite:///{broker_folder / 'catalogue.db'}"), clock)
    exchange = IdentityFolder(identity).load().exchange
    log = structlog.get_logger("stand-ins")
    identities, lines, welcomed = [], [], threading.Semaphore(0)
    for name in names:
        spiffe = SpiffeId(authority.exchange, IdentityKind.NODE, name, "node1")
        directory.add_member(name, name, "government")
        directory.set_identity(str(spiffe), [], "public")
        key = keys.new_key()
        issued = authority.issue(make_csr(key), spiffe)
        facts = issued.facts
        directory.record_certificate(facts.serial_hex, str(spiffe), facts.fingerprint, facts.not_after)
        identities.append(LocalIdentity(key, issued.certificate_pem, issued.chain_pem, authority.root_pem, exchange))
    time.sleep(SEEN_S)
    for own in identities:
        channel = open_channel(exchange.nodes, own)
        folder = IdentityFolder(identity)
        lines.append(GrpcLine(channel, own, ids.nonce(16), (), folder=folder, clock=clock, log=log))
        threading.Thread(target=_hear, args=(lines[-1], welcomed), daemon=True).start()
    until_s = time.monotonic() + WELCOME_S
    attached = sum(welcomed.acquire(timeout=max(until_s - time.monotonic(), 0.0)) for _ in names)
    print(attached, flush=True)
    ended = threading.Event()
    threading.Thread(target=_until_input_ends, args=(ended,), daemon=True).start()
    count = 0
    while not ended.wait(BEAT_S):
        count += 1
        for line in lines:
            line.say_beat(count)
    for line in lines:
        line.hang_up()


def _until_input_ends(ended: threading.Event) -> None:
    sys.stdin.read()
    ended.set()


def _hear(line: GrpcLine, welcomed: threading.Semaphore) -> None:
    with suppress(TidegateError):  # the line was hung up, here or there; who waits for a welcome finds out by the count
        for heard in line.hear():
            if isinstance(heard, Welcomed):
                welcomed.release()


def memory(exchange: LocalExchange) -> dict[str, float]:
    """Give the broker's resident memory in MB: of the serving process, and with its planners and workers."""
    root = exchange.running["broker"].process.pid
    sizes = {pid: _resident_mb(pid) for pid in tree(root)}
    return {"serving_mb": round(sizes[root], 1), "all_mb": round(sum(sizes.values()), 1)}


def _resident_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:")), 0.0)


def latencies(session: Session, queries: int, rows: int) -> dict[str, float]:
    """Give the median milliseconds of every kind of query; each answer is looked at."""
    found = {}
    for kind, (sql, keyed) in KINDS.items():
        taken = []
        for number in range(queries + 1):
            key = number * 37 % rows
            started = time.monotonic()
            answer = session.query(sql, purpose=PURPOSES[0], params=[key] if keyed else None).to_arrow()
            taken.append(time.monotonic() - started)
            if not answer.num_rows or (keyed and answer["keeper"].to_pylist() != [keeper_of(key)]):
                raise SystemExit(f"{kind}: a wrong answer")
        found[kind] = round(statistics.median(taken[1:]) * 1000, 2)
    return found


def benchmark(folder: Path, *, counts: Sequence[int], rows: int, queries: int) -> dict[str, Any]:
    """Attach more and more nodes; give the figures for each number of them."""
    result: dict[str, Any] = {"machine": machine(), "versions": versions(), "rows": rows, "nodes": {}}
    with open_register(folder, rows=rows, asking=ASKING[:1], broker={"limits": LIMITS}) as exchange:
        session = exchange.session(ASKING[0], "app")
        latencies(session, 1, rows)
        for count in counts:
            names = [f"m{count}x{number}" for number in range(count - 1)]
            with StandIns(exchange.broker_folder, exchange.identity(ASKING[0], "app"), names):
                found = {"median_ms": latencies(session, queries, rows), **memory(exchange)}
            result["nodes"][str(count)] = found
    return result


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description="One broker, many nodes.")
    parser.add_argument("--stand-ins", nargs=2, type=Path, metavar=("BROKER", "IDENTITY"), help="be the stand-ins")
    parser.add_argument("--counts", type=int, nargs="+", default=list(COUNTS))
    parser.add_argument("--queries", type=int, default=QUERIES, help="of each kind")
    parser.add_argument("--json", type=Path, help="write the result there")
    asked = parser.parse_args()
    if asked.stand_ins:
        broker_folder, identity = asked.stand_ins
        _attach(broker_folder, identity, json.loads(sys.stdin.readline()))
        return
    with tempfile.TemporaryDirectory(prefix="tidegate-members-") as folder:
        result = benchmark(Path(folder), counts=asked.counts, rows=ROWS, queries=asked.queries)
    if asked.json:
        asked.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(
        f"{'nodes':>6} {'broker MB':>10} {'with children':>14}   "
        + "  ".join(f"{kind:>10}" for kind in KINDS)
        + "  (ms)"
    )
    for count, found in result["nodes"].items():
        cells = "  ".join(f"{found['median_ms'][kind]:10}" for kind in KINDS)
        print(f"{count:>6} {found['serving_mb']:10} {found['all_mb']:14}   {cells}")


if __name__ == "__main__":
    main()

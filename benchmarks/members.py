"""``python -m benchmarks.members``: one broker with 4, 10, 85 and 1,000 attached nodes: its memory, and the latency of queries.

The demo's four nodes are real and answer the demo's own questions. The others are stand-ins: each has a member, an identity in
the directory and a certificate of the exchange's authority, dials the nodes' listener over mutual TLS, says hello and beats,
all from one process; it holds nothing. A real node is four processes, of which a small machine cannot run 85.
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
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import structlog
from rich.console import Console

from benchmarks.machine import machine, tree, versions
from broker.authority import Authority
from catalogue.database import open_database
from catalogue.members import MemberDirectory
from examples.demo import ANALYST, BROKER, Demo
from examples.local import LocalExchange
from examples.nycflights import tables
from examples.questions import QUESTIONS, REFUSED
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

COUNTS = (4, 10, 85, 1_000)  # the four nodes of the demo among them
QUERIES = 20
BEAT_S = 10.0
WELCOME_S = 60.0  # for all of them together
DIALLING_MAX = 32  # handshakes at once; a city's nodes do not all begin within one second either
DIALS_MAX = 20  # of one stand-in
SEEN_S = (
    1.0  # until a broker sees what another process wrote into the directory (catalogue.members.STALE_S_MAX, and a tick)
)
LOOK_UP = "SELECT a.name, a.tzone FROM airports.airports AS a WHERE a.faa = $1"
AIRPORT = "SEA"
REFUSED_KIND = "refused"
REAL_NODES = 4
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
        self._count = len(names)
        said = self._process.stdout.readline().strip()
        if said != str(len(names)):
            self._process.kill()
            self._process.wait()
            raise SystemExit(f"stand-ins: {said or 'none'} of {len(names)} attached")

    def __enter__(self) -> StandIns:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None  # both were opened as pipes
        assert self._process.stdout is not None
        self._process.stdin.close()
        still = self._process.stdout.readline().strip()
        self._process.wait(60)
        if kind is None and still != str(self._count):
            raise SystemExit(f"stand-ins: {still or 'none'} of {self._count} stayed attached")


def _attach(broker_folder: Path, identity: Path, names: Sequence[str]) -> None:
    """Be the stand-ins: make identities, dial, beat until the input ends."""
    clock, ids = SystemClock(), SystemIds()
    authority = Authority.load(broker_folder / "authority", clock)
    directory = MemberDirectory(open_database(f"sqlite:///{broker_folder / 'catalogue.db'}"), clock)
    exchange = IdentityFolder(identity).load().exchange
    identities = []
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
    dialling, folder = threading.Semaphore(DIALLING_MAX), IdentityFolder(identity)
    stands = [_StandIn(own, exchange.nodes, ids.nonce(16), folder, dialling) for own in identities]
    for stand in stands:
        threading.Thread(target=stand.run, daemon=True).start()
    until_s = time.monotonic() + WELCOME_S
    print(sum(stand.welcomed.wait(max(until_s - time.monotonic(), 0.0)) for stand in stands), flush=True)
    ended = threading.Event()
    threading.Thread(target=_until_input_ends, args=(ended,), daemon=True).start()
    count = 0
    while not ended.wait(BEAT_S):
        count += 1
        for stand in stands:
            stand.beat(count)
    still = sum(not stand.lost.is_set() for stand in stands)
    for stand in stands:
        stand.hang_up()
    print(still, flush=True)


class _StandIn:
    """A node that holds nothing: it dials until it is welcome, as a node does, and then stays."""

    def __init__(
        self, own: LocalIdentity, address: str, nonce: bytes, folder: IdentityFolder, dialling: threading.Semaphore
    ) -> None:
        self._own, self._address, self._nonce, self._folder, self._dialling = own, address, nonce, folder, dialling
        self._line: GrpcLine | None = None
        self.welcomed, self.lost = threading.Event(), threading.Event()

    def run(self) -> None:
        """Dial, wait for the welcome, and listen until the line ends."""
        for _ in range(DIALS_MAX):
            with self._dialling:
                channel = open_channel(self._address, self._own)
                log = structlog.get_logger("stand-ins")
                line = GrpcLine(channel, self._own, self._nonce, (), folder=self._folder, clock=SystemClock(), log=log)
                heard = line.hear()
                with suppress(TidegateError):  # refused, or made room for others: it dials again
                    if any(isinstance(item, Welcomed) for item in heard):
                        self._line = line
            if self._line is not None:
                self.welcomed.set()
                with suppress(TidegateError):
                    for _ in heard:
                        pass
                self.lost.set()
                return
            channel.close()

    def beat(self, count: int) -> None:
        """Say that it lives."""
        if self._line is not None:
            self._line.say_beat(count)

    def hang_up(self) -> None:
        """End the line."""
        if self._line is not None:
            self._line.hang_up()


def _until_input_ends(ended: threading.Event) -> None:
    sys.stdin.read()
    ended.set()


def memory(exchange: LocalExchange) -> dict[str, float]:
    """Give the broker's resident memory in MB: of the serving process, and with its planners and workers."""
    root = exchange.running["broker"].process.pid
    sizes = {pid: _resident_mb(pid) for pid in tree(root)}
    return {"serving_mb": round(sizes[root], 1), "all_mb": round(sum(sizes.values()), 1)}


def _resident_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:")), 0.0)


def kinds() -> dict[str, tuple[str, str, list[str] | None]]:
    """Give what the demo asks: name -> (SQL, purpose, parameters); and a look-up by key."""
    names = ("three departments", "masked", "aggregates")
    asked: dict[str, tuple[str, str, list[str] | None]] = {
        name: (question.sql, question.purpose, None) for name, question in zip(names, QUESTIONS, strict=True)
    }
    asked["look-up"] = (LOOK_UP, QUESTIONS[0].purpose, [AIRPORT])
    asked[REFUSED_KIND] = (REFUSED.sql, REFUSED.purpose, None)
    return asked


def answer_of(session: Session, sql: str, purpose: str, params: list[str] | None) -> object:
    """Ask; give the rows, or the code of the refusal."""
    try:
        return session.query(sql, purpose=purpose, params=params).to_arrow().to_pylist()
    except TidegateError as error:
        return error.code.value


def latencies(session: Session, queries: int, expected: dict[str, object]) -> dict[str, float]:
    """Give the median milliseconds of every kind of query; each answer must be the first one's."""
    found = {}
    for kind, asked in kinds().items():
        taken = []
        for _ in range(queries + 1):
            started = time.monotonic()
            answer = answer_of(session, *asked)
            taken.append(time.monotonic() - started)
            if answer != expected.setdefault(kind, answer) or (kind == REFUSED_KIND) is not isinstance(answer, str):
                raise SystemExit(f"{kind}: a wrong answer")
        found[kind] = round(statistics.median(taken[1:]) * 1000, 2)
    return found


def benchmark(folder: Path, *, counts: Sequence[int], queries: int) -> dict[str, Any]:
    """Attach more and more nodes; give the figures for each number of them."""
    result: dict[str, Any] = {"machine": machine(), "versions": versions(), "nodes": {}}
    settings: dict[str, Mapping[str, object]] = {**BROKER, "limits": LIMITS}
    with LocalExchange(folder, broker_settings=settings) as exchange:
        exchange.start()
        demo = Demo(exchange, folder / "evidence", Console(quiet=True), postgres_url=None)
        demo.open(tables())
        session = exchange.session(*ANALYST)
        expected: dict[str, object] = {}
        latencies(session, 1, expected)
        for count in counts:
            names = [f"m{count}x{number}" for number in range(max(count - REAL_NODES, 0))]
            with StandIns(exchange.broker_folder, exchange.identity(*ANALYST), names):
                found = {"median_ms": latencies(session, queries, expected), **memory(exchange)}
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
        result = benchmark(Path(folder), counts=asked.counts, queries=asked.queries)
    if asked.json:
        asked.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(
        f"{'nodes':>6} {'broker MB':>10} {'with children':>14}   "
        + "  ".join(f"{kind:>17}" for kind in kinds())
        + "  (ms)"
    )
    for count, found in result["nodes"].items():
        cells = "  ".join(f"{found['median_ms'][kind]:17}" for kind in kinds())
        print(f"{count:>6} {found['serving_mb']:10} {found['all_mb']:14}   {cells}")


if __name__ == "__main__":
    main()

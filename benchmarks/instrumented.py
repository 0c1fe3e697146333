"""The ordinary command with something taken out or something measured, for ``benchmarks.governance`` alone.

``python -m benchmarks.instrumented bare ...`` runs ``tidegate ...`` without policy and without log: every question is allowed
with nothing filtered, and entries are signed and kept nowhere. ``... timed ...`` runs it whole and adds up the time of each
step; SIGUSR1 writes the sums to the file that ``BENCHMARK_TIMINGS`` names, with the process id, and begins anew. Nothing of
this can be configured in the product.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from audit import entries
from audit.log import Appended, AuditLog
from broker.decide import Decide
from broker.fetch import Fetch
from broker.join import Join
from broker.plan import Plan
from broker.record import Record
from broker.rewrite import Rewrite
from broker.wire.guard import Guard
from node.admit import Admit
from node.decide import Decide as NodeDecide
from node.execute import Execute
from node.record import Record as NodeRecord
from node.wire import GrpcLine
from policies.point import DecisionPoint
from tidegate.cli.main import main
from tidegate.core.clock import SystemClock, timestamp
from tidegate.core.decision import ColumnRule, Constraints, Decision, ResourceDecision
from tidegate.core.errors import Reason
from tidegate.core.limits import ROWS_MAX
from tidegate.tlog.merkle import leaf_hash
from tidegate.tlog.receipt import sign_receipt

STEPS: tuple[tuple[str, type, str], ...] = (
    ("identify", Guard, "_let_in"),
    ("plan (parse, bind)", Plan, "plan"),
    ("decide", Decide, "decide"),
    ("split", Rewrite, "rewrite"),
    ("record decision", Record, "record"),
    ("grant and send", Fetch, "fetch"),
    ("join", Join, "join"),
    ("record outcome", Record, "outcome"),
    ("node: admit (cross-check)", Admit, "admit"),
    ("node: decide", NodeDecide, "decide"),
    ("node: restrict", Execute, "prepare"),
    ("node: record", NodeRecord, "record"),
    ("node: execute", Execute, "execute"),
    ("node: answer", GrpcLine, "say_answer"),
)


def bare() -> None:
    """Take policy and log out of this process."""
    rows = Constraints("rows", 1, "", (), ROWS_MAX, False, 0, ())

    def decide(_self: DecisionPoint, question: Mapping[str, Any]) -> Decision:
        resources = {
            item["ref"]: ResourceDecision(
                True, {}, {column["name"]: ColumnRule("plain") for column in item["columns"]}, rows
            )
            for item in question["resources"]
        }
        return Decision(True, (Reason("bare", "no policy"),), resources)

    def append(self: AuditLog, entry: Any, side: Any = None, *, commit: entries.Plaintexts | None = None) -> Appended:
        fields, nonce, clock = dict(entry), bytes(32), SystemClock()
        if commit:
            fields["commitments"] = entries.commit(nonce, commit)
        fields["ts"] = timestamp(clock.now())
        encoded = entries.encode(fields)
        leaf = leaf_hash(encoded)
        # A node takes no fragment without a receipt: that check is no part of what is left out.
        return Appended(0, leaf, encoded, sign_receipt(self._key, self.origin, 0, leaf, fields["ts"]), nonce)

    DecisionPoint.decide = decide  # type: ignore[method-assign,assignment]
    AuditLog.append = append  # type: ignore[method-assign]


class Timings:
    """Sums by step: how often, and the seconds of wall clock and of processor. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._sums: dict[str, list[float]] = {}

    def wrap(self, step: str, owner: type, name: str) -> None:
        """Measure a method from now on."""
        inner: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(inner)
        def timed(*arguments: Any, **more: Any) -> Any:
            wall, cpu = time.monotonic(), time.thread_time()
            try:
                return inner(*arguments, **more)
            finally:
                wall, cpu = time.monotonic() - wall, time.thread_time() - cpu
                with self._lock:
                    sums = self._sums.setdefault(step, [0, 0.0, 0.0])
                    sums[0] += 1
                    sums[1] += wall
                    sums[2] += cpu

        setattr(owner, name, timed)

    def write(self, *_: object) -> None:
        """Write the sums and begin anew. From a thread: a signal's handler may interrupt one that holds the lock."""
        threading.Thread(target=self._write, daemon=True).start()

    def _write(self) -> None:
        with self._lock:
            sums, self._sums = self._sums, {}
        beside = self._path.with_name(f"{self._path.name}.{os.getpid()}.new")
        beside.write_text(json.dumps(sums), encoding="utf-8")
        beside.rename(self._path.with_name(f"{self._path.name}.{os.getpid()}"))


def timed() -> None:
    """Measure every step of this process."""
    timings = Timings(Path(os.environ["BENCHMARK_TIMINGS"]))
    for step, owner, name in STEPS:
        timings.wrap(step, owner, name)
    signal.signal(signal.SIGUSR1, timings.write)


if __name__ == "__main__":
    {"bare": bare, "timed": timed}[sys.argv.pop(1)]()
    main()

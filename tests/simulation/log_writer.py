"""The process that the crash test kills: opens the log, closes orphans, appends from four threads, tells what was
acknowledged.

Each line on standard output is written by one ``write`` after ``append`` returned: index and leaf hash in hex.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from audit import entries
from audit.log import AuditLog
from tidegate.core.caller import Caller
from tidegate.core.clock import SystemClock, SystemIds, timestamp
from tidegate.core.names import SpiffeId

CALLER = Caller(SpiffeId.parse("spiffe://o.example/member/harbour/service/svc"), (), "internal", "government", "0" * 64)


def tell(done: object) -> None:
    os.write(1, f"{done.index} {done.leaf_hash.hex()}\n".encode())  # type: ignore[attr-defined]


def work(log: AuditLog, run: str, thread: int) -> None:
    for number in range(1_000_000):
        request_id = f"{run}-{thread}-{number}"
        decision = entries.decision(
            request_id=request_id,
            caller=CALLER,
            purpose="a.b",
            legal_basis="c",
            datasets={"harbour.ships": 1},
            policy_revision="",
            obligations="",
            agreements=(),
            deadline=timestamp(SystemClock().now()),
        )
        done = log.append(decision, {"sql": f"SELECT {number}"}, commit={"query": b"q"})
        tell(done)
        if number % 3:
            outcome = entries.outcome(
                request_id=request_id, of=done.index, rows=1, size_bytes=1, suppressed=0, duration_us=1, leaves={}
            )
            tell(log.append(outcome))


def main() -> None:
    folder, run = Path(sys.argv[1]), sys.argv[2]
    log = AuditLog.open(folder, SystemClock(), SystemIds(), checkpoint_period_s=0.005, reserve_bytes=1 << 16)
    for done in log.orphans(SystemClock().now()):
        tell(done)
    threads = [threading.Thread(target=work, args=(log, run, number), daemon=True) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()

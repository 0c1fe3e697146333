"""``python -m benchmarks.stream --big``: answers of 2 GB under a broker limit of 512 MB, and the broker's peak memory.

Two ways: a department's answer that the broker relays, and a union of two departments' answers that passes through a join
worker, which holds neither. The peak is the sum of each broker process's own peak, so an upper bound.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks.machine import reset_peaks, tree
from benchmarks.tpch_data import four_departments
from benchmarks.tpch_exchange import ANALYST, DEADLINE_S, PURPOSE, Exchange
from engine import landlock
from examples.local import LocalExchange

LIMIT_BYTES = 512 << 20
# Beside the limit: four idle processes with their libraries (about 450 MiB), and what is on its way in queues and buffers.
CONSTANT_BYTES = 768 << 20
ANSWER_BYTES_MIN = 2_000_000_000
_WIDE = " || ".join(["{0}_comment"] * 7)
QUERIES = {
    "relayed": f"SELECT *, {_WIDE.format('l')} AS words FROM shipping.lineitem",
    "joined": (
        f"SELECT l_orderkey AS k, {_WIDE.format('l')} || l_comment || l_comment || l_comment || l_comment AS words "
        f"FROM shipping.lineitem UNION ALL SELECT o_orderkey, {_WIDE.format('o')} FROM sales.orders"
    ),
}


def run(folder: Path) -> dict[str, Any]:
    """Ask both; raises SystemExit when an answer is too small to tell, or the broker took more than it may."""
    limits = {
        "join_workers": 2,
        "worker_memory_mib": LIMIT_BYTES >> 20,
        "worker_address_space_mib": 2048,
        "sandbox": "required" if landlock.abi() else "available",
    }
    held = [item for item in four_departments(1) if item.member in ("shipping", "sales")]
    found: dict[str, Any] = {}
    with LocalExchange(folder, name="big", broker_settings={"limits": limits}) as local:
        exchange = Exchange(local)
        exchange.open(held)
        for name, sql in QUERIES.items():
            found[name] = _ask(exchange, sql)
    return {"limit_bytes": LIMIT_BYTES, "constant_bytes": CONSTANT_BYTES, "answers": found}


def _ask(exchange: Exchange, sql: str) -> dict[str, Any]:
    broker = exchange.processes["broker"]
    idle = sum(_memory(broker, "VmRSS").values())
    reset_peaks([broker])
    session = exchange.exchange.session(*ANALYST)
    started = time.perf_counter()
    result = session.query(sql, purpose=PURPOSE[0], deadline_s=DEADLINE_S)
    first_s, rows = 0.0, 0
    for batch in result.reader():
        first_s = first_s or time.perf_counter() - started
        rows += batch.num_rows
    elapsed = time.perf_counter() - started
    peaks = _memory(broker, "VmHWM")
    size, peak = result.finished.bytes, sum(peaks.values())
    if size < ANSWER_BYTES_MIN or rows != result.finished.rows:
        raise SystemExit(f"the answer has {size} bytes and {rows} rows: too few")
    if peak > LIMIT_BYTES + CONSTANT_BYTES:
        raise SystemExit(f"the broker took {peak >> 20} MiB")
    return {
        "rows": rows,
        "bytes": size,
        "seconds": round(elapsed, 2),
        "first_rows_s": round(first_s, 3),
        "mb_per_s": round(size / elapsed / 1e6, 1),
        "broker_rss_bytes_idle": idle,
        "broker_rss_bytes_peak": peak,
        "broker_rss_bytes_peak_by_process": sorted(peaks.values(), reverse=True),
    }


def _memory(root: int, kind: str) -> dict[int, int]:
    found = {}
    for pid in tree(root):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        found[pid] = next(int(line.split()[1]) << 10 for line in lines if line.startswith(kind))
    return found

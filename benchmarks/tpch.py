"""``python -m benchmarks.tpch``: TPC-H over several departments, against what a user would do without an exchange.

The eight tables lie at four departments: sales (orders, customer), shipping (lineitem), supply (part, partsupp, supplier) and
geo (nation, region). Each has a node of its own; broker, nodes and caller speak mutual TLS; every query is decided by policy
and recorded durably before data leaves. The sides answer in turns, every answer is compared, and a wrong answer voids its row.

examples:
  python -m benchmarks.tpch --scale 1 --peers duckdb
  python -m benchmarks.tpch --scale 0.1 --queries 4,17,21 --runs 7 --json out.json
  python -m benchmarks.tpch --scale 1 --peers duckdb,postgres_fdw,duckdb_postgres
  python -m benchmarks.tpch --scale 1 --policy restricted
  python -m benchmarks.tpch --scale 1 --layout parts5
  python -m benchmarks.tpch --scale 1 --layout postgres --serve snapshot --peers duckdb,duckdb_postgres
  python -m benchmarks.tpch --scale 0.1 --delay-ms 20 --mbit 100 --profile

The data comes from tpchgen-cli (PyPI), once, into ~/.cache/tidegate (or $XDG_CACHE_HOME/tidegate). Exit code: 0; 1 when an
answer was wrong or a side of ours failed; 2 when something that the run needs is not there.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.harness import Side, Timed, geomean, interleave, ratio
from benchmarks.peers import PEERS, LocalDuckdb
from benchmarks.peers_attached import DuckdbPostgres
from benchmarks.peers_postgres import PeerError, PostgresFdw, databases
from benchmarks.shim import links
from benchmarks.tpch_data import LAYOUTS, DataError, layout
from benchmarks.tpch_exchange import Exchange, local_exchange
from benchmarks.tpch_policy import POLICIES
from benchmarks.tpch_queries import TpchQuery, queries
from examples.local import StartError


@dataclass(frozen=True, slots=True)
class Row:
    """One query's figures."""

    query: TpchQuery
    timed: Mapping[str, Timed]
    used: Mapping[str, machine.Usage]  # per run of ours, by process

    def to_json(self) -> dict[str, Any]:
        """Give the row as it stands in the JSON."""
        ours = self.timed[Exchange.name]
        answer = ours.answer
        fragments = answer.facts["fragments"] if answer else []
        return {
            "query": self.query.name,
            "title": self.query.title,
            "rows": len(answer.rows) if answer else None,
            "sides": {name: timed.to_json() for name, timed in self.timed.items()},
            "ratios": {name: ratio(ours, timed) for name, timed in self.timed.items() if name != Exchange.name},
            "bytes_moved": moved(fragments),
            "keys_moved": keys(fragments),
            "fragments": len(fragments),
            "cpu_s": {name: round(item.cpu_s, 4) for name, item in self.used.items()},
            "rss_bytes_peak": {name: item.rss_bytes_peak for name, item in self.used.items()},
        }


def moved(fragments: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Sum the Arrow bytes that each department sent to the broker."""
    found: dict[str, int] = {}
    for item in fragments:
        found[item["member"]] = found.get(item["member"], 0) + (item["bytes"] or 0)
    return found


def keys(fragments: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Sum the keys that each department's node was given of another's data: ``{"sales to shipping": 1200}``."""
    found: dict[str, int] = {}
    for item in fragments:
        for given in item.get("keys_received", ()):
            way = f"{given['from']} to {item['member']}"
            found[way] = found.get(way, 0) + (given["count"] or 0)
    return found


def measure(exchange: Exchange, sides: Sequence[Side], query: TpchQuery, runs: int, warm_ups: int = 1) -> Row:
    """Time one query on every side, and read what the exchange's processes used meanwhile."""
    machine.reset_peaks(exchange.processes.values())
    before: dict[str, machine.Usage] = {}
    timed = interleave(
        sides,
        query.name,
        query.sql,
        runs=runs,
        warm_ups=warm_ups,
        ordered_by=query.ordered_by,
        reference="duckdb" if any(side.name == "duckdb" for side in sides) else "",
        before_timed=lambda: before.update(machine.usages(exchange.processes)),
    )
    after = machine.usages(exchange.processes)
    done = len(timed[Exchange.name].seconds)
    return Row(query, timed, {name: after[name].since(before[name], done) for name in after})


def summary(rows: Sequence[Row], peers: Sequence[str]) -> dict[str, Any]:
    """Give the keys at the top of the JSON: geometric means of ours over each peer (below 1: we are faster)."""
    found: dict[str, Any] = {}
    for peer in PEERS:
        values = [ratio(row.timed[Exchange.name], row.timed[peer]) for row in rows] if peer in peers else []
        whole = bool(values) and all(value is not None for value in values)
        found[f"geomean_ratio_{peer}"] = geomean([value for value in values if value]) if whole else None
        if peer == "duckdb":
            found["worst_ratio_duckdb"] = max(value for value in values if value) if whole else None
        if peer in peers:  # a peer that ran into its limit is slower than the ratio says
            found[f"bound_{peer}"] = any(row.timed[peer].limit_s for row in rows)
    found["answers_equal"] = not any(broken(row.timed[side]) for row in rows for side in row.timed)
    return found


def broken(timed: Timed) -> bool:
    """Say whether a side gave a wrong answer, or none for another reason than its time limit."""
    return bool(timed.wrong or timed.failed)


def table(rows: Sequence[Row], sides: Sequence[str]) -> Table:
    """Make the table for people: milliseconds, ratios, bytes."""
    shown = Table("query", "rows", show_edge=False)
    for side in sides:
        shown.add_column(f"{side} ms", justify="right")
    for side in sides[1:]:
        shown.add_column(f"/ {side}", justify="right")
    for name in ("moved MB", "fragments", "cpu s", "rss MB"):
        shown.add_column(name, justify="right")
    for row in rows:
        data = row.to_json()
        cells = [row.query.name, str(data["rows"])]
        cells += [_milliseconds(row.timed[side]) for side in sides]
        cells += ["void" if (value := data["ratios"][side]) is None else f"{value:.2f}" for side in sides[1:]]
        cells += [f"{sum(data['bytes_moved'].values()) / 1e6:.1f}", str(data["fragments"])]
        cells += [f"{sum(data['cpu_s'].values()):.2f}", f"{sum(data['rss_bytes_peak'].values()) / 1e6:.0f}"]
        shown.add_row(*cells)
    return shown


def _milliseconds(timed: Timed) -> str:
    if timed.wrong:
        return "WRONG"
    if timed.failed:
        return "FAILED"
    return f"{'>' if timed.limit_s else ''}{(timed.median_s or 0.0) * 1000:.1f}"


def arguments(texts: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tpch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--scale", type=float, default=1.0, metavar="SF", help="scale factor: 1 is about 1 GB (default)"
    )
    parser.add_argument("--peers", default="duckdb", metavar="A,B", help=f"whom to compare with: {', '.join(PEERS)}")
    parser.add_argument("--queries", default="", metavar="1,6", help="only these queries (default: all 22)")
    parser.add_argument(
        "--policy",
        choices=POLICIES,
        default="whole",
        help="whole: every row is permitted, by agreements (default); restricted: a row filter and a masked column on every "
        "large table, and the local DuckDB asks plain views of the same rules",
    )
    parser.add_argument(
        "--layout",
        choices=LAYOUTS,
        default="four",
        help="four departments with a DuckDB file each (default); parts5: lineitem and orders as collections in five parts "
        "at five departments; postgres: the four nodes serve the four PostgreSQL databases that the peers ask",
    )
    parser.add_argument(
        "--serve",
        choices=("live", "snapshot"),
        default="live",
        help="with --layout postgres: ask the database for each fragment (default), or a copy that the node makes at its start",
    )
    parser.add_argument(
        "--delay-ms", type=float, default=0.0, metavar="MS", help="added round trip between node and broker"
    )
    parser.add_argument(
        "--mbit", type=float, default=0.0, metavar="N", help="bandwidth of each node's line, each direction, in Mbit/s"
    )
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="timed runs of each side (default 5)")
    parser.add_argument("--warm-ups", type=int, default=1, metavar="N", help="untimed runs of each side before")
    parser.add_argument(
        "--peer-limit",
        type=float,
        default=45.0,
        metavar="S",
        help="seconds that a PostgreSQL peer may take for one query (default 45); what takes longer is cancelled, and the "
        "ratio to it is a bound. A peer stops being asked again after a fifth of it, so slow queries have fewer runs",
    )
    parser.add_argument(
        "--folder", type=Path, metavar="DIR", help="keep the exchange's state and logs in this new folder"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything to this file")
    parser.add_argument(
        "--profile", action="store_true", help="show each query's fragments: what was asked, bytes, time"
    )
    options = parser.parse_args(texts)
    options.peers = [name for name in options.peers.split(",") if name]
    options.queries = [int(number) for number in options.queries.split(",") if number]
    if unknown := set(options.peers) - set(PEERS):
        parser.error(f"--peers: no such peer: {', '.join(sorted(unknown))}")
    if options.runs < 1 or options.warm_ups < 0 or not set(options.queries) <= set(range(1, 23)):
        parser.error("--runs: at least 1; --queries: numbers from 1 to 22")
    if options.policy == "restricted" and set(options.peers) - {LocalDuckdb.name}:
        parser.error("--policy restricted: only the peer duckdb knows the rules")
    return options


def run(options: argparse.Namespace, console: Console) -> int:
    """Do one run; give the exit code."""
    facts = machine.machine()
    with ExitStack() as stack:
        exchange, sides = start(options, stack)
        rows = []
        for query in queries(options.scale):
            if not options.queries or query.number in options.queries:
                rows.append(measure(exchange, sides, query, options.runs, options.warm_ups))
                report(console, exchange, rows[-1], profile=options.profile)
    result = {
        **summary(rows, options.peers),
        "benchmark": "tpch",
        "scale": options.scale,
        "policy": options.policy,
        "layout": options.layout,
        "serve": options.serve if options.layout == "postgres" else None,
        "line": {"delay_ms": options.delay_ms, "mbit": options.mbit},
        "receipts_verified": exchange.verified,
        "machine": {**facts, "load_average_end": round(os.getloadavg()[0], 2)},
        "versions": machine.versions(),
        "rows": [row.to_json() for row in rows],
    }
    console.print(table(rows, [side.name for side in sides]))
    console.print({key: value for key, value in result.items() if key.startswith(("geomean", "worst", "answers"))})
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0 if result["answers_equal"] else 1


def start(options: argparse.Namespace, stack: ExitStack) -> tuple[Exchange, list[Side]]:
    """Start the databases, the exchange and the peers that are asked for; whatever was started ends with the stack.

    The peers that ask PostgreSQL always ask the four departments' databases, whatever our own layout is.
    """
    held = layout(options.layout, options.scale)
    found = None
    if options.layout == "postgres" or {PostgresFdw.name, DuckdbPostgres.name} & set(options.peers):
        found = stack.enter_context(databases(layout("four", options.scale).held))
    folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tidegate-tpch-")))
    local = stack.enter_context(local_exchange(folder))
    local.start()
    slow: dict[str, int] = {}
    if options.delay_ms or options.mbit:
        target = local.operator().identity.exchange.nodes
        lines = links(target, len(held.members), delay_ms=options.delay_ms, mbit=options.mbit)
        slow = dict(zip(held.members, stack.enter_context(lines), strict=True))
    exchange = Exchange(local)
    served = {name: found.database(name) for name in held.members} if found and options.layout == "postgres" else None
    exchange.open(
        held.held,
        policy=options.policy,
        collections=held.collections,
        slow=slow,
        databases=served,
        serve=options.serve,
    )
    sides: list[Side] = [exchange]
    limits = {"limit_s": options.peer_limit, "budget_s": options.peer_limit / 5}
    if LocalDuckdb.name in options.peers:
        sides.append(stack.enter_context(LocalDuckdb(held, options.policy)))
    if found and PostgresFdw.name in options.peers:
        sides.append(stack.enter_context(PostgresFdw(found, **limits)))
    if found and DuckdbPostgres.name in options.peers:
        sides.append(stack.enter_context(DuckdbPostgres(found, **limits)))
    return exchange, sides


def report(console: Console, exchange: Exchange, row: Row, *, profile: bool) -> None:
    """Say what happened with one query while the run goes on."""
    for side, timed in row.timed.items():
        if broken(timed):
            console.print(f"{row.query.name} {side}: {timed.wrong or timed.failed}", style="red", highlight=False)
    line = ", ".join(f"{side} {_milliseconds(timed)} ms" for side, timed in row.timed.items())
    console.print(f"{row.query.name} {row.query.title}: {line}", highlight=False)
    answer = row.timed[Exchange.name].answer
    if not profile or answer is None:
        return
    for item in exchange.fragments(row.query.sql):
        console.print(
            f"    {item['fragment']} {item['member']}: {item['rows']} rows, {(item['bytes'] or 0) / 1e6:.2f} MB, "
            f"{item['elapsed_ms']} ms\n        {item['asked']}",
            highlight=False,
        )


def main(texts: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    options = arguments(texts)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a run takes minutes; whoever reads it from a pipe reads along
    console = Console(soft_wrap=True, width=None if sys.stdout.isatty() else 160)
    try:
        return run(options, console)
    except (DataError, PeerError, StartError) as error:
        console.print(str(error), style="red", highlight=False)
        return 2


if __name__ == "__main__":
    sys.exit(main())

"""Two whole exchanges whose data differ in nothing but what the policy hides: their callers are shown the same, to the byte.

All 22 queries of TPC-H under ``--policy restricted``, with real nodes, agreements, masks and logs: the answer's digest, and of
each department's part the rows, the bytes, the rules and the keys that it was given; and what the record says of keys.
``tests/contract/test_two_states.py`` holds the planner to it, with mutants that it must notice.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import duckdb
import pytest

from benchmarks.tpch_data import DataError, Held, layout, parquet
from benchmarks.tpch_exchange import ANALYST, DEADLINE_S, PURPOSE, Exchange
from benchmarks.tpch_queries import TpchQuery, queries
from examples.local import LocalExchange
from tests.fakes.two_states import changed, fill, untouched

pytestmark = [
    pytest.mark.long,
    pytest.mark.xdist_group("federation-two-states"),
]  # two exchanges of five processes each

SCALE = 0.01
ONE_THREAD = {"join_workers": 1, "worker_threads": 1}  # so that rows come in one order


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Exchange, Exchange]]:
    """Start both exchanges."""
    try:
        files = parquet(SCALE)
        held = layout("four", SCALE).held
    except DataError as error:
        if os.environ.get("TIDEGATE_REQUIRE_ALL") == "1":
            raise
        pytest.skip(f"tpchgen-cli cannot be had from PyPI, and its data is not in the cache: {error}")
    found = []
    with ExitStack() as stack:
        for name, make in (("first", untouched), ("second", changed)):
            folder = tmp_path_factory.mktemp(name)
            laid = [Held(item.member, item.table, folder / f"{item.member}.duckdb") for item in held]
            for item in laid:
                with duckdb.connect(str(item.file)) as database:
                    source = str(files[item.table])
                    fill(database, item, make(item.table, f"'{source}'"), source, schema="main")
            local = stack.enter_context(
                LocalExchange(folder / "exchange", name="tpch", broker_settings={"limits": dict(ONE_THREAD)})
            )
            exchange = Exchange(local)
            exchange.open(laid, policy="restricted")
            found.append(exchange)
        yield found[0], found[1]


def seen(exchange: Exchange, query: TpchQuery) -> dict[str, Any]:
    """Ask, and give all that the caller is shown but times and ids."""
    result = exchange.exchange.session(*ANALYST).query(query.sql, purpose=PURPOSE[0], deadline_s=DEADLINE_S)
    table = result.to_arrow()
    result.verify()
    entry = result.outcome.entry
    return {
        "schema": table.schema,
        "rows": [repr(row) for row in zip(*(column.to_pylist() for column in table.columns), strict=True)],
        "report": [
            {key: value for key, value in item.items() if key not in ("elapsed_ms", "node_entry")}
            for item in result.report
        ],
        "disclosure": {key: result.disclosure[key] for key in ("datasets", "departments")},  # the rest names agreements
        "outcome": {key: entry.get(key) for key in ("rows", "bytes", "leaves", "keys", "error")},
    }


def planned(found: dict[str, Any]) -> list[Any]:
    """Give the plan: what each department was asked, and whose keys narrowed it, without their count."""
    given = [[(keys["from"], keys["column"]) for keys in item["keys_received"]] for item in found["report"]]
    return [found["disclosure"]["departments"], given]


def test_all_22_answers_reports_and_records_are_the_same(pair: tuple[Exchange, Exchange]) -> None:
    """Statistics that a department publishes are of all its rows, and no secret: they may choose another plan, which gives the
    same answer but not the same counts. Where the plan is the same, so is everything.
    """
    keys = same = 0
    for query in queries(SCALE):
        first, second = (seen(exchange, query) for exchange in pair)
        assert (second["schema"], second["rows"]) == (first["schema"], first["rows"]), query.name
        if planned(second) != planned(first):
            continue
        same += 1
        assert second == first, query.name
        keys += any(item["keys_received"] for item in first["report"])
    assert same >= 16, "too few plans are the same to prove anything"
    assert keys >= 6, "too few queries send keys to prove anything about them"


def test_to_whom_nothing_is_hidden_they_differ(pair: tuple[Exchange, Exchange]) -> None:
    """The same comparison sees the rows themselves: asked of the departments' own files."""
    counts: list[tuple[Any, ...]] = []
    for exchange in pair:
        file = exchange.exchange.folder.parent / "shipping.duckdb"
        with duckdb.connect(str(file), read_only=True) as database:
            counts += database.execute("SELECT sum(l_quantity), count(*) FROM lineitem").fetchall()
    assert counts[0][0] != counts[1][0]
    assert counts[0][1] == counts[1][1]

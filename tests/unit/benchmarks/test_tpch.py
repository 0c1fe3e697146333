"""TPC-H's parts that need no process: queries, rules, layouts, the summary, the command line."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal

import duckdb
import pytest

from benchmarks import tpch
from benchmarks.harness import Answer, Timed
from benchmarks.tpch_data import DEPARTMENT_OF, PARTS, SPLIT_BY, TABLES, part_of
from benchmarks.tpch_policy import RESTRICTED, terms
from benchmarks.tpch_queries import queries

EVERY = queries(1)
FRAGMENT = {"member": "sales", "bytes": 7, "keys_received": [{"from": "geo", "column": "n_nationkey", "count": 3}]}


def test_there_are_22_queries_over_every_table() -> None:
    assert [query.number for query in EVERY] == list(range(1, 23))
    names = {f"{member}.{table}" for table, member in DEPARTMENT_OF.items()}
    assert {name for name in names for query in EVERY if name in query.sql} == names


def test_the_threshold_of_q11_follows_the_scale() -> None:
    assert "* 0.0001000000" in EVERY[10].sql
    assert "* 0.0000010000" in queries(100)[10].sql
    assert not any(":" in query.sql for query in EVERY)


def test_order_by_and_the_sequence_compared_go_together() -> None:
    for query in EVERY:
        assert ("ORDER BY" in query.sql) == bool(query.ordered_by), query.name


def test_orders_and_their_lines_are_spread_over_all_parts() -> None:
    """TPC-H uses 8 order keys of every 32; a plain remainder would do too, a bad hash would leave a department empty."""
    keys = "SELECT 32 * (i // 8) + i % 8 + 1 AS k FROM range(10000) AS r(i)"
    with duckdb.connect() as engine:
        found = Counter(part for (part,) in engine.execute(f"SELECT {part_of('k')} FROM ({keys})").fetchall())
    assert sorted(found) == list(range(PARTS))
    assert min(found.values()) > 1500
    assert set(SPLIT_BY) < set(TABLES)


def test_every_large_table_is_filtered_and_masked() -> None:
    assert set(RESTRICTED) == set(TABLES) - {"nation", "region"}
    assert all(item.row_filter and item.masks and set(item.masks) == set(item.shown) for item in RESTRICTED.values())
    assert terms("whole", "lineitem").view("t") == "SELECT * FROM t WHERE true"


def test_the_view_rounds_down_and_hides_names() -> None:
    with duckdb.connect() as engine:
        engine.execute("CREATE TABLE o (o_totalprice DECIMAL(15,2), o_orderpriority VARCHAR)")
        engine.execute("INSERT INTO o VALUES (1999.99, '1-URGENT'), (-0.01, '5-LOW'), (7, '4-NOT SPECIFIED')")
        rows = engine.execute(terms("restricted", "orders").view("o")).fetchall()
        assert sorted(rows) == [(Decimal("-1000.00"), "5-LOW"), (Decimal("1000.00"), "1-URGENT")]
        engine.execute("CREATE TABLE s (s_phone VARCHAR, s_acctbal DECIMAL(15,2))")
        engine.execute("INSERT INTO s VALUES ('27-918-335-1736', 1), ('1736', 1), (NULL, 1), ('27-918-335-1736', -950)")
        rows = engine.execute(terms("restricted", "supplier").view("s")).fetchall()
        assert Counter(row[0] for row in rows) == Counter(["***1736", "***", "***"])


def row(ours: Timed, peer: Timed) -> tpch.Row:
    return tpch.Row(EVERY[0], {"tidegate": ours, "duckdb": peer}, {})


def timed(seconds: float) -> Timed:
    return Timed([seconds], Answer([(1,)], seconds, {"fragments": [FRAGMENT] * 2}))


def test_the_summary_holds_the_ratios() -> None:
    found = tpch.summary([row(timed(1.0), timed(0.5)), row(timed(4.0), timed(0.5))], ["duckdb"])
    assert found["geomean_ratio_duckdb"] == pytest.approx(4.0)
    assert found["worst_ratio_duckdb"] == pytest.approx(8.0)
    assert found["geomean_ratio_postgres_fdw"] is None
    assert found["answers_equal"] is True


def test_one_void_row_leaves_no_mean_to_boast_of() -> None:
    wrong = timed(0.1)
    wrong.wrong = "column 0: 2, expected 1"
    rows = [row(timed(1.0), timed(0.5)), row(wrong, timed(0.5))]
    found = tpch.summary(rows, ["duckdb"])
    assert found["geomean_ratio_duckdb"] is None
    assert found["worst_ratio_duckdb"] is None
    assert found["answers_equal"] is False
    assert rows[1].to_json()["ratios"] == {"duckdb": None}


def test_a_row_tells_what_each_department_sent_and_was_given() -> None:
    data = row(timed(1.0), timed(0.5)).to_json()
    assert data["bytes_moved"] == {"sales": 14}
    assert data["keys_moved"] == {"geo to sales": 6}
    assert data["fragments"] == 2


@pytest.mark.parametrize(
    "texts",
    [
        ["--peers", "oracle"],
        ["--queries", "23"],
        ["--runs", "0"],
        ["--warm-ups", "-1"],
        ["--policy", "restricted", "--peers", "duckdb,postgres_fdw"],
        ["--layout", "six"],
    ],
)
def test_a_wrong_command_line_is_refused(texts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        tpch.arguments(texts)
    assert "--" in capsys.readouterr().err


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        tpch.arguments(["--help"])
    said = capsys.readouterr().out
    assert "examples:" in said
    assert "python -m benchmarks.tpch --scale 1 --peers duckdb" in said

"""Settle: a condition of an outer join's ON goes into its optional side where that spares a column, and nowhere else."""

from __future__ import annotations

import pytest

from tests.fakes.sql_world import comparable, small_world

WORLD = small_world()
LEFT = "SELECT a.k, b.n FROM air.a a LEFT JOIN sea.b b ON a.k = b.k AND "
PARTS = (
    "SELECT a.k, p.n FROM air.a a LEFT JOIN (SELECT k, n, s FROM sea.b UNION ALL SELECT k, n, s FROM land.c) p "
    "ON a.k = p.k AND p.s "
)


def fetched(sql: str, dataset: str) -> str:
    """Hold the answer to the local one; give what the dataset's node was asked."""
    expected = comparable(WORLD.local.sql(sql).fetchall())
    answer = WORLD.run(sql)
    assert comparable(answer.rows) == expected, sql
    (found,) = (item.sql.text for item in answer.plan.fragments if dataset in map(str, item.refs.values()))
    return found


@pytest.mark.parametrize(
    "condition", ["b.s = 'JFK'", "b.s LIKE '%F%'", "b.s IS NULL", "(b.s = 'JFK' OR b.s IS NULL)", "NOT (b.s = 'JFK')"]
)
def test_a_column_that_only_the_condition_reads_stays_at_home(condition: str) -> None:
    text = fetched(LEFT + condition, "sea.b")
    assert '"s"' in text.split(" FROM ", 1)[1]
    assert '"s"' not in text.split(" FROM ", 1)[0]


@pytest.mark.parametrize("condition", ["= 'JFK'", "IS NULL", "LIKE 'J%'"])
@pytest.mark.parametrize("dataset", ["sea.b", "land.c"])
def test_so_it_does_in_every_part_of_a_collection(condition: str, dataset: str) -> None:
    assert '"s"' not in fetched(PARTS + condition, dataset).split(" FROM ", 1)[0]


@pytest.mark.parametrize(("kind", "columns"), [("SEMI", 1), ("ANTI", 1)])
def test_so_it_does_in_semi_and_anti_joins(kind: str, columns: int) -> None:
    text = fetched(f"SELECT a.k FROM air.a a {kind} JOIN sea.b b ON a.k = b.k AND b.s = 'JFK'", "sea.b")
    assert text.split(" FROM ", 1)[0].count(" AS ") == columns


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT a.k, b.s FROM air.a a LEFT JOIN sea.b b ON a.k = b.k AND b.s = 'JFK'",  # read elsewhere
        "SELECT a.k, b.n FROM air.a a LEFT JOIN sea.b b ON a.k = b.k AND CAST(b.k AS VARCHAR) || b.s = '7JFK'",
        "SELECT a.k, b.n FROM air.a a LEFT JOIN sea.b b ON a.k = b.k AND a.s = b.s",  # of both sides
        "SELECT a.k, b.n FROM air.a a FULL JOIN sea.b b ON a.k = b.k AND b.s = 'JFK'",
        "SELECT a.k, b.n FROM sea.b b LEFT JOIN air.a a ON a.k = b.k AND b.s = 'JFK'",  # of the side that is kept
        "SELECT a.k, b.n FROM air.a a RIGHT JOIN sea.b b ON a.k = b.k AND b.s = 'JFK'",
    ],
)
def test_elsewhere_the_column_travels(sql: str) -> None:
    assert '"s"' in fetched(sql, "sea.b").split(" FROM ", 1)[0]


@pytest.mark.parametrize(
    "branch",
    [
        "SELECT DISTINCT k, n, s FROM sea.b",
        "SELECT k, n, s || '' AS s FROM sea.b",
        "SELECT k, max(n) AS n, s FROM sea.b GROUP BY k, s",
    ],
)
def test_a_part_that_is_no_plain_select_leaves_all_as_it_is(branch: str) -> None:
    sql = (
        f"SELECT a.k, p.n FROM air.a a LEFT JOIN ((SELECT k, n, s FROM land.c) UNION ALL ({branch})) p "
        "ON a.k = p.k AND p.s = 'JFK'"
    )
    assert '"s"' in fetched(sql, "land.c").split(" FROM ", 1)[0]


def test_in_a_part_with_a_limit_the_condition_comes_after_it() -> None:
    sql = (
        "SELECT a.k, p.n FROM air.a a LEFT JOIN ((SELECT k, n, s FROM land.c) UNION ALL "
        "(SELECT k, n, s FROM sea.b ORDER BY k, n, s LIMIT 3)) p ON a.k = p.k AND p.s = 'JFK'"
    )
    assert "LIMIT 3) AS" in fetched(sql, "sea.b")

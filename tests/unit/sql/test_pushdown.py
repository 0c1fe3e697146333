# ruff: noqa: E501 - one query a line reads better than a wrapped one
"""Leaf pushdown: the table of the design, cell by cell, and the conditions beside it.

``CELLS`` is written by hand from design planner.md, pass 7, not derived from the code. Each cell is checked for what is pushed
and for the answer; the mutants of tests/mutants turn each cell and expect these checks to fail.
"""

from __future__ import annotations

import pytest

from tests.fakes.sql_world import comparable, rows_of, small_world
from tidegate.sql import pushdown

WORLD = small_world()

CELLS: dict[tuple[str, pushdown.Place], pushdown.Rule] = {
    ("INNER", "where_left"): "yes",
    ("INNER", "where_right"): "yes",
    ("INNER", "on_left"): "yes",
    ("INNER", "on_right"): "yes",
    ("CROSS", "where_left"): "yes",
    ("CROSS", "where_right"): "yes",
    ("LEFT", "where_left"): "yes",
    ("LEFT", "where_right"): "null",
    ("LEFT", "on_left"): "no",
    ("LEFT", "on_right"): "yes",
    ("RIGHT", "where_left"): "null",
    ("RIGHT", "where_right"): "yes",
    ("RIGHT", "on_left"): "yes",
    ("RIGHT", "on_right"): "no",
    ("FULL", "where_left"): "null",
    ("FULL", "where_right"): "null",
    ("FULL", "on_left"): "no",
    ("FULL", "on_right"): "no",
    ("SEMI", "where_left"): "yes",
    ("SEMI", "on_left"): "yes",
    ("SEMI", "on_right"): "yes",
    ("ANTI", "where_left"): "yes",
    ("ANTI", "on_left"): "no",
    ("ANTI", "on_right"): "yes",
}
UNREACHABLE = {("CROSS", "on_left"), ("CROSS", "on_right"), ("SEMI", "where_right"), ("ANTI", "where_right")}
"""A CROSS join has no ON; the right side of SEMI and ANTI is not visible in WHERE."""

REJECTING = ("{0}.n > 12", "{0}.s IN ('JFK', 'LGA')", "{0}.n IS NOT NULL", "NOT {0}.n = 5")
NOT_REJECTING = ("{0}.n IS NULL", "coalesce({0}.n, 15) > 12", "{0}.n IS DISTINCT FROM 5", "{0}.b IS NOT TRUE")


def query(kind: str, place: pushdown.Place, condition: str) -> str:
    side = "a" if place.endswith("left") else "b"
    where, on = (
        (f" WHERE {condition.format(side)}", "")
        if place.startswith("where")
        else ("", f" AND {condition.format(side)}")
    )
    on = "" if kind == "CROSS" else f" ON a.k = b.k{on}"
    columns = "a.k, a.n" if kind in ("SEMI", "ANTI") else "a.k, a.n, b.n, b.s"
    return f"SELECT {columns} FROM air.a a {kind} JOIN sea.b b{on}{where}"


def pushes(sql: str, dataset: str) -> tuple[int, int]:
    """Give how many conjuncts were pushed to a dataset and how many kept."""
    plan, _ = WORLD.plan(sql)
    found = next(item for item in plan.fragments if dataset in map(str, item.refs.values()))
    return len(found.pushed), len(found.kept)


def same_answer(sql: str) -> None:
    expected = comparable(rows_of(WORLD.local.sql(sql).to_arrow_table()))
    assert comparable(WORLD.run(sql).rows) == expected, sql


def check_cell(kind: str, place: pushdown.Place) -> None:
    """Check one cell: what is pushed, and that the answer is right whatever the condition."""
    rule = CELLS[kind, place]
    dataset = "air.a" if place.endswith("left") else "sea.b"
    for condition in REJECTING:
        assert pushes(query(kind, place, condition), dataset) == ((1, 0) if rule != "no" else (0, 1)), condition
    for condition in NOT_REJECTING:
        assert pushes(query(kind, place, condition), dataset) == ((1, 0) if rule == "yes" else (0, 1)), condition
    check_cell_answers(kind, place)


def check_cell_answers(kind: str, place: pushdown.Place) -> None:
    """Check the answers of one cell alone."""
    for condition in (*REJECTING, *NOT_REJECTING):
        same_answer(query(kind, place, condition))


@pytest.mark.parametrize(("kind", "place"), CELLS, ids=lambda item: str(item))
def test_cell(kind: str, place: pushdown.Place) -> None:
    check_cell(kind, place)


def test_every_cell_of_the_code_is_checked_here_or_cannot_be_reached() -> None:
    code = {(kind, place) for kind, row in pushdown.JOIN_RULES.items() for place in row}
    assert code == set(CELLS) | UNREACHABLE


CONDITIONS = [
    # sql, dataset, pushed
    (
        "SELECT a.k FROM air.a a JOIN sea.b b ON a.k = b.k RIGHT JOIN land.c c ON a.k = c.k WHERE a.n IS NULL",
        "air.a",
        0,
    ),
    ("SELECT a.k FROM air.a a JOIN sea.b b ON a.k = b.k RIGHT JOIN land.c c ON a.k = c.k WHERE a.n > 5", "air.a", 1),
    ("SELECT a.k FROM air.a a JOIN sea.b b ON a.k = b.k FULL JOIN land.c c ON a.k = c.k WHERE b.n IS NULL", "sea.b", 0),
    ("SELECT a.k FROM air.a a JOIN sea.b b ON a.k = b.k AND a.n IS NULL FULL JOIN land.c c ON a.k = c.k", "air.a", 1),
    ("SELECT a.k FROM air.a a LEFT JOIN sea.b b ON a.k = b.k JOIN land.c c ON a.k = c.k AND b.n IS NULL", "sea.b", 0),
    ("SELECT a.k FROM air.a a LEFT JOIN sea.b b ON a.k = b.k JOIN land.c c ON a.k = c.k AND b.n = 3", "sea.b", 1),
    (
        "SELECT a.k FROM air.a a JOIN sea.b b ON a.k = b.k WHERE (a.n > 5 AND b.n > 1) OR (a.n < 2 AND b.s = 'JFK')",
        "air.a",
        1,
    ),
    ("SELECT a.k FROM air.a a JOIN sea.b b ON a.k = b.k WHERE (a.n > 5 AND b.n > 1) OR b.s = 'JFK'", "air.a", 0),
    ("SELECT x.k FROM (SELECT k, n FROM air.a LIMIT 5) x JOIN sea.b b ON x.k = b.k WHERE x.n > 5", "air.a", 0),
    ("SELECT x.k FROM (SELECT k, n FROM air.a OFFSET 5) x JOIN sea.b b ON x.k = b.k WHERE x.n > 5", "air.a", 0),
    (
        "SELECT x.k FROM (SELECT DISTINCT ON (k) k, n FROM air.a ORDER BY k, n) x JOIN sea.b b ON x.k = b.k WHERE x.n > 5",
        "air.a",
        0,
    ),
    ("SELECT x.k FROM (SELECT DISTINCT k, n FROM air.a) x JOIN sea.b b ON x.k = b.k WHERE x.n > 5", "air.a", 1),
    (
        "SELECT x.k FROM (SELECT k, n, count(*) OVER () AS c FROM air.a) x JOIN sea.b b ON x.k = b.k WHERE x.n > 5",
        "air.a",
        0,
    ),
    (
        "SELECT x.k FROM (SELECT k, n, count(*) OVER (PARTITION BY k) AS c FROM air.a) x JOIN sea.b b ON x.k = b.k WHERE x.n > 5",
        "air.a",
        0,
    ),
    (
        "SELECT x.k FROM (SELECT k, n, count(*) OVER (PARTITION BY k) AS c FROM air.a) x JOIN sea.b b ON x.k = b.k WHERE x.k > 5",
        "air.a",
        1,
    ),
    (
        "SELECT x.k FROM (SELECT k, n FROM air.a QUALIFY count(*) OVER (PARTITION BY n) > 1) x JOIN sea.b b ON x.k = b.k WHERE x.k > 5",
        "air.a",
        0,
    ),
    (
        "SELECT x.k FROM (SELECT k, n, count(*) AS c FROM air.a GROUP BY k, n) x JOIN sea.b b ON x.k = b.k WHERE x.n > 5",
        "air.a",
        1,
    ),
    (
        "SELECT x.k FROM (SELECT k, max(n) AS n FROM air.a GROUP BY k) x JOIN sea.b b ON x.k = b.k WHERE x.n > 5",
        "air.a",
        0,
    ),
    (
        "SELECT x.k FROM (SELECT k, n FROM air.a GROUP BY ROLLUP (k, n)) x JOIN sea.b b ON x.k = b.k WHERE x.n > 5",
        "air.a",
        0,
    ),
    ("SELECT k, count(*) FROM air.a WHERE k IN (SELECT k FROM sea.b) GROUP BY k HAVING k > 3", "air.a", 1),
    ("SELECT x.v FROM (SELECT k + 1 AS v FROM air.a) x JOIN sea.b b ON x.v = b.k WHERE x.v > 5", "air.a", 0),
    ("WITH q AS (SELECT k, n FROM air.a) SELECT q.k FROM q JOIN sea.b b ON q.k = b.k WHERE q.n > 5", "air.a", 1),
    (
        "WITH q AS (SELECT k, n FROM air.a) SELECT q.k FROM q JOIN q r ON q.k = r.k JOIN sea.b b ON q.k = b.k WHERE q.n > 5",
        "air.a",
        0,
    ),
    ("SELECT a.k FROM air.a a JOIN sea.b b ON a.k = b.k WHERE CAST(a.s AS INTEGER) > 5", "air.a", 0),
    ("SELECT a.k FROM air.a a JOIN sea.b b ON a.k = b.k WHERE a.s = 5", "air.a", 0),
    ("SELECT a.k FROM air.a a JOIN sea.b b ON a.k = b.k WHERE a.n + 1 > 5", "air.a", 0),
    ("SELECT a.k FROM air.a a JOIN sea.b b ON a.k = b.k WHERE random() > 0.5 OR a.n > 3", "air.a", 0),
    ("SELECT a.k FROM air.a a JOIN sea.b b ON a.k = b.k WHERE a.d >= DATE '2024-02-30'", "air.a", 0),
    ("SELECT a.k FROM air.a a JOIN sea.b b ON a.k = b.k WHERE a.d >= DATE '2024-02-20'", "air.a", 1),
    ("SELECT a.k FROM air.a a JOIN sea.b b ON a.k = b.k WHERE a.n > (SELECT avg(n) FROM land.c)", "air.a", 0),
    ("SELECT x.v FROM (SELECT s AS v FROM air.a UNION ALL SELECT n::VARCHAR FROM sea.b) x WHERE x.v < '2'", "air.a", 0),
    ("SELECT x.v FROM (SELECT n AS v FROM air.a UNION ALL SELECT x FROM sea.b) x WHERE x.v > 3", "air.a", 0),
    ("SELECT x.v FROM (SELECT n AS v FROM air.a UNION ALL SELECT k FROM sea.b) x WHERE x.v > 3", "sea.b", 1),
    ("SELECT x.v FROM (SELECT n AS v FROM air.a EXCEPT SELECT k FROM sea.b) x WHERE x.v > 3", "sea.b", 1),
]


@pytest.mark.parametrize(("sql", "dataset", "count"), CONDITIONS, ids=lambda item: str(item)[:70])
def test_condition(sql: str, dataset: str, count: int) -> None:
    assert pushes(sql, dataset)[0] == count


def test_rows_that_fail_a_pushed_condition_are_not_fetched() -> None:
    answer = WORLD.run("SELECT k, n FROM city.t5 WHERE n > 30")
    assert sum(answer.fetched) == len(answer.rows) < 30


def test_columns_that_are_not_read_are_not_fetched() -> None:
    plan, _ = WORLD.plan("WITH q AS (SELECT * FROM air.a) SELECT q.k FROM q JOIN sea.b b ON q.k = b.k")
    assert [len(item.columns) for item in plan.fragments] == [1, 1]


def test_kept_condition_says_why() -> None:
    plan, _ = WORLD.plan("SELECT a.k FROM air.a a LEFT JOIN sea.b b ON a.k = b.k WHERE b.n IS NULL AND b.n + 1 > 2")
    reasons = [why for _, why in plan.fragments[1].kept]
    assert len(reasons) == 2
    assert any("outer join" in why for why in reasons)
    assert any("fail" in why for why in reasons)

# ruff: noqa: E501 - one query a line reads better than a wrapped one
"""EXPLAIN: barriers are told as the nodes make them, pictures are as the golden files say, and nothing hidden is shown."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes.sql_world import COLUMNS, KEYS, ROWS, SUBJECT_KEY, Decide, decide, small_world, whole
from tidegate.client.explained import table
from tidegate.core.decision import ColumnRule, Constraints, Decision, Mask, ResourceDecision
from tidegate.sql.admit import admit
from tidegate.sql.barriers import CAUSES_MAX, EXPRESSION_CHARS_MAX, Barrier, barriers
from tidegate.sql.bind import bind
from tidegate.sql.explain import Cost, FragmentCost, explain, picture
from tidegate.sql.model import BoundQuery, FederatedPlan
from tidegate.sql.restrict import restrict

WORLD = small_world()
GOLDEN = Path(__file__).resolve().parents[2] / "golden"
PLAIN = {name: ColumnRule("plain") for name in COLUMNS}
FILTER = {"type": "field", "field": "s", "operator": "in", "value": ["JFK", "LGA"]}
FILTERED = ResourceDecision(True, FILTER, PLAIN, ROWS)
MASKED = ResourceDecision(True, {}, PLAIN | {"s": ColumnRule("masked", Mask("hash", {}))}, ROWS)
COUNTED = ResourceDecision(True, {}, PLAIN, Constraints("aggregate", 5, "p", ("count", "sum"), 500, False, 0, ()))
SMALL = decide({"air.a": FILTERED, "north.t": COUNTED, "south.t": COUNTED})
KEYS_TRAVEL = decide(
    {"air.a": FILTERED, "sea.b": ResourceDecision(True, {}, PLAIN, replace(ROWS, keys_may_go_to=("air",)))}
)


def planned(sql: str, policy: Decide = SMALL) -> tuple[FederatedPlan, Decision, BoundQuery]:
    plan, decision = WORLD.plan(sql, policy=policy)
    return plan, decision, WORLD.bind(sql)


def found(sql: str, policy: Decide = SMALL) -> dict[str, Barrier]:
    plan, decision, _ = planned(sql, policy)
    return dict(barriers(plan, decision, WORLD.schema))


# -- barriers -------------------------------------------------------------------------------------------------------

WHY = {
    "n + 1 > 3": ('"r0"."n" + 1', "arithmetic may overflow on a row that is held back"),
    "n > 3 AND (k < 5 OR n * 2 > 3)": ('"r0"."n" * 2', "arithmetic may overflow on a row that is held back"),
    "n // k > 1": ('"r0"."n" // "r0"."k"', "a division may fail on a row that is held back"),
    "CAST(s AS INTEGER) > 1": ('CAST("r0"."s" AS INTEGER)', "a cast may fail on a value that is held back"),
    "s LIKE s": ('"r0"."s" LIKE "r0"."s"', "a pattern that is no constant text may fail on a row that is held back"),
    "k IN (SELECT max(k) FROM air.a2)": (
        "a sub-query",
        "a sub-query is not proven to be safe on rows that are held back",
    ),
    "sqrt(n) > 2": ('sqrt("r0"."n")', "not proven to be safe on rows that are held back"),
}


@pytest.mark.parametrize("condition", WHY)
def test_barrier_names_the_innermost_expression_that_may_fail(condition: str) -> None:
    barrier = found(f"SELECT k FROM air.a WHERE {condition}")["f0"]
    assert "r0" in barrier.refs
    expression, why = WHY[condition]
    assert (expression.lower(), why) in [(item.expression.lower(), item.why) for item in barrier.causes]


def test_there_is_no_barrier_where_nothing_can_fail_or_where_all_rows_pass() -> None:
    assert found("SELECT k FROM air.a WHERE n > 3")["f0"] == Barrier(("r0",), ())
    assert found("SELECT k FROM air.a WHERE n + 1 > 3", whole)["f0"] == Barrier((), ())
    assert found("SELECT s FROM air.a WHERE n > 3", decide({"air.a": MASKED}))["f0"].refs == ("r0",)
    assert found("SELECT n FROM air.a WHERE n > 3", decide({"air.a": MASKED}))["f0"].refs == ()


def test_only_leaves_that_are_narrowed_are_behind_the_barrier_of_their_fragment() -> None:
    made = found("SELECT a.k FROM air.a a JOIN air.a2 b ON a.k = b.k WHERE b.n + 1 > 3")["f0"]
    assert made.refs == ("r0",)
    assert [item.expression for item in made.causes] == ['"r1"."n" + 1']


def test_causes_are_few_and_short() -> None:
    many = " AND ".join(f"n + {number} > 0" for number in range(CAUSES_MAX + 5))
    made = found(f"SELECT k FROM air.a WHERE {many}")["f0"]
    assert (len(made.causes), made.more) == (CAUSES_MAX, 5)
    long = "concat(" + ", ".join(["s"] * 100) + ")"
    (cause,) = found(f"SELECT k FROM air.a WHERE sqrt(length({long})) > 1")["f0"].causes
    assert len(cause.expression) <= EXPRESSION_CHARS_MAX + 4


CORPUS = [
    "SELECT k FROM air.a WHERE n > 3 AND s LIKE 'J%'",
    "SELECT k, s FROM air.a WHERE lower(s) = 'jfk' OR n IS NULL",
    "SELECT k, n / 2 FROM air.a",
    "SELECT s, count(*), sum(n) FROM air.a GROUP BY s HAVING count(*) > 1",
    "SELECT s, sum(n + 1) FROM air.a GROUP BY s",
    "SELECT a.k FROM air.a a JOIN sea.b b ON a.k = b.k WHERE a.n * b.n > 3",
    "SELECT a.k FROM air.a a JOIN air.a2 b ON a.k = b.k WHERE EXISTS (SELECT 1 FROM air.a2 c WHERE c.k = a.k)",
    "WITH q AS (SELECT k, n + 1 AS m FROM air.a) SELECT x.k FROM q x JOIN q y ON x.m = y.m",
    "SELECT k, row_number() OVER (ORDER BY n) FROM air.a",
    "SELECT CASE WHEN n > 1 THEN s END FROM air.a ORDER BY k LIMIT 3",
    "SELECT d, date_trunc('month', d) FROM air.a WHERE d > '2024-01-01'",
    "SELECT k FROM air.a UNION ALL SELECT n FROM air.a2",
    "SELECT a.k FROM air.a a, (VALUES (1), (2)) AS v(x) WHERE a.k = v.x",
    "SELECT c.s, count(*) FROM city.t2 t JOIN land.c c ON t.k = c.k GROUP BY c.s, c.k",
    "SELECT k, count(*) FROM north.t GROUP BY k",
    "SELECT CASE n WHEN k + 1 THEN s ELSE upper(s) || s END, {'a': n + 1, 'b': s}, [n * 2, k][1:2], (n, k) FROM air.a",
    "SELECT sum(n) FILTER (WHERE n - 1 > 2), quantile_cont(n, 0.5), count(DISTINCT n % 2), string_agg(s, ',' ORDER BY n + k) FROM air.a",
    "SELECT list_transform([n, k], x -> x + 1), d + INTERVAL 1 DAY, extract(year FROM d), -n, NOT (n + 1 > 2), s[1] FROM air.a",
    "SELECT sum(n + 1) OVER (PARTITION BY s ORDER BY k ROWS BETWEEN 1 PRECEDING AND CURRENT ROW), n = ANY (SELECT k FROM air.a2) FROM air.a",
    "SELECT k FROM air.a WHERE n BETWEEN k + 1 AND 5 AND s IN ('a', concat(s, 'b')) AND (n, k) IN (SELECT n, k FROM air.a2) AND TRY_CAST(s AS DATE) IS NULL",
    "SELECT rollup_key FROM (SELECT s AS rollup_key, grouping(s) FROM air.a GROUP BY ROLLUP (s)) WHERE coalesce(rollup_key, 'x') <> 'y'",
]


@pytest.mark.parametrize("policy", [SMALL, decide({"air.a": MASKED, "air.a2": FILTERED, "sea.b": MASKED}), whole])
@pytest.mark.parametrize("sql", CORPUS)
def test_what_is_told_is_what_a_node_does(sql: str, policy: Decide) -> None:
    plan, decision, _ = planned(sql, SMALL if "north" in sql or "city" in sql else policy)
    told = barriers(plan, decision, WORLD.schema)
    assert told.keys() == {item.id for item in plan.fragments}
    for fragment in plan.fragments:
        bound = bind(admit(fragment.sql.text), WORLD.schema, fragment.sql.parameters, fragment=True)
        made = restrict(bound, decision, KEYS, schema=WORLD.schema, subject_key=SUBJECT_KEY)
        barrier = told[fragment.id]
        assert set(barrier.refs) == set(made.views)
        assert bool(barrier.causes) == any("SECURE" in line for line in made.setup)


# -- pictures, JSON and tables ----------------------------------------------------------------------------------------


def measured(plan: FederatedPlan, **counts: tuple[int | None, int | None]) -> Cost:
    fragments = {
        item.id: FragmentCost(
            *counts.get(item.id, (None, None)),
            first_row_ms=1.25 + place,
            elapsed_ms=3.5 + place,
            rules=("row filter",) if item.member == "air" else (),
            keys=(("sea", "air.a.k", 11),) if item.reductions else (),
        )
        for place, item in enumerate(plan.fragments)
    }
    rooms = {"plan": 2.1, "decide": 0.9, "rewrite": 3.0, "record": 1.0, "fetch": 0.4, "join": 5.0, "deliver": 1.5}
    return Cost(fragments, 7, 1_432, 14.2, rooms)


PICTURES = {
    "analyze_join": "SELECT a.k, a.d, b.n FROM air.a a JOIN sea.b b ON a.k = b.k WHERE a.n < 20 AND a.n + 1 > 2 AND b.s = 'needle'",
    "analyze_counted": "SELECT c.s, c.k, count(*) FROM city.t2 t JOIN land.c c ON t.k = c.k GROUP BY c.s, c.k",
    "withheld": "SELECT a.k, a.d, b.n FROM air.a a JOIN sea.b b ON a.k = b.k WHERE a.n < 20 AND b.s = 'needle'",
    "barrier": "SELECT s, max(n / 2) FROM air.a WHERE n > 3 AND CAST(s AS INTEGER) > 7 GROUP BY s",
    "merged": "SELECT s, count(*) FROM air.a WHERE n > 3 GROUP BY s",
}


def drawn(name: str) -> tuple[FederatedPlan, Decision, BoundQuery, dict[str, Barrier], Cost | None]:
    plan, decision, bound = planned(PICTURES[name], KEYS_TRAVEL if name == "analyze_join" else SMALL)
    if name == "analyze_join":
        sizes = zip(plan.fragments, (40, 1_000), strict=True)
        plan = replace(plan, fragments=tuple(replace(item, rows_estimated=rows) for item, rows in sizes))
    cost = measured(plan, f0=(12, 345), f1=(1_234, 5_678)) if name == "analyze_join" else None
    if name == "analyze_counted":
        cost = measured(plan, f2=(24, 300))
    return plan, decision, bound, dict(barriers(plan, decision, WORLD.schema)), cost


@pytest.mark.parametrize("name", PICTURES)
def test_plan_is_drawn_as_the_golden_file_says(name: str) -> None:
    plan, decision, bound, behind, cost = drawn(name)
    shown = f"{PICTURES[name]}\n\n{picture(plan, decision, bound, barriers=behind, cost=cost)}\n"
    assert shown == (GOLDEN / f"explain_{name}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PICTURES)
def test_no_form_shows_a_text_of_the_caller_or_a_value_of_a_filter(name: str) -> None:
    plan, decision, bound, behind, cost = drawn(name)
    data = explain(plan, decision, bound, barriers=behind, cost=cost)
    forms = (json.dumps(data), picture(plan, decision, bound, barriers=behind, cost=cost), str(table(data).to_pylist()))
    for form in forms:
        assert not any(word in form for word in ("needle", "JFK", "LGA"))
        assert str(bytes(32).hex()) not in form


def test_table_holds_a_row_for_each_fragment_and_one_for_the_answer() -> None:
    plan, decision, bound, behind, cost = drawn("analyze_join")
    rows = table(explain(plan, decision, bound, barriers=behind, cost=cost)).to_pylist()
    assert [row["fragment"] for row in rows] == ["f0", "f1", "answer"]
    assert [(row["estimated rows"], row["rows"], row["bytes"], row["ms"]) for row in rows] == [
        (40, 12, 345, 3.5),
        (1_000, 1_234, 5_678, 4.5),
        (None, 7, 1_432, 14.2),
    ]
    assert rows[1]["reduced by"] is not None and "keys f0.c0 of" in rows[1]["reduced by"]
    assert rows[1]["keys received"] == "air.a.k: 11 of sea"
    plain = table(explain(plan, decision, bound))
    assert "rows" not in plain.column_names and plain.num_rows == 3


def test_counts_that_may_not_be_told_are_nowhere() -> None:
    plan, decision, bound, behind, cost = drawn("analyze_counted")
    data = explain(plan, decision, bound, barriers=behind, cost=cost)
    assert [item["measured"]["rows"] for item in data["fragments"]] == [None, None, 24]
    assert [row["rows"] for row in table(data).to_pylist()] == [None, None, 24, 7]
    assert picture(plan, decision, bound, barriers=behind, cost=cost).count("counts are not told") == 2

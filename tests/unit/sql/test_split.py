# ruff: noqa: E501 - one query a line reads better than a wrapped one
"""Split and EXPLAIN: what is asked of whom, and how it is shown."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes.sql_world import COLUMNS, ROWS, decide, small_world, whole
from tidegate.core.decision import ColumnRule, Constraints, Mask, ResourceDecision
from tidegate.core.errors import Code, PeerError, TidegateError
from tidegate.core.limits import ROWS_MAX
from tidegate.sql import explain, split

WORLD = small_world()
GOLDEN = Path(__file__).resolve().parents[2] / "golden"
PLAIN = {name: ColumnRule("plain") for name in COLUMNS}


def test_one_node_holds_every_leaf_and_is_asked_the_whole_query() -> None:
    plan, _ = WORLD.plan(
        "SELECT a.k, max(b.n) FROM air.a a JOIN air.a2 b ON a.k = b.k WHERE b.s = 'JFK' GROUP BY a.k LIMIT 3"
    )
    assert plan.final is None
    assert [(item.id, item.whole, dict(item.refs).keys()) for item in plan.fragments] == [("f0", True, {"r0", "r1"})]
    assert plan.fragments[0].sql.parameters == ("JFK",)


def test_no_dataset_needs_no_node() -> None:
    plan, _ = WORLD.plan("SELECT 1 AS one")
    assert plan.fragments == ()
    assert plan.final is not None
    assert plan.rows_max == ROWS_MAX


def test_same_rows_for_two_instances_are_fetched_once() -> None:
    plan, _ = WORLD.plan(
        "SELECT x.k FROM air.a x JOIN air.a y ON x.k = y.k JOIN sea.b b ON b.k = x.k WHERE x.n > 3 AND y.n > 3"
    )
    assert [item.scans for item in plan.fragments] == [2, 1]
    other, _ = WORLD.plan(
        "SELECT x.k FROM air.a x JOIN air.a y ON x.k = y.k JOIN sea.b b ON b.k = x.k WHERE x.n > 3 AND y.n > 4"
    )
    assert [item.scans for item in other.fragments] == [1, 1, 1]


def test_instances_under_different_rules_are_not_fetched_once() -> None:
    bound = WORLD.bind("SELECT x.k FROM air.a x JOIN air.a y ON x.k = y.k JOIN sea.b b ON b.k = x.k")
    decision = whole(bound)
    filtered = replace(
        decision.resources["r1"], row_filter={"type": "field", "field": "n", "operator": "lt", "value": 3}
    )
    plan = split.split(
        bound, replace(decision, resources={**decision.resources, "r1": filtered}), WORLD.placement, schema=WORLD.schema
    )
    assert len(plan.fragments) == 3


def test_dataset_without_a_node_is_an_error_that_names_the_department() -> None:
    bound = WORLD.bind("SELECT a.k FROM air.a a JOIN sea.b b ON a.k = b.k")
    placement = {name: place for name, place in WORLD.placement.items() if name.department != "sea"}
    with pytest.raises(PeerError) as caught:
        split.split(bound, whole(bound), placement, schema=WORLD.schema)
    assert caught.value.code is Code.FETCH_NODE_AWAY
    assert "sea" in caught.value.message


def test_limit_of_rows_is_the_strictest() -> None:
    rules = {
        name: ResourceDecision(True, {}, PLAIN, replace(ROWS, max_rows=count))
        for name, count in (("air.a", 70), ("sea.b", 50))
    }
    plan, _ = WORLD.plan("SELECT a.k FROM air.a a JOIN sea.b b ON a.k = b.k", policy=decide(rules))
    assert plan.rows_max == 50


def test_text_of_the_caller_never_stands_in_a_fragment() -> None:
    plan, _ = WORLD.plan(
        "SELECT a.k AS \"evil\"\" name\", b.s AS 'x' FROM air.a a JOIN sea.b b ON a.k = b.k WHERE b.s = 'evil text'"
    )
    assert plan.final is not None
    for text in (
        plan.final.text,
        *(item.sql.text for item in plan.fragments),
        *(line for item in plan.fragments for line in item.pushed),
    ):
        assert "evil" not in text


def chain(word: str, count: int) -> str:
    terms = f" {word} ".join(f"a.n <> {100 + number}" for number in range(count))
    return f"SELECT a.k FROM air.a a JOIN sea.b b ON a.k = b.k WHERE {terms}"


@pytest.mark.parametrize("word", ["AND", "OR"])
def test_long_chain_of_conditions_is_planned_and_a_longer_one_refused(word: str) -> None:
    plan, _ = WORLD.plan(chain(word, 80))
    assert len(plan.fragments[0].pushed) == (80 if word == "AND" else 1)
    with pytest.raises(TidegateError) as caught:
        WORLD.plan(chain(word, 4_000))
    assert caught.value.code is Code.PLAN_TOO_LARGE


# -- golden files: SQL in, plan out ---------------------------------------------------------------------------------

POLICY = decide(
    {
        "air.a": ResourceDecision(
            True,
            {"type": "field", "field": "s", "operator": "in", "value": ["JFK", "LGA"]},
            PLAIN | {"d": ColumnRule("masked", Mask("truncate_date", {"unit": "month"}))},
            ROWS,
        ),
        "north.t": ResourceDecision(
            True, {}, PLAIN, Constraints("aggregate", 5, "p", ("count", "sum"), 500, False, 0, ())
        ),
        "south.t": ResourceDecision(
            True, {}, PLAIN, Constraints("aggregate", 4, "p", ("count", "sum"), 500, False, 0, ())
        ),
    }
)
CASES = {
    "join": "SELECT a.k, a.d, b.n FROM air.a a LEFT JOIN sea.b b ON a.k = b.k AND b.n > 3 WHERE a.n < 20 AND b.s IS NULL AND a.n + 1 > 2",
    "whole": "SELECT s, count(*) AS c FROM air.a WHERE n > 3 GROUP BY s ORDER BY c DESC",
    "counted": "SELECT c.s, c.k, count(*) FROM city.t2 t JOIN land.c c ON t.k = c.k GROUP BY c.s, c.k",
}


@pytest.mark.parametrize("name", CASES)
def test_plan_is_shown_as_the_golden_file_says(name: str) -> None:
    bound = WORLD.bind(CASES[name])
    decision = POLICY(bound)
    plan = split.split(bound, decision, WORLD.placement, schema=WORLD.schema)
    shown = f"{CASES[name]}\n\n{explain.picture(plan, decision, bound)}\n"
    assert shown == (GOLDEN / f"explain_{name}.txt").read_text(encoding="utf-8")
    assert json.loads(json.dumps(explain.explain(plan, decision, bound)))["columns"] == list(plan.output_names)


def test_explain_shows_no_value_of_a_filter_or_of_the_caller() -> None:
    bound = WORLD.bind("SELECT a.k FROM air.a a JOIN sea.b b ON a.k = b.k WHERE b.s = 'needle'")
    decision = POLICY(bound)
    shown = json.dumps(
        explain.explain(split.split(bound, decision, WORLD.placement, schema=WORLD.schema), decision, bound)
    )
    assert "needle" not in shown
    assert "JFK" not in shown
    assert "the filter on s" in shown

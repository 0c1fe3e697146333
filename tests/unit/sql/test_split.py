# ruff: noqa: E501 - one query a line reads better than a wrapped one
"""Split and EXPLAIN: what is asked of whom, and how it is shown."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes.sql_world import COLUMNS, ROWS, Decide, Table, World, decide, small_world, table, whole
from tidegate.core.decision import ColumnRule, Constraints, Mask, ResourceDecision
from tidegate.core.errors import Code, PeerError, TidegateError
from tidegate.core.limits import ROWS_MAX
from tidegate.sql import explain, split
from tidegate.sql.passes import Passes

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
    mentions = "SELECT x.k FROM air.a x LEFT JOIN sea.b b ON b.k = x.k LEFT JOIN air.a y ON y.k = b.k AND y.n > 3 WHERE x.n > 3"
    assert sorted(item.scans for item in WORLD.plan(mentions)[0].fragments) == [1, 2]
    other = mentions.replace("y.n > 3", "y.n > 4")
    assert [item.scans for item in WORLD.plan(other)[0].fragments] == [1, 1, 1]


def test_leaves_of_one_node_in_one_join_go_there_together_with_their_conditions() -> None:
    plan, _ = WORLD.plan(
        "SELECT x.m FROM air.a x JOIN air.a y ON x.k = y.k JOIN sea.b b ON b.k = x.k WHERE x.n > 3 AND y.s = 'JFK'"
    )
    joined = next(item for item in plan.fragments if item.member == "air")
    assert len(plan.fragments) == 2
    assert joined.refs.keys() == {"r0", "r1"}
    assert len(joined.columns) == 2, "what only its own conditions read does not travel"
    assert plan.final is not None and "JFK" not in plan.final.parameters


def test_sub_query_of_the_same_node_goes_there_with_what_it_is_correlated_with() -> None:
    plan, _ = WORLD.plan(
        "SELECT o.k FROM air.a o JOIN sea.b b ON b.k = o.k WHERE NOT EXISTS "
        "(SELECT 1 FROM air.a2 y WHERE y.k = o.k AND y.n > o.n)"
    )
    assert {item.member: set(item.refs) for item in plan.fragments} == {"air": {"r0", "r2"}, "sea": {"r1"}}
    assert plan.final is not None and "EXISTS" not in plan.final.text


KEYS_TO_ALL = replace(ROWS, keys_may_go_to=("*",))


def keys_permitted(*names: str) -> Decide:
    return decide({name: ResourceDecision(True, {}, PLAIN, KEYS_TO_ALL) for name in names})


def test_keys_travel_where_policy_permits_and_else_the_plan_says_so() -> None:
    query = "SELECT a.m FROM air.big a JOIN sea.b b ON a.k = b.k WHERE b.n = 3"
    world = World(
        {
            "air.big": statistics(table("air.big", COLUMNS, ()), 5_000_000, 1_000_000),
            "sea.b": statistics(table("sea.b", COLUMNS, ()), 20_000, 10_000),
        }
    )
    plan, _ = world.plan(query, policy=keys_permitted("sea.b"))
    assert [item.member for item in plan.fragments] == ["sea", "air"]
    assert [(item.ref, item.column) for item in plan.fragments[1].reductions] == [("r0", "k")]
    assert not plan.withheld
    refused, decision = world.plan(query)
    assert not any(item.reductions for item in refused.fragments)
    assert refused.withheld == ("keys of sea.b may not go to air (keys_may_go_to)",)
    assert "withheld: keys of sea.b" in explain.picture(refused, decision, world.bind(query))
    off = split.split(
        world.bind(query),
        keys_permitted("sea.b")(world.bind(query)),
        world.placement,
        schema=world.schema,
        passes=Passes(reduction=False),
    )
    assert not any(item.reductions for item in off.fragments)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT a.m FROM air.big a LEFT JOIN sea.b b ON a.k = b.k AND b.n = 3",
        "SELECT a.m FROM air.big a ANTI JOIN sea.b b ON a.k = b.k AND b.n = 3",
        "SELECT a.m FROM air.big a WHERE a.k NOT IN (SELECT b.k FROM sea.b b WHERE b.n = 3)",
        "SELECT a.m FROM air.big a WHERE NOT EXISTS (SELECT 1 FROM sea.b b WHERE b.k = a.k AND b.n = 3)",
        "SELECT a.m FROM air.big a FULL JOIN sea.b b ON a.k = b.k",
        "SELECT a.m FROM air.big a JOIN sea.b b ON a.k = b.k OR b.n = 3",
        "SELECT a.m FROM air.big a JOIN sea.b b ON a.k IS NOT DISTINCT FROM b.k",
        "SELECT a.m FROM (SELECT * FROM air.big ORDER BY n LIMIT 5) a JOIN sea.b b ON a.k = b.k AND b.n = 3",
    ],
)
def test_preserved_side_is_never_reduced(query: str) -> None:
    world = World(
        {
            "air.big": statistics(table("air.big", COLUMNS, ()), 5_000_000, 1_000_000),
            "sea.b": statistics(table("sea.b", COLUMNS, ()), 20_000, 10_000),
        }
    )
    plan, _ = world.plan(query, policy=keys_permitted("sea.b", "air.big"))
    assert not [item for item in plan.fragments if item.member == "air" and item.reductions]


def statistics(item: Table, rows: int, distinct: int) -> Table:
    columns = tuple(replace(column, distinct=distinct) for column in item.dataset.columns)
    return replace(item, dataset=replace(item.dataset, rows=rows, columns=columns))


def test_instances_under_different_rules_are_not_fetched_once() -> None:
    bound = WORLD.bind("SELECT x.k FROM air.a x LEFT JOIN sea.b b ON b.k = x.k LEFT JOIN air.a y ON y.k = b.k")
    decision = whole(bound)
    filtered = replace(
        decision.resources["r2"], row_filter={"type": "field", "field": "n", "operator": "lt", "value": 3}
    )
    plan = split.split(
        bound, replace(decision, resources={**decision.resources, "r2": filtered}), WORLD.placement, schema=WORLD.schema
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

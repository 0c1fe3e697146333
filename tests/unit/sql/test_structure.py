# ruff: noqa: E501 - one query a line reads better than a wrapped one
"""Structure: refusals that name their reason; mode aggregate against every bypass that policy.md lists."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.fakes.sql_world import COLUMNS, ROWS, Decide, World, comparable, decide, small_world, table
from tidegate.core.decision import ColumnRule, Constraints, Mask, ResourceDecision
from tidegate.core.errors import Code, Refused
from tidegate.sql import structure

WORLD = small_world()
PLAIN = {name: ColumnRule("plain") for name in COLUMNS}
AGGREGATE = Constraints("aggregate", 3, "p", ("count", "sum", "avg"), 1_000, False, 0, ())


def resource(constraints: Constraints = ROWS, **columns: ColumnRule) -> ResourceDecision:
    return ResourceDecision(True, {}, PLAIN | columns, constraints)


def reason(sql: str, policy: Decide) -> tuple[Code, str]:
    """Give the code and the reason of the refusal."""
    with pytest.raises(Refused) as caught:
        WORLD.plan(sql, policy=policy)
    assert caught.value.reasons, "a refusal without a reason"
    return caught.value.code, caught.value.reasons[-1].code


def test_denied_column_refuses_and_is_named() -> None:
    policy = decide({"air.a": resource(s=ColumnRule("deny"))})
    with pytest.raises(Refused) as caught:
        WORLD.plan("SELECT k FROM air.a WHERE s = 'JFK'", policy=policy)
    assert caught.value.code is Code.POLICY_REFUSED
    assert "air.a.s" in caught.value.reasons[-1].text
    WORLD.plan("SELECT k FROM (SELECT * FROM air.a) WHERE n > 3", policy=policy)


def test_column_that_the_answer_does_not_name_is_denied() -> None:
    policy = decide({"air.a": ResourceDecision(True, {}, {"k": ColumnRule("plain")}, ROWS)})
    assert reason("SELECT k, n FROM air.a", policy) == (Code.POLICY_REFUSED, "column_denied")


def test_denied_dataset_and_denied_decision_refuse() -> None:
    bound = WORLD.bind("SELECT k FROM air.a")
    allowed = decide({"air.a": resource()})(bound)
    denied = decide({"air.a": replace(resource(), allow=False)})(bound)
    for decision in (denied, replace(allowed, allow=False), replace(allowed, resources={})):
        with pytest.raises(Refused) as caught:
            structure.check(bound, decision, schema=WORLD.schema)
        assert caught.value.code is Code.POLICY_REFUSED


@pytest.mark.parametrize(
    ("condition", "compared"),
    [
        ("a.m = b.m", True),
        ("coalesce(a.m, 0) = b.m", True),
        ("a.m = (SELECT max(x.m) FROM sea.b x)", True),
        ("a.k = b.k AND a.m * 2 > b.m", False),
        ("a.k = b.k AND a.m * a.n > (SELECT sum(x.m * x.n) * 0.1 FROM sea.b x)", False),
        ("a.k = b.k AND EXISTS (SELECT 1 FROM (SELECT m - 1 AS less FROM sea.b) x WHERE x.less < a.m)", False),
    ],
)
def test_what_arithmetic_makes_of_a_masked_number_is_compared_as_a_number(condition: str, compared: bool) -> None:
    policy = decide({"air.a": resource(m=ColumnRule("masked", Mask("bucket", {"width": 2})))})
    sql = f"SELECT a.k FROM air.a a JOIN sea.b b ON {condition}"
    if compared:
        assert reason(sql, policy) == (Code.POLICY_STRUCTURE, "masked_join")
    else:
        WORLD.run(sql, policy=policy)


@pytest.mark.parametrize("mode", ["match", "aggregate_at_home", "closed"])
def test_mode_that_is_not_built_refuses(mode: Any) -> None:
    code, _ = reason("SELECT count(*) FROM air.a", decide({"air.a": resource(replace(ROWS, mode=mode))}))
    assert code is (Code.POLICY_REFUSED if mode == "closed" else Code.POLICY_STRUCTURE)


def test_key_lookup_only_refuses() -> None:
    assert (
        reason("SELECT k FROM air.a", decide({"air.a": resource(replace(ROWS, key_lookup_only=True))}))[1]
        == "mode_not_offered"
    )


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT k FROM air.a WHERE s = 'JFK'",
        "SELECT a.k FROM air.a a JOIN sea.b b ON a.s = b.s",
        "SELECT k FROM air.a ORDER BY s",
        "SELECT k FROM (SELECT k, s AS z FROM air.a) x WHERE x.z LIKE 'J%'",
        "WITH q AS (SELECT * FROM air.a) SELECT k FROM q WHERE upper(s) = 'JFK'",
        "SELECT k FROM air.a GROUP BY k HAVING max(s) = 'JFK'",
        "SELECT count(*) FILTER (WHERE s = 'JFK') FROM air.a",
        "SELECT rank() OVER (ORDER BY s) FROM air.a",
    ],
)
def test_masked_column_that_no_predicate_may_read_refuses(sql: str) -> None:
    policy = decide({"air.a": resource(s=ColumnRule("masked", Mask("redact", {}), in_predicate_denied=True))})
    assert reason(sql, policy) == (Code.POLICY_STRUCTURE, "masked_in_predicate")
    WORLD.plan("SELECT s, k FROM air.a", policy=policy)


def hashed(key: str) -> ResourceDecision:
    return resource(s=ColumnRule("masked", Mask("hash", {"key": key})))


ACROSS = [
    "SELECT a.k FROM air.a a JOIN sea.b b ON a.s = b.s",
    "SELECT a.k FROM air.a a, sea.b b WHERE b.s = a.s",
    "SELECT k FROM air.a WHERE s IN (SELECT s FROM sea.b)",
    "SELECT k FROM air.a a WHERE EXISTS (SELECT 1 FROM sea.b b WHERE b.s = a.s)",
    "SELECT k FROM air.a WHERE s = (SELECT max(s) FROM sea.b)",
    "SELECT x.k FROM (SELECT k, s AS z FROM air.a) x JOIN (SELECT s AS y FROM sea.b) w ON x.z = w.y",
    "SELECT s FROM air.a INTERSECT SELECT s FROM sea.b",
    "SELECT s FROM air.a EXCEPT SELECT s FROM sea.b",
    "SELECT k FROM air.a a NATURAL JOIN (SELECT s FROM sea.b) x",
]


@pytest.mark.parametrize("sql", ACROSS)
def test_masked_columns_compare_across_departments_only_under_one_shared_key(sql: str) -> None:
    for ours, theirs in (
        (hashed("node"), hashed("node")),
        (hashed("recipient"), hashed("recipient")),
        (hashed("shared:1"), hashed("shared:2")),
        (hashed("shared:1"), resource()),
        (resource(), hashed("shared:1")),
        (hashed("shared:1"), resource(s=ColumnRule("masked", Mask("pseudonym", {"key": "shared:1"})))),
        (resource(s=ColumnRule("masked", Mask("redact", {}))), resource(s=ColumnRule("masked", Mask("redact", {})))),
    ):
        assert reason(sql, decide({"air.a": ours, "sea.b": theirs})) == (Code.POLICY_STRUCTURE, "masked_join")
    WORLD.plan(sql, policy=decide({"air.a": hashed("shared:1"), "sea.b": hashed("shared:1")}))


def test_dataset_joins_itself_on_its_own_mask() -> None:
    sql = "SELECT x.k FROM air.a x JOIN air.a y ON x.s = y.s JOIN sea.b b ON b.k = x.k"
    WORLD.plan(sql, policy=decide({"air.a": hashed("node")}))


# -- mode aggregate -------------------------------------------------------------------------------------------------

COUNTED = decide({"air.a": resource(AGGREGATE)})

BYPASSES = {
    "SELECT k, n FROM air.a": "aggregate_output",
    "SELECT s, count(*) FILTER (WHERE p = 3) FROM air.a GROUP BY s": "aggregate_filter",
    "SELECT s, sum(CASE WHEN p = 3 THEN n ELSE 0 END) FROM air.a GROUP BY s": "aggregate_measure",
    "SELECT s, sum(if(p = 3, n, 0)) FROM air.a GROUP BY s": "aggregate_measure",
    "SELECT s, sum(n * (p - 3)) FROM air.a GROUP BY s": "aggregate_measure",
    "SELECT s, sum(nullif(n, 3)) FROM air.a GROUP BY s": "aggregate_measure",
    "SELECT s, count(n > 5 OR NULL) FROM air.a GROUP BY s": "aggregate_measure",
    "SELECT s, sum(1 / (n - 5)) FROM air.a GROUP BY s": "aggregate_measure",
    "SELECT max(max(n)) OVER () FROM air.a GROUP BY s": "aggregate_window",
    "SELECT n, sum(n) OVER (PARTITION BY s) FROM air.a": "aggregate_window",
    "SELECT s FROM air.a GROUP BY s QUALIFY rank() OVER (ORDER BY s) = 1": "aggregate_window",
    "SELECT s, list(n) FROM air.a GROUP BY s": "aggregate_function",
    "SELECT s, max(n) FROM air.a GROUP BY s": "aggregate_function",
    "SELECT s, string_agg(s) FROM air.a GROUP BY s": "aggregate_function",
    "SELECT s, any_value(n) FROM air.a GROUP BY s": "aggregate_function",
    "SELECT s, sum(DISTINCT n) FROM air.a GROUP BY s": "aggregate_distinct",
    "SELECT (SELECT sum(n) FROM air.a) - (SELECT sum(n) FROM air.a WHERE p <> 3)": "aggregate_subquery",
    "SELECT sum(n) - sum(k) FROM air.a": "aggregate_output",
    "SELECT p, count(*) FROM air.a GROUP BY p": "aggregate_subject_key",
    "SELECT q, count(*) FROM (SELECT p AS q FROM air.a) x GROUP BY q": "aggregate_subject_key",
    "SELECT p % 7, count(*) FROM air.a GROUP BY p % 7": "aggregate_key",
    "SELECT CASE WHEN p = 3 THEN 1 ELSE 0 END, count(*) FROM air.a GROUP BY ALL": "aggregate_key",
    "SELECT CAST(s AS INTEGER), count(*) FROM air.a GROUP BY ALL": "aggregate_key",
    "SELECT s, count(*) FROM air.a GROUP BY ROLLUP (s)": "aggregate_rollup",
    "SELECT s, count(*) FROM air.a GROUP BY GROUPING SETS ((s), ())": "aggregate_rollup",
    "SELECT s, count(*) FROM air.a GROUP BY s HAVING count(*) = 3": "aggregate_having",
    "SELECT count(*) FROM air.a UNION ALL SELECT count(*) FROM air.a WHERE p <> 3": "aggregate_set_operation",
    "SELECT s, count(*) FROM air.a GROUP BY s EXCEPT SELECT s, count(*) FROM air.a WHERE p <> 3 GROUP BY s": "aggregate_set_operation",
    "SELECT s, count(*) FROM air.a GROUP BY s ORDER BY 2 LIMIT 1": "aggregate_limit",
    "SELECT s, count(*) FROM air.a GROUP BY s OFFSET 1": "aggregate_limit",
    "SELECT DISTINCT count(*) FROM air.a GROUP BY s": "aggregate_distinct",
    "SELECT count(*) FROM (SELECT * FROM air.a LIMIT 1) x": "aggregate_limit",
    "SELECT count(*) FROM (SELECT DISTINCT p FROM air.a) x": "aggregate_distinct",
    "SELECT avg(c) FROM (SELECT p, count(*) AS c FROM air.a GROUP BY p) x": "aggregate_nested",
    "SELECT sum(v) FROM (SELECT CASE WHEN p = 3 THEN n ELSE 0 END AS v FROM air.a) x": "aggregate_expression",
    "WITH q AS (SELECT n + 0 AS v FROM air.a) SELECT sum(v) FROM q": "aggregate_expression",
    "SELECT count(*) FROM air.a WHERE CAST(s AS INTEGER) > 3": "aggregate_condition",
    "SELECT count(*) FROM air.a WHERE 1 / (n - 5) > 0": "aggregate_condition",
    "SELECT count(*) FROM air.a WHERE s = 5": "aggregate_condition",
    "SELECT count(*) FROM air.a WHERE n > (SELECT avg(n) FROM sea.b)": "aggregate_condition",
    "SELECT count(*) FROM air.a a WHERE EXISTS (SELECT 1 FROM sea.b b WHERE b.k = a.k)": "aggregate_subquery",
    "SELECT count(*) FROM sea.b WHERE k IN (SELECT k FROM air.a WHERE p = 3)": "aggregate_condition",
    "SELECT b.s, count(*), sum(a.n) FROM sea.b b LEFT JOIN air.a a ON a.k = b.k AND a.p = 3 GROUP BY b.s": "aggregate_outer_join",
    "SELECT count(*) FROM sea.b b SEMI JOIN air.a a ON a.k = b.k AND a.p = 3": "aggregate_outer_join",
    "SELECT a.s, sum(v.w) FROM air.a a JOIN (VALUES (1, 1), (2, 10)) v(p, w) ON a.p = v.p GROUP BY a.s": "aggregate_inline_data",
    "SELECT a.s, count(*) FROM air.a a JOIN (SELECT 3 AS p) v ON a.p = v.p GROUP BY a.s": "aggregate_inline_data",
    "SELECT a.s, count(*) FROM air.a a, (SELECT 3 AS p UNION ALL SELECT 3) v GROUP BY a.s": "aggregate_inline_data",
    "SELECT a.s, sum(b.n) FROM air.a a JOIN sea.b b ON a.p = b.p GROUP BY a.s": "aggregate_measure",
    "SELECT s, count(*) FROM air.a GROUP BY s ORDER BY max(n)": "aggregate_function",
    "SELECT s, 1 / sum(n) FROM air.a GROUP BY s": "aggregate_output",
}


@pytest.mark.parametrize("sql", BYPASSES, ids=lambda item: item[:70])
def test_bypass_is_refused(sql: str) -> None:
    code, found = reason(sql, COUNTED)
    assert code is Code.POLICY_STRUCTURE
    assert found == BYPASSES[sql]


def people_world() -> World:
    """Make patients in three parts with 40 persons; one of them has 30 rows; and regions at another department."""
    columns = {"p": "BIGINT", "region": "VARCHAR", "cost": "INTEGER", "d": "DATE"}
    rows = (
        [(i, f"r{i % 4}", i * 10, None) for i in range(36)]
        + [(100, "lonely", 7, None)] * 30
        + [(None, "nobody", 5, None)] * 9
    )
    rows += [(i, "shared", 1, None) for i in (1, 2, 3)]
    tables = {
        "east.patients": table("east.patients", columns, rows[0::3], "p"),
        "west.patients": table("west.patients", columns, rows[1::3], "p"),
        "north.patients": table("north.patients", columns, rows[2::3], "p"),
        "land.regions": table(
            "land.regions",
            {"region": "VARCHAR", "name": "VARCHAR"},
            [(f"r{i}", f"name {i % 2}") for i in range(4)] * 5 + [("lonely", "x")] * 50,
        ),
        "home.patients": table("home.patients", columns, rows, "p"),
    }
    return World(tables, {"city.patients": ("east.patients", "west.patients", "north.patients")})


PEOPLE = people_world()
NINE = Constraints("aggregate", 9, "p", ("count", "sum", "avg"), 1_000, False, 0, ())
_RULES = {name: ColumnRule("plain") for name in ("p", "region", "cost", "d")}
PROTECTED = decide(
    {f"{place}.patients": ResourceDecision(True, {}, _RULES, NINE) for place in ("east", "west", "north", "home")}
)
BIG = [(f"r{i}", 9, 9) for i in range(4)]


@pytest.mark.parametrize("name", ["home.patients", "city.patients"])
def test_group_is_shown_only_with_enough_distinct_subjects_merged_over_parts(name: str) -> None:
    answer = PEOPLE.run(f"SELECT region, count(*), count(DISTINCT p) FROM {name} GROUP BY region", policy=PROTECTED)
    assert comparable(answer.rows) == comparable(BIG)
    assert answer.names == ("region", "count_star()", "count(DISTINCT p)")
    assert answer.suppressed == 3


@pytest.mark.parametrize("name", ["home.patients", "city.patients"])
def test_join_fan_out_does_not_make_one_person_many(name: str) -> None:
    sql = f"SELECT r.name, t.region, count(*) FROM {name} t JOIN land.regions r ON t.region = r.region GROUP BY ALL"
    shown = [("name 0", "r0", 45), ("name 0", "r2", 45), ("name 1", "r1", 45), ("name 1", "r3", 45)]
    assert comparable(PEOPLE.run(sql, policy=PROTECTED).rows) == comparable(shown)
    assert PEOPLE.run(sql + " ORDER BY 2 DESC", policy=PROTECTED).rows == sorted(shown, key=lambda row: row[1])[::-1]


def test_subselects_and_ctes_that_hand_rows_on_are_admitted() -> None:
    for sql in (
        "WITH q AS (SELECT * FROM city.patients WHERE cost >= 0) SELECT region, count(*), count(cost) FROM q GROUP BY region",
        "SELECT x.g, count(*), count(DISTINCT x.q) FROM (SELECT region AS g, p AS q FROM city.patients) x GROUP BY x.g",
    ):
        assert comparable(PEOPLE.run(sql, policy=PROTECTED).rows)[:4] == comparable(BIG)[:4], sql


def test_union_of_different_datasets_counts_each_of_them() -> None:
    parts = " UNION ALL ".join(f"SELECT region AS g FROM {place}.patients" for place in ("east", "west", "north"))
    answer = PEOPLE.run(f"SELECT g, count(*) FROM ({parts}) GROUP BY g", policy=PROTECTED)
    assert answer.rows == []
    assert len(answer.plan.floors) == 3
    assert len(PEOPLE.run(f"SELECT count(*) FROM ({parts})", policy=PROTECTED).rows) == 1


def test_dataset_joined_with_itself_counts_each_instance() -> None:
    sql = "SELECT a.region, count(*) FROM city.patients a JOIN home.patients b ON a.region = b.region AND b.p = 100 GROUP BY a.region"
    assert PEOPLE.run(sql, policy=PROTECTED).rows == []


def test_total_over_too_few_is_suppressed_and_an_empty_one_too() -> None:
    for name in ("home.patients", "city.patients"):
        assert PEOPLE.run(f"SELECT sum(cost) FROM {name} WHERE p = 3", policy=PROTECTED).rows == []
        assert PEOPLE.run(f"SELECT count(*) FROM {name} WHERE p = 12345", policy=PROTECTED).rows == []
        assert len(PEOPLE.run(f"SELECT sum(cost) FROM {name}", policy=PROTECTED).rows) == 1


def test_strictest_minimum_of_the_parts_holds() -> None:
    strict = replace(NINE, min_group_size=10)
    rules = {
        f"{place}.patients": ResourceDecision(True, {}, _RULES, strict if place == "west" else NINE)
        for place in ("east", "west", "north")
    }
    assert PEOPLE.run("SELECT region, count(*) FROM city.patients GROUP BY region", policy=decide(rules)).rows == []


def test_subject_travels_as_a_pseudonym() -> None:
    plan, decision = PEOPLE.plan("SELECT region, count(*) FROM city.patients GROUP BY region", policy=PROTECTED)
    data, _ = PEOPLE.ask(plan.fragments[0], decision)
    subjects = {
        value
        for name in data.column_names
        for value in data.column(name).to_pylist()
        if isinstance(value, str) and len(value) == 64
    }
    assert len(subjects) >= 12
    assert not any(isinstance(value, int) for name in data.column_names for value in data.column(name).to_pylist())

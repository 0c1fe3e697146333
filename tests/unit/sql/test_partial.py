# ruff: noqa: E501 - one query a line reads better than a wrapped one
"""Partial aggregation: the divided query gives what the whole one gives, to the type, wherever the pass applies."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import pytest
from sqlglot import exp

from tests.fakes.branches import apart, check_tree, locally, same, with_statistics
from tests.fakes.sql_world import ROWS, World, decide, table, whole
from tidegate.core.decision import ColumnRule, Constraints, Decision, Mask, ResourceDecision
from tidegate.sql import partial, shards, states
from tidegate.sql.model import BoundQuery
from tidegate.sql.nodes import AggregateCall
from tidegate.sql.pruning import prune

COLUMNS = {
    "k": "INTEGER",
    "s": "VARCHAR",
    "n": "INTEGER",
    "g": "BIGINT",
    "h": "HUGEINT",
    "m": "DECIMAL(12,2)",
    "w": "DECIMAL(18,6)",
    "x": "DOUBLE",
    "f": "FLOAT",
    "e": "DOUBLE",
    "d": "DATE",
    "t": "TIMESTAMP",
    "b": "BOOLEAN",
    "l": "INTEGER[]",
    "u": "UBIGINT",
}
_FLOATS = (0.5, -0.0, 0.0, float("nan"), None, 7.0, -3.25, float("inf"))
_TEXTS = ("a", "B", "", None, "ä", "b", "a ")


def rows(count: int, seed: int) -> list[tuple[Any, ...]]:
    """Make rows with NULLs, NaN, infinity, negative zero, numbers near the ends of their types, and an offset of 1e8."""
    made = []
    for i in range(count):
        j = i * 7 + seed
        made.append(
            (
                None if j % 11 == 3 else j % 4,
                _TEXTS[j % 7],
                None if j % 13 == 5 else (j * 5) % 40 - 11,
                None if j % 9 == 1 else (2**62 if j % 5 == 0 else -(2**40) * (j % 3)),
                j,
                None if j % 6 == 2 else Decimal(j * 37 % 1000) / 100,
                Decimal(j * 911 % 100000) / 1000000,
                _FLOATS[j % 8],
                None if j % 8 == 6 else (j % 9) / 4,
                1e8 + j % 3,
                None if j % 10 == 7 else date(2024, 1, 1) + timedelta(days=(j * 3) % 200),
                datetime(2024, 1, 1) + timedelta(hours=j * 11),
                (True, False, None)[j % 3],
                [j % 2],
                j % 5,
            )
        )
    return made


PARTS = {
    "north.t": rows(40, 1),
    "south.t": [],
    "east.t": [(1, *[None] * (len(COLUMNS) - 1)), (None, "a", *[None] * (len(COLUMNS) - 2))],
    "west.t": rows(17, 23),
    "mid.t": rows(9, 5),
}
OTHER = {**COLUMNS, "n": "BIGINT", "m": "DECIMAL(12,3)", "s": "INTEGER"}
WORLD = World(
    {
        **{name: table(name, COLUMNS, items, "g") for name, items in PARTS.items()},
        "north.o": table("north.o", OTHER, [(*row[:1], 5, *row[2:]) for row in rows(6, 2)], "g"),
    },
    {"city.t5": tuple(PARTS), "city.t2": ("north.t", "west.t"), "city.e2": ("south.t", "east.t"), "city.mixed": ("north.o", "west.t")},
)  # fmt: skip


def divided(sql: str, policy: Callable[[BoundQuery], Decision] = whole) -> tuple[BoundQuery, BoundQuery, Decision]:
    """Bind a query, and divide it."""
    bound = prune(WORLD.bind(sql), WORLD.schema)
    decision = policy(bound)
    return bound, partial.partial_aggregates(bound, decision, WORLD.schema, WORLD.placement), decision


def equal(sql: str, *, ordered: bool = False) -> tuple[BoundQuery, tuple[int, ...]]:
    """Check a query whole and divided, on one engine and over nodes; give the divided tree and what the fragments sent."""
    bound, made, decision = divided(sql)
    assert made is not bound, f"not divided: {sql}"
    check_tree(bound, made)
    expected = locally(WORLD, bound)
    assert same(expected, locally(WORLD, made), ordered=ordered), sql
    answer, sent = apart(WORLD, made, decision)
    assert same(expected, answer, ordered=ordered), f"{sql}\n{expected}\n{answer}"
    return made, sent


AGGREGATES = (
    "count(*)", "count()", "count(n)", "count_if(b)", "countif(n > 3)", "count(DISTINCT n)", "count(DISTINCT s)",
    "count(DISTINCT x)", "count(DISTINCT l)", "sum(n)", "sum(g)", "sum(u)", "sum(m)", "sum(w)", "sum(f)", "sum(b)", "sum(n * 2)",
    "sum(m * (1 - w))", "sum(CASE WHEN b THEN 1 ELSE 0 END)", "sum(CASE WHEN b THEN m ELSE 0 END)", "sum(DISTINCT n)",
    "avg(DISTINCT m)", "avg(n)", "avg(g)", "avg(m)", "avg(w)", "avg(f)", "avg(m * w)", "avg(n + 1)", "mean(n)", "min(n)", "max(g)",
    "min(s)", "max(s)", "min(x)", "max(x)", "min(d)", "max(t)", "min(m)", "max(b)", "min(l)", "max(h)", "min(lower(s))", "max(DISTINCT n)",
    "bool_and(b)", "bool_or(n > 3)", "bit_and(n)", "bit_or(n)", "bit_xor(g)", "var_pop(n)", "var_samp(n)", "variance(m)",
    "stddev_pop(f)", "stddev_samp(n)", "stddev(e)", "var_pop(e)", "var_samp(e)", "stddev(x)", "stddev(n * 1.5)",
    "sum(n) FILTER (WHERE b)", "avg(m) FILTER (WHERE n > 5)", "count(*) FILTER (WHERE s = 'a')", "stddev(n) FILTER (WHERE b IS NULL)",
    "max(s) FILTER (WHERE m > 2)", "sum(n) / count(*)", "sum(n) % 7", "typeof(sum(n))", "typeof(avg(m))", "sum(m) - min(m)",
    "coalesce(sum(n), -1)", "sum(length(s))", "sum(year(d))", "avg(extract(month FROM d))", "max(CASE WHEN b THEN s END)",
)  # fmt: skip
KEYS = (
    "s", "k", "b", "d", "m", "x", "n // 10", "lower(s)", "year(d)", "date_trunc('month', t)", "CASE WHEN n > 5 THEN 'high' ELSE 'low' END",
    "s || '!'", "l", "1", "k % 2", "n > 3", "CAST(k AS VARCHAR)", "h",
)  # fmt: skip
FROM = (
    "city.t5", "city.t5", "city.t2", "city.e2", "(SELECT * FROM city.t5) q", "(SELECT * FROM city.t5 WHERE n IS NULL OR n > -5) q",
    "(SELECT * FROM north.t UNION ALL SELECT * FROM west.t WHERE b UNION ALL SELECT * FROM east.t) q",
    "(SELECT * REPLACE (n + 1 AS n) FROM (SELECT * FROM north.t UNION ALL SELECT * FROM mid.t) p WHERE s <> 'a') q",
)  # fmt: skip
WHERE = (
    "",
    "",
    " WHERE n > 3",
    " WHERE b OR m > 2",
    " WHERE s LIKE 'a%' AND n < 20",
    " WHERE n > 1000",
    " WHERE x > 0.1",
    " WHERE d IS NULL",
)


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_each_aggregate_is_the_same_divided(aggregate: str) -> None:
    for rest in (" FROM city.t5", " FROM city.e2", " FROM city.t5 WHERE n > 1000", " FROM city.t5 WHERE n > 3"):
        equal(f"SELECT {aggregate} AS v{rest}")
    equal(f"SELECT k, s, {aggregate} AS v FROM city.t5 GROUP BY k, s")


@pytest.mark.parametrize("key", KEYS)
def test_each_kind_of_key_is_the_same_divided(key: str) -> None:
    equal(f"SELECT {key} AS v, count(*), sum(n) FROM city.t5 GROUP BY {key if key != '1' else 'k, 1 + 0'}")
    if key != "1":
        equal(f"SELECT DISTINCT {key} AS v FROM city.t5")


def generated(seed: int) -> str:
    """Make one query."""
    chance = random.Random(seed)
    keys = chance.sample([key for key in KEYS if key != "1"], chance.choice((0, 1, 1, 2)))
    chosen = chance.sample(AGGREGATES, chance.randint(1, 4))
    if sum("DISTINCT" in item for item in chosen) > 2:
        chosen = [item for item in chosen if "DISTINCT" not in item] or ["count(*)"]
    items = [f"{item} AS v{number}" for number, item in enumerate([*keys, *chosen])]
    source, where = chance.choice(FROM), chance.choice(WHERE)
    group = f" GROUP BY {', '.join(keys)}" if keys else ""
    if len(keys) == 2 and not any(name in item for item in chosen for name in ("var", "stddev")):
        group = chance.choice(
            (
                group,
                f" GROUP BY ROLLUP (({keys[0]}), ({keys[1]}))",
                f" GROUP BY GROUPING SETS ((({keys[0]})), (({keys[1]})), ())",
            )
        )
    having = chance.choice(("", "", " HAVING count(*) > 1", " HAVING sum(n) IS NOT NULL"))
    sql = f"SELECT {', '.join(items)} FROM {source}{where}{group}{having}"
    return f"WITH w AS (SELECT * FROM city.t5 WHERE k < 3) {sql.replace(source, 'w')}" if chance.random() < 0.2 else sql


@pytest.mark.parametrize("seed", range(0, 120, 20))
def test_generated_queries_are_the_same_divided(seed: int) -> None:
    for number in range(seed, seed + 20):
        equal(generated(number))


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT s, sum(n) AS v FROM city.t5 GROUP BY s HAVING sum(n) > 20 ORDER BY v DESC, s LIMIT 3 OFFSET 1",
        "SELECT s, count(*) AS v, rank() OVER (ORDER BY count(*) DESC, s) AS r FROM city.t5 GROUP BY s ORDER BY r",
        "SELECT s, sum(n) AS v, sum(sum(n)) OVER (ORDER BY s) AS r FROM city.t5 GROUP BY s ORDER BY s",
        "SELECT s, avg(n) AS v FROM city.t5 GROUP BY s QUALIFY row_number() OVER (ORDER BY avg(n) DESC NULLS LAST, s) <= 2 ORDER BY s",
        "SELECT DISTINCT count(*) AS v FROM city.t5 GROUP BY s ORDER BY v",
        "SELECT k, CASE WHEN k = 1 THEN sum(n) ELSE -sum(n) END AS v FROM city.t5 GROUP BY k ORDER BY k NULLS FIRST",
        "SELECT k + 1 AS z, (k + 1) * 2 AS y, max(n) AS v FROM city.t5 GROUP BY k + 1 ORDER BY z DESC NULLS FIRST",
        "SELECT s, sum(n) AS v FROM city.t5 GROUP BY s HAVING sum(n) > (SELECT avg(n) FROM mid.t) ORDER BY s",
        "SELECT s, grouping(s) AS i, sum(n) AS v FROM city.t5 GROUP BY CUBE (s, b) ORDER BY s, i, v",
        "SELECT s, n FROM (SELECT s, max(n) AS n FROM city.t5 GROUP BY s) q WHERE n > 5 ORDER BY s",
        "SELECT a.k, a.v + b.v AS v FROM (SELECT k, sum(n) AS v FROM city.t5 GROUP BY k) a JOIN (SELECT k, count(*) AS v FROM city.t2 GROUP BY k) b ON a.k = b.k ORDER BY a.k",
        "SELECT (SELECT max(n) FROM city.t5) AS v, count(*) AS c FROM mid.t WHERE n < (SELECT avg(n) FROM city.t2)",
        "SELECT DISTINCT s, 1 AS one FROM city.t5 ORDER BY 1",
        "SELECT s, 'x' AS z, count(*) AS c FROM city.t5 GROUP BY s, 'x' ORDER BY 1",
        "SELECT DISTINCT s, k FROM city.t5 WHERE n > 2 ORDER BY s, k LIMIT 5",
        "SELECT count(*) AS v FROM (SELECT DISTINCT s FROM city.t5) q",
        "SELECT max(v) AS v FROM (SELECT sum(n) AS v FROM north.t GROUP BY k UNION ALL SELECT sum(n) AS v FROM west.t GROUP BY s) q",
    ],
)  # fmt: skip
def test_what_stands_around_an_aggregation_stays_in_the_merging_select(sql: str) -> None:
    equal(sql, ordered=True)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT median(n) FROM city.t5",
        "SELECT quantile_cont(n, 0.5) FROM city.t5",
        "SELECT mode(n) FROM city.t5",
        "SELECT list(n) FROM city.t5",
        "SELECT string_agg(s, ',') FROM city.t5",
        "SELECT first(n) FROM city.t5",
        "SELECT any_value(n) FROM city.t5",
        "SELECT arg_max(s, n) FROM city.t5",
        "SELECT approx_count_distinct(n) FROM city.t5",
        "SELECT corr(n, m) FROM city.t5",
        "SELECT count(DISTINCT n) FILTER (WHERE b) FROM city.t5",
        "SELECT sum(n ORDER BY k) FROM city.t5",
        "SELECT max(n, 2) FROM city.t5",
        "SELECT count(DISTINCT n), count(DISTINCT s), count(DISTINCT d) FROM city.t5",
        "SELECT sum(h) FROM city.t5",
        "SELECT avg(h) FROM city.t5",
        "SELECT max(h + 1) FROM city.t5",
        "SELECT sum(u * n) FROM city.t5",
        "SELECT avg(d) FROM city.t5",
        "SELECT sum(random()) FROM city.t5",
        "SELECT count(*) FROM city.t5 GROUP BY random() > 0.5",
        "SELECT sum(n) FROM city.t5 WHERE random() > 0.5",
        "SELECT sum(n) FROM city.t5 WHERE d < today()",
        "SELECT sum(n) FROM city.t5 WHERE k IN (SELECT k FROM mid.t)",
        "SELECT k, (SELECT max(q.n) FROM mid.t q WHERE q.k = p.k) AS v, count(*) FROM city.t5 p GROUP BY k",
        "SELECT (SELECT sum(p.n) FROM city.t5 p WHERE p.k = q.k) AS v FROM mid.t q",
        "SELECT DISTINCT ON (s) s, count(*) FROM city.t5 GROUP BY s",
        "SELECT DISTINCT s, row_number() OVER (ORDER BY s) FROM city.t5",
        "SELECT DISTINCT s FROM city.t5 QUALIFY row_number() OVER (PARTITION BY s ORDER BY n) = 1",
        "SELECT count(*) FROM city.t5 a JOIN mid.t b ON a.k = b.k",
        "SELECT count(*) FROM (SELECT s FROM city.t5 LIMIT 3) q",
        "SELECT count(*) FROM (SELECT s FROM north.t UNION SELECT s FROM west.t) q",
        "SELECT count(*) FROM (SELECT unnest(l) AS v FROM city.t5) q",
        "SELECT s, stddev(n) FROM city.t5 GROUP BY ROLLUP (s)",
        "SELECT 'x' AS z, count(*) FROM city.t5 GROUP BY ROLLUP (s, 'x')",
        "SELECT count(*) FROM north.t",
        "SELECT count(*) FROM (SELECT n FROM north.t UNION ALL SELECT n FROM north.o) q",
        "WITH w AS (SELECT * FROM city.t5) SELECT a.v FROM (SELECT count(*) AS v FROM w) a, (SELECT sum(n) AS v FROM w) b",
        "WITH w AS MATERIALIZED (SELECT * FROM city.t5) SELECT count(*) FROM w",
        "SELECT sum(v) FROM (SELECT sum(n) OVER () AS v FROM city.t5) q",
    ],
)  # fmt: skip
def test_what_is_not_proven_is_left_as_it_is(sql: str) -> None:
    bound, made, _ = divided(sql)
    assert made is bound


@pytest.mark.parametrize("item", ["sum(n)", "max(n)", "sum(m)", "count(DISTINCT m)", "max(s)", "min(s)", "avg(n)"])
def test_branches_of_different_types_are_not_divided_where_the_type_matters(item: str) -> None:
    bound, made, _ = divided(f"SELECT {item} AS v FROM city.mixed")
    assert made is bound
    equal("SELECT count(*), sum(k), max(d) FROM city.mixed")
    for key in ("n", "s", "m"):
        bound, made, _ = divided(f"SELECT {key}, count(*) AS v FROM city.mixed GROUP BY {key}")
        assert made is bound


def test_condition_over_columns_of_different_types_stays_above() -> None:
    for source in (
        "city.mixed WHERE s < '7'",
        "(SELECT k FROM city.mixed WHERE s < '7') q",
        "(SELECT s || 'x' AS z FROM city.mixed) q WHERE z < '7'",
    ):
        bound, made, _ = divided(f"SELECT count(*) FROM {source}")
        assert made is bound


def test_condition_is_moved_not_copied_and_groups_travel_instead_of_rows() -> None:
    made, sent = equal("SELECT s, count(*) FROM city.t5 WHERE n > 3 GROUP BY s")
    top = made.tree
    assert isinstance(top, exp.Select)
    assert top.args.get("where") is None
    assert len(sent) == 5
    assert sum(sent) < 15
    _, sent = equal("SELECT count(*), avg(n), stddev(m) FROM city.t5")
    assert sent == (1, 1, 1, 1, 1)


def test_variance_of_values_near_1e9_keeps_its_digits() -> None:
    _, made, decision = divided("SELECT var_pop(e + 9e8) AS v FROM city.t5")
    answer, _ = apart(WORLD, made, decision)
    values = [row[9] for name in PARTS for row in PARTS[name] if row[9] is not None]
    mean = sum(value - 1e8 for value in values) / len(values)
    true = sum((value - 1e8 - mean) ** 2 for value in values) / len(values)
    assert answer.column(0).to_pylist()[0] == pytest.approx(true, rel=1e-12)


def test_variance_of_equal_values_is_zero_to_the_bit() -> None:
    _, made, decision = divided(
        "SELECT var_pop(0.1 + n * 0.0) AS v, stddev(CASE WHEN b THEN 0.1 WHEN n > 3 THEN 0.1 END) AS w FROM city.t5"
    )
    answer, _ = apart(WORLD, made, decision)
    assert [column.to_pylist() for column in answer.columns] == [[0.0], [0.0]]


def test_mean_of_integers_and_decimals_is_that_of_one_engine_to_the_bit() -> None:
    for item in ("n", "g", "m", "w", "u", "n * 3", "m + 1"):
        bound, made, decision = divided(f"SELECT k, s, avg({item}) AS v FROM city.t5 GROUP BY k, s ORDER BY k, s")
        answer, _ = apart(WORLD, made, decision)
        assert answer.column(2).to_pylist() == locally(WORLD, bound).column(2).to_pylist(), item


# -- the decision ---------------------------------------------------------------------------------------------------

PLAIN = {name: ColumnRule("plain") for name in COLUMNS}


def test_masked_and_filtered_leaves_are_divided_and_see_what_the_policy_lets_through() -> None:
    rules = {
        "north.t": ResourceDecision(
            True,
            {"type": "field", "field": "n", "operator": "gt", "value": 0},
            PLAIN
            | {"s": ColumnRule("masked", Mask("redact", {})), "n": ColumnRule("masked", Mask("bucket", {"width": 10}))},
            ROWS,
        )
    }
    sql = "SELECT s, sum(n) AS v, count(DISTINCT n) AS c, stddev(n) AS w FROM city.t5 WHERE n < 25 GROUP BY s"
    bound, made, decision = divided(sql, decide(rules))
    assert made is not bound
    expected, _ = apart(WORLD, bound, decision)
    answer, _ = apart(WORLD, made, decision)
    assert same(expected, answer)
    assert "***" in answer.column(0).to_pylist()


@pytest.mark.parametrize("mode", ["aggregate", "closed"])
def test_leaf_in_another_mode_than_rows_stops_the_pass(mode: Any) -> None:
    strict = ResourceDecision(True, {}, PLAIN, Constraints(mode, 3, "g", ("count", "sum"), 500, False, 0, ()))
    bound, made, _ = divided("SELECT s, count(*) FROM city.t5 GROUP BY s", decide({"mid.t": strict}))
    assert made is bound


def test_leaf_that_the_decision_does_not_name_stops_the_pass() -> None:
    bound = WORLD.bind("SELECT count(*) FROM city.t5")
    decision = replace(whole(bound), resources=MappingProxyType({}))
    assert partial.partial_aggregates(bound, decision, WORLD.schema, WORLD.placement) is bound


def test_published_statistics_that_prove_as_many_groups_as_rows_stop_the_pass() -> None:
    bound = WORLD.bind("SELECT g, s, count(*) FROM city.t5 GROUP BY g, s")
    for distinct, applies in ((1_000, False), (400, True)):
        schema = with_statistics(WORLD, 1_000, {"g": distinct})
        made = partial.partial_aggregates(bound, whole(bound), schema, WORLD.placement)
        assert (made is not bound) == applies


# -- mutants: each breaks one rule, and a check above must notice --------------------------------------------------------


def _mean_of_means(self: states.States, name: str, argument: exp.Expr, condition: exp.Expr | None) -> exp.Expr:
    if name in ("avg", "mean"):
        return states._call("avg", self._state("avg", [argument], condition))
    return REAL_OF_ONE(self, name, argument, condition)


def _mean_of_variances(self: states.States, name: str, argument: exp.Expr, condition: exp.Expr | None) -> exp.Expr:
    return states._call("avg", self._state(name, [argument], condition))


def _counts_counted(self: states.States, call: Any, condition: exp.Expr | None) -> exp.Expr:
    if call.name in ("count", "count_star") and not any(isinstance(item, exp.Distinct) for item in call.expressions):
        return states._call("count", self._state(call.name, list(call.expressions), condition))
    return REAL_MERGED(self, call, condition)


def _distinct_counts_added(self: states.States, name: str, arguments: Any, condition: exp.Expr | None) -> exp.Expr:
    return states._cast(
        states._sum(self._add(AggregateCall(this=name, expressions=[exp.Distinct(expressions=arguments)]))),
        "BIGINT",
    )


def _uncast(node: exp.Expr, kind: str) -> exp.Expr:
    return node if kind in ("HUGEINT", "BIGINT") else REAL_CAST(node, kind)


REAL_OF_ONE, REAL_MERGED, REAL_CAST = states.States._of_one, states.States.merged, states._cast
MUTANTS: list[tuple[Any, str, Any, str]] = [
    (states.States, "_of_one", _mean_of_means, "SELECT avg(n) AS v FROM city.t5"),
    (states.States, "_variance", _mean_of_variances, "SELECT stddev(n) AS v FROM city.t5"),
    (states.States, "merged", _counts_counted, "SELECT count(*) AS v FROM city.t5"),
    (states.States, "_distinct", _distinct_counts_added, "SELECT count(DISTINCT n) AS v FROM city.t5"),
    (states, "_cast", _uncast, "SELECT typeof(sum(n)) AS v FROM city.t5"),
    (states, "_filtered", lambda call, condition: call, "SELECT sum(n) FILTER (WHERE b) AS v FROM city.t5"),
    (states, "_VARIANCES", {**states._VARIANCES, "var_samp": (0, False)}, "SELECT var_samp(n) AS v FROM city.t5"),
    (shards, "add_conditions", lambda select, conditions: None, "SELECT count(*) AS v FROM city.t5 WHERE n > 3"),
    (shards, "_closed", lambda query: False, "SELECT count(*) AS v FROM city.t5"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(MUTANTS)))
def test_mutant_is_noticed(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    target, name, wrong, sql = MUTANTS[number]
    equal(sql)
    monkeypatch.setattr(target, name, wrong)
    with pytest.raises(AssertionError):
        equal(sql)

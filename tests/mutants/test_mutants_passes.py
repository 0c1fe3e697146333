"""Mutants of the planner's passes: units, join reduction, partial aggregation, TopN. Each must fail a check that is named here.

A check is a query of the differential suite, planned as if every reduction and every join at a node were worth it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlglot import exp

from tests.fakes.differential_generator import Generated
from tests.fakes.differential_generator_checks import MEMBERS, Policy, check
from tests.mutants.test_mutants_sql import dies
from tests.unit.sql import test_topn
from tidegate.sql import carve, joins, partial, pushdown, reduce, settle, shards, states, topn, units
from tidegate.sql.lineage import sources
from tidegate.sql.nodes import AggregateCall

OPEN = Policy(filtered=False, masked=False, keys_may_go_to=MEMBERS)
CLOSED = Policy(filtered=False, masked=False, keys_may_go_to=())


def alike(sql: str, policy: Policy = OPEN, *, ordered: bool = False) -> Callable[[], None]:
    """Make a check: every plan of the query gives the local answer."""

    def run() -> None:
        found = check(Generated(sql, (), ordered, 1), policy, every=False)
        assert not found.wrong, found.wrong[0]

    return run


# -- units ----------------------------------------------------------------------------------------------------------------


def test_condition_moved_out_of_an_outer_joins_on_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    sql = "SELECT a.u, b.u, c.u FROM air.p a LEFT JOIN air.q b ON a.j = b.j AND b.n > 9 LEFT JOIN sea.p c ON c.j = a.j"
    dies(alike(sql), monkeypatch, joins, "inner_prefix", sources)


def test_correlated_subquery_carved_without_its_correlation_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def uncorrelated(query: exp.Expr) -> Any:
        copied = query.copy()
        for item in list(real(copied)):
            item.parent.replace(exp.true())
        query.replace(copied)
        return iter(())

    real = units.free_columns
    sql = "SELECT a.u FROM air.p a WHERE a.n > (SELECT avg(b.n) FROM sea.p b WHERE b.j = a.j)"
    dies(alike(sql), monkeypatch, units, "free_columns", uncorrelated)


def test_subquery_over_other_nodes_taken_over_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    sql = "SELECT a.u FROM air.p a WHERE EXISTS (SELECT 1 FROM sea.p b WHERE b.j = a.j) AND a.n > 3"
    dies(alike(sql), monkeypatch, units.Units, "_lies_with", lambda *_: True)


def _equal(item: exp.Expr) -> exp.Expr:
    return exp.EQ(this=item.this.copy(), expression=item.expression.copy())


def test_keys_that_are_null_taken_for_equal_keys_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """``IS NOT DISTINCT FROM`` finds NULL equal to NULL; the keys of a reduction do not."""

    def careless(conditions: list[exp.Expr]) -> Any:
        return real([_equal(item) if isinstance(item, exp.NullSafeEQ) else item for item in conditions])

    real = reduce.equalities
    sql = "SELECT a.u, b.u FROM air.p a LEFT JOIN sea.q b ON a.j IS NOT DISTINCT FROM b.j"
    dies(alike(sql), monkeypatch, reduce, "equalities", careless)


def test_null_safe_join_at_a_node_taken_for_an_equality_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(conditions: list[exp.Expr]) -> Any:
        return real([_equal(item) if isinstance(item, exp.NullSafeEQ) else item for item in conditions])

    real = units.equalities
    sql = (
        "SELECT a.u, b.u, c.u FROM air.p a JOIN air.q b ON a.s IS NOT DISTINCT FROM b.s LEFT JOIN sea.p c ON c.j = a.j"
    )
    dies(alike(sql), monkeypatch, units, "equalities", careless)


def test_type_lost_on_the_way_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    sql = "SELECT s.t // 2, typeof(s.t) FROM (SELECT k, sum(n) AS t FROM air.q GROUP BY k) s JOIN sea.q b ON b.k = s.k"
    dies(alike(sql), monkeypatch, carve, "casts_of_query", lambda query, *_: [""] * len(query.expressions))


# -- conditions of outer joins ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT a.u, b.u FROM sea.q a FULL JOIN air.p b ON a.j = b.j AND b.n > 9",
        "SELECT a.u, b.u FROM sea.q a RIGHT JOIN air.p b ON a.j = b.j AND b.n > 9",
    ],
)
def test_condition_settled_in_a_side_that_is_kept_fails(sql: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dies(alike(sql), monkeypatch, settle, "_optional", lambda join: bool(join.side))


def test_condition_lost_on_its_way_into_a_part_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    sql = "SELECT a.u, b.u FROM sea.q a LEFT JOIN city.two b ON a.j = b.j AND b.s = 'JFK' AND b.n > 3"
    dies(alike(sql), monkeypatch, settle, "add_conditions", lambda *_: None)


# -- reduction ------------------------------------------------------------------------------------------------------------


def test_reduction_of_the_kept_side_of_a_left_join_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    sql = "SELECT a.u, b.u FROM sea.q a LEFT JOIN air.p b ON a.j = b.j AND b.n > 9"
    dies(alike(sql), monkeypatch, pushdown.JOIN_RULES["LEFT"], "on_left", "yes")


def test_reduction_of_an_anti_joins_left_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    sql = "SELECT a.u FROM sea.q a ANTI JOIN air.p b ON a.j = b.j AND b.n > 9"
    dies(alike(sql), monkeypatch, pushdown.JOIN_RULES["ANTI"], "on_left", "yes")


@pytest.mark.parametrize(
    ("side", "first"), [("on_left", "sea.q a FULL JOIN city.one b"), ("on_right", "air.p a FULL JOIN sea.q b")]
)
def test_reduction_of_a_full_joins_side_fails(side: str, first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sql = f"SELECT a.u, b.u FROM {first} ON a.j = b.j"
    dies(alike(sql), monkeypatch, pushdown.JOIN_RULES["FULL"], side, "yes")


def test_reduction_across_not_in_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(select: exp.Select) -> list[exp.Expr]:
        return [item.this.unnest() if isinstance(item, exp.Not) else item for item in real(select)]

    real = reduce.where_of
    sql = "SELECT a.u FROM air.p a WHERE a.j NOT IN (SELECT b.j FROM sea.q b WHERE b.j > 2)"
    dies(alike(sql), monkeypatch, reduce, "where_of", careless)


def test_keys_of_one_part_taken_for_those_of_all_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    real = reduce.Reduce._find_origins

    def first(self: Any, query: exp.Expr, name: str) -> Any:
        return real(self, query, name)[:1]

    sql = "SELECT a.u, b.u FROM land.q a JOIN city.five b ON a.j = b.j"
    dies(alike(sql), monkeypatch, reduce.Reduce, "_find_origins", first)


def test_keys_without_permission_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    sql = "SELECT a.u, b.u FROM air.p a JOIN sea.q b ON a.j = b.j"
    dies(alike(sql, CLOSED), monkeypatch, reduce.Reduce, "_forbidden", lambda *_: "")


# -- partial aggregation ----------------------------------------------------------------------------------------------------


def test_average_of_averages_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    real = states.States._of_one

    def averages(self: Any, name: str, argument: exp.Expr, condition: exp.Expr | None) -> exp.Expr:
        if name in states._MEANS:
            return AggregateCall(this="avg", expressions=[self._state("avg", [argument], condition)])
        return real(self, name, argument, condition)

    dies(alike("SELECT s, avg(n) FROM city.five GROUP BY s"), monkeypatch, states.States, "_of_one", averages)


def test_counts_counted_instead_of_added_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    dies(alike("SELECT b, count(*) FROM city.five GROUP BY b"), monkeypatch, states, "_sum", _counted)


def _counted(node: exp.Expr) -> exp.Expr:
    return AggregateCall(this="count", expressions=[node])


def test_count_of_no_rows_that_is_null_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A merging SELECT with GROUPING SETS () over no groups at all still counts 0."""
    real = states.scalar

    def bare(name: str, *arguments: exp.Expr) -> exp.Expr:
        return arguments[0] if name == "coalesce" else real(name, *arguments)

    sql = "SELECT j, count(n) FROM city.five WHERE n < -90 GROUP BY ROLLUP (j)"
    dies(alike(sql), monkeypatch, states, "scalar", bare)


def test_null_group_dropped_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    real = shards.add_conditions

    def dropped(select: exp.Select, conditions: Any) -> None:
        keys = [item.unalias() for item in select.expressions[:1]]
        real(select, [*conditions, *(exp.Not(this=exp.Is(this=key.copy(), expression=exp.Null())) for key in keys)])

    dies(alike("SELECT j, count(*) FROM city.five GROUP BY j"), monkeypatch, partial.shards_, "add_conditions", dropped)


def test_mean_of_decimals_divided_as_decimals_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def rounded(total: exp.Expr, count: exp.Expr, kind: Any) -> exp.Expr:
        return exp.Cast(this=exp.Div(this=total, expression=count), to=exp.Var(this="DECIMAL(18,4)"))

    dies(alike("SELECT b, avg(m) FROM city.five GROUP BY b"), monkeypatch, states, "_mean", rounded)


def test_variance_from_the_parts_alone_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def within(this: exp.Expr, expression: exp.Expr) -> exp.Expr:
        return this

    sql = "SELECT var_pop(n), stddev_samp(y) FROM city.five"
    dies(alike(sql), monkeypatch, states.exp, "Add", within)


def test_values_counted_once_in_each_part_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """count(DISTINCT x) of each part cannot be added: a value may lie in several."""

    def added(self: Any, name: str, arguments: Any, condition: Any) -> exp.Expr:
        call = AggregateCall(this=name, expressions=[exp.Distinct(expressions=[arguments[0].copy()])])
        return AggregateCall(this="sum", expressions=[self._add(call)])

    sql = "SELECT count(DISTINCT s) + 0 AS c FROM city.five"
    dies(alike(sql), monkeypatch, states.States, "_distinct", added)


# -- TopN -------------------------------------------------------------------------------------------------------------------


def test_offset_forgotten_in_the_parts_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def limit_only(query: exp.Expr) -> int:
        return int(query.args["limit"].expression.name)

    sql = "SELECT u, n FROM city.five ORDER BY n NULLS LAST, u LIMIT 3 OFFSET 4"
    dies(alike(sql, ordered=True), monkeypatch, topn, "_most", limit_only)


def test_limit_below_a_filter_that_remains_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    real = topn._select

    def below(select: exp.Select, *arguments: Any) -> bool:
        where = select.args.get("where")
        select.set("where", None)
        select.set("qualify", where)  # out of sight of the pass, and its columns are numbered with the others
        done = real(select, *arguments)
        select.set("qualify", None)
        select.set("where", where)
        return done

    monkeypatch.setattr(topn, "_CLAUSES", topn._CLAUSES | {"qualify"})
    sql = "SELECT u, n FROM city.five WHERE n > 9 ORDER BY n NULLS LAST, u LIMIT 4"
    dies(alike(sql, ordered=True), monkeypatch, topn, "_select", below)


def test_rule_for_nulls_forgotten_in_the_parts_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    real = topn._within

    def otherwise(key: exp.Ordered, value: exp.Expr) -> exp.Ordered:
        made = real(key, value)
        made.set("nulls_first", not made.args.get("nulls_first"))
        return made

    sql = "SELECT u, n FROM city.five ORDER BY n NULLS FIRST, u LIMIT 2"
    dies(alike(sql, ordered=True), monkeypatch, topn, "_within", otherwise)


def test_top_by_a_masked_key_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    named = test_topn.test_masked_sort_key_stays_above_and_a_masked_output_does_not_matter
    dies(named, monkeypatch, topn._Rules, "_masked", lambda *_: False)

"""Keys in the restricted form of a fragment: at the leaf, on what the caller sees, and never where they could tell or raise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.sql_world import KEYS, ROWS, World, comparable, decide, small_world, whole
from tidegate.core.decision import ColumnRule, Decision, Mask, ResourceDecision
from tidegate.core.errors import TidegateError
from tidegate.sql import admit, bind, wall
from tidegate.sql.model import BoundQuery, Fragment, Reduction, RenderedSql
from tidegate.sql.restrict import KeyRelation, RestrictedQuery, restrict

SQL = 'SELECT "r0"."k" AS "c0", "r0"."s" AS "c1" FROM "sea"."b" AS "r0" WHERE "r0"."n" > $1'
ONE = KeyRelation("r0", "k", "tg_k0")
FILTER = {"type": "field", "field": "n", "operator": "lt", "value": 20}


@pytest.fixture(scope="module")
def world() -> World:
    return small_world(count=60)


def resource(
    columns: Mapping[str, ColumnRule] | None = None, row_filter: Mapping[str, Any] | None = None
) -> ResourceDecision:
    plain = {name: ColumnRule("plain") for name in ("k", "s", "n", "x", "d")}
    return ResourceDecision(True, row_filter or {}, {**plain, **(columns or {})}, ROWS)


def restricted(
    world: World, *relations: KeyRelation, sql: str = SQL, rules: ResourceDecision | None = None
) -> RestrictedQuery:
    bound = bind.bind(admit.admit(sql), world.schema, (5,) if "$1" in sql else (), fragment=True)
    decision = Decision(True, (), MappingProxyType({leaf.ref: rules or resource() for leaf in bound.leaves}))
    made = restrict(bound, decision, KEYS, schema=world.schema, reductions=relations)
    wall.check(made.query, made.tables)
    return made


def test_a_whole_leaf_is_narrowed_in_its_own_sub_select(world: World) -> None:
    made = restricted(world, ONE)
    assert made.setup == ()
    assert made.tables == {"sea.b", "tg_k0"}
    assert made.keys == {"tg_k0": "integer"}
    narrowed = 'WHERE ("r0"."k" IN (SELECT TRY_CAST("tg_k0"."k" AS BIGINT) AS "k" FROM "tg_k0" AS "tg_k0"))) AS "r0"'
    assert narrowed in made.query.text
    assert made.raw == {"r0": ("k", "n", "s")}
    assert made.rules == {"r0": ("k: only keys that were received",)}


def test_a_restricted_leaf_is_narrowed_around_its_view(world: World) -> None:
    made = restricted(world, ONE, rules=resource(row_filter=FILTER))
    assert made.tables == {"tg_r0", "tg_k0"}
    (view,) = made.setup
    assert "tg_k0" not in view
    assert made.query.text.index('FROM "tg_r0"') < made.query.text.index('FROM "tg_k0"')


def test_the_second_wall_lets_in_these_relations_alone(world: World) -> None:
    made = restricted(world, ONE)
    for tables in (made.tables - {"tg_k0"}, made.tables - {"tg_k0"} | {"tg_k1"}):
        with pytest.raises(TidegateError):
            wall.check(made.query, tables)


@pytest.mark.parametrize(
    "rule",
    [
        ColumnRule("masked", Mask("null", {})),
        ColumnRule("masked", Mask("pseudonym", {})),
        ColumnRule("plain", None, in_predicate_denied=True),
    ],
)
def test_keys_for_a_masked_column_or_one_closed_to_predicates_are_left_unused(world: World, rule: ColumnRule) -> None:
    made = restricted(world, ONE, rules=resource({"k": rule}), sql=SQL.replace('"r0"."n" > $1', "TRUE"))
    assert "tg_k0" not in made.tables
    assert made.keys == {}
    assert "tg_k0" not in made.query.text
    assert not any("keys" in text for text in made.rules["r0"])


@pytest.mark.parametrize("name", ["x", "d", "s"])
def test_only_kinds_that_compare_without_a_cast_of_the_column_are_used(world: World, name: str) -> None:
    sql = f'SELECT "r0"."{name}" AS "c0" FROM "sea"."b" AS "r0"'
    made = restricted(world, KeyRelation("r0", name, "tg_k0"), sql=sql)
    assert made.keys == ({} if name == "x" else {"tg_k0": {"d": "date", "s": "text"}[name]})


def test_keys_for_a_column_that_is_not_read_are_left_unused(world: World) -> None:
    assert restricted(world, KeyRelation("r0", "d", "tg_k0")).keys == {}


def test_each_instance_of_a_dataset_has_keys_of_its_own(world: World) -> None:
    sql = (
        'SELECT "r0"."k" AS "c0" FROM "sea"."b" AS "r0" WHERE EXISTS (SELECT 1 AS "c0" FROM "sea"."b" AS "r1" '
        'WHERE "r1"."n" = "r0"."n")'
    )
    made = restricted(world, ONE, KeyRelation("r1", "n", "tg_k1"), sql=sql)
    assert made.tables == {"sea.b", "tg_k0", "tg_k1"}
    assert made.query.text.count('IN (SELECT TRY_CAST("tg_k') == 2


# --- the answer: exactly the rows whose key is among the keys


POLICIES = {
    "whole": whole,
    "filter": decide({"sea.b": resource(row_filter=FILTER)}),
    "mask": decide({"sea.b": resource({"s": ColumnRule("masked", Mask("redact", {}))})}),
}


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["k", "s", "d"]),
    st.sampled_from(["whole", "filter"]),
    st.lists(st.one_of(st.none(), st.integers(0, 11)), max_size=9),
)
def test_the_rows_that_leave_are_those_whose_key_was_given(name: str, policy: str, numbers: list[int | None]) -> None:
    held = _WORLD
    decision = POLICIES[policy](_bound(name))
    bare = Fragment("f1", "sea", "main", _sql(name), {"r0": _bound(name).leaves[0].dataset}, ("c0", "c1"), False)
    everything, _ = held.ask(bare, decision)
    values = everything.column(0).combine_chunks()
    keys = values.take(pa.array([None if n is None else n % max(len(values), 1) for n in numbers], pa.int64()))
    narrowed = replace(bare, reductions=(Reduction("r0", name, (("f0", "c0"),)),))
    found, _ = held.ask(narrowed, decision, {"f0": pa.table({"c0": keys})})
    wanted = {key for key in keys.to_pylist() if key is not None}
    expected = [row for row in _rows(everything) if row[0] in wanted]
    assert comparable(_rows(found)) == comparable(expected)


_WORLD = small_world(count=40)


def _sql(name: str) -> RenderedSql:
    return RenderedSql(f'SELECT "r0"."{name}" AS "c0", "r0"."n" AS "c1" FROM "sea"."b" AS "r0"', ())


def _bound(name: str) -> BoundQuery:
    return bind.bind(admit.admit(_sql(name).text), _WORLD.schema, (), fragment=True)


def _rows(data: pa.Table) -> list[tuple[Any, ...]]:
    return list(zip(*(column.to_pylist() for column in data.columns), strict=True))


@pytest.mark.parametrize("policy", POLICIES)
def test_a_planned_query_is_as_right_with_keys_as_without(world: World, policy: str) -> None:
    sql = "SELECT a.k, a.n, b.s, b.n FROM air.a AS a JOIN sea.b AS b ON a.k = b.k WHERE a.n < 4"
    plan, decision = world.plan(sql, policy=POLICIES[policy])
    source, target = plan.fragments
    assert (source.member, target.member) == ("air", "sea")
    (ref,) = target.refs
    column = source.columns[[*_names(source)].index("k")]
    reduced = replace(
        plan, fragments=(source, replace(target, reductions=(Reduction(ref, "k", ((source.id, column),)),)))
    )
    with_keys, without = world.execute(reduced, decision), world.execute(reduced, decision, keys=False)
    assert comparable(with_keys.rows) == comparable(without.rows) != []
    assert with_keys.fetched[1] < without.fetched[1]


def _names(fragment: Fragment) -> list[str]:
    """Give the columns that a fragment over one leaf selects."""
    tree = admit.admit(fragment.sql.text)
    return [item.this.name for item in tree.expressions]

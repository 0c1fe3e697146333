"""Properties of restriction over generated queries.

Every instance of a dataset lies under exactly one restriction; restricting twice is the same as once; more policy never
permits more (neither rows nor values nor queries).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlglot import exp

from tests.fakes.sql_world import COLUMNS, KEYS, comparable, decide, small_world
from tidegate.core.decision import ColumnRule, Constraints, Decision, Mask, ResourceDecision, intersect
from tidegate.core.errors import Refused
from tidegate.sql.model import BoundQuery
from tidegate.sql.restrict import VIEW_PREFIX, restrict

WORLD = small_world(count=10)
SETTINGS = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))

TABLES = st.sampled_from(["air.a", "sea.b", "land.c", "city.t2", "city.t1"])
CONDITIONS = st.sampled_from(
    ["{0}.n > 3", "{0}.k = 2", "{0}.s = 'JFK'", "{0}.n IS NULL", "{0}.n + 1 > 5", "{0}.b", "TRUE"]
)
JOINS = st.sampled_from(["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"])


def _condition(alias: str) -> st.SearchStrategy[str]:
    inner = TABLES.flatmap(
        lambda name: st.sampled_from(
            [
                f"EXISTS (SELECT 1 FROM {name} i WHERE i.k = {alias}.k)",
                f"{alias}.n > (SELECT avg(i.n) FROM {name} i)",
                f"{alias}.k IN (SELECT i.k FROM {name} i WHERE i.n > 2)",
            ]
        )
    )
    return st.one_of(CONDITIONS.map(lambda text: text.format(alias)), inner)


@st.composite
def queries(draw: st.DrawFn, depth: int = 2) -> str:
    """Generate a query with outputs k and n."""
    kind = draw(st.sampled_from(["plain", "plain", "join", "derived", "cte", "set", "group"])) if depth else "plain"
    if kind == "join":
        left, right = draw(TABLES), draw(st.one_of(TABLES, queries(depth=depth - 1).map(lambda q: f"({q})")))
        return f"SELECT a.k, b.n FROM {left} a {draw(JOINS)} {right} b ON a.k = b.k WHERE {draw(_condition('a'))}"
    if kind == "derived":
        return f"SELECT x.k, x.n FROM ({draw(queries(depth=depth - 1))}) x WHERE x.n > {draw(st.integers(0, 9))}"
    if kind == "cte":
        return f"WITH a AS ({draw(queries(depth=depth - 1))}) SELECT a.k, o.n FROM a JOIN a o ON a.k = o.k"
    if kind == "set":
        word = draw(st.sampled_from(["UNION", "UNION ALL", "EXCEPT", "INTERSECT"]))
        return f"SELECT k, n FROM ({draw(queries(depth=depth - 1))}) {word} SELECT k, n FROM {draw(TABLES)}"
    if kind == "group":
        return f"SELECT k, count(*) AS n FROM ({draw(queries(depth=depth - 1))}) g GROUP BY k"
    return f"SELECT q.k, q.n FROM {draw(TABLES)} q WHERE {draw(_condition('q'))}"


FIELDS = st.one_of(
    st.builds(lambda o, v: _field("n", o, v), st.sampled_from(["lt", "gt", "ne", "eq"]), st.integers(0, 30)),
    st.builds(lambda v: _field("s", "in", v), st.lists(st.sampled_from(["JFK", "LGA", ""]), max_size=3)),
    st.builds(lambda o: _field("k", o, None), st.sampled_from(["eq", "ne"])),
)


def _field(name: str, operator: str, value: Any) -> dict[str, Any]:
    return {"type": "field", "field": name, "operator": operator, "value": value}


FILTERS = st.one_of(
    st.just({}),
    FIELDS,
    st.builds(
        lambda o, v: {"type": "compound", "operator": o, "value": v},
        st.sampled_from(["and", "or"]),
        st.lists(FIELDS, min_size=1, max_size=3),
    ),
)
RULES = st.fixed_dictionaries(
    {
        name: st.sampled_from(
            [ColumnRule("plain"), ColumnRule("plain"), ColumnRule("masked", Mask("null", {})), ColumnRule("deny")]
        )
        for name in ("n", "s", "b")
    }
).map(lambda some: {name: ColumnRule("plain") for name in COLUMNS} | some)
CONSTRAINTS = st.builds(lambda rows: Constraints("rows", 1, "", (), rows, False, 0, ()), st.integers(1, 100))
RESOURCES = st.builds(lambda f, c, k: ResourceDecision(True, f, c, k), FILTERS, RULES, CONSTRAINTS)
POLICIES = st.dictionaries(st.sampled_from(list(WORLD.tables)), RESOURCES, min_size=0, max_size=6)


def prepared(sql: str, rules: Mapping[str, ResourceDecision]) -> tuple[BoundQuery, Decision]:
    bound = WORLD.bind(sql)
    return bound, decide(rules)(bound)


def mentions(tree: exp.Expr) -> Counter[str]:
    """Count the tables that a tree reads, by ``department.dataset`` or view."""
    ctes = {cte.alias for cte in tree.find_all(exp.CTE)}
    found = [".".join(part for part in (table.db, table.name) if part) for table in tree.find_all(exp.Table)]
    return Counter(name for name in found if name not in ctes)


@SETTINGS
@given(sql=queries(), rules=POLICIES)
def test_every_instance_lies_under_exactly_one_restriction(sql: str, rules: dict[str, ResourceDecision]) -> None:
    bound, decision = prepared(sql, rules)
    try:
        made = restrict(bound, decision, KEYS, schema=WORLD.schema)
    except Refused:
        return
    read = mentions(made.tree)
    for leaf in bound.leaves:
        view = f"{VIEW_PREFIX}{leaf.ref}"
        covered = read[view] + sum(1 for item in _flat(made.tree, leaf.ref) if item == str(leaf.dataset))
        assert covered == 1, (sql, leaf)
        own = [line for line in made.setup if f'"{view}"' in line]
        assert len(own) == read[view]
    bare = [table for table in made.tree.find_all(exp.Table) if table.db and not _is_restriction(table)]
    assert bare == []
    assert set(read) == made.tables


def _is_restriction(table: exp.Table) -> bool:
    """Say whether the table stands in a flat sub-select of its own that carries its ref."""
    select = table.parent_select
    outer = select.parent if select is not None else None
    return (
        isinstance(select, exp.Select)
        and isinstance(outer, exp.Subquery)
        and outer.alias == table.alias
        and set(select.args) - {"expressions", "from_"} <= {key for key, value in select.args.items() if not value}
        and all(isinstance(item.unalias(), exp.Column | exp.Literal) for item in select.expressions)
    )


def _flat(tree: exp.Expr, ref: str) -> list[str]:
    tables = [table for table in tree.find_all(exp.Table) if table.db and table.alias == ref]
    return [f"{table.db}.{table.name}" for table in tables if _is_restriction(table)]


@SETTINGS
@given(sql=queries(), rules=POLICIES)
def test_restricting_twice_equals_once(sql: str, rules: dict[str, ResourceDecision]) -> None:
    bound, decision = prepared(sql, rules)
    twice = intersect(decision, decision)
    assert _outcome(bound, twice) == _outcome(bound, decision)


def _outcome(bound: BoundQuery, decision: Decision) -> object:
    try:
        return restrict(bound, decision, KEYS, schema=WORLD.schema)
    except Refused as error:
        return error.code


SELECTS = st.builds(
    lambda name, condition: f"SELECT q.k, q.n, q.s, q.m, q.b FROM {name} q WHERE {condition.format('q')}",
    TABLES,
    st.sampled_from(["TRUE", "{0}.k > 2", "{0}.k IS NULL"]),
)


@SETTINGS
@given(sql=SELECTS, first=POLICIES, second=POLICIES)
def test_more_policy_never_permits_more(
    sql: str, first: dict[str, ResourceDecision], second: dict[str, ResourceDecision]
) -> None:
    """Under both policies together every row is one of either's, with values that are either's or masked."""

    def both(bound: BoundQuery) -> Decision:
        return intersect(decide(first)(bound), decide(second)(bound))

    try:
        together = WORLD.run(sql, policy=both)
    except Refused:
        return
    for single in (first, second):
        alone = WORLD.run(sql, policy=decide(single))  # a query that both permit, each permits
        assert together.plan.rows_max <= alone.plan.rows_max
        nulled = {index for row in together.rows for index, value in enumerate(row) if value is None}
        left, right = (
            Counter(comparable([_without(row, nulled) for row in answer.rows])) for answer in (together, alone)
        )
        assert left <= right, sql


def _without(row: tuple[Any, ...], nulled: set[int]) -> tuple[Any, ...]:
    return tuple(value for index, value in enumerate(row) if index not in nulled)

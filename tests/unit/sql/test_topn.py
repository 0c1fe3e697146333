# ruff: noqa: E501 - one query a line reads better than a wrapped one
"""Limits in the branches of a collection: the same rows come out, and each node sends no more than can matter."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from sqlglot import exp

from tests.fakes.branches import apart, check_tree, locally, same
from tests.fakes.sql_world import ROWS, decide, whole
from tests.unit.sql.test_partial import COLUMNS, PARTS, WORLD
from tidegate.core.decision import ColumnRule, Constraints, Decision, Mask, ResourceDecision
from tidegate.sql import partial, topn
from tidegate.sql.model import BoundQuery
from tidegate.sql.pruning import prune

TOTAL = "g NULLS FIRST, h, s, n, k, m, w, x, f, d, t, b"  # no two rows of the world are equal in all of these
PLAIN = {name: ColumnRule("plain") for name in COLUMNS}


def pushed(
    sql: str, policy: Callable[[BoundQuery], Decision] = whole, parameters: Any = ()
) -> tuple[BoundQuery, BoundQuery, Decision]:
    """Bind a query, and push its limits."""
    bound = prune(WORLD.bind(sql, parameters), WORLD.schema)
    decision = policy(bound)
    return bound, topn.push_limits(bound, decision, WORLD.schema, WORLD.placement), decision


def run(sql: str, parameters: Any = ()) -> tuple[pa.Table, pa.Table, tuple[int, ...]]:
    """Give the answer of the whole query, of the rewritten one over nodes, and what the fragments sent."""
    bound, made, decision = pushed(sql, parameters=parameters)
    assert made is not bound, f"not pushed: {sql}"
    check_tree(bound, made)
    expected = locally(WORLD, bound)
    assert expected.schema == locally(WORLD, made).schema
    answer, sent = apart(WORLD, made, decision)
    return expected, answer, sent


def equal(sql: str, most: int | None = None) -> None:
    """Check a query whose order is total."""
    expected, answer, sent = run(sql)
    assert same(expected, answer, ordered=True), f"{sql}\n{expected}\n{answer}"
    if most is not None:
        assert max(sent) <= most


KEYS = (
    "s", "s DESC", "n DESC NULLS FIRST", "n NULLS FIRST", "x", "x DESC NULLS LAST", "d DESC", "t", "m NULLS FIRST", "b DESC", "h DESC", "k",
    "lower(s)", "length(s) DESC", "year(d)", "2", "1 DESC", "f NULLS FIRST",
)  # fmt: skip
FROM = (
    "city.t5", "city.t2", "city.e2", "(SELECT * FROM city.t5 WHERE n > 1) q", "(SELECT *, n AS r FROM (SELECT * FROM city.t5 WHERE b) p WHERE k > 0) q",
    "(SELECT * FROM north.t WHERE n > 3 UNION ALL SELECT * FROM mid.t UNION ALL SELECT * FROM west.t) q",
)  # fmt: skip
WHERE = ("", "", " WHERE n > 3", " WHERE b OR m > 2", " WHERE s LIKE 'a%'", " WHERE n > 1000")


def generated(seed: int) -> tuple[str, int]:
    """Make one query with a total order; give it and the most rows that a branch may send."""
    chance = random.Random(seed)
    source, where = chance.choice(FROM), chance.choice(WHERE)
    limit, offset = chance.choice((0, 1, 2, 5, 100)), chance.choice((0, 0, 1, 4))
    key = ", ".join(chance.sample(KEYS, chance.choice((1, 2))))
    tail = f" LIMIT {limit}" + (f" OFFSET {offset}" if offset else "")
    items = chance.choice(("s, n", "h, upper(s) AS z, n + 1", "n, (SELECT count(*) FROM mid.t) AS c", "k, s, m, x"))
    sql = f"SELECT {items} FROM {source}{where} ORDER BY {key}, {TOTAL}{tail}"
    if "(SELECT count" in items:
        sql = sql.replace("2,", "n,").replace("BY 2", "BY n")
    return sql, limit + offset if "(SELECT count" not in items else 10_000


@pytest.mark.parametrize("seed", range(0, 100, 20))
def test_generated_queries_are_the_same_with_limits_below(seed: int) -> None:
    for number in range(seed, seed + 20):
        sql, most = generated(number)
        equal(sql, most)


@pytest.mark.parametrize("key", KEYS)
def test_each_sort_key_is_the_same_with_limits_below(key: str) -> None:
    equal(f"SELECT s, n FROM city.t5 ORDER BY {key}, {TOTAL} LIMIT 4 OFFSET 3", 7)


@pytest.mark.parametrize(
    "sql",
    [
        f"SELECT k FROM (SELECT * FROM city.t5 ORDER BY {TOTAL} LIMIT 7) q ORDER BY n, {TOTAL.replace('g NULLS FIRST', 'g')}",
        f"SELECT a.n, b.n FROM (SELECT * FROM city.t5 ORDER BY {TOTAL} LIMIT 3) a JOIN mid.t b ON a.k = b.k ORDER BY 1, 2",
        f"WITH w AS (SELECT * FROM city.t5 WHERE b) SELECT n, s FROM w WHERE n > 2 ORDER BY {TOTAL} LIMIT 3",
        f"SELECT count(*) FROM mid.t WHERE g IN (SELECT g FROM city.t5 WHERE n > 0 ORDER BY {TOTAL} LIMIT 20)",
        "SELECT g, h FROM north.t UNION ALL SELECT g, h FROM west.t WHERE n > 0 ORDER BY h DESC, 1 LIMIT 4 OFFSET 1",
        "SELECT g, h FROM north.t UNION ALL (SELECT g, h FROM west.t ORDER BY h LIMIT 2) UNION ALL SELECT g, h FROM mid.t ORDER BY 2, 1 LIMIT 9",
        "SELECT z FROM (SELECT h AS z FROM north.t UNION ALL SELECT h FROM mid.t ORDER BY z LIMIT 4) q ORDER BY z DESC",
        "SELECT 1 AS a, 'x' AS z, h FROM city.t2 ORDER BY a, z, h LIMIT 2",
    ],
)  # fmt: skip
def test_limits_in_any_place_of_a_query(sql: str) -> None:
    equal(sql)


def test_key_that_is_a_constant_in_a_branch_is_no_position_there() -> None:
    equal(
        "SELECT h, s FROM (SELECT 'b' AS s, h FROM north.t UNION ALL SELECT 'a' AS s, h FROM mid.t) q ORDER BY s, h LIMIT 3",
        3,
    )
    equal(
        "SELECT h, v FROM (SELECT 2 AS v, h FROM north.t UNION ALL SELECT 1 AS v, h FROM mid.t) q ORDER BY v, h LIMIT 3",
        3,
    )


def test_limit_alone_takes_that_many_rows_that_satisfy_the_condition() -> None:
    expected, answer, sent = run("SELECT n, s FROM city.t5 WHERE n > 3 LIMIT 5 OFFSET 2")
    assert answer.num_rows == expected.num_rows == 5
    assert max(sent) <= 7
    rows = {(row[2], row[1]) for name in PARTS for row in PARTS[name]}
    found = list(zip(*(column.to_pylist() for column in answer.columns), strict=True))
    assert all(row in rows and row[0] > 3 for row in found)
    _, answer, sent = run("SELECT 1 AS one FROM city.t5 LIMIT 1")
    assert (answer.num_rows, max(sent)) == (1, 1)


def test_limit_and_offset_given_as_parameters_are_constants() -> None:
    expected, answer, sent = run(f"SELECT n FROM city.t5 ORDER BY {TOTAL} LIMIT ? OFFSET ?", (3, 1))
    assert same(expected, answer, ordered=True)
    assert max(sent) == 4


def test_column_that_only_the_condition_reads_is_not_sent() -> None:
    _, made, _ = pushed("SELECT n FROM city.t2 WHERE b AND m > 1 ORDER BY s LIMIT 3")
    branches = [
        node for node in made.tree.find_all(exp.Select) if node.args.get("limit") is not None and node is not made.tree
    ]
    assert [len(branch.expressions) for branch in branches] == [2, 2]
    assert made.tree.args.get("where") is None
    assert all(branch.args.get("where") is not None for branch in branches)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT n FROM city.t5",
        "SELECT n FROM city.t5 ORDER BY n",
        "SELECT n FROM city.t5 ORDER BY n OFFSET 3",
        "SELECT DISTINCT n FROM city.t5 ORDER BY n LIMIT 3",
        "SELECT DISTINCT ON (s) n FROM city.t5 ORDER BY s LIMIT 3",
        "SELECT s, count(*) FROM city.t5 GROUP BY s ORDER BY s LIMIT 3",
        "SELECT count(*) FROM city.t5 LIMIT 3",
        "SELECT n, row_number() OVER (ORDER BY n) FROM city.t5 ORDER BY n LIMIT 3",
        "SELECT n FROM city.t5 QUALIFY row_number() OVER (ORDER BY n) < 5 ORDER BY n LIMIT 3",
        "SELECT unnest(l) FROM city.t5 LIMIT 3",
        "SELECT n FROM city.t5 WHERE k IN (SELECT k FROM mid.t) ORDER BY n LIMIT 3",
        "SELECT n FROM city.t5 WHERE random() > 0.5 ORDER BY n LIMIT 3",
        "SELECT n FROM city.t5 ORDER BY random() LIMIT 3",
        "SELECT n FROM city.t5 ORDER BY n + 1 LIMIT 3",
        "SELECT n FROM city.t5 ORDER BY CAST(s AS INTEGER) LIMIT 3",
        "SELECT n FROM city.t5 ORDER BY l LIMIT 3",
        "SELECT n, (SELECT max(n) FROM mid.t) AS v FROM city.t5 ORDER BY v LIMIT 3",
        "SELECT a.n FROM city.t5 a JOIN mid.t b ON a.k = b.k ORDER BY a.n LIMIT 3",
        "SELECT n FROM (SELECT DISTINCT n FROM city.t5) q ORDER BY n LIMIT 3",
        "SELECT n FROM (SELECT n FROM north.t UNION SELECT n FROM west.t) q ORDER BY n LIMIT 3",
        "SELECT n FROM north.t UNION SELECT n FROM west.t ORDER BY n LIMIT 3",
        "SELECT n FROM north.t EXCEPT ALL SELECT n FROM west.t ORDER BY n LIMIT 3",
        "SELECT s FROM city.mixed ORDER BY s LIMIT 3",
        "SELECT k FROM city.mixed WHERE s > '5' ORDER BY k LIMIT 3",
        "SELECT s FROM north.o UNION ALL SELECT s FROM north.t UNION ALL SELECT s FROM west.t ORDER BY 1 LIMIT 3",
        "SELECT n FROM north.t ORDER BY n LIMIT 3",
        "SELECT (SELECT p.n FROM city.t5 p WHERE p.k = q.k ORDER BY p.n LIMIT 1) AS v FROM mid.t q",
        "SELECT n FROM city.t5 ORDER BY n LIMIT 5000000",
    ],
)  # fmt: skip
def test_what_is_not_proven_is_left_as_it_is(sql: str) -> None:
    bound, made, _ = pushed(sql)
    assert made is bound


# -- the decision ---------------------------------------------------------------------------------------------------


def test_masked_sort_key_stays_above_and_a_masked_output_does_not_matter() -> None:
    mask = {"north.t": ResourceDecision(True, {}, PLAIN | {"s": ColumnRule("masked", Mask("redact", {}))}, ROWS)}
    for key, applies in (("s", False), ("lower(s)", False), ("n", True)):
        bound, made, _ = pushed(f"SELECT n, s FROM city.t5 ORDER BY {key} LIMIT 3", decide(mask))
        assert (made is not bound) == applies
    bound, made, _ = pushed("SELECT s FROM north.t UNION ALL SELECT s FROM mid.t ORDER BY 1 LIMIT 3", decide(mask))
    assert made is bound
    bound, made, _ = pushed("SELECT z, n FROM (SELECT s AS z, n FROM city.t5) q ORDER BY z LIMIT 3", decide(mask))
    assert made is bound


def test_filtered_leaf_gives_its_first_permitted_rows() -> None:
    rule = {"type": "field", "field": "n", "operator": "gt", "value": 4}
    mask = PLAIN | {"m": ColumnRule("masked", Mask("bucket", {"width": 2}))}
    bound, made, decision = pushed(
        f"SELECT n, m, h FROM city.t5 WHERE m > 1 ORDER BY {TOTAL.replace('m, ', '')} LIMIT 6",
        decide({"north.t": ResourceDecision(True, rule, mask, ROWS)}),
    )
    assert made is not bound
    expected, _ = apart(WORLD, bound, decision)
    answer, _ = apart(WORLD, made, decision)
    assert same(expected, answer, ordered=True)


@pytest.mark.parametrize("mode", ["aggregate", "closed"])
def test_leaf_in_another_mode_than_rows_stops_the_pass(mode: Any) -> None:
    strict = ResourceDecision(True, {}, PLAIN, Constraints(mode, 3, "g", ("count",), 500, False, 0, ()))
    bound, made, _ = pushed("SELECT n FROM city.t5 ORDER BY n LIMIT 3", decide({"mid.t": strict}))
    assert made is bound


def test_both_passes_together() -> None:
    bound = WORLD.bind("SELECT a.s, a.v, b.n FROM (SELECT s, sum(n) AS v FROM city.t5 GROUP BY s) a JOIN (SELECT s, n FROM city.t2 WHERE n > 3 ORDER BY h LIMIT 5) b ON a.s = b.s ORDER BY 1, 2, 3")  # fmt: skip
    decision = whole(bound)
    made = topn.push_limits(partial.partial_aggregates(bound, decision, WORLD.schema, WORLD.placement), decision, WORLD.schema, WORLD.placement)  # fmt: skip
    check_tree(bound, made)
    answer, sent = apart(WORLD, made, decision)
    assert same(locally(WORLD, bound), answer, ordered=True)
    assert sum(sent) < 40


# -- mutants: each breaks one rule, and a check above must notice --------------------------------------------------------


def _without_offset(query: exp.Expr) -> int | None:
    limit = query.args.get("limit")
    return int(limit.expression.name) if limit is not None else None


def _other_nulls(key: exp.Ordered, value: exp.Expr) -> exp.Ordered:
    made = key.copy()
    made.set("this", value)
    made.set("nulls_first", not key.args.get("nulls_first"))
    return made


def _ascending(key: exp.Ordered, value: exp.Expr) -> exp.Ordered:
    made = key.copy()
    made.set("this", value)
    made.set("desc", False)
    return made


MUTANTS: list[tuple[str, Any, str]] = [
    ("_most", _without_offset, f"SELECT n FROM city.t5 ORDER BY {TOTAL} LIMIT 3 OFFSET 4"),
    ("_within", _other_nulls, f"SELECT n FROM city.t5 ORDER BY n DESC NULLS LAST, {TOTAL} LIMIT 2"),
    ("_within", _ascending, f"SELECT n FROM city.t5 ORDER BY n DESC NULLS LAST, {TOTAL} LIMIT 5"),
    ("conjuncts", lambda condition: iter(()), f"SELECT n FROM city.t5 WHERE n > 3 ORDER BY {TOTAL} LIMIT 5"),
]


@pytest.mark.parametrize("number", range(len(MUTANTS)))
def test_mutant_is_noticed(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    name, wrong, sql = MUTANTS[number]
    equal(sql)
    monkeypatch.setattr(topn, name, wrong)
    with pytest.raises(AssertionError):
        equal(sql)


def test_mutant_that_sorts_by_masked_columns_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topn._Rules, "_masked", lambda self, node: False)
    with pytest.raises(AssertionError):
        test_masked_sort_key_stays_above_and_a_masked_output_does_not_matter()


def test_answer_does_not_depend_on_the_order_of_parts() -> None:
    bound, made, decision = pushed(f"SELECT n, h FROM city.t5 ORDER BY {TOTAL} LIMIT 6")
    turned = replace(made, tree=made.tree.copy())
    for union in turned.tree.find_all(exp.Union):
        left, right = union.this, union.args["expression"]
        union.set("this", right.copy())
        union.set("expression", left.copy())
    answer, _ = apart(WORLD, turned, decision)
    assert same(locally(WORLD, bound), answer, ordered=True)

# ruff: noqa: E501 - one query a line reads better than a wrapped one
"""Restrict: what the node makes of a fragment; barriers; nothing about hidden rows in an error; subjects."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import duckdb
import pytest

from tests.fakes.sql_world import COLUMNS, KEYS, ROWS, SUBJECT_KEY, Decide, World, decide, small_world, table, whole
from tidegate.core.decision import ColumnRule, Constraints, Mask, ResourceDecision
from tidegate.core.errors import Code, TidegateError
from tidegate.sql import admit, bind
from tidegate.sql.model import BoundQuery
from tidegate.sql.restrict import RestrictedQuery, restrict

WORLD = small_world()
PLAIN = {name: ColumnRule("plain") for name in COLUMNS}
FILTER = {"type": "field", "field": "n", "operator": "lt", "value": 20}
FILTERED = ResourceDecision(True, FILTER, PLAIN, ROWS)
MASKED = ResourceDecision(True, {}, PLAIN | {"s": ColumnRule("masked", Mask("hash", {}))}, ROWS)
WHOLE = ResourceDecision(True, {}, PLAIN, ROWS)


def made(sql: str, policy: Decide, *, subject_key: bytes = b"", fragment: bool = False) -> RestrictedQuery:
    bound = bound_of(sql, fragment)
    return restrict(bound, policy(bound), KEYS, schema=WORLD.schema, subject_key=subject_key)


def bound_of(sql: str, fragment: bool = False) -> BoundQuery:
    return bind.bind(admit.admit(sql), WORLD.schema, (), fragment=fragment)


def test_leaf_that_passes_whole_is_a_flat_subselect_of_the_columns_that_are_read() -> None:
    found = made("SELECT k FROM air.a WHERE n > 3", whole)
    assert found.setup == ()
    assert found.tables == {"air.a"}
    assert '(SELECT "r0"."k" AS "k", "r0"."n" AS "n" FROM "air"."a" AS "r0") AS "r0"' in found.query.text
    assert found.raw == {"r0": ("k", "n")}


def test_filter_makes_a_view_and_a_secure_one_when_the_query_can_raise() -> None:
    plain = made("SELECT k, count(*) FROM air.a WHERE n > 3 GROUP BY k ORDER BY k", decide({"air.a": FILTERED}))
    assert plain.setup[0].startswith('CREATE TEMP VIEW "tg_r0" AS SELECT')
    assert 'WHERE ("r0"."n" < 20) IS TRUE' in plain.setup[0]
    assert plain.tables == {"tg_r0"}
    for risky in (
        "SELECT k // n FROM air.a",
        "SELECT k FROM air.a WHERE s::INTEGER > 3",
        "SELECT k FROM air.a WHERE s = 5",
    ):
        assert made(risky, decide({"air.a": FILTERED})).setup[0].startswith('CREATE TEMP SECURE VIEW "tg_r0"')


def test_every_instance_is_restricted_and_tables_say_what_the_query_reads() -> None:
    sql = (
        "WITH q AS (SELECT k FROM air.a) SELECT k FROM q WHERE k IN (SELECT k FROM air.a) UNION SELECT x.k FROM air.a x, air.a y "
        "WHERE EXISTS (SELECT 1 FROM sea.b)"
    )
    found = made(sql, decide({"air.a": FILTERED}))
    assert len(found.setup) == 4
    assert found.tables == {
        "sea.b",
        *(f"tg_{ref}" for ref in found.raw if any(f'"tg_{ref}"' in line for line in found.setup)),
    }
    assert '"air"."a"' not in found.query.text


def test_filter_reads_raw_columns_and_masks_come_after() -> None:
    rule = replace(MASKED, row_filter={"type": "field", "field": "s", "operator": "eq", "value": "JFK"})
    answer = WORLD.run("SELECT s, count(*) FROM air.a GROUP BY s", policy=decide({"air.a": rule}))
    expected = hmac.new(
        KEYS.key(Mask("hash", {}), next(iter(WORLD.tables["air.a"].dataset.name for _ in "x")), "s"),
        b"JFK",
        hashlib.sha256,
    )
    assert [row[0] for row in answer.rows] == [expected.hexdigest()]


def test_mask_key_stands_in_the_setup_only() -> None:
    found = made("SELECT s FROM air.a WHERE s = 'JFK'", decide({"air.a": MASKED}))
    key = KEYS.key(Mask("hash", {}), WORLD.tables["air.a"].dataset.name, "s")
    pad = bytes(byte ^ 0x36 for byte in key.ljust(64, b"\0")).hex()
    assert pad in found.setup[0]
    assert pad not in found.query.text
    assert found.rules == {"r0": ("s: masked (hash)",)}


def test_restricting_leaves_the_bound_query_as_it_was_and_gives_the_same_twice() -> None:
    bound = bound_of("SELECT k, s FROM air.a WHERE n > 3")
    decision = decide({"air.a": FILTERED})(bound)
    before = bound.tree.sql()
    first = restrict(bound, decision, KEYS, schema=WORLD.schema)
    assert restrict(bound, decision, KEYS, schema=WORLD.schema) == first
    assert bound.tree.sql() == before


@pytest.mark.parametrize("column", ["nothing", "tg_subject"])
def test_fragment_may_not_read_what_the_decision_does_not_offer(column: str) -> None:
    with pytest.raises(TidegateError) as caught:
        made(
            f'SELECT "r0"."{column}" AS c0 FROM "air"."a" AS "r0"',
            decide({"air.a": FILTERED}),
            fragment=True,
            subject_key=SUBJECT_KEY,
        )
    assert caught.value.code in (Code.PLAN_UNKNOWN_COLUMN, Code.POLICY_STRUCTURE)


# -- subjects -------------------------------------------------------------------------------------------------------

COUNTED = ResourceDecision(True, {}, PLAIN, Constraints("aggregate", 3, "p", ("count",), 100, False, 0, ()))
ROWS_WITH_SUBJECT = 'SELECT "r0"."k" AS "c0", "r0"."tg_subject" AS "c1" FROM "air"."a" AS "r0"'


def test_rows_of_mode_aggregate_leave_only_with_their_subjects_pseudonym() -> None:
    policy = decide({"air.a": COUNTED})
    found = made(ROWS_WITH_SUBJECT, policy, fragment=True, subject_key=SUBJECT_KEY)
    assert found.floors == ()
    assert found.setup
    for sql in (
        'SELECT "r0"."k" AS "c0" FROM "air"."a" AS "r0"',
        'SELECT "r0"."k" + 0 AS "c0", "r0"."tg_subject" AS "c1" FROM "air"."a" AS "r0"',
        'SELECT "r0"."k" AS "c0", count("r0"."tg_subject") AS "c1" FROM "air"."a" AS "r0" GROUP BY "r0"."k"',
        'SELECT "r0"."k" AS "c0" FROM "air"."a" AS "r0" WHERE "r0"."tg_subject" = \'x\'',
        ROWS_WITH_SUBJECT + " LIMIT 1",
        ROWS_WITH_SUBJECT + ' WHERE CAST("r0"."s" AS INTEGER) > 3',
        ROWS_WITH_SUBJECT.replace("SELECT", "SELECT DISTINCT"),
    ):
        with pytest.raises(TidegateError) as caught:
            made(sql, policy, fragment=True, subject_key=SUBJECT_KEY)
        assert caught.value.code is Code.POLICY_STRUCTURE, sql


def test_subjects_without_a_key_in_the_grant_are_refused() -> None:
    with pytest.raises(TidegateError) as caught:
        made(ROWS_WITH_SUBJECT, decide({"air.a": COUNTED}), fragment=True)
    assert caught.value.code is Code.NODE_FRAGMENT


def test_whole_query_in_mode_aggregate_gets_its_floor_at_the_node() -> None:
    found = made("SELECT s, count(*) FROM air.a GROUP BY s", decide({"air.a": COUNTED}))
    assert [(floor.column, floor.minimum) for floor in found.floors] == [(2, 3)]
    assert found.query.text.rstrip().endswith(
        'count(DISTINCT "r0"."tg_subject") AS "tg_n0" FROM (SELECT "r0"."s" AS "s", CAST("r0"."p" AS VARCHAR) AS "tg_subject" FROM "air"."a" AS "r0") AS "r0" GROUP BY "r0"."s"'
    )


# -- nothing about hidden rows --------------------------------------------------------------------------------------


def secret_world(hidden: Sequence[tuple[Any, ...]]) -> World:
    """Make a dataset of two visible rows (open) and these hidden ones."""
    visible = [(1, "10", 4, "open"), (2, "20", 5, "open")] * 3
    columns = {"k": "BIGINT", "v": "VARCHAR", "n": "INTEGER", "state": "VARCHAR"}
    return World(
        {
            "air.x": table("air.x", columns, [*visible, *hidden], "k"),
            "air.y": table("air.y", {"k": "BIGINT"}, [(1,), (2,), (3,)]),
        }
    )


QUIET = secret_world([(3, "30", 6, "closed")])
LOUD = secret_world(
    [(3, "HIDDEN_CANARY", 2_147_483_647, "closed"), (4, "", -2_147_483_648, "closed"), (5, "[", 0, "closed")]
)
OPEN = {
    "type": "compound",
    "operator": "or",
    "value": [
        {"type": "field", "field": "state", "operator": "eq", "value": "open"},
        {"type": "field", "field": "k", "operator": "eq", "value": -1},
    ],
}
"""Two columns, so that DuckDB cannot hand it to the scan and orders it among the query's own conditions by cost."""
OPEN_ONLY = decide(
    {
        "air.x": ResourceDecision(
            True,
            OPEN,
            {name: ColumnRule("plain") for name in ("k", "v", "n")}
            | {"state": ColumnRule("masked", Mask("redact", {}))},
            ROWS,
        )
    }
)

PROBES = [
    "SELECT k FROM air.x WHERE n + n > 3 AND k < 3",
    "SELECT k FROM air.x WHERE n - 1 < 5",
    "SELECT CAST(v AS INTEGER) FROM air.x",
    "SELECT k FROM air.x WHERE CAST(v AS INTEGER) > 3",
    "SELECT k FROM air.x WHERE v = 5",
    "SELECT k FROM air.x WHERE v > 5 AND k > 1",
    "SELECT n + 1 FROM air.x",
    "SELECT k FROM air.x WHERE n * n > 3",
    "SELECT k FROM air.x WHERE -n > 0",
    "SELECT abs(n) FROM air.x",
    "SELECT sum(CAST(v AS INTEGER)) FROM air.x",
    "SELECT CAST(v AS DATE) IS NULL FROM air.x WHERE k > 100",
    "SELECT x.k FROM air.x x JOIN air.y y ON CAST(x.v AS INTEGER) = y.k * 10",
    "SELECT y.k FROM air.y y LEFT JOIN air.x x ON x.k = y.k AND CAST(x.v AS INTEGER) > 3",
    "SELECT y.k FROM air.y y WHERE EXISTS (SELECT 1 FROM air.x x WHERE CAST(x.v AS INTEGER) = y.k)",
    "SELECT y.k FROM air.y y WHERE y.k IN (SELECT CAST(v AS INTEGER) FROM air.x)",
    "SELECT k FROM air.x GROUP BY k HAVING max(CAST(v AS INTEGER)) > 3",
    "SELECT k FROM air.x ORDER BY CAST(v AS INTEGER), k",
    "SELECT k FROM air.x QUALIFY rank() OVER (ORDER BY CAST(v AS INTEGER)) > 0 ORDER BY k",
    "SELECT k FROM air.x WHERE regexp_matches('x', v)",
    "SELECT k FROM air.x WHERE n = CAST('abc' AS INTEGER)",
    "SELECT count(*) FROM air.x WHERE CAST(state AS INTEGER) = 3",
    "SELECT k FROM air.x WHERE state = 3",
    "SELECT k, v, n, state FROM air.x",
    "SELECT min(v), max(v), min(n), max(n), count(DISTINCT k) FROM air.x",
]


def outcome(world: World, sql: str, policy: Decide = OPEN_ONLY) -> tuple[str, str]:
    try:
        return "rows", repr(sorted(world.run(sql, policy=policy).rows, key=repr))
    except (duckdb.Error, TidegateError) as error:
        return type(error).__name__, str(error)


@pytest.mark.parametrize("sql", PROBES)
def test_outcome_says_nothing_about_hidden_rows(sql: str) -> None:
    quiet, loud = outcome(QUIET, sql), outcome(LOUD, sql)
    assert quiet == loud
    assert "HIDDEN_CANARY" not in loud[1]


def test_probes_would_tell_if_the_restriction_were_not_there() -> None:
    """The comparison has teeth: without the policy most outcomes differ between the two databases."""
    assert sum(outcome(QUIET, sql, whole) != outcome(LOUD, sql, whole) for sql in PROBES) > len(PROBES) * 0.6

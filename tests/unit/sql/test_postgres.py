"""The PostgreSQL scan: a superset of what the fragment needs, and nothing that the engines may read differently."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import duckdb
import pytest
from sqlglot import exp

from tests.fakes.sql_world import COLUMNS, KEYS, ROWS, comparable, decide, execute, small_world
from tidegate.core.decision import ColumnRule, Mask, ResourceDecision
from tidegate.sql import postgres
from tidegate.sql.restrict import restrict

WORLD = small_world()
ITEM = WORLD.tables["air.a"]
PLAIN = {name: ColumnRule("plain") for name in COLUMNS}
RULE = ResourceDecision(
    True,
    {
        "type": "compound",
        "operator": "and",
        "value": [
            {"type": "field", "field": "n", "operator": "lt", "value": 30},
            {"type": "field", "field": "s", "operator": "ne", "value": "EWR"},
        ],
    },
    PLAIN | {"d": ColumnRule("masked", Mask("truncate_date", {"unit": "month"}))},
    ROWS,
)


def scan(sql: str) -> Any:
    bound = WORLD.bind(sql)
    decision = decide({"air.a": RULE})(bound)
    made = restrict(bound, decision, KEYS, schema=WORLD.schema)
    conditions = postgres.prefilter(bound, "r0", decision, schema=WORLD.schema)
    return postgres.scan(ITEM.dataset, ("public", 'od"d'), made.raw["r0"], conditions, bound.parameters), made


SAID = {
    "n > 5": '("n" > 5)',
    "5 > n": '("n" < 5)',
    "n BETWEEN 3 AND 20": '("n" BETWEEN 3 AND 20)',
    "s = 'it''s'": '("s" = CAST($1 AS text))',
    "s IN ('JFK', 'LGA')": '("s" IN (CAST($1 AS text), CAST($2 AS text)))',
    "s IS NULL OR k = 3": '(("s" IS NULL) OR ("k" = 3))',
    "NOT n = 5": '(NOT ("n" = 5))',
    "m >= 2.5": '("m" >= 2.5)',
    "b = TRUE": '("b" = TRUE)',
    "n IS NOT NULL": '(NOT ("n" IS NULL))',
}
UNSAID = (
    "s > 'J'",
    "s <> 'JFK'",
    "NOT s = 'JFK'",
    "s LIKE 'J%'",
    "x > 1",
    "x = 1",
    "lower(s) = 'jfk'",
    "n + 1 > 3",
    "d = DATE '2024-02-01'",
    "s IS NULL OR x > 1",
)


@pytest.mark.parametrize("where", SAID)
def test_condition_is_said_in_postgresql(where: str) -> None:
    text = scan(f"SELECT k FROM air.a WHERE {where}")[0].text
    assert text.startswith('SELECT "')
    assert text.endswith(f' FROM "public"."od""d" WHERE ("n" < 30) AND {SAID[where]}')


@pytest.mark.parametrize("where", UNSAID)
def test_condition_that_may_mean_something_else_there_is_left_out(where: str) -> None:
    made = scan(f"SELECT k FROM air.a WHERE {where}")[0]
    assert made.text.endswith(' FROM "public"."od""d" WHERE ("n" < 30)')
    assert made.parameters == ()


@pytest.mark.parametrize("where", [*SAID, *UNSAID])
def test_restricted_fragment_over_the_scan_answers_as_over_the_table(where: str) -> None:
    sql = f"SELECT k, s, n, d FROM air.a WHERE {where}"
    expected = WORLD.run(sql, policy=decide({"air.a": RULE})).rows
    wanted, made = scan(sql)
    rows = execute(WORLD.nodes["air"].cursor(), replace(wanted, text=wanted.text.replace('"public"."od""d"', "air.a")))
    database = duckdb.connect()
    target = database.cursor()
    target.execute("CREATE SCHEMA air")
    target.register("scanned", rows)
    target.execute("CREATE TABLE air.a AS SELECT * FROM scanned")
    for statement in made.setup:
        target.execute(statement)
    assert comparable(target.execute(made.query.text, list(made.query.parameters)).fetchall()) == comparable(expected)


def test_scan_without_columns_or_conditions() -> None:
    assert postgres.scan(ITEM.dataset, ("t",), (), ()).text == 'SELECT 1 FROM "t"'
    odd = exp.EQ(this=exp.column("nothing", "r0"), expression=exp.Literal.number(1))
    assert postgres.scan(ITEM.dataset, ("t",), ("k",), (odd,)).text == 'SELECT "k" FROM "t"'

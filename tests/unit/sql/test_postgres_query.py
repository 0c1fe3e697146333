"""Whole fragments in PostgreSQL: what is translated answers there as in DuckDB, and what is not known to is not translated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from tests.fakes.differential_generator import question
from tests.fakes.differential_generator_world import COLLECTIONS, generated_world
from tests.fakes.postgres_world import PostgresWorld, fill
from tests.fakes.sql_world import Table, World, comparable, decide, rows_of, whole
from tests.postgres import MISSING, fresh_database, postgres_url
from tidegate.core.decision import ColumnRule, ResourceDecision
from tidegate.core.errors import TidegateError
from tidegate.sql import postgres_values
from tidegate.sql.postgres_values import Unsaid
from tidegate.sql.restrict import KeyRelation

pytestmark = pytest.mark.postgres
SEEDS = 400
SAID = (
    "SELECT sum(m), avg(m), avg(n), min(s), max(d), count(DISTINCT s), count(*) FROM air.p",
    "SELECT s, count(*) FROM air.p GROUP BY s HAVING count(*) > 1 ORDER BY s",
    "SELECT u, s FROM air.p WHERE s LIKE '%\\%' OR s LIKE 'a_b' OR s LIKE 'J%'",
    "SELECT u FROM air.p WHERE s >= 'E' AND s < 'zz'",
    "SELECT DISTINCT s FROM air.p",
    "SELECT u FROM air.p WHERE d IN (SELECT d FROM air.q WHERE n > 3)",
    "SELECT u FROM air.p p WHERE NOT EXISTS (SELECT 1 FROM air.q q WHERE q.j = p.j)",
    "SELECT u FROM air.p p WHERE m > (SELECT max(q.m) FROM air.r q WHERE q.j = p.j) OR m IS NULL",
    "WITH w AS (SELECT j, sum(m) AS t FROM air.p GROUP BY j) SELECT a.j, b.t FROM w a JOIN w b ON a.j = b.j",
    "SELECT p.u, q.u FROM air.p p LEFT JOIN air.q q ON p.j = q.j AND q.n > 5",
    "SELECT year(d), count(*) FROM air.p GROUP BY year(d)",
    "SELECT u FROM air.p WHERE d < DATE '2024-02-01' + INTERVAL 1 MONTH",
    "SELECT sum(CASE WHEN b THEN m ELSE 0 END), sum(n) FILTER (WHERE b) FROM air.p",
    "SELECT u, m FROM air.p ORDER BY m DESC NULLS LAST, u LIMIT 3 OFFSET 1",
    "SELECT coalesce(s, 'none'), substring(s, 1, 2) FROM air.p",
    "SELECT s FROM air.p UNION SELECT s FROM air.q",
    "SELECT u FROM air.p WHERE b IS NOT TRUE AND s IS DISTINCT FROM 'JFK'",
    "SELECT s || 'x' FROM air.p",
    "SELECT u + 1, m * (1 - m), -n FROM air.p WHERE n BETWEEN 3 AND 20",
)
UNSAID = {
    "SELECT u FROM air.p WHERE x > 1": "compares in another way",
    "SELECT sum(x) FROM air.p": "aggregate sum",
    "SELECT m / 2 FROM air.p": "Div",
    "SELECT upper(s) FROM air.p": "function upper",
    "SELECT u FROM air.p WHERE s ILIKE 'j%'": "ILike",
    "SELECT CAST(s AS INTEGER) FROM air.p": "a cast to INTEGER",
    "SELECT p.u FROM air.p p FULL JOIN air.q q ON p.j = q.j": "a join of kind FULL",
    "SELECT row_number() OVER (ORDER BY u) FROM air.p": "indow",
    "SELECT DISTINCT ON (j) u FROM air.p ORDER BY j, u": "DISTINCT ON",
    "SELECT n % 3 FROM air.p": "Mod",
}


def carried(item: Table) -> Table:
    """Give a table without what PostgreSQL has no type for: lists go, and a HUGEINT is a decimal."""
    places = [place for place, column in enumerate(item.dataset.columns) if not column.type.endswith("[]")]
    columns = tuple(
        replace(column, type="DECIMAL(38,0)") if column.type == "HUGEINT" else column
        for column in (item.dataset.columns[place] for place in places)
    )
    rows = tuple(tuple(row[place] for place in places) for row in item.rows)
    return Table(replace(item.dataset, columns=columns), rows)


@pytest.fixture(scope="module")
def world() -> Iterator[PostgresWorld]:
    url = postgres_url()
    if url is None:
        pytest.skip(MISSING)
    held = generated_world(make=World)
    tables = {name: carried(item) for name, item in held.tables.items()}
    database = fresh_database(url)
    fill(database, list(tables.values()))
    opened = PostgresWorld.of(World(tables, dict(COLLECTIONS)), database)
    yield opened
    opened.source.close()


def check(world: PostgresWorld, sql: str, policy: Any = whole, *, ordered: bool = False, within: str = "") -> bool:
    """Compare both engines; False when the fragment has no translation."""
    made, bound = world.restricted(sql, (), policy)
    try:
        query = world.translated(made, bound)
    except Unsaid:
        return False
    expected, found = world.in_duckdb(made), world.in_postgres(query, made, bound)
    assert found.schema.types == expected.schema.types, sql
    if within:  # a LIMIT without an order: how many is all that is fixed
        assert found.num_rows == expected.num_rows, sql
        return True
    said, meant = (comparable(rows_of(table), ordered=ordered) for table in (found, expected))
    assert said == meant, (sql, query.text)
    return True


@pytest.mark.parametrize("sql", SAID)
def test_what_is_translated_answers_as_in_duckdb(world: PostgresWorld, sql: str) -> None:
    assert check(world, sql, ordered="ORDER BY" in sql)


@pytest.mark.parametrize("sql", UNSAID)
def test_what_the_engines_may_read_differently_is_not_translated(world: PostgresWorld, sql: str) -> None:
    made, bound = world.restricted(sql)
    with pytest.raises(Unsaid, match=UNSAID[sql]):
        world.translated(made, bound)


def test_generated_queries_answer_alike(world: PostgresWorld) -> None:
    translated = 0
    for seed in range(SEEDS):
        asked = question(seed)
        try:
            world.restricted(asked.sql)
        except TidegateError:
            continue  # it reads what PostgreSQL has no type for
        translated += check(world, asked.sql, ordered=asked.ordered, within=asked.within)
    assert translated >= SEEDS // 25


def narrowed(bound: Any) -> Any:
    rules = {column: ColumnRule("plain") for column in "ukjsngmdtzbxyh"}
    held = {"type": "field", "field": "n", "operator": "gt", "value": 3}
    constraints = whole(bound).resources["r0"].constraints
    return decide({str(leaf.dataset): ResourceDecision(True, held, rules, constraints) for leaf in bound.leaves})(bound)


@pytest.mark.parametrize("sql", SAID)
def test_a_row_filter_holds_in_the_database(world: PostgresWorld, sql: str) -> None:
    assert check(world, sql, narrowed, ordered="ORDER BY" in sql)


def test_a_barrier_is_a_view_and_none_is_made_where_the_role_may_not(world: PostgresWorld) -> None:
    made, bound = world.restricted("SELECT u + g FROM air.p", (), narrowed)
    query = world.translated(made, bound)
    assert [text.startswith('CREATE TEMP VIEW "tg_r0" WITH (security_barrier) AS ') for text in query.setup] == [True]
    with pytest.raises(Unsaid, match="a barrier"):
        world.translated(made, bound, may_make_views=False)


def test_no_character_of_a_text_is_in_the_statement(world: PostgresWorld) -> None:
    text = "'; DROP TABLE air.p; --\\ \" $1 É"
    made, bound = world.restricted("SELECT u FROM air.p WHERE s = $1 OR s LIKE $1", (text,))
    query = world.translated(made, bound)
    assert "DROP" not in query.text
    assert "É" not in query.text
    assert query.text.count(text.encode().hex()) == 2
    assert world.in_postgres(query, made, bound).num_rows == 0


@pytest.mark.parametrize(
    ("column", "keys"),
    [("j", [1, 3, 99]), ("s", ["JFK", "it's", "Ö", "nowhere"]), ("d", None), ("j", []), ("s", [])],
)
def test_keys_cut_rows_in_the_database(world: PostgresWorld, column: str, keys: list[Any] | None) -> None:
    if keys is None:
        keys = [
            row[0] for row in world.local.execute("SELECT DISTINCT d FROM air.q WHERE d IS NOT NULL LIMIT 2").fetchall()
        ]
    relation = KeyRelation("r0", column, "tg_k0")
    made, bound = world.restricted(f"SELECT u, {column} FROM air.p", (), whole, [relation])
    query = world.translated(made, bound, keys={"tg_k0": keys})
    kind = {"j": pa.int32(), "s": pa.string(), "d": pa.date32()}[column]
    expected = world.in_duckdb(made, {"tg_k0": pa.table({"k": pa.array(keys, kind)})})
    assert comparable(rows_of(world.in_postgres(query, made, bound))) == comparable(rows_of(expected))
    assert expected.num_rows or not keys


def test_keys_that_have_no_form_are_left_to_the_worker() -> None:
    for values, kind in (
        (["a\x1fb"], "text"),
        (["a\x00"], "text"),
        ([2**63], "integer"),
        ([1.5], "integer"),
        (range(postgres_values.KEYS_MAX + 1), "integer"),
    ):
        with pytest.raises(Unsaid):
            postgres_values.array(values, kind)

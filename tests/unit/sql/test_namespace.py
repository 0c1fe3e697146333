"""Names of one and of three parts: what BI tools write, and what a session's department adds. Neither opens anything."""

from __future__ import annotations

import pickle

import pytest

from tests.sql_world import SCHEMA
from tidegate.core.errors import CallerError, Code
from tidegate.sql.model import BARE, Namespace
from tidegate.sql.plan import plan
from tidegate.sql.render import render

EXCHANGE = Namespace("city-1.example")
AVIATION = Namespace("city-1.example", "aviation")


def text(sql: str, namespace: Namespace = EXCHANGE) -> str:
    bound = plan(sql, SCHEMA, namespace=namespace)
    return render(bound.tree, bound.parameters).text


def code(sql: str, namespace: Namespace = EXCHANGE) -> Code:
    with pytest.raises(CallerError) as caught:
        plan(sql, SCHEMA, namespace=namespace)
    assert "flights" not in str(caught.value) and "aviation" not in str(caught.value)
    return caught.value.code


SAME = text("SELECT carrier FROM aviation.flights WHERE distance > 3", BARE)


@pytest.mark.parametrize(
    "sql",
    [
        'SELECT carrier FROM "city-1.example".aviation.flights WHERE distance > 3',
        'SELECT "carrier" FROM "city-1.example"."aviation"."flights" WHERE "distance" > 3',
        'SELECT "flights"."carrier" FROM "city-1.example"."aviation"."flights" WHERE "aviation"."flights"."distance" > 3',
        'SELECT "city-1.example"."aviation"."flights"."carrier" FROM "city-1.example"."aviation"."flights" WHERE distance > 3',
        'SELECT "city-1.example".aviation.flights.carrier FROM aviation.flights '
        'WHERE "CITY-1.example".aviation.flights.distance > 3',
        'SELECT "T1"."carrier" FROM "city-1.example"."aviation"."flights" "T1" WHERE ("T1"."distance" > 3)',
        'SELECT carrier FROM "City-1.Example".Aviation.Flights WHERE distance > 3',
    ],
)
def test_the_exchanges_own_name_before_a_department_changes_nothing(sql: str) -> None:
    assert text(sql) == SAME


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT carrier FROM flights WHERE distance > 3",
        'SELECT "flights"."carrier" FROM "flights" WHERE aviation.flights.distance > 3',
        'SELECT carrier FROM aviation.flights WHERE "city-1.example".aviation.flights.distance > 3',
        "SELECT f.carrier FROM FLIGHTS f WHERE f.distance > 3",
    ],
)
def test_a_session_department_is_where_a_name_of_one_part_is_looked_for(sql: str) -> None:
    assert text(sql, AVIATION) == SAME


def test_a_cte_comes_before_the_session_department() -> None:
    assert "aviation" not in text("WITH flights AS (SELECT 1 AS carrier) SELECT carrier FROM flights", AVIATION)


def test_a_star_may_be_qualified_with_all_three_parts() -> None:
    plain = text("SELECT * FROM aviation.flights")
    assert text('SELECT "city-1.example".aviation.flights.* FROM "city-1.example".aviation.flights') == plain
    assert text("SELECT aviation.flights.* FROM flights", AVIATION) == plain


def test_a_collection_may_be_named_with_all_three_parts() -> None:
    assert text('SELECT kind FROM "city-1.example".city.permits') == text("SELECT kind FROM city.permits")


def test_fields_of_a_struct_are_still_read_after_three_parts() -> None:
    refused = code('SELECT "city-1.example".aviation.flights.carrier.part.more.again.no FROM weather.hours')
    assert refused is Code.PLAN_UNKNOWN_COLUMN
    made = text('SELECT "city-1.example".aviation.flights.carrier.part FROM aviation.flights')
    assert made == text("SELECT carrier.part FROM aviation.flights")


@pytest.mark.parametrize(
    ("sql", "namespace"),
    [
        ("SELECT carrier FROM other.aviation.flights", EXCHANGE),
        ('SELECT carrier FROM "".aviation.flights', EXCHANGE),
        ('SELECT carrier FROM "".aviation.flights', BARE),
        ('SELECT carrier FROM "city-1.example".aviation.flights', BARE),
        ('SELECT carrier FROM "city-1.example".flights', EXCHANGE),
        ('SELECT carrier FROM "city-1.example".flights', AVIATION),
        ('SELECT carrier FROM a."city-1.example".aviation.flights', EXCHANGE),
        ("SELECT carrier FROM memory.aviation.flights", EXCHANGE),
        ("SELECT carrier FROM flights", EXCHANGE),
        ("SELECT carrier FROM flights", Namespace("city-1.example", "weather")),
        ("SELECT carrier FROM flights", Namespace("city-1.example", "nobody")),
        ("SELECT kind FROM old", Namespace("city-1.example", "north")),
        ("SELECT * FROM information_schema.tables", AVIATION),
        ('SELECT * FROM "city-1.example".information_schema.tables', AVIATION),
        ("SELECT * FROM duckdb_tables", AVIATION),
    ],
)
def test_what_is_not_found_is_unknown_and_nothing_more_is_said(sql: str, namespace: Namespace) -> None:
    assert code(sql, namespace) is Code.PLAN_UNKNOWN_DATASET


@pytest.mark.parametrize("word", ["show", "describe", "summarize", "pragma", "call"])
def test_statements_in_the_place_of_a_table_stay_refused(word: str) -> None:
    refused = code(f"SELECT * FROM {word}", AVIATION)
    assert refused in (Code.PLAN_NOT_ALLOWED, Code.PLAN_SYNTAX)


@pytest.mark.parametrize(
    "wrong", ["other.aviation.flights.carrier", '"".aviation.flights.carrier', "other.flights.carrier"]
)
def test_another_catalog_before_a_column_is_an_unknown_column(wrong: str) -> None:
    assert code(f"SELECT {wrong} FROM aviation.flights") is Code.PLAN_UNKNOWN_COLUMN


def test_the_same_table_of_two_departments_stays_ambiguous_by_its_own_name() -> None:
    sql = 'SELECT permits.kind FROM "city-1.example".north.permits, "city-1.example".south.permits'
    assert code(sql) is Code.PLAN_AMBIGUOUS
    good = (
        'SELECT "city-1.example".north.permits.kind FROM "city-1.example".north.permits, "city-1.example".south.permits'
    )
    assert '"r0"."kind"' in text(good)


def test_a_namespace_travels_to_the_planning_process() -> None:
    assert pickle.loads(pickle.dumps(AVIATION)) == AVIATION

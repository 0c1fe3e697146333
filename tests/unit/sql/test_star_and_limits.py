"""What a star leaves out, and texts of a few hundred characters that would cost seconds: bounded before or while binding."""

from __future__ import annotations

import pytest

from tests.sql_world import SCHEMA
from tidegate.core.errors import Code, TidegateError
from tidegate.core.names import DatasetName
from tidegate.sql.admit import admit
from tidegate.sql.model import BoundQuery
from tidegate.sql.plan import plan

FLIGHTS, PERMITS = DatasetName.parse("aviation.flights"), DatasetName.parse("north.permits")
LEFT_OUT = {FLIGHTS: frozenset({"tags", "departed"}), PERMITS: frozenset({"cost"})}


def bound(sql: str) -> BoundQuery:
    return plan(sql, SCHEMA, (), LEFT_OUT)


def refusal(sql: str) -> Code:
    with pytest.raises(TidegateError) as caught:
        bound(sql)
    return caught.value.code


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM aviation.flights",
        "FROM aviation.flights",
        "TABLE aviation.flights",
        "SELECT f.* FROM aviation.flights AS f",
        "SELECT * EXCLUDE (tags) FROM aviation.flights",
        "WITH q AS (FROM aviation.flights) SELECT * FROM q",
        "SELECT * FROM (SELECT * FROM aviation.flights) AS q",
    ],
)
def test_a_star_leaves_them_out_in_every_form(sql: str) -> None:
    query = bound(sql)
    assert query.output_names == ("flight_id", "carrier", "origin", "dest", "dep_delay", "distance", "day")
    assert not {"tags", "departed"} & set(query.leaves[0].columns)


@pytest.mark.parametrize(
    "named", ["tags", "f.tags", "TAGS", '"tags"', "aviation.flights.tags", "*, tags", "tags AS x", "len(tags)"]
)
def test_a_column_that_is_named_is_read_so_that_the_policy_can_answer(named: str) -> None:
    alias = "" if named.startswith("aviation") else " AS f"
    assert "tags" in bound(f"SELECT {named} FROM aviation.flights{alias}").leaves[0].columns


def test_conditions_and_orders_read_a_named_one_too() -> None:
    for sql in (
        "SELECT 1 FROM aviation.flights WHERE tags IS NULL",
        "SELECT carrier FROM aviation.flights ORDER BY tags",
    ):
        assert "tags" in bound(sql).leaves[0].columns


def test_what_one_part_leaves_out_the_collection_leaves_out() -> None:
    query = bound("SELECT * FROM city.permits")
    assert query.output_names == ("id", "kind")
    assert [set(leaf.columns) for leaf in query.leaves] == [{"id", "kind"}] * 2
    assert all("cost" in leaf.columns for leaf in bound("SELECT cost FROM city.permits").leaves)


def test_a_star_that_renames_or_replaces_one_is_refused() -> None:
    assert refusal("SELECT * REPLACE (1 AS tags) FROM aviation.flights") is Code.PLAN_UNKNOWN_COLUMN
    assert refusal("SELECT * RENAME (tags AS t) FROM aviation.flights") is Code.PLAN_UNKNOWN_COLUMN


def test_an_unqualified_name_means_the_visible_column_of_another_table() -> None:
    sql = "SELECT tags FROM aviation.flights AS f JOIN (SELECT 1 AS tags) AS q ON true"
    assert "tags" not in bound(sql).leaves[0].columns


def test_a_limit_beyond_what_json_can_carry_is_an_ordinary_limit() -> None:
    query = bound("SELECT carrier FROM aviation.flights LIMIT 9223372036854775807")
    assert query.shape["limit"] == 2**53 - 1


def test_stars_of_stars_are_counted() -> None:
    parts = ["c0 AS (SELECT *, * FROM aviation.flights)"]
    parts += [f"c{number} AS (SELECT *, * FROM c{number - 1})" for number in range(1, 20)]
    assert refusal(f"WITH {', '.join(parts)} SELECT * FROM c19") is Code.PLAN_TOO_LARGE
    joined = ", ".join(f"aviation.flights AS t{number}" for number in range(40))
    assert refusal(f"SELECT {', '.join(['*'] * 500)} FROM {joined}") is Code.PLAN_TOO_LARGE


@pytest.mark.parametrize(
    ("opening", "closing", "inner"),
    [
        ("ARRAY[", "]", ", ".join(["1"] * 9000)),
        ("[", "]", " ".join(["CASE WHEN 1 = 1 THEN 2 END,"] * 1500) + "1"),
        ("ROW(", ")", ", ".join(["1"] * 9000)),
        ("DATE(", ")", "+".join(["1"] * 9000)),
    ],
)
def test_much_within_few_levels_is_refused_before_it_is_parsed(opening: str, closing: str, inner: str) -> None:
    with pytest.raises(TidegateError) as caught:
        admit(f"SELECT {opening * 6}{inner}{closing * 6}")
    assert caught.value.code is Code.PLAN_TOO_LARGE


@pytest.mark.parametrize(
    "sql",
    [
        f"SELECT [{', '.join(['1'] * 5000)}]",
        f"SELECT {', '.join(['[1, 2, 3]'] * 1000)}",
        "SELECT " + ", ".join(["{a: [1, 2], b: {c: 1}}"] * 300),
        f"VALUES {', '.join(['(1, [2], 3)'] * 1500)}",
    ],
    ids=["one long list", "many lists", "many structs", "many rows"],
)
def test_long_literals_of_ordinary_depth_are_admitted(sql: str) -> None:
    assert admit(sql) is not None

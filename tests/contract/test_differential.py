"""The differential suite: planned, split, asked of nodes and joined, every query answers what one local DuckDB answers.

Three times: with no policy; with row filters on every dataset; with filters and masks. The effect of a policy is computed by
plain Python over the rows, never by the code under test.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Any

import duckdb
import pytest

from tests.fakes.differential_queries import GROUPS, Question
from tests.fakes.sql_world import (
    COLUMNS,
    ROWS,
    Decide,
    Table,
    World,
    comparable,
    decide,
    hmac_text,
    load,
    rows_of,
    small_world,
    view,
    whole,
)
from tidegate.core.decision import ColumnRule, Mask, ResourceDecision
from tidegate.core.errors import TidegateError

WORLD = small_world()
NAMES = tuple(COLUMNS)
EVERY = slice(None)
Row = dict[str, Any]


def answer(database: duckdb.DuckDBPyConnection, question: Question) -> list[tuple[Any, ...]]:
    """Run the user's own text."""
    return rows_of(database.sql(question.sql, params=question.parameters).to_arrow_table())


def differences(
    group: str, database: duckdb.DuckDBPyConnection, policy: Decide, part: slice = EVERY
) -> tuple[float, list[str]]:
    """Run a group, or part of it; give the share of queries with an answer that is not empty, and the queries that differ."""
    full, wrong = 0, []
    questions = list(GROUPS[group]())[part]
    for question in questions:
        expected = comparable(answer(database, question), ordered=question.ordered)
        try:
            found = comparable(WORLD.run(question.sql, question.parameters, policy).rows, ordered=question.ordered)
        except (TidegateError, duckdb.Error) as error:
            wrong.append(f"{question.sql}\n   {error!r} {getattr(error, 'detail', '')}")
            continue
        full += bool(expected)
        if found != expected:
            wrong.append(f"{question.sql}\n   expected {len(expected)} rows, got {len(found)}")
    return full / len(questions), wrong


def test_suite_has_at_least_300_different_queries() -> None:
    assert len({question.sql for make in GROUPS.values() for question in make()}) >= 300


@pytest.mark.parametrize("group", GROUPS)
def test_no_policy(group: str) -> None:
    full, wrong = differences(group, WORLD.local, whole)
    assert not wrong, "\n".join(wrong)
    assert full >= 0.6, "too many queries have an empty answer to prove anything"


# -- filters --------------------------------------------------------------------------------------------------------

FILTER = {
    "type": "compound",
    "operator": "or",
    "value": [
        {"type": "field", "field": "n", "operator": "lt", "value": 28},
        {"type": "field", "field": "s", "operator": "in", "value": ["JFK", "it's", "Ö"]},
    ],
}


def passes(row: Row) -> bool:
    """Mirror FILTER in Python, NULL as unknown."""
    return (row["n"] is not None and row["n"] < 28) or row["s"] in ("JFK", "it's", "Ö")


MASKS = {
    "s": Mask("pseudonym", {"key": "shared:city"}),
    "d": Mask("truncate_date", {"unit": "month"}),
    "m": Mask("bucket", {"width": 2}),
}


def masked(name: str, row: Row) -> Row:
    """Mirror MASKS in Python."""
    month: date | None = None if row["d"] is None else row["d"].replace(day=1)
    money = None if row["m"] is None else row["m"] // 2 * 2
    return {**row, "s": hmac_text(MASKS["s"], name, "s", row["s"]), "d": month, "m": money}


def restricted(world: World, change: Callable[[str, Row], Row]) -> duckdb.DuckDBPyConnection:
    """Make the database that a caller under the policy would think is all there is."""
    database = duckdb.connect()
    database.execute("SET TimeZone = 'UTC'")
    for name, item in world.tables.items():
        rows = [dict(zip(NAMES, row, strict=True)) for row in item.rows]
        kept = tuple(tuple(change(name, row).values()) for row in rows if passes(row))
        load(database, Table(item.dataset, kept))
    for name, parts in world.collections.items():
        view(database, name, parts)
    return database


def policy_of(columns: dict[str, ColumnRule]) -> Decide:
    """Decide the same for every dataset."""
    rules = {name: ColumnRule("plain") for name in NAMES} | columns
    return decide({name: ResourceDecision(True, FILTER, rules, ROWS) for name in WORLD.tables})


FILTERED = policy_of({})
FILTERED_AND_MASKED = policy_of({name: ColumnRule("masked", mask) for name, mask in MASKS.items()})


HALVES = [
    pytest.param(slice(0, None, 2), id="half"),
    pytest.param(slice(1, None, 2), id="rest", marks=pytest.mark.long),
]
"""Under a policy ``scripts/test`` runs every second query: the generated ones have policies too."""


@pytest.mark.parametrize("part", HALVES)
@pytest.mark.parametrize("group", GROUPS)
def test_row_filters(group: str, part: slice) -> None:
    full, wrong = differences(group, restricted(WORLD, lambda _, row: row), FILTERED, part)
    assert not wrong, "\n".join(wrong)
    assert full >= 0.4


@pytest.mark.parametrize("part", HALVES)
@pytest.mark.parametrize("group", GROUPS)
def test_row_filters_and_masks(group: str, part: slice) -> None:
    full, wrong = differences(group, restricted(WORLD, masked), FILTERED_AND_MASKED, part)
    assert not wrong, "\n".join(wrong)
    assert full >= 0.2

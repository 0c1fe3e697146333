"""A template filled with other values is the plan that planning with these makes; where it is not sure, it is not used."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pytest

from tests.fakes.sql_world import ROWS
from tidegate.core.dataset import Column, Dataset, DatasetClass
from tidegate.core.decision import ColumnRule, Decision, ResourceDecision
from tidegate.core.names import DatasetName
from tidegate.sql.model import BoundQuery
from tidegate.sql.plan import plan_shaped
from tidegate.sql.render import render
from tidegate.sql.shapes import PlanTemplate, given, refilled
from tidegate.sql.split import split

COLUMNS = (Column("id", "BIGINT"), Column("name", "VARCHAR"), Column("day", "DATE"), Column("amount", "DECIMAL(12,2)"))


def _dataset(department: str) -> Dataset:
    name = DatasetName.parse(f"{department}.people")
    return Dataset(name, department, f"{department}-node", "people", DatasetClass.OPEN, COLUMNS)


SCHEMA = {item.name: item for item in (_dataset("health"), _dataset("housing"))}
PLACEMENT = {name: (item.owner, item.node) for name, item in SCHEMA.items()}
JOINED = "SELECT a.name, b.day FROM health.people a JOIN housing.people b ON a.id = b.id WHERE "

FREE = [
    ("SELECT name FROM health.people WHERE id = $1", [7], [8]),
    ("SELECT name FROM health.people WHERE id = $1 AND name = $2", [7, "x"], [123_456, "y; DROP"]),
    ("SELECT name FROM health.people WHERE $1 = name", ["a"], ["b"]),
    ("SELECT name FROM health.people WHERE id IN ($1, $2, 5)", [1, 2], [3, 4]),
    ("SELECT name FROM health.people WHERE id IN (SELECT unnest($1))", [[1, 2]], [[3, 4, 5, 6]]),
    ("SELECT name FROM health.people WHERE day = $1", [dt.date(2020, 1, 1)], [dt.date(2021, 5, 6)]),
    (JOINED + "a.id = $1 AND b.name = $2", [1, "q"], [9, "zz"]),
    (
        JOINED + "a.name = $who AND b.amount = $much",
        {"who": "q", "much": Decimal("1.50")},
        {"who": "r", "much": Decimal("9.99")},
    ),
]
BOUND_TO_VALUES = [
    ("SELECT name FROM health.people LIMIT $1", [5], [6]),
    ("SELECT repeat(name, $1) FROM health.people", [5], [6]),
    ("SELECT $1, name FROM health.people", [5], [6]),
    ("SELECT name FROM health.people WHERE id < $1", [5], [6]),
    ("SELECT name FROM health.people WHERE name LIKE $1", ["a%"], ["b%"]),
    ("SELECT name FROM health.people WHERE id + $1 = id", [5], [6]),
    ("SELECT name FROM health.people WHERE id = $1 OR id > $1", [5], [6]),
]
OTHER_CLASS = [
    ("SELECT name FROM health.people WHERE id = $1", [7], ["7"]),
    ("SELECT name FROM health.people WHERE id = $1", [7], [None]),
    ("SELECT name FROM health.people WHERE id = $1", [7], [10**20]),
    ("SELECT name FROM health.people WHERE day = $1", ["2020-01-01"], ["not a day"]),
    ("SELECT name FROM health.people WHERE id = $1", [7], [True]),
    ("SELECT name FROM health.people WHERE id = $1", [7], [7.5]),
]


def _decision(bound: BoundQuery) -> Decision:
    resources = {
        leaf.ref: ResourceDecision(True, {}, {name: ColumnRule("plain") for name in leaf.columns}, ROWS)
        for leaf in bound.leaves
    }
    return Decision(True, (), resources)


@pytest.mark.parametrize(("sql", "first", "second"), FREE)
def test_a_template_filled_anew_is_the_plan_made_anew(sql: str, first: Any, second: Any) -> None:
    bound, shape, slots = plan_shaped(sql, SCHEMA, first)
    assert shape.key(given(first)) == shape.key(given(second)) is not None
    before = bound.tree.sql()
    template = PlanTemplate.of(split(bound, _decision(bound), PLACEMENT, schema=SCHEMA), given(first))
    fresh, _, _ = plan_shaped(sql, SCHEMA, second)
    filled = refilled(bound, slots, given(second))
    assert render(filled.tree, filled.parameters) == render(fresh.tree, fresh.parameters)
    assert (filled.leaves, filled.shape, filled.output_names) == (fresh.leaves, fresh.shape, fresh.output_names)
    assert template.fill(given(second)) == split(fresh, _decision(fresh), PLACEMENT, schema=SCHEMA)
    assert bound.tree.sql() == before  # splitting changed nothing of what is shared


@pytest.mark.parametrize(("sql", "first", "second"), BOUND_TO_VALUES + OTHER_CLASS)
def test_a_value_that_may_matter_is_in_the_key(sql: str, first: Any, second: Any) -> None:
    _, shape, _ = plan_shaped(sql, SCHEMA, first)
    assert shape.key(given(first)) is not None
    assert shape.key(given(first)) != shape.key(given(second))


def test_values_that_are_equal_have_no_template_for_they_share_one_parameter() -> None:
    sql = "SELECT name FROM health.people WHERE id = $1 AND amount = $2 AND name = 'x'"
    _, shape, _ = plan_shaped(sql, SCHEMA, [1, 2])
    assert shape.key(given([3, 4])) is not None
    assert shape.key(given([3, 3])) is None
    assert shape.key(given([3, "x"])) is None  # the query's own text: it would be one parameter with it

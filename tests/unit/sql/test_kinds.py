# ruff: noqa: E501 - lists of expressions read better in long lines
"""Kinds: what is said of an expression's type is what DuckDB gives it, and equal texts mean equal types."""

from __future__ import annotations

import random

import pytest

from tests.unit.sql.test_partial import WORLD
from tidegate.sql.kinds import Kind, Kinds
from tidegate.sql.lineage import Lineage
from tidegate.sql.render import render

COLUMNS = ("k", "n", "g", "m", "w", "x", "f", "u", "b", "s", "d", "t", "h", "l")
NUMBERS = (
    "k",
    "n",
    "g",
    "m",
    "w",
    "x",
    "f",
    "u",
    "h",
    "1",
    "3000000000",
    "0.25",
    "1e3",
    "CAST(n AS SMALLINT)",
    "CAST(m AS DECIMAL(30,10))",
)
FORMS = (
    "{0} + {1}", "{0} - {1}", "{0} * {1}", "{0} / {1}", "{0} // {1}", "{0} % {1}", "-{0}", "abs({0})", "coalesce({0}, {1})",
    "greatest({0}, {1})", "nullif({0}, {1})", "CASE WHEN b THEN {0} ELSE {1} END", "CASE WHEN b THEN {0} END", "{0} + {1} * {0}",
    "CASE k WHEN 1 THEN {0} WHEN 2 THEN {1} ELSE 0 END",
)  # fmt: skip
OTHERS = (
    "lower(s)", "s || 'x'", "length(s)", "year(d)", "extract(month FROM t)", "date_part('epoch', t)", "date_trunc('month', d)",
    "date_trunc('day', t)", "d - d", "d + 1", "n > 3", "b AND n IS NULL", "s LIKE 'a%'", "n BETWEEN 1 AND 2", "n IN (1, 2)", "'text'",
    "TRUE", "round(m, 1)", "n ** 2", "sign(n)", "epoch(t)", "strftime(d, '%Y')", "[n, k]", "{'a': n}", "CAST(s AS DATE)", "t - t",
    "substring(s, 1, 2)", "CASE WHEN b THEN s ELSE 'x' END", "coalesce(s, 'x')", "monthname(d)", "NOT b", "strpos(s, 'a')", "hour(t)",
)  # fmt: skip
FAMILIES = {
    "integer": {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT"},
    "float": {"FLOAT", "DOUBLE"},
    "text": {"VARCHAR"},
    "boolean": {"BOOLEAN"},
    "date": {"DATE"},
    "timestamp": {"TIMESTAMP"},
}


def kind_and_type(expression: str) -> tuple[Kind | None, str] | None:
    """Give what the module says and what DuckDB says; None when DuckDB does not take the expression."""
    bound = WORLD.bind(f"SELECT {expression} AS v FROM north.t")
    kind = Kinds(bound, WORLD.schema, Lineage.of(bound)).of(bound.tree.expressions[0].unalias())
    sql = render(bound.tree, bound.parameters)
    cursor = WORLD.local.cursor()
    try:
        relation = cursor.sql(sql.text, params=list(sql.parameters))
        return kind, str(relation.types[0])
    except Exception as error:
        if type(error).__name__ not in ("BinderException", "ConversionException", "OutOfRangeException"):
            raise
        return None
    finally:
        cursor.close()


def agrees(expression: str) -> str:
    """Check one expression; give its family."""
    found = kind_and_type(expression)
    if found is None:
        return ""
    kind, held = found
    if kind is None or kind.family == "other":
        return "other"
    if kind.family == "decimal":
        assert held.startswith("DECIMAL("), f"{expression}: {held}"
        assert held.endswith(f",{kind.scale})"), f"{expression}: {held} {kind.scale}"
    else:
        assert held in FAMILIES[kind.family], f"{expression}: {kind.family} is {held}"
    return kind.family


@pytest.mark.parametrize("form", FORMS)
def test_arithmetic_has_the_family_and_scale_that_the_engine_gives(form: str) -> None:
    pairs = [(first, second) for first in NUMBERS for second in NUMBERS]
    known = [agrees(form.format(*pair)) for pair in random.Random(form).sample(pairs, 80)]
    assert sum(family in ("integer", "decimal", "float") for family in known) > 20


@pytest.mark.parametrize("expression", [*COLUMNS, *OTHERS])
def test_other_expressions_have_the_family_that_the_engine_gives(expression: str) -> None:
    assert agrees(expression)


def test_nested_expressions_have_the_family_that_the_engine_gives() -> None:
    chance = random.Random(7)
    known = []
    for _ in range(200):
        inner = [chance.choice(FORMS).format(*chance.sample(NUMBERS, 2)) for _ in range(2)]
        known.append(agrees(chance.choice(FORMS).format(*(f"({item})" for item in inner))))
    assert sum(family in ("integer", "decimal", "float") for family in known) > 60


@pytest.mark.parametrize(
    ("left", "right", "equal"),
    [
        ("SELECT n AS v FROM north.t", "SELECT n FROM mid.t", True),
        ("SELECT n + 1 AS v FROM north.t", "SELECT n + 1 FROM mid.t", True),
        ("SELECT n AS v FROM north.t", "SELECT n FROM north.o", False),
        ("SELECT n + 1 AS v FROM north.t", "SELECT n + 1 FROM north.o", False),
        ("SELECT m AS v FROM north.t", "SELECT m FROM north.o", False),
        ("SELECT m AS v FROM north.t", "SELECT CAST(m AS DECIMAL(12,2)) FROM north.o", True),
        ("SELECT 'a' AS v FROM north.t", "SELECT s FROM mid.t", True),
        ("SELECT 1 AS v FROM north.t", "SELECT n FROM mid.t", True),
        ("SELECT 1 AS v FROM north.t", "SELECT g FROM mid.t", False),
        ("SELECT NULL AS v FROM north.t", "SELECT n FROM mid.t", False),
        ("SELECT 1.5 AS v FROM north.t", "SELECT 10.5 FROM mid.t", False),
    ],
)
def test_column_of_a_union_has_a_kind_when_its_branches_agree(left: str, right: str, equal: bool) -> None:
    bound = WORLD.bind(f"SELECT v FROM ({left} UNION ALL {right}) q")
    kind = Kinds(bound, WORLD.schema, Lineage.of(bound)).of(bound.tree.expressions[0].unalias())
    assert (kind is not None) == equal

"""Row filters: UCAST trees, NULL semantics, and everything that must be refused."""

from __future__ import annotations

from typing import Any

import duckdb
import pytest

from tests.fakes.sql_world import COLUMNS, load, small_world, table
from tidegate.core.errors import InternalError
from tidegate.sql import filters

ITEM = small_world().tables["air.a"]
DATABASE = duckdb.connect()
load(DATABASE, table("air.a", {"k": "BIGINT", **COLUMNS}, ITEM.rows, "p"))
NAMES = tuple(COLUMNS)
ROWS = [dict(zip(NAMES, row, strict=True)) for row in ITEM.rows]


def leaf(field: str, operator: str, value: Any) -> dict[str, Any]:
    return {"type": "field", "field": field, "operator": operator, "value": value}


def both(operator: str, *children: dict[str, Any]) -> dict[str, Any]:
    return {"type": "compound", "operator": operator, "value": list(children)}


def count(tree: dict[str, Any]) -> int:
    made = filters.predicate(tree, ITEM.dataset, "r0")
    where = f"WHERE {made.sql('duckdb', identify=True)}" if made is not None else ""
    return int(DATABASE.sql(f'SELECT count(*) FROM air.a AS "r0" {where}').fetchall()[0][0])


CASES = [
    ({}, lambda r: True),
    (leaf("s", "eq", "JFK"), lambda r: r["s"] == "JFK"),
    (leaf("s", "eq", "it's"), lambda r: r["s"] == "it's"),
    (leaf("s", "eq", None), lambda r: r["s"] is None),
    (leaf("s", "ne", None), lambda r: r["s"] is not None),
    (leaf("s", "ne", "JFK"), lambda r: r["s"] not in (None, "JFK")),
    (leaf("n", "lt", 10), lambda r: r["n"] is not None and r["n"] < 10),
    (leaf("n", "lte", 10), lambda r: r["n"] is not None and r["n"] <= 10),
    (leaf("n", "gt", 10), lambda r: r["n"] is not None and r["n"] > 10),
    (leaf("n", "gte", -5), lambda r: r["n"] is not None),
    (leaf("n", "in", [5, 10, 15]), lambda r: r["n"] in (5, 10, 15)),
    (leaf("n", "in", [5, None]), lambda r: r["n"] in (5, None)),
    (leaf("n", "in", []), lambda r: False),
    (leaf("n", "nin", [5, None]), lambda r: r["n"] not in (5, None)),
    (leaf("n", "nin", []), lambda r: r["n"] is not None),
    (leaf("b", "eq", True), lambda r: r["b"] is True),
    (leaf("d", "gte", "2024-03-01"), lambda r: r["d"] is not None and r["d"].isoformat() >= "2024-03-01"),
    (
        leaf("t", "lt", "2024-01-05T12:00:00"),
        lambda r: r["t"] is not None and r["t"].isoformat() < "2024-01-05T12:00:00",
    ),
    (leaf("m", "gt", 2.5), lambda r: r["m"] is not None and r["m"] > 2.5),
    (both("not", leaf("n", "lt", 10)), lambda r: r["n"] is not None and not r["n"] < 10),
    (
        both("and", leaf("n", "gt", 3), leaf("s", "ne", "JFK")),
        lambda r: r["n"] is not None and r["n"] > 3 and r["s"] not in (None, "JFK"),
    ),
    (
        both("or", leaf("n", "gt", 30), leaf("s", "eq", "JFK")),
        lambda r: (r["n"] is not None and r["n"] > 30) or r["s"] == "JFK",
    ),
    (
        both("and", both("or", leaf("k", "eq", 1), leaf("k", "eq", 2)), leaf("n", "gt", 5)),
        lambda r: r["k"] in (1, 2) and r["n"] is not None and r["n"] > 5,
    ),
]


@pytest.mark.parametrize(("tree", "passes"), CASES, ids=lambda item: str(item)[:60] if isinstance(item, dict) else "")
def test_filter_passes_the_rows_that_python_passes(tree: dict[str, Any], passes: Any) -> None:
    assert count(tree) == sum(1 for row in ROWS if passes(row))


@pytest.mark.parametrize(
    "tree",
    [
        leaf("nothing", "eq", 1),
        leaf("s", "eq", 5),
        leaf("n", "eq", "5"),
        leaf("n", "eq", True),
        leaf("n", "eq", 1.5),
        leaf("b", "eq", "true"),
        leaf("b", "eq", 1),
        leaf("d", "eq", "yesterday"),
        leaf("n", "lt", None),
        leaf("n", "contains", 1),
        leaf("n", "in", 5),
        leaf("n", "in", [5, "6"]),
        leaf("s", "eq", "a\x00b"),
        leaf("s", "eq", ["JFK"]),
        leaf("n", "eq", float("nan")),
        leaf("n", "eq", {"type": "field"}),
        both("and"),
        both("or"),
        both("not", leaf("n", "eq", 1), leaf("n", "eq", 2)),
        both("xor", leaf("n", "eq", 1)),
        {"type": "raw", "value": "1=1"},
        {"type": "field", "field": "n", "operator": "eq"},
        {**leaf("n", "eq", 1), "extra": 1},
        {"type": "compound", "operator": "and", "value": "n = 1"},
        {"type": "compound", "operator": "and", "value": [leaf("n", "eq", 1)], "field": "n"},
    ],
    ids=str,
)
def test_filter_that_is_not_understood_refuses(tree: dict[str, Any]) -> None:
    with pytest.raises(InternalError):
        filters.predicate(tree, ITEM.dataset, "r0")


def test_filter_nested_beyond_the_limit_refuses() -> None:
    tree = leaf("n", "eq", 1)
    for _ in range(filters.FILTER_DEPTH_MAX + 1):
        tree = both("not", tree)
    with pytest.raises(InternalError):
        filters.predicate(tree, ITEM.dataset, "r0")


def test_text_of_a_policy_cannot_leave_its_literal() -> None:
    for text in ("' OR TRUE --", "\\' OR TRUE --", "''; DROP TABLE air.a; --", "JFK' --"):
        assert count(leaf("s", "eq", text)) == 0

"""The world of the generated queries: departments with several tables each, collections, awkward values, statistics that lie.

Every department has at least two tables (so that joins and sub-queries occur that one node can answer), key columns have
different types from table to table, and the parts of the collections are skewed, empty or all NULL. The same rows can be
dealt anew among the parts (``dealt``), and the catalogue's statistics can be right, missing, or wrong by 1000x either way.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, TypeVar

from tests.fakes.sql_world import Table, World, table
from tidegate.core.dataset import Column

AnyWorld = TypeVar("AnyWorld", bound=World)
Statistics = Literal["none", "right", "over", "under"]

COLUMNS: Mapping[str, str] = {
    "u": "BIGINT",  # no two rows of the world have the same: what makes an order total
    "k": "BIGINT",
    "j": "INTEGER",
    "s": "VARCHAR",
    "n": "INTEGER",
    "g": "BIGINT",
    "h": "HUGEINT",
    "m": "DECIMAL(12,2)",
    "x": "DOUBLE",
    "y": "DOUBLE",
    "d": "DATE",
    "t": "TIMESTAMP",
    "z": "TIMESTAMPTZ",
    "b": "BOOLEAN",
    "l": "INTEGER[]",
}

# What differs from COLUMNS: keys are compared across types, and sums have different scales.
TYPES: Mapping[str, Mapping[str, str]] = {
    "air.p": {},
    "air.q": {"k": "INTEGER", "j": "BIGINT", "m": "DECIMAL(9,4)"},
    "air.r": {"m": "DECIMAL(18,3)", "n": "SMALLINT"},
    "air.e": {},
    "sea.p": {"k": "HUGEINT", "m": "DECIMAL(9,4)", "n": "BIGINT"},
    "sea.q": {"k": "DECIMAL(18,2)", "j": "SMALLINT"},
    "land.p": {"k": "DOUBLE", "m": "DECIMAL(18,3)"},
    "land.q": {"n": "BIGINT"},
}
COLLECTIONS: Mapping[str, tuple[str, ...]] = {
    "city.one": ("air.one",),
    "city.two": ("sea.two", "land.two"),
    "city.five": ("north.five", "south.five", "east.five", "air.five", "sea.five"),
    "town.five": ("north.more", "south.more", "east.more", "air.more", "sea.more"),
}
COLLECTION_TYPES: Mapping[str, Mapping[str, str]] = {
    "city.one": {"j": "BIGINT"},
    "city.two": {"k": "DOUBLE", "m": "DECIMAL(9,4)"},
    "city.five": {"n": "SMALLINT"},
    "town.five": {"k": "INTEGER", "m": "DECIMAL(18,3)"},
}
EMPTY = frozenset({"air.e", "south.five", "east.more"})
ALL_NULL = frozenset({"east.five"})
TABLE_ROWS = 13
PART_ROWS = 6

_TEXTS = ("JFK", "jfk", "LGA", "", "Ö", "ö", "o", "it's", "LGA ", " LGA", "zz", "É", "E", "10", "9", "a_b", "a%b")
_FLOATS = (0.5, -0.0, 0.0, float("nan"), float("inf"), float("-inf"), 1e9, -3.25, 7.0, 2.0)
_DYADIC = (0.5, -0.25, 3.75, -12.5, 8.0, 0.0, 1.0, 100.25, -64.0)  # sums are exact in every order
_LISTS: tuple[list[int | None], ...] = ([], [1], [1, 2], [3, None], [None], [5, 5, 1])
_BIG = (2**62, -(2**62), 2**62 - 1, 7, 0, -1, 9_007_199_254_740_993)
_HUGE = (10**30, -(10**30), 10**30 + 1, 2**100, 3, 0, -5)


def _row(rng: random.Random, unique: int, types: Mapping[str, str], *, nulls: bool) -> tuple[Any, ...]:
    """Make one row; about one value in seven is NULL, or all but the unique one."""
    key: Any = 1 if rng.random() < 0.3 else rng.randrange(8)
    if types["k"] == "DOUBLE":
        key = rng.choice((float("nan"), -0.0, 0.5, float("inf"))) if rng.random() < 0.3 else float(key)
    elif types["k"].startswith("DECIMAL"):
        key = Decimal(key) + (Decimal("0.5") if rng.random() < 0.2 else 0)
    day = date(2024, 1, 1) + timedelta(days=rng.choice((0, 1, 31, 59, 60, 90, 91, 200)))
    hours, minutes = rng.choice((0, 1, 23, 24, 30, 1440, 2159, 2160)), rng.choice((0, 30))
    moment = datetime(2024, 1, 1) + timedelta(hours=hours, minutes=minutes)
    values: dict[str, Any] = {
        "k": key,
        "j": rng.randrange(6),
        "s": rng.choice(_TEXTS),
        "n": rng.randrange(-5, 35),
        "g": rng.choice(_BIG),
        "h": rng.choice(_HUGE),
        "m": Decimal(rng.randrange(0, 90)) / 4,
        "x": rng.choice(_FLOATS),
        "y": rng.choice(_DYADIC),
        "d": day,
        "t": moment,
        "z": moment.replace(tzinfo=UTC),
        "b": rng.random() < 0.5,
        "l": rng.choice(_LISTS),
    }
    return (unique, *(None if nulls or rng.random() < 0.15 else value for value in values.values()))


def _rows() -> dict[str, list[tuple[Any, ...]]]:
    rng, unique, found = random.Random(4), 0, {}
    for name in (*TYPES, *(part for parts in COLLECTIONS.values() for part in parts)):
        count = 0 if name in EMPTY else TABLE_ROWS if name in TYPES else PART_ROWS
        made = []
        for _ in range(count):
            unique += 1
            made.append(_row(rng, unique, types_of(name), nulls=name in ALL_NULL))
        found[name] = made
    return found


def types_of(name: str) -> dict[str, str]:
    """Give the columns of a table, a part or a collection with their types."""
    collection = next((whole for whole, parts in COLLECTIONS.items() if name in parts), name)
    return {**COLUMNS, **(TYPES.get(name) or COLLECTION_TYPES.get(collection) or {})}


def generated_world(
    *, statistics: Statistics = "none", dealt: int | None = None, make: Callable[..., AnyWorld]
) -> AnyWorld:
    """Make the world.

    Args:
        statistics: what the catalogue says of rows, distinct values, and extremes. ``over`` and ``under`` are wrong by 1000x,
            and their extremes leave out most of the rows.
        dealt: a seed by which the rows of each collection are dealt anew among its parts; None leaves them where they are.
    """
    rows = _rows()
    if dealt is not None:
        rng = random.Random(dealt)
        for parts in COLLECTIONS.values():
            together = [row for part in parts for row in rows[part]]
            for part in parts:
                rows[part] = []
            for row in together:
                rows[rng.choice(parts)].append(row)
    tables = {name: _described(table(name, types_of(name), found, "u"), statistics) for name, found in rows.items()}
    world = make(tables, dict(COLLECTIONS))
    for name, parts in COLLECTIONS.items():
        made = next(item for key, item in world.schema.items() if str(key) == name)
        every = [row for part in parts for row in rows[part]]
        world.schema[made.name] = _described(Table(made, tuple(every)), statistics).dataset
    return world


def _described(item: Table, statistics: Statistics) -> Table:
    if statistics == "none":
        return item
    count = len(item.rows)
    wrong = {"right": count, "over": count * 1000 + 1000, "under": count // 1000}[statistics]
    columns = tuple(
        _column(column, [row[place] for row in item.rows if row[place] is not None], statistics)
        for place, column in enumerate(item.dataset.columns)
    )
    return replace(item, dataset=replace(item.dataset, rows=wrong, columns=columns))


def _column(column: Column, values: list[Any], statistics: Statistics) -> Column:
    if column.type.endswith("[]"):
        return column
    # NaN has no place in the order of Python: a column that has it publishes no extremes.
    ordered = [] if any(value != value for value in values) else sorted(values)
    low, high = (ordered[0], ordered[-1]) if ordered else (None, None)
    distinct = len(set(map(str, values)))
    if statistics == "over":
        distinct, low = distinct * 1000 + 1000, high
    elif statistics == "under":
        distinct, high = distinct // 1000, low
    return replace(
        column,
        distinct=distinct,
        minimum=None if low is None else _text(low),
        maximum=None if high is None else _text(high),
    )


def _text(value: Any) -> str:
    return value.isoformat(sep=" ") if isinstance(value, datetime) else str(value)

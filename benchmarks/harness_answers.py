"""Are two answers equal? As bags of rows, in the sequence that ORDER BY fixes; decimals exactly, floats to 1e-9."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

RELATIVE = 1e-9  # two right sums of doubles in another order differ by less; a wrong row by more
ROWS_SHOWN = 3

Row = tuple[Any, ...]


def difference(ours: Sequence[Row], theirs: Sequence[Row], ordered_by: Sequence[int] = ()) -> str:
    """Say where two answers differ; empty when they are equal.

    Args:
        ordered_by: positions of columns whose sequence must agree; rows that tie in them may come in any order.
    """
    if len(ours) != len(theirs):
        return f"{len(ours)} rows, expected {len(theirs)}"
    if not ours:
        return ""
    if len(ours[0]) != len(theirs[0]):
        return f"{len(ours[0])} columns, expected {len(theirs[0])}"
    for position in ordered_by:
        for number, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            if not same(mine[position], other[position]):
                return f"order: row {number}, column {position}: {mine[position]!r}, expected {other[position]!r}"
    floats = [any(isinstance(row[column], float) for row in (*ours, *theirs)) for column in range(len(ours[0]))]
    for mine, other in zip(_sorted(ours, floats), _sorted(theirs, floats), strict=True):
        for column, (left, right) in enumerate(zip(mine, other, strict=True)):
            if not same(left, right):
                return f"column {column}: {left!r}, expected {right!r}"
    return ""


def same(left: Any, right: Any) -> bool:
    """Say whether two values are one."""
    if left is None or right is None:
        return left is right
    if isinstance(left, float) or isinstance(right, float):
        one, two = float(left), float(right)
        return (math.isnan(one) and math.isnan(two)) or math.isclose(one, two, rel_tol=RELATIVE, abs_tol=0.0)
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    numbers = isinstance(left, int | Decimal) and isinstance(right, int | Decimal)
    return bool(left == right) and (numbers or type(left) is type(right))


def _sorted(rows: Sequence[Row], floats: Sequence[bool]) -> list[Row]:
    """Sort by the exact columns first, so that the last digits of a float decide as late as they can."""

    def key(row: Row) -> tuple[Any, ...]:
        exact = [_rank(value) for value, is_float in zip(row, floats, strict=True) if not is_float]
        loose = [_rank(None if value is None else float(value)) for value, f in zip(row, floats, strict=True) if f]
        return (*exact, *loose)

    return sorted(rows, key=key)


def _rank(value: Any) -> tuple[int, str, Any]:
    if value is None:
        return (0, "", 0)
    if isinstance(value, int | Decimal | float):
        return (1, "", value)
    return (2, type(value).__name__, value)

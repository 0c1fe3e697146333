"""The bounds of arguments that decide how large a function's value can be: literals within limits, or refused.

The memory limit of the engine does not count values that are built in an expression (design planner.md, DuckDB facts), so
``repeat``, ``lpad``, ``range`` and formats are held here; the address-space limit of the worker is the second wall.
"""

from __future__ import annotations

import re
from datetime import date, datetime

from sqlglot import exp

from tidegate.core.errors import Code, error_for
from tidegate.core.values import Value
from tidegate.sql.functions import (
    COUNT_MAX,
    FORMAT_CHARS_MAX,
    FORMAT_WIDTH_MAX,
    SERIES_MAX,
    UNITS,
    Bound,
    Function,
    fold,
)
from tidegate.sql.scope import Context


def literal_value(ctx: Context, node: exp.Expr) -> tuple[bool, Value]:
    """Say whether a bound expression is a literal or a parameter, and give its value."""
    if isinstance(node, exp.Parameter):
        return True, ctx.values[int(node.this.this) - 1]
    if isinstance(node, exp.Literal):
        text = str(node.this)
        return True, int(text) if text.isdigit() else float(text)
    if isinstance(node, exp.Neg) and isinstance(node.this, exp.Literal):
        value = literal_value(ctx, node.this)[1]
        return True, -value if isinstance(value, int | float) else None
    if isinstance(node, exp.Cast):
        return literal_value(ctx, node.this)
    return False, None


def check_bounds(ctx: Context, known: Function, arguments: list[exp.Expr]) -> None:
    """Hold the arguments of a call to the bound that its function has."""
    if known.bound is Bound.NONE:
        return
    if known.bound is Bound.SERIES:
        _check_series(ctx, arguments)
        return
    if len(arguments) <= known.bound_argument:
        if known.name in ("bar", "to_base"):
            return  # the width is optional there, and small when it is left out
        raise error_for(Code.PLAN_TYPE, "function: wrong number of arguments")
    literal, value = literal_value(ctx, arguments[known.bound_argument])
    if not literal:
        raise error_for(Code.PLAN_NOT_ALLOWED, "function: this argument must be a literal or a parameter")
    if known.bound is Bound.COUNT:
        good = value is None or (isinstance(value, int) and abs(value) <= COUNT_MAX)
        if good and known.name == "repeat" and isinstance(value, int):
            ctx.grow(value)
    elif known.bound is Bound.UNIT:
        good = isinstance(value, str) and fold(value) in UNITS
    else:
        good = isinstance(value, str) and len(value) <= FORMAT_CHARS_MAX and _widths_are_small(value)
    if not good:
        raise error_for(Code.PLAN_NOT_ALLOWED, "function: this argument is over its limit or not on the list")


def _widths_are_small(text: str) -> bool:
    """Refuse widths taken from another argument (``{:{}}``, ``%*d``) and widths that are large."""
    if "*" in text or re.search(r"\{[^{}]*\{", text):
        return False
    return all(len(run) <= 6 and int(run) <= FORMAT_WIDTH_MAX for run in re.findall(r"[0-9]+", text))


def _check_series(ctx: Context, arguments: list[exp.Expr]) -> None:
    if not 1 <= len(arguments) <= 3:
        raise error_for(Code.PLAN_TYPE, "function: wrong number of arguments")
    values: list[Value] = []
    for argument in arguments[:2]:
        literal, value = literal_value(ctx, argument)
        if not literal:
            raise error_for(Code.PLAN_NOT_ALLOWED, "range: expected literal bounds")
        values.append(_moment(value) if isinstance(value, str) else value)
    first, last = (0, values[0]) if len(values) == 1 else (values[0], values[1])
    if isinstance(first, int) and isinstance(last, int):
        step = literal_value(ctx, arguments[2])[1] if len(arguments) == 3 else 1
        if isinstance(step, int) and step != 0 and abs(last - first) // abs(step) <= SERIES_MAX:
            ctx.grow(abs(last - first) // abs(step))
            return
    elif isinstance(first, date) and isinstance(last, date) and len(arguments) == 3:
        days = abs((_day(last) - _day(first)).days)
        if _is_days(ctx, arguments[2]) and days <= SERIES_MAX:
            ctx.grow(days)
            return
    raise error_for(Code.PLAN_NOT_ALLOWED, f"range: expected at most {SERIES_MAX} elements between literal bounds")


def _day(moment: date) -> date:
    return moment.date() if isinstance(moment, datetime) else moment


def _moment(text: str) -> Value:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return text


def _is_days(ctx: Context, node: exp.Expr) -> bool:
    if not isinstance(node, exp.Interval):
        return False
    amount = literal_value(ctx, node.this)[1]
    if isinstance(amount, str) and amount.isascii() and amount.isdigit() and len(amount) < 6:
        amount = int(amount)
    units = ("DAY", "WEEK", "MONTH", "QUARTER", "YEAR")
    return isinstance(amount, int) and amount >= 1 and node.args["unit"].name in units

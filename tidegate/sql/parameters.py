"""What a text says about parameters that have no values yet: their names, and the types that the query around them suggests.

A client of Flight SQL prepares first and binds later, and some drivers ask what to bind. A type is told where a parameter
stands beside columns of one kind, in a cast, or as LIMIT; elsewhere it is open, and text is told, since drivers cannot bind a
type that is none. It is a hint: what is bound is judged by the binder, with its value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal

from sqlglot import exp

from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.limits import SQL_PARAMETERS_MAX
from tidegate.core.values import Value
from tidegate.sql.admit import admit
from tidegate.sql.families import MOMENTS, NUMBERS, Family, family
from tidegate.sql.functions import fold
from tidegate.sql.model import Schema
from tidegate.sql.types import type_text

_COMPARED = (exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE, exp.NullSafeEQ, exp.NullSafeNEQ)
_PATTERNS = (exp.Like, exp.ILike, exp.Glob, exp.SimilarTo, exp.RegexpLike)
_COUNT = "count"  # no type, but the place: LIMIT and OFFSET
_TEXT = "VARCHAR"
_STAND_INS: Mapping[Family, Value] = {
    "integer": 1,
    "decimal": Decimal(1),
    "float": 1.0,
    "text": "",
    "boolean": True,
    "date": date(2000, 1, 1),
    "timestamp": datetime(2000, 1, 1),  # noqa: DTZ001 - of the type without a zone
    "time": time(),
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """A parameter that a text wants a value for.

    Args:
        name: ``1``, ``2`` ... for ``?`` and ``$1``; else the caller's own.
        type: a type text of the exchange.
        stand_ins: values with which the text can be planned before there is another; the first that can be planned shows best
            what the answer will look like. Values and not NULL where there are any: what is shared in groups alone may not be
            asked with a condition of an unknown kind.
    """

    name: str
    type: str
    stand_ins: tuple[Value, ...]


def wanted(text: str, schema: Schema) -> tuple[Wanted, ...]:
    """Find the parameters of a query, in order: by number, else as they appear.

    Trust: anybody may have written the text.

    Args:
        schema: the datasets that the text mentions, as the caller may know them.

    Raises:
        CallerError: a PLAN code.
    """
    found: dict[str, list[str]] = {}
    for node in admit(text).find_all(exp.Placeholder, exp.Parameter, bfs=False):
        inner = node.args.get("this")
        name = inner if isinstance(inner, str) else inner.name if inner is not None else ""
        if name:
            found.setdefault(name, []).append(_type(node, schema))
    numbers = sorted((name for name in found if name.isdigit()), key=int)
    if len(found) > SQL_PARAMETERS_MAX or (numbers and len(numbers) < len(found)):
        raise error_for(Code.PLAN_PARAMETERS, f"parameters: by number or by name, at most {SQL_PARAMETERS_MAX}")
    names = numbers or list(found)
    types = {name: _one(found[name]) for name in names}
    return tuple(_wanted(name, types[name]) for name in names)


def _wanted(name: str, type_text: str) -> Wanted:
    if not type_text:
        return Wanted(name, _TEXT, ("", None))
    if type_text == _COUNT:
        return Wanted(name, "BIGINT", (1,))
    if type_text.upper() in ("TIMESTAMPTZ", "TIMESTAMP WITH TIME ZONE"):
        return Wanted(name, type_text, (datetime(2000, 1, 1, tzinfo=UTC),))
    return Wanted(name, type_text, (_STAND_INS.get(family(type_text)),))


def _one(types: Iterable[str]) -> str:
    """Give one type for all places of a parameter, or for all columns of a name; empty: there is none."""
    known = {text for text in types if text}
    if _COUNT in known:
        return _COUNT  # a LIMIT takes nothing else
    if len(known) <= 1:
        return known.pop() if known else ""
    kinds = {family(text) for text in known}
    if kinds == {"integer"}:
        return "BIGINT"
    if kinds <= NUMBERS:
        return "DOUBLE"
    return "TIMESTAMP" if kinds <= MOMENTS else ""


def _type(node: exp.Expr, schema: Schema) -> str:
    parent = node.parent
    while isinstance(parent, exp.Paren):
        node, parent = parent, parent.parent
    if isinstance(parent, exp.Limit | exp.Offset | exp.Fetch):
        return _COUNT
    if isinstance(parent, exp.Cast | exp.TryCast):
        try:
            return type_text(parent.args["to"])
        except TidegateError:
            return ""  # planning will say so
    if isinstance(parent, _PATTERNS):
        return "VARCHAR"
    if isinstance(parent, _COMPARED):
        return _of_column(parent.this if parent.expression is node else parent.expression, schema)
    if isinstance(parent, exp.In | exp.Between) and parent.this is not node:
        return _of_column(parent.this, schema)
    return ""


def _of_column(node: exp.Expr, schema: Schema) -> str:
    node = node.unnest()
    if not isinstance(node, exp.Column):
        return ""
    return _one(_types(fold(node.name), schema))


def _types(name: str, schema: Schema) -> Iterator[str]:
    for dataset in schema.values():
        yield from (column.type for column in dataset.columns if fold(column.name) == name)

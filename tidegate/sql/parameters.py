"""What a text says about parameters that have no values yet: their names, and the types that the query around them suggests.

A client of Flight SQL prepares first and binds later, and some drivers ask what to bind. A type is told where a parameter
stands beside a column whose name has one type in all datasets of the query, in a cast, or as LIMIT; elsewhere it is open. It is
a hint: what is bound is judged by the binder, with its value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlglot import exp

from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.limits import SQL_PARAMETERS_MAX
from tidegate.core.values import Value
from tidegate.sql.admit import admit
from tidegate.sql.functions import fold
from tidegate.sql.model import Schema
from tidegate.sql.types import type_text

_COMPARED = (exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE, exp.NullSafeEQ, exp.NullSafeNEQ)
_PATTERNS = (exp.Like, exp.ILike, exp.Glob, exp.SimilarTo, exp.RegexpLike)
_COUNT = "count"  # no type, but the place: LIMIT and OFFSET


@dataclass(frozen=True, slots=True)
class Wanted:
    """A parameter that a text wants a value for.

    Args:
        name: ``1``, ``2`` ... for ``?`` and ``$1``; else the caller's own.
        type: a type text of the exchange; empty: open.
        stand_in: a value with which the text can be planned before there is another.
    """

    name: str
    type: str
    stand_in: Value


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
    return tuple(
        Wanted(name, "BIGINT", 1) if types[name] == _COUNT else Wanted(name, types[name], None) for name in names
    )


def _one(types: Sequence[str]) -> str:
    known = {text for text in types if text}
    if _COUNT in known:
        return _COUNT  # a LIMIT takes nothing else
    return known.pop() if len(known) == 1 else ""


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
    types = set(_types(fold(node.name), schema))
    return types.pop() if len(types) == 1 else ""


def _types(name: str, schema: Schema) -> Iterator[str]:
    for dataset in schema.values():
        yield from (column.type for column in dataset.columns if fold(column.name) == name)

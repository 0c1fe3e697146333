"""Row filters: a UCAST tree of a decision becomes a typed predicate.

A policy hands over data, never SQL text. Field names must be columns of the catalogue and values must be of the
column's own type, so that nothing is cast and nothing can raise. NULL semantics are ours: ``eq null`` is IS NULL;
``ne`` and ``not`` drop NULL rows, because the whole filter is applied as ``(...) IS TRUE`` (design policy.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from sqlglot import exp

from tidegate.core.dataset import Dataset
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.sql.families import NUMBERS, family

FILTER_DEPTH_MAX = 32  # a policy's filter is written by people; deeper is a mistake or an attack
FILTER_VALUES_MAX = 10_000

_COMPARISONS: dict[str, type[exp.Binary]] = {
    "eq": exp.EQ,
    "ne": exp.NEQ,
    "lt": exp.LT,
    "lte": exp.LTE,
    "le": exp.LTE,
    "gt": exp.GT,
    "gte": exp.GTE,
    "ge": exp.GTE,
}


def predicate(row_filter: Mapping[str, Any], dataset: Dataset, alias: str) -> exp.Expr | None:
    """Give the filter as ``(...) IS TRUE`` over raw columns of the table ``alias``; None for ``{}``, every row.

    Raises:
        InternalError: POLICY_UNAVAILABLE for an unknown node, operator, field, or a value of another type; whoever
            called must refuse.
    """
    if not row_filter:
        return None
    tree = _node(row_filter, dataset, alias, 0)
    return exp.Is(this=exp.paren(tree, copy=False), expression=exp.true())


def _bad(why: str) -> TidegateError:
    return error_for(Code.POLICY_UNAVAILABLE, detail=f"row filter: {why}")


def _node(node: Any, dataset: Dataset, alias: str, depth: int) -> exp.Expr:
    if not isinstance(node, Mapping) or set(node) - {"type", "operator", "field", "value"} or depth > FILTER_DEPTH_MAX:
        raise _bad("expected a UCAST node")
    kind = node.get("type")
    if kind == "field" and set(node) == {"type", "operator", "field", "value"}:
        return _field(node, dataset, alias)
    if kind == "compound" and set(node) == {"type", "operator", "value"}:
        return _compound(node, dataset, alias, depth)
    raise _bad("expected type field or compound")


def _compound(node: Mapping[str, Any], dataset: Dataset, alias: str, depth: int) -> exp.Expr:
    value = node["value"]
    children = list(value) if isinstance(value, list | tuple) else [value]
    parts = [exp.paren(_node(child, dataset, alias, depth + 1), copy=False) for child in children]
    match node["operator"]:
        case "not" if len(parts) == 1:
            return exp.Not(this=parts[0])
        case "and" if parts:
            return exp.and_(*parts, copy=False)
        case "or" if parts:
            return exp.or_(*parts, copy=False)
    raise _bad("expected and, or, not with operands")


def _field(node: Mapping[str, Any], dataset: Dataset, alias: str) -> exp.Expr:
    name, operator, value = node["field"], node["operator"], node["value"]
    column = dataset.column(name) if isinstance(name, str) else None
    if column is None:
        raise _bad("field: not a column of the dataset")
    target = exp.column(exp.to_identifier(column.name, quoted=True), exp.to_identifier(alias, quoted=True))
    if operator in ("in", "nin", "not_in"):
        return _membership(target, column.type, value, negate=operator != "in")
    if operator not in _COMPARISONS:
        raise _bad("unknown operator")
    if value is None:
        test = exp.Is(this=target, expression=exp.null())
        if operator == "eq":
            return test
        if operator == "ne":
            return exp.Not(this=test)
        raise _bad("null: expected eq or ne")
    return _COMPARISONS[operator](this=target, expression=literal(value, column.type))


def _membership(target: exp.Column, type_text: str, values: Any, *, negate: bool) -> exp.Expr:
    if not isinstance(values, list | tuple) or len(values) > FILTER_VALUES_MAX:
        raise _bad("in: expected a list of values")
    known = [literal(value, type_text) for value in values if value is not None]
    nulls = len(known) < len(values)
    found: exp.Expr = exp.In(this=target.copy(), expressions=known) if known else exp.false()
    if nulls:
        found = exp.paren(exp.or_(found, exp.Is(this=target.copy(), expression=exp.null())), copy=False)
    if not negate:
        return found
    present = exp.Not(this=exp.Is(this=target.copy(), expression=exp.null()))
    return exp.and_(present, exp.Not(this=exp.paren(found, copy=False)), copy=False)


def literal(value: Any, type_text: str) -> exp.Expr:
    """Print a policy's value as a constant of the column's type.

    Raises:
        InternalError: POLICY_UNAVAILABLE when the value is of another type.
    """
    kind = family(type_text)
    if kind == "text" and isinstance(value, str) and "\x00" not in value:
        return exp.Literal.string(value)
    if kind == "boolean" and isinstance(value, bool):
        return exp.Boolean(this=value)
    if kind in NUMBERS and isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return _number(value, whole=kind == "integer")
    if kind in ("date", "timestamp") and isinstance(value, str):
        return _moment(value, kind == "date", type_text)
    raise _bad("value: not of the column's type")


def _number(value: float | Decimal, *, whole: bool) -> exp.Expr:
    exact = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    if not exact.is_finite() or (whole and exact != exact.to_integral_value()):
        raise _bad("value: expected a finite number of the column's type")
    text = format(exact, "f")
    number = exp.Literal.number(text.removeprefix("-"))
    return exp.Neg(this=number) if text.startswith("-") else number


def _moment(text: str, is_date: bool, type_text: str) -> exp.Expr:
    try:
        printed = date.fromisoformat(text).isoformat() if is_date else datetime.fromisoformat(text).isoformat(" ")
    except ValueError:
        raise _bad("value: expected an ISO 8601 date or time") from None
    zoned = "TIMESTAMPTZ" if type_text.upper() in ("TIMESTAMPTZ", "TIMESTAMP WITH TIME ZONE") else "TIMESTAMP"
    return exp.cast(exp.Literal.string(printed), "DATE" if is_date else zoned, dialect="duckdb")

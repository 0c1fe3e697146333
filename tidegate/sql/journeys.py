"""Which types do not come back from Arrow as they went, and so need a cast where the broker reads a fragment's answer.

DuckDB hands HUGEINT to Arrow as DECIMAL(38,0), UUID as a text, and so on (measured, 2.0.0). What the broker computes over such
a column would have another type, or fail, or give another value than one local DuckDB: types must not depend on the plan.
"""

from __future__ import annotations

import re

from sqlglot import exp

from tidegate.core.errors import TidegateError
from tidegate.sql import callnames
from tidegate.sql.kinds import Kinds
from tidegate.sql.lineage import output_names, outputs
from tidegate.sql.types import parse_type

_LOSSY = re.compile(r"\b(HUGEINT|UHUGEINT|UUID|BIT|BITSTRING|TIMETZ|TIME WITH TIME ZONE|BIGNUM|VARINT|JSON)\b")
_INTEGER_RESULT = frozenset({"count", "count_star", "count_if", "countif", "approx_count_distinct"})
_FLOAT_RESULT = frozenset(
    [
        "avg",
        "mean",
        "var_pop",
        "var_samp",
        "variance",
        "stddev_pop",
        "stddev_samp",
        "stddev",
        "corr",
        "covar_pop",
        "covar_samp",
        "skewness",
        "kurtosis",
        "entropy",
    ]
)
_SAME_RESULT = frozenset({"min", "max", "any_value", "first", "last"})
_TEXT_RESULT = frozenset({"string_agg", "listagg", "group_concat"})


def cast_of(type_text: str) -> str:
    """Give the type to cast a travelled column to; empty when it arrives as it went."""
    return type_text if _LOSSY.search(type_text.upper()) else ""


def cast_of_output(item: exp.Expr, kinds: Kinds) -> str | None:
    """Give the same for a computed output; None when its type is not known, and then it must not travel."""
    item = item.unnest()
    if isinstance(item, exp.Column):
        kind = kinds.column(item)
        return None if kind is None or (kind.family == "other" and not _is_type(kind.exact)) else cast_of(kind.exact)
    if isinstance(item, exp.Null):
        return ""
    if isinstance(item, exp.Cast):
        return cast_of(item.args["to"].name or item.args["to"].sql("duckdb"))
    if isinstance(item, exp.Div):
        return ""  # a DOUBLE, or an error before anything travels
    if isinstance(item, exp.Add | exp.Sub | exp.Mul):
        sides = {cast_of_output(item.this, kinds), cast_of_output(item.expression, kinds)}
        return "" if sides == {""} else None
    if isinstance(item, exp.Neg):
        return cast_of_output(item.this, kinds)
    if isinstance(item, exp.AggFunc):
        return _aggregate(item, kinds)
    if isinstance(item, exp.Literal):
        return "" if item.is_string or len(item.name) <= 18 else None
    kind = kinds.of(item)
    return "" if kind is not None and kind.family != "other" else None


def casts_of_query(query: exp.Expr, kinds: Kinds) -> tuple[str, ...] | None:
    """Give the casts of a query's outputs in order; None when one of them must not travel."""
    found: list[str] = []
    for name in output_names(query):
        casts = {cast_of_output(item, kinds) for item in outputs(query, name)}
        only = casts.pop() if len(casts) == 1 else None
        if only is None:
            return None
        found.append(only)
    return tuple(found)


def _aggregate(item: exp.Expr, kinds: Kinds) -> str | None:
    name, arguments = callnames.name(item), callnames.arguments(item)
    if name in _INTEGER_RESULT or name in _FLOAT_RESULT or name in _TEXT_RESULT:
        return ""
    if len(arguments) != 1:
        return None
    if name in _SAME_RESULT:
        return cast_of_output(arguments[0], kinds)
    kind = kinds.of(arguments[0])
    if name != "sum" or kind is None:
        return None
    if kind.exact in ("HUGEINT", "UHUGEINT"):
        return "HUGEINT" if kind.exact == "HUGEINT" else ""  # the latter sums to a DOUBLE
    return "HUGEINT" if kind.family == "integer" else "" if kind.family in ("decimal", "float") else None


def _is_type(text: str) -> bool:
    """Say whether a kind's text is a type's own name, not a printed expression."""
    if text.startswith(("STRUCT(", "MAP(")):
        return _is_spelt_as_admitted(text)
    return bool(re.fullmatch(r"[A-Z][A-Z0-9_ ]*(\([0-9, ]+\))?(\[[0-9]*\])*", text)) and not text.startswith("number")


def _is_spelt_as_admitted(text: str) -> bool:
    try:
        return parse_type(text) == text
    except TidegateError:
        return False

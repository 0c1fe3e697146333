"""Function calls in a bound tree: their names and arguments, and the one aggregate that the exchange itself adds."""

from __future__ import annotations

from sqlglot import exp

from tidegate.sql.nodes import AggregateCall, Call


def name(node: exp.Expr) -> str:
    """Give DuckDB's lower-case name of a call; empty when the node is none."""
    return node.name if isinstance(node, Call) else ""


def arguments(node: exp.Expr) -> list[exp.Expr]:
    """Give the arguments of a call; DISTINCT around them is taken off (see ``is_distinct``)."""
    found = list(node.expressions)
    if len(found) == 1 and isinstance(found[0], exp.Distinct):
        return list(found[0].expressions)
    return found


def is_distinct(node: exp.Expr) -> bool:
    """Say whether the call is over DISTINCT values."""
    return any(isinstance(item, exp.Distinct) for item in node.expressions)


def count_distinct(column: exp.Expr) -> exp.Expr:
    """Make ``count(DISTINCT column)``."""
    return AggregateCall(this="count", expressions=[exp.Distinct(expressions=[column])])

"""PIVOT with a written list of values, as what it means: one filtered aggregate for each value.

A PIVOT without the list makes column names out of data and is refused.
"""

from __future__ import annotations

from sqlglot import exp

from tidegate.sql.functions import fold
from tidegate.sql.scope import not_allowed


def pivot_as_select(node: exp.Pivot) -> exp.Select:
    """Rewrite ``PIVOT source ON column IN (values) USING aggregate [GROUP BY columns]`` as a SELECT.

    Without GROUP BY, DuckDB groups by all columns that the pivot does not read; here EXCLUDE and GROUP BY ALL find these.
    """
    if node.args.get("unpivot") or node.args.get("fields") or len(node.expressions) != 1:
        raise not_allowed("this form of PIVOT")
    on, using = node.expressions[0], list(node.args.get("using") or [])
    if (
        not isinstance(on, exp.In)
        or not isinstance(on.this, exp.Column)
        or on.args.get("query") is not None
        or not using
    ):
        raise not_allowed("PIVOT without a list of values")
    if not all(isinstance(value, exp.Literal) and value.is_string for value in on.expressions):
        raise not_allowed("PIVOT over values that are not texts")
    outputs: list[exp.Expr] = []
    for value in on.expressions:
        for aggregate in using:
            call = aggregate.this if isinstance(aggregate, exp.Alias) else aggregate
            suffix = f"_{aggregate.alias}" if isinstance(aggregate, exp.Alias) else ""
            where = exp.Where(this=exp.EQ(this=on.this.copy(), expression=value.copy()))
            filtered = exp.Filter(this=call.copy(), expression=where)
            outputs.append(exp.Alias(this=filtered, alias=exp.Identifier(this=f"{value.name}{suffix}", quoted=True)))
    read = {fold(part.name): part for part in [on.this, *(c for u in using for c in u.find_all(exp.Column))]}
    group = node.args.get("group")
    keys: list[exp.Expr]
    if group is not None:
        keys = [key.copy() for key in group.expressions]
    else:
        keys = [exp.Star(except_=[part.copy() for part in read.values()], optional=True)]
    select = exp.Select(expressions=[*keys, *outputs], from_=exp.From(this=_source(node)))
    select.set("group", exp.Group(all=True))
    return select


def _source(node: exp.Pivot) -> exp.Expr:
    source: exp.Expr = node.this.copy()
    if isinstance(source, exp.Subquery) and source.args.get("alias") is None:
        source.set("alias", exp.TableAlias(this=exp.Identifier(this="pivoted", quoted=True)))
    return source

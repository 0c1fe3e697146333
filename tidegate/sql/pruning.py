"""Prune what nobody reads: a column that a sub-select hands on and no outer query uses is asked of no department.

``SELECT * FROM`` in a CTE mentions every column of a dataset. ``bind`` reports as read only those that matter
(``Leaf.columns``), the policy is asked about those alone, and here the others become typed NULLs, so that what was not decided
is not fetched. Should the report ever be too short, the answer loses values; it cannot gain any.
"""

from __future__ import annotations

from dataclasses import replace

from sqlglot import exp

from tidegate.sql.model import BoundQuery, Schema


def prune(bound: BoundQuery, schema: Schema) -> BoundQuery:
    """Replace mentions of unread columns of leaves by NULL of the column's type."""
    leaves = {leaf.ref: leaf for leaf in bound.leaves}
    tree = bound.tree.copy()
    for column in list(tree.find_all(exp.Column)):
        leaf = leaves.get(column.table)
        if leaf is None or column.name in leaf.columns:
            continue
        held = schema[leaf.dataset].column(column.name)
        missing: exp.Expr = exp.null()
        if held is not None:
            missing = exp.Cast(this=missing, to=exp.Var(this=held.type))
        column.replace(missing)
    return replace(bound, tree=tree)

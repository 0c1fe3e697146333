"""The joins of one SELECT as the passes see them: which sources inner joins connect, and which columns they hold equal.

``flatten_inner`` brings every condition of inner joins into WHERE first, so that one place holds them all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeAlias

from sqlglot import exp

from tidegate.sql.lineage import conjuncts, sources, unwrap
from tidegate.sql.nodes import aliased
from tidegate.sql.pushdown import join_kind

Column: TypeAlias = tuple[str, str]
"""(alias, column name) in the bound tree."""


@dataclass(slots=True)
class Classes:
    """Columns that the inner joins of one SELECT hold equal (union-find)."""

    parent: dict[Column, Column] = field(default_factory=dict)

    def find(self, column: Column) -> Column:
        """Give the representative of a column's class."""
        self.parent.setdefault(column, column)
        while self.parent[column] != column:
            column = self.parent[column]
        return column

    def join(self, first: Column, second: Column) -> None:
        """Hold two columns equal."""
        self.parent[self.find(first)] = self.find(second)

    def groups(self) -> list[list[Column]]:
        """Give the classes, each sorted."""
        found: dict[Column, list[Column]] = {}
        for column in sorted(self.parent):
            found.setdefault(self.find(column), []).append(column)
        return list(found.values())


def inner_prefix(select: exp.Select) -> list[exp.Expr]:
    """Give the sources that inner joins connect before any other join; none when one comes later that adds NULLs to them."""
    kinds = [join_kind(join) for join in select.args.get("joins") or ()]
    found = sources(select)
    if not found or any(kind in ("RIGHT", "FULL", "") for kind in kinds):
        return []
    count = next((number for number, kind in enumerate(kinds) if kind not in ("INNER", "CROSS")), len(kinds))
    return found[: count + 1]


def flatten_inner(tree: exp.Expr) -> None:
    """Move the conditions of inner joins into WHERE, so that one place holds them all; the tree's answer stays the same."""
    for select in list(tree.find_all(exp.Select)):
        moved: list[exp.Expr] = []
        for join in (select.args.get("joins") or ())[: max(len(inner_prefix(select)) - 1, 0)]:
            on = join.args.get("on")
            if on is not None:
                moved.append(on)
                join.set("on", None)
                join.set("side", None)
                join.set("kind", "CROSS")
        where = select.args.get("where")
        if moved:
            if where is not None:
                moved.append(where.this)
            select.set("where", exp.Where(this=exp.and_(*moved, copy=False)))


def empty_exists(tree: exp.Expr) -> None:
    """Let EXISTS select a constant: what it selects is never looked at, and its columns need not travel."""
    for node in tree.find_all(exp.Exists):
        select = unwrap(node.this)
        if not isinstance(select, exp.Select) or select.args.get("group") is not None:
            continue
        plain = not any(item.find(exp.AggFunc, exp.Window, exp.Query) for item in select.expressions)
        if plain and not any(
            select.args.get(key) for key in ("distinct", "having", "qualify", "order", "limit", "offset")
        ):
            select.set("expressions", [aliased(exp.Literal.number(1), "c0")])


def is_missing(item: exp.Expr) -> bool:
    """Say whether an output is a typed NULL, as ``pruning`` leaves it where nobody reads a column; it does not travel."""
    value = item.unalias()
    return isinstance(value, exp.Null) or (isinstance(value, exp.Cast) and isinstance(value.this, exp.Null))


def where_of(select: exp.Select) -> list[exp.Expr]:
    """Give the conjuncts of a SELECT's WHERE."""
    where = select.args.get("where")
    return list(conjuncts(where.this if where is not None else None))


def inner_queries(node: exp.Expr) -> Iterator[exp.Expr]:
    """Give the outermost queries inside an expression."""
    for item in node.walk(prune=lambda item: isinstance(item, exp.Query)):
        if isinstance(item, exp.Query):
            yield item


def own_columns(node: exp.Expr) -> Iterator[exp.Column]:
    """Give the columns of an expression itself, without those inside its sub-queries."""
    for item in node.walk(prune=lambda item: isinstance(item, exp.Query)):
        if isinstance(item, exp.Column):
            yield item


def free_columns(query: exp.Expr) -> Iterator[exp.Column]:
    """Give the columns inside a query that belong to something outside of it."""
    inside = {node.alias_or_name for node in query.find_all(exp.Table, exp.Subquery, exp.Values) if node.alias_or_name}
    return (column for column in query.find_all(exp.Column) if column.table not in inside)


def equalities(conditions: list[exp.Expr]) -> Iterator[tuple[exp.Column, exp.Column]]:
    """Give ``column = column`` of conjuncts; of an OR, those that stand in each branch."""
    for item in conditions:
        if isinstance(item, exp.Or):
            branches = [list(conjuncts(branch)) for branch in item.flatten()]
            shared = [part for part in branches[0] if all(part in other for other in branches[1:])]
            yield from equalities([part for part in shared if isinstance(part, exp.EQ)])
        elif isinstance(item, exp.EQ):
            left, right = item.this.unnest(), item.expression.unnest()
            if isinstance(left, exp.Column) and isinstance(right, exp.Column) and left.table != right.table:
                yield left, right


def chained(refs: list[str], classes: Classes) -> list[tuple[Column, Column]]:
    """Give equalities that hold all columns of a class within some leaves equal."""
    found: list[tuple[Column, Column]] = []
    for group in classes.groups():
        own = [column for column in group if column[0] in refs]
        found += list(pairwise(own))
    return found

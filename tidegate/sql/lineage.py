"""Where a column of a bound query comes from: the leaves behind every alias, through sub-selects, CTEs and set operations.

A bound query's aliases are generated, so each stands for one thing in the whole tree (checked here). ``plain`` follows a
column only while it is handed on unchanged; ``reads`` says every base column that may flow into an expression.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from sqlglot import exp

from tidegate.core.errors import Code, error_for
from tidegate.sql.model import BoundQuery

Base: TypeAlias = tuple[str, str]
"""A column of a leaf: (ref, column name)."""


def is_base(table: exp.Expr) -> bool:
    """Say whether the node is a mention of a dataset (and not of a CTE)."""
    return isinstance(table, exp.Table) and bool(table.args.get("db"))


def unwrap(query: exp.Expr) -> exp.Expr:
    """Take the parentheses off a query."""
    while isinstance(query, exp.Subquery | exp.Paren):
        query = query.this
    return query


@dataclass(frozen=True, slots=True)
class Lineage:
    """The map of one bound tree. Make it with ``Lineage.of``; it holds for as long as the tree is not changed.

    Args:
        leaves: ref -> its table node.
        derived: alias -> query (a sub-select in FROM, or the CTE that the alias mentions).
        mentions: CTE name -> how often FROM clauses mention it.
    """

    leaves: dict[str, exp.Table] = field(default_factory=dict)
    derived: dict[str, exp.Expr] = field(default_factory=dict)
    mentions: dict[str, int] = field(default_factory=dict)
    _followed: dict[tuple[str, str], tuple[Base, ...] | None] = field(default_factory=dict)

    @classmethod
    def of(cls, bound: BoundQuery) -> Lineage:
        """Read a bound query.

        Raises:
            InternalError: the leaves of the tree are not those that ``bound.leaves`` names, or an alias has two meanings.
        """
        found = cls.of_tree(bound.tree)
        if set(found.leaves) != {leaf.ref for leaf in bound.leaves}:
            raise error_for(Code.INTERNAL, detail="lineage: the tree's tables are not the bound leaves")
        for leaf in bound.leaves:
            table = found.leaves[leaf.ref]
            if (table.db, table.name) != (leaf.dataset.department, leaf.dataset.name):
                raise error_for(Code.INTERNAL, detail="lineage: a leaf's table is another dataset")
        return found

    @classmethod
    def of_tree(cls, tree: exp.Expr) -> Lineage:
        """Read a tree alone."""
        found = cls()
        ctes = {cte.alias: cte.this for cte in tree.find_all(exp.CTE)}
        for node in tree.walk():
            if isinstance(node, exp.Table) and isinstance(node.this, exp.Identifier):
                found._add_table(node, ctes)
            elif isinstance(node, exp.Subquery) and node.alias:
                found._once(node.alias)
                found.derived[node.alias] = unwrap(node)
            elif isinstance(node, exp.Values) and node.alias:
                found._once(node.alias)
                found.derived[node.alias] = node
        return found

    def _add_table(self, node: exp.Table, ctes: dict[str, exp.Expr]) -> None:
        alias = node.alias or node.name
        self._once(alias)
        if is_base(node):
            self.leaves[alias] = node
        elif node.name in ctes:
            self.derived[alias] = ctes[node.name]
            self.mentions[node.name] = self.mentions.get(node.name, 0) + 1
        else:
            raise error_for(Code.INTERNAL, detail="lineage: a table that is neither a dataset nor a CTE")

    def _once(self, alias: str) -> None:
        if alias in self.leaves or alias in self.derived:
            raise error_for(Code.INTERNAL, detail="lineage: an alias with two meanings")

    def plain(self, column: exp.Expr) -> tuple[Base, ...] | None:
        """Follow a column that is handed on unchanged; a set operation gives one base column for each branch.

        Returns None when it is computed anywhere on the way.
        """
        if not isinstance(column, exp.Column):
            return None
        key = (column.table, column.name)
        if column.table in self.leaves:
            return (key,)
        if key not in self._followed:  # remembered: CTEs that each mention the one before twice are 2^n paths
            self._followed[key] = self._follow(column)
        return self._followed[key]

    def _follow(self, column: exp.Column) -> tuple[Base, ...] | None:
        found: dict[Base, None] = {}
        for source in self.definitions(column):
            below = self.plain(source)
            if below is None:
                return None
            found.update(dict.fromkeys(below))
        return tuple(found) or None

    def definitions(self, column: exp.Column) -> list[exp.Expr]:
        """Give the expressions that define a column of a derived table, one for each branch; empty when unknown."""
        query = self.derived.get(column.table)
        return [] if query is None else outputs(query, column.name)

    def reads(self, expression: exp.Expr) -> frozenset[Base]:
        """Give every base column that may flow into an expression; sub-queries inside it count with all they read."""
        found: set[Base] = set()
        done: set[tuple[str, str]] = set()
        waiting = list(expression.find_all(exp.Column))
        while waiting:
            column = waiting.pop()
            key = (column.table, column.name)
            if key in done:
                continue
            done.add(key)
            if column.table in self.leaves:
                found.add(key)
            for source in self.definitions(column):
                waiting.extend(source.find_all(exp.Column))
        return frozenset(found)


def outputs(query: exp.Expr, name: str) -> list[exp.Expr]:
    """Give the expressions behind output column ``name``, one for each branch of set operations."""
    query = unwrap(query)
    if isinstance(query, exp.Values):
        columns = [item.name for item in query.args["alias"].args.get("columns") or ()]
        return [row.expressions[columns.index(name)] for row in query.expressions] if name in columns else []
    if isinstance(query, exp.SetOperation):
        names = output_names(query)
        return _at(query, names.index(name)) if name in names else []
    if isinstance(query, exp.Select):
        return [item.unalias() for item in query.expressions if item.alias_or_name == name]
    return []


def output_names(query: exp.Expr) -> list[str]:
    """Give the names of a query's output columns; a set operation has its first branch's."""
    query = unwrap(query)
    while isinstance(query, exp.SetOperation):
        query = unwrap(query.left)
    return [item.alias_or_name for item in query.expressions] if isinstance(query, exp.Select) else []


def _at(query: exp.Expr, position: int) -> list[exp.Expr]:
    query = unwrap(query)
    if isinstance(query, exp.SetOperation):
        return _at(query.left, position) + _at(query.right, position)
    if isinstance(query, exp.Select) and position < len(query.expressions):
        return [query.expressions[position].unalias()]
    return []


def sources(select: exp.Select) -> list[exp.Expr]:
    """Give what a SELECT's FROM and JOINs mention, in order."""
    origin = select.args.get("from_")
    first = [origin.this] if origin is not None else []
    return first + [join.this for join in select.args.get("joins") or ()]


def conjuncts(condition: exp.Expr | None) -> Iterator[exp.Expr]:
    """Split a condition at its ANDs, in order; as long a chain as there is."""
    waiting = [condition] if condition is not None else []
    while waiting:
        item = waiting.pop().unnest()
        if isinstance(item, exp.And):
            waiting += [item.right, item.left]
        else:
            yield item

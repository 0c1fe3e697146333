"""Settle conditions of outer joins: what an ON says of its optional side alone is moved into that side, before the split.

``a LEFT JOIN b ON a.k = b.k AND p(b)`` is ``a LEFT JOIN (SELECT ... FROM b WHERE p) AS b ON a.k = b.k``, and so for SEMI and
ANTI joins: what ON drops of their right side never had a say in the answer. ``pushdown`` copies such a condition to the node;
only where it is moved does a column that nothing else reads stay at home. Moved is what is leakproof, and only where a column
is spared; everywhere else the query stays as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from sqlglot import exp

from tidegate.sql.joins import inner_queries
from tidegate.sql.leakproof import Leakproof
from tidegate.sql.lineage import Lineage, conjuncts, is_base, output_names
from tidegate.sql.model import BoundQuery, Schema
from tidegate.sql.nodes import aliased, column, identifier, table_alias
from tidegate.sql.pushdown import JOIN_RULES, join_kind
from tidegate.sql.shards import Aliases, add_conditions, only, substitute

_PLAIN = frozenset({"expressions", "from_", "joins", "where"})


def settle(bound: BoundQuery, schema: Schema) -> BoundQuery:
    """Move conditions; gives a query with the same answer, leaves, parameters and output names."""
    if not any(_optional(join) for join in bound.tree.find_all(exp.Join)):
        return bound
    made = replace(bound, tree=bound.tree.copy())
    work = _Settling(made, schema)
    for join in list(made.tree.find_all(exp.Join)):
        if _optional(join):
            work.join(join)
    return made


def _optional(join: exp.Join) -> bool:
    """Say whether a join's ON only chooses among the rows of its right side: it neither drops nor adds any of that side."""
    kind = join_kind(join)
    return kind in ("LEFT", "SEMI", "ANTI") and JOIN_RULES[kind]["on_right"] == "yes"


class _Settling:
    """The rewriting of one tree in place."""

    def __init__(self, bound: BoundQuery, schema: Schema) -> None:
        self._tree = bound.tree
        self._leakproof = Leakproof(bound, schema, Lineage.of_tree(bound.tree))
        self._datasets = {leaf.ref: schema[leaf.dataset] for leaf in bound.leaves}
        self._aliases = Aliases(bound.tree)
        named = Counter(leaf.dataset for leaf in bound.leaves)
        self._mentions = {leaf.ref: named[leaf.dataset] for leaf in bound.leaves}

    def join(self, join: exp.Join) -> None:
        """Move what can be moved of one ON."""
        source, alias = join.this, join.this.alias_or_name
        conditions = list(conjuncts(join.args.get("on")))
        moved = [item for item in conditions if self._moves(item, alias)]
        left = [item for item in conditions if not any(item is other for other in moved)]
        if not moved or not left:
            return
        inside = {id(node) for item in moved for node in item.find_all(exp.Column)}
        readers = [node for node in self._tree.find_all(exp.Column) if node.table == alias and id(node) not in inside]
        spared = {node.name for item in moved for node in item.find_all(exp.Column)} - {node.name for node in readers}
        if not spared or not readers:
            return
        if is_base(source) and not source.args.get("joins"):
            if self._mentions[alias] > 1:
                return  # two mentions of one dataset may be fetched once, which spares more than a column
            self._around(source, moved, readers)
        elif not isinstance(source, exp.Subquery) or not self._within(source, moved, spared):
            return
        join.set("on", exp.and_(*left, copy=False))

    def _moves(self, item: exp.Expr, alias: str) -> bool:
        tables = {node.table for node in item.find_all(exp.Column)}
        return tables == {alias} and next(inner_queries(item), None) is None and self._leakproof.predicate(item)

    def _around(self, table: exp.Expr, moved: list[exp.Expr], readers: list[exp.Column]) -> None:
        """Put a sub-select around a leaf that gives only the columns that are read beside the conditions."""
        fresh, names = self._aliases.fresh(), sorted({node.name for node in readers})
        ref = table.alias_or_name
        inner = exp.Select(expressions=[aliased(column(ref, name), f"c{place}") for place, name in enumerate(names)])
        table.replace(exp.Subquery(this=inner, alias=table_alias(fresh)))
        inner.set("from_", exp.From(this=table))
        inner.set("where", exp.Where(this=exp.and_(*moved, copy=True)))
        for node in readers:
            node.set("this", identifier(f"c{names.index(node.name)}"))
            node.set("table", identifier(fresh))

    def _within(self, source: exp.Subquery, moved: list[exp.Expr], spared: set[str]) -> bool:
        """Put the conditions into every branch of a derived table, and NULL in the place of what nobody reads any more."""
        branches = list(_branches(source.this)) if only(source, ("this", "alias")) else []
        names = output_names(source)
        plans = []
        for branch in branches:
            items = [item.unalias() for item in branch.expressions] if branch is not None else []
            if branch is None or len(items) != len(names) or len(set(names)) != len(names):
                return False
            known = dict(zip(names, items, strict=True))
            if any(
                not isinstance(known[node.name], exp.Column) for item in moved for node in item.find_all(exp.Column)
            ):
                return False
            inner = [substitute(item, source.alias, known) for item in moved]
            if not all(map(self._leakproof.predicate, inner)):
                return False
            plans.append((branch, inner))
        for branch, inner in plans:
            add_conditions(branch, inner)
            for place, name in enumerate(names):
                if name in spared:
                    self._empty(branch, place)
        return bool(plans)

    def _empty(self, branch: exp.Select, place: int) -> None:
        item = branch.expressions[place].unalias()
        dataset = self._datasets.get(item.table)
        held = dataset.column(item.name) if dataset is not None else None
        if held is not None:
            item.replace(exp.Cast(this=exp.null(), to=exp.Var(this=held.type)))


def _branches(query: exp.Expr) -> Iterator[exp.Select | None]:
    """Give the plain SELECTs of a UNION ALL in order; None for whatever else there is."""
    waiting = [query]
    while waiting:
        item = waiting.pop()
        while isinstance(item, exp.Subquery) and only(item, ("this",)):
            item = item.this
        if (
            isinstance(item, exp.Union)
            and not item.args.get("distinct")
            and only(item, ("this", "expression", "distinct"))
        ):
            waiting += [item.expression, item.this]
        else:
            plain = isinstance(item, exp.Select) and only(item, _PLAIN) and item.args.get("from_") is not None
            yield item if plain and isinstance(item, exp.Select) else None

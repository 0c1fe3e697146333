"""Read a UNION ALL in FROM as a list of branches, and say what of the SELECT above it may be computed in each of them.

A collection binds as a derived table that is a UNION ALL of its parts; a caller may write the same by hand, below plain
projections, or in a WITH that is mentioned once. ``read`` gives it flat: one SELECT a branch, with the union's columns as
expressions over the branch's own sources. Partial aggregation and TopN (``partial``, ``topn``) build on it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlglot import exp

from tidegate.core.decision import Decision
from tidegate.core.names import DatasetName
from tidegate.sql.functions import FUNCTIONS
from tidegate.sql.lineage import Lineage, conjuncts, is_base, output_names, unwrap
from tidegate.sql.model import BoundQuery
from tidegate.sql.nodes import AggregateCall, Call, WindowCall, aliased, column, table_alias

Placement = Mapping[DatasetName, tuple[str, str]]
"""Where each dataset lies: (member, node)."""

Typed = Callable[[exp.Expr], bool]

_ALIAS = re.compile(r"a([0-9]+)\Z")
_MULTIPLIES = frozenset(
    {"unnest", "flatten"}
)  # unnest makes rows; flatten is its neighbour in a list, and cheap to leave
_PLAIN = frozenset({"expressions", "from_", "joins", "where"})


@dataclass(frozen=True, slots=True)
class Branch:
    """One branch: ``select`` has FROM, JOINs and WHERE of its own; ``outputs`` are the union's columns in its terms."""

    select: exp.Select
    outputs: tuple[exp.Expr, ...]


@dataclass(frozen=True, slots=True)
class Shards:
    """A UNION ALL in FROM.

    Args:
        alias: by which the SELECT above names it.
        names: its columns (``c0`` ...), in the order of each branch's ``outputs``.
        cte: the name of the WITH part that it was, mentioned nowhere else; empty when it stood in FROM itself.
    """

    alias: str
    names: tuple[str, ...]
    branches: tuple[Branch, ...]
    cte: str = ""

    def reads_only(self, node: exp.Expr) -> bool:
        """Say whether every column of an expression is one of the union's."""
        return all(item.table == self.alias and item.name in self.names for item in node.find_all(exp.Column))

    def within(self, branch: Branch, node: exp.Expr) -> exp.Expr:
        """Give an expression over the union's columns in a branch's own terms."""
        return substitute(node, self.alias, dict(zip(self.names, branch.outputs, strict=True)))


class Aliases:
    """Generates table aliases that no part of a tree has: ``a<n>`` above every one that there is."""

    def __init__(self, tree: exp.Expr) -> None:
        found = [_ALIAS.match(str(node.alias)) for node in tree.find_all(exp.Table, exp.Subquery, exp.Values)]
        self._next = 1 + max((int(match[1]) for match in found if match), default=-1)

    def fresh(self) -> str:
        """Give the next one."""
        self._next += 1
        return f"a{self._next - 1}"


def substitute(node: exp.Expr, alias: str, outputs: Mapping[str, exp.Expr]) -> exp.Expr:
    """Put expressions in place of the columns of one alias."""
    holder = exp.Paren(this=node.copy())
    for item in list(holder.find_all(exp.Column)):
        if item.table == alias:
            item.replace(outputs[item.name].copy())
    made: exp.Expr = holder.this
    made.pop()
    return made


def movable(node: exp.Expr) -> bool:
    """Say whether an expression may be computed elsewhere, and more than once: a pure function of one row."""
    for item in node.walk():
        if isinstance(item, exp.Query | exp.AggFunc | exp.Window | exp.Star | exp.Filter | WindowCall):
            return False
        if isinstance(item, Call):
            known = FUNCTIONS.get(item.name)
            if known is None or not known.deterministic or item.name in _MULTIPLIES | {"grouping", "grouping_id"}:
                return False
    return True


def only(node: exp.Expr, allowed: Iterable[str]) -> bool:
    """Say whether a query has no clause but these."""
    return not any(value not in (None, False, []) and key not in allowed for key, value in node.args.items())


def derived(select: exp.Query) -> bool:
    """Say whether a SELECT reads a derived table or a WITH part first."""
    origin = select.args.get("from_")
    return origin is not None and not is_base(origin.this)


def read(source: exp.Expr, lineage: Lineage, typed: Typed, fresh: Callable[[], str]) -> Shards | None:
    """Read what stands in FROM; None when it is no UNION ALL of two branches or more, or looks outside itself.

    Args:
        typed: says whether an expression means in every branch what it means above the union.
        fresh: gives aliases for branches that must become derived tables.
    """
    alias, cte = str(source.alias), ""
    if isinstance(source, exp.Subquery):
        query: exp.Expr = source.this
        if not only(source, ("this", "alias")):
            return None
    elif isinstance(source, exp.Table) and not is_base(source) and lineage.mentions.get(source.name) == 1:
        found = lineage.derived[alias]
        holder = found.find_ancestor(exp.CTE)
        if holder is None or holder.args.get("materialized") or holder.alias != source.name:
            return None
        query, cte = found, str(source.name)
    else:
        return None
    names = output_names(query)
    branches = flatten(query, typed, fresh)
    if len(branches) < 2 or len(set(names)) != len(names) or any(len(b.outputs) != len(names) for b in branches):
        return None
    if not _closed(query):
        return None
    return Shards(alias, tuple(names), tuple(branches), cte)


def flatten(query: exp.Expr, typed: Typed, fresh: Callable[[], str]) -> list[Branch]:
    """Give the branches of a query; one that is no union is its own only branch. Nothing of the query is shared or changed."""
    query = unwrap(query)
    if (
        isinstance(query, exp.Union)
        and not query.args.get("distinct")
        and only(query, ("this", "expression", "distinct"))
    ):
        chain: list[exp.Expr] = []
        while (
            isinstance(query, exp.Union)
            and not query.args.get("distinct")
            and only(query, ("this", "expression", "distinct"))
        ):
            chain.append(query.expression)
            query = unwrap(query.this)
        parts = flatten(query, typed, fresh)
        for item in reversed(chain):
            parts += flatten(item, typed, fresh)
        return parts
    if isinstance(query, exp.Select) and only(query, _PLAIN):
        outputs = tuple(item.unalias() for item in query.expressions)
        if query.args.get("from_") is not None and all(map(movable, outputs)):
            return _composed(query, outputs, typed, fresh) or [
                Branch(query.copy(), tuple(item.copy() for item in outputs))
            ]
    alias = fresh()
    table = exp.Subquery(this=query.copy(), alias=table_alias(alias))
    columns = tuple(column(alias, name) for name in output_names(query))
    return [Branch(exp.Select(expressions=[], from_=exp.From(this=table)), columns)]


def _composed(query: exp.Select, outputs: Sequence[exp.Expr], typed: Typed, fresh: Callable[[], str]) -> list[Branch]:
    """Push a plain projection and its WHERE into the branches of the union that it reads; empty when it reads none."""
    source, where = query.args["from_"].this, query.args.get("where")
    if query.args.get("joins") or not isinstance(source, exp.Subquery) or not only(source, ("this", "alias")):
        return []
    names, alias = output_names(source), str(source.alias)
    moved = list(conjuncts(where.this)) if where is not None else []
    inner = flatten(source.this, typed, fresh)
    computed = [item for item in outputs if not isinstance(item, exp.Column)]
    if not all(map(movable, moved)) or not all(map(typed, [*moved, *computed])):
        return []
    if len(inner) < 2 or any(len(item.outputs) != len(names) for item in inner):
        return []
    branches = []
    for item in inner:
        known = dict(zip(names, item.outputs, strict=True))
        select = item.select.copy()
        add_conditions(select, [substitute(part, alias, known) for part in moved])
        branches.append(Branch(select, tuple(substitute(output, alias, known) for output in outputs)))
    return branches


def add_conditions(select: exp.Select, conditions: Sequence[exp.Expr]) -> None:
    """Add conjuncts to a WHERE."""
    where = select.args.get("where")
    items = [where.this] if where is not None else []
    items += conditions
    if items:
        made = items[0]
        for item in items[1:]:
            made = exp.And(this=made, expression=item)
        select.set("where", exp.Where(this=made))


def _closed(query: exp.Expr) -> bool:
    """Say whether a query reads nothing of what is around it (then it means the same wherever it stands)."""
    own = {str(node.alias) for node in query.find_all(exp.Table, exp.Subquery, exp.Values) if node.alias}
    return all(item.table in own for item in query.find_all(exp.Column) if item.table)


def pays(shards: Shards, bound: BoundQuery, placement: Placement) -> bool:
    """Say whether taking work into the branches spares anything: they lie with several nodes, and some with one alone."""
    leaves = {leaf.ref: leaf.dataset for leaf in bound.leaves}
    homes = []
    for branch in shards.branches:
        refs = [table.alias for table in branch.select.find_all(exp.Table) if is_base(table)]
        homes.append({placement.get(leaves[ref]) for ref in refs if ref in leaves})
    everywhere = set().union(*homes)
    return len(everywhere) > 1 and any(len(home) == 1 and None not in home for home in homes)


def spread(bound: BoundQuery, decision: Decision, placement: Placement) -> bool:
    """Say, before anything is copied, whether a query can have branches to take work into, and may."""
    places = {placement.get(leaf.dataset) for leaf in bound.leaves}
    return len(places) > 1 and bound.tree.find(exp.Union) is not None and rows_only(bound, decision)


def rows_only(bound: BoundQuery, decision: Decision) -> bool:
    """Say whether the policy gives rows of every leaf: no group has to be counted anywhere in the query."""
    found = [decision.resources.get(leaf.ref) for leaf in bound.leaves]
    return all(item is not None and item.constraints.mode == "rows" for item in found)


def union(selects: Sequence[exp.Select]) -> exp.Query:
    """Give the UNION ALL of branches."""
    made: exp.Query = selects[0]
    for select in selects[1:]:
        made = exp.Union(this=made, expression=select, distinct=False)
    return made


def numbered(expressions: Sequence[exp.Expr]) -> list[exp.Expr]:
    """Name outputs ``c0``, ``c1`` ..."""
    return [aliased(item, f"c{number}") for number, item in enumerate(expressions)]


def drop_cte(tree: exp.Expr, name: str) -> None:
    """Take a WITH part out of a tree: what it was stands where it was mentioned."""
    for cte in list(tree.find_all(exp.CTE)):
        if cte.alias != name:
            continue
        holder = cte.parent
        cte.pop()
        if isinstance(holder, exp.With) and not holder.expressions and holder.parent is not None:
            holder.parent.set("with_", None)


def aggregates(node: exp.Expr) -> bool:
    """Say whether an expression aggregates in its own SELECT (not in a window, not in a sub-query of it)."""
    if isinstance(node, exp.Query):
        return False
    if isinstance(node, exp.Window):
        inner = node.this
        while isinstance(inner, exp.Filter | exp.IgnoreNulls | exp.RespectNulls | exp.WithinGroup):
            inner = inner.this
        parts = [*inner.iter_expressions(), *(node.args.get("partition_by") or [])]
        parts += [node.args[key] for key in ("order", "spec") if node.args.get(key) is not None]
        return any(map(aggregates, parts))
    if isinstance(node, AggregateCall | exp.AggFunc):
        return True
    return any(map(aggregates, node.iter_expressions()))

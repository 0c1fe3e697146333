"""Units: which parts of a bound query go to which node as one fragment each (design planner.md, pass 8).

A whole sub-query whose leaves all lie with one node goes there whole, when nothing in it reads what is outside of it. Of any
other SELECT, the leaves of one node that stand side by side in its inner joins go together, with the conditions that read them
alone, sub-queries over the same node included. What remains is fetched leaf by leaf. Only this pass and partial aggregation
take work away from the broker: everything that a unit takes over is proven to be exactly the same there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from sqlglot import exp

from tidegate.sql import callnames
from tidegate.sql.estimate import Estimate
from tidegate.sql.families import comparable
from tidegate.sql.joins import (
    Classes,
    Column,
    chained,
    equalities,
    free_columns,
    inner_prefix,
    inner_queries,
    own_columns,
    where_of,
)
from tidegate.sql.journeys import casts_of_query
from tidegate.sql.kinds import Kinds
from tidegate.sql.leakproof import Kind, Leakproof
from tidegate.sql.lineage import Lineage, conjuncts, is_base, sources, unwrap
from tidegate.sql.passes import Passes

Place: TypeAlias = tuple[str, str]
"""(member, node)."""

FAN_OUT_MAX = 2.0  # a join at a node that gives more rows than this times its inputs is better made at the broker


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """What becomes one fragment.

    Args:
        refs: every leaf in it, those of sub-queries included.
        query: the query that goes whole, or None.
        select: of a group, the SELECT whose sources ``members`` are.
        members: leaves whose columns the rest of the query may read.
        conditions: conjuncts of the SELECT's WHERE that the unit takes over.
        equal: equalities between members that the SELECT's conditions imply; the unit takes them over too.
    """

    number: int
    place: Place
    refs: tuple[str, ...]
    query: exp.Expr | None = None
    select: exp.Select | None = None
    members: tuple[str, ...] = ()
    conditions: tuple[exp.Expr, ...] = ()
    equal: tuple[tuple[Column, Column], ...] = ()


class Units:
    """The choice of units for one bound tree (which must have gone through ``flatten_inner``)."""

    def __init__(
        self,
        tree: exp.Expr,
        lineage: Lineage,
        leakproof: Leakproof,
        places: Mapping[str, Place],
        estimate: Estimate,
        kinds: Kinds,
        passes: Passes,
    ) -> None:
        self._lineage = lineage
        self._leakproof = leakproof
        self._places = places
        self._estimate = estimate
        self._kinds = kinds
        self._passes = passes
        self.all: list[Unit] = []
        self._taken: set[str] = set()
        self._claimed: set[int] = set()
        if passes.subtrees:
            self._visit(tree, root=True)
        for ref in places:
            if ref not in self._taken:
                self._add(places[ref], (ref,), members=(ref,))

    def _add(self, place: Place, refs: tuple[str, ...], **fields: object) -> None:
        self._taken.update(refs)
        self.all.append(Unit(len(self.all), place, refs, **fields))  # type: ignore[arg-type]

    def _visit(self, query: exp.Expr, *, root: bool = False) -> None:
        query = unwrap(query)
        place = None if root else self._whole(query)
        if place is not None:
            self._add(place, tuple(self._leaves(query)), query=query)
            return
        with_ = query.args.get("with_")
        for cte in with_.expressions if with_ is not None else ():
            self._visit(cte.this)
        if isinstance(query, exp.SetOperation):
            self._visit(query.left)
            self._visit(query.right)
        elif isinstance(query, exp.Select):
            self._select(query)

    def _leaves(self, query: exp.Expr) -> list[str]:
        return [table.alias for table in query.find_all(exp.Table) if is_base(table)]

    def _whole(self, query: exp.Expr) -> Place | None:
        """Give the one node that can answer the query by itself, or None."""
        leaves = self._leaves(query)
        places = {self._places[ref] for ref in leaves}
        if len(places) != 1 or self._taken & set(leaves) or not self._closed(query):
            return None
        if self._multiplies(query) or casts_of_query(query, self._kinds) is None:
            return None
        return places.pop()

    def _closed(self, query: exp.Expr) -> bool:
        """Say whether a query reads nothing from outside: no outer column and no outer CTE."""
        own = {cte.alias for cte in query.find_all(exp.CTE)}
        mentioned = {table.name for table in query.find_all(exp.Table) if not is_base(table)}
        return mentioned <= own and next(free_columns(query), None) is None

    def _multiplies(self, query: exp.Expr) -> bool:
        """Say whether the query's answer is much larger than what it reads (a cross join without a condition)."""
        read = sum(self._estimate.rows(ref) for ref in self._leaves(query))
        return self._estimate.query(query, {}) > FAN_OUT_MAX * read

    def _select(self, select: exp.Select) -> None:
        self._groups(select)
        for source in sources(select):
            if isinstance(source, exp.Subquery):
                self._visit(source)
        joined = [join.args.get("on") for join in select.args.get("joins") or ()]
        named = [select.args.get(key) for key in ("where", "having", "qualify", "group", "order", "limit", "distinct")]
        for part in (*select.expressions, *joined, *named, *(select.args.get("windows") or ())):
            for query in inner_queries(part) if part is not None else ():
                if id(query) not in self._claimed:
                    self._visit(query)

    # -- groups -------------------------------------------------------------------------------------------------------

    def _groups(self, select: exp.Select) -> None:
        prefix = inner_prefix(select)
        members = [
            source.alias
            for source in prefix
            if is_base(source) and not source.args.get("joins") and source.alias not in self._taken
        ]
        conditions = where_of(select)
        classes = self.classes(select)
        for group in self._components(members, classes):
            self._group(select, group, conditions, classes)

    def classes(self, select: exp.Select) -> Classes:
        """Give the columns of the SELECT's inner sources that its WHERE holds equal."""
        inner = {source.alias_or_name for source in inner_prefix(select)}
        found = Classes()
        for left, right in equalities(where_of(select)):
            if {left.table, right.table} <= inner and self.same_kind(left, right):
                found.join((left.table, left.name), (right.table, right.name))
        return found

    def same_kind(self, left: exp.Column, right: exp.Column) -> bool:
        """Say whether two columns compare exactly, also through a third: decimals and floats may round on the way."""
        first, second = self._leakproof.column(left), self._leakproof.column(right)
        return first is not None and first == second and first in ("integer", "text", "date")

    def _components(self, members: list[str], classes: Classes) -> list[list[str]]:
        """Put leaves of one node that equalities connect together, as long as their join does not multiply rows."""
        groups: list[list[str]] = []
        for ref in members:
            for group in groups:
                joined = [*group, ref]
                if self._places[ref] == self._places[group[0]] and self._joins(joined, classes):
                    group.append(ref)
                    break
            else:
                groups.append([ref])
        merged = True
        while merged:  # a leaf that came later may connect two groups
            merged = False
            for first in groups:
                for second in groups:
                    if (
                        first is not second
                        and self._places[first[0]] == self._places[second[0]]
                        and self._joins([*first, *second], classes)
                    ):
                        first.extend(second)
                        groups.remove(second)
                        merged = True
                        break
                if merged:
                    break
        return groups

    def _joins(self, refs: list[str], classes: Classes) -> bool:
        equal = chained(refs, classes)
        connected = {refs[0]}
        for _ in refs:
            for (first, _a), (second, _b) in equal:
                if first in connected or second in connected:
                    connected |= {first, second}
        if connected != set(refs):
            return False
        rows = {ref: self._estimate.rows(ref) for ref in refs}
        return self._estimate.joined(rows, equal) <= FAN_OUT_MAX * max(rows.values())

    def _group(self, select: exp.Select, members: list[str], conditions: list[exp.Expr], classes: Classes) -> None:
        taken: list[exp.Expr] = []
        refs = list(members)
        for item in conditions:
            if id(item) in self._claimed or {column.table for column in own_columns(item)} - set(members):
                continue
            inside = list(inner_queries(item))
            if not inside:
                if next(own_columns(item), None) is not None and self._leakproof.predicate(item):
                    taken.append(item)
                    self._claimed.add(id(item))
            elif self._lies_with(inside, members) and self._movable(item):
                taken.append(item)
                self._claimed.update({id(item), *map(id, inside)})
                refs += [ref for query in inside for ref in self._leaves(query)]
        self._add(
            self._places[members[0]],
            tuple(refs),
            select=select,
            members=tuple(members),
            conditions=tuple(taken),
            equal=tuple(chained(members, classes)),
        )

    def _lies_with(self, queries: list[exp.Expr], members: list[str]) -> bool:
        """Say whether sub-queries read leaves of the group's node alone, and of what is outside the group alone."""
        place = self._places[members[0]]
        for query in queries:
            own = {cte.alias for cte in query.find_all(exp.CTE)}
            mentioned = {table.name for table in query.find_all(exp.Table) if not is_base(table)}
            outside = {column.table for column in free_columns(query)}
            leaves = self._leaves(query)
            if mentioned - own or outside - set(members) or self._taken & set(leaves):
                return False
            if {self._places[ref] for ref in leaves} != {place}:
                return False
        return True

    def _movable(self, node: exp.Expr) -> bool:
        """Say whether a condition with sub-queries can be computed on rows that other joins would have removed.

        It must not raise, and it is TRUE, FALSE or NULL for a row by that row and its own node's data alone.
        """
        node = node.unnest()
        if next(inner_queries(node), None) is None:
            return self._leakproof.predicate(node)
        if isinstance(node, exp.And | exp.Or):
            return self._movable(node.left) and self._movable(node.right)
        if isinstance(node, exp.Not):
            return self._movable(node.this)
        if isinstance(node, exp.Exists):
            return self._harmless(node.this)
        if isinstance(node, exp.In) and node.args.get("query") is not None:
            inner = unwrap(node.args["query"])
            first, second = self._leakproof.value(node.this), self._output(inner)
            same = first is not None and second is not None and comparable(first, second)
            return same and self._harmless(inner)
        return False

    def _output(self, query: exp.Expr) -> Kind:
        query = unwrap(query)
        if isinstance(query, exp.Select) and len(query.expressions) == 1:
            return self._leakproof.value(query.expressions[0].unalias())
        return None

    def _harmless(self, query: exp.Expr) -> bool:
        query = unwrap(query)
        if not isinstance(query, exp.Select) or any(
            query.args.get(key) for key in ("limit", "offset", "qualify", "windows", "with_", "having", "group")
        ):
            return False
        if any(isinstance(source, exp.Subquery | exp.Values) for source in sources(query)):
            return False
        items = [item.unalias() for item in query.expressions]
        conditions = where_of(query)
        for join in query.args.get("joins") or ():
            conditions += conjuncts(join.args.get("on"))
        return all(map(self._plain_item, items)) and all(map(self._movable, conditions))

    def _plain_item(self, node: exp.Expr) -> bool:
        if isinstance(node, exp.Cast) and isinstance(node.this, exp.Null):
            return True
        return isinstance(node, exp.Null) or (not callnames.name(node) and self._leakproof.value(node) is not None)

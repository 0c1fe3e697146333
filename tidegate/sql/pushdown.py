"""Leaf pushdown: which conjuncts of a bound query may be COPIED to a leaf. The originals stay where they are.

A leaf fetch is a superset of the rows that the query needs, so a conjunct that is not pushed costs bytes and one that is
wrongly pushed costs answers. Each is proven: leakproof (it also must not raise on rows that the join would have removed),
of one leaf, and allowed at its place by ``JOIN_RULES``, the table of design planner.md, pass 7. What is not known is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from sqlglot import exp

from tidegate.sql.leakproof import Leakproof, rejects_null
from tidegate.sql.lineage import Lineage, conjuncts, is_base, output_names, outputs, sources, unwrap

Rule: TypeAlias = Literal["yes", "null", "no"]
"""``null``: only a conjunct that is never TRUE when the leaf's columns are NULL."""

Place: TypeAlias = Literal["where_left", "where_right", "on_left", "on_right"]

JOIN_RULES: Mapping[str, dict[Place, Rule]] = {
    "INNER": {"where_left": "yes", "where_right": "yes", "on_left": "yes", "on_right": "yes"},
    "CROSS": {"where_left": "yes", "where_right": "yes", "on_left": "yes", "on_right": "yes"},
    "LEFT": {"where_left": "yes", "where_right": "null", "on_left": "no", "on_right": "yes"},
    "RIGHT": {"where_left": "null", "where_right": "yes", "on_left": "yes", "on_right": "no"},
    "FULL": {"where_left": "null", "where_right": "null", "on_left": "no", "on_right": "no"},
    "SEMI": {"where_left": "yes", "where_right": "no", "on_left": "yes", "on_right": "yes"},
    "ANTI": {"where_left": "yes", "where_right": "no", "on_left": "no", "on_right": "yes"},
}
"""A later join of the chain counts as a WHERE on its left: so a RIGHT or FULL one null-extends everything before it."""


def join_kind(join: exp.Join) -> str:
    """Give the join's row in ``JOIN_RULES``; empty for one that has none (then nothing passes it)."""
    if join.args.get("method") or join.args.get("using"):
        return ""
    kind, side = join.kind.upper(), join.side.upper()
    if kind in ("SEMI", "ANTI"):
        return kind if side in ("", "LEFT") else ""
    if side in ("LEFT", "RIGHT", "FULL"):
        return side if kind in ("", "OUTER") else ""
    if side or kind not in ("", "INNER", "CROSS", "OUTER"):
        return ""
    return "INNER" if join.args.get("on") is not None else "CROSS"


@dataclass(slots=True)
class LeafPush:
    """What was pushed to one leaf, and what was kept although it reads that leaf alone, and why."""

    pushed: list[exp.Expr] = field(default_factory=list)
    kept: list[tuple[exp.Expr, str]] = field(default_factory=list)

    def add(self, condition: exp.Expr) -> None:
        """Add a conjunct once."""
        if condition not in self.pushed:
            self.pushed.append(condition)


@dataclass(frozen=True, slots=True)
class _Condition:
    """A conjunct of one SELECT; ``join`` is the number of the join whose ON it stands in, or None for WHERE and above."""

    tree: exp.Expr
    join: int | None


@dataclass(slots=True)
class Implied:
    """Conditions that are not written in the query but follow from it; they are pushed like those that are.

    Args:
        conditions: id of a SELECT -> (condition, number of the join whose ON implies it, or None for WHERE).
        outputs: pairs (query, conditions over its output columns, named by the alias "").
    """

    conditions: dict[int, list[tuple[exp.Expr, int | None]]] = field(default_factory=dict)
    outputs: list[tuple[exp.Expr, list[exp.Expr]]] = field(default_factory=list)


def push(tree: exp.Expr, lineage: Lineage, leakproof: Leakproof, implied: Implied | None = None) -> dict[str, LeafPush]:
    """Find the conjuncts of every leaf of a bound tree."""
    found = {ref: LeafPush() for ref in lineage.leaves}
    return _Pusher(lineage, leakproof, found, implied or Implied()).run(tree)


class _Pusher:
    """One walk down the tree; each query is visited once."""

    def __init__(self, lineage: Lineage, leakproof: Leakproof, found: dict[str, LeafPush], implied: Implied) -> None:
        self._lineage = lineage
        self._implied = implied
        self._leakproof = leakproof
        self._found = found
        self._visited: set[int] = set()

    def run(self, tree: exp.Expr) -> dict[str, LeafPush]:
        for query, conditions in self._implied.outputs:
            self._query(query, {number: (item, "") for number, item in enumerate(conditions)})
        self._query(tree, {})
        for select in tree.find_all(exp.Select):
            self._query(select, {})  # sub-queries in expressions, and CTEs that are mentioned more than once
        return self._found

    def _query(self, query: exp.Expr, incoming: Mapping[int, tuple[exp.Expr, str]]) -> None:
        """Visit a query; ``incoming`` are conjuncts over its output columns, with the alias that they name it by."""
        while isinstance(query, exp.Subquery | exp.Paren):
            if query.args.get("limit") or query.args.get("offset"):
                incoming = {}
            query = query.this
        if id(query) in self._visited:
            return
        self._visited.add(id(query))
        if isinstance(query, exp.SetOperation):
            limited = query.args.get("limit") or query.args.get("offset") or query.args.get("by_name")
            self._set_operation(query, {} if limited else incoming)
        elif isinstance(query, exp.Select):
            self._select(query, [_Condition(item, None) for item in self._into(query, incoming)])

    def _set_operation(self, query: exp.SetOperation, incoming: Mapping[int, tuple[exp.Expr, str]]) -> None:
        """Hand conjuncts to both branches by position: a filter commutes with UNION, INTERSECT and EXCEPT."""
        names = output_names(query)
        for branch in (query.left, query.right):
            own = output_names(branch)
            renamed = dict(zip(names, own, strict=False)) if len(own) == len(names) else {}
            self._query(
                branch,
                {
                    key: (moved, alias)
                    for key, (tree, alias) in incoming.items()
                    if (moved := _rename(tree, alias, renamed))
                },
            )

    def _into(self, select: exp.Select, incoming: Mapping[int, tuple[exp.Expr, str]]) -> Iterator[exp.Expr]:
        """Translate conjuncts over the output of a SELECT into conjuncts over its sources."""
        if select.args.get("limit") or select.args.get("offset"):
            return
        distinct = select.args.get("distinct")
        if distinct is not None and distinct.args.get("on") is not None:
            return
        partitions = _partitions(select)
        for tree, alias in incoming.values():
            moved = _substitute(tree, alias, select)
            if moved is not None and _keys_only(moved, select) and all(_within(moved, keys) for keys in partitions):
                yield moved

    def _select(self, select: exp.Select, conditions: list[_Condition]) -> None:
        joins: list[exp.Join] = list(select.args.get("joins") or ())
        where, having = select.args.get("where"), select.args.get("having")
        conditions += [_Condition(item, None) for item in conjuncts(where.this if where is not None else None)]
        for item in conjuncts(having.this if having is not None else None):
            if select.args.get("group") is not None and _keys_only(item, select):
                conditions.append(_Condition(item, None))
        for number, join in enumerate(joins, start=1):
            conditions += [_Condition(item, number) for item in conjuncts(join.args.get("on"))]
        conditions += [_Condition(*item) for item in self._implied.conditions.get(id(select), ())]
        kinds = [join_kind(join) for join in joins]
        for position, source in enumerate(sources(select)):
            self._source(source, position, conditions, kinds)

    def _source(self, source: exp.Expr, position: int, conditions: list[_Condition], kinds: list[str]) -> None:
        alias = source.alias_or_name
        taken: list[exp.Expr] = []
        for condition in conditions:
            part, why = self._part(condition, alias, position, kinds)
            if part is not None:
                taken.append(part)
            elif why and alias in self._found:
                self._found[alias].kept.append((condition.tree, why))
        if is_base(source) and not source.args.get("joins"):
            for item in taken:
                self._found[alias].add(item)
            return
        target = self._derived(source, alias)
        if target is not None:
            self._query(target, {number: (item, alias) for number, item in enumerate(taken)})

    def _derived(self, source: exp.Expr, alias: str) -> exp.Expr | None:
        if isinstance(source, exp.Subquery) and alias and isinstance(unwrap(source), exp.Query):
            return source
        if isinstance(source, exp.Table) and self._lineage.mentions.get(source.name) == 1:
            return self._lineage.derived.get(alias)
        return None

    def _part(self, condition: _Condition, alias: str, position: int, kinds: list[str]) -> tuple[exp.Expr | None, str]:
        """Give what of the condition may go to the source, or why it may not (empty when it is none of its business)."""
        tree = _implied(condition.tree, alias)
        if tree is None:
            return None, ""
        if not self._leakproof.predicate(tree):
            return None, "it may fail on rows that other parts of the query remove"
        rule = place_rule(position, condition.join, kinds)
        if rule == "no" or (rule == "null" and not rejects_null(tree, alias)):
            return None, "an outer join adds rows after it"
        return tree, ""


def place_rule(position: int, join: int | None, kinds: list[str]) -> Rule:
    """Give what holds for a source at ``position`` (0 is FROM, n is join n) and a conjunct at a join's ON or in WHERE.

    The conjunct passes every join between its place and the source; the strictest rule wins.
    """
    places: list[tuple[str, Place]] = []
    last = len(kinds) if join is None else join - 1
    if join is not None and position > join:
        return "no"
    if join is not None:
        places.append((kinds[join - 1], "on_right" if position == join else "on_left"))
    if position >= 1 and position != join:
        places.append((kinds[position - 1], "where_right"))
    places += [(kinds[number - 1], "where_left") for number in range(position + 1, last + 1)]
    rules = {JOIN_RULES[kind][place] if kind in JOIN_RULES else "no" for kind, place in places}
    return "no" if "no" in rules else "null" if "null" in rules else "yes"


def _implied(tree: exp.Expr, alias: str) -> exp.Expr | None:
    """Give what the condition says about one source alone: itself, or for an OR the part of each branch."""
    tree = tree.unnest()
    if tree.find(exp.Query) is not None:
        return None
    tables = {column.table for column in tree.find_all(exp.Column)}
    if tables == {alias}:
        return tree.copy()
    if not isinstance(tree, exp.Or) or alias not in tables:
        return None
    branches: list[exp.Expr] = []
    for branch in tree.flatten():
        parts = [part for item in conjuncts(branch) if (part := _implied(item, alias)) is not None]
        if not parts:
            return None
        branches.append(exp.and_(*parts))
    return exp.or_(*branches)


def _rename(tree: exp.Expr, alias: str, names: Mapping[str, str]) -> exp.Expr | None:
    """Rename the output columns that a conjunct reads; None when one of them is not known."""
    tree = tree.copy()
    for column in tree.find_all(exp.Column):
        if column.table != alias or column.name not in names:
            return None
        column.set("this", exp.to_identifier(names[column.name], quoted=True))
    return tree


def _substitute(tree: exp.Expr, alias: str, select: exp.Select) -> exp.Expr | None:
    """Put the select list's plain columns in place of output columns; None when one is computed."""
    tree = tree.copy()
    for column in list(tree.find_all(exp.Column)):
        found = outputs(select, column.name)
        if column.table != alias or len(found) != 1 or not isinstance(found[0], exp.Column):
            return None
        column.replace(found[0].copy())
    return tree


def _keys_only(tree: exp.Expr, select: exp.Select) -> bool:
    """Say whether a conjunct reads group keys alone, or the SELECT does not group.

    The columns inside ROLLUP, CUBE and GROUPING SETS are no keys of their own here: those put NULL where a key was.
    """
    group = select.args.get("group")
    if group is None:
        return True
    return _within(tree, list(group.expressions))


def _within(tree: exp.Expr, keys: list[exp.Expr]) -> bool:
    return all(column in keys for column in tree.find_all(exp.Column))


def _partitions(select: exp.Select) -> list[list[exp.Expr]]:
    """Give the PARTITION BY keys of each window of the SELECT itself."""
    found: list[list[exp.Expr]] = []
    parts = [
        *select.expressions,
        select.args.get("qualify"),
        select.args.get("order"),
        *(select.args.get("windows") or ()),
    ]
    for part in parts:
        if part is not None:
            found.extend(list(window.args.get("partition_by") or ()) for window in part.find_all(exp.Window))
    return found

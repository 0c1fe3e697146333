"""Pass 10: LIMIT and TopN over a collection go into each part, and stay where they are. Rewrites a tree, before the split.

Of ``SELECT ... FROM (part UNION ALL part ...) WHERE w ORDER BY k LIMIT n OFFSET m`` no part can give more than its own first
``n + m`` rows under ``w`` and ``k``; so each branch gets the WHERE (moved, not copied), the same ORDER BY with the same rule
for NULLs, and LIMIT ``n + m``. Which of several equal rows a limit keeps is open before and after. Sort keys are plain
columns or leakproof expressions, have one type in all branches, and no masked column is behind them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlglot import exp

from tidegate.core.decision import Decision
from tidegate.sql import shards as shards_
from tidegate.sql.kinds import Kinds
from tidegate.sql.leakproof import Leakproof
from tidegate.sql.lineage import Lineage, conjuncts, output_names, outputs
from tidegate.sql.model import BoundQuery, Schema
from tidegate.sql.nodes import Call, identifier, table_alias
from tidegate.sql.shards import Aliases, Branch, Placement, Shards

ROWS_SORTED_MAX = 1_000_000  # of a part: with a larger LIMIT it would sort nearly all that it then sends anyway
_ORDERED = frozenset({"HUGEINT", "UUID", "BLOB"})  # of no family, and in Arrow's form in the same order
_CLAUSES = frozenset(["expressions", "from_", "where", "order", "limit", "offset", "with_"])
_UNION = frozenset(["this", "expression", "distinct", "order", "limit", "offset", "with_"])


def push_limits(bound: BoundQuery, decision: Decision, schema: Schema, placement: Placement) -> BoundQuery:
    """Take limits into the branches of every UNION ALL whose branches lie with different nodes.

    Args:
        decision: leaves in another mode than rows leave the query as it is; masked columns are no sort keys here.

    Returns:
        a query with the same answer (up to the order of equal sort keys), leaves, parameters and output names; the one that was
        given when nothing applies.
    """
    if not shards_.spread(bound, decision, placement):
        return bound
    made = replace(bound, tree=bound.tree.copy())
    aliases = Aliases(made.tree)
    seen: dict[int, exp.Expr] = {}  # held, so that no id is used twice
    changed = False
    while True:
        waiting = [item for item in made.tree.find_all(exp.Select, exp.Union) if id(item) not in seen]
        if not waiting:
            return made if changed else bound
        for query in waiting:
            seen[id(query)] = query
            if query.args.get("limit") is None:
                continue
            rules = _Rules.of(made, decision, schema)
            push = _select if isinstance(query, exp.Select) else _union
            if push(query, made, rules, placement, aliases):
                changed = True
                break


@dataclass(frozen=True, slots=True)
class _Rules:
    """What may be a sort key."""

    lineage: Lineage
    kinds: Kinds
    leakproof: Leakproof
    decision: Decision

    @classmethod
    def of(cls, bound: BoundQuery, decision: Decision, schema: Schema) -> _Rules:
        lineage = Lineage.of_tree(bound.tree)
        return cls(lineage, Kinds(bound, schema, lineage), Leakproof(bound, schema, lineage), decision)

    def sorts(self, node: exp.Expr) -> bool:
        """Say whether a key gives each branch the order that it gives the whole."""
        kind = self.kinds.of(node)
        if kind is None or not shards_.movable(node):
            return False
        if isinstance(node, exp.Column):
            if kind.family == "other" and kind.exact not in _ORDERED:
                return False
        elif self.leakproof.value(node) is None:
            return False
        return not self._masked(node)

    def _masked(self, node: exp.Expr) -> bool:
        rules = self.decision.resources
        return any(rules[ref].rule(name).access == "masked" for ref, name in self.lineage.reads(node))


def _most(query: exp.Expr) -> int | None:
    """Give how many rows of one branch can matter: LIMIT and OFFSET together; None when that is no constant, or too many."""
    amounts = [query.args[key].expression for key in ("limit", "offset") if query.args.get(key) is not None]
    if not all(isinstance(item, exp.Literal) and not item.is_string and item.name.isdigit() for item in amounts):
        return None
    total = sum(int(item.name) for item in amounts)
    return total if total <= ROWS_SORTED_MAX or query.args.get("order") is None else None


def _select(select: exp.Query, bound: BoundQuery, rules: _Rules, placement: Placement, aliases: Aliases) -> bool:
    most = _most(select)
    if most is None or not shards_.only(select, _CLAUSES) or not shards_.derived(select):
        return False
    if not all(map(_row_by_row, select.expressions)):
        return False
    found = shards_.read(select.args["from_"].this, rules.lineage, rules.kinds.typed, aliases.fresh)
    if found is None or not shards_.pays(found, bound, placement):
        return False
    where = select.args.get("where")
    moved = list(conjuncts(where.this)) if where is not None else []
    if not all(shards_.movable(item) and found.reads_only(item) and rules.kinds.typed(item) for item in moved):
        return False
    keys = _keys(select)
    if keys is None or not all(found.reads_only(key.this) and rules.sorts(key.this) for key in keys):
        return False
    select.set("where", None)
    read = _narrow(select, found)
    branches = [_branch(branch, found, moved, keys, most, read) for branch in found.branches]
    table = exp.Subquery(this=shards_.union(branches), alias=table_alias(found.alias))
    select.set("from_", exp.From(this=table))
    if found.cte:
        shards_.drop_cte(bound.tree, found.cte)
    return True


def _narrow(select: exp.Query, found: Shards) -> list[int]:
    """Give the union's columns that the SELECT still reads when its WHERE has moved, and number them anew in it."""
    select.set("from_", None)
    columns = [item for item in select.find_all(exp.Column) if item.table == found.alias]
    read = sorted({found.names.index(item.name) for item in columns})
    for item in columns:
        item.set("this", identifier(f"c{read.index(found.names.index(item.name))}"))
    return read


def _keys(select: exp.Query) -> list[exp.Ordered] | None:
    """Give the sort keys with the outputs themselves in place of their positions."""
    order = select.args.get("order")
    made = []
    for item in order.expressions if order is not None else []:
        key = item.copy()
        if isinstance(key.this, exp.Literal):
            if not key.this.name.isdigit() or not 1 <= int(key.this.name) <= len(select.expressions):
                return None
            key.set("this", select.expressions[int(key.this.name) - 1].unalias().copy())
        made.append(key)
    return made


def _row_by_row(node: exp.Expr) -> bool:
    """Say whether an output is computed from one row and makes one; what it is may stay above (a sub-query, random())."""
    if shards_.aggregates(node):
        return False
    for item in node.walk(prune=lambda inner: isinstance(inner, exp.Query)):
        if isinstance(item, exp.Window | exp.AggFunc) or (isinstance(item, Call) and item.name == "unnest"):
            return False
    return True


def _branch(
    branch: Branch,
    found: Shards,
    moved: Sequence[exp.Expr],
    keys: Sequence[exp.Ordered],
    most: int,
    read: Sequence[int],
) -> exp.Select:
    made = branch.select.copy()
    items: list[exp.Expr] = [branch.outputs[number].copy() for number in read]
    made.set("expressions", shards_.numbered(items or [exp.Literal.number(1)]))
    shards_.add_conditions(made, [found.within(branch, item) for item in moved])
    _limit(made, [_within(key, found.within(branch, key.this)) for key in keys], most)
    return made


def _within(key: exp.Ordered, value: exp.Expr) -> exp.Ordered:
    made = key.copy()
    made.set("this", value)
    return made


def _limit(select: exp.Select, keys: Sequence[exp.Ordered], most: int) -> None:
    # a constant orders nothing, and written alone it would be a position
    kept = [key for key in keys if key.find(exp.Column) is not None]
    if kept:
        select.set("order", exp.Order(expressions=kept))
    select.set("limit", exp.Limit(expression=exp.Literal.number(most)))


def _union(query: exp.Query, bound: BoundQuery, rules: _Rules, placement: Placement, aliases: Aliases) -> bool:
    """Take the LIMIT of a UNION ALL that a caller wrote into its branches; its sort keys are positions."""
    most = _most(query)
    if most is None or query.args.get("distinct") or not shards_.only(query, _UNION):
        return False
    bare = exp.Union(this=query.this.copy(), expression=query.expression.copy(), distinct=False)
    branches = shards_.flatten(bare, rules.kinds.typed, aliases.fresh)
    names = output_names(bare)
    found = Shards("", tuple(names), tuple(branches))
    order = query.args.get("order")
    keys: list[exp.Ordered] = list(order.expressions) if order is not None else []
    if any(len(branch.outputs) != len(names) for branch in branches) or not shards_.pays(found, bound, placement):
        return False
    positions = []
    for key in keys:
        if not isinstance(key.this, exp.Literal) or not 1 <= int(key.this.name) <= len(names):
            return False
        positions.append(int(key.this.name) - 1)
    for position in set(positions):
        # of the tree as it stands: branches made anew have aliases that its lineage does not know
        behind = outputs(query, names[position])
        if len({rules.kinds.of(item) for item in behind}) != 1 or not all(map(rules.sorts, behind)):
            return False
    made = []
    for branch in branches:
        select = branch.select.copy()
        select.set("expressions", shards_.numbered([item.copy() for item in branch.outputs]))
        pairs = zip(keys, positions, strict=True)
        _limit(select, [_within(key, branch.outputs[position].copy()) for key, position in pairs], most)
        made.append(select)
    whole = shards_.union(made)
    query.set("this", whole.this)
    query.set("expression", whole.args["expression"])
    return True

"""Pass 9: aggregates over a collection are computed part by part and merged. A tree-to-tree rewrite before the split.

``SELECT keys, aggregates FROM (part UNION ALL part ...) WHERE w GROUP BY keys`` becomes the same SELECT over a UNION ALL of
``SELECT keys, states FROM part WHERE w GROUP BY keys``: each branch is then a fragment that one node answers whole. HAVING,
ORDER BY, LIMIT, QUALIFY, windows and expressions over aggregates stay in the merging SELECT. Unlike a copied conjunct this
takes work away from the broker, so it applies only where it is proven; whatever is not known leaves the query as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from sqlglot import exp

from tidegate.core.decision import Decision
from tidegate.sql import shards as shards_
from tidegate.sql.kinds import Kinds
from tidegate.sql.lineage import Lineage, conjuncts
from tidegate.sql.model import BoundQuery, Schema
from tidegate.sql.nodes import AggregateCall, column, table_alias
from tidegate.sql.shards import Aliases, Branch, Placement, Shards
from tidegate.sql.states import NotSplit, States

GROUPS_SHARE_MAX = 0.5  # of a part's rows: with more groups than this, states are no fewer than rows
_CLAUSES = frozenset(
    ["expressions", "from_", "where", "group", "having", "order", "limit", "offset", "distinct", "qualify", "with_"]
)
_SETS = (exp.Rollup, exp.Cube, exp.GroupingSets, exp.Tuple)


def partial_aggregates(bound: BoundQuery, decision: Decision, schema: Schema, placement: Placement) -> BoundQuery:
    """Divide every aggregation over a UNION ALL whose branches lie with different nodes.

    Args:
        decision: leaves in another mode than rows leave the query as it is: their groups are counted first.
        schema: types and published statistics of the leaves' datasets.

    Returns:
        a query with the same answer, leaves, parameters and output names; the one that was given when nothing applies.
    """
    if not shards_.spread(bound, decision, placement):
        return bound
    made = replace(bound, tree=bound.tree.copy())
    aliases = Aliases(made.tree)
    seen: dict[int, exp.Select] = {}  # held, so that no id is used twice
    changed = False
    while True:
        # outermost first: what a branch copies has not been rewritten yet
        waiting = [item for item in made.tree.find_all(exp.Select) if id(item) not in seen]
        if not waiting:
            return made if changed else bound
        for select in waiting:
            seen[id(select)] = select
            if _divide(select, made, schema, placement, aliases):
                changed = True
                break


def _divide(select: exp.Select, bound: BoundQuery, schema: Schema, placement: Placement, aliases: Aliases) -> bool:
    if not _aggregates(select):
        return False
    lineage = Lineage.of_tree(bound.tree)
    kinds = Kinds(bound, schema, lineage)
    found = shards_.read(select.args["from_"].this, lineage, kinds.typed, aliases.fresh)
    if found is None or not shards_.pays(found, bound, placement):
        return False
    work = _Division(select, found, kinds, aliases.fresh())
    try:
        work.prepare()
    except NotSplit:
        return False
    if _too_many_groups([*work.keys, *work.states.distincts], found, bound, schema):
        return False
    work.apply(aliases.fresh)
    if found.cte:
        shards_.drop_cte(bound.tree, found.cte)
    return True


def _aggregates(select: exp.Select) -> bool:
    """Say whether a SELECT has the form: FROM one thing, and aggregates, GROUP BY or DISTINCT."""
    if not shards_.only(select, _CLAUSES) or not shards_.derived(select):
        return False
    distinct = select.args.get("distinct")
    if distinct is not None and distinct.args.get("on") is not None:
        return False
    return distinct is not None or select.args.get("group") is not None or any(map(shards_.aggregates, _above(select)))


def _above(select: exp.Select) -> Iterable[exp.Expr]:
    yield from select.expressions
    for clause in ("having", "qualify", "order"):
        if select.args.get(clause) is not None:
            yield select.args[clause]


def _too_many_groups(keys: list[exp.Expr], found: Shards, bound: BoundQuery, schema: Schema) -> bool:
    """Say whether published statistics prove that a part has about as many groups as rows: a key with that many values."""
    datasets = {leaf.ref: schema[leaf.dataset] for leaf in bound.leaves}
    for branch in found.branches:
        for key in (found.within(branch, item) for item in keys):
            dataset = datasets.get(key.table) if isinstance(key, exp.Column) else None
            held = dataset.column(key.name) if dataset is not None else None
            if (
                dataset is not None
                and held is not None
                and dataset.rows
                and held.distinct is not None
                and held.distinct > dataset.rows * GROUPS_SHARE_MAX
            ):
                return True
    return False


@dataclass(slots=True)
class _Division:
    """The division of one SELECT. ``prepare`` reads and may refuse; ``apply`` then changes the tree."""

    select: exp.Select
    found: Shards
    kinds: Kinds
    alias: str
    keys: list[exp.Expr] = field(default_factory=list)
    moved: list[exp.Expr] = field(default_factory=list)
    made: dict[str, exp.Expr] = field(default_factory=dict)
    outputs: list[exp.Expr] = field(default_factory=list)
    states: States = field(init=False)

    def __post_init__(self) -> None:
        self.states = States(self.kinds, self.found.reads_only, self.alias)

    def prepare(self) -> None:
        """Find keys and states, and build the clauses of the merging SELECT.

        Raises:
            NotSplit: something in it cannot be divided.
        """
        where, group = self.select.args.get("where"), self.select.args.get("group")
        self.moved = list(conjuncts(where.this)) if where is not None else []
        if not all(map(self._moves, self.moved)):
            raise NotSplit
        if group is not None:
            self.made["group"] = exp.Group(expressions=[self._key(item) for item in group.expressions])
        elif not any(map(shards_.aggregates, _above(self.select))):
            self._distinct_outputs()
        self.outputs = [
            exp.Alias(this=self.over(item.unalias()), alias=item.args["alias"].copy())
            for item in self.select.expressions
        ]
        for clause in ("having", "qualify", "order"):
            if self.select.args.get(clause) is not None:
                self.made[clause] = self.over(self.select.args[clause])
        sets = group is not None and any(isinstance(item, _SETS) for item in group.expressions)
        if sets and self.states.means:
            raise NotSplit  # the mean beside each row is that of the finest groups

    def _moves(self, node: exp.Expr) -> bool:
        """Say whether an expression means the same in each branch."""
        return shards_.movable(node) and self.found.reads_only(node) and self.kinds.typed(node)

    def _distinct_outputs(self) -> None:
        """Take every output of a SELECT DISTINCT that does not aggregate for a key; the DISTINCT itself stays."""
        if self.select.args.get("having") is not None or any(item.find(exp.Window) for item in _above(self.select)):
            raise NotSplit  # they see the rows before DISTINCT does
        for item in self.select.expressions:
            self._key(item.unalias())

    def _key(self, node: exp.Expr) -> exp.Expr:
        if isinstance(node, _SETS):
            if any(not isinstance(item, _SETS) and item.find(exp.Column) is None for item in node.expressions):
                raise NotSplit  # a constant that some rows of the answer have as NULL
            return type(node)(expressions=[self._key(item) for item in node.expressions])
        constant = node.find(exp.Column) is None
        if not self._moves(node):
            raise NotSplit
        if not constant and not self.states.travels(node):
            raise NotSplit
        if node not in self.keys:
            self.keys.append(node)
        return column(self.alias, f"k{self.keys.index(node)}")

    def over(self, node: exp.Expr) -> exp.Expr:
        """Give an expression of the caller's over keys and states."""
        if isinstance(node, exp.Ordered) and isinstance(node.this, exp.Literal):
            return node.copy()  # a position
        if node in self.keys and node.find(exp.Column) is not None:
            return column(self.alias, f"k{self.keys.index(node)}")
        if isinstance(node, exp.Query):
            if any(item.table == self.found.alias for item in node.find_all(exp.Column)):
                raise NotSplit
            return node.copy()
        if isinstance(node, exp.Window):
            return self._window(node)
        if isinstance(node, exp.Filter) and isinstance(node.this, AggregateCall):
            return self.states.merged(node.this, node.args["expression"].this)
        if isinstance(node, AggregateCall):
            return self.states.merged(node, None)
        if isinstance(node, exp.Filter | exp.WithinGroup | exp.IgnoreNulls | exp.RespectNulls):
            raise NotSplit
        if isinstance(node, exp.Column) and node.table == self.found.alias:
            raise NotSplit
        return self._rebuilt(node)

    def _rebuilt(self, node: exp.Expr) -> exp.Expr:
        return type(node)(**{key: self._part(value) for key, value in node.args.items()})

    def _part(self, value: object) -> object:
        if isinstance(value, exp.Expr):
            return self.over(value)
        return [self._part(item) for item in value] if isinstance(value, list) else value

    def _window(self, node: exp.Window) -> exp.Expr:
        """Keep the window's own function; what it reads is over keys and states."""
        made = {key: self._part(value) for key, value in node.args.items() if key != "this"}
        return exp.Window(this=self._windowed(node.this), **made)

    def _windowed(self, node: exp.Expr) -> exp.Expr:
        if isinstance(node, exp.Filter | exp.IgnoreNulls | exp.RespectNulls):
            rest = {key: self._part(value) for key, value in node.args.items() if key != "this"}
            return type(node)(this=self._windowed(node.this), **rest)
        if isinstance(node, exp.WithinGroup):
            raise NotSplit
        return self._rebuilt(node)

    def apply(self, fresh: Callable[[], str]) -> None:
        """Put the merging SELECT and its branches in the place of the SELECT."""
        columns = [*self.keys, *self.states.distincts, *self.states.found]
        grouped = len(self.keys) + len(self.states.distincts)
        source = shards_.union([self._branch(branch, columns, grouped) for branch in self.found.branches])
        names = _names(self.states, len(self.keys))
        if self.states.means:
            source = self._with_means(source, len(columns), names, fresh())
        select = self.select
        select.set("expressions", self.outputs)
        select.set("from_", exp.From(this=exp.Subquery(this=source, alias=table_alias(self.alias))))
        select.set("where", None)
        for clause, tree in self.made.items():
            select.set(clause, tree)
        _rename([*self.outputs, *self.made.values()], self.alias, names)

    def _branch(self, branch: Branch, columns: list[exp.Expr], grouped: int) -> exp.Select:
        made = branch.select.copy()
        items = [self.found.within(branch, item) for item in columns]
        made.set("expressions", shards_.numbered(items))
        shards_.add_conditions(made, [self.found.within(branch, item) for item in self.moved])
        if grouped:
            # a constant groups nothing, and written alone it would be a position; but no rows must stay no groups
            keys: list[exp.Expr] = [item.copy() for item in items[:grouped] if item.find(exp.Column) is not None]
            one = exp.Add(this=exp.Literal.number(1), expression=exp.Literal.number(0))
            made.set("group", exp.Group(expressions=keys or [one]))
        return made

    def _with_means(self, source: exp.Query, width: int, names: dict[str, str], alias: str) -> exp.Query:
        """Set the group's count and mean over all parts beside each branch's row."""
        keys = [column(self.alias, f"k{number}") for number in range(len(self.keys))]
        beside = self.states.beside(keys)
        plain: list[exp.Expr] = [column(alias, f"c{number}") for number in range(width)]
        _rename(beside, self.alias, names)
        for item in beside:
            for found in item.find_all(exp.Column):
                found.set("table", exp.Identifier(this=alias, quoted=True))
        inner = exp.Subquery(this=source, alias=table_alias(alias))
        return exp.Select(expressions=shards_.numbered([*plain, *beside]), from_=exp.From(this=inner))


def _names(states: States, keys: int) -> dict[str, str]:
    """Number the columns of the merging SELECT's source: keys, arguments of DISTINCT, states, then counts and means."""
    order = [f"k{number}" for number in range(keys)]
    order += [f"d{number}" for number in range(len(states.distincts))]
    order += [f"s{number}" for number in range(len(states.found))]
    order += [f"{letter}{number}" for number in range(len(states.means)) for letter in "nm"]
    return {name: f"c{number}" for number, name in enumerate(order)}


def _rename(trees: Iterable[exp.Expr], alias: str, names: dict[str, str]) -> None:
    for tree in trees:
        for item in tree.find_all(exp.Column):
            if item.table == alias:
                item.set("this", exp.Identifier(this=names[item.name], quoted=True))

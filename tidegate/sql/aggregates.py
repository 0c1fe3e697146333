"""Mode ``aggregate``: the narrow form of query that lets nobody single out a person.

One SELECT of group keys and permitted aggregates over plain columns. Every group will have to have enough distinct subjects
(``subjects``), so what is refused here is whatever makes an aggregate say something about fewer rows than its group has, or
looks at a group before it is counted: FILTER, CASE and arithmetic inside an aggregate, windows, lists, HAVING, LIMIT,
ROLLUP, set operations, sub-queries, outer joins, inline data, and every expression over one person's values that can raise (an
error would be an answer). Differencing two permitted queries remains possible (Denning 1979); the query ledger is for that.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlglot import exp

from tidegate.core.decision import Decision
from tidegate.core.errors import Code, Reason, TidegateError, error_for
from tidegate.sql import callnames
from tidegate.sql.leakproof import Leakproof
from tidegate.sql.lineage import Lineage, conjuncts, is_base, sources, unwrap
from tidegate.sql.model import BoundQuery, Leaf
from tidegate.sql.nodes import AggregateCall
from tidegate.sql.pushdown import join_kind
from tidegate.sql.scope import SUBJECT_COLUMN

SAFE_AGGREGATES = frozenset(
    {
        "count",
        "count_star",
        "sum",
        "avg",
        "min",
        "max",
        "stddev",
        "stddev_samp",
        "stddev_pop",
        "variance",
        "var_samp",
        "var_pop",
    }
)
"""What an owner may permit at all; anything else hands out single values (list, first, arg_max, mode, median ...)."""

_FORBIDDEN: tuple[tuple[type[exp.Expr], str, str], ...] = (
    (exp.Filter, "filter", "FILTER inside an aggregate"),
    (exp.Window, "window", "a window function"),
    (exp.Values, "inline_data", "a list of values joined in"),
    (exp.Unnest, "inline_data", "unnest"),
    (exp.Exists, "subquery", "a sub-query in an expression"),
)
_MODIFIERS = (
    ("having", "having", "HAVING"),
    ("qualify", "window", "QUALIFY"),
    ("limit", "limit", "LIMIT"),
    ("offset", "limit", "OFFSET"),
    ("distinct", "distinct", "SELECT DISTINCT"),
    ("windows", "window", "a window function"),
)


def check(bound: BoundQuery, decision: Decision, lineage: Lineage, leakproof: Leakproof) -> None:
    """Refuse a query over a dataset in mode aggregate that is not of the permitted form.

    Raises:
        Refused: POLICY_STRUCTURE with a reason.
    """
    leaves = [leaf for leaf in bound.leaves if decision.resources[leaf.ref].constraints.mode == "aggregate"]
    if leaves:
        _Check(bound, decision, lineage, leakproof, tuple(leaves)).run()


@dataclass(frozen=True, slots=True)
class _Check:
    bound: BoundQuery
    decision: Decision
    lineage: Lineage
    leakproof: Leakproof
    leaves: tuple[Leaf, ...]
    # By query, once each: CTEs that each mention the one before twice are 2^n paths to walk.
    _held: dict[int, set[str]] = field(default_factory=dict)
    _handed: dict[int, set[str]] = field(default_factory=dict)
    _equalities: list[exp.EQ] = field(default_factory=list)

    def run(self) -> None:
        tree = unwrap(self.bound.tree)
        for kind, code, what in _FORBIDDEN:
            if tree.find(kind) is not None:
                raise self._refuse(code, what)
        if not isinstance(tree, exp.Select):
            raise self._refuse("set_operation", "UNION, INTERSECT or EXCEPT of results")
        if all(SUBJECT_COLUMN in leaf.columns for leaf in self.leaves):
            self._leaf_fragment(tree)
            return
        reached = self._from(tree)
        if reached != {leaf.ref for leaf in self.leaves}:
            raise self._refuse("subquery", "a sub-query in an expression")
        self._top(tree)

    def _refuse(self, code: str, what: str) -> TidegateError:
        dataset = self.leaves[0].dataset
        text = f"dataset {dataset} is shared as aggregates only, and the query uses {what}"
        form = "SELECT keys and aggregates of plain columns FROM ... GROUP BY keys"
        return error_for(
            Code.POLICY_STRUCTURE, text, reasons=(Reason(f"aggregate_{code}", text, form, f"the steward of {dataset}"),)
        )

    def _leaf_fragment(self, tree: exp.Select) -> None:
        """A fragment that fetches one dataset's rows with the subject's pseudonym, for a broker that counts."""
        flat = len(self.bound.leaves) == 1 and is_base(sources(tree)[0]) and not tree.args.get("joins")
        plain = all(isinstance(item.unalias(), exp.Column | exp.Literal) for item in tree.expressions)
        subject = any(
            isinstance(item.unalias(), exp.Column) and item.unalias().name == SUBJECT_COLUMN
            for item in tree.expressions
        )
        others = any(tree.args.get(key) for key in ("group", "order", "with_"))
        if not (flat and plain and subject) or others:
            raise self._refuse("rows", "rows without their subject")
        self._modifiers(tree)
        self._conditions(tree)

    def _from(self, select: exp.Select) -> set[str]:
        """Check FROM and conditions; give the refs in mode aggregate whose rows arrive here unchanged."""
        for join in select.args.get("joins") or ():
            if join_kind(join) not in ("INNER", "CROSS"):
                raise self._refuse("outer_join", "an outer, semi or anti join")
        self._conditions(select)
        reached: set[str] = set()
        for source in sources(select):
            reached |= self._source(source)
        return reached

    def _source(self, source: exp.Expr) -> set[str]:
        alias = source.alias_or_name
        if is_base(source):
            return {alias} & {leaf.ref for leaf in self.leaves}
        query = self.lineage.derived.get(alias)
        held = self._refs(query) if query is not None else set()
        if query is None or not held:
            raise self._refuse("inline_data", "data of the query's own")
        ours = {leaf.ref for leaf in self.leaves}
        if held & ours:
            return self._rows(query)
        if any(self._behind(column.table) & ours for column in query.find_all(exp.Column)):
            raise self._refuse("subquery", "a sub-query that looks at single rows beside it")
        return set()

    def _behind(self, alias: str) -> set[str]:
        """Give the refs that an alias stands for."""
        query = self.lineage.derived.get(alias)
        return self._refs(query) if query is not None else {alias}

    def _refs(self, query: exp.Expr) -> set[str]:
        """Give all refs below a query, through CTEs."""
        if id(query) in self._held:
            return self._held[id(query)]
        found: set[str] = set()
        for table in query.find_all(exp.Table):
            if is_base(table):
                found.add(table.alias)
            elif table.alias in self.lineage.derived:
                found |= self._refs(self.lineage.derived[table.alias])
        self._held[id(query)] = found
        return found

    def _rows(self, query: exp.Expr) -> set[str]:
        """Check a derived table over a dataset in mode aggregate: it may only hand rows on."""
        if id(query) not in self._handed:
            self._handed[id(query)] = self._checked_rows(query)
        return self._handed[id(query)]

    def _checked_rows(self, query: exp.Expr) -> set[str]:
        query = unwrap(query)
        if isinstance(query, exp.Union) and not query.args.get("distinct"):
            if any(query.args.get(key) for key in ("limit", "offset", "order")):
                raise self._refuse("limit", "LIMIT")
            left, right = self._rows(query.left), self._rows(query.right)
            # A dataset beside itself under another condition: twenty such steps are a million copies of one person's row.
            if {self.bound.leaf(ref).dataset for ref in left} & {self.bound.leaf(ref).dataset for ref in right}:
                raise self._refuse("set_operation", "UNION ALL of a dataset with itself")
            return left | right
        if not isinstance(query, exp.Select):
            raise self._refuse("set_operation", "UNION, INTERSECT or EXCEPT")
        if query.args.get("group") is not None or query.find(exp.AggFunc) is not None:
            raise self._refuse("nested", "an aggregate of aggregates")
        self._modifiers(query)
        for item in query.expressions:
            if self.leakproof.value(item.unalias()) is None and not self._constant(item.unalias()):
                raise self._refuse("expression", "a computed column below the aggregate")
        return self._from(query)

    def _modifiers(self, select: exp.Select) -> None:
        for key, code, what in _MODIFIERS:
            if select.args.get(key):
                raise self._refuse(code, what)

    def _conditions(self, select: exp.Select) -> None:
        where = select.args.get("where")
        found = list(conjuncts(where.this if where is not None else None))
        for join in select.args.get("joins") or ():
            found += conjuncts(join.args.get("on"))
        for item in found:
            if not self.leakproof.predicate(item):
                raise self._refuse("condition", "a condition that can fail on a single row, or a sub-query")
            # ``a.person = 3 OR a.k = b.k`` gives one person's row as many copies as b has rows, and with them any weight.
            if len({column.table for column in item.find_all(exp.Column)}) > 1:
                if not isinstance(item, exp.EQ) or not all(
                    isinstance(side.unnest(), exp.Column) for side in (item.left, item.right)
                ):
                    raise self._refuse("join", "a join on something other than equal columns")
                self._equalities.append(item)

    def _top(self, select: exp.Select) -> None:
        self._modifiers(select)
        group = select.args.get("group")
        keys: list[exp.Expr] = list(group.expressions) if group is not None else []
        if any(isinstance(key, exp.Rollup | exp.Cube | exp.GroupingSets | exp.Tuple) for key in keys):
            raise self._refuse("rollup", "ROLLUP, CUBE or GROUPING SETS")
        for key in keys:
            self._key(key)
        order = select.args.get("order")
        items = [item.unalias() for item in select.expressions]
        items += [item.this for item in order.expressions] if order is not None else []
        for item in items:
            if item not in keys and not self._constant(item):
                self._aggregate(item)
        self._weights(keys)

    def _weights(self, keys: list[exp.Expr]) -> None:
        """Hold joins to columns that the groups are made of.

        Other data may be the caller's own: twenty thousand rows for one key and one for each other make an average
        one person's value; and they may be shared as aggregates as well. Where the join's column is a group key, all
        rows of a group meet equally many.
        """
        ours = {leaf.ref for leaf in self.leaves}
        grouped = {base for key in keys for base in self.lineage.plain(key.unnest()) or ()}
        for item in self._equalities:
            sides = [self.lineage.plain(side.unnest()) for side in (item.left, item.right)]
            reached = [bool({ref for ref, _ in self.lineage.reads(side)} & ours) for side in (item.left, item.right)]
            if any(reached) and not any(bases and set(bases) <= grouped for bases in sides):
                raise self._refuse("join_key", "a join on a column that is not a group key")

    def _key(self, key: exp.Expr) -> None:
        if self.leakproof.value(key) is None and not self._constant(key):
            raise self._refuse("key", "a group key that is not a plain column or a part of a date")
        entities = {(leaf.ref, self.decision.resources[leaf.ref].constraints.count_entity) for leaf in self.leaves}
        if self.lineage.reads(key) & entities:
            raise self._refuse("subject_key", "the subject as a group key")

    def _constant(self, node: exp.Expr) -> bool:
        if isinstance(node, exp.Cast) and isinstance(node.this, exp.Null):
            return True  # what pruning made of a column that nobody reads
        return node.find(exp.Column, exp.Func, exp.Query) is None

    def _aggregate(self, node: exp.Expr) -> None:
        """Admit ``count(*)`` and permitted aggregates over a plain column of a dataset in mode aggregate."""
        node = node.unnest()
        if not isinstance(node, AggregateCall):
            raise self._refuse("output", "an output that is neither a group key nor an aggregate of a plain column")
        name = callnames.name(node)
        permitted = [self.decision.resources[leaf.ref].constraints.allowed_aggregates for leaf in self.leaves]
        spoken = "count" if name == "count_star" else name
        if name not in SAFE_AGGREGATES or not all(spoken in allowed for allowed in permitted):
            raise self._refuse("function", f"the aggregate {name}, which is not among those permitted")
        if callnames.is_distinct(node) and spoken != "count":
            raise self._refuse("distinct", "DISTINCT inside an aggregate")
        refs = {leaf.ref for leaf in self.leaves}
        for argument in callnames.arguments(node):
            bases = self.lineage.plain(argument.unnest())
            star = isinstance(argument, exp.Star)
            if not star and (not bases or not {ref for ref, _ in bases} <= refs):
                raise self._refuse("measure", "an aggregate of something other than a plain column of that dataset")
            if spoken != "count" and any(
                name == self.decision.resources[ref].constraints.count_entity for ref, name in bases or ()
            ):
                raise self._refuse(
                    "subject_measure", "the subject as a measure: a sum or an extreme of keys names persons"
                )

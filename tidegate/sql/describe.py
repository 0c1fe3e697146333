"""Describe use: which columns of each instance a bound query reads, in which roles, and the shape of the query.

Lineage goes through derived tables, CTEs and set operations: what the outer query does with an output of a sub-query is done
with the columns that the output was computed from. Where it is not certain, a role is added, never left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlglot import exp

from tidegate.core.names import DatasetName
from tidegate.sql.model import Leaf, Role
from tidegate.sql.nodes import Call
from tidegate.sql.words import words

_LIMIT_SHOWN_MAX = 2**53 - 1  # the question is canonical JSON, which has no larger integer; no answer has so many rows

Origin = tuple[str, str]  # (ref, column)
Origins = frozenset[Origin]
NOTHING: Origins = frozenset()
SUMMARIES = words(
    """
    count count_star count_if countif sum avg mean stddev stddev_pop stddev_samp var_pop var_samp variance
    corr covar_pop covar_samp regr_avgx regr_avgy regr_count regr_intercept regr_r2 regr_slope regr_sxx
    regr_sxy regr_syy skewness kurtosis kurtosis_pop entropy approx_count_distinct product geomean
    geometric_mean fsum favg kahan_sum sumkahan sem
    """
)
"""Aggregates whose value is none of their arguments' values; the others (max, list, mode ...) also hand a value out."""


@dataclass(slots=True)
class _Use:
    refs: Mapping[str, tuple[DatasetName, DatasetName | None]]
    roles: dict[Origin, set[Role]] = field(default_factory=dict)
    functions: set[str] = field(default_factory=set)
    joins: list[dict[str, str]] = field(default_factory=list)
    set_operations: list[str] = field(default_factory=list)

    def mark(self, origins: Iterable[Origin], role: Role) -> None:
        for origin in origins:
            self.roles.setdefault(origin, set()).add(role)


Tables = Mapping[str, Mapping[str, Origins]]  # alias -> column -> origins


def describe(
    query: exp.Query, refs: Mapping[str, tuple[DatasetName, DatasetName | None]]
) -> tuple[tuple[Leaf, ...], dict[str, Any]]:
    """Describe a bound query.

    Returns:
        the leaves in the order of their refs, and the ``query`` object of a policy question.
    """
    use = _Use(refs)
    outputs = _query(use, query, {}, {})
    for origins in outputs:
        use.mark(origins, Role.OUTPUT)
    leaves = []
    for ref in refs:
        name, collection = refs[ref]
        columns = {column: frozenset(roles) for (owner, column), roles in sorted(use.roles.items()) if owner == ref}
        leaves.append(Leaf(ref, name, columns, collection))
    leaves.sort(key=lambda leaf: int(leaf.ref[1:]))
    return tuple(leaves), _shape(query, use)


def _shape(query: exp.Query, use: _Use) -> dict[str, Any]:
    selects = list(query.find_all(exp.Select))
    aggregated = any(select.args.get("group") is not None for select in selects)
    aggregated = aggregated or any(
        not isinstance(node.find_ancestor(exp.Window), exp.Window) for node in query.find_all(exp.AggFunc)
    )
    grouped = sorted(f"{ref}.{column}" for (ref, column), roles in use.roles.items() if Role.GROUP in roles)
    limit = query.args.get("limit")
    return {
        "aggregated": aggregated,
        "group_by": grouped,
        "functions": sorted(use.functions),
        "joins": use.joins,
        "set_operations": use.set_operations,
        "limit": min(int(limit.expression.this), _LIMIT_SHOWN_MAX) if limit is not None else None,
    }


def _query(use: _Use, node: exp.Expr, tables: Tables, ctes: Mapping[str, list[Origins]]) -> list[Origins]:
    """Walk a query; give the origins of each output. ``tables``: what is in scope around it."""
    known = dict(ctes)
    with_ = node.args.get("with_")
    for cte in with_.expressions if with_ is not None else []:
        known[cte.alias] = _query(use, cte.this, tables, known)
    if isinstance(node, exp.Subquery):
        return _query(use, node.this, tables, known)
    if isinstance(node, exp.SetOperation):
        return _set_operation(use, node, tables, known)
    return _select(use, node, tables, known)


def _set_operation(
    use: _Use, node: exp.SetOperation, tables: Tables, ctes: Mapping[str, list[Origins]]
) -> list[Origins]:
    use.set_operations.append(node.key if node.args.get("distinct") else f"{node.key}_all")
    left, right = _query(use, node.this, tables, ctes), _query(use, node.expression, tables, ctes)
    outputs = [ours | theirs for ours, theirs in zip(left, right, strict=False)]
    if node.args.get("distinct") or not isinstance(node, exp.Union):
        for origins in outputs:  # which rows survive depends on every column's value
            use.mark(origins, Role.GROUP)
    _order(use, node, outputs, tables, ctes)
    return outputs


def _order(
    use: _Use, node: exp.Expr, outputs: list[Origins], tables: Tables, ctes: Mapping[str, list[Origins]]
) -> None:
    order = node.args.get("order")
    for key in order.expressions if order is not None else []:
        if isinstance(key.this, exp.Literal) and int(key.this.this) <= len(outputs):
            use.mark(outputs[int(key.this.this) - 1], Role.ORDER)
        else:
            use.mark(_expression(use, key.this, tables, ctes), Role.ORDER)


def _select(use: _Use, node: exp.Expr, tables: Tables, ctes: Mapping[str, list[Origins]]) -> list[Origins]:
    scope: dict[str, Mapping[str, Origins]] = dict(tables)
    own_from, joins = node.args.get("from_"), list(node.args.get("joins") or [])
    for source in ([own_from.this] if own_from is not None else []) + [join.this for join in joins]:
        scope[source.alias] = _source(use, source, scope, ctes)
    for join in joins:
        _join(use, join, scope, ctes)
    outputs = [
        _expression(use, item.this if isinstance(item, exp.Alias) else item, scope, ctes) for item in node.expressions
    ]
    for clause, role in (("where", Role.PREDICATE), ("having", Role.PREDICATE), ("qualify", Role.PREDICATE)):
        if node.args.get(clause) is not None:
            use.mark(_expression(use, node.args[clause].this, scope, ctes), role)
    if node.args.get("group") is not None:
        for key in node.args["group"].expressions:
            use.mark(_expression(use, key, scope, ctes), Role.GROUP)
    distinct = node.args.get("distinct")
    if distinct is not None:
        on = distinct.args.get("on")
        for origins in [_expression(use, key, scope, ctes) for key in on.expressions] if on is not None else outputs:
            use.mark(origins, Role.GROUP)
    _order(use, node, outputs, scope, ctes)
    return outputs


def _source(use: _Use, node: exp.Expr, scope: Tables, ctes: Mapping[str, list[Origins]]) -> Mapping[str, Origins]:
    if isinstance(node, exp.Table):
        if node.args.get("db") is not None:
            return _LeafColumns(node.alias)
        return {f"c{i}": origins for i, origins in enumerate(ctes[node.name])}
    if isinstance(node, exp.Values):
        width = len(node.expressions[0].expressions)
        cells = [[_expression(use, row.expressions[i], scope, ctes) for row in node.expressions] for i in range(width)]
        return {f"c{i}": frozenset().union(*column) for i, column in enumerate(cells)}
    return {f"c{i}": origins for i, origins in enumerate(_query(use, node.this, scope, ctes))}


class _LeafColumns(dict[str, Origins]):
    """The columns of an instance: each is its own origin."""

    def __init__(self, ref: str) -> None:
        super().__init__()
        self._ref = ref

    def __missing__(self, column: str) -> Origins:
        return frozenset({(self._ref, column)})


def _join(use: _Use, join: exp.Join, scope: Tables, ctes: Mapping[str, list[Origins]]) -> None:
    on = join.args.get("on")
    kind = (join.args.get("side") or join.args.get("kind") or "INNER").lower()
    if on is None:
        use.joins.append(
            {
                "left": "",
                "right": join.this.alias_or_name if not join.this.args.get("db") else join.this.alias,
                "type": kind,
            }
        )
        return
    use.mark(_expression(use, on, scope, ctes), Role.JOIN)
    pairs = [
        pair
        for pair in on.find_all(exp.EQ)
        if isinstance(pair.this, exp.Column) and isinstance(pair.expression, exp.Column)
    ]
    for pair in pairs:
        for left in sorted(_expression(use, pair.this, scope, ctes)):
            for right in sorted(_expression(use, pair.expression, scope, ctes)):
                use.joins.append({"left": ".".join(left), "right": ".".join(right), "type": kind})


def _expression(use: _Use, node: exp.Expr, scope: Tables, ctes: Mapping[str, list[Origins]]) -> Origins:
    """Collect the origins of an expression; what an aggregate or a sub-query in it does is marked on the way."""
    if isinstance(node, exp.Column):
        return scope[node.table][node.name] if node.table in scope else NOTHING
    if isinstance(node, exp.Query):
        outputs = _query(use, node, scope, ctes)
        inner = frozenset().union(*outputs) if outputs else NOTHING
        return inner if not isinstance(node.parent, exp.Exists) else NOTHING
    if isinstance(node, Call):
        use.functions.add(node.name)
    parts = [_expression(use, child, scope, ctes) for child in node.iter_expressions()]
    origins = frozenset().union(*parts) if parts else NOTHING
    if isinstance(node, exp.AggFunc):
        use.mark(origins, Role.AGGREGATE)
        return NOTHING if node.name in SUMMARIES else origins
    if isinstance(node, exp.Order):
        use.mark(origins, Role.ORDER)
    if isinstance(node, exp.Where):
        use.mark(origins, Role.PREDICATE)  # of an aggregate's FILTER
    return origins

"""Split a bound query into fragments, one for each node that is asked, and the query that joins their answers.

One node holds everything: it is asked the whole query. Else the query is cut into units (``units``), conditions are copied to
the leaves (``pushdown``), keys of one answer reduce another where policy permits (``reduce``), and the units are carved out
(``carve``); what is left runs at the broker over what came. What a fragment says is over base datasets; the node restricts it
itself. Every pass may be switched off (``passes``): the answers stay the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from sqlglot import exp

from tidegate.core.decision import Decision
from tidegate.core.errors import Code, error_for
from tidegate.core.limits import ROWS_MAX
from tidegate.core.names import DatasetName
from tidegate.sql import structure, subjects
from tidegate.sql.carve import Carve
from tidegate.sql.estimate import Estimate
from tidegate.sql.joins import empty_exists, flatten_inner, inner_queries, own_columns, where_of
from tidegate.sql.kinds import Kinds
from tidegate.sql.leakproof import Leakproof
from tidegate.sql.lineage import Lineage
from tidegate.sql.model import BoundQuery, FederatedPlan, Fragment, Leaf, Schema
from tidegate.sql.partial import partial_aggregates
from tidegate.sql.passes import ALL, Passes
from tidegate.sql.pruning import prune
from tidegate.sql.pushdown import Implied, LeafPush, push
from tidegate.sql.reduce import Reduce
from tidegate.sql.render import render
from tidegate.sql.settle import settle
from tidegate.sql.topn import push_limits
from tidegate.sql.units import Units

Placement = Mapping[DatasetName, tuple[str, str]]
"""Where each dataset lies: (member, node)."""


def split(
    bound: BoundQuery, decision: Decision, placement: Placement, *, schema: Schema, passes: Passes = ALL
) -> FederatedPlan:
    """Plan a bound, decided query.

    Args:
        placement: of every dataset that the leaves name; a part of a collection counts by itself.
        schema: the descriptions of the leaves' datasets (types of columns, statistics).

    Raises:
        Refused: POLICY_REFUSED or POLICY_STRUCTURE, as ``structure.check``.
        PeerError: FETCH_NODE_AWAY, a dataset has no node.
    """
    try:
        return _split(prune(bound, schema), decision, placement, schema, passes)
    except RecursionError as error:
        raise error_for(Code.PLAN_TOO_LARGE, "the query is nested deeper than the limit") from error


def _split(
    bound: BoundQuery, decision: Decision, placement: Placement, schema: Schema, passes: Passes
) -> FederatedPlan:
    structure.check(bound, decision, schema=schema)
    places = {leaf.ref: _place(leaf, placement) for leaf in bound.leaves}
    rows_max = min((decision.resources[ref].constraints.max_rows for ref in places), default=ROWS_MAX)
    if not bound.leaves:
        return FederatedPlan((), render(bound.tree, bound.parameters), (), bound.output_names, rows_max)
    if len(set(places.values())) == 1:
        return _whole(bound, decision, places, rows_max, schema)
    counted = subjects.count(bound, decision)
    if any(decision.resources[ref].constraints.mode != "rows" for ref in places):
        # Who counts subjects sees every row that counts: such a query is fetched leaf by leaf.
        passes = replace(passes, subtrees=False, partial=False, top=False, reduction=False)
    divided = settle(counted.bound, schema) if passes.subtrees else counted.bound
    if passes.partial:
        divided = partial_aggregates(divided, decision, schema, placement)
    if passes.top:
        divided = push_limits(divided, decision, schema, placement)
    found = _federated(divided, decision, places, schema, passes)
    return replace(found, floors=counted.floors, rows_max=rows_max)


def _place(leaf: Leaf, placement: Placement) -> tuple[str, str]:
    if leaf.dataset not in placement:
        raise error_for(Code.FETCH_NODE_AWAY, f"department {leaf.dataset.department}: no node holds {leaf.dataset}")
    return placement[leaf.dataset]


def _whole(
    bound: BoundQuery, decision: Decision, places: Mapping[str, tuple[str, str]], rows_max: int, schema: Schema
) -> FederatedPlan:
    member, node = next(iter(places.values()))
    estimate = Estimate(bound, schema, Lineage.of(bound))
    fragment = Fragment(
        id="f0",
        member=member,
        node=node,
        sql=render(bound.tree, bound.parameters),
        refs={leaf.ref: leaf.dataset for leaf in bound.leaves},
        columns=tuple(f"c{number}" for number in range(len(bound.output_names))),
        whole=True,
        floors=subjects.count(bound, decision).floors,
        rows_estimated=round(estimate.query(bound.tree, {})) if estimate.is_known(places) else None,
    )
    return FederatedPlan((fragment,), None, (), bound.output_names, rows_max)


def _federated(
    bound: BoundQuery, decision: Decision, places: Mapping[str, tuple[str, str]], schema: Schema, passes: Passes
) -> FederatedPlan:
    """Cut, push, reduce, carve. The bound query is left as it is."""
    tree = bound.tree.copy()
    flatten_inner(tree)
    if passes.subtrees:
        empty_exists(tree)
    bound = replace(bound, tree=tree)
    lineage = Lineage.of(bound)
    leakproof = Leakproof(bound, schema, lineage)
    estimate = Estimate(bound, schema, lineage)
    kinds = Kinds(bound, schema, lineage)
    units = Units(tree, lineage, leakproof, places, estimate, kinds, passes)
    pushes = {ref: LeafPush() for ref in places}
    if passes.copies:
        pushes = push(tree, lineage, leakproof, _implied(tree, units, leakproof))
    reduce = Reduce(bound, tree, units, decision, estimate, lineage, leakproof)
    schedule = reduce.schedule(pushes, enabled=passes.reduction)
    carve = Carve(bound, tree, decision, pushes, schedule, units.all, estimate, kinds, sharing=passes.sharing)
    fragments, final = carve.run()
    return FederatedPlan(fragments, final, (), bound.output_names, ROWS_MAX, tuple(schedule.withheld))


def _implied(tree: exp.Expr, units: Units, leakproof: Leakproof) -> Implied:
    """Give what follows from constants: with ``a = b AND b < 5`` goes ``a < 5``. It discloses nothing and needs no permit."""
    found = Implied()
    for select in tree.find_all(exp.Select):
        found.conditions[id(select)] = [(item, None) for item in _of_constants(select, units, leakproof)]
    return found


def _of_constants(select: exp.Select, units: Units, leakproof: Leakproof) -> Iterator[exp.Expr]:
    groups = units.classes(select).groups()
    for item in where_of(select) if groups else ():
        columns = {(column.table, column.name) for column in own_columns(item)}
        if len(columns) != 1 or next(inner_queries(item), None) is not None or not leakproof.predicate(item):
            continue
        known = columns.pop()
        for group in groups:
            for table, name in group if known in group else ():
                if (table, name) != known:
                    other = item.copy()
                    for column in other.find_all(exp.Column):
                        column.set("table", exp.to_identifier(table, quoted=True))
                        column.set("this", exp.to_identifier(name, quoted=True))
                    yield other


def columns_of(bound: BoundQuery) -> dict[str, list[str]]:
    """Give the columns that a tree reads of each leaf, sorted."""
    found: dict[str, set[str]] = {leaf.ref: set() for leaf in bound.leaves}
    for column in bound.tree.find_all(exp.Column):
        if column.table in found:
            found[column.table].add(column.name)
    return {ref: sorted(names) for ref, names in found.items()}

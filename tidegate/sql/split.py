"""Split a bound query into fragments, one for each node that is asked, and the query that joins their answers.

One node holds everything: it is asked the whole query. Else each leaf is fetched (a superset: its columns, its copied
conjuncts) and the caller's own bound query runs over what came. What a fragment says is over base datasets; the node
restricts it itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from sqlglot import exp

from tidegate.core.decision import Decision
from tidegate.core.errors import Code, error_for
from tidegate.core.limits import ROWS_MAX
from tidegate.core.names import DatasetName
from tidegate.sql import structure, subjects
from tidegate.sql.leakproof import Leakproof
from tidegate.sql.lineage import Lineage
from tidegate.sql.model import BoundQuery, FederatedPlan, Fragment, Leaf, RenderedSql, Schema
from tidegate.sql.pruning import prune
from tidegate.sql.pushdown import LeafPush, push
from tidegate.sql.render import render

Placement = Mapping[DatasetName, tuple[str, str]]
"""Where each dataset lies: (member, node)."""


def split(bound: BoundQuery, decision: Decision, placement: Placement, *, schema: Schema) -> FederatedPlan:
    """Plan a bound, decided query.

    Args:
        placement: of every dataset that the leaves name; a part of a collection counts by itself.
        schema: the descriptions of the leaves' datasets (types of columns).

    Raises:
        Refused: POLICY_REFUSED or POLICY_STRUCTURE, as ``structure.check``.
        PeerError: FETCH_NODE_AWAY, a dataset has no node.
    """
    try:
        return _split(prune(bound, schema), decision, placement, schema)
    except RecursionError as error:
        raise error_for(Code.PLAN_TOO_LARGE, "the query is nested deeper than the limit") from error


def _split(bound: BoundQuery, decision: Decision, placement: Placement, schema: Schema) -> FederatedPlan:
    structure.check(bound, decision, schema=schema)
    places = {leaf.ref: _place(leaf, placement) for leaf in bound.leaves}
    rows_max = min((decision.resources[ref].constraints.max_rows for ref in places), default=ROWS_MAX)
    if not bound.leaves:
        return FederatedPlan((), render(bound.tree, bound.parameters), (), bound.output_names, rows_max)
    if len(set(places.values())) == 1:
        return _whole(bound, decision, places, rows_max)
    counted = subjects.count(bound, decision)
    fragments, homes = _leaf_fragments(counted.bound, decision, places, schema)
    final = _final(counted.bound, homes)
    return FederatedPlan(fragments, final, counted.floors, bound.output_names, rows_max)


def _place(leaf: Leaf, placement: Placement) -> tuple[str, str]:
    if leaf.dataset not in placement:
        raise error_for(Code.FETCH_NODE_AWAY, f"department {leaf.dataset.department}: no node holds {leaf.dataset}")
    return placement[leaf.dataset]


def _whole(
    bound: BoundQuery, decision: Decision, places: Mapping[str, tuple[str, str]], rows_max: int
) -> FederatedPlan:
    member, node = next(iter(places.values()))
    fragment = Fragment(
        id="f0",
        member=member,
        node=node,
        sql=render(bound.tree, bound.parameters),
        refs={leaf.ref: leaf.dataset for leaf in bound.leaves},
        columns=tuple(f"c{number}" for number in range(len(bound.output_names))),
        whole=True,
        floors=subjects.count(bound, decision).floors,
    )
    return FederatedPlan((fragment,), None, (), bound.output_names, rows_max)


@dataclass(frozen=True, slots=True)
class _Home:
    """Where a leaf's rows come from: the fragment, and the number of each column in it."""

    fragment: str
    numbers: Mapping[str, int]


def _leaf_fragments(
    bound: BoundQuery, decision: Decision, places: Mapping[str, tuple[str, str]], schema: Schema
) -> tuple[tuple[Fragment, ...], dict[str, _Home]]:
    lineage = Lineage.of(bound)
    pushes = push(bound.tree, lineage, Leakproof(bound, schema, lineage))
    used = columns_of(bound)
    fragments: dict[str, Fragment] = {}
    homes: dict[str, _Home] = {}
    for leaf in bound.leaves:
        names = used[leaf.ref]
        tree = fragment_tree(leaf, names, pushes[leaf.ref])
        # Two mentions of a dataset that need the same rows under the same rules are fetched once.
        key = repr(
            (
                places[leaf.ref],
                decision.resources[leaf.ref].to_json(),
                fragment_tree(replace(leaf, ref="r"), names, pushes[leaf.ref]).sql("duckdb"),
            )
        )
        if key in fragments:
            fragments[key] = replace(fragments[key], scans=fragments[key].scans + 1)
        else:
            fragments[key] = _fragment(
                f"f{len(fragments)}", leaf, names, tree, bound, places[leaf.ref], pushes[leaf.ref]
            )
        homes[leaf.ref] = _Home(fragments[key].id, {name: number for number, name in enumerate(names)})
    return tuple(fragments.values()), homes


def _fragment(
    id: str, leaf: Leaf, names: list[str], tree: exp.Select, bound: BoundQuery, place: tuple[str, str], pushed: LeafPush
) -> Fragment:
    return Fragment(
        id=id,
        member=place[0],
        node=place[1],
        sql=render(tree, bound.parameters),
        refs={leaf.ref: leaf.dataset},
        columns=tuple(f"c{number}" for number in range(max(len(names), 1))),
        whole=False,
        pushed=tuple(describe(item) for item in pushed.pushed),
        kept=tuple((describe(item), why) for item, why in pushed.kept),
    )


def columns_of(bound: BoundQuery) -> dict[str, list[str]]:
    """Give the columns that a tree reads of each leaf, sorted."""
    found: dict[str, set[str]] = {leaf.ref: set() for leaf in bound.leaves}
    for column in bound.tree.find_all(exp.Column):
        if column.table in found:
            found[column.table].add(column.name)
    return {ref: sorted(names) for ref, names in found.items()}


def fragment_tree(leaf: Leaf, names: list[str], pushed: LeafPush) -> exp.Select:
    """Build ``SELECT r0.a AS c0 ... FROM department.dataset AS r0 WHERE ...`` for one leaf."""
    items: list[exp.Expr] = [_column(name, leaf.ref) for name in names] or [exp.Literal.number("1")]
    select = exp.Select(
        expressions=[
            exp.Alias(this=item, alias=exp.to_identifier(f"c{number}", quoted=True))
            for number, item in enumerate(items)
        ]
    )
    table = exp.Table(
        this=exp.to_identifier(leaf.dataset.name, quoted=True),
        db=exp.to_identifier(leaf.dataset.department, quoted=True),
        alias=exp.TableAlias(this=exp.to_identifier(leaf.ref, quoted=True)),
    )
    select.set("from_", exp.From(this=table))
    if pushed.pushed:
        condition = exp.and_(*pushed.pushed)
        for column in condition.find_all(exp.Column):
            column.set("table", exp.to_identifier(leaf.ref, quoted=True))
        select.set("where", exp.Where(this=condition))
    return select


def _column(name: str, table: str) -> exp.Column:
    return exp.column(exp.to_identifier(name, quoted=True), exp.to_identifier(table, quoted=True))


def _final(bound: BoundQuery, homes: Mapping[str, _Home]) -> RenderedSql:
    tree = bound.tree.copy()
    for column in tree.find_all(exp.Column):
        if column.table in homes:
            number = homes[column.table].numbers[column.name]
            column.set("this", exp.to_identifier(f"c{number}", quoted=True))
    for table in list(tree.find_all(exp.Table)):
        if table.args.get("db") and table.alias in homes:
            table.set("db", None)
            table.set("this", exp.to_identifier(homes[table.alias].fragment, quoted=True))
    return render(tree, bound.parameters)


def describe(condition: exp.Expr) -> str:
    """Print a conjunct for EXPLAIN; texts of the caller are parameters, so none is shown."""
    return condition.sql(dialect="duckdb")

"""Run a rewritten tree two ways: on one DuckDB that holds everything, and with each node answering its branches.

The second is what an exchange does: a branch goes to its node as text, is admitted, bound, restricted and run there, and comes
back as Arrow, so that types which Arrow changes on the way (HUGEINT) are met here too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
from sqlglot import exp

from tests.fakes.sql_world import World, execute
from tidegate.core.dataset import Dataset
from tidegate.core.decision import Decision
from tidegate.core.names import DatasetName
from tidegate.sql import wall
from tidegate.sql.lineage import Lineage, is_base, output_names
from tidegate.sql.model import BoundQuery, Fragment
from tidegate.sql.nodes import aliased, column, identifier, table_alias
from tidegate.sql.render import render


def locally(world: World, bound: BoundQuery) -> pa.Table:
    """Run a tree where every table lies."""
    sql = render(bound.tree, bound.parameters)
    wall.check(sql, frozenset(str(leaf.dataset) for leaf in bound.leaves))
    cursor = world.local.cursor()
    try:
        return execute(cursor, sql)
    finally:
        cursor.close()


def apart(world: World, bound: BoundQuery, decision: Decision) -> tuple[pa.Table, tuple[int, ...]]:
    """Run a tree with every largest one-node SELECT answered by its node; give the answer and the rows of each fragment."""
    tree = bound.tree.copy()
    fragments = [_carved(select, number, bound, world) for number, select in enumerate(_tops(tree, bound, world))]
    for table in [item for item in tree.find_all(exp.Table) if is_base(item)]:
        fragments.append(_fetched(table, tree, len(fragments), bound, world))
    final = render(tree, bound.parameters)
    wall.check(final, frozenset(fragment.id for fragment in fragments))
    cursor = world.broker.cursor()
    sent = []
    for fragment in fragments:
        data, _ = world.ask(fragment, decision)
        sent.append(data.num_rows)
        cursor.register(fragment.id, data)
    try:
        return execute(cursor, final), tuple(sent)
    finally:
        cursor.close()


def _homes(node: exp.Expr, bound: BoundQuery, world: World) -> set[tuple[str, str]]:
    return {world.placement[bound.leaf(table.alias).dataset] for table in node.find_all(exp.Table) if is_base(table)}


def _tops(tree: exp.Expr, bound: BoundQuery, world: World) -> list[exp.Select]:
    found: list[exp.Select] = []
    taken: set[int] = set()
    for select in tree.find_all(exp.Select):
        inside = any(id(parent) in taken for parent in _ancestors(select))
        if not inside and len(_homes(select, bound, world)) == 1:
            found.append(select)
            taken.add(id(select))
    return found


def _ancestors(node: exp.Expr) -> list[exp.Expr]:
    found = []
    above = node.parent
    while above is not None:
        found.append(above)
        above = above.parent
    return found


def _carved(select: exp.Select, number: int, bound: BoundQuery, world: World) -> Fragment:
    (member, node), names = next(iter(_homes(select, bound, world))), output_names(select)
    refs = {table.alias: bound.leaf(table.alias).dataset for table in select.find_all(exp.Table) if is_base(table)}
    fragment = Fragment(f"f{number}", member, node, render(select, bound.parameters), refs, tuple(names), whole=False)
    alias = f"z{number}"
    items: list[exp.Expr] = [aliased(column(alias, name), name) for name in names]
    for key in list(select.args):
        select.set(key, None)
    select.set("expressions", items)
    select.set("from_", exp.From(this=exp.Table(this=identifier(fragment.id), alias=table_alias(alias))))
    return fragment


def _fetched(table: exp.Table, tree: exp.Expr, number: int, bound: BoundQuery, world: World) -> Fragment:
    """Fetch one leaf's columns, where it stands beside leaves of other nodes."""
    ref, columns = table.alias, [item for item in tree.find_all(exp.Column) if item.table == table.alias]
    names = sorted({item.name for item in columns})
    items: list[exp.Expr] = [aliased(column(ref, name), f"c{i}") for i, name in enumerate(names)]
    select = exp.Select(expressions=items or [aliased(exp.Literal.number(1), "c0")], from_=exp.From(this=table.copy()))
    (member, node), dataset = world.placement[bound.leaf(ref).dataset], bound.leaf(ref).dataset
    for item in columns:
        item.set("this", identifier(f"c{names.index(item.name)}"))
    table.set("db", None)
    table.set("this", identifier(f"f{number}"))
    sent = tuple(f"c{i}" for i in range(len(names)))
    return Fragment(f"f{number}", member, node, render(select, bound.parameters), {ref: dataset}, sent, whole=False)


def check_tree(before: BoundQuery, after: BoundQuery) -> None:
    """Hold a rewritten query to what the model says of a bound tree."""
    Lineage.of(after)  # each alias once, leaves those that are named
    assert after.leaves == before.leaves
    assert after.parameters == before.parameters
    assert after.output_names == before.output_names
    assert output_names(after.tree) == [f"c{number}" for number in range(len(before.output_names))]
    known = {leaf.ref for leaf in after.leaves}
    known |= {node.alias for node in after.tree.find_all(exp.Subquery, exp.Values, exp.Table) if node.alias}
    for node in after.tree.find_all(exp.Column):
        assert not node.table or node.table in known, f"{node} reads what is not there"


def same(left: pa.Table, right: pa.Table, *, ordered: bool = False) -> bool:
    """Compare two answers: types equal; values equal, floats to 1e-8 (relative, near zero absolute); NaN equals itself."""
    if left.schema.types != right.schema.types or left.num_rows != right.num_rows:
        return False
    pairs = zip(_rows(left, ordered), _rows(right, ordered), strict=True)
    return all(_equal(a, b) for one, other in pairs for a, b in zip(one, other, strict=True))


def _rows(data: pa.Table, ordered: bool) -> list[tuple[Any, ...]]:
    columns = [item.to_pylist() for item in data.columns]
    rows = list(zip(*columns, strict=True))
    return rows if ordered else sorted(rows, key=lambda row: tuple(map(_sortable, row)))


def _sortable(value: Any) -> str:
    if isinstance(value, float):
        return "nan" if math.isnan(value) else f"{value + 0.0:.6g}".replace("-0", "0")
    return repr(value)


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, float) and isinstance(right, float):
        close = math.isclose(left, right, rel_tol=1e-8, abs_tol=1e-9)
        return close or (math.isnan(left) and math.isnan(right))
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(_equal(a, b) for a, b in zip(left, right, strict=True))
    return type(left) is type(right) and bool(left == right)


def with_statistics(world: World, rows: int, distinct: Mapping[str, int]) -> Mapping[DatasetName, Dataset]:
    """Give the world's schema with published statistics."""

    def counted(dataset: Dataset) -> Dataset:
        columns: Sequence[Any] = [replace(item, distinct=distinct.get(item.name)) for item in dataset.columns]
        return replace(dataset, rows=rows, columns=tuple(columns))

    return {name: counted(dataset) for name, dataset in world.schema.items()}

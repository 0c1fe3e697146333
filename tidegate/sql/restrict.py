"""Restrict a bound query by a decision: every instance of a dataset is replaced by what the decision lets through.

A leaf that passes whole becomes a flat sub-select of the columns that are read. A leaf with a row filter or a mask becomes a
temporary view; a SECURE one (DuckDB's barrier) unless nothing in the query can raise or tell (``leakproof``), because a
sub-select alone stops no error on hidden rows (design planner.md). The filter reads raw columns, then the masks apply. The node
calls this with the intersection of the broker's decision and its own; no optimizer may run on the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlglot import exp

from tidegate.core.dataset import Dataset
from tidegate.core.decision import Decision, ResourceDecision
from tidegate.core.errors import Code, error_for
from tidegate.sql import filters, masks, structure, subjects
from tidegate.sql.leakproof import Leakproof
from tidegate.sql.masks import MaskKeys
from tidegate.sql.model import BoundQuery, Floor, Leaf, RenderedSql, Schema
from tidegate.sql.nodes import aliased, column, identifier, table_alias
from tidegate.sql.pruning import prune
from tidegate.sql.render import render
from tidegate.sql.scope import SUBJECT_COLUMN
from tidegate.sql.split import columns_of

VIEW_PREFIX = "tg_"  # reserved: no dataset's and no column's name begins so


@dataclass(frozen=True, slots=True)
class RestrictedQuery:
    """What a node executes.

    Args:
        setup: statements of our own making that come first on the same connection (the views).
        query: reads ``tables`` alone; run ``wall.check(query, tables)`` on it.
        floors: over hidden trailing columns of the result; see ``engine.floors.apply``.
        tables: ``department.dataset`` of leaves that pass whole, names of views for the others.
        raw: ref -> the raw columns that the restriction reads (for a source that is scanned beforehand).
        rules: ref -> what was done to it, in words, for EXPLAIN; no value of a filter is in it.
    """

    setup: tuple[str, ...]
    query: RenderedSql
    floors: tuple[Floor, ...]
    tables: frozenset[str]
    tree: exp.Query
    raw: Mapping[str, tuple[str, ...]]
    rules: Mapping[str, tuple[str, ...]]


def restrict(
    bound: BoundQuery, decision: Decision, keys: MaskKeys, *, schema: Schema, subject_key: bytes = b""
) -> RestrictedQuery:
    """Build the restricted form of a query; the bound query is left as it is.

    Args:
        schema: the descriptions of the leaves' datasets, the node's own.
        subject_key: of the grant; pseudonyms of subjects are made with it when the fragment asks for them.

    Raises:
        Refused: POLICY_REFUSED, POLICY_STRUCTURE, as ``structure.check``.
        InternalError: POLICY_UNAVAILABLE, the decision does not fit the dataset.
        PeerError: NODE_FRAGMENT, subjects are asked for without a key.
    """
    try:
        return _restrict(prune(bound, schema), decision, keys, schema, subject_key)
    except RecursionError as error:
        raise error_for(Code.PLAN_TOO_LARGE, "the query is nested deeper than the limit") from error


def _restrict(
    bound: BoundQuery, decision: Decision, keys: MaskKeys, schema: Schema, subject_key: bytes
) -> RestrictedQuery:
    structure.check(bound, decision, schema=schema)
    counted = subjects.count(bound, decision)
    barrier = not Leakproof(counted.bound, schema).query(counted.bound.tree)
    used = columns_of(counted.bound)
    tree = counted.bound.tree.copy()
    tables = {table.alias: table for table in tree.find_all(exp.Table) if table.args.get("db")}
    built = [
        _restriction(
            leaf, decision.resources[leaf.ref], schema[leaf.dataset], used[leaf.ref], keys, _subject(leaf, subject_key)
        )
        for leaf in bound.leaves
    ]
    setup: list[str] = []
    for item in built:
        if item.whole:
            tables[item.ref].replace(exp.Subquery(this=item.select, alias=table_alias(item.ref)))
        else:
            setup.append(_view(item, barrier))
            tables[item.ref].replace(exp.Table(this=identifier(VIEW_PREFIX + item.ref), alias=table_alias(item.ref)))
    return RestrictedQuery(
        setup=tuple(setup),
        query=render(tree, bound.parameters),
        floors=counted.floors,
        tables=frozenset(item.name if item.whole else VIEW_PREFIX + item.ref for item in built),
        tree=tree,
        raw={item.ref: item.raw for item in built},
        rules={item.ref: item.rules for item in built},
    )


@dataclass(frozen=True, slots=True)
class _Restriction:
    ref: str
    name: str
    select: exp.Select
    whole: bool
    raw: tuple[str, ...]
    rules: tuple[str, ...]


def _subject(leaf: Leaf, subject_key: bytes) -> bytes | None:
    """Give the key of pseudonyms when the fragment itself reads subjects; None when they are only counted here."""
    if SUBJECT_COLUMN not in leaf.columns:
        return None
    if len(subject_key) < 16:
        raise error_for(Code.NODE_FRAGMENT, "fragment: asks for subjects, and the grant holds no key for them")
    return subject_key


def _restriction(
    leaf: Leaf,
    resource: ResourceDecision,
    dataset: Dataset,
    names: Sequence[str],
    keys: MaskKeys,
    subject_key: bytes | None,
) -> _Restriction:
    condition = filters.predicate(resource.row_filter, dataset, leaf.ref)
    items: list[exp.Expr] = []
    rules: list[str] = ["row filter"] if condition is not None else []
    masked = False
    for name in names:
        if name == SUBJECT_COLUMN:
            value = _subject_value(leaf, resource, dataset, subject_key)
            masked = masked or subject_key is not None
        else:
            value, rule = _column_value(leaf, name, resource, dataset, keys)
            rules += [rule] if rule else []
            masked = masked or bool(rule)
        items.append(aliased(value, name))
    table = exp.Table(
        this=identifier(dataset.name.name), db=identifier(dataset.name.department), alias=table_alias(leaf.ref)
    )
    select = exp.Select(expressions=items or [aliased(exp.Literal.number(1), "tg_one")], from_=exp.From(this=table))
    if condition is not None:
        select.set("where", exp.Where(this=condition))
    raw = tuple(sorted({found.name for found in select.find_all(exp.Column)}))
    return _Restriction(leaf.ref, str(dataset.name), select, condition is None and not masked, raw, tuple(rules))


def _column_value(
    leaf: Leaf, name: str, resource: ResourceDecision, dataset: Dataset, keys: MaskKeys
) -> tuple[exp.Expr, str]:
    held, rule = dataset.column(name), resource.rule(name)
    if held is None:
        raise error_for(Code.POLICY_UNAVAILABLE, detail=f"restrict: {dataset.name} has no column {name}")
    raw = column(leaf.ref, name)
    if rule.access == "plain" and rule.mask is None:
        return raw, ""
    if rule.access == "masked" and rule.mask is not None:
        return masks.expression(rule.mask, raw, held.type, dataset.name, keys), f"{name}: masked ({rule.mask.kind})"
    raise error_for(Code.POLICY_REFUSED, f"column {dataset.name}.{name} is denied")


def _subject_value(leaf: Leaf, resource: ResourceDecision, dataset: Dataset, key: bytes | None) -> exp.Expr:
    entity = resource.constraints.count_entity
    if dataset.column(entity) is None:
        raise error_for(Code.POLICY_UNAVAILABLE, detail=f"restrict: {dataset.name} has no subject column {entity}")
    raw = column(leaf.ref, entity)
    if key is not None:
        return masks.subject_pseudonym(raw, key)
    return exp.Cast(this=raw, to=exp.DataType.build("VARCHAR", dialect="duckdb"))


def _view(item: _Restriction, barrier: bool) -> str:
    """Print the view. Everything in it is of our own making: catalogue names, a policy's values, keys."""
    kind = "TEMP SECURE VIEW" if barrier else "TEMP VIEW"
    body = item.select.sql(dialect="duckdb", identify=True)
    return f'CREATE {kind} "{VIEW_PREFIX}{item.ref}" AS {body}'

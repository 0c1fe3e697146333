"""Restrict a bound query by a decision: every instance of a dataset is replaced by what the decision lets through.

A leaf that passes whole becomes a flat sub-select of the columns that are read. A leaf with a row filter or a mask becomes a
temporary view; a SECURE one (DuckDB's barrier) unless nothing in the query can raise or tell (``leakproof``), because a
sub-select alone stops no error on hidden rows (design planner.md). The filter reads raw columns, then the masks apply. The node
calls this with the intersection of the broker's decision and its own; no optimizer may run on the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from sqlglot import exp

from tidegate.core.dataset import Column, Dataset
from tidegate.core.decision import Decision, ResourceDecision
from tidegate.core.errors import Code, error_for
from tidegate.sql import filters, masks, structure, subjects
from tidegate.sql.families import Family, family
from tidegate.sql.leakproof import Leakproof
from tidegate.sql.masks import MaskKeys
from tidegate.sql.model import BoundQuery, Floor, Leaf, RenderedSql, Schema
from tidegate.sql.nodes import aliased, column, identifier, table_alias
from tidegate.sql.pruning import prune
from tidegate.sql.render import render
from tidegate.sql.scope import SUBJECT_COLUMN
from tidegate.sql.split import columns_of

VIEW_PREFIX = "tg_"  # reserved: no dataset's and no column's name begins so
KEYS_PREFIX = "tg_k"  # relations of keys; views are named after refs, ``tg_r0``
KEY = "k"  # the one column of a relation of keys
KeyKind = Literal["integer", "text", "date"]
_KINDS: Mapping[Family, KeyKind] = {"integer": "integer", "text": "text", "date": "date"}
"""Columns that keys may be for: comparing them is exact, and no value of them needs a cast."""


@dataclass(frozen=True, slots=True)
class KeyRelation:
    """Keys for a leaf: of ``ref``, only rows whose ``column`` is in relation ``name`` (``tg_k0``, column ``k``) can matter."""

    ref: str
    column: str
    name: str


@dataclass(frozen=True, slots=True)
class RestrictedQuery:
    """What a node executes.

    Args:
        setup: statements of our own making that come first on the same connection (the views).
        query: reads ``tables`` alone; run ``wall.check(query, tables)`` on it.
        floors: over hidden trailing columns of the result; see ``engine.floors.apply``.
        tables: ``department.dataset`` of leaves that pass whole, names of views for the others.
        raw: ref -> the raw columns that the restriction reads (for a source that is scanned beforehand).
        keys: the key relations that the query reads -> the kind that each must be of. One that is not here was not used.
        rules: ref -> what was done to it, in words, for EXPLAIN; no value of a filter is in it.
        views: ref -> what ``setup`` makes a view of, for an engine of another dialect.
        barrier: the views are SECURE: something in the query can raise or tell.
    """

    setup: tuple[str, ...]
    query: RenderedSql
    floors: tuple[Floor, ...]
    tables: frozenset[str]
    tree: exp.Query
    raw: Mapping[str, tuple[str, ...]]
    rules: Mapping[str, tuple[str, ...]]
    keys: Mapping[str, KeyKind] = field(default_factory=dict)
    views: Mapping[str, exp.Select] = field(default_factory=dict)
    barrier: bool = False


def restrict(
    bound: BoundQuery,
    decision: Decision,
    keys: MaskKeys,
    *,
    schema: Schema,
    subject_key: bytes = b"",
    reductions: Sequence[KeyRelation] = (),
) -> RestrictedQuery:
    """Build the restricted form of a query; the bound query is left as it is.

    Args:
        schema: the descriptions of the leaves' datasets, the node's own.
        subject_key: of the grant; pseudonyms of subjects are made with it when the fragment asks for them.
        reductions: keys that came with the fragment. They apply to a column as the caller sees it, outside of filter and
            masks; those for a column that is masked, or closed to predicates, are left unused: the answer is then larger.

    Raises:
        Refused: POLICY_REFUSED, POLICY_STRUCTURE, as ``structure.check``.
        InternalError: POLICY_UNAVAILABLE, the decision does not fit the dataset.
        PeerError: NODE_FRAGMENT, subjects are asked for without a key.
    """
    try:
        return _restrict(prune(bound, schema), decision, keys, schema, subject_key, reductions)
    except RecursionError as error:
        raise error_for(Code.PLAN_TOO_LARGE, "the query is nested deeper than the limit") from error


def _restrict(
    bound: BoundQuery,
    decision: Decision,
    keys: MaskKeys,
    schema: Schema,
    subject_key: bytes,
    reductions: Sequence[KeyRelation],
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
    usable = {
        relation: held
        for relation in reductions
        if (held := _key_column(relation, counted.bound, used, decision, schema)) is not None
    }
    setup: list[str] = []
    for item in built:
        source = item.select
        if not item.whole:
            setup.append(_view(item, barrier))
            source = _over_view(item)
        mine = {relation: held for relation, held in usable.items() if relation.ref == item.ref}
        tables[item.ref].replace(
            exp.Table(this=identifier(VIEW_PREFIX + item.ref), alias=table_alias(item.ref))
            if not item.whole and not mine
            else exp.Subquery(this=_narrowed(source, mine), alias=table_alias(item.ref))
        )
    return RestrictedQuery(
        setup=tuple(setup),
        query=render(tree, bound.parameters),
        floors=counted.floors,
        tables=frozenset(item.name if item.whole else VIEW_PREFIX + item.ref for item in built)
        | {relation.name for relation in usable},
        tree=tree,
        raw={item.ref: item.raw for item in built},
        rules={item.ref: (*item.rules, *_key_rules(item.ref, usable)) for item in built},
        keys={relation.name: _KINDS[family(held.type)] for relation, held in usable.items()},
        views={item.ref: item.select for item in built if not item.whole},
        barrier=barrier,
    )


def _key_column(
    relation: KeyRelation, bound: BoundQuery, used: Mapping[str, Sequence[str]], decision: Decision, schema: Schema
) -> Column | None:
    """Give the column that keys are for; None when they are to be left unused.

    Masked, or closed to predicates, by this department's own rules: the broker could not know, and without keys the answer
    is as right. Of a type whose comparison could need a cast of a hidden value: no plan has such keys.
    """
    rule = decision.resources[relation.ref].rule(relation.column)
    held = schema[bound.leaf(relation.ref).dataset].column(relation.column)
    shown = rule.access == "plain" and rule.mask is None and not rule.in_predicate_denied
    if held is None or not shown or relation.column not in used[relation.ref] or family(held.type) not in _KINDS:
        return None
    return held


def _narrowed(select: exp.Select, keys: Mapping[KeyRelation, Column]) -> exp.Select:
    """Add the semi-joins; the keys take the column's type, so that no value of the column is ever cast."""
    for relation, held in keys.items():
        wanted = exp.TryCast(this=column(relation.name, KEY), to=exp.DataType.build(held.type, dialect="duckdb"))
        table = exp.Table(this=identifier(relation.name), alias=table_alias(relation.name))
        found = exp.Select(expressions=[aliased(wanted, KEY)], from_=exp.From(this=table))
        condition = exp.In(this=column(relation.ref, relation.column), query=exp.Subquery(this=found))
        select = select.where(condition, copy=False)
    return select


def _over_view(item: _Restriction) -> exp.Select:
    """Read the view of a leaf: what the caller sees is compared, and the barrier stays between keys and hidden rows."""
    view = exp.Table(this=identifier(VIEW_PREFIX + item.ref), alias=table_alias(item.ref))
    names = [found.alias for found in item.select.expressions]
    return exp.Select(expressions=[aliased(column(item.ref, name), name) for name in names], from_=exp.From(this=view))


def _key_rules(ref: str, keys: Mapping[KeyRelation, Column]) -> list[str]:
    return [f"{relation.column}: only keys that were received" for relation in keys if relation.ref == ref]


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

"""Binding what stands in FROM: datasets, collections, CTEs, derived tables, VALUES, joins."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from sqlglot import exp

from tidegate.core.dataset import Dataset
from tidegate.core.errors import Code, error_for
from tidegate.core.names import DatasetName
from tidegate.sql import expressions
from tidegate.sql.functions import fold
from tidegate.sql.nodes import aliased, column, identifier, scalar, table_alias
from tidegate.sql.scope import SUBJECT_COLUMN, Context, Env, From, Source, Visible, not_allowed
from tidegate.sql.words import words

_REF = re.compile(r"r[0-9]{1,4}\Z")
_STATEMENTS = words("show desc describe summarize explain pragma call table values select from")
_SIDES = {"": "INNER", "LEFT": "LEFT", "RIGHT": "RIGHT", "FULL": "FULL"}


def bind_from(
    ctx: Context, node: exp.From | None, joins: Sequence[exp.Join], env: Env
) -> tuple[exp.From | None, list[exp.Join], From]:
    """Bind FROM and its joins; ``env`` is the scope around the SELECT, with its CTEs."""
    if node is None:
        if joins:
            raise not_allowed("a join without FROM")
        return None, [], From()
    table, names = bind_source(ctx, node.this, env)
    bound: list[exp.Join] = []
    pending = list(node.this.args.get("joins") or []) if isinstance(node.this, exp.Table) else []
    for join in _by_precedence([*pending, *joins]):
        made, names = _join(ctx, join, names, env)
        bound.append(made)
    return exp.From(this=table), bound, names


def _by_precedence(joins: Sequence[exp.Join]) -> list[exp.Join]:
    """Bring back what a comma means: it binds weaker than JOIN, but sqlglot lists both in one row.

    ``a, b RIGHT JOIN c`` is a times (b RIGHT JOIN c). Where the order matters, what follows a comma becomes a group.
    """
    groups: list[list[exp.Join]] = [[]]
    for join in joins:
        if not any(join.args.get(key) for key in ("side", "kind", "method", "on", "using")):
            groups.append([])
        groups[-1].append(join)
    result = list(groups[0])
    for head, *rest in groups[1:]:
        if any(_order_matters(join) for join in rest):
            inner = head.this.copy()
            inner.set("joins", [join.copy() for join in rest])
            result.append(exp.Join(this=exp.Subquery(this=inner)))
        else:
            result += [head, *rest]
    return result


def _order_matters(join: exp.Join) -> bool:
    side = str(join.args.get("side") or "").upper()
    return side in ("RIGHT", "FULL") or bool(join.args.get("using") or join.args.get("method"))


def bind_source(ctx: Context, node: exp.Expr, env: Env, *, sideways: From | None = None) -> tuple[exp.Expr, From]:
    """Bind one thing in FROM. ``sideways``: what a LATERAL sub-query may read."""
    ctx.count()
    if isinstance(node, exp.Table):
        return _table(ctx, node, env)
    if isinstance(node, exp.Lateral):
        if (
            sideways is None
            or not isinstance(node.this, exp.Subquery)
            or node.args.get("view")
            or node.args.get("outer")
        ):
            raise not_allowed("this form of LATERAL")
        inner, names = _derived(ctx, node.this, node.args.get("alias"), env.over(sideways))
        inner.set("lateral", True)
        return inner, names
    if isinstance(node, exp.Subquery):
        return _subquery(ctx, node, env)
    if isinstance(node, exp.Values):
        table, source = values_table(ctx, node, env)
        alias = node.args.get("alias")
        own = (alias.name,) if alias is not None and alias.name else ("",)
        return table, _single(_renamed(replace(source, names=own), alias))
    raise not_allowed("this in FROM")


def _subquery(ctx: Context, node: exp.Subquery, env: Env) -> tuple[exp.Expr, From]:
    inner, alias = node.this, node.args.get("alias")
    if isinstance(inner, exp.Table | exp.Subquery) and not _has_modifiers(node) and _is_table_like(inner):
        if not _joins_of(inner) and (alias is None or (isinstance(inner, exp.Table) and not inner.alias)):
            bare = inner.copy()
            if alias is not None:
                bare.set("alias", alias.copy())
            return bind_source(ctx, bare, env)
        return _group(ctx, inner, alias, env)
    return _derived(ctx, node, alias, env)


def _is_table_like(node: exp.Expr) -> bool:
    return isinstance(node, exp.Table) or (
        isinstance(node, exp.Subquery) and (bool(_joins_of(node)) or _is_table_like(node.this))
    )


def _joins_of(node: exp.Expr) -> list[exp.Join]:
    return list(node.args.get("joins") or [])


def _has_modifiers(node: exp.Subquery) -> bool:
    return any(node.args.get(key) for key in ("with_", "order", "limit", "offset", "distinct", "group", "where"))


def _group(ctx: Context, node: exp.Expr, alias: exp.TableAlias | None, env: Env) -> tuple[exp.Expr, From]:
    """Bind ``(a JOIN b ...)``: a derived table of the columns that are read; the names inside stay usable outside."""
    bare = node.copy()
    joins = _joins_of(bare)
    bare.set("joins", None)
    made_from, made_joins, names = bind_from(ctx, exp.From(this=bare), joins, env)
    makers: dict[str, Callable[[], exp.Expr]] = {}

    def finish(wanted: list[str]) -> exp.Query:
        items = [aliased(makers[key](), f"c{i}") for i, key in enumerate(wanted)] or [
            aliased(exp.Literal.number(1), "c0")
        ]
        return exp.Select(expressions=items, from_=made_from, joins=made_joins)

    lazy = ctx.lazy(finish)

    def through(key: str, make: Callable[[], exp.Expr]) -> Callable[[], exp.Expr]:
        makers[key] = make
        return partial(lazy.want, key)

    sources = {
        id(source): replace(
            source,
            columns=tuple((name, through(f"{i}.{j}", make)) for j, (name, make) in enumerate(source.columns)),
            hidden={name: through(f"{i}.{name}", make) for name, make in source.hidden.items()},
        )
        for i, source in enumerate(names.sources)
    }
    visible = tuple(
        Visible(item.name, through(f"v{i}", item.make), tuple(sources[id(s)] for s in item.sources if id(s) in sources))
        for i, item in enumerate(names.visible)
    )
    if alias is not None:
        columns = tuple((item.name, item.make) for item in visible)
        return lazy.node, _single(_renamed(Source((alias.name,), columns), alias))
    return lazy.node, From(tuple(sources.values()), visible)


def _single(source: Source) -> From:
    return From((source,), tuple(Visible(name, make, (source,)) for name, make in source.columns))


def _renamed(source: Source, alias: exp.TableAlias | None) -> Source:
    """Apply ``AS q(x, y)``: renames by position; may name fewer than there are."""
    names = [node.name for node in (alias.args.get("columns") or [])] if alias is not None else []
    if len(names) > len(source.columns):
        raise error_for(Code.PLAN_UNKNOWN_COLUMN, "alias: names more columns than there are")
    columns = tuple((names[i] if i < len(names) else name, make) for i, (name, make) in enumerate(source.columns))
    return replace(source, columns=columns)


def _table(ctx: Context, node: exp.Table, env: Env) -> tuple[exp.Expr, From]:
    if not isinstance(node.this, exp.Identifier):
        if isinstance(node.this, exp.Func):
            raise not_allowed("a table function")
        raise error_for(Code.PLAN_UNKNOWN_DATASET)
    alias, written = node.args.get("alias"), node.args.get("db")
    department = ctx.department(written, node.args.get("catalog"))
    own = alias.name if alias is not None and alias.name else ""
    if written is None:
        if not node.this.args.get("quoted") and fold(node.name) in _STATEMENTS:
            raise not_allowed("a statement in the place of a table")
        cte = env.ctes.get(fold(node.name))
        if cte is not None:
            made = ctx.fresh("a")
            columns = tuple((name, partial(column, made, f"c{i}")) for i, name in enumerate(cte.columns))
            table = exp.Table(this=identifier(cte.name), alias=table_alias(made))
            return table, _single(_renamed(Source((own or node.name,), columns), alias))
    if not department:
        raise error_for(Code.PLAN_UNKNOWN_DATASET)
    name, dataset = ctx.dataset(department, node.name)
    whole = (name.department, name.name)
    names = (own,) if own else (ctx.namespace.exchange, *whole) if ctx.namespace.exchange else whole
    if dataset.parts:
        tree, source = _collection(ctx, name, dataset)
    else:
        tree, source = _leaf(ctx, name, dataset, None, own)
    return tree, _single(_renamed(replace(source, names=names), alias))


def _leaf(
    ctx: Context, name: DatasetName, dataset: Dataset, collection: DatasetName | None, wish: str
) -> tuple[exp.Table, Source]:
    if ctx.fragment and _REF.match(wish):
        if wish in ctx.leaves:
            raise error_for(Code.PLAN_AMBIGUOUS, "fragment: one ref stands for two instances")
        ref = wish
    else:
        ref = ctx.fresh("r")
    ctx.leaves[ref] = (name, collection)
    table = exp.Table(this=identifier(name.name), db=identifier(name.department), alias=table_alias(ref))
    return table, _source(ctx, name, dataset, partial(column, ref), ctx.unlisted.get(name, frozenset()))


def _source(
    ctx: Context, name: DatasetName, dataset: Dataset, make: Callable[[str], exp.Expr], unlisted: frozenset[str]
) -> Source:
    columns = tuple((item.name, partial(make, item.name)) for item in dataset.columns if item.name not in unlisted)
    hidden = {item.name: partial(make, item.name) for item in dataset.columns if item.name in unlisted}
    if ctx.fragment:
        hidden[SUBJECT_COLUMN] = partial(make, SUBJECT_COLUMN)
    return Source((name.department, name.name), columns, hidden)


def _collection(ctx: Context, name: DatasetName, dataset: Dataset) -> tuple[exp.Expr, Source]:
    """Expand a collection into a UNION ALL of its parts, each with the columns that the query reads."""
    parts = []
    for part in dataset.parts:
        held = ctx.schema.get(part)
        if held is None or held.withdrawn or held.parts:
            # never silently fewer rows: a part that must not be known makes the whole unknown
            raise error_for(Code.PLAN_UNKNOWN_DATASET)
        parts.append(_leaf(ctx, part, held, name, ""))

    def finish(wanted: list[str]) -> exp.Query:
        selects: list[exp.Query] = []
        for table, source in parts:
            items = [aliased(_one(source, key), f"c{i}") for i, key in enumerate(wanted)]
            selects.append(
                exp.Select(expressions=items or [aliased(exp.Literal.number(1), "c0")], from_=exp.From(this=table))
            )
        query = selects[0]
        for select in selects[1:]:
            query = exp.Union(this=query, expression=select, distinct=False)
        return query

    lazy = ctx.lazy(finish)
    # what one part does not list, the whole does not list: its parts have columns of the same names
    unlisted = {fold(item) for key in (name, *dataset.parts) for item in ctx.unlisted.get(key, ())}
    gone = frozenset(item.name for item in dataset.columns if fold(item.name) in unlisted)
    return lazy.node, _source(ctx, name, dataset, lazy.want, gone)


def _one(source: Source, name: str) -> exp.Expr:
    found = source.find(name)
    if len(found) != 1:
        raise error_for(Code.PLAN_UNKNOWN_COLUMN, "collection: a part lacks a column of the collection")
    return found[0]()


def _derived(ctx: Context, node: exp.Expr, alias: exp.TableAlias | None, env: Env) -> tuple[exp.Expr, From]:
    bound = ctx.query(node, env)
    made = ctx.fresh("a")
    names = unique_names(bound.names)
    columns = tuple((name, partial(column, made, f"c{i}")) for i, name in enumerate(names))
    source = Source((alias.name,) if alias is not None and alias.name else ("",), columns)
    return exp.Subquery(this=bound.query, alias=table_alias(made)), _single(_renamed(source, alias))


def values_table(ctx: Context, node: exp.Values, env: Env) -> tuple[exp.Values, Source]:
    """Bind the rows of VALUES as a table whose columns have generated names."""
    scope = Env(From(), env.outer, env.ctes, lambdas=env.lambdas)
    rows = [item.expressions if isinstance(item, exp.Tuple) else [item] for item in node.expressions]
    width = len(rows[0]) if rows else 0
    if width == 0 or any(len(row) != width for row in rows):
        raise error_for(Code.PLAN_TYPE, "VALUES: expected rows of one length")
    made = [exp.Tuple(expressions=[expressions.bind(ctx, cell, scope) for cell in row]) for row in rows]
    alias = ctx.fresh("a")
    outer = exp.TableAlias(this=identifier(alias), columns=[identifier(f"c{i}") for i in range(width)])
    columns = tuple((f"col{i}", partial(column, alias, f"c{i}")) for i in range(width))
    return exp.Values(expressions=made, alias=outer), Source(("",), columns)


def unique_names(names: Sequence[str]) -> tuple[str, ...]:
    """Name the columns of a derived table as DuckDB does: a name that repeats gets ``_1``, ``_2`` ..."""
    taken: set[str] = set()
    result = []
    for name in names:
        candidate, number = name, 0
        while fold(candidate) in taken:
            number += 1
            candidate = f"{name}_{number}"
        taken.add(fold(candidate))
        result.append(candidate)
    return tuple(result)


def _join(ctx: Context, join: exp.Join, left: From, env: Env) -> tuple[exp.Join, From]:
    side, kind, method = (str(join.args.get(key) or "").upper() for key in ("side", "kind", "method"))
    semi = kind in ("SEMI", "ANTI")
    if (
        side not in _SIDES
        or kind not in ("", "INNER", "OUTER", "CROSS", "SEMI", "ANTI")
        or method not in ("", "NATURAL")
    ):
        raise not_allowed("this kind of join")
    if side and (semi or kind in ("CROSS", "INNER")):
        raise not_allowed("this kind of join")
    if join.args.get("match_condition") or join.args.get("global_") or join.args.get("hint") or join.args.get("pivots"):
        raise not_allowed("this kind of join")
    table, right = bind_source(ctx, join.this, env, sideways=left)
    condition, using = join.args.get("on"), [node.name for node in (join.args.get("using") or [])]
    if method == "NATURAL":
        using = [item.name for item in left.visible if any(fold(r.name) == fold(item.name) for r in right.visible)]
        if not using:
            raise error_for(Code.PLAN_UNKNOWN_COLUMN, "natural join: the two sides share no column")
    both = From(left.sources + right.sources, left.visible + right.visible)
    made_side = side or (kind if semi else "")
    on: exp.Expr | None = None
    after = both
    if using:
        on, after = _using(using, left, right, side)
    elif condition is not None:
        on = expressions.bind(ctx, condition, env.over(both))
    elif kind in ("SEMI", "ANTI") or side:
        raise error_for(Code.PLAN_SYNTAX, "join: expected ON or USING")
    if semi:
        after = left
    made = exp.Join(this=table)
    if on is None:
        made.set("kind", "CROSS")
    else:
        made.set("on", on)
        made.set("side" if side else "kind", made_side or "INNER")
    return made, after


def _using(using: Sequence[str], left: From, right: From, side: str) -> tuple[exp.Expr, From]:
    conditions: list[exp.Expr] = []
    merged: dict[str, Visible] = {}
    for name in using:
        ours, theirs = (_visible(names, name) for names in (left, right))
        conditions.append(exp.EQ(this=ours.make(), expression=theirs.make()))
        makers: dict[str, Callable[[], exp.Expr]] = {
            "RIGHT": theirs.make,
            "FULL": partial(_coalesce, ours.make, theirs.make),
        }
        merged[fold(name)] = Visible(ours.name, makers.get(side, ours.make), ours.sources + theirs.sources)
    condition = conditions[0]
    for other in conditions[1:]:
        condition = exp.And(this=condition, expression=other)
    visible = [merged.get(fold(item.name), item) for item in left.visible]
    visible += [item for item in right.visible if fold(item.name) not in merged]
    return condition, From(left.sources + right.sources, tuple(visible))


def _coalesce(first: Callable[[], exp.Expr], second: Callable[[], exp.Expr]) -> exp.Expr:
    return scalar("coalesce", first(), second())


def _visible(names: From, name: str) -> Visible:
    found = [item for item in names.visible if fold(item.name) == fold(name)]
    if len(found) > 1:
        raise error_for(Code.PLAN_AMBIGUOUS, "USING: the column is on one side more than once")
    if not found:
        raise error_for(Code.PLAN_UNKNOWN_COLUMN)
    return found[0]

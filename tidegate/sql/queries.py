"""Binding queries: SELECT, set operations, VALUES, CTEs; star expansion, aliases, positions, grouping, ordering."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from sqlglot import exp

from tidegate.core.errors import Code, error_for
from tidegate.sql import expressions, invocations, ordering
from tidegate.sql.functions import fold
from tidegate.sql.nodes import aliased, column, table_alias
from tidegate.sql.pivot import pivot_as_select
from tidegate.sql.scope import BoundSelect, Context, Cte, Env, From, Item, Source, Visible, not_allowed
from tidegate.sql.sources import bind_from, unique_names, values_table

NAME_CHARS_MAX = 200  # of an output without an alias, which is called by its own text


def bind_query(ctx: Context, node: exp.Expr, env: Env) -> BoundSelect:
    """Bind any query; ``env`` is what surrounds it (``env.names`` is what a LATERAL may read)."""
    ctx.count()
    ctes, with_ = _with(ctx, node.args.get("with_"), env)
    inner = replace(env, ctes=ctes)
    if isinstance(node, exp.Select):
        bound = _select(ctx, node, inner)
    elif isinstance(node, exp.SetOperation):
        bound = _set_operation(ctx, node, inner)
    elif isinstance(node, exp.Values):
        bound = _values(ctx, node, inner)
    elif isinstance(node, exp.Pivot):
        bound = bind_query(ctx, pivot_as_select(node), inner)
    elif isinstance(node, exp.Subquery):
        bound = _parenthesised(ctx, node, inner)
    else:
        raise not_allowed("this kind of query")
    if with_ is not None:
        bound = _attach(ctx, bound, with_)
    return bound


def _attach(ctx: Context, bound: BoundSelect, with_: exp.With) -> BoundSelect:
    query = bound.query
    if query.args.get("with_") is not None:
        with_.expressions.extend(query.args["with_"].expressions)
        with_.set("expressions", with_.expressions)
    query.set("with_", with_)
    return bound


def _with(ctx: Context, node: exp.With | None, env: Env) -> tuple[dict[str, Cte], exp.With | None]:
    ctes = dict(env.ctes)
    if node is None:
        return ctes, None
    if node.args.get("recursive"):
        raise not_allowed("WITH RECURSIVE")
    made = []
    names: set[str] = set()
    for item in node.expressions:
        name = fold(item.alias)
        if name in names:
            raise error_for(Code.PLAN_AMBIGUOUS, "WITH: two parts of one name")
        names.add(name)
        bound = bind_query(ctx, item.this, Env(From(), env.outer, dict(ctes), lambdas=env.lambdas))
        columns = list(unique_names(bound.names))
        given = [part.name for part in (item.args["alias"].args.get("columns") or [])]
        if len(given) > len(columns):
            raise error_for(Code.PLAN_UNKNOWN_COLUMN, "WITH: names more columns than there are")
        columns[: len(given)] = given
        cte = Cte(ctx.fresh("t"), tuple(columns))
        ctes[name] = cte
        part = exp.CTE(this=bound.query, alias=table_alias(cte.name))
        if item.args.get("materialized") is not None:
            part.set("materialized", bool(item.args["materialized"]))
        made.append(part)
    return ctes, exp.With(expressions=made)


# -- SELECT ---------------------------------------------------------------------------------------------------------


def _select(ctx: Context, node: exp.Select, env: Env) -> BoundSelect:
    around = Env(env.names, env.outer, env.ctes, lambdas=env.lambdas) if env.names.visible else env.outer
    base = Env(From(), around, env.ctes, lambdas=env.lambdas)
    made_from, joins, names = bind_from(ctx, node.args.get("from_"), node.args.get("joins") or [], base)
    windows = {fold(item.this.name): item for item in node.args.get("windows") or []}
    scope = replace(base, names=names, windows=windows)
    items = _items(ctx, node.expressions, scope)
    named = {fold(item.alias): item for item in reversed(items) if item.alias}
    late = replace(scope, aliases=named)
    made = exp.Select(expressions=[aliased(item.make(), f"c{i}") for i, item in enumerate(items)])
    if made_from is not None:
        made.set("from_", made_from)
    if joins:
        made.set("joins", joins)
    if node.args.get("where") is not None:
        made.set("where", exp.Where(this=expressions.bind(ctx, node.args["where"].this, late)))
    grouped: frozenset[str] = frozenset()
    if node.args.get("group") is not None:
        group, grouped = _group(ctx, node.args["group"], items, late)
        if group is not None:
            made.set("group", group)
    if node.args.get("having") is not None:
        having = replace(late, alias_first=True, grouped=grouped)
        made.set("having", exp.Having(this=expressions.bind(ctx, node.args["having"].this, having)))
    if node.args.get("qualify") is not None:
        made.set("qualify", exp.Qualify(this=expressions.bind(ctx, node.args["qualify"].this, late)))
    distinct = node.args.get("distinct")
    if distinct is not None:
        made.set("distinct", ordering.distinct(ctx, distinct, items, late))
    ordering.finish(ctx, node, made, items, late)
    return BoundSelect(made, tuple(item.name for item in items))


def _items(ctx: Context, nodes: Sequence[exp.Expr], scope: Env) -> list[Item]:
    items: list[Item] = []
    for node in nodes:
        known = {fold(item.alias): item for item in reversed(items) if item.alias}
        here = replace(scope, aliases=known)
        if isinstance(node, exp.Star):
            items.extend(_star(ctx, node, here.names.visible, here))
        elif isinstance(node, exp.Column) and isinstance(node.this, exp.Star):
            items.extend(_star(ctx, node.this, _qualified_star(node, here), here))
        else:
            inner = node.this if isinstance(node, exp.Alias) else node
            alias = node.alias if isinstance(node, exp.Alias) else ""
            items.append(Item(alias or _name_of(inner), partial(expressions.bind, ctx, inner, here), alias))
    if not items:
        raise error_for(Code.PLAN_SYNTAX, "SELECT: no columns")
    return items


def _name_of(node: exp.Expr) -> str:
    if isinstance(node, exp.Column | exp.Dot):
        return node.name or node.args["expression"].name
    if (
        isinstance(node, exp.Anonymous)
        and fold(node.name) == "count"
        and all(isinstance(a, exp.Star) for a in node.expressions)
    ):
        return "count_star()"
    return node.sql(dialect="duckdb", normalize_functions=False)[:NAME_CHARS_MAX]


def _qualified_star(node: exp.Column, env: Env) -> tuple[Visible, ...]:
    parts = tuple(node.args[key].name for key in ("catalog", "db", "table") if node.args.get(key) is not None)
    scope: Env | None = env
    while scope is not None:
        found = [source for source in scope.names.sources if source.is_called(parts)]
        if len(found) > 1:
            raise error_for(Code.PLAN_AMBIGUOUS)
        if found:
            return tuple(Visible(name, make, (found[0],)) for name, make in found[0].columns)
        scope = scope.outer
    raise error_for(Code.PLAN_UNKNOWN_COLUMN)


def _star(ctx: Context, node: exp.Star, visible: Sequence[Visible], env: Env) -> list[Item]:
    if not visible:
        raise error_for(Code.PLAN_SYNTAX, "SELECT *: nothing to select from")
    dropped = {fold(item.name) for item in _list(node.args.get("except_"))}
    replaced = {fold(item.alias): item.this for item in _list(node.args.get("replace"))}
    renamed = {fold(item.this.name): item.alias for item in _list(node.args.get("rename"))}
    known = {fold(item.name) for item in visible}
    unlisted = {fold(name) for item in visible for source in item.sources for name in source.hidden}
    if ((dropped - unlisted) | set(replaced) | set(renamed)) - known:
        raise error_for(Code.PLAN_UNKNOWN_COLUMN, "star: EXCLUDE, REPLACE or RENAME names a column that is not there")
    items = []
    for item in visible:
        key = fold(item.name)
        if key in dropped:
            continue
        ctx.count()  # stars of stars double at each level: a few hundred characters could mean millions of columns
        make: Callable[[], exp.Expr] = item.make
        if key in replaced:
            make = partial(expressions.bind, ctx, replaced[key], env)
        items.append(Item(renamed.get(key, item.name), make))
    return items


def _list(value: object) -> list[exp.Expr]:
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]  # type: ignore[list-item]


# -- GROUP BY -------------------------------------------------------------------------------------------------------


def _group(ctx: Context, node: exp.Group, items: Sequence[Item], env: Env) -> tuple[exp.Group | None, frozenset[str]]:
    if node.args.get("all"):
        keys = [made for made in (item.make() for item in items) if not _aggregates(made)]
        return (exp.Group(expressions=[_constant(key) for key in keys]) if keys else None), frozenset()
    if any(node.args.get(key) for key in ("totals", "cube", "rollup", "grouping_sets")):
        raise not_allowed("this form of GROUP BY")
    made = [_group_key(ctx, item, items, env) for item in node.expressions]
    grouped = {fold(part.name) for item in node.expressions for part in item.find_all(exp.Column) if not part.table}
    return exp.Group(expressions=made), frozenset(grouped)


def _aggregates(node: exp.Expr) -> bool:
    """Say whether an expression aggregates (or is computed over a window) in its own SELECT, not in a sub-query of it."""
    if isinstance(node, exp.AggFunc | exp.Window):
        return True
    if isinstance(node, exp.Query):
        return False
    if isinstance(node, exp.Func) and node.name in ("grouping", "grouping_id"):
        return True
    return any(_aggregates(child) for child in node.iter_expressions())


def _constant(node: exp.Expr) -> exp.Expr:
    # DuckDB takes neither a parameter nor a bare number (a position) for a constant group
    if isinstance(node, exp.Parameter):
        return exp.Cast(this=node, to=exp.Var(this="VARCHAR"))
    if isinstance(node, exp.Literal):
        return exp.Add(this=node, expression=exp.Literal.number(0))
    return node


def _group_key(ctx: Context, node: exp.Expr, items: Sequence[Item], env: Env) -> exp.Expr:
    if isinstance(node, exp.Rollup | exp.Cube | exp.GroupingSets):
        return type(node)(expressions=[_group_key(ctx, item, items, env) for item in node.expressions])
    if isinstance(node, exp.Tuple):
        return exp.Tuple(expressions=[_group_key(ctx, item, items, env) for item in node.expressions])
    if isinstance(node, exp.Paren):
        return _group_key(ctx, node.this, items, env)
    position = ordering.position_of(node, len(items))
    if position is not None:
        return _constant(items[position].make())
    return _constant(expressions.bind(ctx, node, env))


# -- set operations, VALUES, parentheses ------------------------------------------------------------------------------


def _set_operation(ctx: Context, node: exp.SetOperation, env: Env) -> BoundSelect:
    if any(node.args.get(key) for key in ("side", "kind", "on")):
        raise not_allowed("this form of a set operation")
    around = Env(env.names, env.outer, env.ctes, lambdas=env.lambdas)
    chain: list[exp.SetOperation] = [node]
    while isinstance(chain[-1].this, exp.SetOperation) and not _modified(chain[-1].this):
        chain.append(chain[-1].this)
    bound = bind_query(ctx, chain[-1].this, around)
    for link in reversed(chain):
        bound = _pair(ctx, link, bound, bind_query(ctx, link.expression, around))
    if node.args.get("order") is None and node.args.get("limit") is None and node.args.get("offset") is None:
        return bound
    items = [Item(name, partial(column, "", f"c{i}"), name) for i, name in enumerate(bound.names)]
    keys = [key for item in _list_of_order(node) for key in _order_key_of_union(item, items)]
    if keys:
        bound.query.set("order", exp.Order(expressions=keys))
    ordering.limits(ctx, node, bound.query)
    return bound


def _modified(node: exp.Expr) -> bool:
    return any(node.args.get(key) is not None for key in ("with_", "order", "limit", "offset"))


def _list_of_order(node: exp.Expr) -> list[exp.Expr]:
    return list(node.args["order"].expressions) if node.args.get("order") is not None else []


def _order_key_of_union(node: exp.Expr, items: Sequence[Item]) -> list[exp.Expr]:
    key = node.this if isinstance(node, exp.Ordered) else node
    if isinstance(key, exp.Var) and fold(key.name) == "all":
        return [invocations.ordered(node, exp.Literal.number(i + 1)) for i in range(len(items))]
    position = ordering.position_of(key, len(items))
    if position is None and isinstance(key, exp.Column) and key.args.get("table") is None:
        position = next((i for i, item in enumerate(items) if fold(item.name) == fold(key.name)), None)
    if position is None:
        raise not_allowed("ORDER BY of a set operation by something else than an output column")
    return [invocations.ordered(node, exp.Literal.number(position + 1))]


def _pair(ctx: Context, node: exp.SetOperation, left: BoundSelect, right: BoundSelect) -> BoundSelect:
    names = left.names
    if node.args.get("by_name"):
        names, left, right = _by_name(ctx, left, right)
    if len(left.names) != len(right.names):
        raise error_for(Code.PLAN_TYPE, "set operation: the two sides have different numbers of columns")
    made = type(node)(
        this=_operand(ctx, left), expression=_operand(ctx, right), distinct=bool(node.args.get("distinct"))
    )
    return BoundSelect(made, names)


def _operand(ctx: Context, bound: BoundSelect) -> exp.Query:
    """Give a side of a set operation; one with modifiers of its own becomes a derived table."""
    if not _modified(bound.query):
        return bound.query
    return _wrap(ctx, bound, list(range(len(bound.names)))).query


def _wrap(ctx: Context, bound: BoundSelect, picks: Sequence[int | None]) -> BoundSelect:
    alias = ctx.fresh("a")
    items = [
        aliased(exp.Null() if pick is None else column(alias, f"c{pick}"), f"c{i}") for i, pick in enumerate(picks)
    ]
    table = exp.Subquery(this=bound.query, alias=table_alias(alias))
    names = tuple("" if pick is None else bound.names[pick] for pick in picks)
    return BoundSelect(exp.Select(expressions=items, from_=exp.From(this=table)), names)


def _by_name(ctx: Context, left: BoundSelect, right: BoundSelect) -> tuple[tuple[str, ...], BoundSelect, BoundSelect]:
    ours, theirs = ([fold(name) for name in side.names] for side in (left, right))
    if len(set(ours)) != len(ours) or len(set(theirs)) != len(theirs):
        raise error_for(Code.PLAN_AMBIGUOUS, "BY NAME: a side has two columns of one name")
    added = [i for i, name in enumerate(theirs) if name not in ours]
    names = left.names + tuple(right.names[i] for i in added)
    order = ours + [theirs[i] for i in added]
    sides = [
        _wrap(ctx, side, [own.index(name) if name in own else None for name in order])
        for side, own in ((left, ours), (right, theirs))
    ]
    return names, BoundSelect(sides[0].query, names), BoundSelect(sides[1].query, names)


def _values(ctx: Context, node: exp.Values, env: Env) -> BoundSelect:
    table, source = values_table(ctx, node, env)
    items = [Item(name, make, name) for name, make in source.columns]
    outputs: list[exp.Expr] = [aliased(item.make(), f"c{i}") for i, item in enumerate(items)]
    select = exp.Select(expressions=outputs, from_=exp.From(this=table))
    ordering.finish(ctx, node, select, items, Env(From(), env.outer, env.ctes))
    return BoundSelect(select, tuple(item.name for item in items))


def _parenthesised(ctx: Context, node: exp.Subquery, env: Env) -> BoundSelect:
    if isinstance(node.this, exp.Table) or node.args.get("joins"):
        star = exp.Select(expressions=[exp.Star()], from_=exp.From(this=exp.Subquery(this=node.this.copy())))
        bound = bind_query(ctx, star, env)
    else:
        bound = bind_query(ctx, node.this, env)
    if not _modified(node):
        return bound
    if _modified(bound.query) or not isinstance(bound.query, exp.Select):
        bound = BoundSelect(_wrap(ctx, bound, list(range(len(bound.names)))).query, bound.names)
    alias = bound.query.args["from_"].this.alias if "from_" in bound.query.args else ""
    columns = tuple((name, partial(column, alias, f"c{i}")) for i, name in enumerate(bound.names))
    source = Source(("",), columns)
    scope = Env(From((source,), tuple(Visible(name, make, (source,)) for name, make in columns)), env.outer, env.ctes)
    items = [Item(name, make, name) for name, make in columns]
    ordering.finish(ctx, node, bound.query, items, scope)
    return bound

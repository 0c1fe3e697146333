"""Binding expressions: every node of the parsed tree is rebuilt as one of ours, or refused.

Nothing is carried over by default: a node without a binder here is not allowed, and of an allowed node only the arguments
that its binder reads come along (``admit`` refused the others before).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sqlglot import exp

from tidegate.core.errors import Code, error_for
from tidegate.sql import invocations
from tidegate.sql.functions import INTERVAL_UNITS, UNITS, fold
from tidegate.sql.nodes import Lambda, LambdaName, identifier, scalar
from tidegate.sql.numbers import number_text
from tidegate.sql.scope import Context, Env, From, not_allowed
from tidegate.sql.types import type_text

Binder = Callable[[Context, exp.Expr, Env], exp.Expr]

_BINARY = (
    exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE, exp.NullSafeEQ, exp.NullSafeNEQ, exp.And, exp.Or, exp.Add, exp.Sub,
    exp.Mul, exp.Div, exp.IntDiv, exp.Mod, exp.Pow, exp.BitwiseAnd, exp.BitwiseOr, exp.BitwiseLeftShift,
    exp.BitwiseRightShift, exp.DPipe, exp.Glob,
)  # fmt: skip
_UNARY = (exp.Not, exp.Neg, exp.BitwiseNot)


def bind(ctx: Context, node: exp.Expr, env: Env) -> exp.Expr:
    """Bind one expression."""
    ctx.count()
    binder = _BINDERS.get(type(node))
    if binder is None:
        raise not_allowed("this kind of expression")
    return binder(ctx, node, env)


def _binary(ctx: Context, node: exp.Expr, env: Env) -> exp.Expr:
    # a chain of ANDs is as deep as it is long; walking down its left side keeps the recursion flat
    chain = [node]
    while isinstance(chain[-1].this, type(node)):
        chain.append(chain[-1].this)
        ctx.count()
    for link in chain:
        _check_precedence(link)
    made = bind(ctx, chain[-1].this, env)
    for link in reversed(chain):
        made = type(node)(this=made, expression=bind(ctx, link.args["expression"], env))
    return made


_BITWISE = (exp.BitwiseAnd, exp.BitwiseOr, exp.BitwiseLeftShift, exp.BitwiseRightShift)

_PREDICATES = (exp.Not, exp.Is, exp.In, exp.Between, exp.Like, exp.ILike, exp.RegexpLike, exp.SimilarTo, exp.Escape)


def _check_precedence(node: exp.Expr) -> None:
    """Refuse the mixtures that sqlglot and DuckDB read differently (found by tests/property/test_sql_precedence.py).

    DuckDB takes ``~ a + b`` for ``~ (a + b)``, ``a || b & c`` for ``(a || b) & c``, and ``NOT a IS NULL + b`` for
    ``NOT ((a IS NULL) + b)``; with parentheses both agree.
    """
    sides = (node.this, node.args["expression"])
    if any(isinstance(side, exp.BitwiseNot) for side in sides):
        raise not_allowed("~ beside another operator without parentheses")
    if not isinstance(node, exp.And | exp.Or) and any(isinstance(side, _PREDICATES) for side in sides):
        raise not_allowed("a predicate beside an operator without parentheses")
    mixed = isinstance(node, exp.DPipe) and any(isinstance(side, _BITWISE) for side in sides)
    if mixed or (isinstance(node, _BITWISE) and any(isinstance(side, exp.DPipe) for side in sides)):
        raise not_allowed("|| beside a bitwise operator without parentheses")


def _unary(ctx: Context, node: exp.Expr, env: Env) -> exp.Expr:
    return type(node)(this=bind(ctx, node.this, env))


def _paren(ctx: Context, node: exp.Expr, env: Env) -> exp.Expr:
    return bind(ctx, node.this, env)  # the renderer puts its own parentheses everywhere


def _literal(ctx: Context, node: exp.Expr, env: Env) -> exp.Expr:
    if node.args.get("is_string"):
        return ctx.parameter(str(node.this))
    return exp.Literal.number(number_text(str(node.this)))


def _column(ctx: Context, node: exp.Expr, env: Env) -> exp.Expr:
    parts = [node.args[key] for key in ("catalog", "db", "table", "this") if node.args.get(key) is not None]
    if not all(isinstance(part, exp.Identifier) for part in parts):
        raise not_allowed("a star or a generated column here")
    return resolve(ctx, [part.name for part in parts], env)


def resolve(ctx: Context, parts: list[str], env: Env) -> exp.Expr:
    """Find what ``a.b.c`` means: a column of a source (by dataset, by alias, alone), then fields of a struct."""
    if parts[0] in env.lambdas:
        return _fields(ctx, LambdaName(this=identifier(env.lambdas[parts[0]])), parts[1:])
    scope: Env | None = env
    while scope is not None:
        found = _resolve_here(ctx, parts, scope)
        if found is not None:
            return found
        scope = scope.outer
    raise error_for(Code.PLAN_UNKNOWN_COLUMN)


def _resolve_here(ctx: Context, parts: list[str], env: Env) -> exp.Expr | None:
    item = env.aliases.get(fold(parts[0])) if len(parts) == 1 else None
    if item is not None and env.alias_first and fold(parts[0]) not in env.grouped:
        return item.make()
    for depth in (3, 2, 1):  # ``exchange.department.dataset.column``, without the exchange, then ``alias.column``
        qualifier = tuple(parts[:depth])
        if len(parts) > depth:
            sources = [source for source in env.names.sources if source.is_called(qualifier)]
            makers = [make for source in sources for make in source.find(parts[depth])]
            if len(makers) > 1:
                raise error_for(Code.PLAN_AMBIGUOUS)
            if makers:
                return _fields(ctx, makers[0](), parts[depth + 1 :])
    visible = [entry.make for entry in env.names.visible if fold(entry.name) == fold(parts[0])]
    if not visible:
        visible = [make for source in env.names.sources for make in source.find_hidden(parts[0])]
    if len(visible) > 1:
        raise error_for(Code.PLAN_AMBIGUOUS)
    if visible:
        return _fields(ctx, visible[0](), parts[1:])
    return item.make() if item is not None else None


def _fields(ctx: Context, node: exp.Expr, names: list[str]) -> exp.Expr:
    for name in names:
        node = scalar("struct_extract", node, ctx.parameter(name))
    return node


def _dot(ctx: Context, node: exp.Expr, env: Env) -> exp.Expr:
    names: list[str] = []
    inner: exp.Expr = node
    while isinstance(inner, exp.Dot):
        if not isinstance(inner.args["expression"], exp.Identifier):
            raise not_allowed("a method call or a star of a struct")
        names.insert(0, inner.args["expression"].name)
        inner = inner.this
    if isinstance(inner, exp.Column):
        parts = [inner.args[key] for key in ("catalog", "db", "table", "this") if inner.args.get(key) is not None]
        return resolve(ctx, [part.name for part in parts] + names, env)
    return _fields(ctx, bind(ctx, inner, env), names)


def _identifier(ctx: Context, node: exp.Expr, env: Env) -> exp.Expr:
    return resolve(ctx, [node.name], env)  # sqlglot leaves the parameter of a lambda as a bare identifier


def _placeholder(ctx: Context, node: exp.Expr, env: Env) -> exp.Expr:
    inner = node.args.get("this")
    if inner is None:
        raise error_for(Code.PLAN_PARAMETERS, "parameters: write $1, $2 or $name")  # admit numbered every ``?``
    return ctx.named(inner if isinstance(inner, str) else inner.name)


def _cast(ctx: Context, node: exp.Expr, env: Env) -> exp.Expr:
    kind = exp.TryCast if isinstance(node, exp.TryCast) else exp.Cast
    return kind(this=bind(ctx, node.this, env), to=exp.Var(this=type_text(node.args["to"])))


def _case(ctx: Context, node: exp.Expr, env: Env) -> exp.Expr:
    subject, default = node.args.get("this"), node.args.get("default")
    made = exp.Case(ifs=[_if(ctx, branch, env) for branch in node.args["ifs"]])
    if subject is not None:
        made.set("this", bind(ctx, subject, env))
    if default is not None:
        made.set("default", bind(ctx, default, env))
    return made


def _if(ctx: Context, node: exp.Expr, env: Env) -> exp.Expr:
    return exp.If(this=bind(ctx, node.this, env), true=bind(ctx, node.args["true"], env))


def _if_call(ctx: Context, node: exp.Expr, env: Env) -> exp.Expr:
    default = node.args.get("false")
    made = exp.Case(ifs=[_if(ctx, node, env)])
    if default is not None:
        made.set("default", bind(ctx, default, env))
    return made


def _between(ctx: Context, node: exp.Expr, env: Env) -> exp.Expr:
    if node.args.get("symmetric"):
        raise not_allowed("BETWEEN SYMMETRIC")
    return exp.Between(**{key: bind(ctx, node.args[key], env) for key in ("this", "low", "high")})


def _in(ctx: Context, node: exp.Expr, env: Env) -> exp.Expr:
    this, query = bind(ctx, node.this, env), node.args.get("query")
    if node.args.get("unnest") or node.args.get("field"):
        raise not_allowed("this form of IN")
    if query is not None:
        return exp.In(this=this, query=_query(ctx, query, env))
    return exp.In(this=this, expressions=[bind(ctx, item, env) for item in node.expressions])


def _is(ctx: Context, node: exp.Expr, env: Env) -> exp.Expr:
    right = node.args["expression"]
    negated = isinstance(right, exp.Not)
    value = right.this if negated else right
    if not isinstance(value, exp.Null | exp.Boolean):
        raise not_allowed("this form of IS")
    made = exp.Is(this=bind(ctx, node.this, env), expression=bind(ctx, value, env))
    return exp.Not(this=made) if negated else made


def _like(ctx: Context, node: exp.Expr, env: Env) -> exp.Expr:
    if isinstance(node.args["expression"], exp.Any | exp.All | exp.Tuple):
        raise not_allowed("LIKE ANY")
    made = type(node)(this=bind(ctx, node.this, env), expression=bind(ctx, node.args["expression"], env))
    return exp.Not(this=made) if node.args.get("negate") else made


def _escape(ctx: Context, node: exp.Expr, env: Env) -> exp.Expr:
    like = node.this
    if not isinstance(like, exp.Like | exp.ILike):
        raise not_allowed("this form of ESCAPE")
    name = "like_escape" if isinstance(like, exp.Like) else "ilike_escape"
    arguments = (like.this, like.args["expression"], node.args["expression"])
    made = scalar(name, *(bind(ctx, item, env) for item in arguments))
    return exp.Not(this=made) if like.args.get("negate") else made


def _any_all(ctx: Context, node: exp.Expr, env: Env) -> exp.Expr:
    if not isinstance(node.this, exp.Query):
        raise not_allowed("ANY or ALL over something else than a sub-query")
    return type(node)(this=_query(ctx, node.this, env))


def _exists(ctx: Context, node: exp.Expr, env: Env) -> exp.Expr:
    if not isinstance(node.this, exp.Query):
        raise not_allowed("EXISTS over something else than a sub-query")
    return exp.Exists(this=_query(ctx, node.this, env).this)


def _query(ctx: Context, node: exp.Expr, env: Env) -> exp.Subquery:
    if env.lambdas:
        raise not_allowed("a sub-query in a lambda")
    # inside a sub-query an alias of the SELECT around it is not in scope: columns only
    around = replace(env, aliases={}, alias_first=False)
    bound = ctx.query(node, Env(From(), around, env.ctes, lambdas=env.lambdas))
    return exp.Subquery(this=bound.query)


def _interval(ctx: Context, node: exp.Expr, env: Env) -> exp.Expr:
    unit, amount = node.args.get("unit"), node.this
    if unit is None:
        return exp.Cast(this=bind(ctx, amount, env), to=exp.Var(this="INTERVAL"))
    name = INTERVAL_UNITS.get(str(unit.name).upper()) if isinstance(unit, exp.Var) else None
    if name is None or amount is None:
        raise not_allowed("this unit of an interval")
    return exp.Interval(this=bind(ctx, amount, env), unit=exp.Var(this=name))


def _extract(ctx: Context, node: exp.Expr, env: Env) -> exp.Expr:
    unit = fold(node.this.name)
    if unit not in UNITS:
        raise not_allowed("this date part")
    return scalar("date_part", ctx.parameter(unit), bind(ctx, node.args["expression"], env))


def _reordered(name: str, *keys: str) -> Binder:
    def binder(ctx: Context, node: exp.Expr, env: Env) -> exp.Expr:
        return scalar(name, *(bind(ctx, node.args[key], env) for key in keys if node.args.get(key) is not None))

    return binder


def _trim(ctx: Context, node: exp.Expr, env: Env) -> exp.Expr:
    name = {"LEADING": "ltrim", "TRAILING": "rtrim"}.get(str(node.args.get("position") or "").upper(), "trim")
    if node.args.get("collation"):
        raise not_allowed("COLLATE")
    return _reordered(name, "this", "expression")(ctx, node, env)


def _regexp(name: str) -> Binder:
    return _reordered(name, "this", "expression")


def _array(ctx: Context, node: exp.Expr, env: Env) -> exp.Expr:
    return scalar("list_value", *(bind(ctx, item, env) for item in node.expressions))


def _tuple(ctx: Context, node: exp.Expr, env: Env) -> exp.Expr:
    return scalar("row", *(bind(ctx, item, env) for item in node.expressions))


def _struct(ctx: Context, node: exp.Expr, env: Env) -> exp.Expr:
    return exp.Struct(expressions=[invocations.field(ctx, item, env) for item in node.expressions])


def _map(ctx: Context, node: exp.Expr, env: Env) -> exp.Expr:
    # sqlglot hangs ``MAP {...}['x']`` together as MAP of ({...}['x']); DuckDB reads (MAP {...})['x'], and so do we
    inner = node.this
    if isinstance(inner, exp.Bracket | exp.Dot):
        turned = inner.copy()
        place = turned
        while isinstance(place.this, exp.Bracket | exp.Dot):
            place = place.this
        place.set("this", exp.ToMap(this=place.this))
        return bind(ctx, turned, env)
    if not isinstance(inner, exp.Struct):
        raise not_allowed("this form of MAP")
    keys = [_map_key(ctx, item, env) for item in inner.expressions]
    values = [bind(ctx, item.args["expression"], env) for item in inner.expressions]
    return scalar("map", scalar("list_value", *keys), scalar("list_value", *values))


def _map_key(ctx: Context, item: exp.Expr, env: Env) -> exp.Expr:
    if not isinstance(item, exp.PropertyEQ):
        raise not_allowed("this form of MAP")
    return bind(ctx, item.this, env)


def _bracket(ctx: Context, node: exp.Expr, env: Env) -> exp.Expr:
    if len(node.expressions) != 1:
        raise not_allowed("this form of []")
    this, index = bind(ctx, node.this, env), node.expressions[0]
    if not isinstance(index, exp.Slice):
        return exp.Bracket(this=this, expressions=[bind(ctx, index, env)])
    if index.args.get("step") is not None:
        raise not_allowed("a slice with a step")
    bounds = {key: bind(ctx, index.args[key], env) for key in ("this", "expression") if index.args.get(key) is not None}
    return exp.Bracket(this=this, expressions=[exp.Slice(**bounds)])


def bind_lambda(ctx: Context, node: exp.Lambda, env: Env) -> exp.Expr:
    """Bind a lambda; its parameters get generated names."""
    names = [item.name for item in node.expressions]
    if len({fold(name) for name in names}) != len(names) or not names:
        raise not_allowed("this form of a lambda")
    made = [ctx.fresh("x") for _ in names]
    inside = replace(env, lambdas={**env.lambdas, **dict(zip(names, made, strict=True))})
    return Lambda(this=bind(ctx, node.this, inside), expressions=[identifier(name) for name in made])


def _copy(ctx: Context, node: exp.Expr, env: Env) -> exp.Expr:
    return exp.Boolean(this=bool(node.this)) if isinstance(node, exp.Boolean) else exp.Null()


def _call(ctx: Context, node: exp.Expr, env: Env) -> exp.Expr:
    return invocations.bind_call(ctx, node, env)


_BINDERS: dict[type[exp.Expr], Binder] = {
    **dict.fromkeys(_BINARY, _binary),
    **dict.fromkeys(_UNARY, _unary),
    exp.Paren: _paren,
    exp.Literal: _literal,
    exp.Boolean: _copy,
    exp.Null: _copy,
    exp.Column: _column,
    exp.Dot: _dot,
    exp.Identifier: _identifier,
    exp.Placeholder: _placeholder,
    exp.Parameter: _placeholder,
    exp.Cast: _cast,
    exp.TryCast: _cast,
    exp.Case: _case,
    exp.If: _if_call,
    exp.Between: _between,
    exp.In: _in,
    exp.Is: _is,
    exp.Like: _like,
    exp.ILike: _like,
    exp.Escape: _escape,
    exp.Any: _any_all,
    exp.All: _any_all,
    exp.Exists: _exists,
    exp.Subquery: lambda ctx, node, env: _query(ctx, node, env),
    exp.Interval: _interval,
    exp.Extract: _extract,
    exp.AtTimeZone: _reordered("timezone", "zone", "this"),
    exp.SimilarTo: _regexp("regexp_full_match"),
    exp.RegexpLike: _regexp("regexp_matches"),
    exp.StartsWith: _regexp("starts_with"),
    exp.Trim: _trim,
    exp.Substring: _reordered("substring", "this", "start", "length"),
    exp.StrPosition: _reordered("strpos", "this", "substr"),
    exp.Abs: _reordered("abs", "this"),
    exp.Array: _array,
    exp.Tuple: _tuple,
    exp.Struct: _struct,
    exp.ToMap: _map,
    exp.Map: _reordered("map", "keys", "values"),
    exp.Bracket: _bracket,
    exp.Anonymous: _call,
    exp.Window: _call,
    exp.Filter: _call,
    exp.WithinGroup: _call,
    exp.IgnoreNulls: _call,
    exp.RespectNulls: _call,
}

"""Binding function calls: the allow-list, where each kind may stand, windows, and fields of structs."""

from __future__ import annotations

from dataclasses import replace

from sqlglot import exp

from tidegate.core.errors import Code, error_for
from tidegate.core.names import is_strict_name
from tidegate.sql import expressions
from tidegate.sql.bounds import check_bounds
from tidegate.sql.functions import Function, Kind, fold, function
from tidegate.sql.nodes import AggregateCall, Call, ScalarCall, WindowCall, identifier
from tidegate.sql.scope import Context, Env, not_allowed

_WRAPPERS = (exp.Filter, exp.WithinGroup, exp.IgnoreNulls, exp.RespectNulls)
_CLASSES: dict[Kind, type[Call]] = {Kind.SCALAR: ScalarCall, Kind.AGGREGATE: AggregateCall, Kind.WINDOW: WindowCall}
_FRAME_SIDES = ("PRECEDING", "FOLLOWING")


def bind_call(ctx: Context, node: exp.Expr, env: Env) -> exp.Expr:
    """Bind a call, with its FILTER, WITHIN GROUP, IGNORE NULLS and OVER."""
    if isinstance(node, exp.Window):
        return _window(ctx, node, env)
    made = _wrapped(ctx, node, env)
    if isinstance(_core(made), WindowCall):
        raise not_allowed("a window function without OVER")
    return made


def _core(node: exp.Expr) -> exp.Expr:
    while isinstance(node, _WRAPPERS):
        node = node.this
    return node


def _wrapped(ctx: Context, node: exp.Expr, env: Env) -> exp.Expr:
    if isinstance(node, exp.Anonymous):
        return _plain(ctx, node, env)
    if not isinstance(node, _WRAPPERS):
        raise not_allowed("this around a function")
    inner = _wrapped(ctx, node.this, env)
    if not isinstance(_core(inner), AggregateCall | WindowCall):
        raise not_allowed("FILTER, WITHIN GROUP or IGNORE NULLS on a scalar function")
    if isinstance(node, exp.Filter):
        condition = expressions.bind(ctx, node.args["expression"].this, replace(env, alias_first=False))
        return exp.Filter(this=inner, expression=exp.Where(this=condition))
    if isinstance(node, exp.WithinGroup):
        return exp.WithinGroup(this=inner, expression=order(ctx, node.args["expression"], env))
    return type(node)(this=inner)


def _plain(ctx: Context, node: exp.Anonymous, env: Env) -> exp.Expr:
    if not isinstance(node.this, str) and not isinstance(node.this, exp.Identifier):
        raise not_allowed("this form of a function's name")
    name = fold(node.name)
    if name == "struct_pack":
        return exp.Struct(expressions=[field(ctx, item, env) for item in node.expressions])
    known = function(name)
    if known is None:
        raise error_for(Code.PLAN_NOT_ALLOWED, "not allowed in a query: a function that is not on the exchange's list")
    arguments = list(node.expressions)
    if not known.arguments[0] <= len(arguments) <= known.arguments[1]:
        raise error_for(Code.PLAN_TYPE, "function: wrong number of arguments")
    made = _CLASSES[known.kind](this=known.name, expressions=_arguments(ctx, known, arguments, env))
    check_bounds(ctx, known, made.expressions)
    return made


def _arguments(ctx: Context, known: Function, arguments: list[exp.Expr], env: Env) -> list[exp.Expr]:
    aggregate = known.kind is not Kind.SCALAR
    inside = replace(env, alias_first=False) if aggregate else env
    made: list[exp.Expr] = []
    for position, argument in enumerate(arguments):
        if isinstance(argument, exp.Star):
            if known.name != "count" or len(arguments) != 1 or any(argument.args.values()):
                raise not_allowed("a star as an argument")
            made.append(exp.Star())
        elif isinstance(argument, exp.Lambda):
            if not known.lambdas:
                raise not_allowed("a lambda in this function")
            made.append(expressions.bind_lambda(ctx, argument, inside))
        elif isinstance(argument, exp.Distinct | exp.Order | exp.IgnoreNulls | exp.RespectNulls):
            if not aggregate or (isinstance(argument, exp.Distinct) and position > 0):
                raise not_allowed("DISTINCT or ORDER BY in a scalar function")
            made.append(_modified(ctx, argument, inside))
        else:
            made.append(expressions.bind(ctx, argument, inside))
    return made


def _modified(ctx: Context, node: exp.Expr, env: Env) -> exp.Expr:
    """Bind ``DISTINCT x``, ``x ORDER BY y``, ``x IGNORE NULLS`` as they stand inside an aggregate's parentheses."""
    if isinstance(node, exp.Order):
        made = order(ctx, node, env)
        made.set("this", _modified(ctx, node.this, env))
        return made
    if isinstance(node, exp.Distinct):
        if node.args.get("on") is not None:
            raise not_allowed("DISTINCT ON in an aggregate")
        return exp.Distinct(expressions=[expressions.bind(ctx, item, env) for item in node.expressions])
    if isinstance(node, exp.IgnoreNulls | exp.RespectNulls):
        return type(node)(this=_modified(ctx, node.this, env))
    return expressions.bind(ctx, node, env)


def order(ctx: Context, node: exp.Expr, env: Env) -> exp.Order:
    """Bind the ORDER BY of an aggregate or a window."""
    return exp.Order(expressions=[ordered(item, expressions.bind(ctx, item.this, env)) for item in node.expressions])


def ordered(node: exp.Expr, made: exp.Expr) -> exp.Ordered:
    """Give the sort key with its direction; what sqlglot filled in for NULLS is DuckDB's own default or the caller's word."""
    if not isinstance(node, exp.Ordered) or node.args.get("with_fill"):
        raise not_allowed("this form of a sort key")
    return exp.Ordered(this=made, desc=bool(node.args.get("desc")), nulls_first=bool(node.args.get("nulls_first")))


def _window(ctx: Context, node: exp.Window, env: Env) -> exp.Expr:
    inner = _wrapped(ctx, node.this, env)
    if not isinstance(_core(inner), AggregateCall | WindowCall):
        raise not_allowed("OVER on a scalar function")
    made = exp.Window(this=inner, over="OVER")
    chain = [node]
    while chain[-1].args.get("alias") is not None:
        named = env.windows.get(fold(chain[-1].args["alias"].name))
        if named is None or len(chain) > 8:
            raise error_for(Code.PLAN_SYNTAX, "window: no window of this name")
        chain.append(named)
    if any(
        item.args.get("first") is not None or str(item.args.get("over") or "OVER").upper() != "OVER" for item in chain
    ):
        raise not_allowed("this form of a window")
    plain = replace(env, alias_first=False)
    for item in reversed(chain):  # the base first; a later one may add what the base lacks
        if item.args.get("partition_by"):
            made.set("partition_by", [expressions.bind(ctx, key, plain) for key in item.args["partition_by"]])
        if item.args.get("order") is not None:
            made.set("order", order(ctx, item.args["order"], plain))
        if item.args.get("spec") is not None:
            made.set("spec", _frame(ctx, item.args["spec"], plain))
    return made


def _frame(ctx: Context, node: exp.Expr, env: Env) -> exp.WindowSpec:
    kind = str(node.args.get("kind") or "").upper()
    if kind not in ("ROWS", "RANGE", "GROUPS"):
        raise not_allowed("this window frame")
    made = exp.WindowSpec(kind=kind)
    for end in ("start", "end"):
        bound, side = node.args.get(end), node.args.get(f"{end}_side")
        if bound is None:
            continue
        if isinstance(bound, str):
            if bound.upper() not in ("UNBOUNDED", "CURRENT ROW"):
                raise not_allowed("this window frame")
            made.set(end, bound.upper())
        else:
            made.set(end, expressions.bind(ctx, bound, env))
        if side:
            if str(side).upper() not in _FRAME_SIDES:
                raise not_allowed("this window frame")
            made.set(f"{end}_side", str(side).upper())
    exclude = node.args.get("exclude")
    if exclude is not None:
        word = str(exclude if isinstance(exclude, str) else exclude.name).upper()
        if word not in ("CURRENT ROW", "GROUP", "TIES", "NO OTHERS"):
            raise not_allowed("this window frame")
        made.set("exclude", exp.Var(this=word))
    return made


def field(ctx: Context, node: exp.Expr, env: Env) -> exp.Expr:
    """Bind one field of a struct; its name is part of the answer's type, so it is held to the strict class."""
    if not isinstance(node, exp.PropertyEQ):
        raise not_allowed("this form of a struct")
    name = node.this.name if isinstance(node.this, exp.Identifier | exp.Literal | exp.Column) else ""
    if not is_strict_name(name):
        raise error_for(Code.PLAN_NOT_ALLOWED, "struct: expected field names of letters, digits, underscore")
    return exp.PropertyEQ(this=identifier(name), expression=expressions.bind(ctx, node.args["expression"], env))

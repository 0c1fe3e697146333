"""Binding what is said about a query's outputs after the fact: DISTINCT ON, ORDER BY, LIMIT, OFFSET; positions and aliases."""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot import exp

from tidegate.core.errors import Code, error_for
from tidegate.sql import expressions, invocations
from tidegate.sql.bounds import literal_value
from tidegate.sql.functions import fold
from tidegate.sql.scope import Context, Env, From, Item, not_allowed


def distinct(ctx: Context, node: exp.Distinct, items: Sequence[Item], env: Env) -> exp.Distinct:
    """Bind DISTINCT and DISTINCT ON."""
    on = node.args.get("on")
    if on is None:
        return exp.Distinct()
    keys = on.expressions if isinstance(on, exp.Tuple) else [on]
    made = [_by_output(ctx, key, items, env)[0] for key in keys]
    return exp.Distinct(on=exp.Tuple(expressions=made))


def position_of(node: exp.Expr, count: int) -> int | None:
    """Give the output that a positional reference means (from 0), or None when it is not one."""
    inner = node.this if isinstance(node, exp.Paren) else node
    if not isinstance(inner, exp.Literal) or inner.is_string or not str(inner.this).isdigit():
        return None
    number = int(inner.this)
    if not 1 <= number <= count:
        raise error_for(Code.PLAN_UNKNOWN_COLUMN, "position: there is no such column in the select list")
    return number - 1


def _by_output(ctx: Context, node: exp.Expr, items: Sequence[Item], env: Env) -> tuple[exp.Expr, int | None]:
    """Bind a key of ORDER BY or DISTINCT ON: position, else alias of an output, else an expression."""
    position = position_of(node, len(items))
    if position is None and isinstance(node, exp.Column) and node.args.get("table") is None:
        wanted = fold(node.name)
        position = next((i for i, item in enumerate(items) if item.alias and fold(item.alias) == wanted), None)
    if position is not None:
        return items[position].make(), position
    return expressions.bind(ctx, node, env), None


def finish(ctx: Context, node: exp.Expr, made: exp.Query, items: Sequence[Item], env: Env) -> None:
    """Bind ORDER BY, LIMIT, OFFSET. A key that is an output is printed as its position."""
    order = node.args.get("order")
    if order is not None:
        keys = [key for item in order.expressions for key in order_key(ctx, item, items, env)]
        if keys:
            made.set("order", exp.Order(expressions=keys))
    limits(ctx, node, made)


def order_key(ctx: Context, node: exp.Expr, items: Sequence[Item], env: Env) -> list[exp.Expr]:
    """Bind one key of ORDER BY; ALL gives one for each output, a constant none."""
    key = node.this if isinstance(node, exp.Ordered) else node
    if isinstance(key, exp.Var) and fold(key.name) == "all":
        return [invocations.ordered(node, exp.Literal.number(i + 1)) for i in range(len(items))]
    position = position_of(key, len(items))
    if position is None and isinstance(key, exp.Column) and key.args.get("table") is None:
        wanted = fold(key.name)
        position = next((i for i, item in enumerate(items) if item.alias and fold(item.alias) == wanted), None)
    if position is not None:
        return [invocations.ordered(node, exp.Literal.number(position + 1))]
    made = expressions.bind(ctx, key, env)
    if isinstance(made, exp.Parameter | exp.Null | exp.Boolean):
        return []  # a constant orders nothing, and DuckDB takes no parameter as a key
    return [invocations.ordered(node, made)]


def limits(ctx: Context, node: exp.Expr, made: exp.Query) -> None:
    """Bind LIMIT, FETCH and OFFSET: literals and parameters only."""
    limit, offset = node.args.get("limit"), node.args.get("offset")
    if limit is not None:
        options = limit.args.get("limit_options")
        if options is not None and (options.args.get("percent") or options.args.get("with_ties")):
            raise not_allowed("LIMIT in percent or WITH TIES")
        if limit.expressions:
            raise not_allowed("LIMIT BY")
        amount = limit.args.get("count") if isinstance(limit, exp.Fetch) else limit.args.get("expression")
        if not (isinstance(amount, exp.Var | exp.Column) and fold(amount.name) == "all"):
            made.set("limit", exp.Limit(expression=_amount(ctx, amount)))
    if offset is not None:
        made.set("offset", exp.Offset(expression=_amount(ctx, offset.args.get("expression"))))


def _amount(ctx: Context, node: exp.Expr | None) -> exp.Expr:
    inner = node.this if isinstance(node, exp.Paren) else node
    if isinstance(inner, exp.Literal) and not inner.is_string and str(inner.this).isdigit() and int(inner.this) < 2**63:
        return exp.Literal.number(str(int(inner.this)))
    if isinstance(inner, exp.Placeholder | exp.Parameter):
        made = expressions.bind(ctx, inner, Env(From(), None, {}))
        value = literal_value(ctx, made)[1]
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63:
            return exp.Literal.number(str(value))
        raise error_for(Code.PLAN_PARAMETERS, "LIMIT, OFFSET: expected a whole number that is not negative")
    raise not_allowed("LIMIT or OFFSET that is not a number")

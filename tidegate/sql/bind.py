"""Bind: give every name of an admitted tree one meaning, and build the tree that the rest of the planner works on.

The bound tree is built anew from the parsed one (``queries``, ``sources``, ``expressions``, ``calls``): names of datasets and
columns come from the catalogue, everything else is generated, text literals become parameters. What is not understood here is
refused. Output keys of ORDER BY that are outputs are printed as positions, so that a later pass may append hidden columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from sqlglot import exp

from tidegate.core.errors import Code, error_for
from tidegate.core.frozen import frozen
from tidegate.core.names import DatasetName
from tidegate.core.values import Value
from tidegate.sql.describe import describe
from tidegate.sql.model import BARE, BoundQuery, Namespace, Schema
from tidegate.sql.nodes import table_alias
from tidegate.sql.queries import bind_query
from tidegate.sql.scope import Context, Env, From

NOTHING: Mapping[DatasetName, frozenset[str]] = frozen({})


def bind(
    tree: exp.Query,
    schema: Schema,
    parameters: Sequence[Value] | Mapping[str, Value] = (),
    unlisted: Mapping[DatasetName, frozenset[str]] = NOTHING,
    *,
    fragment: bool = False,
    namespace: Namespace = BARE,
) -> BoundQuery:
    """Bind an admitted query.

    Args:
        tree: what ``admit`` gave.
        schema: what the one who asks may know about.
        parameters: by position (``?``, ``$1``) or by name (``$region``).
        unlisted: columns that a star leaves out; named in the text they are read, and the policy decides.
        fragment: the text is another party's rendered fragment: aliases ``r0`` ... stay the refs of their instances, and the
            reserved column ``tg_subject`` of an instance may be read.
        namespace: what names of one and of three parts mean.

    Raises:
        CallerError: PLAN_UNKNOWN_DATASET, PLAN_UNKNOWN_COLUMN, PLAN_AMBIGUOUS, PLAN_NOT_ALLOWED, PLAN_PARAMETERS, PLAN_TYPE.
    """
    given = _given(parameters)
    ctx = Context(schema, given, fragment, _not_ready, unlisted, namespace)  # type: ignore[arg-type]
    ctx.query = partial(bind_query, ctx)
    try:
        bound = bind_query(ctx, tree, Env(From(), None, {}))
    except RecursionError as error:
        raise error_for(Code.PLAN_TOO_LARGE, "the query is nested deeper than the limit") from error
    if set(given) - ctx.used:
        raise error_for(Code.PLAN_PARAMETERS, "parameters: one was given that the query does not name")
    for lazy in reversed(ctx.lazies):
        # what stands inside a lazy table was made before it, and is asked for its columns when this one is finished
        lazy.node.set("this", lazy.finish(lazy.wanted))
    query = bound.query
    refs = _number_leaves(query, ctx)
    leaves, shape = describe(query, {refs[old]: pair for old, pair in ctx.leaves.items() if old in refs})
    return BoundQuery(query, leaves, bound.names, tuple(ctx.values), shape)


def _not_ready(*_: object) -> object:
    raise AssertionError("the context's binder is set before it is used")


def _given(parameters: Sequence[Value] | Mapping[str, Value]) -> dict[str, Value]:
    if isinstance(parameters, Mapping):
        return {str(name): value for name, value in parameters.items()}
    return {str(number): value for number, value in enumerate(parameters, start=1)}


def _number_leaves(query: exp.Query, ctx: Context) -> dict[str, str]:
    """Number the instances ``r0`` ... in order of appearance in the tree (a fragment's keep their refs)."""
    tables = [table for table in query.find_all(exp.Table, bfs=False) if table.args.get("db") is not None]
    found = [table.alias for table in tables]
    if ctx.fragment:
        return {ref: ref for ref in found}
    refs = {old: f"r{number}" for number, old in enumerate(found)}
    for table in tables:
        table.set("alias", table_alias(refs[table.alias]))
    for column in query.find_all(exp.Column):
        if column.table in refs:
            column.args["table"].set("this", refs[column.table])
    return refs

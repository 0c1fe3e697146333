"""Which leaves of a fragment stand behind a barrier, and why: in words for EXPLAIN, without a text of a caller or of a filter.

A department narrows a leaf by a view: only rows that pass, only values as they are masked. The view is a barrier (planner.md,
a sub-select is none) when something in the fragment may raise on, or tell of, rows that are held back. What is said here
comes from the very functions that a node restricts with, under the exchange's decision; the department's own decision may
hold back more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sqlglot import exp

from tidegate.core.decision import Decision, Mask
from tidegate.core.names import DatasetName
from tidegate.sql import callnames, subjects
from tidegate.sql.admit import admit
from tidegate.sql.bind import bind
from tidegate.sql.leakproof import Leakproof
from tidegate.sql.model import BoundQuery, FederatedPlan, Fragment, Schema
from tidegate.sql.nodes import AggregateCall, Call
from tidegate.sql.pruning import prune
from tidegate.sql.render import render
from tidegate.sql.restrict import restrict

CAUSES_MAX = 8  # a reader needs the first few; a query may hold thousands
EXPRESSION_CHARS_MAX = 200
_ANY_KEY = bytes(32)  # stands in for the department's keys: what is built with it is thrown away
_COMPARED = (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.NullSafeEQ, exp.NullSafeNEQ, exp.In, exp.Between)


@dataclass(frozen=True, slots=True)
class Cause:
    """One expression that may raise or tell, printed as SQL of our own making, and why it may."""

    expression: str
    why: str


@dataclass(frozen=True, slots=True)
class Barrier:
    """What one fragment's leaves stand behind.

    Args:
        refs: the leaves of which the department lets only a part through; leaves that pass whole are not in it.
        causes: why their views are barriers; empty when they are not, and the engine may merge them with the query.
        more: how many causes were left out.
    """

    refs: tuple[str, ...]
    causes: tuple[Cause, ...]
    more: int = 0


def barriers(plan: FederatedPlan, decision: Decision, schema: Schema) -> Mapping[str, Barrier]:
    """Give, by fragment, what its leaves stand behind. Parses each fragment's text: run it where a planner runs.

    Args:
        schema: the descriptions of the leaves' datasets.

    Raises:
        CallerError, Refused: as the node would for such a fragment.
    """
    return {fragment.id: barrier(fragment, decision, schema) for fragment in plan.fragments}


def barrier(fragment: Fragment, decision: Decision, schema: Schema) -> Barrier:
    """Say what the leaves of one fragment stand behind; errors as in ``barriers``."""
    bound = bind(admit(fragment.sql.text), schema, fragment.sql.parameters, fragment=True)
    restricted = restrict(bound, decision, _NoKeys(), schema=schema, subject_key=_ANY_KEY)
    refs = tuple(sorted(restricted.views, key=lambda ref: (len(ref), ref)))
    if not refs or not restricted.barrier:
        return Barrier(refs, ())
    counted = subjects.count(prune(bound, schema), decision).bound
    rule = Leakproof(counted, schema)
    nodes = (cause for node in rule.culprits(counted.tree) for cause in _causes(rule, node))
    found = dict.fromkeys(Cause(_printed(node, counted), _why(node)) for node in nodes)
    return Barrier(refs, tuple(found)[:CAUSES_MAX], max(len(found) - CAUSES_MAX, 0))


class _NoKeys:
    def key(self, mask: Mask, dataset: DatasetName, column: str) -> bytes:
        return _ANY_KEY


def _causes(rule: Leakproof, node: exp.Expr) -> Iterator[exp.Expr]:
    """Go down to the innermost expressions that may raise or tell."""
    pending = [node]
    while pending:
        here = pending.pop().unnest()
        inner = [child for child in _parts(here) if not _safe(rule, child)]
        pending += reversed(inner)
        if not inner:
            yield here


def _parts(node: exp.Expr) -> list[exp.Expr]:
    """Give the expressions that one is made of; what stands in a sub-query is judged by itself."""
    if isinstance(node, exp.Values | exp.Query | exp.Subquery | exp.Exists):
        return []
    children = callnames.arguments(node) if isinstance(node, Call) else list(node.iter_expressions())
    parts: list[exp.Expr] = []
    for child in children:
        match child:
            case exp.If():  # a branch of CASE, no expression by itself
                parts += [child.this, child.args["true"]]
            case exp.PropertyEQ():  # a field of a struct
                parts.append(child.expression)
            case exp.Condition() | exp.Paren():
                parts.append(child)
    return [part.unnest() for part in parts]


def _safe(rule: Leakproof, node: exp.Expr) -> bool:
    return rule.item(node) or rule.predicate(node)


def _printed(node: exp.Expr, bound: BoundQuery) -> str:
    """Print an expression; texts are parameters in it. A sub-query or a list of values is named, not printed."""
    if isinstance(node, exp.Values):
        return "VALUES"
    if node.find(exp.Query) is not None:
        return "EXISTS (...)" if isinstance(node, exp.Exists) else "a sub-query"
    text = render(node, bound.parameters).text
    if isinstance(node, exp.Binary) and text.startswith("("):
        text = text[1:-1]  # the printer puts every operation in parentheses
    return text if len(text) <= EXPRESSION_CHARS_MAX else text[:EXPRESSION_CHARS_MAX] + " ..."


def _why(node: exp.Expr) -> str:
    """Say why an expression may raise or tell, all of whose parts may not."""
    if isinstance(node, exp.Values):
        return "a list of values is checked by the engine only"
    if node.find(exp.Query) is not None:
        return "a sub-query is not proven to be safe on rows that are held back"
    match node:
        case exp.Div() | exp.IntDiv() | exp.Mod():
            return "a division may fail on a row that is held back"
        case exp.Add() | exp.Sub() | exp.Mul() | exp.Neg():
            return "arithmetic may overflow on a row that is held back"
        case exp.TryCast():
            return "a cast is not proven to be safe on rows that are held back"
        case exp.Cast():
            return "a cast may fail on a value that is held back"
        case exp.Like() | exp.ILike():
            return "a pattern that is no constant text may fail on a row that is held back"
        case exp.Column():
            return "its type, or what computes it, is not proven to be safe on rows that are held back"
        case AggregateCall():
            return "the aggregate may fail on what it is given"
    if isinstance(node, _COMPARED):
        return "values of different types are compared, which takes a cast that may fail"
    return "not proven to be safe on rows that are held back"

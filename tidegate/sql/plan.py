"""Plan a text up to the point where policy is asked: admit, bind, render once, and have the engine's own parser confirm it.

This is what runs in a planning process: picklable in and out, no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tidegate.core.names import DatasetName
from tidegate.core.values import Value
from tidegate.sql.admit import admit
from tidegate.sql.bind import NOTHING, bind
from tidegate.sql.model import BARE, BoundQuery, Namespace, Schema
from tidegate.sql.render import render
from tidegate.sql.shapes import Shape, Slots, given, shape_of
from tidegate.sql.wall import check


def plan(
    text: str,
    schema: Schema,
    parameters: Sequence[Value] | Mapping[str, Value] = (),
    unlisted: Mapping[DatasetName, frozenset[str]] = NOTHING,
    *,
    fragment: bool = False,
    namespace: Namespace = BARE,
) -> BoundQuery:
    """Read a query and resolve every name in it.

    Trust: anybody may have written the text and the parameters.

    Args:
        schema: what the one who asks may know about.
        unlisted: columns that a star leaves out (see ``bind``).
        fragment: the text is another party's rendered fragment (see ``bind``).
        namespace: what names of one and of three parts mean.

    Raises:
        CallerError: a PLAN code; the message holds nothing of the text.
        InternalError: INTERNAL, when the engine reads our own print as something else.
    """
    bound = bind(admit(text), schema, parameters, unlisted, fragment=fragment, namespace=namespace)
    check(render(bound.tree, bound.parameters), frozenset(str(leaf.dataset) for leaf in bound.leaves))
    return bound


def plan_shaped(
    text: str,
    schema: Schema,
    parameters: Sequence[Value] | Mapping[str, Value] = (),
    unlisted: Mapping[DatasetName, frozenset[str]] = NOTHING,
    namespace: Namespace = BARE,
) -> tuple[BoundQuery, Shape, Slots]:
    """Plan as ``plan`` does, and say for which other values the bound query is as good (``tidegate.sql.shapes``)."""
    bound = plan(text, schema, parameters, unlisted, namespace=namespace)
    return bound, *shape_of(bound, given(parameters))

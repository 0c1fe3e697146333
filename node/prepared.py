"""What a node prepared before: a fragment that was bound, and its restricted form, for parameters of the same shape.

Nothing here permits anything. A fragment is admitted, decided and recorded each time; what is kept are two pure functions'
values: text and parameters to a bound query, bound query and decision to the SQL that runs. The bound tree is shared by all
that find it, so it also names the restricted forms that belong to it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from node.lookup import LookupForm, lookup_form
from tidegate.core.cache import BoundedCache
from tidegate.core.dataset import Dataset
from tidegate.core.decision import Decision
from tidegate.core.names import DatasetName
from tidegate.sql.model import BoundQuery, RenderedSql
from tidegate.sql.restrict import RestrictedQuery
from tidegate.sql.scope import SUBJECT_COLUMN
from tidegate.sql.shapes import Given, Shape, Slots, identity, refilled

ENTRIES_MAX = 4_096
BYTES_MAX = 64 << 20
_NODE_BYTES = 400  # a node of a syntax tree with its arguments
_SHAPES_MAX = 4  # of one text

Schema = Mapping[DatasetName, Dataset]


@dataclass(frozen=True, slots=True)
class _Bound:
    bound: BoundQuery
    slots: Slots


@dataclass(frozen=True, slots=True)
class Restricted:
    """A restricted form and the places of its parameters among the bound query's.

    Args:
        tree: of the bound query that it was made from.
        lookup: how callers who wait for the same form are run together, where it is a look-up.
    """

    tree: Any
    restricted: RestrictedQuery
    places: tuple[int, ...]
    lookup: LookupForm | None = None

    def fill(self, bound: BoundQuery) -> RestrictedQuery:
        """Give it for another bound query of the same shape."""
        values = tuple(bound.parameters[place] for place in self.places)
        return replace(self.restricted, query=RenderedSql(self.restricted.query.text, values))


class Prepared:
    """The memory of one node. Thread-safe."""

    def __init__(self) -> None:
        self._schema: Schema | None = None
        self._shapes: BoundedCache[tuple[Shape, ...]] = BoundedCache(entries_max=ENTRIES_MAX, bytes_max=BYTES_MAX // 4)
        self._bound: BoundedCache[_Bound] = BoundedCache(entries_max=ENTRIES_MAX, bytes_max=BYTES_MAX)
        self._trees: BoundedCache[Any] = BoundedCache(entries_max=ENTRIES_MAX, bytes_max=BYTES_MAX)
        self._restricted: BoundedCache[Restricted] = BoundedCache(entries_max=ENTRIES_MAX, bytes_max=BYTES_MAX)

    # --- bound fragments

    def bound(self, sql: str, schema: Schema, values: Given) -> BoundQuery | None:
        """Find the bound form of a fragment."""
        if schema is not self._schema:  # described anew: nothing that was bound before is of use
            return None
        for shape in self._shapes.get(sql) or ():
            part = shape.key(values)
            found = self._bound.get((sql, part)) if part is not None else None
            if found is not None:
                return refilled(found.bound, found.slots, values)
        return None

    def keep_bound(
        self, sql: str, schema: Schema, values: Given, bound: BoundQuery, shape: Shape, slots: Slots
    ) -> None:
        """Keep the bound form of a fragment."""
        if schema is not self._schema:
            for memory in (self._shapes, self._bound, self._trees, self._restricted):
                memory.clear()
            self._schema = schema
        part = shape.key(values)
        if part is None:
            return
        known = [item for item in self._shapes.get(sql) or () if item != shape]
        self._shapes.put(sql, (shape, *known)[:_SHAPES_MAX], size_bytes=len(sql) * 2)
        size = sum(1 for _ in bound.tree.walk()) * _NODE_BYTES
        self._bound.put((sql, part), _Bound(bound, slots), size_bytes=size)
        self._trees.put(id(bound.tree), bound.tree, size_bytes=size)

    # --- restricted forms

    def restricted(self, bound: BoundQuery, content: Hashable, recipient: str) -> Restricted | None:
        """Find the restricted form of a bound fragment under a decision of this content, for this member."""
        found = self._restricted.get((id(bound.tree), content, recipient))
        return found if found is not None and found.tree is bound.tree else None

    def keep_restricted(
        self, bound: BoundQuery, decision: Decision, content: Hashable, recipient: str, made: RestrictedQuery
    ) -> Restricted | None:
        """Keep a restricted form that passed the walls; gives None where it may serve once only."""
        if self._trees.get(id(bound.tree)) is not bound.tree or not _lasts(bound, decision):
            return None
        numbers = {identity(value): place for place, value in enumerate(bound.parameters)}
        found = [numbers.get(identity(value)) for value in made.query.parameters]
        places = tuple(place for place in found if place is not None)
        if len(places) != len(found):
            return None
        form = lookup_form(bound, made, self._schema) if self._schema is not None else None
        kept = Restricted(bound.tree, made, places, form)
        size = len(made.query.text) + sum(map(len, made.setup)) + 1_000
        self._restricted.put((id(bound.tree), content, recipient), kept, owner=recipient, size_bytes=size)
        return kept


def _lasts(bound: BoundQuery, decision: Decision) -> bool:
    """Say whether nothing but bound query, decision and recipient went into the restricted form.

    Pseudonyms of subjects are made with a key of one query; a key that departments share is a file that may be replaced.
    """
    if any(SUBJECT_COLUMN in leaf.columns for leaf in bound.leaves):
        return False
    masks = [
        rule.mask for item in decision.resources.values() for rule in item.columns.values() if rule.mask is not None
    ]
    return not any(str(mask.arguments.get("key", "")).startswith("shared:") for mask in masks)

"""Plans that were made before: the same text, under the same catalogue, with parameters of the same shape.

Two memories. What a text's parameters mean to planning is known once it was bound (``tidegate.sql.shapes``); with that, a
request's key is complete: text, catalogue generation, what the caller may know of it, what a star leaves out, and of each
parameter its class or its value. Under it lie the bound query and, for each content of a decision and each placement, the
split plan. A request that finds both never needs a planning process; it is decided and recorded like any other.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from engine.announced import Expected
from tidegate.core.cache import BoundedCache
from tidegate.sql.model import BoundQuery, FederatedPlan
from tidegate.sql.shapes import Given, PlanTemplate, Shape, Slots, refilled

ENTRIES_MAX = 4_096
BYTES_MAX = 64 << 20
_NODE_BYTES = 400  # a node of a syntax tree with its arguments, measured on TPC-H
_SHAPES_MAX = 4  # of one text: parameters of ever new classes are not worth more


@dataclass(frozen=True, slots=True)
class BoundTemplate:
    """A bound query without its values."""

    bound: BoundQuery
    slots: Slots

    def fill(self, values: Given) -> BoundQuery:
        """Give it with these values."""
        return refilled(self.bound, self.slots, values)


@dataclass(frozen=True, slots=True)
class PlanKey:
    """Under what a request's plans are kept: ``None`` as ``whole`` means that they are not.

    Args:
        text: the SQL, the catalogue and what the caller may know, before the parameters were looked at.
        owner: the member.
    """

    text: Hashable
    whole: Hashable | None
    values: Given
    owner: str


class PlanCache:
    """The memories. Thread-safe; what is in them is shared and never changed."""

    def __init__(self, *, entries_max: int = ENTRIES_MAX, bytes_max: int = BYTES_MAX) -> None:
        self._shapes: BoundedCache[tuple[Shape, ...]] = BoundedCache(entries_max=entries_max, bytes_max=bytes_max // 4)
        self._bound: BoundedCache[BoundTemplate] = BoundedCache(entries_max=entries_max, bytes_max=bytes_max)
        self._permitted: BoundedCache[bool] = BoundedCache(entries_max=entries_max, bytes_max=bytes_max // 4)
        self._plans: BoundedCache[PlanTemplate] = BoundedCache(entries_max=entries_max, bytes_max=bytes_max)
        self._parameters: BoundedCache[Expected] = BoundedCache(entries_max=entries_max, bytes_max=bytes_max // 4)
        self._schemas: BoundedCache[bytes] = BoundedCache(entries_max=entries_max, bytes_max=bytes_max // 4)

    def find(self, text: Hashable, values: Given, owner: str) -> tuple[PlanKey, BoundTemplate | None]:
        """Find the bound template for a request; the key is for what comes later."""
        for shape in self._shapes.get(text) or ():
            whole = shape.key(values)
            found = self._bound.get((text, whole)) if whole is not None else None
            if found is not None:
                return PlanKey(text, (text, whole), values, owner), found
        return PlanKey(text, None, values, owner), None

    def keep(self, key: PlanKey, bound: BoundQuery, shape: Shape, slots: Slots) -> PlanKey:
        """Keep a freshly bound query; gives the key under which its plans may be kept too."""
        part = shape.key(key.values)
        if part is None:
            return key
        known = [item for item in self._shapes.get(key.text) or () if item != shape]
        kept = (shape, *known)[:_SHAPES_MAX]
        self._shapes.put(key.text, kept, owner=key.owner, size_bytes=len(str(key.text)) * 2)
        whole = (key.text, part)
        size = sum(1 for _ in bound.tree.walk()) * _NODE_BYTES
        self._bound.put(whole, BoundTemplate(bound, slots), owner=key.owner, size_bytes=size)
        return PlanKey(key.text, whole, key.values, key.owner)

    def permits(self, key: PlanKey | None, content: bytes) -> bool:
        """Say whether the form of this query was found good under a decision of this content."""
        return key is not None and key.whole is not None and self._permitted.get((key.whole, content)) is True

    def keep_permitted(self, key: PlanKey | None, content: bytes) -> None:
        """Keep that it was; a refusal is never kept, so that it is found anew with its reasons."""
        if key is not None and key.whole is not None:
            self._permitted.put((key.whole, content), True, owner=key.owner, size_bytes=200)

    def plan(self, key: PlanKey | None, content: bytes, placement: Hashable) -> FederatedPlan | None:
        """Find the split plan for a request that was decided."""
        if key is None or key.whole is None:
            return None
        found = self._plans.get((key.whole, content, placement))
        return found.fill(key.values) if found is not None else None

    def keep_plan(self, key: PlanKey | None, content: bytes, placement: Hashable, plan: FederatedPlan) -> None:
        """Keep a split plan."""
        if key is None or key.whole is None:
            return
        size = sum(len(fragment.sql.text) for fragment in plan.fragments) * 4 + 1_000
        template = PlanTemplate.of(plan, key.values)
        self._plans.put((key.whole, content, placement), template, owner=key.owner, size_bytes=size)

    def schema(self, key: PlanKey | None, content: bytes, placement: Hashable) -> bytes | None:
        """Find the schema of the answer to such a plan."""
        return self._schemas.get((key.whole, content, placement)) if key is not None and key.whole is not None else None

    def keep_schema(self, key: PlanKey | None, content: bytes, placement: Hashable, schema: bytes) -> None:
        """Keep it: the type of an answer does not depend on the values that ``tidegate.sql.shapes`` leaves free."""
        if key is not None and key.whole is not None:
            whole = (key.whole, content, placement)
            self._schemas.put(whole, schema, owner=key.owner, size_bytes=len(schema) + 500)

    def parameters(self, text: Hashable) -> Expected | None:
        """Find what a text wants as parameters."""
        return self._parameters.get(text)

    def keep_parameters(self, text: Hashable, expected: Expected, owner: str) -> None:
        """Keep it."""
        size = len(str(text)) * 2 + len(expected.schema)
        self._parameters.put(text, expected, owner=owner, size_bytes=size)

    @property
    def counts(self) -> Mapping[str, tuple[int, int]]:
        """Hits and misses of each memory."""
        return {
            "bound": (self._bound.hits, self._shapes.misses),
            "plans": (self._plans.hits, self._plans.misses),
        }

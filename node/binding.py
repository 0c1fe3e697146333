"""Parse and bind a fragment in a planning process: a parse bomb of a broker's costs that process alone.

The function must be reachable by name in the planning process, which is why it has a module of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from engine.planning import PlanningPool
from node.prepared import Prepared
from tidegate.core.dataset import Dataset
from tidegate.core.errors import Code, error_for
from tidegate.core.limits import PLAN_DEADLINE_S
from tidegate.core.names import DatasetName
from tidegate.core.values import Value
from tidegate.sql.admit import admit
from tidegate.sql.bind import bind
from tidegate.sql.model import BoundQuery
from tidegate.sql.shapes import Shape, Slots, given, shape_of


def bind_fragment(sql: str, schema: Mapping[DatasetName, Dataset], parameters: tuple[Value, ...]) -> BoundQuery:
    """Admit and bind a fragment. The broker's text is not trusted: the same allow-lists hold as for a caller's."""
    return bind(admit(sql), schema, parameters, fragment=True)


def bind_shaped(
    sql: str, schema: Mapping[DatasetName, Dataset], parameters: tuple[Value, ...]
) -> tuple[BoundQuery, Shape, Slots]:
    """Bind a fragment, and say for which other values the bound form is as good."""
    bound = bind_fragment(sql, schema, parameters)
    return bound, *shape_of(bound, given(parameters))


class PooledBinder:
    """``node.admit.Binder`` over a planning pool, which a fragment of a known shape does not need."""

    def __init__(self, pool: PlanningPool, prepared: Prepared | None = None) -> None:
        self._pool = pool
        self._prepared = prepared or Prepared()

    def bind(
        self, sql: str, schema: Mapping[DatasetName, Dataset], parameters: tuple[Value, ...], deadline_s: float
    ) -> BoundQuery:
        """Give the bound fragment.

        Raises:
            CallerError: PLAN_*, QUERY_DEADLINE. Overloaded: BUSY.
        """
        left = min(PLAN_DEADLINE_S, deadline_s)
        if left <= 0:
            raise error_for(Code.QUERY_DEADLINE)
        values = given(parameters)
        found = self._prepared.bound(sql, schema, values)
        if found is not None:
            return found
        # Binding needs names and types; what stewards wrote beside them stays here (and a read-only view does not travel).
        lean = {name: replace(dataset, extra={}) for name, dataset in schema.items()}
        bound, shape, slots = self._pool.run(bind_shaped, sql, lean, parameters, deadline_s=left)
        self._prepared.keep_bound(sql, schema, values, bound, shape, slots)
        return bound

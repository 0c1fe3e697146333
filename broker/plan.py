"""Room 2, plan: SQL text to a bound query, in a planning process that is killed at its deadline.

Only the datasets whose names stand in the text are handed to the planning process: a catalogue of 100,000 datasets would
cost more to send than the query to plan. A name that is not in the text cannot be meant by it.
"""

from __future__ import annotations

from collections.abc import Mapping

from broker.plan_cache import PlanCache, PlanKey
from broker.values import QueryPlan, Request
from catalogue.glance import Glance
from catalogue.store import Catalogue
from engine.announced import NOTHING_EXPECTED, Expected, expected_parameters
from engine.planning import PlanningPool
from policies.star import unlisted
from tidegate.core.clock import Clock
from tidegate.core.dataset import Dataset, DatasetClass
from tidegate.core.errors import Code, error_for
from tidegate.core.limits import PLAN_DEADLINE_S, SQL_BYTES_MAX
from tidegate.core.names import DatasetName
from tidegate.sql.model import BoundQuery, Namespace
from tidegate.sql.plan import plan_shaped
from tidegate.sql.shapes import given

INSTANCES_MAX = 60  # an entry of the log names each of them, and has 8 KiB (design evidence.md)


class Plan:
    """The room."""

    def __init__(
        self, *, catalogue: Catalogue, pool: PlanningPool, clock: Clock, cache: PlanCache | None = None
    ) -> None:
        self._catalogue = catalogue
        self._pool = pool
        self._clock = clock
        self._cache = cache or PlanCache()

    def plan(self, request: Request) -> QueryPlan:
        """Admit and bind the caller's SQL against what the caller may know about.

        Raises:
            CallerError: PLAN_*: not one allowed query over known datasets and columns, or too costly to plan.
        """
        if len(request.sql.encode("utf-8", "surrogatepass")) > SQL_BYTES_MAX:
            raise error_for(Code.PLAN_TOO_LARGE, f"query: longer than {SQL_BYTES_MAX} bytes")
        glance = self._catalogue.glance(request.caller.member)
        candidates = mentioned(request.sql, glance.schema)
        left = min(PLAN_DEADLINE_S, request.deadline - self._clock.monotonic_s())
        if left <= 0:
            raise error_for(Code.QUERY_DEADLINE)
        left_out = self._left_out(request, candidates, glance)
        # At one generation a dataset's name stands for all that planning reads of it, whoever asks.
        known = (glance.generation, frozenset(candidates), tuple(sorted(left_out.items(), key=str)))
        namespace = Namespace(request.caller.identity.exchange, request.department)
        key, found = self._cache.find(
            (request.sql, namespace, *known), given(request.parameters), request.caller.member
        )
        if found is not None:
            return self._plan(request, found.fill(key.values), candidates, left_out, key)
        bound, shape, slots = self._pool.run(
            plan_shaped,
            request.sql,
            candidates,
            request.parameters,
            left_out,
            namespace,
            deadline_s=left,
            owner=request.caller.member,
        )
        if len(bound.leaves) > INSTANCES_MAX:
            raise error_for(
                Code.PLAN_TOO_LARGE, f"query: mentions datasets {len(bound.leaves)} times, the limit is {INSTANCES_MAX}"
            )
        return self._plan(request, bound, candidates, left_out, self._cache.keep(key, bound, shape, slots))

    def expected(self, request: Request) -> Expected:
        """Say which parameters a text wants before it can be planned.

        Raises:
            CallerError: PLAN_*.
        """
        if len(request.sql.encode("utf-8", "surrogatepass")) > SQL_BYTES_MAX:
            raise error_for(Code.PLAN_TOO_LARGE, f"query: longer than {SQL_BYTES_MAX} bytes")
        if not any(mark in request.sql for mark in "?$"):
            return NOTHING_EXPECTED
        glance = self._catalogue.glance(request.caller.member)
        candidates = mentioned(request.sql, glance.schema)
        key = (request.sql, glance.generation, frozenset(candidates))
        found = self._cache.parameters(key)
        if found is None:
            found = self._pool.run(expected_parameters, request.sql, candidates, owner=request.caller.member)
            self._cache.keep_parameters(key, found, request.caller.member)
        return found

    @staticmethod
    def _plan(
        request: Request,
        bound: BoundQuery,
        candidates: Mapping[DatasetName, Dataset],
        left_out: Mapping[DatasetName, frozenset[str]],
        key: PlanKey,
    ) -> QueryPlan:
        datasets = {leaf.dataset: candidates[leaf.dataset] for leaf in bound.leaves}  # as this caller may see them
        return QueryPlan(request, bound, datasets, left_out, key)

    def _left_out(
        self, request: Request, candidates: Mapping[DatasetName, Dataset], glance: Glance
    ) -> Mapping[DatasetName, frozenset[str]]:
        conditional = [name for name, item in candidates.items() if item.dataset_class is DatasetClass.CONDITIONAL]
        agreements = glance.agreements_for(conditional, self._clock.now()) if conditional else ()
        return unlisted(request.caller, request.purpose, request.legal_basis, candidates, agreements)


def mentioned(sql: str, schema: Mapping[DatasetName, Dataset]) -> dict[DatasetName, Dataset]:
    """Give the datasets whose own name stands somewhere in the text, and the parts of the collections among them."""
    text = sql.casefold()
    found = {name: dataset for name, dataset in schema.items() if name.name.casefold() in text}
    for dataset in tuple(found.values()):
        for part in dataset.parts:
            if part in schema:
                found[part] = schema[part]
    return found

"""Room 2, plan: SQL text to a bound query, in a planning process that is killed at its deadline.

Only the datasets whose names stand in the text are handed to the planning process: a catalogue of 100,000 datasets would
cost more to send than the query to plan. A name that is not in the text cannot be meant by it.
"""

from __future__ import annotations

from collections.abc import Mapping

from broker.values import QueryPlan, Request
from catalogue.store import Catalogue
from engine.planning import PlanningPool
from policies.star import unlisted
from tidegate.core.clock import Clock
from tidegate.core.dataset import Dataset, DatasetClass
from tidegate.core.errors import Code, error_for
from tidegate.core.limits import PLAN_DEADLINE_S, SQL_BYTES_MAX
from tidegate.core.names import DatasetName
from tidegate.sql.plan import plan as plan_sql

INSTANCES_MAX = 60  # an entry of the log names each of them, and has 8 KiB (design evidence.md)


class Plan:
    """The room."""

    def __init__(self, *, catalogue: Catalogue, pool: PlanningPool, clock: Clock) -> None:
        self._catalogue = catalogue
        self._pool = pool
        self._clock = clock

    def plan(self, request: Request) -> QueryPlan:
        """Admit and bind the caller's SQL against what the caller may know about.

        Raises:
            CallerError: PLAN_*: not one allowed query over known datasets and columns, or too costly to plan.
        """
        if len(request.sql.encode("utf-8", "surrogatepass")) > SQL_BYTES_MAX:
            raise error_for(Code.PLAN_TOO_LARGE, f"query: longer than {SQL_BYTES_MAX} bytes")
        _, schema = self._catalogue.schema_for(request.caller.member)
        candidates = mentioned(request.sql, schema)
        left = min(PLAN_DEADLINE_S, request.deadline - self._clock.monotonic_s())
        if left <= 0:
            raise error_for(Code.QUERY_DEADLINE)
        left_out = self._left_out(request, candidates)
        bound = self._pool.run(
            plan_sql,
            request.sql,
            candidates,
            request.parameters,
            left_out,
            deadline_s=left,
            owner=request.caller.member,
        )
        if len(bound.leaves) > INSTANCES_MAX:
            raise error_for(
                Code.PLAN_TOO_LARGE, f"query: mentions datasets {len(bound.leaves)} times, the limit is {INSTANCES_MAX}"
            )
        datasets = {leaf.dataset: candidates[leaf.dataset] for leaf in bound.leaves}
        return QueryPlan(request=request, bound=bound, datasets=datasets, left_out=left_out)

    def _left_out(
        self, request: Request, candidates: Mapping[DatasetName, Dataset]
    ) -> Mapping[DatasetName, frozenset[str]]:
        conditional = [name for name, item in candidates.items() if item.dataset_class is DatasetClass.CONDITIONAL]
        now, member = self._clock.now(), request.caller.member
        agreements = self._catalogue.agreements_for(conditional, member, now) if conditional else ()
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

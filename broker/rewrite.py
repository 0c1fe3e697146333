"""Room 4, rewrite: split a permitted query into what each department is asked and what remains to be joined. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from broker.plan_cache import PlanCache
from broker.values import DecidedPlan, RestrictedPlan
from engine.planning import PlanningPool
from policies.memory import decision_content
from tidegate.core.clock import Clock
from tidegate.core.decision import Decision
from tidegate.core.errors import Code, error_for
from tidegate.core.limits import PLAN_DEADLINE_S
from tidegate.sql.barriers import Barrier, barriers
from tidegate.sql.model import BoundQuery, FederatedPlan, Schema
from tidegate.sql.split import Placement, split


def _split(bound: BoundQuery, decision: Decision, placement: Placement, schema: Schema) -> FederatedPlan:
    return split(bound, decision, placement, schema=schema)


class Rewrite:
    """The room. Splitting is pure, and costly enough to leave the serving process."""

    def __init__(self, *, pool: PlanningPool, clock: Clock, cache: PlanCache | None = None) -> None:
        self._pool = pool
        self._clock = clock
        self._cache = cache or PlanCache()

    def rewrite(self, decided: DecidedPlan) -> RestrictedPlan:
        """Split the query under its decision.

        Raises:
            CallerError: PLAN_*.
            Refused: POLICY_STRUCTURE, POLICY_REFUSED.
        """
        plan = decided.plan
        left = min(PLAN_DEADLINE_S, plan.request.deadline - self._clock.monotonic_s())
        if left <= 0:
            raise error_for(Code.QUERY_DEADLINE)
        placement = {name: (dataset.owner, dataset.node) for name, dataset in plan.datasets.items()}
        places, content = (
            tuple(sorted(placement.items(), key=str)),
            decided.content or decision_content(decided.decision),
        )
        kept = self._cache.plan(plan.key, content, places)
        if kept is not None:
            return RestrictedPlan(decided=decided, federated=kept)
        federated = self._pool.run(
            _split,
            plan.bound,
            decided.decision,
            placement,
            plan.datasets,
            deadline_s=left,
            owner=plan.request.caller.member,
        )
        self._cache.keep_plan(plan.key, content, places, federated)
        return RestrictedPlan(decided=decided, federated=federated)

    def barriers(self, restricted: RestrictedPlan) -> Mapping[str, Barrier]:
        """Say by fragment what its leaves stand behind, for EXPLAIN.

        Raises:
            CallerError: PLAN_*, QUERY_DEADLINE. Refused: a node would refuse the fragment under this very decision.
        """
        plan = restricted.decided.plan
        left = min(PLAN_DEADLINE_S, plan.request.deadline - self._clock.monotonic_s())
        if left <= 0:
            raise error_for(Code.QUERY_DEADLINE)
        return self._pool.run(
            barriers,
            restricted.federated,
            restricted.decided.decision,
            plan.datasets,
            deadline_s=left,
            owner=plan.request.caller.member,
        )

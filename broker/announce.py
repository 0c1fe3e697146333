"""Room 4a, announce: what an answer will look like, for a door that must say it before there is an answer.

Arrow Flight names an answer's schema when it hands out a ticket. What is announced holds exactly for one decision over one
state of the catalogue; whoever comes back with the ticket is answered only if both still say the same.
"""

from __future__ import annotations

from hashlib import sha256

from broker.plan_cache import PlanCache
from broker.values import Announced, RestrictedPlan
from engine.announced import announced_schema
from engine.planning import PlanningPool
from policies.memory import decision_content
from tidegate.core.canonical import canonical
from tidegate.core.clock import Clock
from tidegate.core.errors import Code, error_for
from tidegate.core.limits import PLAN_DEADLINE_S


class Announce:
    """The room. Finding types takes an engine, so it leaves the serving process; what was found is kept beside the plan."""

    def __init__(self, *, pool: PlanningPool, clock: Clock, cache: PlanCache | None = None) -> None:
        self._pool = pool
        self._clock = clock
        self._cache = cache or PlanCache()

    def announce(self, restricted: RestrictedPlan) -> Announced:
        """Say what the answer to a restricted plan will look like, and under what this holds.

        Raises:
            CallerError: PLAN_TYPE, QUERY_DEADLINE.
        """
        plan = restricted.decided.plan
        content = restricted.decided.content or decision_content(restricted.decided.decision)
        placement = tuple(sorted(((str(name), item.owner, item.node) for name, item in plan.datasets.items())))
        kept = self._cache.schema(plan.key, content, placement)
        if kept is None:
            left = min(PLAN_DEADLINE_S, plan.request.deadline - self._clock.monotonic_s())
            if left <= 0:
                raise error_for(Code.QUERY_DEADLINE)
            kept = self._pool.run(
                announced_schema,
                restricted.federated,
                plan.datasets,
                deadline_s=left,
                owner=plan.request.caller.member,
            )
            self._cache.keep_schema(plan.key, content, placement, kept)
        versions = {str(name): [str(item.version), item.owner, item.node] for name, item in plan.datasets.items()}
        return Announced(kept, sha256(content + canonical(versions)).digest())

"""Room 3, decide: one policy evaluation for the whole query. The answer is a value, never an exception.

Whatever keeps a valid answer from being made (engine down, slow, an answer that does not validate) is a refusal with the
reason ``policy_unavailable``; a form of query that the answer does not permit is a refusal with the structure's reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from broker.plan_cache import PlanCache
from broker.values import DecidedPlan, QueryPlan
from catalogue.store import Catalogue
from policies.memory import decision_content
from policies.point import DecisionPoint
from policies.question import build
from tidegate.core.clock import Clock
from tidegate.core.decision import Decision
from tidegate.core.errors import Code, Reason, TidegateError
from tidegate.sql.structure import check as check_structure

_ASK_FOR_PURPOSE = "a registered purpose and legal basis; list them with `tidegate purposes list`"


class Decide:
    """The room."""

    def __init__(
        self, *, point: DecisionPoint, catalogue: Catalogue, clock: Clock, cache: PlanCache | None = None
    ) -> None:
        self._cache = cache or PlanCache()
        self._point = point
        self._catalogue = catalogue
        self._clock = clock

    def decide(self, plan: QueryPlan) -> DecidedPlan:
        """Decide the whole query."""
        request = plan.request
        revision = self._point.revision
        try:
            glance = self._catalogue.glance(request.caller.member)  # now, not as it was when the query was planned
            legal_basis = glance.check_purpose(request.purpose, request.legal_basis)
        except TidegateError as error:
            reason = Reason("purpose_unknown", error.message, _ASK_FOR_PURPOSE, "the operator of the exchange")
            return DecidedPlan(plan, {}, _refusal(reason), revision, (), Code.POLICY_PURPOSE)
        # Whoever named none gets the purpose's only one; from here on everything names it: question, entry, grant.
        request = replace(request, legal_basis=legal_basis)
        plan = replace(plan, request=request)
        names = tuple(dict.fromkeys(leaf.dataset for leaf in plan.bound.leaves))
        agreements = glance.agreements_for(names, self._clock.now())
        question = build(
            request.caller,
            request_id=request.id,
            time=request.received_at,
            purpose=request.purpose,
            legal_basis=request.legal_basis,
            door=request.door,
            bound=plan.bound,
            datasets=plan.datasets,
            agreements=agreements,
            registered=True,  # the catalogue's registry said so, above
        )
        decision, refusal, content = self._evaluate(plan, question)
        return DecidedPlan(plan, question, decision, revision, tuple(item.id for item in agreements), refusal, content)

    def _evaluate(self, plan: QueryPlan, question: Mapping[str, Any]) -> tuple[Decision, Code | None, bytes]:
        try:
            decision = self._point.decide(dict(question))
        except TidegateError as error:
            return _refusal(Reason("policy_unavailable", error.info.title)), Code.POLICY_UNAVAILABLE, b""
        if not decision.allow:
            return decision, Code.POLICY_REFUSED, b""
        content = decision_content(decision)
        if self._cache.permits(plan.key, content):
            return decision, None, content
        try:
            check_structure(plan.bound, decision, schema=plan.datasets)
        except TidegateError as error:
            reasons = error.reasons or (Reason("structure", error.message),)
            return Decision(False, reasons, MappingProxyType({})), error.code, b""
        self._cache.keep_permitted(plan.key, content)
        return decision, None, content


def _refusal(reason: Reason) -> Decision:
    return Decision(False, (reason,), MappingProxyType({}))

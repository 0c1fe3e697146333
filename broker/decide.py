"""Room 3, decide: one policy evaluation for the whole query. The answer is a value, never an exception.

Whatever keeps a valid answer from being made (engine down, slow, an answer that does not validate) is a refusal with the
reason ``policy_unavailable``; a form of query that the answer does not permit is a refusal with the structure's reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from broker.values import DecidedPlan, QueryPlan
from catalogue.store import Catalogue
from policies.point import DecisionPoint
from policies.question import build
from tidegate.core.clock import Clock
from tidegate.core.decision import Decision
from tidegate.core.errors import Code, Reason, TidegateError
from tidegate.sql.structure import check as check_structure


class Decide:
    """The room."""

    def __init__(self, *, point: DecisionPoint, catalogue: Catalogue, clock: Clock) -> None:
        self._point = point
        self._catalogue = catalogue
        self._clock = clock

    def decide(self, plan: QueryPlan) -> DecidedPlan:
        """Decide the whole query."""
        request = plan.request
        revision = self._point.revision
        try:
            self._catalogue.check_purpose(request.purpose, request.legal_basis)
        except TidegateError as error:
            return DecidedPlan(plan, {}, _refusal(_purpose_reason(error)), revision, ())
        names = tuple(dict.fromkeys(leaf.dataset for leaf in plan.bound.leaves))
        agreements = self._catalogue.agreements_for(names, request.caller.member, self._clock.now())
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
        )
        decision = self._evaluate(plan, question)
        return DecidedPlan(plan, question, decision, revision, tuple(agreement.id for agreement in agreements))

    def _evaluate(self, plan: QueryPlan, question: Mapping[str, Any]) -> Decision:
        try:
            decision = self._point.decide(dict(question))
        except TidegateError as error:
            return _refusal(Reason("policy_unavailable", error.info.title))
        if not decision.allow:
            return decision
        try:
            check_structure(plan.bound, decision, schema=plan.datasets)
        except TidegateError as error:
            reasons = error.reasons or (Reason(error.code.value, error.message),)
            return Decision(False, reasons, MappingProxyType({}))
        return decision


def _purpose_reason(error: TidegateError) -> Reason:
    ask = "a registered purpose and legal basis; list them with `tidegate purposes`"
    return Reason("purpose_unknown", error.message, ask, "the operator of the exchange")


def _refusal(reason: Reason) -> Decision:
    return Decision(False, (reason,), MappingProxyType({}))


def refusal_code(decision: Decision) -> Code:
    """Give the code under which a refusal reaches the caller."""
    first = decision.reasons[0].code if decision.reasons else ""
    return {
        "policy_unavailable": Code.POLICY_UNAVAILABLE,
        "purpose_unknown": Code.POLICY_PURPOSE,
        Code.POLICY_STRUCTURE.value: Code.POLICY_STRUCTURE,
    }.get(first, Code.POLICY_REFUSED)

"""Decide: the node's own answer, from its own agreements, metadata and overlay; what holds is the intersection.

The broker's decision can only tighten the node's, and the node's only the broker's. Agreements come from the node's own
folder, datasets from its own description; caller, purpose and the shape of the whole query are the broker's word, under its
signature and in its log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from node.agreements import AgreementStore
from node.values import AdmittedFragment, DecidedFragment
from policies.question import build_from_grant
from tidegate.core.clock import Clock, parse_timestamp
from tidegate.core.dataset import Dataset
from tidegate.core.decision import Decision, intersect
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.names import DatasetName


class Point(Protocol):
    """What decides: ``policies.point.DecisionPoint``."""

    @property
    def revision(self) -> str:
        """The bundle's revision, with the department's overlay in it."""
        ...

    def decide(self, question: Mapping[str, object]) -> Decision:
        """Decide a question; raises POLICY_UNAVAILABLE."""
        ...


class Decide:
    """The second step. Thread-safe."""

    def __init__(
        self,
        *,
        point: Point,
        agreements: AgreementStore,
        datasets: Callable[[], Mapping[DatasetName, Dataset]],
        clock: Clock,
    ) -> None:
        self._point = point
        self._agreements = agreements
        self._datasets = datasets
        self._clock = clock

    def decide(self, admitted: AdmittedFragment) -> DecidedFragment:
        """Decide the fragment.

        Raises:
            Refused: POLICY_REFUSED with the reasons. InternalError: POLICY_UNAVAILABLE, which is a refusal too.
        """
        grant, now = admitted.grant, self._clock.now()
        revision = self._point.revision
        datasets = self._datasets()
        names = {leaf.dataset for leaf in admitted.bound.leaves}
        agreements = self._agreements.for_request(names, str(grant.caller.get("member", "")), now)
        question = build_from_grant(grant, admitted.bound, datasets, agreements, now=now)
        own = self._point.decide(question)
        _refuse_unless_allowed(own)
        theirs = self._broker_decision(admitted)
        decision = intersect(theirs, own)
        _refuse_unless_allowed(decision)
        _refuse_keys_of_groups(admitted, decision)
        expires_at = decision.obligations.expires_at
        if expires_at is not None and parse_timestamp(expires_at) <= now:
            raise error_for(Code.POLICY_REFUSED, "the decision has expired", reasons=decision.reasons)
        return DecidedFragment(admitted, decision, revision, agreements)

    @staticmethod
    def _broker_decision(admitted: AdmittedFragment) -> Decision:
        try:
            theirs = Decision.from_json(admitted.grant.decision)
            if theirs.obligations.expires_at is not None:
                parse_timestamp(theirs.obligations.expires_at)
        except (TidegateError, ValueError) as error:
            raise error_for(Code.NODE_GRANT, "grant: its decision is not valid", detail=repr(error)) from error
        if set(theirs.resources) != {leaf.ref for leaf in admitted.bound.leaves}:
            raise error_for(Code.NODE_GRANT, "grant: its decision is about other datasets")
        return theirs


def _refuse_keys_of_groups(admitted: AdmittedFragment, decision: Decision) -> None:
    """Where data is shared in groups, a set of keys would pick the persons who are counted."""
    if admitted.keys and any(item.constraints.mode != "rows" for item in decision.resources.values()):
        raise error_for(Code.POLICY_REFUSED, "keys may not narrow data that is not shared row by row")


def _refuse_unless_allowed(decision: Decision) -> None:
    if not decision.allow or not all(resource.allow for resource in decision.resources.values()):
        raise error_for(Code.POLICY_REFUSED, "this department's own gate refused", reasons=decision.reasons)

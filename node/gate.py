"""The gate: the only module of a node that knows the order. Admit, decide, restrict, record, execute, stream, sign.

Whatever goes wrong is one clean failure to the broker, an entry in the node's own log when it is a refusal, and a line with
the private detail in the structured log.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from node.admit import Admit
from node.agreements import AgreementStore, read_agreement
from node.answer import Signer
from node.conversation import AgreementPushed, Line
from node.decide import Decide
from node.execute import Execute
from node.record import Record
from node.sources import Sources
from node.telemetry import SeenFragment, Telemetry
from node.values import FragmentOffer, Session
from tidegate.core.clock import Clock, Ids
from tidegate.core.dataset import Dataset
from tidegate.core.errors import Code, Family, TidegateError, error_for

_RECORDED = frozenset({Family.REFUSED, Family.INTEGRITY})
_ALSO_RECORDED = frozenset({Code.NODE_FRAGMENT, Code.NODE_STALE, Code.POLICY_UNAVAILABLE})


class Gate:
    """``node.conversation.Work``. Thread-safe."""

    def __init__(
        self,
        *,
        admit: Admit,
        decide: Decide,
        record: Record,
        execute: Execute,
        agreements: AgreementStore,
        sources: Callable[[], Sources],
        describe: Callable[[], Sources],
        sign: Signer,
        deadline_s_max: float,
        clock: Clock,
        ids: Ids,
        log: structlog.stdlib.BoundLogger,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._telemetry = telemetry or Telemetry(clock=clock)
        self._admit = admit
        self._decide = decide
        self._record = record
        self._execute = execute
        self._agreements = agreements
        self._sources = sources
        self._describe = describe
        self._sign = sign
        self._deadline_s_max = deadline_s_max
        self._clock = clock
        self._ids = ids
        self._log = log

    @property
    def datasets(self) -> tuple[Dataset, ...]:
        """What the node holds."""
        return tuple(self._sources().datasets.values())

    def describe(self) -> tuple[Dataset, ...]:
        """Look again: counts and statistics may have changed."""
        return tuple(self._describe().datasets.values())

    def take_agreement(self, pushed: AgreementPushed) -> None:
        """Verify and keep an agreement or a revocation.

        Raises:
            CallerError: CAT_AGREEMENT, CAT_CONFLICT. InternalError: AUDIT_UNAVAILABLE.
        """
        if pushed.revocation_json:
            self._agreements.revoke(pushed.revocation_json, pushed.signature, pushed.chain_pem)
        else:
            self._agreements.store(read_agreement(pushed.agreement_json, pushed.signature, pushed.chain_pem))

    def serve(self, offer: FragmentOffer, session: Session, line: Line) -> None:
        """Work on a fragment until its answer or its failure was said; raises nothing."""
        with self._telemetry.fragment(offer) as seen:
            try:
                self._serve(offer, session, line, seen)
            except TidegateError as error:
                self._fail(offer, session, line, error, seen)
            except Exception as error:  # noqa: BLE001 - a fragment must not end a thread in silence, nor show its traceback
                error_id = self._ids.request_id()
                self._log.exception("fragment failed", fragment=offer.id, error_id=error_id, **seen.trace.ids)
                public = f"an internal error, id {error_id}"
                self._fail(offer, session, line, error_for(Code.INTERNAL, public, detail=type(error).__name__), seen)

    def _serve(self, offer: FragmentOffer, session: Session, line: Line, seen: SeenFragment) -> None:
        started_s = self._clock.monotonic_s()
        if not offer.deadline_s > 0:  # not a number is no time either
            raise error_for(Code.QUERY_DEADLINE)
        deadline_s = min(offer.deadline_s, self._deadline_s_max)
        with seen.step("admit"):
            admitted = self._admit.admit(offer, session)
        with seen.step("decide"):
            decided = self._decide.decide(admitted)
        with seen.step("restrict"):
            prepared = self._execute.prepare(decided)
        if offer.cancel.is_set():
            raise error_for(Code.QUERY_CANCELLED)
        with seen.step("record"):
            recorded = self._record.record(decided, self._sources().datasets, prepared.ages)
        # From here on the execution is in the node's log, so a worker may see the fragment.
        left_s = deadline_s - (self._clock.monotonic_s() - started_s)
        if left_s <= 0:
            raise error_for(Code.QUERY_DEADLINE)
        with seen.step("execute"):
            answer = self._execute.execute(prepared, recorded, left_s)
        try:
            with seen.step("stream"):
                trailer = line.say_answer(answer, self._sign)
        finally:
            seen.rows, seen.size_bytes = answer.rows, answer.size_bytes
            answer.close()
        self._log.info(
            "fragment answered",
            fragment=offer.id,
            request=str(admitted.grant.request.get("id", "")),
            rows=trailer.rows,
            bytes=trailer.size_bytes,
            suppressed=trailer.suppressed_groups,
            entry=recorded.index,
            elapsed_s=round(trailer.elapsed_s, 3),
            **seen.trace.ids,
        )

    def _fail(
        self, offer: FragmentOffer, session: Session, line: Line, error: TidegateError, seen: SeenFragment
    ) -> None:
        seen.code = error.code.value
        self._log.warning(
            "fragment not answered", fragment=offer.id, problem=str(error), detail=error.detail, **seen.trace.ids
        )
        if error.info.family in _RECORDED or error.code in _ALSO_RECORDED:
            self._record.refusal(offer, session, error)
        line.say_failure(offer.id, error)

"""Room 5, record: no receipt, no data. The ``decision`` entry is durable before a node may release a byte.

The entry holds ids, hashes, counts and salted commitments; SQL text, question and answer go to the side store, encrypted
per entry. One entry for a refusal; one more, the ``outcome``, closes what was permitted.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from audit import entries
from audit.log import Appended, AuditLog
from broker.keys import fragment_digest, lines, terms
from broker.values import ClosedRecord, Closing, DecidedPlan, QueryPlan, RecordedPlan, Request, RestrictedPlan
from tidegate.core.canonical import canonical, sha256_hex
from tidegate.core.clock import Clock, timestamp
from tidegate.core.errors import TidegateError

ORPHAN_AFTER = timedelta(seconds=5)  # beyond a request's deadline: time to write the outcome of a slow last batch


class Record:
    """The room, and the two other words of the same story: ``refusal`` and ``outcome``."""

    def __init__(self, *, log: AuditLog, clock: Clock) -> None:
        self._log = log
        self._clock = clock

    def record(self, restricted: RestrictedPlan) -> RecordedPlan:
        """Append the decision.

        Raises:
            InternalError: AUDIT_UNAVAILABLE; then nothing is fetched.
        """
        decided = restricted.decided
        request = decided.plan.request
        fragments, reductions = restricted.federated.fragments, terms(restricted.federated)
        left = timedelta(seconds=max(request.deadline - self._clock.monotonic_s(), 0.0))
        entry = entries.decision(
            request_id=request.id,
            caller=request.caller,
            purpose=request.purpose,
            legal_basis=request.legal_basis,
            datasets=_datasets(decided.plan),
            policy_revision=decided.policy_revision,
            obligations=sha256_hex(canonical(decided.decision.obligations.to_json())),
            agreements=decided.agreements,
            deadline=timestamp(self._clock.now() + left + ORPHAN_AFTER),
            reasons=decided.decision.reasons,
            door=request.door,
        )
        appended = self._log.append(
            entry,
            _side(request, decided),
            commit={
                "query": request.sql.encode(),
                "input": canonical(dict(decided.question)),
                "answer": canonical(decided.decision.to_json()),
                "plan": [fragment_digest(fragment, reductions[fragment.id]).encode() for fragment in fragments],
            },
        )
        salts = {fragment.id: appended.salt("plan", place) for place, fragment in enumerate(fragments)}
        return RecordedPlan(restricted, _closed(appended, ""), salts)

    def refusal(self, request: Request, decided: DecidedPlan | None, error: TidegateError) -> bytes:
        """Append a refusal; give its receipt.

        Raises:
            InternalError: AUDIT_UNAVAILABLE.
        """
        entry = entries.refusal(
            request_id=request.id,
            caller=request.caller,
            error=error,
            purpose=request.purpose[:100],
            legal_basis=request.legal_basis[:100],
            datasets=_datasets(decided.plan) if decided is not None else {},
            policy_revision=decided.policy_revision if decided is not None else "",
            door=request.door,
        )
        commit: dict[str, bytes] = {"query": request.sql.encode("utf-8", "replace")}
        if decided is not None:
            commit["input"] = canonical(dict(decided.question))
            commit["answer"] = canonical(decided.decision.to_json())
        return self._log.append(entry, _side(request, decided), commit=commit).receipt

    def outcome(self, recorded: RecordedPlan, closing: Closing) -> ClosedRecord:
        """Append the outcome that closes a record, before the caller sees the end of the answer.

        Raises:
            InternalError: AUDIT_UNAVAILABLE.
        """
        leaves = {report.fragment: {"rows": report.rows, "bytes": report.bytes} for report in closing.reports}
        counted = recorded.counted
        aggregated = len(counted) < len(recorded.restricted.federated.fragments)
        entry = entries.outcome(
            request_id=recorded.request.id,
            of=recorded.decision.index,
            rows=closing.rows,
            size_bytes=closing.bytes,
            # The caller is given this entry with its receipt: what small groups there were is for the auditor alone.
            suppressed=None if aggregated else closing.suppressed_groups,
            duration_us=round(closing.duration_s * 1e6),
            leaves={name: counts for name, counts in leaves.items() if name in counted},
            keys=lines(closing.reports),
            error=closing.error,
        )
        side = {"suppressed": closing.suppressed_groups, "leaves": leaves} if aggregated else None
        appended = self._log.append(entry, side, commit={"result": closing.result_digest.encode()})
        return _closed(appended, "result")


def _closed(appended: Appended, opened: str) -> ClosedRecord:
    salt = appended.salt(opened) if opened else b""
    return ClosedRecord(appended.index, appended.entry, appended.receipt, salt)


def _datasets(plan: QueryPlan) -> Mapping[str, int]:
    return {str(name): dataset.version for name, dataset in plan.datasets.items()}


def _side(request: Request, decided: DecidedPlan | None) -> dict[str, object]:
    more: dict[str, object] = {"sql": request.sql}
    if request.department:
        more["department"] = request.department  # without it nobody could say later what a name of one part meant
    if decided is not None and decided.question:
        more["question"] = dict(decided.question)
        more["answer"] = decided.decision.to_json()
    return entries.side_of(request.caller, **more)

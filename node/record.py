"""Record: the node's own log says what is about to be executed, durably, before a worker sees the fragment.

The same log as the broker's (C2SP formats, salted commitments): the department can show what it was asked, by whom, under
which receipt of the broker's, and what it made of it. Refusals and changes of agreements are entries too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog

from audit import entries
from audit.log import AuditLog
from node.values import AdmittedFragment, DecidedFragment, FragmentOffer, RecordedFragment, Session
from tidegate.core.canonical import canonical, parse_json, sha256_hex
from tidegate.core.clock import Clock, Ids
from tidegate.core.dataset import Dataset
from tidegate.core.errors import TidegateError
from tidegate.core.limits import ENTRY_BYTES_MAX
from tidegate.core.names import DatasetName, SpiffeId


def open_log(folder: Path, node: SpiffeId, clock: Clock, ids: Ids) -> AuditLog:
    """Open the node's log; make it at the node's very first start.

    A folder that is there and is no log is an error, never a reason to begin anew.
    """
    if folder.exists() and any(folder.iterdir()):
        return AuditLog.open(folder, clock, ids)
    return AuditLog.create(folder, log_origin(node, clock.now()), clock, ids)


def log_origin(node: SpiffeId, at: datetime) -> str:
    """Give the origin of a node's log."""
    return f"{node.exchange}/{node.member}/{node.name}/audit/{at.year}"


class Record:
    """The step between deciding and executing. Thread-safe."""

    def __init__(self, *, log: AuditLog, broker_log: structlog.stdlib.BoundLogger) -> None:
        self._log = log
        self._structured = broker_log

    def record(
        self, decided: DecidedFragment, datasets: Mapping[DatasetName, Dataset], ages: Sequence[str] = ()
    ) -> RecordedFragment:
        """Record the execution; returns when it is durable.

        Args:
            ages: how old the snapshots are that it reads, at least: what is read may be a younger copy.

        Raises:
            InternalError: AUDIT_UNAVAILABLE; the fragment must not be executed.
        """
        admitted = decided.admitted
        grant = admitted.grant
        said = _broker_entry(grant.entry)
        versions = {str(leaf.dataset): datasets[leaf.dataset].version for leaf in admitted.bound.leaves}
        entry = entries.node_execution(
            request_id=str(grant.request["id"]),
            grant=grant.id,
            member=str(said.get("member", "")),
            identity=str(said.get("identity", "")),
            purpose=str(grant.request["purpose"]),
            legal_basis=str(grant.request["legal_basis"]),
            datasets=versions,
            policy_revision=decided.revision,
            obligations=sha256_hex(canonical(_without_floats(decided.decision.to_json()))),
            agreements=[agreement.id for agreement in decided.agreements],
            keys=_keys(admitted),
            keys_may_go_to=decided.keys_may_go_to,
            bound=str(grant.caller["bound"]),  # admission held it to the broker's entry
        )
        # The broker's receipt and the signed grant are kept: they are the department's proof of who made it answer.
        offer = admitted.offer
        side = {"sql": offer.sql, "grant": offer.grant.decode(), "signature": offer.signature.hex()}
        if ages:
            side["snapshots"] = "; ".join(ages)
        appended = self._log.append(entry, side, commit={"plan": [grant.fragment.encode()], "input": offer.grant})
        return RecordedFragment(decided, appended.index)

    def refusal(self, offer: FragmentOffer, session: Session, error: TidegateError) -> None:
        """Record that a fragment was refused. Where that fails the structured log says so; nothing left the node."""
        entry = entries.admin(
            "node_execution",
            action="refuse",
            subject=session.broker,
            content_hash=sha256_hex(offer.grant),
            details={"code": error.code.value, "reasons": ",".join(reason.code for reason in error.reasons)[:500]},
        )
        try:
            self._log.append(entry)
        except TidegateError as problem:
            self._structured.error("refusal not recorded", problem=str(problem), detail=problem.detail)

    def agreement(self, action: str, agreement_id: str, content_hash: str) -> None:
        """Record that an agreement was stored or revoked."""
        self._log.append(entries.admin("agreement", action=action, subject=agreement_id, content_hash=content_hash))


def _keys(admitted: AdmittedFragment) -> list[dict[str, Any]]:
    """Say what this node was given of other departments' keys, a line for each batch.

    The counts are the broker's word: of the answers that the keys come from, by whose they are. A member that answered two of
    them is named once, with the sum.
    """
    found: list[dict[str, Any]] = []
    for item in admitted.keys:
        terms, counts = item.granted.terms, dict[str, int]()
        for source, count in zip(terms.sources, item.granted.counts, strict=True):
            counts[source.member] = counts.get(source.member, 0) + count
        column = f"{admitted.bound.leaf(terms.ref).dataset}.{terms.column}"
        found.append({"column": column, "from": counts, "sources": [source.fragment for source in terms.sources]})
    return found


def _broker_entry(text: str) -> dict[str, Any]:
    said = parse_json(text, size_bytes_max=ENTRY_BYTES_MAX)
    return said if isinstance(said, dict) else {}


def _without_floats(value: Any) -> Any:
    """Give the value with floats (a row filter may compare with one) as texts: canonical JSON refuses floats."""
    if isinstance(value, float):
        return {"float": value.hex()}
    if isinstance(value, Mapping):
        return {key: _without_floats(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_floats(item) for item in value]
    return value

"""Room 6, fetch: one signed grant and one stream per fragment, under one deadline; all at once but for those that wait for
keys of others (``broker.stages``).

A node that is away is an error that names its department, before any node was asked. A fragment's grant carries the
receipt of the ``decision`` entry: the node releases nothing without it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from broker.attachments import Attachment, Attachments, FragmentOrder, PendingFragment
from broker.keys import SentKeys, destinations, fragment_digest, terms
from broker.stages import Stages
from broker.values import FetchedStreams, FragmentReport, RecordedPlan
from tidegate.core.clock import Clock, Ids, timestamp
from tidegate.core.errors import Code, error_for
from tidegate.core.grant import GRANT_LIFETIME_S_MAX, Grant, KeyTerms
from tidegate.core.limits import LEAF_BYTES_MAX, LEAF_ROWS_MAX
from tidegate.core.values import encode
from tidegate.sql.model import Fragment

Signer = Callable[[bytes], tuple[bytes, bytes]]
"""Signs with the broker's current certificate: bytes -> (signature, chain PEM, leaf first)."""


@dataclass(frozen=True, slots=True)
class _Around:
    """What goes with a fragment: its reductions, the keys for some of them, where its own keys are meant to go."""

    reductions: tuple[KeyTerms, ...]
    keys: tuple[SentKeys, ...]
    keys_go_to: tuple[str, ...]
    subject_key: str
    traceparent: str


class Fetch:
    """The room."""

    def __init__(self, *, attachments: Attachments, signer: Signer, broker: str, clock: Clock, ids: Ids) -> None:
        self._attachments = attachments
        self._signer = signer
        self._broker = broker
        self._clock = clock
        self._ids = ids

    def fetch(self, recorded: RecordedPlan) -> FetchedStreams:
        """Ask every department for its part.

        Raises:
            PeerError: FETCH_NODE_AWAY.
        """
        plan = recorded.restricted.federated
        for item in plan.fragments:
            self._attachments.find(item.member, item.node)
        reductions = terms(plan)
        keys_go_to = destinations(plan, recorded.restricted.decided.decision)
        subject_key = self._ids.nonce(32).hex()

        def send(
            fragment: Fragment, keys: tuple[SentKeys, ...], report: FragmentReport
        ) -> tuple[Attachment, PendingFragment]:
            attachment = self._attachments.find(fragment.member, fragment.node)
            report.trace = recorded.request.trace.child("fragment", fragment=fragment.id, member=fragment.member)
            around = _Around(
                reductions[fragment.id], keys, keys_go_to[fragment.id], subject_key, report.trace.traceparent
            )
            return attachment, attachment.send(self._order(recorded, fragment, attachment, around), report, self._clock)

        stages = Stages(recorded, reductions, send, self._clock)
        try:
            return FetchedStreams(stages.start(), stages.close)
        except BaseException:
            stages.close()
            raise

    def _order(
        self, recorded: RecordedPlan, fragment: Fragment, attachment: Attachment, around: _Around
    ) -> FragmentOrder:
        request = recorded.request
        left = request.deadline - self._clock.monotonic_s()
        if left <= 0:
            raise error_for(Code.QUERY_DEADLINE)
        now = self._clock.now()
        decided = recorded.restricted.decided
        grant = Grant(
            id=self._ids.request_id(),
            broker=self._broker,
            node=str(attachment.identity),
            session=attachment.session,
            issued_at=timestamp(now),
            expires_at=timestamp(now + timedelta(seconds=min(GRANT_LIFETIME_S_MAX, max(left, 1.0)))),
            request=dict(decided.question["request"]),
            caller=dict(decided.question["caller"]),
            caller_fingerprint=request.caller.fingerprint,
            query=dict(decided.question["query"]),
            decision=decided.decision.only(tuple(fragment.refs)).to_json(),
            refs={ref: str(name) for ref, name in fragment.refs.items()},
            fragment=fragment_digest(fragment, around.reductions),
            entry=recorded.decision.entry.decode(),
            receipt=recorded.decision.receipt.decode(),
            plan_nonce=recorded.salts[fragment.id].hex(),
            subject_key=around.subject_key,
            keys=tuple(item.granted.to_json() for item in around.keys),
            keys_go_to=around.keys_go_to,
            whole=fragment.whole,
        )
        signed = grant.signed_bytes()
        signature, chain = self._signer(signed)
        return FragmentOrder(
            id=f"{request.id}-{fragment.id}",
            grant_id=grant.id,
            grant=signed,
            signature=signature,
            chain_pem=chain,
            sql=fragment.sql.text,
            parameters_json=json.dumps([encode(value) for value in fragment.sql.parameters]),
            deadline_s=left,
            rows_max=LEAF_ROWS_MAX,
            bytes_max=LEAF_BYTES_MAX,
            reductions=around.reductions,
            keys=around.keys,
            traceparent=around.traceparent,
        )

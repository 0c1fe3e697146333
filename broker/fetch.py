"""Room 6, fetch: one signed grant and one stream per fragment, all at once, under one deadline.

A node that is away is an error that names its department, before any node was asked. A fragment's grant carries the
receipt of the ``decision`` entry: the node releases nothing without it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta

from broker.attachments import Attachment, Attachments, FragmentOrder, PendingFragment
from broker.values import FetchedStreams, FragmentReport, FragmentStream, RecordedPlan
from tidegate.core.canonical import sha256_hex
from tidegate.core.clock import Clock, Ids, timestamp
from tidegate.core.errors import Code, error_for
from tidegate.core.grant import GRANT_LIFETIME_S_MAX, Grant, fragment_bytes
from tidegate.core.limits import LEAF_BYTES_MAX, LEAF_ROWS_MAX
from tidegate.core.values import encode
from tidegate.sql.model import Fragment, RenderedSql

Signer = Callable[[bytes], tuple[bytes, bytes]]
"""Signs with the broker's current certificate: bytes -> (signature, chain PEM, leaf first)."""


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
        fragments = recorded.restricted.federated.fragments
        attached = {item.id: self._attachments.find(item.member, item.node) for item in fragments}
        subject_key = self._ids.nonce(32).hex()
        sent: list[tuple[Attachment, PendingFragment]] = []
        streams: dict[str, FragmentStream] = {}
        ended: set[str] = set()

        def close() -> None:
            for attachment, pending in sent:
                attachment.done(pending.order.id, cancel=pending.order.id not in ended)

        try:
            for fragment in fragments:
                attachment = attached[fragment.id]
                order = self._order(recorded, fragment, attachment, subject_key)
                report = FragmentReport(fragment.id, fragment.member, fragment.node)
                pending = attachment.send(order, report, self._clock)
                sent.append((attachment, pending))
                streams[fragment.id] = FragmentStream(fragment.id, self._read(recorded, pending, ended), report)
        except BaseException:
            close()
            raise
        return FetchedStreams(streams, close)

    def _read(self, recorded: RecordedPlan, pending: PendingFragment, ended: set[str]) -> Iterator[bytes]:
        request = recorded.request
        yield from pending.chunks(request.deadline, request.cancel)
        ended.add(pending.order.id)

    def _order(
        self, recorded: RecordedPlan, fragment: Fragment, attachment: Attachment, subject_key: str
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
            fragment=fragment_digest(fragment.sql),
            entry=recorded.decision.entry.decode(),
            receipt=recorded.decision.receipt.decode(),
            plan_nonce=recorded.salts[fragment.id].hex(),
            subject_key=subject_key,
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
        )


def fragment_digest(sql: RenderedSql) -> str:
    """Give the digest by which grant and entry name a fragment."""
    return sha256_hex(fragment_bytes(sql.text, [encode(value) for value in sql.parameters]))

"""What the catalogue asks of the attached nodes, over the registry of attachments."""

from __future__ import annotations

import structlog

from broker.attachments import AgreementOrder, Attachment, Attachments, away
from catalogue.agreements import StoredAgreement
from catalogue.store import Catalogue
from tidegate.core.agreement import SignedAgreement
from tidegate.core.canonical import parse_json
from tidegate.core.dataset import Dataset
from tidegate.core.errors import Code, error_for

ACKNOWLEDGE_WAIT_S = 5.0  # a node stores an agreement in milliseconds; who waits longer hears "when it attaches"
REVOCATION_BYTES_MAX = 8 << 10


class AttachedNodes:
    """Implements ``catalogue.wire.Nodes``."""

    def __init__(self, attachments: Attachments) -> None:
        self._attachments = attachments

    def push_agreement(self, owner: str, signed: SignedAgreement, /) -> bool:
        """Send an agreement to every node of the owner; True when one of them has stored it."""
        return self._push(owner, _agreement_order(signed))

    def push_revocation(self, owner: str, document: bytes, signature: bytes, chain_pem: bytes, /) -> bool:
        """Send a revocation to every node of the owner; True when one of them has stored it."""
        data = parse_json(document, size_bytes_max=REVOCATION_BYTES_MAX)
        revoked = str(data.get("revoke", "")) if isinstance(data, dict) else ""
        return self._push(owner, AgreementOrder(revoked, "", signature, chain_pem, document.decode()))

    def _push(self, owner: str, order: AgreementOrder) -> bool:
        stored = [item.push_agreement(order, ACKNOWLEDGE_WAIT_S) for item in self._attachments.of_member(owner)]
        return any(stored)

    def description(self, member: str, node: str, /) -> tuple[Dataset, ...]:
        """Give what the member's node says that it holds; an empty name means its only node.

        Raises:
            PeerError: FETCH_NODE_AWAY.
            CallerError: CAT_INVALID, there are several nodes and none was named.
        """
        if node:
            return self._attachments.find(member, node).described
        nodes = self._attachments.of_member(member)
        if not nodes:
            raise away(member)
        if len(nodes) > 1:
            names = ", ".join(sorted(item.identity.name for item in nodes))
            raise error_for(Code.CAT_INVALID, f"node: {member} has several ({names}); name one")
        return nodes[0].described


class PendingAgreements:
    """Gives a node that attaches what it missed: agreements and revocations that it has not acknowledged."""

    def __init__(self, catalogue: Catalogue, log: structlog.stdlib.BoundLogger) -> None:
        self._catalogue = catalogue
        self._log = log

    def send(self, attachment: Attachment) -> None:
        """Send what is pending; runs in a thread of its own, since each one waits for its acknowledgement."""
        for stored in self._catalogue.agreements_of_owner(attachment.identity.member):
            order = _pending_order(stored)
            if order is None:
                continue
            if attachment.push_agreement(order, ACKNOWLEDGE_WAIT_S):
                self._catalogue.acknowledge(order.agreement_id, revoked=bool(order.revocation_json))
            else:
                self._log.warning(
                    "node did not store an agreement", node=str(attachment.identity), id=order.agreement_id
                )


def _agreement_order(signed: SignedAgreement) -> AgreementOrder:
    text = signed.agreement.signed_bytes().decode()
    return AgreementOrder(signed.agreement.id, text, signed.signature, signed.chain_pem)


def _pending_order(stored: StoredAgreement) -> AgreementOrder | None:
    if stored.revocation is not None:
        revocation = stored.revocation
        return AgreementOrder(
            stored.signed.agreement.id,
            "",
            revocation.signature,
            revocation.chain_pem,
            revocation.document.decode(),
        )
    return None if stored.state == "expired" else _agreement_order(stored.signed)

"""Enrolment: invitations, joining and renewal. Whoever holds a certificate of the exchange got it here.

A join token works once, is kept as a hash alone, and is used up before anything is issued. Every certificate is
recorded in the log and in the directory before it leaves the house: what is not recorded is not handed out, and what
the directory does not know could not be revoked.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from audit import entries
from broker.authority import Authority, Issued
from catalogue.members import MemberDirectory
from tidegate.core.caller import Caller
from tidegate.core.canonical import sha256_hex
from tidegate.core.clock import Clock, Ids, parse_timestamp, timestamp
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.limits import JOIN_TOKEN_HOURS, RENEWAL_GRACE_DAYS
from tidegate.core.names import IdentityKind, SpiffeId
from tidegate.identity import keys
from tidegate.identity.certificates import CertificateFacts, csr_public_key, facts, verify_chain
from tidegate.identity.folder import ExchangeInfo
from tidegate.identity.joining import SECRET_BYTES, JoinToken, renewal_bytes

RENEWAL_SKEW = timedelta(minutes=5)  # between the clocks of a department and the broker
RENEWALS_REMEMBERED_MAX = 10_000

Record = Callable[[Mapping[str, Any]], object]
"""Writes an admin entry (``audit.entries.admin``) and returns when it is durable; raises AUDIT_UNAVAILABLE."""


@dataclass(frozen=True, slots=True)
class Invitation:
    """A join token, to be shown once, and what it is for."""

    token: str
    identity: SpiffeId
    expires_at: datetime


class Enrolment:
    """See the module. Thread-safe; several brokers may share one directory.

    Args:
        exchange: what a new member is told; its ``enrolment`` address stands in every token.
        record: see ``Record``.
    """

    def __init__(
        self,
        *,
        authority: Authority,
        members: MemberDirectory,
        clock: Clock,
        ids: Ids,
        record: Record,
        exchange: ExchangeInfo,
    ) -> None:
        self._authority = authority
        self._members = members
        self._clock = clock
        self._ids = ids
        self._record = record
        self.exchange = exchange
        self._lock = threading.Lock()
        self._renewed: OrderedDict[str, datetime] = OrderedDict()

    def invite(
        self,
        *,
        member: str,
        kind: IdentityKind,
        name: str,
        roles: Sequence[str] = (),
        clearance: str = "public",
        title: str = "",
        tier: str = "",
        by: Caller | None = None,
        request_id: str = "",
    ) -> Invitation:
        """Make a join token for one identity, and its member when it is new (or gets a title and tier).

        Args:
            by: the operator; None when the exchange itself acts (`tidegate init`).

        Raises:
            CallerError: CAT_INVALID, ID_WRONG_KIND (a broker joins nowhere), ID_REVOKED, CAT_CONFLICT.
        """
        if kind is IdentityKind.BROKER:
            raise error_for(Code.ID_WRONG_KIND, "invite: expected a service, a person or a node")
        identity = SpiffeId(self._authority.exchange, kind, member, name)
        known = self._members.identity(str(identity))
        if known is not None and known.revoked:
            raise error_for(Code.ID_REVOKED, "invite: the identity was revoked; reinstate it first")
        changes_member = self._members.member(member) is None or bool(title or tier)
        tier = tier or self._tier(member)
        details = {"tier": tier} if changes_member else {}
        expires_at = self._clock.now() + timedelta(hours=JOIN_TOKEN_HOURS)
        token = JoinToken.make(self.exchange.enrolment, self._authority.root_fingerprint, self._ids.nonce(SECRET_BYTES))
        # Recorded first: an unused entry does no harm, an unrecorded invitation, or an unrecorded tier, would.
        self._record(
            entries.admin(
                "enrolment",
                action="invited",
                subject=opaque_subject(self._members, str(identity)),
                actor=by,
                request_id=request_id,
                details={
                    "roles": ",".join(sorted(roles)),
                    "clearance": clearance,
                    "expires_at": timestamp(expires_at),
                    **details,
                },
            )
        )
        if changes_member:
            self._members.add_member(member, title or member, tier)
        self._members.put_token(token.sha256_hex, str(identity), roles, clearance, expires_at)
        return Invitation(token.text, identity, expires_at)

    def join(self, token_text: str, csr_pem: bytes, request_id: str = "") -> Issued:
        """Redeem a join token for a certificate.

        Raises:
            CallerError: ID_JOIN_TOKEN (unknown, used, expired: nobody learns which), ID_CERTIFICATE_INVALID (the
            request).

        Trust: anybody may call.
        """
        csr_public_key(csr_pem)  # before the token is used up: a bad request must not cost it
        token = JoinToken.parse(token_text)
        taken = self._members.take_token(token.sha256_hex)
        if taken is None:
            raise error_for(Code.ID_JOIN_TOKEN)
        identity = SpiffeId.parse(taken.spiffe)
        known = self._members.set_identity(taken.spiffe, taken.roles, taken.clearance)
        member = self._members.member(identity.member)
        caller = Caller(
            identity, tuple(taken.roles), taken.clearance, member.tier if member else "external", "", known.person
        )
        return self._certify(csr_pem, identity, caller, "joined", request_id)

    def renew_over_link(self, caller: Caller, csr_pem: bytes, request_id: str = "") -> Issued:
        """Renew for somebody whose link proves who it is; the guard has checked that it is not revoked."""
        return self._certify(csr_pem, caller.identity, caller, "renewed", request_id)

    def renew_expired(
        self, certificate_pem: bytes, csr_pem: bytes, time: str, signature: bytes, request_id: str = ""
    ) -> Issued:
        """Renew for somebody whose certificate may have ended, on a request signed by its key.

        Raises:
            CallerError: ID_RENEWAL (ended too long ago, stale, replayed, not signed by the key), ID_REVOKED,
                ID_CERTIFICATE_INVALID, ID_MEMBER_UNKNOWN.

        Trust: anybody may call; everything is hostile until the signature holds.
        """
        now = self._clock.now()
        shown = facts(certificate_pem)
        if now > shown.not_after + timedelta(days=RENEWAL_GRACE_DAYS):
            raise error_for(Code.ID_RENEWAL, f"the certificate ended more than {RENEWAL_GRACE_DAYS} days ago")
        verify_chain(certificate_pem, self._authority.issuers_pem, self._authority.root_pem, min(now, shown.not_after))
        self._check_signed(shown, csr_pem, time, signature, now)
        spiffe = str(shown.identity)
        if self._members.is_denied(shown.serial_hex, spiffe):
            raise error_for(Code.ID_REVOKED)
        known, member = self._members.identity(spiffe), self._members.member(shown.identity.member)
        if known is None or member is None:
            raise error_for(Code.ID_MEMBER_UNKNOWN, "the certificate names an identity that the exchange does not know")
        csr_public_key(csr_pem)
        self._once(sha256_hex(csr_pem), now)
        caller = Caller(shown.identity, known.roles, known.clearance, member.tier, shown.fingerprint, known.person)
        return self._certify(csr_pem, shown.identity, caller, "renewed", request_id)

    def _check_signed(
        self, shown: CertificateFacts, csr_pem: bytes, time: str, signature: bytes, now: datetime
    ) -> None:
        try:
            signed_at = parse_timestamp(time)
            keys.verify(shown.public_key, renewal_bytes(csr_pem, time), signature)
        except (ValueError, TidegateError) as error:
            raise error_for(Code.ID_RENEWAL, "the request is not signed by the certificate's key") from error
        if abs(now - signed_at) > RENEWAL_SKEW:
            raise error_for(Code.ID_RENEWAL, "the request's time is not the exchange's; check the clock")

    def _once(self, csr_sha256: str, now: datetime) -> None:
        """Refuse a request that was seen while its time is still good. A replay gains nothing, but fills the log."""
        with self._lock:
            while self._renewed and next(iter(self._renewed.values())) < now - 2 * RENEWAL_SKEW:
                self._renewed.popitem(last=False)
            if csr_sha256 in self._renewed or len(self._renewed) >= RENEWALS_REMEMBERED_MAX:
                raise error_for(Code.ID_RENEWAL, "the request was used before; make a new one")
            self._renewed[csr_sha256] = now

    def _certify(self, csr_pem: bytes, identity: SpiffeId, caller: Caller, action: str, request_id: str) -> Issued:
        issued = self._authority.issue(csr_pem, identity)
        shown = issued.facts
        self._record(
            entries.admin(
                "certificate",
                action=action,
                subject=shown.serial_hex,
                actor=caller,
                request_id=request_id,
                content_hash=shown.fingerprint,
                details={"not_after": timestamp(shown.not_after)},
            )
        )
        self._members.record_certificate(shown.serial_hex, str(identity), shown.fingerprint, shown.not_after)
        return issued

    def _tier(self, member: str) -> str:
        known = self._members.member(member)
        return known.tier if known is not None else "external"


def opaque_subject(members: MemberDirectory, spiffe: str) -> str:
    """Name an identity for the log: a person only by its opaque id, and by none before it has one."""
    identity = SpiffeId.parse(spiffe)
    if identity.kind is not IdentityKind.PERSON:
        return spiffe
    known = members.identity(spiffe)
    return f"{identity.member}/person/{known.person if known is not None else 'new'}"

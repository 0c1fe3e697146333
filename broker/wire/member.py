"""EnrolmentService and MemberService: joining, renewal, members, roles and revocation on the wire.

Handlers raise our errors; the guard before them makes statuses of those. What gives power (an invitation, a role) is
recorded before it takes effect; a revocation takes effect first, since that is the safe side when the log is away, and
is acknowledged only when it is recorded.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from audit import entries
from broker.enrolment import Enrolment, Record, opaque_subject
from broker.tokens import LIFETIME_S_MAX, IssuedToken, Tokens
from catalogue.members import MemberDirectory
from tidegate.core.caller import Caller
from tidegate.core.canonical import sha256_hex
from tidegate.core.clock import timestamp
from tidegate.core.errors import Code, error_for
from tidegate.core.limits import PROTOCOL_VERSION
from tidegate.core.names import IdentityKind, SpiffeId
from tidegate.v1 import common_pb2, member_service_pb2, member_service_pb2_grpc

if TYPE_CHECKING:
    from broker.wire.guard import Guard

IDEMPOTENCY_KEY_CHARS_MAX = 128
REPLIES_KEPT_MAX = 1_000
CSR_BYTES_MAX = 8 << 10
_Reply = TypeVar("_Reply")
_KINDS = {"service": IdentityKind.SERVICE, "person": IdentityKind.PERSON, "node": IdentityKind.NODE}


class EnrolmentServicer(member_service_pb2_grpc.EnrolmentServiceServicer):
    """The service on the enrolment listener. Trust: anybody may call."""

    def __init__(self, *, enrolment: Enrolment) -> None:
        self._enrolment = enrolment

    def Join(
        self, request: member_service_pb2.JoinRequest, context: grpc.ServicerContext
    ) -> member_service_pb2.JoinResponse:
        """Redeem a join token."""
        if request.version.protocol != PROTOCOL_VERSION:
            raise error_for(Code.WIRE_VERSION, f"join: this broker speaks protocol {PROTOCOL_VERSION}")
        issued = self._enrolment.join(request.token, _csr(request.csr_pem))
        return member_service_pb2.JoinResponse(
            certificate_pem=issued.certificate_pem,
            chain_pem=issued.chain_pem,
            exchange_json=self._enrolment.exchange.to_text(),
            version=_version(),
        )

    def Renew(
        self, request: member_service_pb2.RenewRequest, context: grpc.ServicerContext
    ) -> member_service_pb2.RenewResponse:
        """Renew a certificate that may have ended."""
        issued = self._enrolment.renew_expired(
            request.certificate_pem, _csr(request.csr_pem), request.time, request.signature
        )
        return member_service_pb2.RenewResponse(certificate_pem=issued.certificate_pem, chain_pem=issued.chain_pem)


class MemberServicer(member_service_pb2_grpc.MemberServiceServicer):
    """The service on the callers' listener.

    Args:
        attached: whether one of the member's nodes is attached now.
        tokens: None where the exchange has no bearer listener; bearer_address: of that listener, as callers reach it.
    """

    def __init__(
        self,
        *,
        guard: Guard,
        enrolment: Enrolment,
        members: MemberDirectory,
        record: Record,
        attached: Callable[[str], bool],
        tokens: Tokens | None = None,
        bearer_address: str = "",
    ) -> None:
        self._guard = guard
        self._enrolment = enrolment
        self._members = members
        self._record = record
        self._attached = attached
        self._tokens = tokens
        self._bearer_address = bearer_address
        self._replies = Replies()

    def AddMember(
        self, request: member_service_pb2.AddMemberRequest, context: grpc.ServicerContext
    ) -> member_service_pb2.AddMemberResponse:
        """Invite an identity; the token is in the response and nowhere else."""
        operator = self._operator(context)
        if request.kind not in _KINDS:
            raise error_for(Code.CAT_INVALID, f"kind: expected one of {', '.join(_KINDS)}")

        def work() -> member_service_pb2.AddMemberResponse:
            invitation = self._enrolment.invite(
                member=request.member,
                kind=_KINDS[request.kind],
                name=request.name,
                roles=tuple(request.roles),
                clearance=request.clearance or "public",
                title=request.title,
                tier=request.tier,
                by=operator,
                request_id=self._guard.request_id(context),
            )
            return member_service_pb2.AddMemberResponse(
                token=invitation.token,
                identity=str(invitation.identity),
                expires_at=timestamp(invitation.expires_at),
            )

        return self._replies.once(operator, request, work)

    def ListMembers(
        self, request: member_service_pb2.ListMembersRequest, context: grpc.ServicerContext
    ) -> member_service_pb2.ListMembersResponse:
        """List members with their identities, by name."""
        self._operator(context)
        page = self._members.members(page_size=request.page_size, page_token=request.page_token)
        members = [
            member_service_pb2.Member(
                name=member.name,
                title=member.title,
                tier=member.tier,
                revoked=member.revoked,
                attached=self._attached(member.name),
                identities=[
                    member_service_pb2.Identity(
                        spiffe_id=item.spiffe,
                        roles=item.roles,
                        clearance=item.clearance,
                        revoked=item.revoked,
                        not_after=item.not_after,
                    )
                    for item in member.identities
                ],
            )
            for member in page.members
        ]
        return member_service_pb2.ListMembersResponse(members=members, next_page_token=page.next_page_token)

    def Revoke(
        self, request: member_service_pb2.RevokeRequest, context: grpc.ServicerContext
    ) -> member_service_pb2.RevokeResponse:
        """Revoke a member, an identity or a certificate; open streams under it end within a second."""
        operator = self._operator(context)

        def work() -> member_service_pb2.RevokeResponse:
            subject = request.member or request.serial
            if request.identity:
                subject = opaque_subject(self._members, request.identity)
            self._members.revoke(
                member=request.member, identity=request.identity, serial=request.serial, reason=request.reason
            )
            self._admin("revocation", "revoked", subject, operator, context)
            return member_service_pb2.RevokeResponse()

        return self._replies.once(operator, request, work)

    def SetRoles(
        self, request: member_service_pb2.SetRolesRequest, context: grpc.ServicerContext
    ) -> member_service_pb2.SetRolesResponse:
        """Give an identity the roles and clearance that it has from now on."""
        operator = self._operator(context)
        SpiffeId.parse(request.identity)
        if self._members.identity(request.identity) is None:
            raise error_for(Code.ID_MEMBER_UNKNOWN)

        def work() -> member_service_pb2.SetRolesResponse:
            subject = opaque_subject(self._members, request.identity)
            details = {"roles": ",".join(sorted(request.roles)), "clearance": request.clearance}
            self._admin("role", "set", subject, operator, context, details)
            self._members.set_identity(request.identity, tuple(request.roles), request.clearance)
            return member_service_pb2.SetRolesResponse()

        return self._replies.once(operator, request, work)

    def RenewCertificate(
        self, request: member_service_pb2.RenewCertificateRequest, context: grpc.ServicerContext
    ) -> member_service_pb2.RenewCertificateResponse:
        """Renew the certificate of the caller over the link that it opened."""
        issued = self._enrolment.renew_over_link(
            self._guard.caller(context), _csr(request.csr_pem), self._guard.request_id(context)
        )
        return member_service_pb2.RenewCertificateResponse(
            certificate_pem=issued.certificate_pem, chain_pem=issued.chain_pem
        )

    def WhoAmI(
        self, request: member_service_pb2.WhoAmIRequest, context: grpc.ServicerContext
    ) -> member_service_pb2.WhoAmIResponse:
        """Say who the caller is to this exchange."""
        caller = self._guard.caller(context)
        return member_service_pb2.WhoAmIResponse(
            identity=str(caller.identity),
            roles=caller.roles,
            clearance=caller.clearance,
            tier=caller.tier,
            not_after=timestamp(self._guard.certificate(context).not_after),
            version=_version(),
            exchange_json=self._enrolment.exchange.to_text(),
        )

    def IssueToken(
        self, request: member_service_pb2.IssueTokenRequest, context: grpc.ServicerContext
    ) -> member_service_pb2.IssueTokenResponse:
        """Give the person of the certificate a bearer token; it is in the response and nowhere else."""
        caller = self._guard.caller(context)
        if self._tokens is None:
            raise error_for(
                Code.WIRE_UNSUPPORTED, "this exchange has no listener for bearer tokens; use `tidegate proxy`"
            )
        lifetime_s = request.lifetime_s or LIFETIME_S_MAX

        def record(issued: IssuedToken) -> None:
            self._record(
                entries.admin(
                    "certificate",
                    action="bearer_token",
                    subject=caller.person,
                    actor=caller,
                    request_id=self._guard.request_id(context),
                    content_hash=issued.shown.fingerprint,
                    details={"lifetime_s": lifetime_s},
                )
            )

        issued = self._tokens.issue(self._guard.certificate(context), lifetime_s, record)
        return member_service_pb2.IssueTokenResponse(
            token=issued.text, expires_at=timestamp(issued.expires_at), address=self._bearer_address
        )

    def _operator(self, context: grpc.ServicerContext) -> Caller:
        caller = self._guard.caller(context)
        if "operator" not in caller.roles:
            raise error_for(Code.ID_ROLE_MISSING, "this call needs the role operator")
        return caller

    def _admin(
        self,
        kind: str,
        action: str,
        subject: str,
        operator: Caller,
        context: grpc.ServicerContext,
        details: Mapping[str, str] | None = None,
    ) -> None:
        request_id = self._guard.request_id(context)
        self._record(
            entries.admin(kind, action=action, subject=subject, actor=operator, request_id=request_id, details=details)
        )


class Replies:
    """What was answered to a write, by its idempotency key, so that a repeated request is answered and not done again.

    In memory: a repetition after a restart is done again, which for these writes gives the same state (AddMember: one
    more token). The lock is held while a write runs; operators' writes are few.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, str, str], tuple[str, Any]] = OrderedDict()

    def once(self, caller: Caller, request: Any, work: Callable[[], _Reply]) -> _Reply:
        """Do the work, or give what it gave when the caller sent the same request under the same key before.

        Raises:
            CallerError: WIRE_INVALID without a key; CAT_CONFLICT when the key was used for another request.
        """
        key = request.idempotency_key
        if not 1 <= len(key) <= IDEMPOTENCY_KEY_CHARS_MAX:
            raise error_for(Code.WIRE_INVALID, f"idempotency key: expected 1 to {IDEMPOTENCY_KEY_CHARS_MAX} characters")
        place = (str(caller.identity), type(request).__name__, key)
        digest = sha256_hex(request.SerializeToString(deterministic=True))
        with self._lock:
            kept = self._kept.get(place)
            if kept is not None:
                if kept[0] != digest:
                    raise error_for(Code.CAT_CONFLICT, "idempotency key: it was used for another request")
                reply: _Reply = kept[1]
                return reply
            reply = work()
            self._kept[place] = (digest, reply)
            while len(self._kept) > REPLIES_KEPT_MAX:
                self._kept.popitem(last=False)
            return reply


def _csr(pem: bytes) -> bytes:
    if not 0 < len(pem) <= CSR_BYTES_MAX:
        raise error_for(Code.WIRE_INVALID, f"signing request: expected 1 to {CSR_BYTES_MAX} bytes")
    return pem


def _version() -> common_pb2.Version:
    return common_pb2.Version(protocol=PROTOCOL_VERSION)

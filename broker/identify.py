"""Room 1, identify: credentials become a Caller, at every call.

gRPC checks a certificate at the handshake alone, and that once per connection. So each call is held to the
certificate's times, to the deny-list and to what the directory says of the identity now (design doors.md, Identity).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from tidegate.core.caller import BY_BEARER, Caller
from tidegate.core.clock import Clock
from tidegate.core.errors import Code, error_for
from tidegate.core.names import IdentityKind
from tidegate.identity.certificates import CertificateFacts, facts

TLS_VERSION = "TLSv1.3"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the transport knows of the peer. The TLS library verified the chain under the exchange's root."""

    certificate_pem: bytes
    tls_version: str


class IdentityRecord(Protocol):
    """What the directory says of one identity."""

    @property
    def roles(self) -> tuple[str, ...]:
        """Held in the catalogue, never in the certificate."""
        ...

    @property
    def clearance(self) -> str:
        """Highest sensitivity that may be shown to it."""
        ...

    @property
    def revoked(self) -> bool:
        """Whether it may take part no longer."""
        ...

    @property
    def person(self) -> str:
        """Opaque id of a person; empty for others."""
        ...


class MemberRecord(Protocol):
    """What the directory says of one member."""

    @property
    def tier(self) -> str:
        """``government`` or ``external``."""
        ...


class Directory(Protocol):
    """The part of ``catalogue.members.MemberDirectory`` that this room reads at every call, in microseconds."""

    def identity(self, spiffe: str) -> IdentityRecord | None:
        """Find an identity."""
        ...

    def member(self, name: str) -> MemberRecord | None:
        """Find a member."""
        ...

    def is_denied(self, serial_hex: str, spiffe: str) -> bool:
        """Say whether the certificate, its identity or its member was revoked."""
        ...

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have the callback called after any revocation or change of roles; gives a way to unsubscribe."""
        ...


class Identify:
    """The room. Stateless: what it says holds at the moment of the call and no longer."""

    def __init__(self, *, exchange: str, directory: Directory, clock: Clock) -> None:
        self._exchange = exchange
        self._directory = directory
        self._clock = clock

    def identify(self, credentials: Credentials) -> Caller:
        """Say who is asking.

        Raises:
            CallerError: ID_NO_CERTIFICATE, ID_TLS_VERSION, ID_CERTIFICATE_INVALID, ID_CERTIFICATE_EXPIRED, ID_REVOKED,
                ID_MEMBER_UNKNOWN, or ID_WRONG_KIND for a broker, which is nobody's caller.
        """
        return self.examine(self.read(credentials))

    def read(self, credentials: Credentials) -> CertificateFacts:
        """Read the certificate alone: form and exchange, neither time nor standing."""
        if not credentials.certificate_pem:
            raise error_for(Code.ID_NO_CERTIFICATE)
        if credentials.tls_version != TLS_VERSION:
            raise error_for(Code.ID_TLS_VERSION)
        shown = facts(credentials.certificate_pem)
        if shown.identity.exchange != self._exchange:
            raise error_for(Code.ID_CERTIFICATE_INVALID, "certificate: it names another exchange")
        return shown

    def examine(self, shown: CertificateFacts) -> Caller:
        """Hold a certificate that was read to time, deny-list and directory, as they are now."""
        now = self._clock.now()
        if shown.bound == BY_BEARER and now > shown.not_after:
            raise error_for(Code.ID_BEARER, "the bearer token has ended; get a new one with `tidegate token`")
        shown.check_time(now)
        spiffe = str(shown.identity)
        if self._directory.is_denied(shown.serial_hex, spiffe):
            raise error_for(Code.ID_REVOKED)
        if shown.identity.kind is IdentityKind.BROKER:
            raise error_for(Code.ID_WRONG_KIND, "a broker's certificate calls no service of a broker")
        record, member = self._directory.identity(spiffe), self._directory.member(shown.identity.member)
        if record is None or member is None:
            raise error_for(Code.ID_MEMBER_UNKNOWN, "the certificate names an identity that the exchange does not know")
        if record.revoked:
            raise error_for(Code.ID_REVOKED)
        return Caller(
            identity=shown.identity,
            roles=tuple(sorted(record.roles)),
            clearance=record.clearance,
            tier=member.tier,
            fingerprint=shown.fingerprint,
            person=record.person,
            bound=shown.bound,
        )

    def stranger(self, shown: CertificateFacts) -> Caller:
        """Give somebody who was refused as a value for the log: named as far as it is known, without rights."""
        record = self._directory.identity(str(shown.identity))
        person = ""
        if shown.identity.kind is IdentityKind.PERSON:
            # The log holds no person's name: without an opaque id, the certificate's fingerprint stands in for one.
            person = record.person if record is not None else f"x{shown.fingerprint[:24]}"
        return Caller(shown.identity, (), "public", "external", shown.fingerprint, person, shown.bound)

"""Who is asking: the value that the first room makes out of a certificate."""

from __future__ import annotations

from dataclasses import dataclass

from tidegate.core.names import SpiffeId

BY_CERTIFICATE = "certificate"
BY_BEARER = "bearer"


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated identity with what the catalogue says about it.

    Args:
        identity: from the certificate's one URI SAN.
        roles: held in the catalogue, never in the certificate (``analyst``, ``steward``, ``auditor``, ``operator``).
        clearance: highest sensitivity that may be shown to it: ``public`` < ``internal`` < ``restricted`` < ``secret``.
        tier: of its member: ``government``, ``external``.
        fingerprint: lower-case hex SHA-256 of the certificate's DER form.
        bound: how the caller is bound to its connection: ``certificate``, or ``bearer`` for one that showed a token, which
            whoever holds it may show; the fingerprint is then of the token's own name, not of a certificate.
        person: opaque id of a person, scoped to its member; empty for services. Entries hold this, never a name.
    """

    identity: SpiffeId
    roles: tuple[str, ...]
    clearance: str
    tier: str
    fingerprint: str
    person: str = ""
    bound: str = BY_CERTIFICATE

    @property
    def member(self) -> str:
        """The member that answers for the caller."""
        return self.identity.member

    def to_question(self) -> dict[str, object]:
        """Give the ``caller`` object of a policy question (policies/schemas/question.schema.json)."""
        return {
            "member": self.identity.member,
            "kind": self.identity.kind.value,
            "name": self.person or self.identity.name,
            "roles": sorted(self.roles),
            "clearance": self.clearance,
            "tier": self.tier,
            "bound": self.bound,
        }

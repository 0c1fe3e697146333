"""Agreements in the catalogue: copies of what owners' stewards signed, and of what they took back.

The catalogue is the second place: a node decides from the documents that it holds itself (design policy.md, what the
node believes). What is checked here is checked again there; here it keeps out what no node would accept, and tells the
owner's steward so at once. The signed bytes are stored as they came.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

from sqlalchemy import Connection, Engine, Row, insert, select, update

from catalogue.database import CATALOGUE, reading, writing
from catalogue.pages import Token, page_size_of
from catalogue.purposes import Record, unrecorded
from catalogue.tables import AGREEMENTS, DATASETS, MEMBERS, PURPOSE_BASES
from catalogue.texts import plain_text
from tidegate.core.agreement import Agreement, SignedAgreement
from tidegate.core.canonical import parse_json, sha256_hex
from tidegate.core.clock import Clock, parse_timestamp, timestamp
from tidegate.core.dataset import Dataset, DatasetClass
from tidegate.core.errors import Code, error_for
from tidegate.core.names import DatasetName, IdentityKind, SpiffeId

CLOCK_SKEW_S: Final = 300  # between a steward's machine and ours
REVOCATION_BYTES_MAX: Final = 4_096
REASON_CHARS_MAX: Final = 500


class Signature(Protocol):
    """Facts about a signer; ``tidegate.identity.certificates.CertificateFacts`` is one."""

    @property
    def identity(self) -> SpiffeId:
        """Whose certificate made the signature."""
        ...

    @property
    def serial_hex(self) -> str:
        """Serial number of that certificate."""
        ...


class Verify(Protocol):
    """Check a signature under the exchange's root; raises when it does not hold."""

    def __call__(self, data: bytes, signature: bytes, chain_pem: bytes, at: datetime, /) -> Signature:
        """Give the facts about the signer."""
        ...


class Signers(Protocol):
    """What must be known about signers; ``catalogue.members.MemberDirectory`` knows it."""

    def is_denied(self, serial_hex: str, spiffe: str) -> bool:
        """Say whether the certificate or its identity was revoked."""
        ...

    def holds_role(self, spiffe: str, role: str) -> bool:
        """Say whether the identity holds the role now."""
        ...


@dataclass(frozen=True, slots=True)
class Revocation:
    """A steward's signed word that an agreement ends. What is signed is ``document`` as it stands."""

    document: bytes
    signature: bytes
    chain_pem: bytes


@dataclass(frozen=True, slots=True)
class StoredAgreement:
    """An agreement with its state.

    Args:
        state: ``granted``, ``expired`` or ``revoked``, at the time of asking.
        at_node: the owner's node has acknowledged this state.
    """

    signed: SignedAgreement
    state: str
    at_node: bool
    revocation: Revocation | None = None


@dataclass(frozen=True, slots=True)
class AgreementPage:
    """Some agreements, by id; an empty token means that these were the last."""

    agreements: tuple[StoredAgreement, ...]
    next_page_token: str


class AgreementRegister:
    """Signed agreements in the catalogue's database.

    Args:
        verify: checks signatures; without it no agreement is taken (fail closed).
        signers: knows who was revoked and who is a steward; without it no agreement is taken.
    """

    def __init__(
        self, engine: Engine, clock: Clock, *, verify: Verify | None = None, signers: Signers | None = None
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._verify = verify
        self._signers = signers

    def put_agreement(self, signed: SignedAgreement, *, record: Record = unrecorded) -> StoredAgreement:
        """Take an agreement; the same document again changes nothing.

        Raises:
            CallerError: CAT_AGREEMENT; not signed by a steward of the owner, or terms that cannot hold.
                CAT_CONFLICT; another agreement has this id. CAT_NOT_FOUND; no such dataset.
        """
        agreement, now = signed.agreement, self._clock.now()
        document = bytes(agreement.signed_bytes())
        issued, expires = _lifetime(agreement, now)
        identity = self._signer(document, signed.signature, signed.chain_pem, agreement.owner, issued, now)
        if agreement.granted_by != identity:
            raise error_for(Code.CAT_AGREEMENT, "agreement: signed by another identity than it names")
        with writing(self._engine, CATALOGUE) as connection:
            row = connection.execute(select(AGREEMENTS).where(AGREEMENTS.c.id == agreement.id)).first()
            if row is not None:
                if row.document.encode() != document:
                    raise error_for(Code.CAT_CONFLICT, "agreement: another one has this id")
                return _stored(row, now)
            _check_terms(connection, agreement)
            connection.execute(
                insert(AGREEMENTS).values(
                    id=agreement.id,
                    dataset=str(agreement.dataset),
                    owner=agreement.owner,
                    grantee=agreement.grantee,
                    document=document.decode(),
                    signature=signed.signature,
                    chain_pem=signed.chain_pem,
                    issued_at=timestamp(issued),
                    expires_at=timestamp(expires),
                    at_node=False,
                )
            )
            record(_entry("grant", agreement, {"document_sha256": sha256_hex(document)}))
        return StoredAgreement(signed, "granted", at_node=False)

    def revoke_agreement(
        self, document: bytes, signature: bytes, chain_pem: bytes, *, record: Record = unrecorded
    ) -> StoredAgreement:
        """End an agreement on the owner's word ``{"revoke": id, "at": time, "reason": text}``; final.

        Raises:
            CallerError: CAT_AGREEMENT; not a steward of the owner, or not of that form. CAT_NOT_FOUND.
        """
        revocation, now = Revocation(document, signature, chain_pem), self._clock.now()
        agreement_id, at, reason = _revocation(document)
        if at > now + timedelta(seconds=CLOCK_SKEW_S):
            raise error_for(Code.CAT_AGREEMENT, "revocation: made in the future; check the clock of the one who signed")
        found = self.agreement(agreement_id)
        agreement = found.signed.agreement
        self._signer(document, signature, chain_pem, agreement.owner, at, now)
        with writing(self._engine, CATALOGUE) as connection:
            row = connection.execute(select(AGREEMENTS).where(AGREEMENTS.c.id == agreement_id)).one()
            if row.revoked_at is not None:
                return _stored(row, now)
            connection.execute(
                update(AGREEMENTS)
                .where(AGREEMENTS.c.id == agreement_id)
                .values(
                    revoked_at=timestamp(now),
                    revocation=document.decode(),
                    revocation_signature=signature,
                    revocation_chain_pem=chain_pem,
                    at_node=False,
                )
            )
            record(_entry("revoke", agreement, {"reason": reason, "document_sha256": sha256_hex(document)}))
        return StoredAgreement(found.signed, "revoked", at_node=False, revocation=revocation)

    def agreement(self, agreement_id: str) -> StoredAgreement:
        """Give one agreement, whatever its state.

        Raises:
            CallerError: CAT_NOT_FOUND.
        """
        with reading(self._engine) as connection:
            row = connection.execute(select(AGREEMENTS).where(AGREEMENTS.c.id == agreement_id)).first()
        if row is None:
            raise error_for(Code.CAT_NOT_FOUND)
        return _stored(row, self._clock.now())

    def agreements_for(self, datasets: Iterable[DatasetName], grantee: str, at: datetime) -> tuple[Agreement, ...]:
        """Give the agreements that are in force at that time, by id."""
        names, moment, table = [str(name) for name in datasets], timestamp(at), AGREEMENTS.c
        query = select(AGREEMENTS).where(
            table.dataset.in_(names),
            table.grantee == grantee,
            table.revoked_at.is_(None),
            table.issued_at <= moment,
            table.expires_at > moment,
        )
        with reading(self._engine) as connection:
            rows = connection.execute(query).all()
        found = (Agreement.from_json(json.loads(row.document)) for row in rows)
        return tuple(sorted(found, key=lambda agreement: agreement.id))

    def agreements_of_owner(self, owner: str, *, pending: bool = False) -> tuple[StoredAgreement, ...]:
        """Give all agreements of an owner, by id: what its node is told when it attaches.

        Args:
            pending: only those whose present state the node has not acknowledged.
        """
        query = select(AGREEMENTS).where(AGREEMENTS.c.owner == owner)
        if pending:
            query = query.where(AGREEMENTS.c.at_node.is_(False))
        with reading(self._engine) as connection:
            rows = connection.execute(query).all()
        now = self._clock.now()
        return tuple(sorted((_stored(row, now) for row in rows), key=lambda item: item.signed.agreement.id))

    def acknowledge(self, agreement_id: str, *, revoked: bool) -> None:
        """Note that the owner's node holds the agreement, or its revocation."""
        table = AGREEMENTS.c
        state = table.revoked_at.is_not(None) if revoked else table.revoked_at.is_(None)
        with writing(self._engine) as connection:
            connection.execute(update(AGREEMENTS).where(table.id == agreement_id, state).values(at_node=True))

    def list_agreements(
        self, member: str, *, dataset: str = "", grantee: str = "", page_size: int = 0, page_token: str = ""
    ) -> AgreementPage:
        """Give the agreements that the member has a part in, as owner or grantee; all of them for an empty member."""
        size, table = page_size_of(page_size), AGREEMENTS.c
        query = select(AGREEMENTS)
        if member:
            query = query.where((table.owner == member) | (table.grantee == member))
        if dataset:
            query = query.where(table.dataset == dataset)
        if grantee:
            query = query.where(table.grantee == grantee)
        after = Token.read(page_token, "agreements").text(0) if page_token else ""
        with reading(self._engine) as connection:
            # Sorted here: databases sort texts by their own collation, page tokens by code point.
            rows = sorted((row for row in connection.execute(query) if row.id > after), key=lambda row: str(row.id))
        token = Token("agreements", (rows[size - 1].id,)).write() if len(rows) > size else ""
        now = self._clock.now()
        return AgreementPage(tuple(_stored(row, now) for row in rows[:size]), token)

    def _signer(
        self, data: bytes, signature: bytes, chain_pem: bytes, owner: str, signed_at: datetime, now: datetime
    ) -> str:
        """Give the SPIFFE id of the steward of the owner who signed, or refuse.

        The certificate must be valid now, and at the time that the document names: nodes will check that time, when the
        certificate of a day has long ended.
        """
        if self._verify is None or self._signers is None:
            raise error_for(Code.CAT_AGREEMENT, "agreement: this catalogue cannot check signatures")
        self._verify(data, signature, chain_pem, signed_at)
        facts = self._verify(data, signature, chain_pem, now)
        identity = str(facts.identity)
        if facts.identity.member != owner or facts.identity.kind not in (IdentityKind.PERSON, IdentityKind.SERVICE):
            raise error_for(Code.CAT_AGREEMENT, "agreement: expected the signature of a steward of the owner")
        if self._signers.is_denied(facts.serial_hex, identity) or not self._signers.holds_role(identity, "steward"):
            raise error_for(Code.CAT_AGREEMENT, "agreement: expected the signature of a steward of the owner")
        return identity


def _lifetime(agreement: Agreement, now: datetime) -> tuple[datetime, datetime]:
    try:
        issued, expires = parse_timestamp(agreement.issued_at), parse_timestamp(agreement.expires_at)
    except ValueError as error:
        raise error_for(Code.CAT_AGREEMENT, "agreement: a time is not RFC 3339 with its zone") from error
    if issued > now + timedelta(seconds=CLOCK_SKEW_S):
        raise error_for(Code.CAT_AGREEMENT, "agreement: issued in the future; check the clock of the one who signed")
    if expires <= now or expires <= issued:
        raise error_for(Code.CAT_AGREEMENT, "agreement: it has expired")
    return issued, expires


def _check_terms(connection: Connection, agreement: Agreement) -> None:
    row = connection.execute(select(DATASETS.c.document).where(DATASETS.c.name == str(agreement.dataset))).first()
    dataset = Dataset.from_json(json.loads(row.document)) if row is not None else None
    if dataset is None or dataset.withdrawn or dataset.owner != agreement.owner:
        raise error_for(Code.CAT_NOT_FOUND)
    plain_text("agreement id", agreement.id, chars_max=100)
    if dataset.parts:
        raise error_for(Code.CAT_AGREEMENT, "agreement: a collection has none; each owner of a part signs for the part")
    if dataset.dataset_class is DatasetClass.CLOSED:
        raise error_for(Code.CAT_AGREEMENT, "agreement: the dataset is closed by law")
    if not set(agreement.columns) <= {column.name for column in dataset.columns}:
        raise error_for(Code.CAT_AGREEMENT, "agreement: it names a column that the dataset does not have")
    if connection.execute(select(MEMBERS.c.name).where(MEMBERS.c.name == agreement.grantee)).first() is None:
        raise error_for(Code.CAT_AGREEMENT, "agreement: the grantee is no member")
    bases = PURPOSE_BASES.c
    for purpose in agreement.purposes:
        carried = select(bases.basis).where(bases.purpose == purpose, bases.basis == agreement.legal_basis)
        if connection.execute(carried).first() is None:
            raise error_for(Code.CAT_AGREEMENT, "agreement: its legal basis is not registered for one of its purposes")


def _revocation(document: bytes) -> tuple[str, datetime, str]:
    data = parse_json(document, size_bytes_max=REVOCATION_BYTES_MAX)
    if not isinstance(data, dict) or set(data) != {"revoke", "at", "reason"}:
        raise error_for(Code.CAT_AGREEMENT, "revocation: expected the fields revoke, at and reason")
    agreement_id, at, reason = data["revoke"], data["at"], data["reason"]
    if not (isinstance(agreement_id, str) and isinstance(at, str) and isinstance(reason, str) and reason.strip()):
        raise error_for(Code.CAT_AGREEMENT, "revocation: expected texts, and a reason that is not empty")
    plain_text("revocation reason", reason, chars_max=REASON_CHARS_MAX)
    try:
        return agreement_id, parse_timestamp(at), reason
    except ValueError as error:
        raise error_for(Code.CAT_AGREEMENT, "revocation: a time is not RFC 3339 with its zone") from error


def _entry(action: str, agreement: Agreement, more: dict[str, Any]) -> dict[str, Any]:
    return {
        "kind": "agreement",
        "action": action,
        "agreement": agreement.id,
        "dataset": str(agreement.dataset),
        "grantee": agreement.grantee,
        **more,
    }


def _stored(row: Row[*tuple[Any, ...]], now: datetime) -> StoredAgreement:
    signed = SignedAgreement(Agreement.from_json(json.loads(row.document)), row.signature, row.chain_pem)
    if row.revoked_at is None:
        state = "granted" if row.expires_at > timestamp(now) else "expired"
        return StoredAgreement(signed, state, row.at_node)
    revocation = Revocation(row.revocation.encode(), row.revocation_signature, row.revocation_chain_pem)
    return StoredAgreement(signed, "revoked", row.at_node, revocation)

"""The node's own agreements: documents that a steward of this department signed, each verified here, kept in a folder.

A broker can carry an agreement to the node and cannot make one. A folder entry is one file per document, named by the
hash of its id, written so that a crash leaves all of it or nothing; everything is verified again when it is read. What is
revoked stays revoked: the revocation is kept for ever, also when it came before its agreement.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import structlog

from tidegate.core.agreement import Agreement, SignedAgreement
from tidegate.core.canonical import CanonicalBytes, canonical, parse_json, sha256_hex
from tidegate.core.clock import Clock, parse_timestamp
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.names import DatasetName, IdentityKind, SpiffeId
from tidegate.identity.certificates import CertificateFacts
from tidegate.identity.documents import verify_document
from tidegate.identity.keys import write_private

DOCUMENT_BYTES_MAX = 256 << 10
CLOCK_SKEW = timedelta(seconds=60)  # a steward's workstation may be less exact than a server
_ID_CHARS_MAX = 200


class AgreementStore:
    """The folder. Thread-safe; opened once.

    Args:
        stewards: who may sign, as the node's configuration lists them; the catalogue's roles are the broker's word.
        recorded: told of every change before it is acknowledged, as an administrative entry of the node's log.
    """

    def __init__(
        self,
        folder: Path,
        *,
        member: str,
        stewards: Sequence[SpiffeId],
        root_pem: Callable[[], bytes],
        recorded: Callable[[str, str, str], None],
        clock: Clock,
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._folder = folder
        self._member = member
        self._stewards = frozenset(stewards)
        self._root_pem = root_pem
        self._recorded = recorded
        self._clock = clock
        self._log = log
        self._lock = threading.Lock()
        self._agreements: dict[str, Agreement] = {}
        self._revoked: set[str] = set()
        self._revocations_kept: set[str] = set()  # of the revoked, those that are written and recorded
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._load()

    def store(self, signed: SignedAgreement) -> None:
        """Verify and keep an agreement; keeping the same one twice is no error.

        Trust: the signature alone counts, not who carried it.

        Raises:
            CallerError: CAT_AGREEMENT. CallerError: CAT_CONFLICT for another document under a known id.
        """
        agreement = signed.agreement
        signer = self._verify(signed)
        with self._lock:
            known = self._agreements.get(agreement.id)
            if known is not None and known.signed_bytes() != agreement.signed_bytes():
                raise error_for(Code.CAT_CONFLICT, "agreement: another one with this id is stored")
            if known is not None:
                return
            # Recorded first: a crash here leaves an entry about an agreement that is not in force, never the other way round.
            self._recorded("agreement_stored", agreement.id, sha256_hex(agreement.signed_bytes()))
            document = {"agreement": agreement.to_json()}
            self._write("agreement", agreement.id, document, signed.signature, signed.chain_pem)
            self._agreements[agreement.id] = agreement
        self._log.info(
            "agreement stored", agreement=agreement.id, dataset=str(agreement.dataset), by=str(signer.identity)
        )

    def revoke(self, revocation_json: str, signature: bytes, chain_pem: bytes) -> str:
        """Verify and keep a revocation; gives the agreement's id.

        Raises:
            CallerError: CAT_AGREEMENT.
        """
        document, data = _revocation(revocation_json)
        self._check_signer(self._signer(data, signature, chain_pem, parse_timestamp(document["at"])))
        agreement_id = document["revoke"]
        with self._lock:
            # In force before it is written or recorded: a failing disk must not keep an agreement alive.
            self._revoked.add(agreement_id)
            if agreement_id not in self._revocations_kept:
                self._write("revocation", agreement_id, {"revocation": document}, signature, chain_pem)
                self._recorded("agreement_revoked", agreement_id, sha256_hex(data))
                self._revocations_kept.add(agreement_id)
        self._log.info("agreement revoked", agreement=agreement_id)
        return agreement_id

    def for_request(self, datasets: Iterable[DatasetName], grantee: str, at: datetime) -> tuple[Agreement, ...]:
        """Give the agreements in force between these datasets and this member."""
        wanted = frozenset(datasets)
        with self._lock:
            return tuple(
                agreement
                for key, agreement in sorted(self._agreements.items())
                if key not in self._revoked
                and agreement.dataset in wanted
                and agreement.grantee == grantee
                and parse_timestamp(agreement.issued_at) <= at + CLOCK_SKEW
                and at < parse_timestamp(agreement.expires_at)
            )

    @property
    def counts(self) -> tuple[int, int]:
        """How many agreements and revocations are kept."""
        with self._lock:
            return len(self._agreements), len(self._revoked)

    def _verify(self, signed: SignedAgreement) -> CertificateFacts:
        agreement = signed.agreement
        if agreement.owner != self._member or agreement.dataset.department != self._member:
            raise error_for(Code.CAT_AGREEMENT, "agreement: about another department's data")
        if len(agreement.id) > _ID_CHARS_MAX:
            raise error_for(Code.CAT_AGREEMENT, "agreement: its id is too long")
        try:
            issued, expires = parse_timestamp(agreement.issued_at), parse_timestamp(agreement.expires_at)
        except ValueError as error:
            raise error_for(Code.CAT_AGREEMENT, "agreement: its times are not valid") from error
        if issued >= expires or issued > self._clock.now() + CLOCK_SKEW:
            raise error_for(Code.CAT_AGREEMENT, "agreement: it ends before it begins, or begins in the future")
        signer = self._signer(agreement.signed_bytes(), signed.signature, signed.chain_pem, issued)
        self._check_signer(signer)
        if str(signer.identity) != agreement.granted_by:
            raise error_for(Code.CAT_AGREEMENT, "agreement: signed by another than the one that it names")
        return signer

    def _signer(self, data: bytes, signature: bytes, chain_pem: bytes, at: datetime) -> CertificateFacts:
        # At the time of signing: a steward's certificate lives for a day, an agreement for years.
        if at > self._clock.now() + CLOCK_SKEW:
            raise error_for(Code.CAT_AGREEMENT, "agreement: signed in the future")
        try:
            return verify_document(data, signature, chain_pem, self._root_pem(), at)
        except TidegateError as error:
            raise error_for(
                Code.CAT_AGREEMENT, "agreement: its signature does not verify", detail=str(error)
            ) from error

    def _check_signer(self, signer: CertificateFacts) -> None:
        identity = signer.identity
        person_or_service = identity.kind in (IdentityKind.PERSON, IdentityKind.SERVICE)
        if identity.member != self._member or not person_or_service or identity not in self._stewards:
            raise error_for(
                Code.CAT_AGREEMENT, "agreement: not signed by a steward whom this node's configuration lists"
            )

    def _write(
        self, kind: str, agreement_id: str, document: dict[str, Any], signature: bytes, chain_pem: bytes
    ) -> None:
        document = {**document, "signature": signature.hex(), "chain_pem": chain_pem.decode("ascii", "replace")}
        place = self._folder / f"{sha256_hex(agreement_id.encode())}.{kind}.json"
        write_private(place, json.dumps(document, sort_keys=True).encode())

    def _load(self) -> None:
        """Read the folder; what does not verify any more (a steward struck off the list, a changed file) is left out."""
        for place in sorted(self._folder.glob("*.json")):
            try:
                self._load_one(place)
            except (TidegateError, KeyError, ValueError, TypeError, OSError) as error:
                self._log.error("agreement file left out", file=place.name, error=repr(error))

    def _load_one(self, place: Path) -> None:
        document = parse_json(place.read_bytes(), size_bytes_max=DOCUMENT_BYTES_MAX)
        if not isinstance(document, dict):
            raise TypeError("expected an object")
        signature, chain_pem = bytes.fromhex(str(document["signature"])), str(document["chain_pem"]).encode()
        if "revocation" in document:
            read, data = _revocation(json.dumps(document["revocation"]))
            # Struck-off stewards' revocations stay in force: only the signature and the member are checked.
            self._revoked.add(read["revoke"])
            self._signer(data, signature, chain_pem, parse_timestamp(read["at"]))
            self._revocations_kept.add(read["revoke"])
            return
        agreement = Agreement.from_json(document["agreement"])
        self._verify(SignedAgreement(agreement, signature, chain_pem))
        self._agreements[agreement.id] = agreement


def read_agreement(agreement_json: str, signature: bytes, chain_pem: bytes) -> SignedAgreement:
    """Read a pushed agreement.

    Trust: a broker carried it.

    Raises:
        CallerError: CAT_AGREEMENT.
    """
    try:
        document = parse_json(agreement_json, size_bytes_max=DOCUMENT_BYTES_MAX)
        return SignedAgreement(Agreement.from_json(document), signature, chain_pem)
    except TidegateError as error:
        raise error_for(Code.CAT_AGREEMENT, "agreement: not a valid document", detail=str(error)) from error


def _revocation(text: str) -> tuple[dict[str, str], CanonicalBytes]:
    """Read {"revoke": id, "at": time, "reason": text} and give the bytes under the signature."""
    try:
        document = parse_json(text, size_bytes_max=DOCUMENT_BYTES_MAX)
        if not isinstance(document, dict) or not {"revoke", "at"} <= set(document) <= {"revoke", "at", "reason"}:
            raise ValueError("fields")
        if not all(isinstance(value, str) for value in document.values()):
            raise TypeError("fields")
        read = {key: str(value) for key, value in document.items()}
        parse_timestamp(read["at"])
        if not 0 < len(read["revoke"]) <= _ID_CHARS_MAX:
            raise ValueError("id")
        return read, canonical(document)
    except (TidegateError, ValueError, TypeError) as error:
        raise error_for(Code.CAT_AGREEMENT, "revocation: not a valid document") from error

"""Agreements: what an owner's steward signed, kept at the owner's node; the catalogue holds a copy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tidegate.core.canonical import CanonicalBytes, canonical
from tidegate.core.errors import Code, error_for
from tidegate.core.frozen import frozen
from tidegate.core.names import DatasetName, is_purpose


@dataclass(frozen=True, slots=True)
class Agreement:
    """The terms. What is signed is ``canonical(to_json())``.

    Args:
        grantee: member name that may use the dataset.
        columns: names of columns that may be seen; masks are the policy's business.
        mode: one of ``rows``, ``aggregate``.
        row_filter: UCAST; ``{}`` means every row.
        issued_at, expires_at: RFC 3339, UTC.
        granted_by: SPIFFE id of the steward (a person or service of the owner).
    """

    id: str
    dataset: DatasetName
    owner: str
    grantee: str
    purposes: tuple[str, ...]
    legal_basis: str
    columns: tuple[str, ...]
    mode: str
    min_group_size: int
    row_filter: Mapping[str, Any]
    issued_at: str
    expires_at: str
    granted_by: str

    def __post_init__(self) -> None:
        """Check the form; whether the signer may sign is the verifier's business."""
        good = (
            self.id
            and self.purposes
            and self.columns
            and all(is_purpose(purpose) for purpose in self.purposes)
            and self.mode in ("rows", "aggregate")
            and self.min_group_size >= 1
            and self.owner
            and self.grantee
        )
        if not good:
            raise error_for(Code.CAT_AGREEMENT, "agreement: a field is missing or not valid")

    def to_json(self) -> dict[str, Any]:
        """Give the document."""
        return {
            "version": 1,
            "id": self.id,
            "dataset": str(self.dataset),
            "owner": self.owner,
            "grantee": self.grantee,
            "purposes": list(self.purposes),
            "legal_basis": self.legal_basis,
            "columns": list(self.columns),
            "mode": self.mode,
            "min_group_size": self.min_group_size,
            "row_filter": dict(self.row_filter),
            "issued_at": self.issued_at,
            "expires_at": self.expires_at,
            "granted_by": self.granted_by,
        }

    def to_question(self) -> dict[str, Any]:
        """Give the object of ``agreements`` in a policy question."""
        document = self.to_json()
        keys = (
            "id",
            "dataset",
            "grantee",
            "purposes",
            "legal_basis",
            "columns",
            "mode",
            "min_group_size",
            "row_filter",
            "expires_at",
        )
        return {key: document[key] for key in keys}

    def signed_bytes(self) -> CanonicalBytes:
        """Give the bytes under the steward's signature."""
        return canonical(self.to_json())

    @classmethod
    def from_json(cls, data: Any) -> Agreement:
        """Read a document; anything unexpected is refused.

        Trust: anybody may have written it; check the signature before use.
        """
        names = {"version", "id", "dataset", "owner", "grantee", "purposes", "legal_basis", "columns", "mode"}
        names |= {"min_group_size", "row_filter", "issued_at", "expires_at", "granted_by"}
        try:
            if set(data) != names or data["version"] != 1 or not isinstance(data["row_filter"], dict):
                raise ValueError("fields")
            return cls(
                id=str(data["id"]),
                dataset=DatasetName.parse(data["dataset"]),
                owner=str(data["owner"]),
                grantee=str(data["grantee"]),
                purposes=tuple(str(item) for item in data["purposes"]),
                legal_basis=str(data["legal_basis"]),
                columns=tuple(str(item) for item in data["columns"]),
                mode=str(data["mode"]),
                min_group_size=int(data["min_group_size"]),
                row_filter=frozen(data["row_filter"]),
                issued_at=str(data["issued_at"]),
                expires_at=str(data["expires_at"]),
                granted_by=str(data["granted_by"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise error_for(Code.CAT_AGREEMENT, "agreement: a field is missing or not valid") from error


@dataclass(frozen=True, slots=True)
class SignedAgreement:
    """The document with the steward's signature (ECDSA P-256, SHA-256, DER) and certificate chain (PEM)."""

    agreement: Agreement
    signature: bytes
    chain_pem: bytes

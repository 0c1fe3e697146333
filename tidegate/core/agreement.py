"""Agreements: what an owner's steward signed, kept at the owner's node; the catalogue holds a copy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tidegate.core.canonical import CanonicalBytes, canonical
from tidegate.core.errors import Code, error_for
from tidegate.core.frozen import frozen
from tidegate.core.names import DatasetName, is_member_name, is_purpose

ANY_MEMBER = "*"
"""In ``keys_may_go_to``: keys may go to every member of the exchange."""
KEYS_MEMBERS_MAX = 1_000  # names in one term; as in policies/schemas


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
        keys_may_go_to: members whose nodes may be given values of columns that an answer holds, so that they need not send
            rows that join with none of them; ``*`` for every member. None by default. For mode ``rows`` alone.
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
    keys_may_go_to: tuple[str, ...] = ()

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
            and all(name == ANY_MEMBER or is_member_name(name) for name in self.keys_may_go_to)
            and len(self.keys_may_go_to) <= KEYS_MEMBERS_MAX
            and (self.mode == "rows" or not self.keys_may_go_to)
        )
        if not good:
            raise error_for(Code.CAT_AGREEMENT, "agreement: a field is missing or not valid")

    def to_json(self) -> dict[str, Any]:
        """Give the document. A term that is not agreed is not in it, so that what was signed before it existed stays signed."""
        keys = {"keys_may_go_to": list(self.keys_may_go_to)} if self.keys_may_go_to else {}
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
            **keys,
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
        return {key: document[key] for key in keys} | {"keys_may_go_to": list(self.keys_may_go_to)}

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
            if (
                set(data) - {"keys_may_go_to"} != names
                or data["version"] != 1
                or not isinstance(data["row_filter"], dict)
            ):
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
                keys_may_go_to=_members(data),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise error_for(Code.CAT_AGREEMENT, "agreement: a field is missing or not valid") from error


def _members(data: Mapping[str, Any]) -> tuple[str, ...]:
    """Read the optional term; an empty list has no place in a document, for it would be signed in two forms."""
    if "keys_may_go_to" not in data:
        return ()
    names = data["keys_may_go_to"]
    if not isinstance(names, list) or not names:
        raise ValueError("keys_may_go_to")
    return tuple(str(name) for name in names)


@dataclass(frozen=True, slots=True)
class SignedAgreement:
    """The document with the steward's signature (ECDSA P-256, SHA-256, DER) and certificate chain (PEM)."""

    agreement: Agreement
    signature: bytes
    chain_pem: bytes

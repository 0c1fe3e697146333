"""Grants: the broker's signed, one-use permission for one node to run one fragment, with the receipt inside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tidegate.core.canonical import CanonicalBytes, canonical, parse_json
from tidegate.core.errors import Code, error_for

GRANT_SIZE_BYTES_MAX = 1 << 20
GRANT_LIFETIME_S_MAX = 60


@dataclass(frozen=True, slots=True)
class Grant:
    """What the broker signs with its certificate's key (ECDSA P-256, SHA-256) over ``canonical(to_json())``.

    Args:
        id: 128 bits hex, one use; the node remembers it until ``expires_at``.
        broker: SPIFFE id of the broker; node: SPIFFE id of the node.
        session: hex of the node's 128-bit nonce of this attachment.
        request: the ``request`` object of the policy question (id, time, purpose, legal_basis, door, emergency).
        caller: the ``caller`` object of the policy question; caller_fingerprint: of its certificate.
        query: the ``query`` object (shape of the caller's whole query).
        decision: the broker's decision for this fragment's resources (``Decision.to_json``).
        refs: resource ref -> dataset name, for this fragment.
        fragment: hex SHA-256 of ``fragment_bytes(sql, parameters)``.
        entry: the ``decision`` log entry (canonical JSON text); receipt: the receipt note (text).
        plan_nonce: hex of the salt that opens the one of ``entry``'s plan commitments that is to this fragment's digest.
        subject_key: hex of the key made for this query alone, for pseudonyms of subjects; empty when not needed.
        caller_signature: room for the caller's own signature over (request id, purpose, query hash); may be empty.
    """

    id: str
    broker: str
    node: str
    session: str
    issued_at: str
    expires_at: str
    request: dict[str, Any]
    caller: dict[str, Any]
    caller_fingerprint: str
    query: dict[str, Any]
    decision: dict[str, Any]
    refs: dict[str, str]
    fragment: str
    entry: str
    receipt: str
    plan_nonce: str = ""
    subject_key: str = ""
    caller_signature: str = ""

    def to_json(self) -> dict[str, Any]:
        """Give the document."""
        return {"version": 1, **{name: getattr(self, name) for name in _FIELDS}}

    def signed_bytes(self) -> CanonicalBytes:
        """Give the bytes under the broker's signature."""
        return canonical(self.to_json())

    @classmethod
    def parse(cls, data: bytes) -> Grant:
        """Read the signed bytes; call only after the signature was verified over exactly these bytes.

        Raises:
            Refused: NODE_GRANT for anything unexpected.
        """
        try:
            document = parse_json(data, size_bytes_max=GRANT_SIZE_BYTES_MAX)
            if not isinstance(document, dict) or set(document) != {"version", *_FIELDS} or document["version"] != 1:
                raise ValueError("fields")
            for name in _FIELDS:
                if not isinstance(document[name], dict if name in _OBJECTS else str):
                    raise TypeError(name)
            return cls(**{name: document[name] for name in _FIELDS})  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            raise error_for(Code.NODE_GRANT, "grant: not of the expected form") from error


_FIELDS = (
    "id",
    "broker",
    "node",
    "session",
    "issued_at",
    "expires_at",
    "request",
    "caller",
    "caller_fingerprint",
    "query",
    "decision",
    "refs",
    "fragment",
    "entry",
    "receipt",
    "plan_nonce",
    "subject_key",
    "caller_signature",
)
_OBJECTS = frozenset({"request", "caller", "query", "decision", "refs"})


def fragment_bytes(sql: str, parameters: list[Any]) -> CanonicalBytes:
    """Give the bytes whose SHA-256 a grant names: SQL text and encoded parameters (``tidegate.core.values``)."""
    return canonical({"sql": sql, "parameters": parameters})

"""Grants: the broker's signed, one-use permission for one node to run one fragment, with the receipt inside."""

from __future__ import annotations

from collections.abc import Sequence
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
        fragment: hex SHA-256 of ``fragment_bytes(sql, parameters, reductions)``.
        entry: the ``decision`` log entry (canonical JSON text); receipt: the receipt note (text).
        plan_nonce: hex of the salt that opens the one of ``entry``'s plan commitments that is to this fragment's digest.
        subject_key: hex of the key made for this query alone, for pseudonyms of subjects; empty when not needed.
        caller_signature: room for the caller's own signature over (request id, purpose, query hash); may be empty.
        keys: the key batches that come with the fragment, in its message's order (``GrantedKeys.to_json``).
        whole: the fragment is the caller's whole query, so this node's own answer is final: only then may it leave out groups.
        keys_go_to: members to whose nodes keys of this fragment's answer, or of what they make smaller, are meant to go; the
            node's own decision says to which of them they may.
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
    keys: tuple[dict[str, Any], ...] = ()
    keys_go_to: tuple[str, ...] = ()
    whole: bool = False

    def to_json(self) -> dict[str, Any]:
        """Give the document; what concerns keys is in it only where there are any."""
        lists = {name: list(getattr(self, name)) for name in _LISTS if getattr(self, name)}
        return {"version": 1, **{name: getattr(self, name) for name in _FIELDS}, **lists}

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
            if not isinstance(document, dict) or set(document) - set(_LISTS) != {"version", *_FIELDS}:
                raise ValueError("fields")
            if document["version"] != 1:
                raise ValueError("version")
            for name in _FIELDS:
                if not isinstance(document[name], dict if name in _OBJECTS else bool if name == "whole" else str):
                    raise TypeError(name)
            lists = {name: _items(document, name, kind) for name, kind in _LISTS.items()}
            return cls(**{name: document[name] for name in _FIELDS}, **lists)  # type: ignore[arg-type]
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
    "whole",
)
_OBJECTS = frozenset({"request", "caller", "query", "decision", "refs"})


_LISTS: dict[str, type] = {"keys": dict, "keys_go_to": str}


def _items(document: dict[str, Any], name: str, kind: type) -> tuple[Any, ...]:
    items = document.get(name, [])
    if not isinstance(items, list) or not all(isinstance(item, kind) for item in items):
        raise TypeError(name)
    return tuple(items)


@dataclass(frozen=True, slots=True)
class KeySource:
    """Where keys come from: a fragment's answer, its column (``c0`` ...), and the member whose rows the keys disclose."""

    fragment: str
    column: str
    member: str

    def to_json(self) -> dict[str, str]:
        """Give the object."""
        return {"fragment": self.fragment, "column": self.column, "member": self.member}


@dataclass(frozen=True, slots=True)
class KeyTerms:
    """A join reduction, as broker and node say it: of the leaf ``ref``, rows whose ``column`` is among the sources' keys."""

    ref: str
    column: str
    sources: tuple[KeySource, ...]

    def to_json(self) -> dict[str, Any]:
        """Give the object."""
        return {"ref": self.ref, "column": self.column, "sources": [source.to_json() for source in self.sources]}


@dataclass(frozen=True, slots=True)
class GrantedKeys:
    """One batch of keys that a grant names.

    Args:
        counts: of each source, how many distinct keys its answer holds; the broker's word, for the record.
        count: of their union, which is what was sent.
        digest: of the batch's chunks, schema first (``tidegate.ipc.Digest``).
    """

    terms: KeyTerms
    counts: tuple[int, ...]
    count: int
    digest: str

    def to_json(self) -> dict[str, Any]:
        """Give the object."""
        return {**self.terms.to_json(), "counts": list(self.counts), "count": self.count, "digest": self.digest}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> GrantedKeys:
        """Read the object.

        Raises:
            Refused: NODE_GRANT for anything unexpected.
        """
        try:
            if set(data) != {"ref", "column", "sources", "counts", "count", "digest"}:
                raise ValueError("fields")
            terms = KeyTerms(_text(data["ref"]), _text(data["column"]), tuple(map(_source, data["sources"])))
            counts = tuple(map(_count, data["counts"]))
            if len(counts) != len(terms.sources) or not counts:
                raise ValueError("counts")
            return cls(terms, counts, _count(data["count"]), _text(data["digest"]))
        except (KeyError, TypeError, ValueError) as error:
            raise error_for(Code.NODE_GRANT, "grant: its keys are not of the expected form") from error


def _source(data: Any) -> KeySource:
    if not isinstance(data, dict) or set(data) != {"fragment", "column", "member"}:
        raise ValueError("source")
    return KeySource(_text(data["fragment"]), _text(data["column"]), _text(data["member"]))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("expected a text")
    return value


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 53:
        raise ValueError("expected a count")
    return value


def fragment_bytes(sql: str, parameters: list[Any], reductions: Sequence[KeyTerms] = ()) -> CanonicalBytes:
    """Give the bytes whose SHA-256 a grant names: SQL text, encoded parameters (``tidegate.core.values``) and reductions."""
    keys = {"reductions": [terms.to_json() for terms in reductions]} if reductions else {}
    return canonical({"sql": sql, "parameters": parameters, **keys})

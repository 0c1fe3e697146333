"""Entries: what the log records, as closed JSON objects of ids, hashes, counts and commitments.

Never personal data: a person stands here as an opaque id scoped to its member; the name, SQL texts and decision inputs
go to the side store (``side_of``). Digests of things that could be guessed are salted commitments. Above the writer,
below every caller: broker and node make their entries with these functions alone, so the field names are stated once.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from tidegate.core.caller import BY_CERTIFICATE, Caller
from tidegate.core.canonical import commitment
from tidegate.core.errors import Code, Reason, TidegateError, error_for
from tidegate.core.limits import ENTRY_BYTES_MAX
from tidegate.core.names import IdentityKind, SpiffeId

Entry: TypeAlias = dict[str, Any]
Plaintexts: TypeAlias = Mapping[str, "bytes | Sequence[bytes]"]

VERSION: Final = 1
TYPES: Final = frozenset({"decision", "refusal", "outcome", "orphan", "expired", "admin"})
CLOSING: Final = frozenset({"outcome", "orphan", "expired"})
ADMIN_KINDS: Final = frozenset(
    {
        "enrolment",
        "certificate",
        "catalogue",
        "agreement",
        "policy",
        "role",
        "revocation",
        "config",
        "search",
        "node_execution",
        "erasure",
    }
)
COMMITMENTS: Final = frozenset({"query", "input", "answer", "plan", "result", "details", "person"})
COMMITMENTS_MAX: Final = 64  # of one name; as many fragments fit one entry

_STRINGS: Final = frozenset({
    "type", "kind", "action", "request_id", "member", "identity", "person", "door", "bound", "purpose",
    "legal_basis", "policy_revision", "obligations", "deadline", "subject", "hash", "error", "grant",
})  # fmt: skip
_COUNTS: Final = frozenset({"v", "rows", "bytes", "suppressed", "duration_us", "of"})
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
_STRING_CHARS_MAX: Final = 600  # a SPIFFE id has at most about 300
_LISTS_MAX: Final = 256


def salt(nonce: bytes, name: str, position: int = 0) -> bytes:
    """Derive the salt of one commitment from the entry's nonce.

    A party that opens one commitment is given its salt alone, so that it cannot try guesses against the others.
    """
    return hmac.digest(nonce, f"tidegate.commitment/v1\0{name}\0{position}".encode(), hashlib.sha256)


def commit(nonce: bytes, plaintexts: Plaintexts) -> dict[str, str | list[str]]:
    """Give the ``commitments`` object of an entry; a list commits to each element on its own."""
    result: dict[str, str | list[str]] = {}
    for name, value in plaintexts.items():
        if isinstance(value, bytes):
            result[name] = commitment(salt(nonce, name), value)
        else:
            result[name] = [commitment(salt(nonce, name, place), item) for place, item in enumerate(value)]
    return result


def opens(entry: Mapping[str, Any], name: str, salt_bytes: bytes, plaintext: bytes) -> bool:
    """Say whether salt and plaintext open a commitment of the entry (any one of a list)."""
    stored = entry.get("commitments", {}).get(name, [])
    expected = commitment(salt_bytes, plaintext)
    candidates = stored if isinstance(stored, list) else [stored]
    return any(isinstance(item, str) and hmac.compare_digest(item, expected) for item in candidates)


def _who(caller: Caller) -> Entry:
    # Said only where it is not the rule, which is a certificate: an entry without it is about a bound caller.
    unbound = {} if caller.bound == BY_CERTIFICATE else {"bound": caller.bound}
    if caller.identity.kind is not IdentityKind.PERSON:
        return {"member": caller.member, "identity": str(caller.identity), **unbound}
    # The certificate of a person carries its login; the entry carries the opaque id in its place.
    opaque = SpiffeId(caller.identity.exchange, IdentityKind.PERSON, caller.member, caller.person)
    return {"member": caller.member, "identity": str(opaque), "person": caller.person, **unbound}


def side_of(caller: Caller, **more: Any) -> dict[str, Any]:
    """Give the side material of an entry about that caller: its true identity, and whatever else is named."""
    return {"identity": str(caller.identity), **more}


def _request(
    kind: str, request_id: str, caller: Caller, purpose: str, legal_basis: str, datasets: Mapping[str, str | int]
) -> Entry:
    return {
        "v": VERSION,
        "type": kind,
        "request_id": request_id,
        **_who(caller),
        "purpose": purpose,
        "legal_basis": legal_basis,
        "datasets": [{"name": name, "version": str(version)} for name, version in sorted(datasets.items())],
    }


def decision(
    *,
    request_id: str,
    caller: Caller,
    purpose: str,
    legal_basis: str,
    datasets: Mapping[str, str | int],
    policy_revision: str,
    obligations: str,
    agreements: Sequence[str],
    deadline: str,
    reasons: Sequence[Reason] = (),
    door: str = "",
) -> Entry:
    """Make the entry that must be durable before a node may release a byte.

    Args:
        datasets: name -> version; obligations: hex SHA-256 of what the decision demands; deadline: RFC 3339, after
            which a decision without outcome is an orphan.
    """
    return {
        **_request("decision", request_id, caller, purpose, legal_basis, datasets),
        "policy_revision": policy_revision,
        "obligations": obligations,
        "agreements": sorted(agreements),
        "deadline": deadline,
        "reasons": [reason.code for reason in reasons],
        "door": door,
    }


def refusal(
    *,
    request_id: str,
    caller: Caller,
    error: TidegateError,
    purpose: str = "",
    legal_basis: str = "",
    datasets: Mapping[str, str | int] | None = None,
    policy_revision: str = "",
    door: str = "",
) -> Entry:
    """Make the one entry of a refused request: its code and the reasons' codes."""
    return {
        **_request("refusal", request_id, caller, purpose, legal_basis, datasets or {}),
        "policy_revision": policy_revision,
        "error": error.code.value,
        "reasons": [reason.code for reason in error.reasons],
        "door": door,
    }


def outcome(
    *,
    request_id: str,
    of: int,
    rows: int,
    size_bytes: int,
    suppressed: int | None,
    duration_us: int,
    leaves: Mapping[str, Mapping[str, int]],
    keys: Sequence[Mapping[str, Any]] = (),
    error: str = "",
) -> Entry:
    """Make the entry that must be durable before the caller sees the final OK.

    Args:
        of: index of the decision; leaves: fragment -> counts such as rows and bytes; keys: what nodes were given of other
            departments' keys, a line for each set of sources: ``from`` (member -> count), ``sources`` (the fragments that
            hold them) and ``to`` (a list of ``fragment``, ``member``, ``column``);
            error: a stable code, empty for OK. The digest of the result stream goes in as commitment ``result``. What may
            not be told to the caller, who is given the entry, is left out here (``suppressed`` None) and goes into the side
            material.
    """
    counts = {} if suppressed is None else {"suppressed": suppressed}
    return {
        "v": VERSION,
        "type": "outcome",
        "request_id": request_id,
        "of": of,
        "rows": rows,
        "bytes": size_bytes,
        **counts,
        "duration_us": duration_us,
        "leaves": {name: dict(counts) for name, counts in leaves.items()},
        **({"keys": [dict(line) for line in keys]} if keys else {}),
        "error": error,
    }


def orphan(*, request_id: str, of: int) -> Entry:
    """Make the entry of a decision whose outcome never came."""
    return {"v": VERSION, "type": "orphan", "request_id": request_id, "of": of}


def expired(*, request_id: str, of: int) -> Entry:
    """Make the entry of a prepared request that was never redeemed."""
    return {"v": VERSION, "type": "expired", "request_id": request_id, "of": of}


def admin(
    kind: str,
    *,
    action: str,
    subject: str = "",
    actor: Caller | None = None,
    request_id: str = "",
    content_hash: str = "",
    details: Mapping[str, str | int] | None = None,
) -> Entry:
    """Make the entry of a change or an auditor's act.

    Args:
        kind: one of ``ADMIN_KINDS``; subject: what it is about (dataset, serial, member: an id, never a person's name);
            actor: None when the exchange itself acts; content_hash: hex SHA-256 of the new state.
    """
    entry: Entry = {"v": VERSION, "type": "admin", "kind": kind, "action": action, "subject": subject}
    if actor is not None:
        entry |= _who(actor)
    if request_id:
        entry["request_id"] = request_id
    if content_hash:
        entry["hash"] = content_hash
    if details:
        entry["details"] = dict(details)
    return entry


def node_execution(
    *,
    request_id: str,
    grant: str,
    member: str,
    identity: str,
    purpose: str,
    legal_basis: str,
    datasets: Mapping[str, str | int],
    policy_revision: str,
    obligations: str,
    agreements: Sequence[str],
    keys: Sequence[Mapping[str, Any]] = (),
    keys_may_go_to: Sequence[str] = (),
    bound: str = BY_CERTIFICATE,
) -> Entry:
    """Make the entry that a node writes into its own log before it executes a fragment.

    Args:
        keys: what it was given of other departments' keys, a line for each batch: the ``column`` that they narrow, ``from``
            (member -> count) and ``sources`` (the fragments that hold them).
        keys_may_go_to: members to whose nodes keys of the answer are meant to go, and may.
        grant: id of the grant; member, identity, bound: of the caller as the broker's own decision entry names it.
    """
    return {
        "v": VERSION,
        "type": "admin",
        "kind": "node_execution",
        "action": "execute",
        "request_id": request_id,
        "grant": grant,
        "member": member,
        "identity": identity,
        "purpose": purpose,
        "legal_basis": legal_basis,
        "datasets": [{"name": name, "version": str(version)} for name, version in sorted(datasets.items())],
        "policy_revision": policy_revision,
        "obligations": obligations,
        "agreements": sorted(agreements),
        **({"keys": [dict(line) for line in keys]} if keys else {}),
        **({"keys_may_go_to": list(keys_may_go_to)} if keys_may_go_to else {}),
        **({} if bound == BY_CERTIFICATE else {"bound": bound}),
    }


def check(entry: Mapping[str, Any]) -> Entry:
    """Copy an entry after checking that it is one: known fields of the right types, bounded.

    Trust: our own code made it; the check keeps a mistake (a name, a text) from being recorded for ever.

    Raises:
        InternalError: it is not; the message names the field.
    """
    result = dict(entry)
    kind = result.get("type")
    if result.get("v") != VERSION or not isinstance(kind, str) or kind not in TYPES:
        raise _wrong("type")
    if (kind == "admin") != (result.get("kind") in ADMIN_KINDS):
        raise _wrong("kind")
    if kind != "admin" and not result.get("request_id"):
        raise _wrong("request_id")
    for name, value in result.items():
        if not _good(name, value):
            raise _wrong(name)
    return result


def _good(name: str, value: Any) -> bool:
    if name in _STRINGS:
        return _short(value)
    if name in _COUNTS:
        return _count(value)
    if name in ("reasons", "agreements", "keys_may_go_to"):
        return isinstance(value, list) and len(value) <= _LISTS_MAX and all(map(_short, value))
    if name == "datasets":
        return isinstance(value, list) and all(
            isinstance(item, dict) and set(item) == {"name", "version"} and all(map(_short, item.values()))
            for item in value
        )
    if name == "leaves":
        return isinstance(value, dict) and all(
            _key(leaf) and isinstance(counts, dict) and all(map(_key, counts)) and all(map(_count, counts.values()))
            for leaf, counts in value.items()
        )
    if name == "keys":
        return isinstance(value, list) and len(value) <= _LISTS_MAX and all(map(_key_line, value))
    if name == "details":
        return isinstance(value, dict) and all(_key(k) and (_short(v) or _count(v)) for k, v in value.items())
    return False


def _key_line(value: Any) -> bool:
    """Say whether it is a line about keys: names and counts, nothing else."""
    if not isinstance(value, dict) or not {"from", "sources"} < set(value):
        return False
    counts, fragments = value["from"], value["sources"]
    named = isinstance(counts, dict) and bool(counts) and all(map(_key, counts)) and all(map(_count, counts.values()))
    listed = isinstance(fragments, list) and 0 < len(fragments) <= _LISTS_MAX and all(map(_short, fragments))
    if set(value) == {"from", "sources", "column"}:
        return named and listed and _short(value["column"])
    if set(value) != {"from", "sources", "to"}:
        return False
    to = value["to"]
    return named and listed and isinstance(to, list) and 0 < len(to) <= _LISTS_MAX and all(map(_destination, to))


def _destination(value: Any) -> bool:
    return (
        isinstance(value, dict) and set(value) == {"fragment", "member", "column"} and all(map(_short, value.values()))
    )


def check_plaintexts(plaintexts: Plaintexts) -> None:
    """Refuse commitments of unknown names or too many of them."""
    for name, value in plaintexts.items():
        if name not in COMMITMENTS or (len(value) > COMMITMENTS_MAX and not isinstance(value, bytes)):
            raise _wrong("commitments")


def _short(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _STRING_CHARS_MAX


def _key(value: Any) -> bool:
    return _short(value) and value.isascii()


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53


def _wrong(field: str) -> TidegateError:
    return error_for(
        Code.AUDIT_UNAVAILABLE, "the request could not be recorded, so it is refused", detail=f"entry: {field}"
    )


def encode(entry: Mapping[str, Any]) -> bytes:
    """Give the RFC 8785 bytes of a checked entry.

    The C encoder gives the same bytes as ``tidegate.core.canonical`` here, ten times faster: ``check`` has seen to it
    that keys are ASCII (their order is the same in UTF-16) and numbers are small integers. A property test holds it.
    """
    try:
        return check_size(_ENCODER.encode(entry).encode())
    except UnicodeEncodeError as error:
        raise _wrong("text") from error


def check_size(data: bytes) -> bytes:
    """Refuse an entry larger than the limit."""
    if len(data) > ENTRY_BYTES_MAX:
        raise error_for(
            Code.AUDIT_UNAVAILABLE, f"the record of this request would be larger than {ENTRY_BYTES_MAX} bytes"
        )
    return data

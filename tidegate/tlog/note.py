"""Signed notes: text, signature lines, verifier keys. Source: C2SP signed-note v1.0.0.

Beneath checkpoints, cosignatures and receipts. Reading is strict and bounded: a note comes from a stranger.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from tidegate.core.errors import Code, TidegateError, error_for

NOTE_BYTES_MAX = 64 * 1024  # hardening checklist, note parser
SIGNATURES_MAX = 64  # C2SP: accept at least 16, cap the number
TYPE_ED25519 = 0x01
TYPE_COSIGNATURE = 0x04
TYPE_OWN = 0xFF
KEYS_CACHED_MAX = 256  # public keys that a process meets again and again: its logs', its witnesses'
_DASH = "\u2014 "
_CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f]")


def invalid(message: str) -> TidegateError:
    """Make the one error of this package: bytes that are not what they claim to be."""
    return error_for(Code.AUDIT_VERIFICATION, message)


def decode_base64(text: str, what: str) -> bytes:
    """Read standard base64 with padding, in its one canonical spelling."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid(f"{what}: expected base64") from error
    if base64.b64encode(data).decode() != text:
        raise invalid(f"{what}: expected canonical base64")
    return data


def decode_decimal(text: str, what: str) -> int:
    """Read an ASCII decimal below 2**63 without leading zeros."""
    if not (text.isascii() and text.isdigit() and len(text) <= 19) or (len(text) > 1 and text[0] == "0"):
        raise invalid(f"{what}: expected a decimal number without leading zeros")
    value = int(text)
    if value >= 1 << 63:
        raise invalid(f"{what}: expected a number below 2**63")
    return value


def check_key_name(name: str) -> str:
    """Refuse a key name that could not stand on a signature line."""
    # Of all white space only the space itself is printable.
    if not name or "+" in name or " " in name or not name.isprintable():
        raise invalid("key name: expected text without spaces and '+'")
    return name


@lru_cache(maxsize=KEYS_CACHED_MAX)
def key_id(name: str, kind: int, public: bytes, identifier: bytes = b"") -> bytes:
    """Give the four bytes that name a key on a signature line. Source: signed-note, Signatures."""
    return hashlib.sha256(name.encode() + b"\n" + bytes([kind]) + identifier + public).digest()[:4]


@dataclass(frozen=True, slots=True)
class Verifier:
    """A public key that a reader trusts, of type Ed25519, cosignature or one of our own.

    Args:
        identifier: long identifier of a key of type 0xff.
        prefix: bytes before the text in the message that is signed (own types only).
    """

    name: str
    kind: int
    public: bytes
    identifier: bytes = b""
    prefix: bytes = b""

    @property
    def id(self) -> bytes:
        """The four bytes on its signature lines."""
        return key_id(self.name, self.kind, self.public, self.identifier)

    @classmethod
    def parse(cls, text: str) -> Verifier:
        """Read ``name+hash+base64`` (types 0x01 and 0x04)."""
        parts = text.strip().split("+", 2)
        if len(parts) != 3:
            raise invalid("verifier key: expected name+hash+key")
        name = check_key_name(parts[0])
        data = decode_base64(parts[2], "verifier key")
        if len(data) != 33 or data[0] not in (TYPE_ED25519, TYPE_COSIGNATURE):
            raise invalid("verifier key: expected an Ed25519 key of type 1 or 4")
        result = cls(name, data[0], data[1:])
        if result.id.hex() != parts[1]:
            raise invalid("verifier key: the hash does not fit the key")
        return result

    def __str__(self) -> str:
        """Give ``name+hash+base64``."""
        data = base64.b64encode(bytes([self.kind]) + self.public).decode()
        return f"{self.name}+{self.id.hex()}+{data}"

    def verifies(self, text: bytes, signature: bytes) -> bool:
        """Say whether the signature (without the key id) is this key's over the text."""
        message = self.prefix + text
        if self.kind == TYPE_COSIGNATURE:
            if len(signature) != 72:
                return False
            (moment,) = struct.unpack(">Q", signature[:8])
            message, signature = cosigned_message(text, moment), signature[8:]
        try:
            _public_key(self.public).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


@lru_cache(maxsize=KEYS_CACHED_MAX)
def _public_key(public: bytes) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(public)


def cosigned_message(text: bytes, time_s: int) -> bytes:
    """Give what a witness signs. Source: tlog-cosignature, Ed25519 signed message."""
    return b"cosignature/v1\ntime %d\n" % time_s + text


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line."""

    name: str
    key_id: bytes
    blob: bytes


@dataclass(frozen=True, slots=True)
class Note:
    """A parsed note; ``text`` ends with a newline. Nothing is verified yet."""

    text: str
    signatures: tuple[Signature, ...]

    @classmethod
    def parse(cls, data: bytes) -> Note:
        """Read a note.

        Trust: anybody may have written it.
        """
        text, signatures = _split(data)
        lines = signatures.removesuffix("\n").split("\n")
        if len(lines) > SIGNATURES_MAX:
            raise invalid(f"note: more than {SIGNATURES_MAX} signatures")
        return cls(text, tuple(_parse_line(line) for line in lines))

    def verify(self, verifiers: Sequence[Verifier]) -> tuple[Verifier, ...]:
        """Give the trusted keys that signed; at least one.

        A line whose name and id are a trusted key's must verify; lines of unknown keys are passed over.
        """
        known = {(item.name, item.id): item for item in verifiers}
        text = self.text.encode()
        found: dict[Verifier, None] = {}
        for line in self.signatures:
            verifier = known.get((line.name, line.key_id))
            if verifier is None:
                continue
            if not verifier.verifies(text, line.blob):
                raise invalid("note: a signature by a trusted key does not verify")
            found[verifier] = None
        if not found:
            raise invalid("note: no signature by a trusted key")
        return tuple(found)


def _split(data: bytes) -> tuple[str, str]:
    if len(data) > NOTE_BYTES_MAX:
        raise invalid(f"note: larger than {NOTE_BYTES_MAX} bytes")
    try:
        whole = data.decode()
    except UnicodeDecodeError as error:
        raise invalid("note: expected UTF-8") from error
    if _CONTROL.search(whole):
        raise invalid("note: control characters are not allowed")
    head, blank, signatures = whole.rpartition("\n\n")
    if not blank or not head or not signatures.endswith("\n"):
        raise invalid("note: expected text, an empty line and signatures")
    return head + "\n", signatures


def _parse_line(line: str) -> Signature:
    if not line.startswith(_DASH):
        raise invalid("note: a signature line begins with an em dash and a space")
    name, space, encoded = line[len(_DASH) :].partition(" ")
    if not space:
        raise invalid("note: expected key name and signature")
    blob = decode_base64(encoded, "note signature")
    if len(blob) < 5:
        raise invalid("note signature: expected a key id and a signature")
    return Signature(check_key_name(name), blob[:4], blob[4:])


def public_bytes(key: Ed25519PrivateKey) -> bytes:
    """Give the raw public key."""
    return key.public_key().public_bytes_raw()


def verifier_of(name: str, key: Ed25519PrivateKey, kind: int = TYPE_ED25519) -> Verifier:
    """Give the verifier key of a private key."""
    return Verifier(check_key_name(name), kind, public_bytes(key))


def signature_line(verifier: Verifier, signature: bytes) -> str:
    """Give the line under a note, newline included."""
    return f"{_DASH}{verifier.name} {base64.b64encode(verifier.id + signature).decode()}\n"


def sign_note(text: str, verifier: Verifier, key: Ed25519PrivateKey) -> bytes:
    """Sign a text (it ends with a newline) with one key."""
    if not text.endswith("\n"):
        raise invalid("note: the text ends with a newline")
    signature = key.sign(verifier.prefix + text.encode())
    return f"{text}\n{signature_line(verifier, signature)}".encode()

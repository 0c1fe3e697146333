"""Receipts: the log key's promise, given at once, that an entry stands at an index for ever.

A signed note whose text is origin, index, leaf hash and time. Its signature has C2SP type 0xff with a long identifier
of our own, and what is signed begins with a prefix that no checkpoint can begin with. Without it the four lines
would also be a checkpoint with one extension line, and a receipt relabelled as type 0x01 would be a forged tree head.
The inclusion proof follows at the next checkpoint (``tidegate.tlog.proof``).
"""

from __future__ import annotations

import base64
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tidegate.core.clock import parse_timestamp, timestamp
from tidegate.tlog.merkle import HASH_BYTES
from tidegate.tlog.note import (
    TYPE_ED25519,
    TYPE_OWN,
    Note,
    Verifier,
    check_key_name,
    decode_base64,
    decode_decimal,
    invalid,
    public_bytes,
    sign_note,
)

IDENTIFIER = b"tidegate-receipt/v1"
SIGNED_PREFIX = IDENTIFIER + b"\n"


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the log promised."""

    origin: str
    index: int
    leaf_hash: bytes
    time: str

    @property
    def text(self) -> str:
        """The note text."""
        return f"{self.origin}\n{self.index}\n{base64.b64encode(self.leaf_hash).decode()}\n{self.time}\n"


def receipt_verifier(log: Verifier) -> Verifier:
    """Give the receipt key that belongs to a log's Ed25519 key."""
    if log.kind != TYPE_ED25519:
        raise invalid("receipt: expected the log's Ed25519 key")
    return Verifier(log.name, TYPE_OWN, log.public, IDENTIFIER, SIGNED_PREFIX)


def receipt_key(key: Ed25519PrivateKey, origin: str) -> Verifier:
    """Give the receipt key of a log's own private key."""
    return Verifier(check_key_name(origin), TYPE_OWN, public_bytes(key), IDENTIFIER, SIGNED_PREFIX)


def sign_receipt(key: Ed25519PrivateKey, origin: str, index: int, leaf_hash: bytes, time_text: str) -> bytes:
    """Sign a receipt; call only when the entry is durable at that index."""
    return sign_receipt_by(receipt_key(key, origin), key, index, leaf_hash, time_text)


def sign_receipt_by(verifier: Verifier, key: Ed25519PrivateKey, index: int, leaf_hash: bytes, time_text: str) -> bytes:
    """Sign a receipt with a key whose public side (``receipt_key``) was made before: a log signs many."""
    return sign_note(Receipt(verifier.name, index, leaf_hash, time_text).text, verifier, key)


def verify_receipt(note: bytes, verifier_key: str) -> Receipt:
    """Verify a receipt by the log's verifier key.

    Trust: anybody may have written the note; the key is the reader's own. Compare ``leaf_hash`` with the entry in hand.

    Raises:
        IntegrityError: not a receipt of that log.
    """
    parsed = Note.parse(note)
    log = Verifier.parse(verifier_key)
    parsed.verify([receipt_verifier(log)])
    lines = parsed.text.removesuffix("\n").split("\n")
    if len(lines) != 4:
        raise invalid("receipt: expected origin, index, leaf hash and time")
    leaf = decode_base64(lines[2], "receipt leaf hash")
    if len(leaf) != HASH_BYTES:
        raise invalid("receipt leaf hash: expected 32 bytes")
    try:
        if timestamp(parse_timestamp(lines[3])) != lines[3]:
            raise ValueError("another spelling")
    except (ValueError, OverflowError) as error:
        raise invalid("receipt time: expected RFC 3339 with microseconds, UTC") from error
    if lines[0] != log.name:
        raise invalid("receipt: of another log")
    return Receipt(lines[0], decode_decimal(lines[1], "receipt index"), leaf, lines[3])

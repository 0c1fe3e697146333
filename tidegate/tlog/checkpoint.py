"""Checkpoints: a log's signed promise of one size and one root. Source: C2SP tlog-checkpoint v1.0.0."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tidegate.tlog.merkle import HASH_BYTES
from tidegate.tlog.note import (
    TYPE_COSIGNATURE,
    Note,
    Verifier,
    cosigned_message,
    decode_base64,
    decode_decimal,
    invalid,
    sign_note,
    signature_line,
    verifier_of,
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a log says of itself; parsed values are only as good as the signature that was checked."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """The note text. We write no extension lines (NOT RECOMMENDED by the format)."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    @classmethod
    def parse_text(cls, text: str) -> Checkpoint:
        """Read the note text; extension lines are allowed and passed over."""
        lines = text.removesuffix("\n").split("\n")
        if len(lines) < 3 or not all(lines):
            raise invalid("checkpoint: expected origin, size and root, no empty line")
        root = decode_base64(lines[2], "checkpoint root")
        if len(root) != HASH_BYTES:
            raise invalid("checkpoint root: expected 32 bytes")
        return cls(lines[0], decode_decimal(lines[1], "checkpoint size"), root)


def sign_checkpoint(checkpoint: Checkpoint, key: Ed25519PrivateKey) -> bytes:
    """Sign with the log's key; the key's name is the origin.

    The caller makes sure that it never signs a checkpoint inconsistent with an earlier one.
    """
    return sign_note(checkpoint.text, verifier_of(checkpoint.origin, key), key)


def open_checkpoint(data: bytes, verifier_key: str, witnesses: Sequence[str] = ()) -> Checkpoint:
    """Verify a signed checkpoint by the log's key, and any line of a known witness.

    Trust: anybody may have written the bytes; the verifier keys are the reader's own.

    Raises:
        IntegrityError: not a checkpoint, not signed by the log, or of another origin than the key's name.
    """
    note = Note.parse(data)
    log = Verifier.parse(verifier_key)
    if log not in note.verify([log, *(Verifier.parse(item) for item in witnesses)]):
        raise invalid("checkpoint: not signed by the log")
    checkpoint = Checkpoint.parse_text(note.text)
    if checkpoint.origin != log.name:
        raise invalid("checkpoint: of another log")
    return checkpoint


def cosign(text: str, name: str, key: Ed25519PrivateKey, time_s: int) -> str:
    """Give a witness's signature line over a checkpoint's text. Source: C2SP tlog-cosignature v1.0.1."""
    verifier = verifier_of(name, key, TYPE_COSIGNATURE)
    signature = key.sign(cosigned_message(text.encode(), time_s))
    return signature_line(verifier, time_s.to_bytes(8, "big") + signature)

"""Proofs made from tiles, and the ``.tlog-proof`` file that verifies offline. Source: C2SP tlog-proof."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from tidegate.tlog.checkpoint import Checkpoint, open_checkpoint
from tidegate.tlog.merkle import HASH_BYTES, consistency_ranges, inclusion_ranges, verify_inclusion
from tidegate.tlog.note import NOTE_BYTES_MAX, decode_base64, decode_decimal, invalid
from tidegate.tlog.tiles import ReadTile, range_hash_from_tiles

_MAGIC = "c2sp.org/tlog-proof@v1"
PROOF_BYTES_MAX = NOTE_BYTES_MAX + 8 * 1024  # a checkpoint, 63 hashes, the index
HASHES_MAX = 63
EXTRA_BYTES_MAX = 2048


def prove_inclusion(size: int, index: int, read: ReadTile) -> tuple[bytes, ...]:
    """Make the inclusion proof of a leaf in the tree of that size. Source: RFC 9162 2.1.3.1."""
    hash_of = range_hash_from_tiles(size, read)
    return tuple(hash_of(start, end) for start, end in inclusion_ranges(index, size))


def prove_consistency(old_size: int, size: int, read: ReadTile) -> tuple[bytes, ...]:
    """Make the proof that the tree of ``size`` begins with that of ``old_size``. Source: RFC 9162 2.1.4.1."""
    hash_of = range_hash_from_tiles(size, read)
    return tuple(hash_of(start, end) for start, end in consistency_ranges(old_size, size))


@dataclass(frozen=True, slots=True)
class TlogProof:
    """An inclusion proof with the checkpoint that it leads to; ``extra`` is not authenticated by anything."""

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes = b""

    def encode(self) -> bytes:
        """Give the file."""
        extra = f"extra {base64.b64encode(self.extra).decode()}\n" if self.extra else ""
        hashes = "".join(f"{base64.b64encode(item).decode()}\n" for item in self.hashes)
        return f"{_MAGIC}\n{extra}index {self.index}\n{hashes}\n".encode() + self.checkpoint

    @classmethod
    def parse(cls, data: bytes) -> TlogProof:
        """Read the file; nothing is verified yet.

        Trust: anybody may have written the bytes.
        """
        if len(data) > PROOF_BYTES_MAX:
            raise invalid(f"proof: larger than {PROOF_BYTES_MAX} bytes")
        head, blank, checkpoint = data.partition(b"\n\n")
        try:
            lines = head.decode("ascii").split("\n")
        except UnicodeDecodeError as error:
            raise invalid("proof: expected ASCII") from error
        if not blank or lines.pop(0) != _MAGIC:
            raise invalid("proof: not a tlog-proof file")
        extra = b""
        if lines and lines[0].startswith("extra "):
            extra = decode_base64(lines.pop(0).removeprefix("extra "), "proof extra")
            if not 0 < len(extra) <= EXTRA_BYTES_MAX:
                raise invalid("proof extra: empty, or larger than the limit")
        if not lines or not lines[0].startswith("index "):
            raise invalid("proof: expected an index")
        index = decode_decimal(lines.pop(0).removeprefix("index "), "proof index")
        if len(lines) > HASHES_MAX:
            raise invalid("proof: too many hashes")
        return cls(index, tuple(_hash(line) for line in lines), checkpoint, extra)

    def verify(self, leaf: bytes, verifier_key: str, witnesses: Sequence[str] = ()) -> Checkpoint:
        """Show that the leaf is at the index of the log that signed the checkpoint.

        Raises:
            IntegrityError: the checkpoint's signature or the inclusion does not verify.
        """
        checkpoint = open_checkpoint(self.checkpoint, verifier_key, witnesses)
        if not verify_inclusion(leaf, self.index, checkpoint.size, self.hashes, checkpoint.root):
            raise invalid("proof: the entry is not included in the checkpoint")
        return checkpoint


def _hash(line: str) -> bytes:
    value = decode_base64(line, "proof hash")
    if len(value) != HASH_BYTES:
        raise invalid("proof hash: expected 32 bytes")
    return value

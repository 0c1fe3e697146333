"""Receipts in the caller's hand: what they promise, and how to check them without believing anybody.

A receipt is checked in four steps: (1) the log key signed it; (2) the entry beside it hashes to the leaf that it names;
(3) the entry is about this very request; (4) the entry is in the log, by an inclusion proof under a signed checkpoint.
For the outcome, the digest of the received bytes must open the entry's commitment too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidegate.client.facts import RawReceipt
from tidegate.core.canonical import commitment, parse_json
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.tlog.merkle import leaf_hash
from tidegate.tlog.proof import TlogProof
from tidegate.tlog.receipt import verify_receipt

ENTRY_BYTES_MAX = 64 * 1024  # eight times what the log takes
NONCE_BYTES = 32
_FILE_BYTES_MAX = 1 << 20  # of each file of a saved receipt
Prove = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Receipt:
    """One entry's receipt.

    Args:
        raw: note, entry and index as they came; written to files by ``save``.
        verifier_key: of the exchange's log, from joining; never from the answer itself.
    """

    raw: RawReceipt
    verifier_key: str
    request_id: str
    prove: Prove

    @property
    def entry(self) -> dict[str, Any]:
        """The entry that the log holds.

        Raises:
            IntegrityError: AUDIT_VERIFICATION; what came is no entry.
        """
        try:
            data = parse_json(self.raw.entry, size_bytes_max=ENTRY_BYTES_MAX)
        except TidegateError as error:
            raise error_for(Code.AUDIT_VERIFICATION, "receipt: the entry beside it is not JSON") from error
        if not isinstance(data, dict):
            raise error_for(Code.AUDIT_VERIFICATION, "receipt: the entry beside it is no JSON object")
        return data

    @property
    def index(self) -> int:
        """The entry's place in the log."""
        return self.raw.index

    def verify(self) -> VerifiedReceipt:
        """Check signature, entry and inclusion; waits about a second when the entry is newer than the checkpoint.

        Raises:
            IntegrityError: AUDIT_VERIFICATION; keep the receipt, it is evidence.
        """
        promise = verify_receipt(self.raw.note, self.verifier_key)
        if promise.index != self.raw.index or promise.leaf_hash != leaf_hash(self.raw.entry):
            raise error_for(Code.AUDIT_VERIFICATION, "receipt: it is not of the entry beside it")
        if self.request_id and self.entry.get("request_id") != self.request_id:
            raise error_for(Code.AUDIT_VERIFICATION, "receipt: the entry is of another request")
        return verify_note(self.raw.note, self.verifier_key, self.prove)

    def opens(self, field: str, nonce_hex: str, plaintext: bytes) -> bool:
        """Say whether the nonce and plaintext open the entry's commitment of that name."""
        commitments = self.entry.get("commitments")
        held = commitments.get(field) if isinstance(commitments, dict) else None
        try:
            nonce = bytes.fromhex(nonce_hex)
        except ValueError:
            return False
        return len(nonce) == NONCE_BYTES and isinstance(held, str) and held == commitment(nonce, plaintext)

    def save(self, folder: Path) -> None:
        """Write ``receipt.note``, ``entry.json`` and ``proof.tlog-proof``: enough to verify offline, for ever."""
        verified = self.verify()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "receipt.note").write_bytes(self.raw.note)
        (folder / "entry.json").write_bytes(self.raw.entry)
        (folder / "proof.tlog-proof").write_bytes(verified.proof)


@dataclass(frozen=True, slots=True)
class VerifiedReceipt:
    """What verification showed."""

    index: int
    tree_size: int
    time: str
    proof: bytes


def verify_note(note: bytes, verifier_key: str, prove: Prove) -> VerifiedReceipt:
    """Check a receipt without its entry, such as that of a refusal: the log signed it, and what it promised is in the log.

    Raises:
        IntegrityError: AUDIT_VERIFICATION.
    """
    promise = verify_receipt(note, verifier_key)
    proof = prove(promise.index)
    parsed = TlogProof.parse(proof)
    if parsed.index != promise.index:
        raise error_for(Code.AUDIT_VERIFICATION, "proof: it is of another entry")
    checkpoint = parsed.verify(promise.leaf_hash, verifier_key)
    return VerifiedReceipt(promise.index, checkpoint.size, promise.time, proof)


def save_note(folder: Path, note: bytes, verified: VerifiedReceipt) -> None:
    """Write the receipt of a refusal with its proof: whoever holds the log's entry can check that it is the one."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "receipt.note").write_bytes(note)
    (folder / "proof.tlog-proof").write_bytes(verified.proof)


def verify_saved(folder: Path, verifier_key: str) -> VerifiedReceipt:
    """Check a saved receipt offline.

    Raises:
        IntegrityError: AUDIT_VERIFICATION.
        CallerError: CLIENT_INPUT, a file is missing.
    """
    return load_saved(folder, verifier_key).verify()


def load_saved(folder: Path, verifier_key: str) -> Receipt:
    """Read a saved receipt; ``verify`` needs nothing but its own files.

    Raises:
        IntegrityError: AUDIT_VERIFICATION; the note is no receipt of the log.
        CallerError: CLIENT_INPUT, a file is missing.
    """
    note, entry, proof = (_read(folder / name) for name in ("receipt.note", "entry.json", "proof.tlog-proof"))
    index = verify_receipt(note, verifier_key).index
    return Receipt(RawReceipt(note, entry, index), verifier_key, "", lambda _: proof)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_FILE_BYTES_MAX)
    except OSError as error:
        message = "receipt: expected a folder with receipt.note, entry.json and proof.tlog-proof"
        raise error_for(Code.CLIENT_INPUT, message) from error

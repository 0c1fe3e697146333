"""An answer kept as evidence: its very bytes beside both receipts, so that anybody can check them, offline and for ever.

A folder holds ``decision/`` and ``outcome/`` (receipts, see ``tidegate.client.receipts``), ``answer.arrow`` (the Arrow IPC
stream as it came, readable by every Arrow library) and ``answer.json`` (its digest and the salt that opens the outcome
entry's commitment to it). Nothing in the folder is believed: only the log's verifier key, which the reader has from joining.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from tidegate.client.receipts import Receipt, VerifiedReceipt, load_saved
from tidegate.core.canonical import parse_json
from tidegate.core.errors import Code, TidegateError, error_for

if TYPE_CHECKING:
    from collections.abc import Iterator

DECISION, OUTCOME, ANSWER, DIGEST = "decision", "outcome", "answer.arrow", "answer.json"
END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"  # Arrow's end marker; the digest is over what stands before it
_BLOCK_BYTES = 1 << 20
_PREFIX_BYTES = 8  # of an Arrow message: a mark, and the length of its metadata; a schema has nothing more
_DIGEST_FILE_BYTES_MAX = 4096


@dataclass(frozen=True, slots=True)
class VerifiedAnswer:
    """What verification of an evidence folder showed."""

    decision: VerifiedReceipt
    outcome: VerifiedReceipt
    request_id: str
    digest: str


class AnswerFile:
    """Writes the chunks of an answer to a file that gets its name only when the answer is whole."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / ANSWER
        self._part = folder / f"{ANSWER}.part"

    def keep(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Pass the chunks on and write them; an iterator that fails, or is given up, leaves no file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._part.open("wb") as file:
                for chunk in chunks:
                    file.write(chunk)
                    yield chunk
                file.write(END_OF_STREAM)
            self._part.replace(self.path)
        finally:
            self._part.unlink(missing_ok=True)


def save_digest(folder: Path, digest: str, nonce_hex: str) -> None:
    """Write the digest of the answer, and the salt that opens the log's commitment to it."""
    document = {"digest": digest, "nonce": nonce_hex}
    (folder / DIGEST).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def verify_evidence(folder: Path, verifier_key: str) -> VerifiedAnswer:
    """Check an evidence folder offline: both receipts, that they are of one request, and the answer's very bytes.

    Trust: anybody may have written the folder.

    Raises:
        IntegrityError: AUDIT_VERIFICATION.
        CallerError: CLIENT_INPUT, a file is missing.
    """
    decision, outcome = (load_saved(folder / name, verifier_key) for name in (DECISION, OUTCOME))
    verified = decision.verify(), outcome.verify()
    request_id = str(decision.entry.get("request_id", ""))
    _check_pair(decision, outcome, request_id)
    digest, nonce = _digest_file(folder / DIGEST)
    if _digest(folder / ANSWER) != digest:
        raise error_for(Code.AUDIT_VERIFICATION, "answer: its bytes are not those of the digest beside it")
    if not outcome.opens("result", nonce, digest.encode()):
        raise error_for(Code.AUDIT_VERIFICATION, "answer: the outcome entry commits to another result")
    return VerifiedAnswer(*verified, request_id, digest)


def _check_pair(decision: Receipt, outcome: Receipt, request_id: str) -> None:
    kinds = decision.entry.get("type"), outcome.entry.get("type")
    if kinds != (DECISION, OUTCOME):
        raise error_for(Code.AUDIT_VERIFICATION, "evidence: expected the receipts of a decision and of an outcome")
    if not request_id or outcome.entry.get("request_id") != request_id:
        raise error_for(Code.AUDIT_VERIFICATION, "evidence: the two receipts are of different requests")


def _digest_file(path: Path) -> tuple[str, str]:
    try:
        data = parse_json(path.read_bytes(), size_bytes_max=_DIGEST_FILE_BYTES_MAX)
    except OSError as error:
        raise _missing() from error
    except TidegateError as error:
        raise error_for(Code.AUDIT_VERIFICATION, f"answer: {DIGEST} is not JSON") from error
    if isinstance(data, dict) and data.keys() == {"digest", "nonce"}:
        digest, nonce = data["digest"], data["nonce"]
        if isinstance(digest, str) and isinstance(nonce, str):
            return digest, nonce
    raise error_for(Code.AUDIT_VERIFICATION, f"answer: {DIGEST} is not of the expected form")


def _digest(path: Path) -> str:
    """Digest the stream without its end marker, as ``tidegate.ipc.Digest`` does: the schema's message, and what follows it."""
    try:
        left = path.stat().st_size - len(END_OF_STREAM)
        if left < 0:
            raise error_for(Code.AUDIT_VERIFICATION, "answer: the file is no whole Arrow stream")
        with path.open("rb") as file:
            schema_bytes = _PREFIX_BYTES + int.from_bytes(file.read(_PREFIX_BYTES)[4:], "little")
            if schema_bytes > left:
                raise error_for(Code.AUDIT_VERIFICATION, "answer: the file is no whole Arrow stream")
            file.seek(0)
            parts = _sha256(file, schema_bytes) + _sha256(file, left - schema_bytes)
            if file.read() != END_OF_STREAM:
                raise error_for(Code.AUDIT_VERIFICATION, "answer: the file is no whole Arrow stream")
    except OSError as error:
        raise _missing() from error
    return hashlib.sha256(parts).hexdigest()


def _sha256(file: BinaryIO, left: int) -> bytes:
    digest = hashlib.sha256()
    while left > 0 and (block := file.read(min(left, _BLOCK_BYTES))):
        digest.update(block)
        left -= len(block)
    return digest.digest()


def _missing() -> TidegateError:
    return error_for(
        Code.CLIENT_INPUT, f"evidence: expected a folder with {DECISION}/, {OUTCOME}/, {ANSWER} and {DIGEST}"
    )

"""Receipts: they verify, every changed field is refused, and none can pass for a checkpoint."""

from __future__ import annotations

import base64

import pytest

from tests.unit.tlog import vectors
from tidegate.core.errors import IntegrityError
from tidegate.tlog.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from tidegate.tlog.merkle import leaf_hash
from tidegate.tlog.note import Note, Verifier, sign_note, signature_line
from tidegate.tlog.receipt import Receipt, receipt_verifier, sign_receipt, verify_receipt

LEAF = leaf_hash(vectors.entry(5))
TIME = "2026-11-24T10:00:00.000001Z"
NOTE = sign_receipt(vectors.LOG_KEY, vectors.ORIGIN, 5, LEAF, TIME)


def test_a_receipt_verifies() -> None:
    assert verify_receipt(NOTE, vectors.LOG_VKEY) == Receipt(vectors.ORIGIN, 5, LEAF, TIME)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"audit\n", b"audiT\n"),
        (b"\n5\n", b"\n6\n"),
        (base64.b64encode(LEAF), base64.b64encode(bytes(32))),
        (b"000001Z", b"000002Z"),
        (b"Z\n\n", b"Z\nmore\n\n"),
        ("— broker".encode(), "— proker".encode()),
    ],
)
def test_a_changed_receipt_is_refused(old: bytes, new: bytes) -> None:
    assert old in NOTE
    with pytest.raises(IntegrityError):
        verify_receipt(NOTE.replace(old, new, 1), vectors.LOG_VKEY)


def test_a_receipt_by_another_key_is_refused() -> None:
    with pytest.raises(IntegrityError, match="no signature"):
        verify_receipt(sign_receipt(vectors.WITNESS_KEY, vectors.ORIGIN, 5, LEAF, TIME), vectors.LOG_VKEY)


def test_a_receipt_relabelled_as_a_checkpoint_is_no_checkpoint() -> None:
    parsed = Note.parse(NOTE)
    log = Verifier.parse(vectors.LOG_VKEY)
    assert Checkpoint.parse_text(parsed.text).size == 5  # the text alone would do: the signed prefix is what stops it
    forged = f"{parsed.text}\n{signature_line(log, parsed.signatures[0].blob)}".encode()
    with pytest.raises(IntegrityError, match="does not verify"):
        open_checkpoint(forged, vectors.LOG_VKEY)


def test_a_checkpoint_relabelled_as_a_receipt_is_no_receipt() -> None:
    checkpoint = Note.parse(sign_checkpoint(Checkpoint(vectors.ORIGIN, 5, LEAF), vectors.LOG_KEY))
    verifier = receipt_verifier(Verifier.parse(vectors.LOG_VKEY))
    forged = f"{checkpoint.text}\n{signature_line(verifier, checkpoint.signatures[0].blob)}".encode()
    with pytest.raises(IntegrityError, match="does not verify"):
        verify_receipt(forged, vectors.LOG_VKEY)


@pytest.mark.parametrize(
    "text",
    [
        f"{vectors.ORIGIN}\n5\n{base64.b64encode(LEAF).decode()}\n",
        f"{vectors.ORIGIN}\n05\n{base64.b64encode(LEAF).decode()}\n{TIME}\n",
        f"{vectors.ORIGIN}\nx\n{base64.b64encode(LEAF).decode()}\n{TIME}\n",
        f"{vectors.ORIGIN}\n5\nAAAA\n{TIME}\n",
        f"{vectors.ORIGIN}\n5\n{base64.b64encode(LEAF).decode()}\n2026-11-24T10:00:00\n",
        f"{vectors.ORIGIN}\n5\n{base64.b64encode(LEAF).decode()}\n2026-11-24T10:00:00Z\n",
        f"{vectors.ORIGIN}\n5\n{base64.b64encode(LEAF).decode()}\nnoon\n",
        f"other\n5\n{base64.b64encode(LEAF).decode()}\n{TIME}\n",
    ],
)
def test_texts_that_are_no_receipt_are_refused_even_when_signed(text: str) -> None:
    verifier = receipt_verifier(Verifier.parse(vectors.LOG_VKEY))
    with pytest.raises(IntegrityError, match="receipt"):
        verify_receipt(sign_note(text, verifier, vectors.LOG_KEY), vectors.LOG_VKEY)


def test_a_witness_key_is_no_log_key() -> None:
    with pytest.raises(IntegrityError, match="Ed25519 key"):
        verify_receipt(NOTE, vectors.WITNESS_VKEY)

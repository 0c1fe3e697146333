"""Notes, verifier keys, checkpoints, cosignatures: vectors, round trips, one test per malformed field."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.tlog import vectors
from tidegate.core.errors import Code, IntegrityError
from tidegate.tlog.checkpoint import Checkpoint, cosign, open_checkpoint, sign_checkpoint
from tidegate.tlog.note import Note, Verifier, check_key_name, sign_note, verifier_of

CHECKPOINT = Checkpoint(vectors.ORIGIN, 257, base64.b64decode(vectors.ROOTS[257]))


def test_the_specifications_verifier_key_is_read_and_printed() -> None:
    text = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
    assert str(Verifier.parse(text)) == text


def test_verifier_keys_equal_the_reference() -> None:
    assert str(verifier_of(vectors.ORIGIN, vectors.LOG_KEY)) == vectors.LOG_VKEY
    assert str(verifier_of(vectors.WITNESS, vectors.WITNESS_KEY, 4)) == vectors.WITNESS_VKEY


def test_the_cosigned_checkpoint_equals_the_reference_byte_for_byte() -> None:
    line = cosign(CHECKPOINT.text, vectors.WITNESS, vectors.WITNESS_KEY, vectors.COSIGNED_AT_S)
    assert sign_checkpoint(CHECKPOINT, vectors.LOG_KEY) + line.encode() == vectors.CHECKPOINT_257


def test_a_cosigned_checkpoint_verifies() -> None:
    opened = open_checkpoint(vectors.CHECKPOINT_257, vectors.LOG_VKEY, [vectors.WITNESS_VKEY])
    assert opened == CHECKPOINT
    assert open_checkpoint(vectors.CHECKPOINT_257, vectors.LOG_VKEY) == CHECKPOINT


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name",
        "name+530d903a",
        "example.com/foo+530d903b+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",  # hash of another key
        "example.com/fop+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",  # another name
        "example.com/foo+530d903a+AukyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",  # type 2
        "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U",  # base64 cut
        "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv",  # key cut
        "example.com foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
    ],
)
def test_malformed_verifier_keys_are_refused(text: str) -> None:
    with pytest.raises(IntegrityError):
        Verifier.parse(text)


def change(old: bytes, new: bytes) -> bytes:
    assert old in vectors.CHECKPOINT_257
    return vectors.CHECKPOINT_257.replace(old, new)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n\n",
        b"text\n",
        vectors.CHECKPOINT_257[:-1],  # no newline at the end
        change(b"257\n", b"258\n"),
        change(b"257\n", b"0257\n"),
        change(b"msTF", b"nsTF"),
        change(b"broker.example/audit\n", b"broker.example/audiT\n"),
        change(b"ukbyqcUl", b"ukbyqcUm"),  # the log's signature
        change(b"/EAFIDK", b"/EAFIDL"),  # the witness's signature
        change(b"AAAABlU", b"AAAABlV"),  # the witness's time
        change("— broker".encode(), b"- broker"),
        change("— broker".encode(), "—broker".encode()),
        change(b"audit ukby", b"audit  ukby"),
        change(b"audit ukby", b"au+dit ukby"),
        change(b"257\n", b"257\r\n"),
        change(b"257\n", b"257\x00\n"),
        change(b"257\n", b"257\x7f\n"),
        change(b"257\n", b"257\xff\n"),
        change(b"gVaQk=", b"gVaQl="),  # another spelling of the same bytes
        change(b"gVaQk=", b"gVaQk"),
        change(b"gVaQk=", b"gVa Qk="),
        vectors.CHECKPOINT_257 + "— x AAAA\n".encode() * 70,
        vectors.CHECKPOINT_257 + "— x AAAAAA==\n".encode(),  # a key id alone
        b"x" * 70_000 + vectors.CHECKPOINT_257,
        vectors.CHECKPOINT_257 + b"\n",
    ],
)
def test_a_changed_checkpoint_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError) as caught:
        open_checkpoint(data, vectors.LOG_VKEY, [vectors.WITNESS_VKEY])
    assert caught.value.code is Code.AUDIT_VERIFICATION


def test_a_note_without_a_trusted_signature_is_refused() -> None:
    with pytest.raises(IntegrityError, match="no signature by a trusted key"):
        Note.parse(vectors.CHECKPOINT_257).verify([verifier_of("another.example", vectors.LOG_KEY)])


def test_a_witness_alone_does_not_make_a_checkpoint() -> None:
    line = cosign(CHECKPOINT.text, vectors.WITNESS, vectors.WITNESS_KEY, vectors.COSIGNED_AT_S)
    with pytest.raises(IntegrityError, match="not signed by the log"):
        open_checkpoint(f"{CHECKPOINT.text}\n{line}".encode(), vectors.LOG_VKEY, [vectors.WITNESS_VKEY])


def test_a_checkpoint_of_another_origin_is_refused_even_when_signed_by_the_key() -> None:
    other = Checkpoint("other.example/audit", 1, bytes(32))
    note = sign_note(other.text, verifier_of(vectors.ORIGIN, vectors.LOG_KEY), vectors.LOG_KEY)
    with pytest.raises(IntegrityError, match="another log"):
        open_checkpoint(note, vectors.LOG_VKEY)


@pytest.mark.parametrize(
    "text",
    [
        "origin\n1\n",
        "origin\n\n1\n" + "A" * 43 + "=\n",
        "origin\n-1\n" + "A" * 43 + "=\n",
        "origin\n" + "9" * 19 + "\n" + "A" * 43 + "=\n",
        "origin\n1\nAAAA\n",
        "origin\n1\n" + "A" * 43 + "B\n",
    ],
)
def test_malformed_checkpoint_texts_are_refused(text: str) -> None:
    with pytest.raises(IntegrityError):
        Checkpoint.parse_text(text)


def test_extension_lines_are_passed_over() -> None:
    assert Checkpoint.parse_text(CHECKPOINT.text + "more\n") == CHECKPOINT


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\u00a0b", "a\u2028b", "a\tb"])
def test_key_names_that_cannot_stand_on_a_line_are_refused(name: str) -> None:
    with pytest.raises(IntegrityError):
        check_key_name(name)


@given(st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=60))
def test_any_text_survives_signing_and_reading(line: str) -> None:
    text = f"x{line}\n\ny{line}\n"
    verifier = verifier_of("k", vectors.LOG_KEY)
    note = Note.parse(sign_note(text, verifier, vectors.LOG_KEY))
    assert note.text == text
    assert note.verify([verifier]) == (verifier,)


@given(st.binary(max_size=300))
def test_random_bytes_are_refused_cleanly(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        open_checkpoint(data, vectors.LOG_VKEY)

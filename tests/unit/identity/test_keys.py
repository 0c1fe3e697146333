"""Private keys: their files, their form, signatures."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given
from hypothesis import strategies as st

from tidegate.core.errors import Code, TidegateError
from tidegate.identity import keys

KEY = keys.new_key()


def test_a_saved_key_is_loaded_and_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "key.pem"
    keys.save_key(path, KEY)
    assert keys.load_key(path).private_numbers() == KEY.private_numbers()
    assert path.stat().st_mode & 0o777 == 0o600
    assert [item.name for item in path.parent.iterdir()] == ["key.pem"]


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o601])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key.pem"
    keys.save_key(path, KEY)
    path.chmod(mode)
    with pytest.raises(TidegateError, match="0600") as caught:
        keys.load_key(path)
    assert caught.value.code is Code.CONFIG_INVALID


def test_a_key_with_a_passphrase_needs_it(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    keys.save_key(path, KEY, b"correct horse")
    assert keys.load_key(path, b"correct horse").private_numbers() == KEY.private_numbers()
    for wrong in (None, b"other"):
        with pytest.raises(TidegateError, match="passphrase"):
            keys.load_key(path, wrong)


def _pem(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"nonsense",
        _pem(ed25519.Ed25519PrivateKey.generate()),
        _pem(ec.generate_private_key(ec.SECP384R1())),
        keys.key_to_pem(KEY)[:-40],
    ],
)
def test_what_is_no_p256_key_is_refused(pem: bytes) -> None:
    with pytest.raises(TidegateError) as caught:
        keys.key_from_pem(pem)
    assert caught.value.code is Code.CONFIG_INVALID


def test_a_missing_and_a_huge_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TidegateError, match="cannot be read"):
        keys.load_key(tmp_path / "absent")
    keys.write_private(tmp_path / "huge", b"x" * (keys.KEY_FILE_BYTES_MAX + 1))
    with pytest.raises(TidegateError, match="too large"):
        keys.load_key(tmp_path / "huge")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.mkdir()  # a folder in the way: the rename fails after everything was written
    with pytest.raises(OSError):
        keys.write_private(path, b"data")
    assert [item.name for item in tmp_path.iterdir()] == ["key.pem"]


@given(st.binary(max_size=200), st.integers(0, 7), st.data())
def test_a_signature_holds_for_its_bytes_alone(data: bytes, bit: int, draw: st.DataObject) -> None:
    signature = keys.sign(KEY, data)
    keys.verify(KEY.public_key(), data, signature)
    changed = bytearray(data or b"\0")
    changed[draw.draw(st.integers(0, len(changed) - 1))] ^= 1 << bit
    for bad_data, bad_signature, key in (
        (bytes(changed) if data else b"x", signature, KEY),
        (data, signature[:-1], KEY),
        (data, b"", KEY),
        (data, signature, keys.new_key()),
    ):
        with pytest.raises(TidegateError) as caught:
            keys.verify(key.public_key(), bad_data, bad_signature)
        assert caught.value.code is Code.AUDIT_VERIFICATION

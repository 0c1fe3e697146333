"""Private keys: P-256, made where they are used, kept in files that their owner alone can read.

Source: design doors.md, Identity; FIPS 186-5 (ECDSA over P-256 with SHA-256).
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tidegate.core.errors import Code, error_for

PrivateKey = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey

KEY_FILE_BYTES_MAX = 64 << 10  # a PEM bundle is some 3 KB; more is not ours


def new_key() -> PrivateKey:
    """Make a P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_to_pem(key: PrivateKey, passphrase: bytes | None = None) -> bytes:
    """Give the PKCS#8 PEM form, encrypted when a passphrase is given."""
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        encryption = serialization.BestAvailableEncryption(passphrase)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def key_from_pem(pem: bytes, passphrase: bytes | None = None) -> PrivateKey:
    """Read a PKCS#8 PEM key; anything but P-256 is refused."""
    try:
        key = serialization.load_pem_private_key(pem, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise error_for(
            Code.CONFIG_INVALID, "private key: not a readable PEM key, or its passphrase is wrong"
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise error_for(Code.CONFIG_INVALID, "private key: expected a P-256 key")
    return key


def save_key(path: Path, key: PrivateKey, passphrase: bytes | None = None) -> None:
    """Write the key with mode 0600, atomically and durably."""
    write_private(path, key_to_pem(key, passphrase))


def load_key(path: Path, passphrase: bytes | None = None) -> PrivateKey:
    """Read a key file; one that others could read is refused."""
    return key_from_pem(read_private(path), passphrase)


def sign(key: PrivateKey, data: bytes) -> bytes:
    """Sign with ECDSA over SHA-256; DER form."""
    return key.sign(data, ec.ECDSA(hashes.SHA256()))


def verify(public_key: PublicKey, data: bytes, signature: bytes) -> None:
    """Check an ECDSA signature (SHA-256, DER).

    Raises:
        IntegrityError: it does not verify.
    """
    try:
        public_key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise error_for(Code.AUDIT_VERIFICATION, "signature: it does not verify") from error


def write_private(path: Path, data: bytes) -> None:
    """Write a file of mode 0600: all of it or nothing of it, also when the machine stops at any line here."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    # O_EXCL: nobody else prepared this name; 0600 from the first byte, so there is no moment in which others could
    # read.
    binary = getattr(os, "O_BINARY", 0)  # Windows would write other line ends than ours
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | binary, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def read_private(path: Path) -> bytes:
    """Read a file that must be its owner's alone (mode 0600 or stricter, where the system has modes)."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(KEY_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise error_for(Code.CONFIG_INVALID, "private key: the file cannot be read", detail=str(error)) from error
    if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
        raise error_for(
            Code.CONFIG_INVALID, "private key: others may read the file; set its mode to 0600", detail=str(path)
        )
    if len(data) > KEY_FILE_BYTES_MAX:
        raise error_for(Code.CONFIG_INVALID, "private key: the file is too large", detail=str(path))
    return data


def sync_folder(folder: Path) -> None:
    """Make a rename durable; a no-op where folders cannot be opened (Windows)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

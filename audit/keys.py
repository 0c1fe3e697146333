"""The log's own files: its key (0600) and its description; and the lock that keeps a second process out."""

from __future__ import annotations

import fcntl
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from audit.disk import Disk
from tidegate.core.errors import Code, error_for

_FORMAT = 1


def make_key(path: Path, disk: Disk) -> Ed25519PrivateKey:
    """Make a key file that only its owner can read; never over an existing one."""
    if path.exists():
        raise error_for(Code.AUDIT_UNAVAILABLE, "audit log: a key exists already and is not overwritten")
    key = Ed25519PrivateKey.generate()
    disk.write_file(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return key


def load_key(path: Path) -> Ed25519PrivateKey:
    """Load a key file.

    Raises:
        InternalError: missing, not an Ed25519 key, or readable by others.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise error_for(Code.AUDIT_UNAVAILABLE, "audit log: its key cannot be read", detail=str(error)) from error
    if mode & 0o077:
        raise error_for(Code.AUDIT_UNAVAILABLE, "audit log: its key is readable by others; expected mode 0600")
    if not isinstance(key, Ed25519PrivateKey):
        raise error_for(Code.AUDIT_UNAVAILABLE, "audit log: expected an Ed25519 key")
    return key


@dataclass(frozen=True, slots=True)
class Description:
    """What a log's folder says it is."""

    origin: str
    verifier_key: str
    key_file: str  # relative to the folder, or absolute where the key lies elsewhere

    def save(self, folder: Path, disk: Disk) -> None:
        """Write ``log.json``."""
        document = {"format": _FORMAT, "origin": self.origin, "verifier_key": self.verifier_key, "key": self.key_file}
        disk.write_file(folder / "log.json", json.dumps(document, indent=2).encode() + b"\n")

    @classmethod
    def load(cls, folder: Path) -> Description:
        """Read ``log.json``; a folder without one is not a log, and none is made of it."""
        try:
            document = json.loads((folder / "log.json").read_bytes())
            if document["format"] != _FORMAT:
                raise ValueError("format")
            return cls(document["origin"], document["verifier_key"], document["key"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise error_for(
                Code.AUDIT_UNAVAILABLE, "audit log: the folder holds no log; make one with `create`", detail=str(error)
            ) from error


def lock_folder(folder: Path) -> int:
    """Keep every other process out until the descriptor is closed (also by the kernel, when this process dies)."""
    file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        raise error_for(Code.AUDIT_UNAVAILABLE, "audit log: another process has it open") from error
    return file

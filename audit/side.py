"""The side store: SQL texts, decision inputs, names, encrypted per entry, so that forgetting is possible.

The log holds salted commitments alone; what they commit to lies here under a key of its own. Keys and bodies are two
files, so that a backup of the bodies cannot undo an erasure. Erasing deletes key, nonce and body; proofs stay valid.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from audit.head import connect
from audit.wal import Record
from tidegate.core.clock import Ids
from tidegate.core.errors import Code, error_for

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
SIDE_BYTES_MAX = 1 << 20  # of one entry; an SQL text is at most 64 KiB, a decision's input a few times that


def seal(side: Mapping[str, Any], leaf: bytes, ids: Ids) -> tuple[bytes, bytes]:
    """Encrypt side material under a fresh key, bound to the leaf: (key, blob)."""
    plain = _ENCODER.encode(side).encode()
    if len(plain) > SIDE_BYTES_MAX:
        raise error_for(Code.AUDIT_UNAVAILABLE, f"audit log: side material larger than {SIDE_BYTES_MAX} bytes")
    key, iv = ids.nonce(32), ids.nonce(12)
    return key, iv + AESGCM(key).encrypt(iv, plain, leaf)


def unseal(key: bytes, blob: bytes, leaf: bytes) -> dict[str, Any]:
    """Decrypt side material.

    Raises:
        IntegrityError: it was changed, or belongs to another entry.
    """
    try:
        plain = AESGCM(key).decrypt(blob[:12], blob[12:], leaf)
    except (InvalidTag, ValueError) as error:
        raise error_for(Code.AUDIT_VERIFICATION, "side store: the material does not belong to its entry") from error
    result: dict[str, Any] = json.loads(plain)
    return result


class SideStore:
    """Keys and bodies by index."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    @staticmethod
    def create(folder: Path) -> None:
        """Make both files."""
        for name, table in (
            ("side.sqlite", "body (idx INTEGER PRIMARY KEY, blob BLOB NOT NULL) STRICT"),
            ("side-keys.sqlite", "secret (idx INTEGER PRIMARY KEY, nonce BLOB, key BLOB) STRICT"),
        ):
            connection = connect(folder / name, create=True)
            connection.execute(f"CREATE TABLE {table}")
            connection.close()

    @classmethod
    def open(cls, folder: Path) -> SideStore:
        """Open the files that ``create`` made."""
        try:
            connect(folder / "side-keys.sqlite").close()
            connection = connect(folder / "side.sqlite")
            connection.execute("ATTACH ? AS keys", (str(folder / "side-keys.sqlite"),))
            connection.execute("PRAGMA keys.synchronous=EXTRA")
            # Freed pages are overwritten with zeros: an erased key does not linger in the file.
            connection.execute("PRAGMA secure_delete=ON")
            connection.execute("PRAGMA keys.secure_delete=ON")
        except sqlite3.Error as error:
            raise error_for(Code.AUDIT_UNAVAILABLE, "side store: cannot be opened", detail=str(error)) from error
        return cls(connection)

    def put(self, records: Iterable[tuple[int, Record]]) -> None:
        """Take over records from the write-ahead log, durably; what is there already (or was erased) stays."""
        secrets, bodies = [], []
        for index, record in records:
            secrets.append((index, record.nonce, record.side_key or None))
            if record.side:
                bodies.append((index, record.side))
        with self._lock, self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            # Keys first: what OR IGNORE skips below is exactly what an erasure left a tombstone for.
            self._connection.executemany("INSERT OR IGNORE INTO keys.secret VALUES (?, ?, ?)", secrets)
            self._connection.executemany(
                "INSERT OR IGNORE INTO body SELECT ?1, ?2 WHERE EXISTS"
                " (SELECT 1 FROM keys.secret WHERE idx = ?1 AND key IS NOT NULL)",
                bodies,
            )

    def read(self, index: int) -> tuple[bytes, bytes, bytes] | None:
        """Give (nonce, key, blob), the last two empty without side material; None when erased or unknown."""
        with self._lock:
            row = self._connection.execute(
                "SELECT nonce, key, blob FROM keys.secret LEFT JOIN body USING (idx) WHERE idx = ?", (index,)
            ).fetchone()
        if row is None or row[0] is None:
            return None
        return bytes(row[0]), bytes(row[1] or b""), bytes(row[2] or b"")

    def erase(self, index: int) -> None:
        """Forget nonce, key and body of an entry, for ever. The row stays, so that no replay brings them back."""
        with self._lock, self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.execute(
                "INSERT INTO keys.secret VALUES (?, NULL, NULL)"
                " ON CONFLICT (idx) DO UPDATE SET nonce = NULL, key = NULL",
                (index,),
            )
            self._connection.execute("DELETE FROM body WHERE idx = ?", (index,))

    def close(self) -> None:
        """Close the files."""
        self._connection.close()

"""The head: the newest signed checkpoint, moved by compare-and-swap in a small SQLite file.

It is the log's only truth about what it has signed. The file is made by ``create`` alone: opening a log whose head is
gone fails, because a log that begins anew under an old name is a fork. Source: sunlight's lock backend.
"""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

from tidegate.core.errors import Code, error_for


class HeadLost(Exception):
    """The compare-and-swap failed: somebody else moved the head, or its state is unknown. The process must end."""


def connect(path: Path, *, create: bool = False) -> sqlite3.Connection:
    """Open an SQLite file that every commit makes durable; never makes one unless told to."""
    mode = "rwc" if create else "rw"
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA journal_mode=DELETE")
    # EXTRA is FULL plus a sync of the folder after the journal is gone: without it a power cut may undo a commit.
    connection.execute("PRAGMA synchronous=EXTRA")
    return connection


class Head:
    """The stored checkpoint of one log."""

    def __init__(self, connection: sqlite3.Connection, origin: str) -> None:
        self._connection = connection
        self._origin = origin
        self._lock = threading.Lock()

    @classmethod
    def create(cls, path: Path, origin: str, checkpoint: bytes) -> None:
        """Make the file with the log's first checkpoint."""
        connection = connect(path, create=True)
        try:
            connection.execute("CREATE TABLE head (origin TEXT PRIMARY KEY, body BLOB NOT NULL) STRICT")
            connection.execute("INSERT INTO head VALUES (?, ?)", (origin, checkpoint))
        finally:
            connection.close()

    @classmethod
    def open(cls, path: Path, origin: str) -> Head:
        """Open the file that ``create`` made."""
        try:
            return cls(connect(path), origin)
        except sqlite3.Error as error:
            raise error_for(
                Code.AUDIT_UNAVAILABLE, "audit log: its head cannot be opened", detail=str(error)
            ) from error

    def read(self) -> bytes:
        """Give the newest signed checkpoint."""
        with self._lock:
            row = self._connection.execute("SELECT body FROM head WHERE origin = ?", (self._origin,)).fetchone()
        if row is None:
            raise error_for(Code.AUDIT_UNAVAILABLE, "audit log: it has no head")
        return bytes(row[0])

    def swap(self, old: bytes, new: bytes) -> None:
        """Move from the old checkpoint to the new one, durably.

        Raises:
            HeadLost: the stored one is not ``old``.
            sqlite3.OperationalError: the disk is full; nothing changed.
        """
        with self._lock:
            moved = self._connection.execute(
                "UPDATE head SET body = ? WHERE origin = ? AND body = ?", (new, self._origin, old)
            ).rowcount
        if moved != 1:
            raise HeadLost("the stored checkpoint is not the expected one")

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

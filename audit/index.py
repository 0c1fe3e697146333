"""The search index: an SQLite file made from the entries, which can be thrown away and made again at any time.

Never the truth: a result is an index into the log, and the entry itself is read from there. It is fed with durable
entries only and written without syncs; what a crash loses is fed again.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audit.entries import CLOSING
from tidegate.core.clock import parse_timestamp, timestamp
from tidegate.core.errors import Code, error_for
from tidegate.core.limits import PAGE_SIZE_MAX

_VERSION = 1
PAGE_SIZE_DEFAULT = 100
_TEXT_CHARS_MAX = 600
_COLUMNS = ("type", "member", "identity", "purpose", "legal_basis", "request_id")
_SCHEMA = """
CREATE TABLE about (origin TEXT NOT NULL, version INTEGER NOT NULL, size INTEGER NOT NULL) STRICT;
CREATE TABLE entry (idx INTEGER PRIMARY KEY, type TEXT, kind TEXT, ts TEXT, request_id TEXT, member TEXT, identity TEXT,
  purpose TEXT, legal_basis TEXT, deadline TEXT, closed INTEGER) STRICT;
CREATE INDEX entry_type ON entry (type, idx);
CREATE INDEX entry_kind ON entry (kind, idx) WHERE kind <> '';
CREATE INDEX entry_ts ON entry (ts);
CREATE INDEX entry_request ON entry (request_id);
CREATE INDEX entry_member ON entry (member, idx);
CREATE INDEX entry_identity ON entry (identity, idx);
CREATE INDEX entry_purpose ON entry (purpose, idx);
CREATE INDEX entry_legal_basis ON entry (legal_basis, idx);
CREATE INDEX entry_open ON entry (idx) WHERE type = 'decision' AND closed = 0;
CREATE TABLE dataset (name TEXT, idx INTEGER, PRIMARY KEY (name, idx)) STRICT, WITHOUT ROWID;
CREATE TABLE reason (code TEXT, idx INTEGER, PRIMARY KEY (code, idx)) STRICT, WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class AuditQuery:
    """What an auditor looks for; an empty field matches everything, ``type`` also matches an administrative kind.

    Args:
        reason: a reason's code or an error's stable code; since, until: RFC 3339, from including, to excluding.
        page_token: of the previous page's answer; with_side: also give the side material where not erased.
    """

    type: str = ""
    member: str = ""
    identity: str = ""
    dataset: str = ""
    purpose: str = ""
    legal_basis: str = ""
    reason: str = ""
    request_id: str = ""
    since: str = ""
    until: str = ""
    page_size: int = PAGE_SIZE_DEFAULT
    page_token: str = ""
    with_side: bool = False

    def __post_init__(self) -> None:
        """Refuse what no entry can hold. Trust: an auditor's client wrote it."""
        for name in (*_COLUMNS, "dataset", "reason", "since", "until"):
            if len(getattr(self, name)) > _TEXT_CHARS_MAX:
                raise error_for(Code.WIRE_INVALID, f"audit search: {name} is longer than {_TEXT_CHARS_MAX} characters")
        if not 1 <= self.page_size <= PAGE_SIZE_MAX:
            raise error_for(Code.WIRE_INVALID, f"audit search: expected a page size of 1 to {PAGE_SIZE_MAX}")
        if self.page_token and not (
            self.page_token.isascii() and self.page_token.isdigit() and len(self.page_token) < 19
        ):
            raise error_for(Code.WIRE_INVALID, "audit search: not a page token of this log")
        for name in ("since", "until"):
            object.__setattr__(self, name, _moment(name, getattr(self, name)))

    def conditions(self) -> tuple[str, list[Any]]:
        """Give the WHERE clause over ``entry`` and its values."""
        parts, values = ["1"], []
        for name in _COLUMNS:
            if value := getattr(self, name):
                parts.append(f"entry.{name} = ?" if name != "type" else "(entry.type = ? OR entry.kind = ?)")
                values += [value] if name != "type" else [value, value]
        for table, column, value in (("dataset", "name", self.dataset), ("reason", "code", self.reason)):
            if value:
                parts.append(f"entry.idx IN (SELECT idx FROM {table} WHERE {column} = ?)")  # noqa: S608 - our own names
                values.append(value)
        for sign, value in ((">=", self.since), ("<", self.until)):
            if value:
                parts.append(f"entry.ts {sign} ?")
                values.append(value)
        if self.page_token:
            parts.append("entry.idx < ?")
            values.append(int(self.page_token))
        return " AND ".join(parts), values


def _moment(name: str, text: str) -> str:
    if not text:
        return ""
    try:
        return timestamp(parse_timestamp(text))
    except (ValueError, OverflowError) as error:
        raise error_for(Code.WIRE_INVALID, f"audit search: {name}: expected a time with its zone (RFC 3339)") from error


@dataclass(frozen=True, slots=True)
class OpenDecision:
    """A decision without outcome so far."""

    index: int
    request_id: str
    deadline: str


class SearchIndex:
    """The index of one log. One writer (``feed``), any number of readers."""

    def __init__(self, path: Path, origin: str, log_size: int) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._connection = self._open(origin, log_size)

    def _open(self, origin: str, log_size: int) -> sqlite3.Connection:
        """Open the file; one that is damaged, of another log, or ahead of the log is made anew."""
        with contextlib.suppress(sqlite3.Error):
            connection = self._connect()
            try:
                row = connection.execute("SELECT origin, version, size FROM about").fetchone()
                if row and row[:2] == (origin, _VERSION) and row[2] <= log_size:
                    return connection
            except sqlite3.Error:
                connection.close()
                raise
            connection.close()
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        connection = self._connect()
        connection.executescript(_SCHEMA)
        connection.execute("INSERT INTO about VALUES (?, ?, 0)", (origin, _VERSION))
        return connection

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=OFF")
        return connection

    @property
    def size(self) -> int:
        """How many entries of the log are in the index."""
        with self._lock:
            return int(self._connection.execute("SELECT size FROM about").fetchone()[0])

    def feed(self, entries: Iterable[tuple[int, dict[str, Any]]]) -> None:
        """Add entries in order, without a gap."""
        with self._lock, self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            for index, fields in entries:
                self._add(index, fields)

    def _add(self, index: int, fields: dict[str, Any]) -> None:
        run = self._connection.execute
        if run("UPDATE about SET size = ?1 + 1 WHERE size = ?1", (index,)).rowcount != 1:
            raise error_for(Code.INTERNAL, "search index: entries out of order")
        names = ("type", "kind", "ts", "request_id", "member", "identity", "purpose", "legal_basis", "deadline")
        run("INSERT INTO entry VALUES (?,?,?,?,?,?,?,?,?,?,0)", (index, *(fields.get(name, "") for name in names)))
        for item in fields.get("datasets", ()):
            run("INSERT OR IGNORE INTO dataset VALUES (?, ?)", (item["name"], index))
        for code in (*fields.get("reasons", ()), *filter(None, [fields.get("error")])):
            run("INSERT OR IGNORE INTO reason VALUES (?, ?)", (code, index))
        if fields["type"] in CLOSING:
            run("UPDATE entry SET closed = 1 WHERE request_id = ? AND type = 'decision'", (fields["request_id"],))

    def search(self, query: AuditQuery) -> tuple[list[int], str]:
        """Give the indexes of matching entries, newest first, and the next page's token (empty at the end)."""
        where, values = query.conditions()
        sql = f"SELECT idx FROM entry WHERE {where} ORDER BY idx DESC LIMIT ?"  # noqa: S608 - values are parameters
        reader = self._connect()
        try:
            rows = [int(row[0]) for row in reader.execute(sql, (*values, query.page_size + 1))]
        finally:
            reader.close()
        page = rows[: query.page_size]
        return page, str(page[-1]) if len(rows) > query.page_size else ""

    def open_decisions(self) -> list[OpenDecision]:
        """Give decisions without outcome, oldest first."""
        with self._lock:
            rows = self._connection.execute(
                "SELECT idx, request_id, deadline FROM entry WHERE type = 'decision' AND closed = 0 ORDER BY idx"
            ).fetchall()
        return [OpenDecision(*row) for row in rows]

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()


def fields_of(entry: bytes) -> dict[str, Any]:
    """Read an entry of our own log."""
    result: dict[str, Any] = json.loads(entry)
    return result

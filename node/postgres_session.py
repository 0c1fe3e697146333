"""Connections to one PostgreSQL database: pinned settings, one transaction for each query, a cancel that reaches the server.

Opening a connection costs 60 to 80 ms (the driver reads the server's types), so a few that ended well wait for the next query.
One whose query failed, was cancelled or was not read to its end is closed.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import pyarrow as pa

from tidegate.core.errors import Code, TidegateError, error_for

try:
    import adbc_driver_postgresql.dbapi as adbc
except ModuleNotFoundError:  # a node that serves files alone does without the extra `postgres`; PostgresSource says so
    adbc = None

INSTALLED = adbc is not None
IDLE_MAX = 4
IDLE_S_MAX = 60.0  # a server or a proxy may end what is idle for longer
CANCEL_POLL_S = 0.05
LATE_S = 0.01  # the server's clock may end a query this much before ours does
# Like postgres_fdw, so that the text form of nothing depends on the role's or the database's own settings.
_PINNED = {
    "search_path": "pg_catalog",
    "TimeZone": "UTC",
    "DateStyle": "ISO",
    "IntervalStyle": "postgres",
    "extra_float_digits": "3",
    "client_encoding": "UTF8",
    "standard_conforming_strings": "on",
    "default_transaction_read_only": "on",
    "application_name": "tidegate",
}
_AWAY = (
    "08",
    "57P",
    "53300",
    "28",
    "3D",
)  # connection lost, server ends, too many connections, refused, no such database
_CANCELED = "57014"
_STATE = re.compile(r"SQLSTATE:?\s*([0-9A-Z]{5})")


class Failed(Exception):
    """The driver failed; of what the server said, only the SQLSTATE is kept: its text may quote a value."""

    def __init__(self, what: str, error: Exception) -> None:
        super().__init__(what)
        self.what = what
        told = _STATE.search(str(error))  # a reader of Arrow raises Arrow's errors, with the driver's words in them
        self.state = str(getattr(error, "sqlstate", None) or (told[1] if told else ""))
        self.kind = type(error).__name__
        self.away = what == "connect" or self.state.startswith(_AWAY)


def problem(failed: Failed) -> TidegateError:
    """Make the public error."""
    detail = f"{failed.what}: {failed.kind} {failed.state}".strip()
    if failed.away:
        return error_for(Code.NODE_SOURCE_AWAY, "PostgreSQL source: the database cannot be reached", detail=detail)
    if failed.state == _CANCELED:
        return error_for(Code.QUERY_DEADLINE, detail=detail)
    return error_for(Code.NODE_EXECUTE, "PostgreSQL source: the query failed", detail=detail)


class Session:
    """One connection; used by one thread at a time."""

    def __init__(self, url: str) -> None:
        try:
            self._connection = adbc.connect(url, autocommit=True)
        except adbc.Error as error:
            raise Failed("connect", error) from None
        self.cursor: Any = self._connection.cursor()
        self.idle_since_s = 0.0
        try:
            pins = ", ".join(f"pg_catalog.set_config('{name}', '{value}', false)" for name, value in _PINNED.items())
            self.do(f"SELECT {pins}")
        except Failed:
            self.close()
            raise

    def do(self, statement: str) -> None:
        """Run a statement without an answer."""
        try:
            self.cursor.execute(statement)
        except adbc.Error as error:
            raise Failed(statement.partition(" ")[0].lower(), error) from None

    def begin(self, until_s: float, *, views: bool = False) -> None:
        """Begin a transaction that sees one state of the database, ends in time, and writes nothing."""
        self.do(f"BEGIN ISOLATION LEVEL REPEATABLE READ, {'READ WRITE' if views else 'READ ONLY'}")
        self.do(f"SET LOCAL statement_timeout = {max(int((until_s - time.monotonic()) * 1000), 1)}")

    def close(self) -> None:
        """Close it; what runs at the server is told to stop first."""
        with suppress(adbc.Error):
            self.cursor.adbc_cancel()
        with suppress(adbc.Error):
            self.cursor.close()
        with suppress(adbc.Error):
            self._connection.close()


class Sessions:
    """The connections of one source. Thread-safe."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._idle: deque[Session] = deque()  # guarded by _lock; the one that was used last is at the right
        self._closed = False

    def close(self) -> None:
        """Close those that are idle, and from now on every one that comes back."""
        with self._lock:
            self._closed = True
            left, self._idle = list(self._idle), deque()
        for session in left:
            session.close()

    def rows(self, sql: str, parameters: Sequence[Any], *, until_s: float) -> list[tuple[Any, ...]]:
        """Run a small statement of our own.

        Raises:
            Failed: the driver's failure.
        """
        session = self._begun(until_s, views=False)
        try:
            session.cursor.execute(sql, tuple(parameters) or None)
            found = [tuple(row) for row in session.cursor.fetchall()]
            session.do("ROLLBACK")
        except BaseException as error:
            session.close()
            if isinstance(error, adbc.Error):
                raise Failed("describe", error) from None
            raise
        self._give_back(session)
        return found

    @contextmanager
    def query(
        self, setup: Sequence[str], text: str, *, cancel: threading.Event, until_s: float
    ) -> Iterator[pa.RecordBatchReader]:
        """Run a query in a transaction of its own and give its batches as they come.

        Args:
            setup: statements that come first, each of our own making; views that they make are gone at the end.

        Raises:
            PeerError: NODE_EXECUTE, NODE_SOURCE_AWAY; CallerError: QUERY_CANCELLED, QUERY_DEADLINE.
        """
        session: Session | None = None
        ended = threading.Event()
        watcher: threading.Thread | None = None
        try:
            session = self._begun(until_s, views=bool(setup))
            watcher = threading.Thread(
                target=_watch, args=(session, cancel, ended), name="postgres-cancel", daemon=True
            )
            watcher.start()
            for statement in (*setup, *(("SET TRANSACTION READ ONLY",) if setup else ())):
                session.do(statement)
            session.cursor.execute(text)
            yield _Cancellable(session.cursor.fetch_record_batch(), cancel)
            ended.set()
            watcher.join()
            session.do("ROLLBACK")
            self._give_back(session)
            session = None
        except (Failed, adbc.Error, pa.ArrowException, OSError) as error:
            if cancel.is_set():
                raise error_for(Code.QUERY_CANCELLED) from None
            if time.monotonic() >= until_s - LATE_S:
                raise error_for(Code.QUERY_DEADLINE) from None
            raise problem(error if isinstance(error, Failed) else Failed("query", error)) from None
        finally:
            ended.set()
            if watcher is not None:
                watcher.join()
            if session is not None:
                session.close()

    def _begun(self, until_s: float, *, views: bool) -> Session:
        """Give a session in a new transaction; one that waited may have been ended at the other side meanwhile."""
        while (session := self._waiting()) is not None:
            try:
                session.begin(until_s, views=views)
            except Failed:
                session.close()
            else:
                return session
        session = Session(self._url)
        try:
            session.begin(until_s, views=views)
        except Failed:
            session.close()
            raise
        return session

    def _waiting(self) -> Session | None:
        old: list[Session] = []
        with self._lock:
            while self._idle and time.monotonic() - self._idle[0].idle_since_s > IDLE_S_MAX:
                old.append(self._idle.popleft())
            found = self._idle.pop() if self._idle else None
        for session in old:
            session.close()
        return found

    def _give_back(self, session: Session) -> None:
        session.idle_since_s = time.monotonic()
        with self._lock:
            if not self._closed and len(self._idle) < IDLE_MAX:
                self._idle.append(session)
                return
        session.close()


class _Cancellable:
    """A reader that ends with an error once ``cancel`` is set, also between batches."""

    def __init__(self, reader: pa.RecordBatchReader, cancel: threading.Event) -> None:
        self._reader = reader
        self._cancel = cancel
        self.schema = reader.schema

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        for batch in self._reader:
            if self._cancel.is_set():
                raise error_for(Code.QUERY_CANCELLED)
            yield batch


def _watch(session: Session, cancel: threading.Event, ended: threading.Event) -> None:
    """Ask the server to stop once the query is cancelled, and again until it did: the first may come before the query does."""
    while not ended.wait(CANCEL_POLL_S):
        if cancel.is_set():
            with suppress(adbc.Error):  # nothing was running: the reader sees `cancel` by itself
                session.cursor.adbc_cancel()

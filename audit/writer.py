"""The writer: gives an entry its place, makes it durable, and only then lets the caller go on.

Natural group commit: whoever holds the commit lock syncs everything that is waiting; what arrives meanwhile is the next
batch. There is no window to wait for and no thread to hand over to. Above the write-ahead log, below ``AuditLog``.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from audit.disk import SyncFailed, is_full
from audit.entries import encode
from audit.reserve import Reserve
from audit.wal import Record, Wal
from tidegate.core.clock import Clock, parse_timestamp, timestamp
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.tlog.merkle import leaf_hash

PENDING_MAX = 4_096  # waiting appends; beyond this the exchange says "busy" (tessera's pushback)
BACKLOG_MAX = 200_000  # durable but not yet under a checkpoint; they are held in memory
CLOCK_STEP_BACK_MAX = timedelta(seconds=1)  # NTP's small corrections; the log's time stands still meanwhile
# What the reserve is for. A decision is not among them: with a full disk, requests are refused.
_RECORDED_FROM_RESERVE = frozenset({"refusal", "outcome", "orphan", "expired"})

Seal = Callable[[bytes], tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Committed:
    """A durable entry at its index."""

    index: int
    fields: dict[str, Any]
    record: Record
    leaf: bytes


@dataclass(slots=True)
class _Waiting:
    fields: dict[str, Any]
    record: Record
    leaf: bytes
    index: int = -1
    error: TidegateError | None = None


class Writer:
    """The single writer of one log.

    Args:
        last_time: of the newest entry; none earlier is ever written.
        on_fatal: told why the process must end; does not return in production.
    """

    def __init__(
        self,
        *,
        wal: Wal,
        reserve: Reserve,
        clock: Clock,
        backlog: list[Committed],
        next_index: int,
        last_time: datetime,
        on_fatal: Callable[[str], None],
    ) -> None:
        self._wal = wal
        self._reserve = reserve
        self._clock = clock
        self._on_fatal = on_fatal
        self._order = threading.Lock()  # guards waiting, last_time; held for microseconds
        self._commit = threading.Lock()  # guards the write-ahead log; held during a sync
        self._waiting: list[_Waiting] = []
        self._backlog = deque(backlog)  # appended under commit, trimmed by the integrator
        self._next_index = next_index
        self._last_time = last_time
        self._dead = ""
        self._retired = False

    @property
    def size(self) -> int:
        """The number of durable entries."""
        return self._next_index

    def append(self, fields: dict[str, Any], nonce: bytes, seal: Seal | None) -> Committed:
        """Record one entry; return when it is durable.

        Raises:
            InternalError: AUDIT_UNAVAILABLE: not recorded, so it must not happen.
            Overloaded: too many are waiting.
        """
        waiting = self._enter(fields, nonce, seal)
        with self._commit:
            if waiting.index < 0 and waiting.error is None:
                self._flush()
        if waiting.error is not None:
            raise waiting.error
        return Committed(waiting.index, waiting.fields, waiting.record, waiting.leaf)

    def _enter(self, fields: dict[str, Any], nonce: bytes, seal: Seal | None) -> _Waiting:
        with self._order:
            self._refuse_if_unable(fields["type"])
            fields["ts"] = self._next_time()
            entry = encode(fields)
            leaf = leaf_hash(entry)
            key, blob = seal(leaf) if seal else (b"", b"")
            waiting = _Waiting(fields, Record(entry, nonce, key, blob), leaf)
            self._waiting.append(waiting)
        return waiting

    def _refuse_if_unable(self, kind: str) -> None:
        if self._dead or self._retired:
            raise error_for(Code.AUDIT_UNAVAILABLE, detail=self._dead or "the log is closed")
        if len(self._waiting) >= PENDING_MAX or len(self._backlog) >= BACKLOG_MAX:
            raise error_for(Code.BUSY, retry_after_s=1.0, detail="audit log: too many entries are waiting")
        if self._reserve.is_open and kind not in _RECORDED_FROM_RESERVE:
            raise error_for(Code.AUDIT_UNAVAILABLE, detail="the disk is full; the reserve is for refusals")

    def _next_time(self) -> str:
        now = self._clock.now()
        if now < self._last_time:
            if self._last_time - now > CLOCK_STEP_BACK_MAX:
                raise error_for(Code.AUDIT_UNAVAILABLE, detail="the clock went back: refusing to sign")
            now = self._last_time
        self._last_time = now
        return timestamp(now)

    def _flush(self) -> None:
        """Make everything that is waiting durable. The commit lock is held."""
        with self._order:
            batch, self._waiting = self._waiting, []
        if not batch:
            return
        if self._dead:
            self._fail(batch, self._dead)
            return
        try:
            self._write(batch)
        except OSError as error:
            if not is_full(error):
                self.die(f"the write-ahead log cannot be written: errno {error.errno}", batch)
                return
            self._write_from_reserve(batch)
        except SyncFailed as error:
            self.die(str(error), batch)

    def _write(self, batch: list[_Waiting]) -> None:
        first = self._wal.append([item.record for item in batch])
        for index, item in enumerate(batch, first):
            self._backlog.append(Committed(index, item.fields, item.record, item.leaf))
            item.index = index
        self._next_index = first + len(batch)

    def _write_from_reserve(self, batch: list[_Waiting]) -> None:
        """The disk is full: record what must be recorded from the reserve, refuse the rest."""
        self._reserve.open()
        kept = [item for item in batch if item.fields["type"] in _RECORDED_FROM_RESERVE]
        self._fail([item for item in batch if item not in kept], "the disk is full")
        if not kept:
            return
        try:
            self._write(kept)
        except OSError as error:
            if not is_full(error):
                self.die(f"the write-ahead log cannot be written: errno {error.errno}", kept)
                return
            self._fail(kept, "the disk is full, and so is the reserve")
        except SyncFailed as error:
            self.die(str(error), kept)

    def _fail(self, batch: list[_Waiting], detail: str) -> None:
        for item in batch:
            item.error = error_for(Code.AUDIT_UNAVAILABLE, detail=detail)

    def die(self, reason: str, batch: list[_Waiting] | None = None) -> None:
        """Record nothing more and end the process; recovery at the next start knows what is durable."""
        self._dead = reason
        self._fail(batch or [], reason)
        self._on_fatal(reason)

    def disk_is_full(self) -> None:
        """Let the integrator, which met a full disk, open the reserve."""
        with self._commit:
            self._reserve.open()

    def refill_reserve(self) -> None:
        """Take the reserve again when there is space; entries of every type are recorded again."""
        if self._reserve.is_open:
            with self._commit:
                self._reserve.fill()

    def backlog(self, start: int, count_max: int) -> list[Committed]:
        """Give durable entries from the index on, in order."""
        with self._commit:
            skip = start - self._backlog[0].index if self._backlog else 0
            return list(islice(self._backlog, max(skip, 0), max(skip, 0) + count_max))

    def find(self, index: int) -> Committed | None:
        """Give a durable entry that is still in memory."""
        with self._commit:
            if self._backlog and self._backlog[0].index <= index < self._backlog[0].index + len(self._backlog):
                return self._backlog[index - self._backlog[0].index]
        return None

    def rotate(self) -> None:
        """End the current segment of the write-ahead log."""
        with self._commit:
            self._wal.rotate()

    def published(self, size: int) -> None:
        """Forget entries below the size: a checkpoint covers them and their side material is stored."""
        with self._commit:
            while self._backlog and self._backlog[0].index < size:
                self._backlog.popleft()
            if self._wal.is_large:
                self._wal.rotate()
            self._wal.drop_before(size)

    def close(self) -> None:
        """Refuse further appends; what is waiting is made durable first."""
        with self._order:
            self._retired = True
        with self._commit:
            self._flush()
            self._wal.close()


def time_of(fields: dict[str, Any]) -> datetime:
    """Give the time of an entry."""
    return parse_timestamp(fields["ts"])

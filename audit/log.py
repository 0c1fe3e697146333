"""``AuditLog``: the one door to a log. It wires writer, integrator, side store and index, and owns the folder.

Folder: ``log.json``, ``keys/log.key``, ``wal/``, ``head.sqlite``, ``staging``, ``side*.sqlite``, ``index.sqlite``,
``reserve``, and ``published/``, which is the log in C2SP's own layout: what mirrors and verifiers read.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit import entries
from audit.disk import Disk
from audit.head import Head
from audit.index import AuditQuery, OpenDecision, SearchIndex, fields_of
from audit.integrator import CHECKPOINT_PERIOD_S, Integrator, Published
from audit.keys import Description, load_key, lock_folder, make_key
from audit.reserve import RESERVE_BYTES, Reserve
from audit.results import Appended, FoundEntry
from audit.side import SideStore, seal, unseal
from audit.wal import Record, Wal
from audit.writer import Committed, Writer
from tidegate.core.clock import Clock, Ids, parse_timestamp
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.tlog.checkpoint import Checkpoint, sign_checkpoint
from tidegate.tlog.merkle import EMPTY_ROOT, leaf_hash
from tidegate.tlog.note import check_key_name, verifier_of
from tidegate.tlog.proof import TlogProof, prove_inclusion
from tidegate.tlog.receipt import IDENTIFIER, receipt_key, sign_receipt_by
from tidegate.tlog.tiles import TILE_WIDTH, Tile, decode_bundle
from tidegate.tlog.verify import folder_source, read_tile

__all__ = ["Appended", "AuditLog", "FoundEntry"]

EXIT_FATAL = 70  # sysexits' EX_SOFTWARE; the supervisor starts the process again, and recovery does the rest
_FEED_ENTRIES = 4_096

_log = structlog.get_logger("tidegate.audit")


def _end_process(reason: str) -> None:
    _log.critical("audit log: ending the process", reason=reason)
    os._exit(EXIT_FATAL)


class AuditLog:
    """An open log. Make it with ``create`` once, then ``open`` it; ``close`` it at the end."""

    def __init__(
        self,
        *,
        folder: Path,
        lock_file: int,
        description: Description,
        key: Ed25519PrivateKey,
        clock: Clock,
        ids: Ids,
        disk: Disk,
        on_fatal: Callable[[str], None],
        checkpoint_period_s: float,
        reserve_bytes: int,
    ) -> None:
        self.origin = description.origin
        self.verifier_key = description.verifier_key
        self.published_folder = folder / "published"
        self._key = key
        self._receipt_key = receipt_key(key, self.origin)
        self._ids = ids
        self.on_append: Callable[[str, float], None] = lambda _kind, _seconds: None
        self._lock_file = lock_file
        self._closed = False
        self._head = Head.open(folder / "head.sqlite", self.origin)
        self._published = Published(folder, disk, self._head, self.origin, key)
        wal, first, records = Wal.recover(folder / "wal", disk, size=self._published.size)
        backlog = self._replay(first, records)
        reserve = Reserve(folder / "reserve", disk, reserve_bytes)
        reserve.fill()
        self._writer = Writer(
            wal=wal,
            reserve=reserve,
            clock=clock,
            backlog=backlog,
            next_index=first + len(records),
            last_time=self._newest_time(backlog),
            on_fatal=on_fatal,
        )
        self._side = SideStore.open(folder)
        self._index = SearchIndex(folder / "index.sqlite", self.origin, self._writer.size)
        self._feed_lock = threading.Lock()
        self._feed()
        self._open_lock = threading.Lock()
        self._open = {item.request_id: item for item in self._index.open_decisions()}
        self._opened_at = self._writer.size
        self._grown = threading.Condition()
        self._integrator = Integrator(
            published=self._published,
            writer=self._writer,
            side=self._side,
            feed=self._feed,
            on_progress=self._tell,
            period_s=checkpoint_period_s,
        )
        self._integrator.step()
        self._integrator.start()

    @classmethod
    def create(
        cls, folder: Path, origin: str, clock: Clock, ids: Ids, *, key_file: Path | None = None, **options: Any
    ) -> AuditLog:
        """Make a new log and open it. The folder must be new or empty: a log is never begun twice under one name.

        Args:
            origin: such as ``<exchange>/<broker>/audit/<year>``; it is the key's name in every signature.
            key_file: where the key is, or is made; by default ``keys/log.key`` in the folder.
            options: as for ``open``.
        """
        if check_key_name(origin) == IDENTIFIER.decode():  # it would blur checkpoints and receipts
            raise error_for(Code.AUDIT_UNAVAILABLE, "audit log: this origin is reserved")
        disk: Disk = options.get("disk") or Disk()
        if folder.exists() and any(folder.iterdir()):
            raise error_for(Code.AUDIT_UNAVAILABLE, "audit log: the folder is not empty, no log is made in it")
        for path in (folder, folder / "wal", folder / "published"):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = key_file or folder / "keys" / "log.key"
        key = load_key(path) if path.exists() else make_key(path, disk)
        checkpoint = sign_checkpoint(Checkpoint(origin, 0, EMPTY_ROOT), key)
        SideStore.create(folder)
        Head.create(folder / "head.sqlite", origin, checkpoint)
        disk.write_file(folder / "published" / "checkpoint", checkpoint)
        name = str(key_file.absolute()) if key_file else "keys/log.key"
        # Written last: a folder in which ``create`` was interrupted is not a log and does not open.
        Description(origin, str(verifier_of(origin, key)), name).save(folder, disk)
        disk.sync_folder(folder.parent)
        return cls.open(folder, clock, ids, **options)

    @classmethod
    def open(
        cls,
        folder: Path,
        clock: Clock,
        ids: Ids,
        *,
        disk: Disk | None = None,
        on_fatal: Callable[[str], None] = _end_process,
        checkpoint_period_s: float = CHECKPOINT_PERIOD_S,
        reserve_bytes: int = RESERVE_BYTES,
    ) -> AuditLog:
        """Open a log that ``create`` made, and recover: every acknowledged entry is there.

        Args:
            on_fatal: called when the process must end (a sync failed); by default it ends it with status 70.

        Raises:
            InternalError, IntegrityError: no log, locked by another process, or damaged. It never begins anew.
        """
        description = Description.load(folder)
        key = load_key(folder / description.key_file)
        if str(verifier_of(description.origin, key)) != description.verifier_key:
            raise error_for(Code.AUDIT_UNAVAILABLE, "audit log: the key is not the one that signed it")
        lock_file = lock_folder(folder)
        try:
            return cls(
                folder=folder,
                lock_file=lock_file,
                description=description,
                key=key,
                clock=clock,
                ids=ids,
                disk=disk or Disk(),
                on_fatal=on_fatal,
                checkpoint_period_s=checkpoint_period_s,
                reserve_bytes=reserve_bytes,
            )
        except BaseException:
            os.close(lock_file)
            raise

    def _replay(self, first: int, records: list[Record]) -> list[Committed]:
        """Compare replayed entries with those under the checkpoint; give those beyond it."""
        backlog = []
        for index, record in enumerate(records, first):
            if index >= self._published.size:
                backlog.append(Committed(index, fields_of(record.entry), record, leaf_hash(record.entry)))
        if first < self._published.size and records[0].entry != self._bundle(first)[first % TILE_WIDTH]:
            raise error_for(Code.AUDIT_VERIFICATION, "audit log: the write-ahead log is of another history")
        return backlog

    def _newest_time(self, backlog: list[Committed]) -> datetime:
        if backlog:
            return parse_timestamp(backlog[-1].fields["ts"])
        if self._published.size:
            newest = self._bundle(self._published.size - 1)[-1]
            return parse_timestamp(fields_of(newest)["ts"])
        return datetime.min.replace(tzinfo=UTC)

    # --- recording

    @property
    def size(self) -> int:
        """The number of durable entries, under a checkpoint or not."""
        return self._writer.size

    @property
    def pending(self) -> tuple[int, int]:
        """How many entries no checkpoint covers yet, and how many decisions are without their outcome."""
        return self._writer.size - self._published.size, len(self._open)

    def append(
        self,
        entry: Mapping[str, Any],
        side: Mapping[str, Any] | None = None,
        *,
        commit: entries.Plaintexts | None = None,
    ) -> Appended:
        """Record an entry made by ``audit.entries``; return when it is durable. Any thread may call it.

        Args:
            side: goes to the side store, encrypted; commit: name -> plaintext(s) whose salted commitments the entry
                carries as ``commitments``.

        Raises:
            InternalError: AUDIT_UNAVAILABLE: not recorded, so what it describes must not happen.
            Overloaded: too many entries are waiting.
        """
        fields = entries.check(entry)
        nonce = self._ids.nonce(32)
        if commit:
            entries.check_plaintexts(commit)
            fields["commitments"] = entries.commit(nonce, commit)
        sealer = None if side is None else lambda leaf: seal(side, leaf, self._ids)
        begun_s = time.monotonic()
        done = self._writer.append(fields, nonce, sealer)
        self.on_append(done.fields["type"], time.monotonic() - begun_s)
        self._note(done)
        receipt = sign_receipt_by(self._receipt_key, self._key, done.index, done.leaf, done.fields["ts"])
        return Appended(done.index, done.leaf, done.record.entry, receipt, nonce)

    def _note(self, done: Committed) -> None:
        kind, request_id = done.fields["type"], done.fields.get("request_id", "")
        with self._open_lock:
            if kind == "decision":
                self._open[request_id] = OpenDecision(done.index, request_id, done.fields["deadline"])
            elif kind in entries.CLOSING:
                self._open.pop(request_id, None)

    def orphans(self, now: datetime) -> list[Appended]:
        """Write an ``orphan`` entry for each decision whose deadline is over and whose outcome never came.

        A decision of an earlier run of this process is an orphan at once: whoever would have closed it is gone.
        """
        with self._open_lock:
            due = [
                item
                for item in self._open.values()
                if item.index < self._opened_at or not item.deadline or parse_timestamp(item.deadline) < now
            ]
            for item in due:
                del self._open[item.request_id]
        written = []
        for place, item in enumerate(due):
            try:
                written.append(self.append(entries.orphan(request_id=item.request_id, of=item.index)))
            except TidegateError:
                with self._open_lock:
                    self._open.update((left.request_id, left) for left in due[place:])
                raise
        return written

    # --- reading

    def checkpoint(self) -> bytes:
        """Give the newest signed checkpoint."""
        return self._published.checkpoint

    def _tell(self) -> None:
        with self._grown:
            self._grown.notify_all()

    def prove(self, index: int, wait_s: float) -> bytes:
        """Give the inclusion proof as a ``.tlog-proof`` file; wait for the next checkpoint if need be.

        Raises:
            CallerError: the log has no such entry. InternalError: no checkpoint covered it in time.
        """
        if not 0 <= index < self.size:
            raise error_for(Code.AUDIT_NOT_FOUND)
        with self._grown:
            if not self._grown.wait_for(lambda: self._published.size > index, wait_s):
                raise error_for(Code.AUDIT_UNAVAILABLE, "no checkpoint covers the entry yet; try again")
            size, checkpoint = self._published.size, self._published.checkpoint
        source = folder_source(self.published_folder)
        hashes = prove_inclusion(size, index, lambda tile: read_tile(source, tile))
        return TlogProof(index, hashes, checkpoint).encode()

    def read_tile(self, path: str) -> bytes:
        """Give a published tile or bundle, or ``checkpoint``.

        Trust: a stranger wrote the path; only the format's own spelling passes, and nothing beyond the checkpoint.
        """
        if path == "checkpoint":
            return self.checkpoint()
        try:
            tile = Tile.parse(path)
            count = self._published.size >> (8 * (tile.level or 0))
            if tile.number * TILE_WIDTH + tile.width > count:
                raise error_for(Code.AUDIT_NOT_FOUND)
            return read_tile(folder_source(self.published_folder), tile)
        except TidegateError as error:
            raise error_for(Code.AUDIT_NOT_FOUND, "the log has no such tile") from error

    def _bundle(self, index: int) -> list[bytes]:
        number = index // TILE_WIDTH
        width = min(TILE_WIDTH, self._published.size - number * TILE_WIDTH)
        tile = Tile(None, number, width)
        return decode_bundle(read_tile(folder_source(self.published_folder), tile), width)

    def entry(self, index: int) -> bytes:
        """Give an entry's bytes."""
        if not 0 <= index < self.size:
            raise error_for(Code.AUDIT_NOT_FOUND)
        found = self._writer.find(index)
        return found.record.entry if found else self._bundle(index)[index % TILE_WIDTH]

    def search(self, query: AuditQuery) -> tuple[list[FoundEntry], str]:
        """Give matching entries, newest first, among all that were acknowledged before the call; and the next page."""
        self._feed()
        found, token = self._index.search(query)
        return [self._found(index, with_side=query.with_side) for index in found], token

    def _found(self, index: int, *, with_side: bool) -> FoundEntry:
        return FoundEntry(index, self.entry(index), self.side(index) if with_side else None)

    def _feed(self) -> None:
        """Bring the index up to the newest durable entry; from the tiles where memory has forgotten them."""
        with self._feed_lock:
            while (start := self._index.size) < (end := self._writer.size):
                stop = min(end, start + _FEED_ENTRIES)
                recent = self._writer.backlog(start, stop - start)
                if recent and recent[0].index == start:
                    self._index.feed((item.index, item.fields) for item in recent)
                else:  # after an index was lost
                    bundle = enumerate(self._bundle(start), start - start % TILE_WIDTH)
                    self._index.feed((index, fields_of(entry)) for index, entry in bundle if index >= start)

    # --- the side store

    def _secret(self, index: int) -> tuple[bytes, bytes, bytes] | None:
        found = self._writer.find(index)
        if found is not None:
            return found.record.nonce, found.record.side_key, found.record.side
        return self._side.read(index)

    def side(self, index: int) -> dict[str, Any] | None:
        """Give the side material of an entry; None where there is none or it was erased."""
        secret = self._secret(index)
        if secret is None or not secret[2]:
            return None
        return unseal(secret[1], secret[2], leaf_hash(self.entry(index)))

    def nonce(self, index: int) -> bytes | None:
        """Give the nonce that opens an entry's commitments; None after erasure."""
        secret = self._secret(index)
        return None if secret is None else secret[0]

    def erase(self, index: int) -> None:
        """Forget side material and nonce of an entry for ever; entry and proofs stay. The erasure is recorded."""
        if not 0 <= index < self.size:
            raise error_for(Code.AUDIT_NOT_FOUND)
        self.append(entries.admin("erasure", action="erase", details={"index": index}))
        self._writer.rotate()
        if not self._integrator.step():  # also removes the segments of the write-ahead log that held the key
            raise error_for(Code.AUDIT_UNAVAILABLE, "audit log: the erasure could not be completed; try again")
        self._side.erase(index)

    def close(self) -> None:
        """Record nothing more, integrate what is left, let go of the folder. Closing twice is closing once."""
        with self._open_lock:
            if self._closed:
                return
            self._closed = True
        self._writer.close()
        self._integrator.close()
        self._index.close()
        self._side.close()
        self._head.close()
        os.close(self._lock_file)

"""The integrator: turns durable entries into tiles under a signed checkpoint, every second when the log grew.

One step: build in memory -> side store -> staging -> move the head -> tiles and checkpoint -> forget. The comments say
what a crash at each line means. It is the only one who signs checkpoints, and it signs each size once.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.disk import Disk, is_full
from audit.head import Head
from audit.side import SideStore
from audit.staging import Staged, apply
from audit.writer import Committed, Writer
from tidegate.core.errors import Code, error_for
from tidegate.tlog.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from tidegate.tlog.note import verifier_of
from tidegate.tlog.tiles import TILE_WIDTH, Edge, Tile, decode_bundle, encode_bundle
from tidegate.tlog.verify import folder_source, read_tile

CHECKPOINT_PERIOD_S = 1.0
STEP_ENTRIES_MAX = 65_536  # of one checkpoint: bounds memory and the staging file


class Published:
    """The tree as published: head, right edge, entries of the last incomplete bundle. Recovery happens in ``open``."""

    def __init__(self, folder: Path, disk: Disk, head: Head, origin: str, key: Ed25519PrivateKey) -> None:
        self.folder = folder / "published"
        self._staging = folder / "staging"
        self._disk = disk
        self._head = head
        self._origin = origin
        self._key = key
        self._verifier_key = str(verifier_of(origin, key))
        self._unfinished: tuple[Staged, int] | None = None
        self._signed = self._recover()
        self._edge, self._tail = self._load_edge()
        self.checkpoint = self._signed  # what readers see: behind the signed one while a step is under way
        self.size = self._edge.size

    def _recover(self) -> bytes:
        checkpoint = self._head.read()
        if self._staging.exists():
            staged = Staged.decode(self._staging.read_bytes())
            if staged.checkpoint == checkpoint:
                apply(staged, self.folder, self._disk)  # the crash came after the head moved
            self._disk.remove(self._staging)  # else it came before: that checkpoint was never promised to anybody
        if (self.folder / "checkpoint").read_bytes() != checkpoint:
            raise error_for(Code.AUDIT_VERIFICATION, "audit log: the published checkpoint is not the stored head")
        return checkpoint

    def _load_edge(self) -> tuple[Edge, list[bytes]]:
        signed = open_checkpoint(self._signed, self._verifier_key)
        source = folder_source(self.folder)
        edge = Edge.load(signed.size, lambda tile: read_tile(source, tile))
        if edge.root != signed.root:
            raise error_for(Code.AUDIT_VERIFICATION, "audit log: the tiles do not give the signed root")
        number, width = divmod(signed.size, TILE_WIDTH)
        if not width:
            return edge, []
        tail = decode_bundle(read_tile(source, Tile(None, number, width)), width)
        return edge, tail

    def extend(self, batch: Sequence[Committed]) -> None:
        """Publish a checkpoint over the batch.

        Raises:
            OSError, sqlite3.OperationalError: the disk is full; call ``finish`` and go on when there is space.
            SyncFailed, HeadLost: the state is unknown; end the process.
        """
        edge, full = self._edge.grow([item.leaf for item in batch])
        files = {tile.path: data for tile, data in (full | edge.partials()).items()}
        entries = [*self._tail, *(item.record.entry for item in batch)]
        number = self._edge.size // TILE_WIDTH
        for start in range(0, len(entries), TILE_WIDTH):
            part = entries[start : start + TILE_WIDTH]
            files[Tile(None, number + start // TILE_WIDTH, len(part)).path] = encode_bundle(part)
        checkpoint = sign_checkpoint(Checkpoint(self._origin, edge.size, edge.root), self._key)
        staged = Staged(checkpoint, files)
        self._disk.write_file(self._staging, staged.encode())
        # A crash before the next line: the staging file is thrown away and the same entries are integrated again.
        self._head.swap(self._signed, checkpoint)
        # A crash from here on: recovery finds the head equal to the staging file and applies it.
        self._signed, self._edge = checkpoint, edge
        self._tail = entries[len(entries) - edge.size % TILE_WIDTH :]
        self._unfinished = (staged, edge.size)
        self.finish()

    def finish(self) -> None:
        """Put in place what the head promises; a step that met a full disk is finished here, from the reserve."""
        if self._unfinished is None:
            return
        staged, size = self._unfinished
        apply(staged, self.folder, self._disk)
        self._disk.remove(self._staging)
        self.checkpoint, self.size = staged.checkpoint, size
        self._unfinished = None


class Integrator:
    """The thread that calls ``Published.extend``; ``step`` may be called by others too."""

    def __init__(
        self,
        *,
        published: Published,
        writer: Writer,
        side: SideStore,
        feed: Callable[[], None],
        on_progress: Callable[[], None],
        period_s: float,
    ) -> None:
        self._published = published
        self._writer = writer
        self._side = side
        self._feed = feed
        self._on_progress = on_progress
        self._period_s = period_s
        self._step_lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="audit-integrator", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(self._period_s):
            self.step()

    def step(self) -> bool:
        """Integrate what is durable; say whether all of it is under a checkpoint now."""
        try:
            with self._step_lock:
                return self._step()
        except OSError as error:
            if not is_full(error):
                self._writer.die(f"integrator: errno {error.errno}")
            self._writer.disk_is_full()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
                self._writer.die(f"integrator: {error.sqlite_errorname}")
            self._writer.disk_is_full()
        except Exception as error:  # noqa: BLE001 - SyncFailed, HeadLost, or a mistake of ours: the log must not stand still
            self._writer.die(f"integrator: {type(error).__name__}: {error}")
        return False

    def _step(self) -> bool:
        self._writer.refill_reserve()
        self._published.finish()
        # What becomes durable meanwhile waits for the next step: under load there would be no end, and a checkpoint, with
        # all of its files and syncs, for every few entries.
        target = self._writer.size
        while self._published.size < target and (batch := self._writer.backlog(self._published.size, STEP_ENTRIES_MAX)):
            # Side material first: a crash after this line repeats it without effect, from the write-ahead log.
            self._side.put((item.index, item.record) for item in batch)
            self._published.extend(batch)
            self._feed()
            # Only now may the write-ahead log forget: tiles, checkpoint and side material are durable.
            self._writer.published(self._published.size)
            self._on_progress()
        self._writer.published(self._published.size)
        return True

    def close(self) -> None:
        """Stop, after a last step."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self.step()

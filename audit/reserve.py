"""The reserve: disk space kept back, so that a full disk still records the refusals that it causes."""

from __future__ import annotations

import contextlib
from pathlib import Path

from audit.disk import Disk, is_full

RESERVE_BYTES = 64 << 20  # about 100,000 refusals with their tiles


class Reserve:
    """A file of real blocks beside the log. Owner: the writer's commit lock."""

    def __init__(self, path: Path, disk: Disk, size: int) -> None:
        self._path = path
        self._disk = disk
        self._size = size
        self.is_open = False

    def fill(self) -> None:
        """Take the blocks, if the disk has twice as much; else the reserve counts as open."""
        if self._size and not (self._path.exists() and self._path.stat().st_size == self._size):
            self.is_open = True
            if self._disk.free_bytes(self._path.parent) < 2 * self._size:
                return
            try:
                self._disk.allocate(self._path, self._size)
            except OSError as error:
                if not is_full(error):
                    raise
                self._path.unlink(missing_ok=True)
                return
        self.is_open = False

    def open(self) -> None:
        """Give the blocks back to the disk; from now on only what must be recorded is."""
        self.is_open = True
        with contextlib.suppress(OSError):  # a crash or an error here leaves the reserve in place: nothing is lost
            self._path.unlink(missing_ok=True)

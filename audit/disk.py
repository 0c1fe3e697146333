"""Durable file operations, the one place where the log touches a file system.

Tests hand in a ``Disk`` that runs full or breaks. Source of the recipe: write beside, sync, rename, sync the folder
(tessera storage/posix; ALICE, OSDI 2014: the folder's sync is what is usually forgotten).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path

FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT})


def is_full(error: OSError) -> bool:
    """Say whether the error means that there is no space, the one disk error that may be survived."""
    return error.errno in FULL_ERRNOS


class SyncFailed(Exception):
    """A sync failed: what is on the disk is unknown, and a second sync would lie. The process must end."""


class Disk:
    """The machine's file system."""

    def open_append(self, path: Path) -> int:
        """Open or make a file for appending; the caller syncs its folder when it is new."""
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def write(self, file: int, data: bytes) -> None:
        """Write all bytes; on OSError some of them may have been written."""
        view = memoryview(data)
        while view:
            view = view[os.write(file, view) :]

    def sync(self, file: int) -> None:
        """Make what was written durable.

        Raises:
            SyncFailed: never retried (PostgreSQL's lesson: the kernel drops the dirty page, the next sync "succeeds").
        """
        try:
            os.fdatasync(file)
        except OSError as error:
            raise SyncFailed(f"fdatasync: errno {error.errno}") from error

    def truncate(self, file: int, size: int) -> None:
        """Cut a file back to a size."""
        os.ftruncate(file, size)

    def sync_folder(self, folder: Path) -> None:
        """Make a folder's names durable."""
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        except OSError as error:
            raise SyncFailed(f"fsync of a folder: errno {error.errno}") from error
        finally:
            os.close(descriptor)

    def write_file(self, path: Path, data: bytes, *, mode: int = 0o600) -> None:
        """Put a whole file in place, durable and at once: a crash leaves the old one or the new one."""
        self.write_files([(path, data)], mode=mode)

    def write_files(self, files: Iterable[tuple[Path, bytes]], *, mode: int = 0o600) -> None:
        """Put whole files in place, each at once, and sync each folder once."""
        folders: dict[Path, None] = {}
        for path, data in files:
            self._make_folders(path.parent)
            beside = path.with_name(f".{path.name}.new")
            file = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
            try:
                self.write(file, data)
                self.sync(file)
            finally:
                os.close(file)
            beside.rename(path)
            folders[path.parent] = None
        for folder in folders:
            self.sync_folder(folder)

    def _make_folders(self, folder: Path) -> None:
        if folder.is_dir():
            return
        self._make_folders(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        self.sync_folder(folder.parent)

    def remove(self, path: Path) -> None:
        """Remove a file that may be gone already, durably."""
        path.unlink(missing_ok=True)
        self.sync_folder(path.parent)

    def allocate(self, path: Path, size: int) -> None:
        """Make a file of that size whose blocks are really taken."""
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.posix_fallocate(file, 0, size)
        finally:
            os.close(file)

    def free_bytes(self, folder: Path) -> int:
        """Say how much an ordinary user may still write."""
        facts = os.statvfs(folder)
        return facts.f_bavail * facts.f_frsize

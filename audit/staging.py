"""Staging: all files of one new checkpoint in one durable file, written before the head moves.

If the process dies after the head moved, recovery applies the staged files through the same function as the writer; if
it dies before, they are thrown away. Source: sunlight, sequencePool.
"""

from __future__ import annotations

import hashlib
import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from audit.disk import Disk
from tidegate.core.errors import Code, error_for
from tidegate.tlog.tiles import Tile

_MAGIC = b"TGSTAGE1"
_ITEM = struct.Struct(">HI")


@dataclass(frozen=True, slots=True)
class Staged:
    """What one step of the integrator publishes."""

    checkpoint: bytes
    files: Mapping[str, bytes]

    def encode(self) -> bytes:
        """Give the file: magic, SHA-256 of the rest, checkpoint and files."""
        items = [("checkpoint", self.checkpoint), *self.files.items()]
        body = b"".join(_ITEM.pack(len(path), len(data)) + path.encode() + data for path, data in items)
        return _MAGIC + hashlib.sha256(body).digest() + body

    @classmethod
    def decode(cls, data: bytes) -> Staged:
        """Read the file; it was put in place whole, so anything else is damage."""
        body = data[40:]
        if data[:8] != _MAGIC or data[8:40] != hashlib.sha256(body).digest():
            raise error_for(Code.AUDIT_VERIFICATION, "audit log: the staging file is damaged")
        files = {}
        position = 0
        while position < len(body):
            path_size, size = _ITEM.unpack_from(body, position)
            start = position + _ITEM.size + path_size
            path = body[start - path_size : start].decode()
            position = start + size
            files[path] = body[start:position]
        return cls(files.pop("checkpoint"), files)


def apply(staged: Staged, published: Path, disk: Disk) -> None:
    """Put the tiles in place, then the checkpoint; doing it twice is the same as once."""
    disk.write_files((published / path, data) for path, data in staged.files.items())
    # A crash here: readers still see the old checkpoint, and every tile that it needs.
    disk.write_file(published / "checkpoint", staged.checkpoint)
    for path in staged.files:
        _forget_partials(Tile.parse(path), published)


def _forget_partials(tile: Tile, published: Path) -> None:
    """Drop the partial tiles of the full tile before this one.

    The format allows it once the full tile is there; staying one tile behind spares readers of the last few checkpoints
    a detour. Not synced: a partial tile that comes back after a crash harms nobody.
    """
    if tile != tile.full or tile.number == 0:
        return
    before = published / (Tile(tile.level, tile.number - 1).path + ".p")
    shutil.rmtree(before, ignore_errors=True)

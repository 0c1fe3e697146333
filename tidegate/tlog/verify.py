"""Verify a whole log: the checkpoint's signature, every entry, and every tile re-derived from the entries.

What ``tidegate audit verify`` runs, over a folder or over any reader; it trusts nothing but the verifier key.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from tidegate.tlog.checkpoint import Checkpoint, open_checkpoint
from tidegate.tlog.note import NOTE_BYTES_MAX, invalid
from tidegate.tlog.tiles import ENTRY_BYTES_LIMIT, TILE_WIDTH, Edge, Tile, decode_bundle

Source = Callable[[str], bytes]
Progress = Callable[[int, int], None]
_BUNDLES_AT_ONCE = TILE_WIDTH  # one level-1 tile a step: 65,536 entries
_TILE_BYTES_MAX = TILE_WIDTH * (ENTRY_BYTES_LIMIT + 2)


@dataclass(frozen=True, slots=True)
class VerifiedLog:
    """What was shown: every entry and tile of this size hangs together under this signed root."""

    origin: str
    size: int
    root: bytes
    tiles: int
    checkpoint: bytes


def folder_source(folder: Path) -> Source:
    """Read a log from a folder that holds ``checkpoint`` and ``tile/``."""

    def read(path: str) -> bytes:
        with (folder / path).open("rb") as file:
            return file.read(_TILE_BYTES_MAX + 1)

    return read


def read_tile(source: Source, tile: Tile) -> bytes:
    """Read a tile; where a partial one is gone, the full one that replaced it serves, cut to width.

    Trust: whoever stores the log.
    """
    data = _fetch(source, tile.path, required=tile.width == TILE_WIDTH)
    if data is None:
        data = _fetch(source, tile.full.path, required=True) or b""
        data = _prefix(data, tile)
    return data


def _prefix(data: bytes, tile: Tile) -> bytes:
    if tile.level is not None:
        return data[: tile.width * 32]
    position = 0
    for _ in range(tile.width):
        position += 2 + int.from_bytes(data[position : position + 2], "big")
    return data[:position]


def _fetch(source: Source, path: str, *, required: bool) -> bytes | None:
    try:
        data = source(path)
    except (OSError, KeyError) as error:
        if required:
            raise invalid(f"log: cannot read {path}") from error
        return None
    if len(data) > _TILE_BYTES_MAX:
        raise invalid(f"log: {path} is larger than any tile")
    return data


def verify_log(
    source: Source | Path,
    verifier_key: str,
    *,
    witnesses: Sequence[str] = (),
    progress: Progress | None = None,
    on_entry: Callable[[int, bytes], None] | None = None,
) -> VerifiedLog:
    """Verify everything that the newest checkpoint covers.

    Args:
        source: a folder, or what gives the bytes of a path below the log's prefix (OSError or KeyError: not there).
        progress: told (entries verified, size) now and then.
        on_entry: given (index, entry) in order. It sees entries before the root is compared: believe none of them
            until ``verify_log`` has returned.

    Raises:
        IntegrityError: anything is missing, malformed, or different.
    """
    read = folder_source(source) if isinstance(source, Path) else source
    note = _fetch(read, "checkpoint", required=True) or b""
    if len(note) > NOTE_BYTES_MAX:
        raise invalid("checkpoint: larger than any note")
    checkpoint = open_checkpoint(note, verifier_key, witnesses)
    edge, tiles = _rederive(read, checkpoint, progress, on_entry)
    if edge.root != checkpoint.root:
        raise invalid("log: the entries do not give the root that the checkpoint signs")
    return VerifiedLog(checkpoint.origin, checkpoint.size, checkpoint.root, tiles, note)


def _rederive(
    read: Source,
    checkpoint: Checkpoint,
    progress: Progress | None,
    on_entry: Callable[[int, bytes], None] | None,
) -> tuple[Edge, int]:
    edge, tiles = Edge(), 0
    bundles = -(-checkpoint.size // TILE_WIDTH)
    for first in range(0, bundles, _BUNDLES_AT_ONCE):
        leaves: list[bytes] = []
        for number in range(first, min(first + _BUNDLES_AT_ONCE, bundles)):
            width = min(TILE_WIDTH, checkpoint.size - number * TILE_WIDTH)
            entries = decode_bundle(read_tile(read, Tile(None, number, width)), width)
            if on_entry is not None:
                for offset, entry in enumerate(entries):
                    on_entry(number * TILE_WIDTH + offset, entry)
            leaves += [sha256(b"\x00" + entry).digest() for entry in entries]
            tiles += 1
        edge, full = edge.grow(leaves)
        tiles += _compare(read, full)
        if progress is not None:
            progress(edge.size, checkpoint.size)
    tiles += _compare(read, edge.partials())
    return edge, tiles


def _compare(read: Source, expected: dict[Tile, bytes]) -> int:
    for tile, data in expected.items():
        if read_tile(read, tile) != data:
            raise invalid(f"log: {tile.path} does not follow from the entries")
    return len(expected)

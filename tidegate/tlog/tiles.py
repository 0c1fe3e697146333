"""Tiles: paths, entry bundles, and the right edge of a growing tree. Source: C2SP tlog-tiles v0.1.0.

The writer grows an ``Edge`` and publishes the tiles that it gives; the verifier grows one from the entries and
compares.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tidegate.tlog.merkle import EMPTY_ROOT, HASH_BYTES, RangeHash, fold, perfect_parts, root_of
from tidegate.tlog.note import invalid

TILE_WIDTH = 256
TILE_HEIGHT = 8
ENTRY_BYTES_LIMIT = 65_535  # a bundle's length field has 16 bits
_PATH = re.compile(
    r"tile/(entries|[0-9]|[1-5][0-9]|6[0-3])/((?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?", re.ASCII
)

ReadTile = Callable[["Tile"], bytes]


@dataclass(frozen=True, slots=True)
class Tile:
    """One tile: ``level`` None means a bundle of entries; ``width`` below 256 means partial."""

    level: int | None
    number: int
    width: int = TILE_WIDTH

    @property
    def path(self) -> str:
        """The path below the log's prefix, such as ``tile/0/x001/x234/067.p/8``."""
        rest, text = divmod(self.number, 1000)
        name = f"{text:03d}"
        while rest:
            rest, text = divmod(rest, 1000)
            name = f"x{text:03d}/{name}"
        level = "entries" if self.level is None else str(self.level)
        suffix = "" if self.width == TILE_WIDTH else f".p/{self.width}"
        return f"tile/{level}/{name}{suffix}"

    @property
    def full(self) -> Tile:
        """The same tile at its full width."""
        return Tile(self.level, self.number)

    @classmethod
    def parse(cls, path: str) -> Tile:
        """Read a path in its one spelling.

        Trust: a stranger may have written it; nothing but the format's own characters passes.
        """
        match = _PATH.fullmatch(path)
        if match is None:
            raise invalid("tile path: not of the format")
        level = None if match[1] == "entries" else int(match[1])
        number = int(match[2].replace("x", "").replace("/", ""))
        width = int(match[3]) if match[3] else TILE_WIDTH
        tile = cls(level, number, width)
        if tile.path != path:  # leading x000 groups, a partial of width 256 and more
            raise invalid("tile path: not the one spelling of this tile")
        return tile


def encode_bundle(entries: Sequence[bytes]) -> bytes:
    """Join entries into a bundle: 16-bit length, bytes."""
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def decode_bundle(data: bytes, width: int) -> list[bytes]:
    """Read exactly ``width`` entries.

    Trust: anybody may have written the bytes.
    """
    entries = []
    position, end = 0, len(data)
    while position < end:
        start = position + 2
        position = start + int.from_bytes(data[position:start], "big")
        if start > end or position > end:
            raise invalid("entry bundle: cut short")
        entries.append(data[start:position])
    if len(entries) != width:
        raise invalid("entry bundle: another number of entries than its width")
    return entries


def decode_hashes(data: bytes, width: int) -> list[bytes]:
    """Read the hashes of a tile of that width."""
    if len(data) != width * HASH_BYTES:
        raise invalid("hash tile: of another size than its width")
    return [data[i : i + HASH_BYTES] for i in range(0, len(data), HASH_BYTES)]


@dataclass(frozen=True, slots=True)
class Edge:
    """The right edge of a tree: for each level, the hashes of its last, not yet full tile."""

    size: int = 0
    rows: tuple[tuple[bytes, ...], ...] = ()

    def grow(self, leaves: Sequence[bytes]) -> tuple[Edge, dict[Tile, bytes]]:
        """Append leaf hashes; give the new edge and every tile that became full."""
        rows = list(self.rows)
        full: dict[Tile, bytes] = {}
        carry: list[bytes] = list(leaves)
        level = 0
        while carry:
            if level == len(rows):
                rows.append(())
            number = (self.size >> (TILE_HEIGHT * level)) // TILE_WIDTH
            row = [*rows[level], *carry]
            carry = []
            whole = len(row) - len(row) % TILE_WIDTH
            for start in range(0, whole, TILE_WIDTH):
                hashes = row[start : start + TILE_WIDTH]
                full[Tile(level, number)] = b"".join(hashes)
                carry.append(root_of(hashes))
                number += 1
            rows[level] = tuple(row[whole:])
            level += 1
        return Edge(self.size + len(leaves), tuple(rows)), full

    def partials(self) -> dict[Tile, bytes]:
        """Give the partial tiles of this size; empty ones do not exist."""
        return {
            Tile(level, (self.size >> (TILE_HEIGHT * level)) // TILE_WIDTH, len(row)): b"".join(row)
            for level, row in enumerate(self.rows)
            if row
        }

    @property
    def root(self) -> bytes:
        """The root of the whole tree."""
        parts: list[bytes] = []
        for row in reversed(self.rows):
            parts.extend(root_of(row[start : start + (1 << height)]) for start, height in perfect_parts(0, len(row)))
        return fold(parts) if parts else EMPTY_ROOT

    @classmethod
    def load(cls, size: int, read: ReadTile) -> Edge:
        """Read the edge of a tree of that size from its partial tiles.

        Trust: whoever stores the tiles; compare ``root`` with a checkpoint before use.
        """
        rows = []
        level = 0
        while size >> (TILE_HEIGHT * level):
            count = size >> (TILE_HEIGHT * level)
            number, width = divmod(count, TILE_WIDTH)
            rows.append(tuple(decode_hashes(read(Tile(level, number, width)), width)) if width else ())
            level += 1
        return cls(size, tuple(rows))


def tiles_of(size: int) -> Iterator[Tile]:
    """Name every tile and bundle of a tree of that size, bundles last."""
    level = 0
    while count := size >> (TILE_HEIGHT * level):
        yield from _row(level, count)
        level += 1
    yield from _row(None, size)


def _row(level: int | None, count: int) -> Iterator[Tile]:
    whole, rest = divmod(count, TILE_WIDTH)
    for number in range(whole):
        yield Tile(level, number)
    if rest:
        yield Tile(level, whole, rest)


def range_hash_from_tiles(size: int, read: ReadTile) -> RangeHash:
    """Read range hashes of a tree of that size from its tiles.

    Trust: whoever stores the tiles; check what is made of the hashes against a signed root.
    """

    def subtree(start: int, height: int) -> bytes:
        level, inner = divmod(height, TILE_HEIGHT)
        number, offset = divmod(start >> (TILE_HEIGHT * level), TILE_WIDTH)
        width = min(TILE_WIDTH, (size >> (TILE_HEIGHT * level)) - number * TILE_WIDTH)
        hashes = decode_hashes(read(Tile(level, number, width)), width)
        return root_of(hashes[offset : offset + (1 << inner)])

    return lambda start, end: fold([subtree(first, height) for first, height in perfect_parts(start, end)])

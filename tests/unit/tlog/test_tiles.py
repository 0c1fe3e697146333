"""Tile paths and entry bundles: round trips and a test per malformed form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.core.errors import IntegrityError
from tidegate.tlog.tiles import Tile, decode_bundle, decode_hashes, encode_bundle, tiles_of


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        (Tile(0, 0), "tile/0/000"),
        (Tile(0, 1_234_067), "tile/0/x001/x234/067"),
        (Tile(63, 999, 1), "tile/63/999.p/1"),
        (Tile(None, 1000, 255), "tile/entries/x001/000.p/255"),
    ],
)
def test_paths_are_those_of_the_format(tile: Tile, path: str) -> None:
    assert tile.path == path
    assert Tile.parse(path) == tile


@given(st.one_of(st.none(), st.integers(0, 63)), st.integers(0, 2**54), st.integers(1, 256))
def test_every_tile_has_one_path(level: int | None, number: int, width: int) -> None:
    tile = Tile(level, number, width)
    assert Tile.parse(tile.path) == tile


@pytest.mark.parametrize(
    "path",
    [
        "",
        "checkpoint",
        "tile/0/0",
        "tile/0/0000",
        "tile/00/000",
        "tile/64/000",
        "tile/-1/000",
        "tile/0/x000/000",
        "tile/0/001/000",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/01",
        "tile/0/000.p/1/",
        "tile/0/000/../../../etc/passwd",
        "/tile/0/000",
        "tile/0/000\n",
        "tile/0/٠٠٠",
        "tile/data/000",
        "tile/0/000.p",
        "tile/entries/",
        "tile/0/" + "x001/" * 40 + "000",
    ],
)
def test_other_paths_are_refused(path: str) -> None:
    with pytest.raises(IntegrityError):
        Tile.parse(path)


@given(st.lists(st.binary(max_size=400), max_size=20))
def test_bundles_survive_the_round_trip(entries: list[bytes]) -> None:
    assert decode_bundle(encode_bundle(entries), len(entries)) == entries


@pytest.mark.parametrize("data", [b"\0", b"\0\2x", b"\0\1xy", b"\0\1x", b"\0\1x\0\1y\0\1z", b""])
def test_malformed_bundles_are_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        decode_bundle(data, 2)


@pytest.mark.parametrize("data", [b"", bytes(31), bytes(33), bytes(64)])
def test_hash_tiles_of_another_size_are_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        decode_hashes(data, 1)


def test_the_tiles_of_a_size_are_all_named() -> None:
    assert [tile.path for tile in tiles_of(257)] == [
        "tile/0/000",
        "tile/0/001.p/1",
        "tile/1/000.p/1",
        "tile/entries/000",
        "tile/entries/001.p/1",
    ]
    assert list(tiles_of(0)) == []

"""Proof files and the verification of a whole log, with every kind of damage."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.tlog import vectors
from tidegate.core.errors import IntegrityError
from tidegate.tlog.checkpoint import Checkpoint, sign_checkpoint
from tidegate.tlog.merkle import leaf_hash, verify_consistency
from tidegate.tlog.proof import TlogProof, prove_consistency, prove_inclusion
from tidegate.tlog.tiles import Edge, Tile, encode_bundle
from tidegate.tlog.verify import verify_log

SIZE = 700


def build(size: int) -> dict[str, bytes]:
    entries = [vectors.entry(index) for index in range(size)]
    edge, full = Edge().grow([leaf_hash(item) for item in entries])
    files = {tile.path: data for tile, data in (full | edge.partials()).items()}
    for number in range(0, size, 256):
        part = entries[number : number + 256]
        files[Tile(None, number // 256, len(part)).path] = encode_bundle(part)
    files["checkpoint"] = sign_checkpoint(Checkpoint(vectors.ORIGIN, size, edge.root), vectors.LOG_KEY)
    return files


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, SIZE])
def test_a_whole_log_verifies_and_every_entry_is_seen_in_order(size: int) -> None:
    files = build(size)
    seen: list[tuple[int, bytes]] = []
    told: list[tuple[int, int]] = []
    result = verify_log(
        files.__getitem__,
        vectors.LOG_VKEY,
        progress=lambda done, whole: told.append((done, whole)),
        on_entry=lambda index, entry: seen.append((index, entry)),
    )
    assert (result.size, result.tiles) == (size, len(files) - 1)
    assert seen == [(index, vectors.entry(index)) for index in range(size)]
    assert told == ([(size, size)] if size else [])


def damages() -> Iterator[tuple[str, bytes]]:
    for path, data in build(SIZE).items():
        yield path, data[:-1] + bytes([data[-1] ^ 1])
        yield path, data[:-1]
        yield path, b""
        yield path, data + data


@pytest.mark.parametrize(("path", "data"), list(damages()))
def test_one_changed_file_is_noticed(path: str, data: bytes) -> None:
    with pytest.raises(IntegrityError):
        verify_log((build(SIZE) | {path: data}).__getitem__, vectors.LOG_VKEY)


@pytest.mark.parametrize("path", sorted(build(SIZE)))
def test_one_missing_file_is_noticed(path: str) -> None:
    files = build(SIZE)
    del files[path]
    with pytest.raises(IntegrityError, match=r"cannot read|follow"):
        verify_log(files.__getitem__, vectors.LOG_VKEY)


def test_a_dropped_entry_is_noticed_even_when_all_tiles_are_made_anew() -> None:
    honest = build(SIZE)
    files = build(SIZE - 1) | {"checkpoint": honest["checkpoint"]}
    with pytest.raises(IntegrityError):
        verify_log(files.__getitem__, vectors.LOG_VKEY)


def test_a_rewritten_entry_with_consistent_tiles_fails_at_the_root() -> None:
    entries = [b"forged", *(vectors.entry(index) for index in range(1, 300))]
    edge, full = Edge().grow([leaf_hash(item) for item in entries])
    files = {tile.path: data for tile, data in (full | edge.partials()).items()}
    files["tile/entries/000"] = encode_bundle(entries[:256])
    files["tile/entries/001.p/44"] = encode_bundle(entries[256:])
    files["checkpoint"] = build(300)["checkpoint"]
    with pytest.raises(IntegrityError, match="root"):
        verify_log(files.__getitem__, vectors.LOG_VKEY)


def test_a_partial_tile_that_gave_way_to_its_full_one_is_read_from_it() -> None:
    files = build(512)
    small = build(300)
    files["checkpoint"] = small["checkpoint"]
    files["tile/1/000.p/1"] = small["tile/1/000.p/1"]
    assert verify_log(files.__getitem__, vectors.LOG_VKEY).size == 300


def test_a_checkpoint_by_another_key_is_refused() -> None:
    files = build(3)
    files["checkpoint"] = sign_checkpoint(Checkpoint(vectors.ORIGIN, 3, bytes(32)), vectors.WITNESS_KEY)
    with pytest.raises(IntegrityError, match="no signature by a trusted key"):
        verify_log(files.__getitem__, vectors.LOG_VKEY)


def proof_of(index: int) -> TlogProof:
    files = build(SIZE)
    hashes = prove_inclusion(SIZE, index, lambda tile: files[tile.path])
    return TlogProof(index, hashes, files["checkpoint"])


@pytest.mark.parametrize("index", [0, 1, 255, 256, 511, 512, SIZE - 1])
def test_a_proof_file_verifies_offline(index: int) -> None:
    proof = TlogProof.parse(proof_of(index).encode())
    assert proof == proof_of(index)
    assert proof.verify(leaf_hash(vectors.entry(index)), vectors.LOG_VKEY).size == SIZE
    with pytest.raises(IntegrityError, match="not included"):
        proof.verify(leaf_hash(vectors.entry(index + 1)), vectors.LOG_VKEY)


def test_consistency_from_tiles_verifies() -> None:
    files = build(SIZE)
    for old in (0, 1, 255, 256, 257, SIZE):
        proof = prove_consistency(old, SIZE, lambda tile: files[tile.path])
        old_root = Edge().grow([leaf_hash(vectors.entry(i)) for i in range(old)])[0].root
        new_root = Edge().grow([leaf_hash(vectors.entry(i)) for i in range(SIZE)])[0].root
        assert verify_consistency(old, SIZE, old_root, new_root, proof)


def test_extra_data_survives_and_is_bounded() -> None:
    plain = proof_of(3)
    with_extra = TlogProof(plain.index, plain.hashes, plain.checkpoint, b"extra")
    assert TlogProof.parse(with_extra.encode()) == with_extra
    with pytest.raises(IntegrityError, match="extra"):
        TlogProof.parse(TlogProof(plain.index, plain.hashes, plain.checkpoint, b"x" * 5000).encode())


GOOD = proof_of(3).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        GOOD.replace(b"@v1", b"@v2"),
        GOOD.replace(b"index 3", b"index 03"),
        GOOD.replace(b"index 3", b"index -3"),
        GOOD.replace(b"index 3", b"Index 3"),
        GOOD.replace(b"index 3\n", b""),
        GOOD.replace(b"index 3\n", b"index 3\nAAAA\n"),
        GOOD.replace(b"index 3\n", b"index 3\n" + b"A" * 43 + b"\n"),
        GOOD.replace(b"index 3\n", b"index 3\n" + (b"A" * 43 + b"=\n") * 64),
        GOOD.replace(b"index 3\n", "index 3\né\n".encode()),
        GOOD.replace(b"index 3\n", b"extra !\nindex 3\n"),
        GOOD.replace(b"\n\n", b"\n"),
        GOOD + b"x" * 100_000,
    ],
)
def test_malformed_proof_files_are_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        TlogProof.parse(data)

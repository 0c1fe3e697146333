"""The tree: the reference's vectors, every proof of every size up to 40, and proofs that must not verify."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.tlog import vectors
from tidegate.tlog import merkle
from tidegate.tlog.tiles import Edge, Tile, range_hash_from_tiles


def leaves(count: int) -> list[bytes]:
    return [merkle.leaf_hash(vectors.entry(index)) for index in range(count)]


@pytest.mark.parametrize("size", sorted(vectors.ROOTS))
def test_roots_equal_the_reference(size: int) -> None:
    assert vectors.encoded(merkle.root_of(leaves(size))) == vectors.ROOTS[size]
    assert vectors.encoded(Edge().grow(leaves(size))[0].root) == vectors.ROOTS[size]


def test_the_empty_root_is_the_hash_of_nothing() -> None:
    assert vectors.encoded(merkle.root_of([])) == "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
    assert Edge().root == merkle.EMPTY_ROOT


def inclusion(index: int, hashes: list[bytes]) -> list[bytes]:
    hash_of = merkle.range_hash_of(hashes)
    return [hash_of(*part) for part in merkle.inclusion_ranges(index, len(hashes))]


def consistency(old: int, hashes: list[bytes]) -> list[bytes]:
    hash_of = merkle.range_hash_of(hashes)
    return [hash_of(*part) for part in merkle.consistency_ranges(old, len(hashes))]


def test_proofs_equal_the_reference() -> None:
    assert tuple(map(vectors.encoded, inclusion(5, leaves(7)))) == vectors.INCLUSION_5_OF_7
    assert tuple(map(vectors.encoded, consistency(3, leaves(7)))) == vectors.CONSISTENCY_3_TO_7


@pytest.mark.parametrize("size", range(1, 41))
def test_every_inclusion_proof_verifies_at_its_index_alone(size: int) -> None:
    hashes = leaves(size)
    root = merkle.root_of(hashes)
    for index in range(size):
        proof = inclusion(index, hashes)
        good = [i for i in range(size + 1) if merkle.verify_inclusion(hashes[index], i, size, proof, root)]
        assert good == [index]
        assert not merkle.verify_inclusion(hashes[index], index, size, [*proof, root], root)
        if proof:
            assert not merkle.verify_inclusion(hashes[index], index, size, proof[:-1], root)


@pytest.mark.parametrize("size", range(1, 41))
def test_every_consistency_proof_verifies_for_its_sizes_alone(size: int) -> None:
    hashes = leaves(size)
    root = merkle.root_of(hashes)
    for old in range(size + 1):
        old_root = merkle.root_of(hashes[:old])
        proof = consistency(old, hashes)
        assert merkle.verify_consistency(old, size, old_root, root, proof)
        assert not merkle.verify_consistency(old, size, merkle.node_hash(old_root, root), root, proof)
        assert not merkle.verify_consistency(old, size, old_root, root, [*proof, root])
        if old < size and old > 0:
            assert not merkle.verify_consistency(old, size, old_root, merkle.node_hash(root, root), proof)


def test_sizes_and_indexes_outside_the_tree_are_refused() -> None:
    root = merkle.root_of(leaves(3))
    assert not merkle.verify_inclusion(root, 0, 0, [], root)
    assert not merkle.verify_inclusion(root, -1, 3, [], root)
    assert not merkle.verify_consistency(4, 3, root, root, [])
    assert not merkle.verify_consistency(2, 3, root, root, [])
    with pytest.raises(ValueError, match="index"):
        merkle.inclusion_ranges(3, 3)
    with pytest.raises(ValueError, match="larger"):
        merkle.consistency_ranges(4, 3)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 700), min_size=1, max_size=5), st.data())
def test_a_tree_grown_in_any_steps_is_the_same_tree_and_proves_every_index(
    steps: list[int], data: st.DataObject
) -> None:
    hashes = leaves(sum(steps))
    edge, tiles, done = Edge(), {}, 0
    for step in steps:
        edge, full = edge.grow(hashes[done : done + step])
        done += step
        tiles |= full
        assert edge.root == merkle.root_of(hashes[:done])
    tiles |= edge.partials()
    assert Edge.load(done, tiles.__getitem__).root == edge.root
    if done:
        index = data.draw(st.integers(0, done - 1))
        hash_of = range_hash_from_tiles(done, tiles.__getitem__)
        proof = [hash_of(*part) for part in merkle.inclusion_ranges(index, done)]
        assert merkle.verify_inclusion(hashes[index], index, done, proof, edge.root)
        old = data.draw(st.integers(0, done))
        proof = [hash_of(*part) for part in merkle.consistency_ranges(old, done)]
        assert merkle.verify_consistency(old, done, merkle.root_of(hashes[:old]), edge.root, proof)


def test_tiles_of_70_000_entries_are_those_of_the_reference() -> None:
    edge, full = Edge().grow(leaves(70_000))
    partial = edge.partials()
    assert sum(tile.level == 0 for tile in full) == 273
    assert sum(tile.level == 1 for tile in full) == 1
    assert set(partial) == {Tile(0, 273, 112), Tile(1, 1, 17), Tile(2, 0, 1)}
    assert partial[Tile(2, 0, 1)] == merkle.root_of(leaves(65_536))


def test_256_entries_are_one_full_tile_and_a_partial_of_width_one() -> None:
    edge, full = Edge().grow(leaves(256))
    assert set(full) == {Tile(0, 0)}
    assert set(edge.partials()) == {Tile(1, 0, 1)}

"""The Merkle tree of RFC 9162: hashes, roots, inclusion and consistency proofs, and their verification.

The bottom of ``tidegate.tlog``. Proofs are described as ranges of leaves, so that one description serves a list of
hashes in memory and tiles on a disk. Source: RFC 9162 2.1.1 to 2.1.4 (the same as RFC 6962 2.1), SHA-256 only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256

HASH_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()

RangeHash = Callable[[int, int], bytes]


def leaf_hash(entry: bytes) -> bytes:
    """Hash an entry as a leaf. Source: RFC 9162 2.1.1."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash two children. Source: RFC 9162 2.1.1."""
    return sha256(b"\x01" + left + right).digest()


def root_of(hashes: Sequence[bytes]) -> bytes:
    """Give the root over the hashes in order.

    Pairing neighbours and promoting an odd last one gives the same tree as the recursive definition, without recursion.
    """
    if not hashes:
        return EMPTY_ROOT
    row = list(hashes)
    while len(row) > 1:
        above = [sha256(b"\x01" + row[i] + row[i + 1]).digest() for i in range(0, len(row) - 1, 2)]
        if len(row) % 2:
            above.append(row[-1])
        row = above
    return row[0]


def fold(hashes: Sequence[bytes]) -> bytes:
    """Give the root over perfect subtrees that stand left to right in falling size."""
    if not hashes:
        return EMPTY_ROOT
    result = hashes[-1]
    for left in reversed(hashes[:-1]):
        result = node_hash(left, result)
    return result


def perfect_parts(start: int, end: int) -> Iterator[tuple[int, int]]:
    """Cut an aligned range of leaves into perfect subtrees: (first leaf, height), in falling size."""
    rest = end - start
    while rest:
        height = rest.bit_length() - 1
        yield start, height
        start += 1 << height
        rest -= 1 << height


def _split(size: int) -> int:
    return 1 << ((size - 1).bit_length() - 1)


def inclusion_ranges(index: int, size: int) -> list[tuple[int, int]]:
    """Name the ranges of leaves whose hashes are the inclusion proof, the leaf's sibling first.

    Source: RFC 9162 2.1.3.1 (PATH).
    """
    if not 0 <= index < size:
        raise ValueError("index outside the tree")
    ranges = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start = middle
    return ranges[::-1]


def consistency_ranges(old_size: int, size: int) -> list[tuple[int, int]]:
    """Name the ranges of leaves whose hashes are the consistency proof.

    Source: RFC 9162 2.1.4.1 (SUBPROOF). From size 0, and between equal sizes, the proof is empty.
    """
    if not 0 <= old_size <= size:
        raise ValueError("the old tree is larger than the new one")
    if old_size in (0, size):
        return []
    ranges = []
    start, end = 0, size
    whole = True  # the old tree is exactly the left part seen so far, so its root is known to the verifier
    while end != old_size:
        middle = start + _split(end - start)
        if old_size <= middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start = middle
            whole = False
    if not whole:
        ranges.append((start, end))
    return ranges[::-1]


def range_hash_of(hashes: Sequence[bytes]) -> RangeHash:
    """Read range hashes from leaf hashes in memory."""
    return lambda start, end: root_of(hashes[start:end])


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Say whether the proof shows the leaf at the index of the tree. Source: RFC 9162 2.1.3.2."""
    if not 0 <= index < size:
        return False
    fn, sn, result = index, size - 1, leaf
    for sibling in proof:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            result = node_hash(sibling, result)
            while fn and not fn & 1:
                fn >>= 1
                sn >>= 1
        else:
            result = node_hash(result, sibling)
        fn >>= 1
        sn >>= 1
    return sn == 0 and result == root


def verify_consistency(old_size: int, size: int, old_root: bytes, root: bytes, proof: Sequence[bytes]) -> bool:
    """Say whether the proof shows that the larger tree begins with the smaller one. Source: RFC 9162 2.1.4.2."""
    if not 0 <= old_size <= size:
        return False
    if old_size == size:
        return not proof and old_root == root
    if old_size == 0:
        return not proof and old_root == EMPTY_ROOT
    path = list(proof)
    if old_size & (old_size - 1) == 0:
        path.insert(0, old_root)
    if not path:
        return False
    fn, sn = old_size - 1, size - 1
    while fn & 1:
        fn >>= 1
        sn >>= 1
    old = new = path[0]
    for sibling in path[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            old = node_hash(sibling, old)
            new = node_hash(sibling, new)
            while fn and not fn & 1:
                fn >>= 1
                sn >>= 1
        else:
            new = node_hash(new, sibling)
        fn >>= 1
        sn >>= 1
    return sn == 0 and old == old_root and new == root

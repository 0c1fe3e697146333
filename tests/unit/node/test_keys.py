"""Mask keys: stable over restarts, different for each recipient, shared only where both departments hold the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.keys import KeyStore
from tidegate.core.decision import Mask
from tidegate.core.errors import CallerError, Refused
from tidegate.core.names import DatasetName
from tidegate.identity.keys import write_private

FLIGHTS, PLANES = DatasetName("aviation", "flights"), DatasetName("aviation", "planes")


def key(store: KeyStore, member: str, mask: Mask, dataset: DatasetName = FLIGHTS) -> bytes:
    return store.for_recipient(member).key(mask, dataset, "tailnum")


def test_pseudonyms_differ_by_recipient_and_hold_over_a_restart(tmp_path: Path) -> None:
    mask = Mask("pseudonym", {})
    first = key(KeyStore(tmp_path), "health", mask)
    assert key(KeyStore(tmp_path), "health", mask) == first
    assert key(KeyStore(tmp_path), "weather", mask) != first
    assert key(KeyStore(tmp_path), "health", mask, PLANES) == first


def test_a_hash_is_the_same_for_every_recipient(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    assert key(store, "health", Mask("hash", {})) == key(store, "weather", Mask("hash", {"key": "node"}))
    assert key(store, "health", Mask("hash", {"key": "recipient"})) == key(store, "health", Mask("pseudonym", {}))


def test_two_nodes_have_different_keys_unless_they_share_one(tmp_path: Path) -> None:
    stores = [KeyStore(tmp_path / name) for name in ("a", "b")]
    shared = Mask("hash", {"key": "shared:tail-2026"})
    assert len({key(store, "health", Mask("hash", {})) for store in stores}) == 2
    with pytest.raises(Refused):
        key(stores[0], "health", shared)
    for name in ("a", "b"):
        write_private(tmp_path / name / "shared" / "tail-2026.secret", b"07" * 32)
    assert {key(store, "health", shared) for store in stores} == {b"\x07" * 32}


@pytest.mark.parametrize("name", ["../masks", "a/b", "", ".", "x" * 65])
def test_a_shared_keys_name_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    store = KeyStore(tmp_path)
    (tmp_path / "shared").mkdir()
    with pytest.raises(Refused):
        key(store, "health", Mask("hash", {"key": f"shared:{name}"}))


@pytest.mark.parametrize("data", [b"", b"xyz", b"00" * 31, b"\xff" * 32])
def test_a_damaged_secret_is_an_error_and_never_replaced(tmp_path: Path, data: bytes) -> None:
    write_private(tmp_path / "masks.secret", data)
    with pytest.raises(CallerError):
        KeyStore(tmp_path)
    assert (tmp_path / "masks.secret").read_bytes() == data


def test_a_secret_that_others_may_read_is_refused(tmp_path: Path) -> None:
    KeyStore(tmp_path)
    (tmp_path / "masks.secret").chmod(0o644)
    with pytest.raises(CallerError):
        KeyStore(tmp_path)

"""The write-ahead log: round trips, torn tails at every byte, damage that must not pass for a torn tail."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.disk import Disk
from audit.wal import Record, Wal, encode_batch, read_segment
from tidegate.core.errors import IntegrityError

NONCE = bytes(32)


def records(first: int, count: int) -> list[Record]:
    return [
        Record(b'{"n":%d}' % index, NONCE, b"k" * 32 if index % 2 else b"", b"side")
        for index in range(first, first + count)
    ]


def segment() -> tuple[bytes, list[int]]:
    """Three batches of 1, 3 and 2 entries from index 10, and where each ends."""
    parts = [encode_batch(10, records(10, 1)), encode_batch(11, records(11, 3)), encode_batch(14, records(14, 2))]
    ends = [len(b"".join(parts[: place + 1])) for place in range(3)]
    return b"".join(parts), ends


@given(
    st.lists(
        st.builds(
            Record, st.binary(max_size=50), st.just(NONCE), st.sampled_from([b"", bytes(32)]), st.binary(max_size=50)
        ),
        min_size=1,
        max_size=5,
    ),
    st.integers(0, 2**40),
)
def test_a_batch_survives_the_round_trip(batch: list[Record], first: int) -> None:
    data = encode_batch(first, batch)
    assert read_segment(data, first) == (batch, len(data))


def test_a_tail_torn_at_any_byte_loses_its_own_batch_alone() -> None:
    data, ends = segment()
    for cut in range(len(data) + 1):
        found, sound = read_segment(data[:cut], 10)
        whole = [end for end in ends if end <= cut]
        assert sound == (whole[-1] if whole else 0)
        assert found == records(10, [0, 1, 4, 6][len(whole)])


def test_any_changed_byte_of_the_last_batch_is_taken_for_a_torn_write() -> None:
    data, ends = segment()
    for place in range(ends[1], len(data)):
        damaged = data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :]
        assert read_segment(damaged, 10) == (records(10, 4), ends[1])


def test_any_changed_byte_before_a_sound_batch_is_damage() -> None:
    data, ends = segment()
    for place in range(ends[1]):
        damaged = data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :]
        with pytest.raises(IntegrityError, match="damaged"):
            read_segment(damaged, 10)


def test_pages_of_a_torn_batch_that_reached_the_disk_out_of_order_are_a_torn_tail() -> None:
    data, ends = segment()
    head_lost = data[: ends[1]] + bytes(64) + data[ends[1] + 64 :]
    assert read_segment(head_lost, 10) == (records(10, 4), ends[1])


def test_a_batch_with_another_index_is_damage() -> None:
    with pytest.raises(IntegrityError):
        read_segment(encode_batch(10, records(10, 1)) + encode_batch(12, records(12, 1)), 10)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_never_become_entries(data: bytes) -> None:
    assert read_segment(data, 0) == ([], 0)


def write(folder: Path) -> None:
    wal = Wal(folder, Disk(), next_index=0)
    assert wal.append(records(0, 3)) == 0
    wal.rotate()
    assert wal.append(records(3, 2)) == 3
    assert wal.append(records(5, 1)) == 5
    wal.close()


def test_segments_are_read_in_order_and_writing_goes_on(tmp_path: Path) -> None:
    write(tmp_path)
    wal, first, found = Wal.recover(tmp_path, Disk(), size=0)
    assert (first, found) == (0, records(0, 6))
    assert wal.append(records(6, 1)) == 6
    wal.close()
    assert Wal.recover(tmp_path, Disk(), size=0)[2] == records(0, 7)


def test_only_ended_segments_below_the_index_are_dropped(tmp_path: Path) -> None:
    wal = Wal(tmp_path, Disk(), next_index=0)
    wal.append(records(0, 3))
    wal.rotate()
    wal.append(records(3, 2))
    for index, left in ((2, ["0", "3"]), (3, ["3"]), (5, ["3"])):
        wal.drop_before(index)
        assert [path.stem.lstrip("0") or "0" for path in sorted(tmp_path.glob("*.wal"))] == left
    wal.rotate()
    wal.drop_before(5)
    assert list(tmp_path.glob("*.wal")) == []
    wal.close()


def test_a_missing_segment_is_damage(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / f"{0:020d}.wal").unlink()
    with pytest.raises(IntegrityError):
        Wal.recover(tmp_path, Disk(), size=0)
    assert Wal.recover(tmp_path, Disk(), size=3)[1] == 3


def test_an_earlier_segment_that_is_cut_short_is_damage(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / f"{0:020d}.wal"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(IntegrityError):
        Wal.recover(tmp_path, Disk(), size=0)


def test_entries_below_the_checkpoint_that_are_gone_are_damage(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(IntegrityError):
        Wal.recover(tmp_path, Disk(), size=7)


def test_a_torn_tail_is_cut_so_that_it_is_not_met_again(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / f"{3:020d}.wal"
    sound = path.read_bytes()
    path.write_bytes(sound + b"torn")
    assert Wal.recover(tmp_path, Disk(), size=0)[2] == records(0, 6)
    assert path.read_bytes() == sound

"""The write-ahead log: what makes an entry durable within one sync.

The writer appends a batch as one CRC-framed record; recovery reads them back. Segments are named by their first index
and dropped once a published checkpoint covers them. A record also carries the entry's nonce and its encrypted side
material, so that one sync makes both durable; they move to the side store before the segment goes.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from audit.disk import Disk, SyncFailed
from tidegate.core.errors import Code, TidegateError, error_for

SEGMENT_BYTES_MAX = 8 << 20  # recovery reads at most a few of these
BATCH_BYTES_MAX = 64 << 20  # a length beyond this is damage, not data
_MAGIC = b"TGWALv1\n"
# magic, first index, entries, payload bytes, CRC-32 of the payload; then CRC-32 of these fields
_HEAD = struct.Struct(">8sQIII")
_CRC = struct.Struct(">I")
_HEAD_BYTES = _HEAD.size + _CRC.size
_SIZES = struct.Struct(">III")


@dataclass(frozen=True, slots=True)
class Record:
    """One entry as the write-ahead log keeps it.

    Args:
        entry: canonical bytes; nonce: opens the entry's commitments; side_key, side: key and AES-GCM blob of the side
            material, empty when there is none.
    """

    entry: bytes
    nonce: bytes
    side_key: bytes = b""
    side: bytes = b""

    def encode(self) -> bytes:
        """Give the bytes inside a batch."""
        secret = self.nonce + self.side_key
        return _SIZES.pack(len(self.entry), len(secret), len(self.side)) + self.entry + secret + self.side


def encode_batch(first_index: int, records: Sequence[Record]) -> bytes:
    """Frame a batch. One frame a batch: a torn write of many pages is one bad frame, whatever page came first."""
    payload = b"".join(record.encode() for record in records)
    head = _HEAD.pack(_MAGIC, first_index, len(records), len(payload), zlib.crc32(payload))
    return head + _CRC.pack(zlib.crc32(head)) + payload


def _decode_records(payload: bytes, count: int) -> list[Record]:
    records = []
    position = 0
    for _ in range(count):
        entry_size, secret_size, side_size = _SIZES.unpack_from(payload, position)
        entry = position + _SIZES.size
        secret = entry + entry_size
        side = secret + secret_size
        position = side + side_size
        keys = payload[secret:side]
        records.append(Record(payload[entry:secret], keys[:32], keys[32:], payload[side:position]))
    if position != len(payload):
        raise _damaged("a batch does not fill its frame")
    return records


def _damaged(detail: str) -> TidegateError:
    return error_for(Code.AUDIT_VERIFICATION, "write-ahead log: damaged, see the runbook", detail=detail)


def read_frame(data: bytes, position: int) -> tuple[int, list[Record], int] | None:
    """Read the batch at the position: (first index, records, next position); None if there is no sound frame."""
    end = position + _HEAD_BYTES
    if end > len(data):
        return None
    head = data[position : end - _CRC.size]
    magic, first, count, size, crc = _HEAD.unpack(head)
    if magic != _MAGIC or _CRC.unpack_from(data, end - _CRC.size)[0] != zlib.crc32(head):
        return None
    payload = data[end : end + size]
    if size > BATCH_BYTES_MAX or len(payload) != size or zlib.crc32(payload) != crc:
        return None
    return first, _decode_records(payload, count), end + size


def read_segment(data: bytes, first_index: int) -> tuple[list[Record], int]:
    """Read a segment: its records and the position where sound bytes end.

    What follows the last sound frame is a write that a crash tore: nobody was told of it. But a sound frame beyond a
    bad one means that something durable was lost; that is damage, and the log does not open.
    """
    records: list[Record] = []
    position = 0
    while (frame := read_frame(data, position)) is not None:
        first, batch, position = frame
        if first != first_index + len(records):
            raise _damaged(f"a batch says index {first}, expected {first_index + len(records)}")
        records += batch
    beyond = data.find(_MAGIC, position + 1)
    while beyond >= 0:
        if read_frame(data, beyond) is not None:
            raise _damaged(f"bad frame at byte {position}, sound frame at byte {beyond}")
        beyond = data.find(_MAGIC, beyond + 1)
    return records, position


class Wal:
    """The open write-ahead log. Owner: whoever holds the writer's commit lock."""

    def __init__(self, folder: Path, disk: Disk, *, next_index: int) -> None:
        self._folder = folder
        self._disk = disk
        self._file = -1
        self._size = 0
        self._segment_first = next_index
        self._next = next_index

    @classmethod
    def recover(cls, folder: Path, disk: Disk, *, size: int) -> tuple[Wal, int, list[Record]]:
        """Read all segments, cut the torn tail, begin a new segment.

        Args:
            size: of the newest checkpoint; the segments must reach back to it without a gap.

        Returns:
            the open log, the index of the first record, and the records.
        """
        paths = sorted(folder.glob("*.wal"))
        first = int(paths[0].stem) if paths else size
        records: list[Record] = []
        for path in paths:
            if int(path.stem) != first + len(records):
                raise _damaged(f"segment {path.name} where {first + len(records)} was expected")
            found, sound = read_segment(path.read_bytes(), first + len(records))
            if sound != path.stat().st_size:
                if path != paths[-1]:  # a later segment exists only because this one was complete
                    raise _damaged(f"segment {path.name} is cut short")
                _cut(path, disk, sound)
            records += found
        if first > size or first + len(records) < size:
            raise _damaged(f"segments hold {first} to {first + len(records)}, the checkpoint says {size}")
        wal = cls(folder, disk, next_index=first + len(records))
        return wal, first, records

    def append(self, records: Sequence[Record]) -> int:
        """Make a batch durable; give the index of its first entry.

        Raises:
            OSError: nothing of the batch is in the log (space ran out, the file was cut back).
            SyncFailed: the state of the disk is unknown; end the process.
        """
        if self._file < 0:
            self._open_segment()
        data = encode_batch(self._next, records)
        try:
            self._disk.write(self._file, data)
        except OSError as error:
            self._undo(error)
            raise
        self._disk.sync(self._file)  # a crash before this line: a torn tail, nobody was told; after: durable
        self._size += len(data)
        first, self._next = self._next, self._next + len(records)
        return first

    def _undo(self, cause: OSError) -> None:
        try:
            self._disk.truncate(self._file, self._size)
        except OSError as error:
            raise SyncFailed(f"cannot cut a failed write back: errno {error.errno}") from cause

    def _open_segment(self) -> None:
        path = self._folder / f"{self._next:020d}.wal"
        file = self._disk.open_append(path)
        try:
            self._disk.sync_folder(self._folder)  # else a crash could lose the whole file with acknowledged entries
            size = os.fstat(file).st_size  # after recovery an empty segment of this name may be there
            if size:
                raise SyncFailed("a new segment is not empty")
        except BaseException:
            os.close(file)
            raise
        self._file, self._size, self._segment_first = file, 0, self._next

    @property
    def is_large(self) -> bool:
        """Whether the current segment should give way to a new one."""
        return self._size >= SEGMENT_BYTES_MAX

    def rotate(self) -> None:
        """End the current segment; the next batch opens a new one."""
        if self._file >= 0 and self._size:
            os.close(self._file)
            self._file, self._size, self._segment_first = -1, 0, self._next

    def drop_before(self, index: int) -> None:
        """Remove ended segments all of whose entries are below the index."""
        paths = sorted(self._folder.glob("*.wal"))
        if not paths:
            return
        ends = [*(int(path.stem) for path in paths[1:]), self._next]
        gone = [
            path
            for path, end in zip(paths, ends, strict=True)
            if end <= index and not (self._file >= 0 and int(path.stem) == self._segment_first)
        ]
        # Oldest first: a crash between two removals leaves segments without a gap.
        for path in gone:
            self._disk.remove(path)

    def close(self) -> None:
        """Close the file; everything acknowledged is durable already."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _cut(path: Path, disk: Disk, size: int) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        disk.truncate(file, size)
        disk.sync(file)
    finally:
        os.close(file)

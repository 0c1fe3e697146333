"""Arrow IPC streams cut into chunks that travel: between worker and server, node and broker, broker and caller.

A stream is a sequence of byte chunks. The first chunk is the schema message; each further chunk is what the Arrow stream
writer wrote for one record batch: its dictionary messages, if any, then the batch. Concatenated, with the end marker, the
chunks are an Arrow IPC stream. A digest of a stream is SHA-256 over the chunks in order, schema first.

Reading foreign Arrow data can crash a process (Arrow: Security Considerations), so ``read`` validates every batch in full
before anybody touches it.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator

import pyarrow as pa

from tidegate.core.errors import Code, error_for
from tidegate.core.limits import BATCH_BYTES_MAX, BATCH_ROWS_MAX, MESSAGE_BYTES_MAX

# What Arrow, or our look at its headers, raises on bytes that are not a stream.
_MALFORMED = (pa.ArrowException, OSError, ValueError, TypeError, EOFError, MemoryError)
_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"


class _Tape(io.RawIOBase):
    """A sink that hands over what was written since the last time."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        part = bytes(data)  # type: ignore[call-overload]
        self._parts.append(part)
        return len(part)

    def take(self) -> bytes:
        joined = b"".join(self._parts)
        self._parts.clear()
        return joined


def cut(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[bytes]:
    """Give the chunks of a stream; the schema's comes at once, before the first batch is asked for.

    Batches larger than ``BATCH_ROWS_MAX`` rows or ``BATCH_BYTES_MAX`` bytes are sliced.
    """
    tape = _Tape()
    options = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=False, unify_dictionaries=False)
    first = schema_chunk(schema)
    yield first
    with pa.ipc.new_stream(tape, schema, options=options) as writer:
        for batch in batches:
            for piece in _slices(batch):
                writer.write_batch(piece)
                written = tape.take()
                if first and not written.startswith(first):  # the writer sends the schema together with the first batch
                    raise error_for(Code.INTERNAL, detail="Arrow wrote another schema message than schema.serialize()")
                yield written[len(first) :]
                first = b""


def _slices(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    rows = batch.num_rows
    if rows == 0:
        return
    pieces = max(-(-batch.nbytes // BATCH_BYTES_MAX), -(-rows // BATCH_ROWS_MAX), 1)
    step = max(rows // pieces, 1)
    for start in range(0, rows, step):
        piece = batch.slice(start, step)
        if piece.nbytes > MESSAGE_BYTES_MAX - 65_536 and piece.num_rows > 1:
            yield from _slices(piece)
        elif piece.nbytes > MESSAGE_BYTES_MAX - 65_536:
            raise error_for(Code.FETCH_LIMIT, "answer: one row is larger than a message may be")
        else:
            yield piece


class _Feed:
    """A source that reads chunk after chunk, and never beyond the chunk that it has.

    Arrow asks for as many bytes as a message's header says; a forged header would have it allocate anything. So a read
    larger than a message may be is refused, and so is a compressed body, whose true size only its sender knows.
    """

    closed = False

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")
        self._ended = False
        self.failure: BaseException | None = None  # of the iterator: its own story, not that of the bytes

    def readable(self) -> bool:
        return True

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MESSAGE_BYTES_MAX:
            raise ValueError("a message larger than the limit")
        parts = []
        while size and not (self._ended and not self._rest):
            if not self._rest:
                self._rest = memoryview(self._next())
            part = self._rest[:size]
            self._rest = self._rest[len(part) :]
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _next(self) -> bytes:
        try:
            chunk = next(self._chunks, None)
        except BaseException as error:
            self.failure = error
            raise
        if chunk is None:
            self._ended = True
            return _END
        _refuse_compressed(chunk)
        return chunk


def _refuse_compressed(chunk: bytes) -> None:
    """Refuse a chunk with a compressed record batch or dictionary: a small message could become any size.

    Source: Arrow columnar format, Message.fbs: ``Message.header`` is a union (field 1 its type, field 2 the table);
    ``DictionaryBatch.data`` is field 1; ``RecordBatch.compression`` is field 3.
    """
    reader = pa.ipc.MessageReader.open_stream(pa.BufferReader(chunk))
    while True:
        try:
            message = reader.read_next_message()
        except (StopIteration, EOFError):
            return
        if message.type == "schema":
            continue
        view = memoryview(message.metadata)
        table = _table(view, int.from_bytes(view[:4], "little"), 2)
        if message.type == "dictionary":
            table = _table(view, table, 1)
        if table == 0 or _offset(view, table, 3):
            raise ValueError("a compressed or malformed message")


def _table(view: memoryview, table: int, field: int) -> int:
    """Give the position of the table that a flatbuffer's field points to; 0 when it has none."""
    offset = _offset(view, table, field)
    place = table + offset
    return place + int.from_bytes(view[place : place + 4], "little") if offset else 0


def _offset(view: memoryview, table: int, field: int) -> int:
    """Read a field's offset from a flatbuffer table's vtable; 0 when the field is absent."""
    vtable = table - int.from_bytes(view[table : table + 4], "little", signed=True)
    entry = vtable + 4 + 2 * field
    inside = vtable >= 0 and entry + 2 <= vtable + int.from_bytes(view[vtable : vtable + 2], "little")
    return int.from_bytes(view[entry : entry + 2], "little") if inside else 0


def read(chunks: Iterator[bytes]) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Open a stream of a stranger; every batch is validated in full before it is handed over.

    Trust: anybody may have written the chunks. An exception of the iterator itself passes through.

    Raises:
        IntegrityError: FETCH_INVALID_DATA.
    """
    source = _Opened(chunks)
    return source.schema, source.batches()


class _Opened:
    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._feed = _Feed(chunks)
        try:
            self._reader = pa.ipc.open_stream(pa.PythonFile(self._feed, mode="r"))
            self.schema: pa.Schema = self._reader.schema
        except _MALFORMED as error:
            raise self._feed.failure or _invalid(error) from error

    def batches(self) -> Iterator[pa.RecordBatch]:
        while True:
            try:
                batch = self._reader.read_next_batch()
                batch.validate(full=True)
            except StopIteration:
                return
            except _MALFORMED as error:
                raise self._feed.failure or _invalid(error) from error
            yield batch


def _invalid(error: Exception) -> Exception:
    return error_for(Code.FETCH_INVALID_DATA, "Arrow stream: not valid", detail=f"{type(error).__name__}")


def schema_chunk(schema: pa.Schema) -> bytes:
    """Give the chunk of a schema alone."""
    chunk: bytes = schema.serialize().to_pybytes()
    return chunk


def parse_schema(chunk: bytes) -> pa.Schema:
    """Read a schema chunk of a stranger."""
    return read(iter((chunk,)))[0]

"""Arrow IPC streams cut into chunks that travel: between worker and server, node and broker, broker and caller.

A stream is a sequence of byte chunks. The first chunk is the schema message; each further chunk is what the Arrow stream
writer wrote for one record batch: its dictionary messages, if any, then the batch. Concatenated, with the end marker, the
chunks are an Arrow IPC stream.

Reading foreign Arrow data can crash a process (Arrow: Security Considerations), so ``read`` validates every batch in full
before anybody touches it (``tidegate.arrow_check``). Batches lie in the chunks that they came in; nothing is copied.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator

import pyarrow as pa

from tidegate import arrow_check
from tidegate.core.errors import Code, error_for
from tidegate.core.limits import BATCH_BYTES_MAX, BATCH_ROWS_MAX, MESSAGE_BYTES_MAX

# What Arrow, or our look at its headers, raises on bytes that are not a stream.
_MALFORMED = (pa.ArrowException, OSError, ValueError, TypeError, EOFError, MemoryError)
_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"


class Digest:
    """The digest of a stream: SHA-256 over the SHA-256 of the schema's chunk and the SHA-256 of all chunks after it.

    Two parts, so that a broker that only renames the columns of a node's answer need not hash its rows a second time.
    """

    def __init__(self) -> None:
        self._schema: bytes | None = None
        self._batches = hashlib.sha256()

    def update(self, chunk: bytes) -> None:
        """Take the next chunk; the schema's first."""
        if self._schema is None:
            self._schema = hashlib.sha256(chunk).digest()
        else:
            self._batches.update(chunk)

    def hexdigest(self) -> str:
        """Give the digest of what was taken so far, lower-case hexadecimal."""
        return hashlib.sha256((self._schema or b"") + self._batches.digest()).hexdigest()

    def under(self, schema: bytes) -> str:
        """Give the digest of the same batches under another schema's chunk."""
        return hashlib.sha256(hashlib.sha256(schema).digest() + self._batches.digest()).hexdigest()


def digest(chunks: Iterable[bytes]) -> str:
    """Give the digest of a whole stream."""
    whole = Digest()
    for chunk in chunks:
        whole.update(chunk)
    return whole.hexdigest()


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
    for chunk in cut_views(schema, batches):
        yield bytes(chunk)


def cut_views(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[bytes | memoryview]:
    """Give the same chunks where they were written, for somebody who only sends them on."""
    if arrow_check.has_dictionary(schema):
        yield from _cut_with_dictionaries(schema, batches)
        return
    yield schema_chunk(schema)
    for batch in batches:
        for piece in _slices(batch):
            yield memoryview(piece.serialize())


def _cut_with_dictionaries(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[bytes]:
    """Cut with Arrow's own writer, which knows what dictionaries were sent."""
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
                self._rest = memoryview(self._checked())
            part = self._rest[:size]
            self._rest = self._rest[len(part) :]
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _checked(self) -> bytes:
        chunk = self.next()
        if chunk is None:
            return _END
        arrow_check.refuse_compressed(chunk)
        return chunk

    def next(self) -> bytes | None:
        """Take a whole chunk; None at the end."""
        try:
            chunk = next(self._chunks, None)
        except BaseException as error:
            self.failure = error
            raise
        if chunk is None:
            self._ended = True
            return None
        return chunk

    def put_back(self, chunk: bytes) -> None:
        """Let a chunk be read once more."""
        arrow_check.refuse_compressed(chunk)
        self._rest = memoryview(chunk)


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
        self._reader: pa.RecordBatchReader | None = None
        try:
            first = self._feed.next() or b""
            self.schema = arrow_check.plain_schema(first)
            if self.schema is None:  # dictionaries lie between the batches: only Arrow's own reader knows them
                self._feed.put_back(first)
                self._reader = pa.ipc.open_stream(pa.PythonFile(self._feed, mode="r"))
                self.schema = self._reader.schema
        except _MALFORMED as error:
            raise self._feed.failure or _invalid(error) from error

    def batches(self) -> Iterator[pa.RecordBatch]:
        while True:
            try:
                batch = self._next()
                if batch is None:
                    return
                arrow_check.validate(batch)
            except _MALFORMED as error:
                raise self._feed.failure or _invalid(error) from error
            yield batch

    def _next(self) -> pa.RecordBatch | None:
        if self._reader is not None:
            try:
                return self._reader.read_next_batch()
            except StopIteration:
                return None
        chunk = self._feed.next()
        if chunk is None or chunk == _END:
            return None
        return arrow_check.read_batch(chunk, self.schema)


def _invalid(error: Exception) -> Exception:
    return error_for(Code.FETCH_INVALID_DATA, "Arrow stream: not valid", detail=f"{type(error).__name__}")


def schema_chunk(schema: pa.Schema) -> bytes:
    """Give the chunk of a schema alone."""
    chunk: bytes = schema.serialize().to_pybytes()
    return chunk


def parse_schema(chunk: bytes) -> pa.Schema:
    """Read a schema chunk of a stranger."""
    return read(iter((chunk,)))[0]

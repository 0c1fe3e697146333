"""What is checked of the Arrow bytes of a stranger before anybody touches their values; beside ``tidegate.ipc``.

The checks are those of Arrow's full validation. Text gets there by a shorter way where it can: when the offsets are in order
and every byte is ASCII, no string can be cut inside a character, and nobody need look at each string on its own.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from tidegate.core.limits import MESSAGE_BYTES_MAX

_CONTINUATION = (
    b"\xff\xff\xff\xff"  # begins every message since Arrow 0.15 (Columnar format, Encapsulated message format)
)
_PREFIX_BYTES = 8  # the continuation mark, and the length of the metadata
_OFFSET_BYTES = 4
# Message.fbs: fields of the tables, by place.
_MESSAGE_HEADER, _DICTIONARY_DATA, _BATCH_LENGTH, _BATCH_COMPRESSION = 2, 1, 0, 3


def has_dictionary(schema: pa.Schema) -> bool:
    """Say whether a column of the schema holds dictionary-encoded values at any depth."""
    waiting = [field.type for field in schema]
    while waiting:
        data_type = waiting.pop()
        if pa.types.is_dictionary(data_type) or isinstance(data_type, pa.BaseExtensionType):
            return True  # an extension may hide one
        waiting += [data_type.field(place).type for place in range(data_type.num_fields)]
    return False


def plain_schema(chunk: bytes) -> pa.Schema | None:
    """Read a chunk that is one schema message; None when it is more than that, or a schema with dictionaries."""
    if chunk[:4] != _CONTINUATION or metadata_end(chunk) != len(chunk):
        return None
    schema = pa.ipc.read_schema(pa.py_buffer(chunk))
    return None if has_dictionary(schema) else schema


def metadata_end(chunk: bytes) -> int:
    """Give the place after the metadata of the first message, as its prefix says."""
    return _PREFIX_BYTES + int.from_bytes(chunk[4:8], "little")


def read_batch(chunk: bytes, schema: pa.Schema) -> pa.RecordBatch:
    """Read a chunk that is exactly one record batch message of a schema without dictionaries; its buffers lie in the chunk.

    Raises:
        ValueError, pyarrow.ArrowException, OSError: it is not. The batch that is given is not validated yet.
    """
    start = metadata_end(chunk)
    if chunk[:4] != _CONTINUATION or start % 8 or start > len(chunk) or len(chunk) > MESSAGE_BYTES_MAX:
        raise ValueError("not one whole message")
    message = pa.ipc.read_message(pa.py_buffer(chunk))
    if message.type != "record batch" or message.body is None or start + message.body.size != len(chunk):
        raise ValueError("not exactly one record batch")
    _refuse(message)
    return pa.ipc.read_record_batch(message, schema)


def rows(chunk: bytes) -> int:
    """Give the rows of the record batches in a chunk, as their heads say."""
    found = 0
    for message in messages(chunk):
        if message.type == "record batch":
            view = memoryview(message.metadata)
            place = _offset(view, table := _header(view), _BATCH_LENGTH)
            found += int.from_bytes(view[table + place : table + place + 8], "little", signed=True) if place else 0
    return found


def refuse_compressed(chunk: bytes) -> None:
    """Refuse a chunk with a compressed record batch or dictionary: a small message could become any size.

    Source: Arrow columnar format, Message.fbs: ``Message.header`` is a union (field 1 its type, field 2 the table);
    ``DictionaryBatch.data`` is field 1; ``RecordBatch.compression`` is field 3.
    """
    for message in messages(chunk):
        _refuse(message)


def messages(chunk: bytes) -> Iterator[pa.Message]:
    """Give the messages of a chunk one after the other; nothing of them is checked."""
    reader = pa.ipc.MessageReader.open_stream(pa.BufferReader(chunk))
    while True:
        try:
            yield reader.read_next_message()
        except (StopIteration, EOFError):
            return


def _refuse(message: pa.Message) -> None:
    if message.type == "schema":
        return
    view = memoryview(message.metadata)
    table = _header(view)
    if message.type == "dictionary":
        table = _table(view, table, _DICTIONARY_DATA)
    if table == 0 or _offset(view, table, _BATCH_COMPRESSION):
        raise ValueError("a compressed or malformed message")


def _header(view: memoryview) -> int:
    return _table(view, int.from_bytes(view[:4], "little"), _MESSAGE_HEADER)


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


def validate(batch: pa.RecordBatch) -> None:
    """Validate a batch in full.

    Raises:
        pyarrow.ArrowInvalid: it is not valid.
    """
    batch.validate()
    for column in batch.columns:
        if not (pa.types.is_string(column.type) and _is_plain_text(column)):
            column.validate(full=True)


def _is_plain_text(column: pa.Array) -> bool:
    """Say whether strings are valid because their offsets are and every byte between the first and the last is ASCII.

    Raises:
        pyarrow.ArrowInvalid: the offsets are not.
    """
    validity, offsets, values = column.buffers()
    if offsets is None or values is None or len(column) == 0:
        return False
    # As binary, full validation looks at the offsets alone.
    pa.Array.from_buffers(pa.binary(), len(column), [validity, offsets, values], offset=column.offset).validate(
        full=True
    )
    view = memoryview(offsets).cast("B")
    first, last = (
        int.from_bytes(view[place * _OFFSET_BYTES : (place + 1) * _OFFSET_BYTES], "little", signed=True)
        for place in (column.offset, column.offset + len(column))
    )
    return bytes(memoryview(values)[first:last]).isascii()

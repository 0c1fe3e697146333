"""FlightData by hand: Arrow's messages leave as they lie, and come in as ``tidegate.ipc`` reads them.

A message object would copy every batch twice; answers are made of little else. On the wire nobody can tell who wrote it.
Source: Apache Arrow, Flight.proto (``FlightData``: data_header 2, app_metadata 3, data_body 1000) and the columnar format's
encapsulated messages: a mark, the metadata's length, the metadata, the body.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from tidegate import arrow_check, ipc
from tidegate.chunk_wire import varint
from tidegate.core.errors import Code, error_for
from tidegate.v1 import flight_pb2

_HEADER_FIELD = b"\x12"  # data_header: field 2, length-delimited (Protocol Buffers, Encoding)
_BODY_FIELD = b"\xc2\x3e"  # data_body: field 1000
_MARK = b"\xff\xff\xff\xff"
_PREFIX_BYTES = 8
_ALIGNMENT = 8


def flight_data(header: bytes | memoryview, body: bytes | memoryview | pa.Buffer = b"") -> bytes:
    """Write ``FlightData(data_header=header, data_body=body)``: one copy."""
    view = memoryview(body)
    parts: list[bytes | memoryview] = [_HEADER_FIELD, varint(len(header)), header]
    if view.nbytes:
        parts += [_BODY_FIELD, varint(view.nbytes), view]
    return b"".join(parts)


def framed(chunk: bytes | memoryview, *, plain: bool) -> Iterator[bytes]:
    """Write the messages of one chunk of an answer (``tidegate.ipc``).

    Args:
        plain: the chunk is one message: its stream has no dictionaries.
    """
    if plain:
        view = memoryview(chunk)
        end = _PREFIX_BYTES + int.from_bytes(view[4:8], "little")
        yield flight_data(view[_PREFIX_BYTES:end], view[end:])
        return
    for message in arrow_check.messages(bytes(chunk)):
        yield flight_data(message.metadata, message.body if message.body is not None else b"")


def framed_batches(schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> Iterator[bytes]:
    """Write a table of our own making, schema first."""
    plain = not arrow_check.has_dictionary(schema)
    for chunk in ipc.cut_views(schema, batches):
        yield from framed(chunk, plain=plain)


def unframed(data: flight_pb2.FlightData) -> bytes:
    """Give the chunk that a peer's FlightData stands for, to be read by ``tidegate.ipc``.

    Trust: anybody may have written it; nothing of it is looked at here.
    """
    header = data.data_header
    if not header:
        raise error_for(Code.WIRE_INVALID, "Flight: data without an Arrow message")
    padding = -(len(header) + _PREFIX_BYTES) % _ALIGNMENT
    size = (len(header) + padding).to_bytes(4, "little")
    return b"".join((_MARK, size, header, bytes(padding), data.data_body))

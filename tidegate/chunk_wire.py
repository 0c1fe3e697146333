"""The two messages that carry Arrow chunks, written and read without a message object in between.

``DeliverRequest`` (node to broker) and ``ExecuteResponse`` (broker to caller) are as the proto files say; on the wire
nobody can tell who wrote them. A message object would copy each chunk twice on either side, and answers are made of little
else. What is not exactly one chunk is left to the generated code.
"""

from __future__ import annotations

_MESSAGE_FIELD = b"\x12"  # DeliverRequest.message: field 2, length-delimited (Protocol Buffers, Encoding)
_BATCH_FIELD = b"\x12"  # ExecuteResponse.batch: field 2
_IPC_FIELD = b"\x0a"  # Batch.ipc: field 1
_VARINT_BYTES_MAX = 5  # a length above 4 GiB is none


def deliver_request(chunk: bytes) -> bytes:
    """Write ``DeliverRequest(message=chunk)``."""
    return b"".join((_MESSAGE_FIELD, varint(len(chunk)), chunk))


def delivered(raw: bytes) -> bytes | None:
    """Read the chunk of a ``DeliverRequest`` that is nothing but one; None for any other."""
    start = _field(raw, 0, _MESSAGE_FIELD)
    return raw[start:] if start else None


def execute_response(chunk: bytes) -> bytes:
    """Write ``ExecuteResponse(batch=Batch(ipc=chunk))``."""
    size = varint(len(chunk))
    return b"".join((_BATCH_FIELD, varint(len(_IPC_FIELD) + len(size) + len(chunk)), _IPC_FIELD, size, chunk))


def answered(raw: bytes) -> bytes | None:
    """Read the chunk of an ``ExecuteResponse`` that is nothing but one; None for any other."""
    outer = _field(raw, 0, _BATCH_FIELD)
    start = _field(raw, outer, _IPC_FIELD) if outer else 0
    return raw[start:] if start else None


def varint(value: int) -> bytes:
    """Write a number as Protocol Buffers do before what is length-delimited."""
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def _field(raw: bytes, place: int, tag: bytes) -> int:
    """Give where a length-delimited field's content begins, when it is that field and reaches to the end; 0 otherwise."""
    if raw[place : place + 1] != tag:
        return 0
    size, place = 0, place + 1
    for turn, byte in enumerate(raw[place : place + _VARINT_BYTES_MAX]):
        size |= (byte & 0x7F) << (7 * turn)
        if byte < 0x80:
            start = place + turn + 1
            return start if start + size == len(raw) else 0
    return 0

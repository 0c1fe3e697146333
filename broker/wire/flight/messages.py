"""Flight SQL's messages in their envelope: a ``google.protobuf.Any`` whose type names Arrow's package, not ours.

Our own copies of the messages have a package of their own, so that a process may hold another library's copies too; the
name in ``type_url`` is the one place where Arrow's package has to be named.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.any_pb2 import Any as Envelope
from google.protobuf.message import DecodeError, Message

from tidegate.core.errors import Code, error_for
from tidegate.v1 import flight_sql_pb2

SERVICE = "arrow.flight.protocol.FlightService"
COMMAND_BYTES_MAX = 1 << 20
_PREFIX = "type.googleapis.com/arrow.flight.protocol.sql."
_KNOWN: dict[str, type[Message]] = {
    name: getattr(flight_sql_pb2, name) for name in flight_sql_pb2.DESCRIPTOR.message_types_by_name
}


def pack(message: Message) -> bytes:
    """Give a Flight SQL message in its envelope."""
    return Envelope(type_url=_PREFIX + type(message).__name__, value=message.SerializeToString()).SerializeToString()


def unpack(data: bytes) -> Any:
    """Open an envelope. Trust: anybody may have written it.

    Raises:
        CallerError: WIRE_INVALID, no Flight SQL message; WIRE_UNSUPPORTED, one that this broker does not know.
    """
    if len(data) > COMMAND_BYTES_MAX:
        raise error_for(Code.WIRE_INVALID, f"Flight SQL: a command longer than {COMMAND_BYTES_MAX} bytes")
    envelope = Envelope()
    try:
        envelope.ParseFromString(data)
    except DecodeError as error:
        raise error_for(Code.WIRE_INVALID, "Flight SQL: not a command in its envelope") from error
    if not envelope.type_url.startswith(_PREFIX):
        raise error_for(Code.WIRE_INVALID, "Flight SQL: not a command in its envelope")
    known = _KNOWN.get(envelope.type_url.removeprefix(_PREFIX))
    if known is None:
        raise error_for(Code.WIRE_UNSUPPORTED, "Flight SQL: a command that this broker does not know")
    message = known()
    try:
        message.ParseFromString(envelope.value)
    except DecodeError as error:
        raise error_for(Code.WIRE_INVALID, "Flight SQL: not a command in its envelope") from error
    return message

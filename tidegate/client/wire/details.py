"""The exchange's error as other clients hand it on: one packed detail of a gRPC status."""

from __future__ import annotations

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError

from tidegate.core.errors import TidegateError
from tidegate.core.limits import METADATA_BYTES_MAX
from tidegate.v1 import common_pb2
from tidegate.wire import from_detail


def from_status_details(data: object) -> TidegateError | None:
    """Read a packed ``ErrorDetail``; None when it is something else.

    Trust: the exchange wrote it, and a driver of others carried it.
    """
    if not isinstance(data, bytes) or len(data) > METADATA_BYTES_MAX:
        return None
    packed, detail = AnyMessage(), common_pb2.ErrorDetail()
    try:
        packed.ParseFromString(data)
        return from_detail(detail) if packed.Unpack(detail) else None
    except DecodeError:
        return None

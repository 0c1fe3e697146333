"""How the one family of errors travels over gRPC: both directions, for every wire module.

A failure is a gRPC status with ``google.rpc.Status`` details holding one ``tidegate.v1.ErrorDetail``. Foreign exceptions
never escape: ``guarded`` turns them into an internal error with an id that the structured log can find.
"""

from __future__ import annotations

import re
from typing import Any, NoReturn

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import status_pb2
from grpc_status import rpc_status

from tidegate.core.errors import CODES, Code, Reason, TidegateError, error_for
from tidegate.v1 import common_pb2

# An error travels in the trailing metadata, for which both sides allow METADATA_BYTES_MAX (8 KiB) in all: base64 makes
# 5.5 KiB of these details, percent-encoding at most 1 KiB of the status's own text. What is larger would not arrive at all.
DETAIL_BYTES_MAX = 4_096
STATUS_TEXT_BYTES_MAX = 1_000
_TEXT_BYTES_MAX = 1_000
_WORD_BYTES_MAX = 300
_RECEIPT_BYTES_MAX = 1_000  # ours has about 400; a peer's larger one is none

_ADDRESS = re.compile(r"ipv[46]:(?:%5B)?([0-9A-Fa-f.:]+:\d{1,5})\b")  # as grpc writes a peer into its own texts
_BY_VALUE = {code.value: code for code in Code}


def to_detail(error: TidegateError) -> common_pb2.ErrorDetail:
    """Give the wire form of an error: the public part alone, never larger than ``DETAIL_BYTES_MAX``."""
    detail = common_pb2.ErrorDetail(
        code=error.code.value,
        message=_cut(error.message, _TEXT_BYTES_MAX),
        reasons=[
            common_pb2.Reason(**{name: _cut(text, _WORD_BYTES_MAX) for name, text in reason.to_json().items()})
            for reason in error.reasons
        ],
        request_id=_cut(error.request_id, _WORD_BYTES_MAX),
        retry_after_s=error.retry_after_s,
        next_step=_cut(error.info.next_step, _TEXT_BYTES_MAX),
        receipt=error.receipt if len(error.receipt) <= _RECEIPT_BYTES_MAX else b"",
    )
    left_out = 0
    while detail.ByteSize() > DETAIL_BYTES_MAX and detail.reasons:
        left_out += 1
        del detail.reasons[-2 if left_out > 1 else -1 :]
        detail.reasons.append(common_pb2.Reason(code="more", text=f"and {left_out} more"))
    return detail


def _cut(text: str, bytes_max: int) -> str:
    """Shorten a text; what UTF-8 has no form for (half a surrogate pair out of somebody's JSON) is replaced."""
    return text.encode("utf-8", "replace")[:bytes_max].decode("utf-8", "ignore")


def _status_text(text: str) -> str:
    """Shorten the status's own text by its size in percent-encoding: three bytes for each that is not plain ASCII."""
    size = 0
    for place, byte in enumerate(data := text.encode("utf-8", "replace")):
        size += 1 if 0x20 <= byte < 0x7F and byte != 0x25 else 3
        if size > STATUS_TEXT_BYTES_MAX:
            return data[:place].decode("utf-8", "ignore")
    return data.decode()


def from_detail(detail: common_pb2.ErrorDetail) -> TidegateError:
    """Read the wire form; an unknown code becomes an internal error.

    Trust: a peer wrote it; its texts are shown to people, so control characters are taken out and lengths bounded.
    """
    code = _BY_VALUE.get(detail.code, Code.INTERNAL)
    reasons = tuple(
        Reason(*(plain_text(text, 500) for text in (item.code, item.text, item.ask_for, item.decided_by)))
        for item in detail.reasons[:50]
    )
    error = error_for(
        code,
        plain_text(detail.message, 1000),
        reasons=reasons,
        request_id=plain_text(detail.request_id, 64),
        retry_after_s=detail.retry_after_s,
    )
    error.receipt = detail.receipt
    return error


def plain_text(text: str, size_max: int) -> str:
    """Bound a peer's text and take out what could move a terminal."""
    return "".join(char for char in text[:size_max] if char.isprintable())


def abort(context: grpc.ServicerContext, error: TidegateError) -> NoReturn:
    """End the call with the error's status and details."""
    status = getattr(grpc.StatusCode, CODES[error.code].grpc_status)
    packed = AnyMessage()
    packed.Pack(to_detail(error))
    rich = status_pb2.Status(code=status.value[0], message=_status_text(str(error)), details=[packed])
    context.abort_with_status(rpc_status.to_status(rich))
    raise AssertionError("unreachable")  # pragma: no cover - abort always raises


def from_rpc_error(error: Any) -> TidegateError:
    """Read what a failed call says; a status without our details becomes an error of the nearest kind.

    Args:
        error: a ``grpc.RpcError`` that a call raised, which is also the call (grpcio's types do not say so).
    """
    try:
        rich = rpc_status.from_call(error)
    except ValueError:
        rich = None
    if rich is not None:
        for packed in rich.details:
            detail = common_pb2.ErrorDetail()
            if packed.Unpack(detail):
                return from_detail(detail)
    status = error.code()
    nearest = {
        grpc.StatusCode.UNAVAILABLE: Code.CLIENT_UNREACHABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED: Code.QUERY_DEADLINE,
        grpc.StatusCode.CANCELLED: Code.QUERY_CANCELLED,
        grpc.StatusCode.RESOURCE_EXHAUSTED: Code.BUSY,
        grpc.StatusCode.UNAUTHENTICATED: Code.ID_CERTIFICATE_INVALID,
        grpc.StatusCode.UNIMPLEMENTED: Code.WIRE_VERSION,
        grpc.StatusCode.INVALID_ARGUMENT: Code.WIRE_INVALID,
    }.get(status, Code.INTERNAL)
    message = ""
    if nearest is Code.CLIENT_UNREACHABLE:
        place = _ADDRESS.search(error.details() or "")
        message = f"the exchange cannot be reached at {place.group(1)}" if place else ""
    return error_for(nearest, message, detail=f"gRPC status {status}")

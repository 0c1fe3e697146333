"""Reading what the other side sent, and checking what is about to be sent: no foreign exception gets out."""

from __future__ import annotations

from typing import Any

from tidegate.core.canonical import Json, parse_json
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.limits import MESSAGE_BYTES_MAX


def json_value(data: str | bytes, what: str) -> Json:
    """Read JSON of the broker.

    Trust: the broker wrote it.

    Raises:
        CallerError: WIRE_INVALID.
    """
    try:
        return parse_json(data, size_bytes_max=MESSAGE_BYTES_MAX)
    except TidegateError as error:
        raise malformed(what) from error


def json_object(data: str | bytes, what: str) -> dict[str, Any]:
    """Read a JSON object of the broker; nothing at all is an empty one."""
    value = json_value(data or "{}", what)
    if not isinstance(value, dict):
        raise malformed(what)
    return value


def json_list(data: str | bytes, what: str) -> list[Any]:
    """Read a JSON list of the broker; nothing at all is an empty one."""
    value = json_value(data or "[]", what)
    if not isinstance(value, list):
        raise malformed(what)
    return value


def malformed(what: str) -> TidegateError:
    """Make the error for an answer that is not of the agreed form."""
    return error_for(Code.WIRE_INVALID, f"{what}: the exchange sent something that is not of the agreed form")


def text(value: str, what: str) -> str:
    """Hold a text to what the wire can carry.

    Raises:
        CallerError: CLIENT_INPUT; half a character, as from a terminal that speaks another encoding.
    """
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise error_for(Code.CLIENT_INPUT, f"{what}: not valid Unicode text; is the terminal set to UTF-8?") from error
    return value

"""Values of parameters on the wire: JSON without floats, typed, exact.

``{"t": "i", "v": "42"}``: t is one of n (null), b (boolean), i (integer), f (double, ``float.hex``), d (decimal), s (text),
x (bytes, hex), D (date), T (time), Z (timestamp with zone, UTC), N (timestamp without zone), l (list of values).
A long list of one type goes as a column: li (integers, their digits with spaces between), ls (texts, as they are).
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn, TypeAlias

from tidegate.core.errors import Code, error_for

Value: TypeAlias = "None | bool | int | float | Decimal | str | bytes | date | datetime | time | list[Value]"
VALUE_DEPTH_MAX = 4
COLUMN_MIN = 16  # values from which a list of one type goes as a column; shorter ones are as they always were
INTEGER_CHARS_MAX = 40  # DuckDB's widest integer has 39 digits
DECIMAL_CHARS_MAX = 80  # twice the digits of DuckDB's widest DECIMAL(38)


def encode(value: Value) -> dict[str, Any]:
    """Give the wire form.

    Raises:
        CallerError: PLAN_PARAMETERS for a Python type that has none.
    """
    match value:
        case None:
            return {"t": "n", "v": ""}
        case bool():
            return {"t": "b", "v": "1" if value else "0"}
        case int():
            return {"t": "i", "v": str(value)}
        case float():
            return {"t": "f", "v": value.hex()}
        case Decimal():
            return {"t": "d", "v": str(value)}
        case str():
            return {"t": "s", "v": value}
        case bytes():
            return {"t": "x", "v": value.hex()}
        case datetime():
            return {
                "t": "N" if value.tzinfo is None else "Z",
                "v": (value if value.tzinfo is None else value.astimezone(UTC)).isoformat(),
            }
        case date():
            return {"t": "D", "v": value.isoformat()}
        case time():
            return {"t": "T", "v": value.isoformat()}
        case list() | tuple():
            return _column(value) or {"t": "l", "v": [encode(item) for item in value]}
    raise error_for(Code.PLAN_PARAMETERS, "parameter: a value of this type cannot be sent")


def _column(values: list[Value] | tuple[Value, ...]) -> dict[str, Any] | None:
    """Give the wire form of a long list of one type; a batch of keys is read and written many times on its way."""
    kinds = set(map(type, values)) if len(values) >= COLUMN_MIN else set()
    if kinds == {int}:
        return {"t": "li", "v": " ".join(map(str, values))}
    return {"t": "ls", "v": list(values)} if kinds == {str} else None


def decode(data: Any, *, depth: int = 0) -> Value:
    """Read the wire form.

    Trust: anybody may have written it.

    Raises:
        CallerError: PLAN_PARAMETERS.
    """
    try:
        if not isinstance(data, dict) or set(data) != {"t", "v"} or depth > VALUE_DEPTH_MAX:
            raise ValueError("form")
        kind, text = data["t"], data["v"]
        if kind == "l":
            return [decode(item, depth=depth + 1) for item in text]
        if kind == "ls":
            return list(text) if isinstance(text, list) and set(map(type, text)) == {str} else _bad()
        if not isinstance(text, str):
            raise TypeError("form")
        return _decode_scalar(kind, text)
    except (ValueError, TypeError, InvalidOperation, OverflowError) as error:
        raise error_for(Code.PLAN_PARAMETERS, "parameter: not of the expected form") from error


def _decode_scalar(kind: str, text: str) -> Value:
    match kind:
        case "n":
            return None
        case "b":
            return text == "1" if text in ("0", "1") else _bad()
        case "i":
            return int(text) if len(text) <= INTEGER_CHARS_MAX else _bad()
        case "li":
            return _integers(text.split(" "))
        case "f":
            return float.fromhex(text)
        case "d":
            return _decimal(text)
        case "s":
            return text
        case "x":
            return bytes.fromhex(text)
        case "D":
            return date.fromisoformat(text)
        case "T":
            return time.fromisoformat(text)
        case "N" | "Z":
            moment = datetime.fromisoformat(text)
            return moment if (moment.tzinfo is None) == (kind == "N") else _bad()
    return _bad()


def _integers(texts: list[str]) -> Value:
    return list(map(int, texts)) if max(map(len, texts)) <= INTEGER_CHARS_MAX else _bad()


def _decimal(text: str) -> Decimal:
    """Read a decimal whose digits can be written out: an exponent of a billion is an attack, not a number."""
    value = Decimal(text) if len(text) <= DECIMAL_CHARS_MAX else _bad()
    exponent = value.as_tuple().exponent
    if not isinstance(exponent, int) or abs(exponent) > DECIMAL_CHARS_MAX:
        _bad()
    return value


def _bad() -> NoReturn:
    raise ValueError("form")

"""One value as text: for a terminal, for CSV, for JSON. Nothing in an answer can move the cursor or colour the terminal.

Answers hold strangers' texts. On a terminal every control, format or unassigned character is shown as a harmless picture; in
JSON it is escaped, which keeps it exact everywhere; in CSV that goes to a file or a pipe it stays as it is.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

_JOINERS = "\u200c\u200d"  # Persian, Indic scripts and emoji need them; they move nothing
_CONTROL_PICTURES = 0x2400
# What ``isprintable`` refuses and a JSON text may hold raw: C1 controls, line separators, direction marks, surrogates ...
_JSON_ESCAPED = re.compile(
    "[\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)


def plain(text: str) -> str:
    """Give a text that a terminal only prints: controls as pictures, everything else that is not printable as U+FFFD."""
    if text.isprintable():
        return text
    return "".join(char if _prints(char) else _picture(char) for char in text)


def _prints(char: str) -> bool:
    return char.isprintable() or char in _JOINERS or unicodedata.category(char) == "Zs"


def _picture(char: str) -> str:
    return chr(_CONTROL_PICTURES + ord(char)) if ord(char) < 0x20 else "\ufffd"


def words(value: Any) -> str:
    """Give a field of a record for people: lists as words, nothing as nothing."""
    if isinstance(value, list | tuple):
        return ", ".join(words(item) for item in value)
    return "" if value is None else shown(value)


def shown(value: Any) -> str:
    """Give a value of an answer as text for a table or CSV; NULL is the empty text."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case str():
            return value
        case Decimal():
            return _decimal(value)
        case bytes():
            return value.hex()
        case datetime():
            return value.isoformat(sep=" ")
        case date() | time():
            return value.isoformat()
        case Mapping() | Sequence():
            return json_text(value)
    return str(value)


def csv_field(value: Any) -> str:
    """Give a CSV field: NULL is nothing, the empty text is two quotes."""
    text = shown(value)
    if value is None:
        return ""
    if not text or any(char in text for char in ',"\r\n') or text != text.strip():
        return '"' + text.replace('"', '""') + '"'
    return text


def json_text(value: Any) -> str:
    """Give a value as JSON: numbers stay numbers with every digit, times are ISO 8601, bytes are hexadecimal.

    What JSON has no number for (NaN, infinities) is a text.
    """
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return _string(value)
        case int():
            return int.__repr__(value)
        case float():
            return float.__repr__(value) if math.isfinite(value) else _string(_special(value))
        case Decimal():
            return _decimal(value) if value.is_finite() else _string(str(value))
        case bytes():
            return _string(value.hex())
        case datetime() | date() | time():
            return _string(value.isoformat())
        case Mapping():
            return "{" + ", ".join(f"{_string(str(key))}: {json_text(item)}" for key, item in value.items()) + "}"
        case Sequence():
            return "[" + ", ".join(json_text(item) for item in value) + "]"
    return _string(str(value))


def _string(text: str) -> str:
    return _JSON_ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(text, ensure_ascii=False))


def _special(value: float) -> str:
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


def _decimal(value: Decimal) -> str:
    return format(value, "f")


def unique(names: Sequence[str]) -> list[str]:
    """Give the names of the columns as keys: the second ``a`` is ``a_2``, so that no value is lost."""
    taken: set[str] = set()
    keys = []
    for name in names:
        key, number = name, 2
        while key in taken or (key != name and key in names):
            key, number = f"{name}_{number}", number + 1
        taken.add(key)
        keys.append(key)
    return keys

"""Constants in PostgreSQL's dialect: printed so that no character of anybody's text becomes SQL.

A text is printed as the hexadecimal digits of its bytes, which the server folds into a constant while it plans. Numbers, dates
and times are printed by our own formats.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date, datetime
from decimal import Decimal

from tidegate.core.values import Value
from tidegate.sql.postgres_types import COMPUTED, Kind

KEYS_MAX = 100_000  # in one statement; more are applied by the node's worker
_SEPARATOR = "\x1f"
_BIGINT_MAX = 2**63 - 1
_DIGITS_MAX = 38
_DECIMAL = re.compile(r"DECIMAL\([0-9]{1,2},[0-9]{1,2}\)")
_NATIVE = {
    "BOOLEAN": "boolean",
    "SMALLINT": "int2",
    "INTEGER": "int4",
    "BIGINT": "int8",
    "FLOAT": "float4",
    "DOUBLE": "float8",
    "VARCHAR": "text",
    "DATE": "date",
    "TIMESTAMP": "timestamp",
    "TIMESTAMPTZ": "timestamptz",
}


class Unsaid(Exception):
    """Something has no form in PostgreSQL that is proven to mean the same; the text says what, for EXPLAIN.

    A signal between the modules of a translation, never an error of anybody's.
    """


def text(value: str) -> str:
    """Print a text."""
    if "\x00" in value:
        raise Unsaid("a text with NUL")
    try:
        digits = value.encode().hex()
    except UnicodeEncodeError:
        raise Unsaid("a text that is not Unicode") from None
    return f"convert_from(decode('{digits}', 'hex'), 'UTF8')"


def constant(value: Value) -> tuple[str, Kind]:
    """Print a value and say what it is."""
    match value:
        case None:
            return "NULL", Kind("null")
        case bool():
            return ("TRUE" if value else "FALSE"), Kind("boolean")
        case int() | Decimal():
            return number(Decimal(value))
        case str():
            return text(value), Kind("text", COMPUTED)
        case datetime() if value.tzinfo is None:
            return f"TIMESTAMP '{value.isoformat(' ')}'", Kind("timestamp")
        case date() if not isinstance(value, datetime):
            return f"DATE '{value.isoformat()}'", Kind("date")
    raise Unsaid(f"a constant of type {type(value).__name__}")


def number(value: Decimal) -> tuple[str, Kind]:
    """Print an exact number."""
    if not value.is_finite():
        raise Unsaid("a number that is not finite")
    printed = format(value, "f")
    if len(printed.strip("-").replace(".", "")) > _DIGITS_MAX:
        raise Unsaid("a number of more than 38 digits")
    if "." not in printed:
        if abs(int(printed)) > _BIGINT_MAX:
            raise Unsaid("a number that is wider than BIGINT")
        return (f"({printed})" if printed.startswith("-") else printed), Kind("integer")
    return (f"({printed})" if printed.startswith("-") else printed), Kind("decimal")


def null(type_text: str) -> str:
    """Print NULL of a catalogue type; one of no type would become a text."""
    name = _NATIVE.get(type_text)
    if name is None and not _DECIMAL.fullmatch(type_text):
        raise Unsaid(f"a NULL of type {type_text}")
    return f"CAST(NULL AS {name or type_text.replace('DECIMAL', 'numeric')})"


def moment(value: str) -> tuple[str, Kind]:
    """Print a text that is a date in the one form that both engines read alike."""
    try:
        found = date.fromisoformat(value)
    except ValueError:
        raise Unsaid("a text as a date") from None
    if found.isoformat() != value:
        raise Unsaid("a text as a date")
    return f"DATE '{value}'", Kind("date")


def array(values: Iterable[Value], sort: str) -> str:
    """Print distinct keys as one constant array."""
    items = [item for item in values if item is not None]
    if len(items) > KEYS_MAX:
        raise Unsaid("more keys than one statement holds")
    if sort == "integer":
        if not all(isinstance(item, int) and abs(item) <= _BIGINT_MAX for item in items):
            raise Unsaid("keys that are wider than BIGINT")
        return f"'{{{','.join(str(item) for item in items)}}}'::int8[]"
    if sort == "date":
        if not all(isinstance(item, date) and not isinstance(item, datetime) for item in items):
            raise Unsaid("keys that are no dates")
        return f"'{{{','.join(str(item) for item in items)}}}'::date[]"
    texts = [item for item in items if isinstance(item, str)]
    if sort != "text" or len(texts) != len(items) or any(_SEPARATOR in item for item in texts):
        raise Unsaid("keys that have no form there")
    if not texts:
        return "'{}'::text[]"
    return f"string_to_array({text(_SEPARATOR.join(texts))}, {text(_SEPARATOR)})"

"""What a column of the catalogue is in Arrow: the type that a query's stream has for it, with precision and scale.

A pure table beside DuckDB's own export, so that a listing of many thousand columns needs no engine; a test holds the two to
each other, type by type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import pyarrow as pa
from sqlglot import exp

from tidegate.core.cache import BoundedCache
from tidegate.core.errors import TidegateError
from tidegate.sql.dialect import Exchange
from tidegate.sql.types import parse_type, type_text

TYPES_KEPT_MAX = 4_096
_WIDE_DIGITS = 38  # HUGEINT has 39, but leaves the engine as Arrow's widest common decimal


@dataclass(frozen=True, slots=True)
class ColumnType:
    """One type.

    Args:
        precision: digits of a number, characters of a date or time as text; None where neither means anything.
        scale: digits after the point, of the value or of its seconds.
    """

    name: str
    arrow: pa.DataType
    precision: int | None = None
    scale: int | None = None


def _rows() -> tuple[ColumnType, ...]:
    moments = (("TIMESTAMP_S", "s", 19, 0), ("TIMESTAMP_MS", "ms", 23, 3), ("TIMESTAMP_NS", "ns", 29, 9))
    return (
        ColumnType("BOOLEAN", pa.bool_(), 1),
        ColumnType("TINYINT", pa.int8(), 3, 0),
        ColumnType("SMALLINT", pa.int16(), 5, 0),
        ColumnType("INTEGER", pa.int32(), 10, 0),
        ColumnType("BIGINT", pa.int64(), 19, 0),
        ColumnType("HUGEINT", pa.decimal128(_WIDE_DIGITS, 0), _WIDE_DIGITS, 0),
        ColumnType("UTINYINT", pa.uint8(), 3, 0),
        ColumnType("USMALLINT", pa.uint16(), 5, 0),
        ColumnType("UINTEGER", pa.uint32(), 10, 0),
        ColumnType("UBIGINT", pa.uint64(), 20, 0),
        ColumnType("UHUGEINT", pa.decimal128(_WIDE_DIGITS, 0), _WIDE_DIGITS, 0),
        ColumnType("FLOAT", pa.float32(), 7),
        ColumnType("DOUBLE", pa.float64(), 15),
        ColumnType("VARCHAR", pa.string()),
        ColumnType("BLOB", pa.binary()),
        ColumnType("DATE", pa.date32(), 10, 0),
        ColumnType("TIME", pa.time64("us"), 15, 6),
        ColumnType("TIMESTAMP", pa.timestamp("us"), 26, 6),
        ColumnType("TIMESTAMPTZ", pa.timestamp("us", tz="UTC"), 32, 6),
        *(ColumnType(name, pa.timestamp(unit), size, scale) for name, unit, size, scale in moments),
        ColumnType("INTERVAL", pa.month_day_nano_interval()),
        ColumnType("UUID", pa.string(), 36),
        ColumnType("JSON", pa.string()),
    )


SIMPLE: Mapping[str, ColumnType] = MappingProxyType({row.name: row for row in _rows()})
"""Every type that stands for itself; the others are made of these."""


class ColumnTypes:
    """Reads type texts of the catalogue; the same text is read once. Thread-safe."""

    def __init__(self) -> None:
        self._known: BoundedCache[ColumnType] = BoundedCache(entries_max=TYPES_KEPT_MAX, bytes_max=4 << 20)

    def of(self, text: str) -> ColumnType:
        """Give a type. One that this version does not admit (an entry of another version's) is Arrow's null, by its name."""
        found = SIMPLE.get(text) or self._known.get(text)
        if found is None:
            try:
                name = parse_type(text)
                found = column_type(exp.DataType.build(name, dialect=Exchange))
            except TidegateError:
                found = ColumnType(text, pa.null())
            self._known.put(text, found, size_bytes=len(text) * 4)
        return found


def column_type(data_type: exp.Expr) -> ColumnType:
    """Give what a parsed type is; DuckDB's names for the parts of a nested type are kept.

    Raises:
        CallerError: PLAN_NOT_ALLOWED for a type that is not on the exchange's list.
    """
    name = type_text(data_type)
    if name in SIMPLE:
        return SIMPLE[name]
    kind, inner = data_type.this.value, data_type.expressions
    if kind == "DECIMAL":
        precision, scale = (int(part) for part in name[len("DECIMAL(") : -1].split(","))
        return ColumnType(name, pa.decimal128(precision, scale), precision, scale)
    if kind in ("LIST", "ARRAY"):
        item, size = column_type(inner[0]).arrow, name[name.rindex("[") + 1 : -1]
        return ColumnType(name, pa.list_(pa.field("", item), int(size)) if size else pa.list_(pa.field("l", item)))
    if kind == "MAP":
        return ColumnType(name, pa.map_(column_type(inner[0]).arrow, column_type(inner[1]).arrow))
    fields = [pa.field(item.name, column_type(item.args["kind"]).arrow) for item in inner]
    return ColumnType(name, pa.struct(fields))

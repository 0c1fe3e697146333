"""What each type of a query is outside: in Arrow, through either door, and in Python and Java from there.

``scripts/docs`` prints it into docs/SQL.md; tests/federation/test_types_both_doors.py holds it to what arrives.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WireType:
    """One line of the table.

    Args:
        duckdb: as it is spelt in SQL and in the catalogue.
        arrow: as pyarrow spells it.
        python: what ``to_pylist()`` and DB-API give.
        java: what ``ResultSet.getObject`` of the Flight SQL JDBC driver gives.
    """

    duckdb: str
    arrow: str
    python: str
    java: str
    remark: str = ""


_WIDE = "at most 38 digits; a longer number is refused, never another"
_UNSIGNED = "in Java cast it to a wider type: the driver shows its upper half as negative"
_FLOATING = "NaN, infinities and -0.0 arrive as they are"

ON_THE_WIRE: tuple[WireType, ...] = (
    WireType("BOOLEAN", "bool", "bool", "Boolean"),
    WireType("TINYINT", "int8", "int", "Byte"),
    WireType("SMALLINT", "int16", "int", "Short"),
    WireType("INTEGER", "int32", "int", "Integer"),
    WireType("BIGINT", "int64", "int", "Long"),
    WireType("HUGEINT", "decimal128(38, 0)", "Decimal", "BigDecimal", _WIDE),
    WireType("UTINYINT", "uint8", "int", "Byte", _UNSIGNED),
    WireType("USMALLINT", "uint16", "int", "Short", _UNSIGNED),
    WireType("UINTEGER", "uint32", "int", "Integer", _UNSIGNED),
    WireType("UBIGINT", "uint64", "int", "Long", _UNSIGNED),
    WireType("UHUGEINT", "decimal128(38, 0)", "Decimal", "BigDecimal", _WIDE),
    WireType("FLOAT", "float", "float", "Double", _FLOATING),
    WireType("DOUBLE", "double", "float", "Double", _FLOATING),
    WireType("DECIMAL(p, s)", "decimal128(p, s)", "Decimal", "BigDecimal"),
    WireType("VARCHAR", "string", "str", "String"),
    WireType(
        "ENUM(...)", "string", "str", "String", "in a department's DuckDB file; the exchange serves it as VARCHAR"
    ),
    WireType("JSON", "string", "str", "String", "the text as it was stored"),
    WireType("UUID", "string", "str", "String"),
    WireType("BLOB", "binary", "bytes", "byte[]"),
    WireType("DATE", "date32[day]", "date", "Date"),
    WireType("TIME", "time64[us]", "time", "Time", "in Java to the millisecond"),
    WireType("TIMESTAMP", "timestamp[us]", "datetime", "Timestamp"),
    WireType("TIMESTAMP_S", "timestamp[s]", "datetime", "Timestamp"),
    WireType("TIMESTAMP_MS", "timestamp[ms]", "datetime", "Timestamp"),
    WireType("TIMESTAMP_NS", "timestamp[ns]", "pandas.Timestamp", "Timestamp"),
    WireType(
        "TIMESTAMPTZ",
        "timestamp[us, tz=UTC]",
        "datetime",
        "Timestamp",
        "in Java by `getTimestamp()`; `getObject()` fails",
    ),
    WireType("INTERVAL", "month_day_nano_interval", "MonthDayNano", "PeriodDuration"),
    WireType("T[]", "list<T>", "list", "Array"),
    WireType("T[n]", "fixed_size_list<T>[n]", "list", "Array"),
    WireType("STRUCT(...)", "struct<...>", "dict", "Map", "in Java without the fields that are NULL"),
    WireType("MAP(K, V)", "map<K, V>", "list of pairs", "Map"),
)

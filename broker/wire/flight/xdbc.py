"""The types that the planner admits, as JDBC and ODBC describe types.

Source: Apache Arrow, FlightSql.proto, ``CommandGetXdbcTypeInfo``, ``XdbcDataType``, ``XdbcDatetimeSubcode``; the numbers are
those of ODBC and java.sql.Types.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from broker.wire.flight.schemas import XDBC_TYPES

_UNKNOWN, _DECIMAL, _INTEGER, _SMALLINT, _REAL, _DOUBLE, _DATETIME, _INTERVAL, _VARCHAR = 0, 3, 4, 5, 7, 8, 9, 10, 12
_DATE, _TIME, _TIMESTAMP, _VARBINARY, _BIGINT, _TINYINT, _BIT = 91, 92, 93, -3, -5, -6, -7
_SUB_DATE, _SUB_TIME, _SUB_TIMESTAMP, _SUB_TIMESTAMP_TZ, _SUB_UNKNOWN = 1, 2, 3, 5, 0
_NULLABLE = 1
_SEARCHABLE_BASIC, _SEARCHABLE_FULL = 2, 3  # by every operator but LIKE; by LIKE too
_EXACT, _APPROXIMATE = 10, 2  # the radix in which a size is counted


@dataclass(frozen=True, slots=True)
class _Type:
    """One row; what most types have in common is left out."""

    type_name: str
    data_type: int
    column_size: int | None = None
    literal: tuple[str, str] | None = None
    create_params: tuple[str, ...] | None = None
    case_sensitive: bool = False
    searchable: int = _SEARCHABLE_BASIC
    unsigned_attribute: bool | None = None
    fixed_prec_scale: bool = False
    scales: tuple[int, int] | None = None
    sql_data_type: int | None = None
    datetime_subcode: int | None = None
    num_prec_radix: int | None = None

    def row(self) -> dict[str, object]:
        prefix, suffix = self.literal or (None, None)
        low, high = self.scales or (None, None)
        return {
            "type_name": self.type_name,
            "data_type": self.data_type,
            "column_size": self.column_size,
            "literal_prefix": prefix,
            "literal_suffix": suffix,
            "create_params": self.create_params,
            "nullable": _NULLABLE,
            "case_sensitive": self.case_sensitive,
            "searchable": self.searchable,
            "unsigned_attribute": self.unsigned_attribute,
            "fixed_prec_scale": self.fixed_prec_scale,
            "auto_increment": None if self.unsigned_attribute is None else False,
            "local_type_name": self.type_name,
            "minimum_scale": low,
            "maximum_scale": high,
            "sql_data_type": self.data_type if self.sql_data_type is None else self.sql_data_type,
            "datetime_subcode": self.datetime_subcode,
            "num_prec_radix": self.num_prec_radix,
            "interval_precision": None,
        }


def _integer(name: str, code: int, digits: int, *, unsigned: bool = False) -> _Type:
    return _Type(
        name,
        code,
        digits,
        unsigned_attribute=unsigned,
        fixed_prec_scale=True,
        scales=(0, 0),
        num_prec_radix=_EXACT,
    )


def _floating(name: str, code: int, bits: int) -> _Type:
    return _Type(name, code, bits, unsigned_attribute=False, num_prec_radix=_APPROXIMATE)


def _moment(name: str, code: int, size: int, subcode: int, digits: int) -> _Type:
    literal = (f"{name} '", "'") if name in ("DATE", "TIME", "TIMESTAMP") else ("CAST('", f"' AS {name})")
    return _Type(
        name,
        code,
        size,
        literal=literal,
        scales=(digits, digits),
        sql_data_type=_DATETIME,
        datetime_subcode=subcode,
    )


def _text(name: str, size: int | None, *, literal: tuple[str, str]) -> _Type:
    return _Type(name, _VARCHAR, size, literal=literal, case_sensitive=True, searchable=_SEARCHABLE_FULL)


_TYPES = (
    _Type("BOOLEAN", _BIT, 1),
    _integer("TINYINT", _TINYINT, 3),
    _integer("SMALLINT", _SMALLINT, 5),
    _integer("INTEGER", _INTEGER, 10),
    _integer("BIGINT", _BIGINT, 19),
    _integer("HUGEINT", _DECIMAL, 38),
    _integer("UTINYINT", _TINYINT, 3, unsigned=True),
    _integer("USMALLINT", _SMALLINT, 5, unsigned=True),
    _integer("UINTEGER", _INTEGER, 10, unsigned=True),
    _integer("UBIGINT", _BIGINT, 20, unsigned=True),
    _integer("UHUGEINT", _DECIMAL, 38, unsigned=True),
    _Type(
        "DECIMAL",
        _DECIMAL,
        38,
        create_params=("precision", "scale"),
        unsigned_attribute=False,
        scales=(0, 38),
        num_prec_radix=_EXACT,
    ),
    _floating("FLOAT", _REAL, 24),
    _floating("DOUBLE", _DOUBLE, 53),
    _text("VARCHAR", None, literal=("'", "'")),
    _text("JSON", None, literal=("CAST('", "' AS JSON)")),
    _text("UUID", 36, literal=("CAST('", "' AS UUID)")),
    _Type("BLOB", _VARBINARY, literal=("CAST('", "' AS BLOB)")),
    _moment("DATE", _DATE, 10, _SUB_DATE, 0),
    _moment("TIME", _TIME, 15, _SUB_TIME, 6),
    _moment("TIMESTAMP", _TIMESTAMP, 26, _SUB_TIMESTAMP, 6),
    _moment("TIMESTAMP_S", _TIMESTAMP, 19, _SUB_TIMESTAMP, 0),
    _moment("TIMESTAMP_MS", _TIMESTAMP, 23, _SUB_TIMESTAMP, 3),
    _moment("TIMESTAMP_NS", _TIMESTAMP, 29, _SUB_TIMESTAMP, 9),
    _moment("TIMESTAMPTZ", _TIMESTAMP, 32, _SUB_TIMESTAMP_TZ, 6),
    _Type("INTERVAL", _INTERVAL, literal=("INTERVAL '", "'"), datetime_subcode=_SUB_UNKNOWN),
    _Type("LIST", _UNKNOWN),
    _Type("ARRAY", _UNKNOWN),
    _Type("STRUCT", _UNKNOWN),
    _Type("MAP", _UNKNOWN),
)


def type_info(data_type: int | None) -> pa.RecordBatch:
    """Give the types by code and name.

    Args:
        data_type: only the types with this code; None gives all.
    """
    chosen = [item for item in _TYPES if data_type is None or item.data_type == data_type]
    chosen.sort(key=lambda item: (item.data_type, item.type_name))
    return pa.RecordBatch.from_pylist([item.row() for item in chosen], schema=XDBC_TYPES)

"""Arrow data of PostgreSQL's driver in the types that the exchange carries: exact, or an error; never rounded, never wrapped.

The driver hands numerics over as texts, and an infinite date or time as a number that went over its edge; the engine behind the
exchange has decimals, and infinite dates of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

_DECIMAL = re.compile(r"DECIMAL\((\d+),(\d+)\)")
_SMALL_DIGITS = 18
_EPOCH_DAYS = 10_957  # PostgreSQL counts from 2000-01-01, Arrow from 1970-01-01
_EPOCH_US = _EPOCH_DAYS * 86_400_000_000


def wrapped(value: int, bits: int) -> int:
    """Give what a sum becomes in a signed integer of so many bits."""
    return (value + (1 << (bits - 1))) % (1 << bits) - (1 << (bits - 1))


_DAYS = {wrapped(2**31 - 1 + _EPOCH_DAYS, 32): 2**31 - 1, -(2**31) + _EPOCH_DAYS: -(2**31) + 1}
_MICROSECONDS = {wrapped(2**63 - 1 + _EPOCH_US, 64): 2**63 - 1, -(2**63) + _EPOCH_US: -(2**63) + 1}
"""Infinity and minus infinity, as the driver gives them and as DuckDB holds them."""
_INFINITY = {32: 2**31 - 1, 64: 2**63 - 1}
_EARLIEST = {
    32: 2_451_546,
    64: 2_451_546 * 86_400_000_000,
}  # before 4714 BC, where PostgreSQL's times begin: one that wrapped


def schema_of(found: pa.Schema, columns: Sequence[tuple[str, str]]) -> pa.Schema:
    """Give the schema of a scan: the driver's, with the decimals that the catalogue has.

    Args:
        columns: (name, DuckDB type).
    """
    types = {name: _DECIMAL.fullmatch(kind) for name, kind in columns}
    fields = []
    for field in found:
        decimal = types.get(field.name)
        kind = pa.decimal128(int(decimal[1]), int(decimal[2])) if decimal else field.type
        fields.append(pa.field(field.name, kind))
    return pa.schema(fields)


def decimals_of(columns: Sequence[tuple[str, str]]) -> pa.Schema:
    """Give a schema in which the decimals among (name, DuckDB type) are what they are, and nothing else is said."""
    found = [(name, _DECIMAL.fullmatch(kind)) for name, kind in columns]
    return pa.schema([(name, pa.decimal128(int(one[1]), int(one[2])) if one else pa.null()) for name, one in found])


def scaled(text: str, schema: pa.Schema) -> str:
    """Give a query whose decimals of at most 18 digits come as whole numbers of their smallest unit.

    The driver makes a text of each numeric, which takes longer than all else that a scan does; eight bytes take nothing. Exact:
    such a column has no more digits after the point than its type says, and no number of 18 digits leaves a BIGINT.
    """
    names = schema.names
    if len(set(names)) != len(names) or not any(map(_small, schema.types)):
        return text
    items = []
    for field in schema:
        name = '"' + field.name.replace('"', '""') + '"'
        unit = f"CAST({name} * {10**field.type.scale} AS int8) AS {name}" if _small(field.type) else name
        items.append(unit)
    return f"SELECT {', '.join(items)} FROM ({text}) AS tg_q"  # noqa: S608 - quoted names around a text of our own


def _small(kind: pa.DataType) -> bool:
    return bool(pa.types.is_decimal128(kind) and kind.precision <= _SMALL_DIGITS)


def _units(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """Read whole numbers of the smallest unit as decimals: the same digits, and the point where the type has it."""
    whole = array.cast(pa.decimal128(19, 0))
    return pa.Array.from_buffers(kind, len(whole), whole.buffers(), whole.null_count, whole.offset)


def converted(batches: Iterable[pa.RecordBatch], schema: pa.Schema, *, units: bool) -> Iterator[pa.RecordBatch]:
    """Bring batches to a schema, column by column.

    Args:
        units: the query was ``scaled``.

    Raises:
        pa.ArrowException: a value that the type cannot hold (NaN as a numeric, more digits than the column has).
    """
    for batch in batches:
        arrays = [_as(array, field.type, units) for array, field in zip(batch.columns, schema, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def _as(array: pa.Array, kind: pa.DataType, units: bool) -> pa.Array:
    if array.type == kind and not pa.types.is_temporal(kind):
        return array
    if units and _small(kind) and array.type == pa.int64():
        return _units(array, kind)
    storage = array.storage if isinstance(array, pa.ExtensionArray) and array.type != kind else array
    if pa.types.is_date32(storage.type):
        storage = _infinite(storage, pa.int32(), _DAYS)
    elif pa.types.is_timestamp(storage.type):
        storage = _infinite(storage, pa.int64(), _MICROSECONDS)
    return storage if storage.type == kind else storage.cast(kind)


def _infinite(array: pa.Array, raw: pa.DataType, known: dict[int, int]) -> pa.Array:
    numbers = array.view(raw)
    bound = -_EARLIEST[raw.bit_width]
    least = pc.min(numbers).as_py()
    if least is None or least >= bound:
        return array  # the usual case, in one pass: whatever went over the edge is very negative
    for given, meant in known.items():
        numbers = pc.if_else(pc.equal(numbers, pa.scalar(given, raw)), pa.scalar(meant, raw), numbers)
    if pc.any(pc.and_(pc.less(numbers, bound), pc.greater(numbers, -_INFINITY[raw.bit_width]))).as_py():
        raise pa.ArrowInvalid("a time that the exchange cannot hold")
    return numbers.view(array.type)

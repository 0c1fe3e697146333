"""The values of a prepared statement as Flight SQL brings them: one Arrow record batch of one row, a column for each parameter.

Every byte is a stranger's: it is bounded, and validated by Arrow in full, before a value of it is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from broker.wire.asking import PARAMETERS_BYTES_MAX
from broker.wire.flight.framing import unframed
from tidegate import ipc
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.limits import SQL_PARAMETERS_MAX
from tidegate.core.values import VALUE_DEPTH_MAX, Value, decode, encode
from tidegate.v1 import flight_pb2

MESSAGES_MAX = 2 + SQL_PARAMETERS_MAX  # a schema, a dictionary for each column, one batch

Parameters = Sequence[Value] | Mapping[str, Value]


def read(data: Iterator[flight_pb2.FlightData], names: Sequence[str]) -> tuple[Parameters, int]:
    """Read the values for a statement's parameters; give their size in bytes too.

    Trust: anybody may have written the messages.

    Args:
        names: of the statement's parameters: numbers are given by place, others by the columns' names.

    Raises:
        CallerError: PLAN_PARAMETERS, WIRE_INVALID.
    """
    row, size = _one_row(data)
    if len(row) != len(names):
        raise error_for(Code.PLAN_PARAMETERS, f"parameters: the statement has {len(names)}, {len(row)} were given")
    values = [_value(value, 0) for _, value in row]
    for value in values:
        decode(encode(value))  # holds it to what can be sent to a department, with every limit of that
    if all(name.isdigit() for name in names):
        return tuple(values), size
    given = dict(zip((name for name, _ in row), values, strict=True))
    if set(given) != set(names):
        raise error_for(Code.PLAN_PARAMETERS, f"parameters: expected columns {', '.join(sorted(names))}"[:500])
    return given, size


def _one_row(data: Iterator[flight_pb2.FlightData]) -> tuple[list[tuple[str, Any]], int]:
    size = 0

    def chunks() -> Iterator[bytes]:
        nonlocal size
        for number, item in enumerate(data):
            if not item.data_header and not item.data_body:
                continue  # a descriptor by itself
            chunk = unframed(item)
            size += len(chunk)
            if size > PARAMETERS_BYTES_MAX or number >= MESSAGES_MAX:
                raise error_for(Code.PLAN_PARAMETERS, f"parameters: more than {PARAMETERS_BYTES_MAX} bytes")
            yield chunk

    try:
        schema, batches = ipc.read(chunks())
        if len(schema) > SQL_PARAMETERS_MAX:
            raise error_for(Code.PLAN_PARAMETERS, f"parameters: more than {SQL_PARAMETERS_MAX}")
        found = [batch for batch in batches if batch.num_rows]
    except TidegateError as error:
        if error.code is not Code.FETCH_INVALID_DATA:
            raise
        raise error_for(Code.WIRE_INVALID, "parameters: not a valid Arrow stream", detail=error.detail) from error
    if len(found) != 1 or found[0].num_rows != 1:
        raise error_for(Code.PLAN_PARAMETERS, "parameters: expected one row; ask once for each set of values")
    batch = found[0]
    return [(name, column[0]) for name, column in zip(schema.names, batch.columns, strict=True)], size


def _value(scalar: Any, depth: int) -> Value:
    """Give an Arrow value as one of ours; only types that mean the same in SQL."""
    kind = scalar.type
    if depth > VALUE_DEPTH_MAX or isinstance(kind, pa.BaseExtensionType):
        raise _bad(kind)
    if pa.types.is_dictionary(kind):
        return _value(scalar.value, depth)
    if not scalar.is_valid:
        return None
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return [_value(item, depth + 1) for item in scalar.values]
    try:
        if pa.types.is_timestamp(kind):
            return scalar.cast(pa.timestamp("us", kind.tz)).as_py()  # type: ignore[no-any-return]
        if pa.types.is_time(kind):
            return scalar.cast(pa.time64("us")).as_py()  # type: ignore[no-any-return]
        if any(check(kind) for check in _PLAIN):
            return scalar.as_py()  # type: ignore[no-any-return]
    except (pa.ArrowException, ValueError, OverflowError, KeyError) as error:  # KeyError: an unknown time zone
        raise error_for(Code.PLAN_PARAMETERS, "parameters: a moment outside of what can be carried") from error
    raise _bad(kind)


_PLAIN = (
    pa.types.is_boolean,
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_decimal,
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_binary_view,
    pa.types.is_fixed_size_binary,
    pa.types.is_date,
)


def _bad(kind: pa.DataType) -> Exception:
    return error_for(Code.PLAN_PARAMETERS, f"parameters: a value of Arrow type {kind.id} cannot be bound")

"""Hold whole numbers of 128 bits to what Arrow carries of them, before an answer leaves the engine.

DuckDB hands HUGEINT and UHUGEINT to Arrow as DECIMAL(38,0) and checks nothing (measured, 2.0.1): a UHUGEINT of 2^127 or more
arrives as a negative number, one of 39 digits as a decimal that is none. A number that would arrive as another is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tidegate.core.errors import Code, error_for

_WIDE = "HUGEINT"  # in both names
_LEAST = {"hugeint": 1 - 10**38, "uhugeint": 0}


class WideNumbers:
    """The check for one answer; ``types`` are DuckDB's, column by column."""

    def __init__(self, types: Sequence[Any]) -> None:
        self._places = [(place, kind) for place, kind in enumerate(types) if _WIDE in str(kind)]

    def check(self, batch: pa.RecordBatch) -> None:
        """Look at a batch.

        Raises:
            CallerError: JOIN_FAILED, a number that Arrow has no room for.
        """
        for place, kind in self._places:
            try:
                batch.column(place).validate(full=True)
            except pa.ArrowInvalid as error:
                raise _refused() from error
            _hold(batch.column(place), kind)


def _hold(array: pa.Array, kind: Any) -> None:
    """Refuse what full validation lets through: a negative number of a type without any, and HUGEINT's least of all."""
    if kind.id in _LEAST:
        least = pc.min(array).as_py()
        if least is not None and least < _LEAST[kind.id]:
            raise _refused()
    elif kind.id in ("list", "array"):
        _hold(array.flatten(), dict(kind.children)["child"])
    elif kind.id == "map":
        inner = dict(kind.children)
        _hold(array.keys, inner["key"])
        _hold(array.items, inner["value"])
    elif kind.id == "struct":
        for part, (_, inner) in zip(array.flatten(), kind.children, strict=True):
            _hold(part, inner)


def _refused() -> Exception:
    return error_for(
        Code.JOIN_FAILED, "the answer holds a whole number of more than 38 digits; cast it to VARCHAR or to DOUBLE"
    )

"""An input that need not be held: the engine reads it once, in its order, as fast as the answer is taken.

Only where the engine's own plan says so: chains of operators over one scan each, and unions of those. A join, a CTE or a
sub-query may read an input twice, and a stream that is read twice is empty the second time. What is small is held in any case:
an engine that knows how many rows there are plans better, and asking for the plan costs more than the rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from typing import Any

import duckdb
import pyarrow as pa

from tidegate import ipc
from tidegate.core.errors import Code, TidegateError, error_for

HELD_BYTES_MAX = 8 << 20  # an input that ends before this is held
_SCAN = "PYTHON_ARROW_SCAN"


class Budget:
    """The bytes that a job's inputs may take in memory."""

    def __init__(self, bytes_max: int) -> None:
        self._left = bytes_max

    def take(self, size: int) -> None:
        """Count so many bytes.

        Raises:
            CallerError: JOIN_LIMIT.
        """
        self._left -= size
        if self._left < 0:
            raise error_for(Code.JOIN_LIMIT, "the departments' answers are larger than the query may hold at once")


class StreamedInput:
    """One input. Owned by the worker's main thread until ``reader`` was given to the engine, whose threads then read it.

    Args:
        budget: of the inputs that turn out to be ones to hold, all of them together.
    """

    def __init__(self, chunks: Iterator[bytes], budget: Budget) -> None:
        self._size = 0
        self._budget = budget
        self._holds = True
        self.schema, self._batches = ipc.read(self._counted(chunks))
        self._head: list[pa.RecordBatch] = []
        self.failure: TidegateError | None = None  # what ended the reader; the engine passes on a text alone

    def _counted(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._size += len(chunk)
            if self._holds:
                self._budget.take(len(chunk))
            yield chunk

    def is_small(self) -> bool:
        """Read the beginning; True when that was everything."""
        for batch in self._batches:
            self._head.append(batch)
            if self._size > HELD_BYTES_MAX:
                return False
        return True

    def table(self) -> pa.Table:
        """Hold everything."""
        return pa.Table.from_batches([*self._head, *self._batches], self.schema)

    def reader(self) -> pa.RecordBatchReader:
        """Give everything as a stream. Once."""
        self._holds = False
        return pa.RecordBatchReader.from_batches(self.schema, self._told(chain(self._taken(), self._batches)))

    def _taken(self) -> Iterator[pa.RecordBatch]:
        while self._head:
            yield self._head.pop(0)

    def _told(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        try:
            yield from batches
        except TidegateError as error:
            self.failure = error
            raise


def scans(cursor: duckdb.DuckDBPyConnection, text: str, parameters: list[Any] | None) -> int:
    """Give how often a query's plan reads inputs, where it reads each from beginning to end; 0 where that is not sure.

    Only chains of operators over scans, and unions of those, are sure. The inputs must be registered.

    Args:
        text: known to be one SELECT.
    """
    ((_, plan),) = cursor.execute("EXPLAIN (FORMAT JSON) " + text, parameters).fetchall()
    found, waiting = 0, list(json.loads(plan))
    while waiting:
        operator = waiting.pop()
        below = operator["children"]
        if len(below) > 1 and operator["name"] != "UNION":
            return 0
        found += not below and operator["name"] == _SCAN
        waiting += below
    return found

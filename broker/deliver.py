"""Room 8, deliver: count, suppress small groups, hold the row limit, and close the record before the last word.

The ``outcome`` entry is durable before the caller sees the end of the answer. An answer that fails in the middle closes
its record with the error's code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from broker.conform import conformed
from broker.values import ClosedRecord, Closing, FragmentReport, JoinedStream, RecordedPlan
from engine.floors import Suppressed
from engine.floors import apply as apply_floors
from tidegate import ipc
from tidegate.core.clock import Clock
from tidegate.core.errors import Code, TidegateError, error_for

Outcome = Callable[[RecordedPlan, Closing], ClosedRecord]


class Answer:
    """The answer as it goes out: the schema's chunk, then batch chunks, then what closes it."""

    def __init__(
        self, chunks: Iterator[bytes], close: Callable[[], None], relayed: FragmentReport | None = None
    ) -> None:
        self._chunks = chunks
        self._close = close
        self._relayed = relayed
        self.closing: Closing | None = None
        self.record: ClosedRecord | None = None

    @property
    def is_whole(self) -> bool:
        """Whether all of it is here, so that nothing has to be waited for as it is read."""
        return self._relayed is not None and self._relayed.is_whole

    def chunks(self) -> Iterator[bytes]:
        """Read the chunks, schema first; read once. When they end without an error, the record is closed."""
        try:
            yield from self._chunks
        finally:
            self._close()

    def close(self) -> None:
        """Give up an answer that nobody reads to its end."""
        self._close()


class Deliver:
    """The room."""

    def __init__(self, *, outcome: Outcome, clock: Clock) -> None:
        self._outcome = outcome
        self._clock = clock

    def deliver(self, recorded: RecordedPlan, joined: JoinedStream, schema: bytes = b"") -> Answer:
        """Make the answer of a joined stream.

        Args:
            schema: the chunk of the schema that the caller was told; a stream of other Arrow types is cast to it.
        """
        answer: Answer

        def run() -> Iterator[bytes]:
            yield from self._run(recorded, joined, answer, schema)

        answer = Answer(run(), joined.close, joined.relayed)
        return answer

    def failed(self, recorded: RecordedPlan, error: TidegateError, reports: tuple[FragmentReport, ...] = ()) -> None:
        """Close the record of a request that failed before there was a stream."""
        self._outcome(recorded, Closing(0, 0, 0, "", reports, self._duration(recorded), error.code.value))

    def explained(self, recorded: RecordedPlan) -> None:
        """Close the record of a request that only wanted its plan."""
        self._outcome(recorded, Closing(0, 0, 0, "", (), self._duration(recorded), ""))

    def _duration(self, recorded: RecordedPlan) -> float:
        return self._clock.monotonic_s() - recorded.request.started

    def _run(self, recorded: RecordedPlan, joined: JoinedStream, answer: Answer, announced: bytes) -> Iterator[bytes]:
        federated = recorded.restricted.federated
        digest, relayed = ipc.Digest(), joined.relayed if not federated.floors else None
        schema = b""
        rows = size = 0
        suppressed = Suppressed()
        error = Code.QUERY_CANCELLED.value  # a reader who goes away leaves this word behind
        try:
            chunks, suppressed = _cut(recorded, joined)
            if announced:
                chunks, is_cast = conformed(chunks, announced)
                relayed = None if is_cast else relayed
            for chunk, count in chunks:
                rows += count
                if rows > federated.rows_max:
                    raise error_for(
                        Code.FETCH_LIMIT, f"answer: more than the {federated.rows_max} rows that the policy permits"
                    )
                size += len(chunk)
                if relayed is None or not schema:  # what is relayed was hashed as it came in
                    digest.update(chunk)
                schema = schema or chunk
                yield chunk
            error = ""
        except TidegateError as failure:
            error = failure.code.value
            raise
        finally:
            if error:
                joined.close()
            closing = Closing(
                rows=rows,
                bytes=size,
                suppressed_groups=suppressed.groups + sum(item.suppressed for item in joined.reports),
                result_digest=digest.hexdigest() if relayed is None or error else relayed.digest.under(schema),
                reports=joined.reports,
                duration_s=self._duration(recorded),
                error=error,
            )
            answer.record = self._outcome(recorded, closing)
            answer.closing = closing


def _cut(recorded: RecordedPlan, joined: JoinedStream) -> tuple[Iterator[tuple[bytes, int]], Suppressed]:
    """Rename, and where there are floors, suppress. Without floors the batch bytes pass through unchanged."""
    federated = recorded.restricted.federated
    if not federated.floors:
        return _renamed(joined.chunks, federated.output_names), Suppressed()
    schema, batches = ipc.read(chunk for chunk, _ in joined.chunks)
    schema, batches, suppressed = apply_floors(schema, batches, federated.floors)
    named = rename(schema, federated.output_names)
    count = 0

    def counting() -> Iterator[pa.RecordBatch]:
        nonlocal count
        for batch in batches:
            count += batch.num_rows
            yield pa.RecordBatch.from_arrays(batch.columns, schema=named)

    def counted() -> Iterator[tuple[bytes, int]]:
        before = 0
        for chunk in ipc.cut(named, counting()):
            yield chunk, count - before
            before = count

    return counted(), suppressed


def _renamed(chunks: Iterator[tuple[bytes, int]], names: tuple[str, ...]) -> Iterator[tuple[bytes, int]]:
    first, _ = next(chunks)
    yield ipc.schema_chunk(rename(ipc.parse_schema(first), names)), 0
    yield from chunks


def rename(schema: pa.Schema, names: tuple[str, ...]) -> pa.Schema:
    """Set the caller's names on the schema; engines only ever saw generated ones.

    Raises:
        InternalError: the stream has another number of columns than the plan.
    """
    if len(schema) != len(names):
        raise error_for(Code.INTERNAL, detail=f"result has {len(schema)} columns, the plan {len(names)}")
    return pa.schema([field.with_name(name) for field, name in zip(schema, names, strict=True)])


def report_json(closing: Closing, counted: frozenset[str]) -> list[dict[str, Any]]:
    """Give the departments' parts as JSON for the caller; counts of fragments that are not ``counted`` are null."""
    return [
        {
            "fragment": item.fragment,
            "member": item.member,
            "node": item.node,
            "rows": item.rows if item.fragment in counted else None,
            "bytes": item.bytes if item.fragment in counted else None,
            "elapsed_ms": round(item.elapsed_s * 1000),
            "node_entry": item.entry_index,
            "rules": list(item.rules),
            "keys_received": [
                {"from": member, "column": column, "count": count if item.fragment in counted else None}
                for member, column, count in item.keys_received
            ],
        }
        for item in closing.reports
    ]

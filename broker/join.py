"""Room 7, join: the departments' streams become one. In a locked worker process; or, for a single fragment, relayed.

The relay validates every batch in full and passes on the very bytes that the node signed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from broker.values import FetchedStreams, JoinedStream, RecordedPlan
from engine.pool import WorkerPool
from engine.spec import Job
from tidegate import ipc
from tidegate.core.clock import Clock
from tidegate.core.errors import Code, error_for
from tidegate.core.limits import LEAF_BYTES_MAX, ROWS_MAX


class Join:
    """The room."""

    def __init__(self, *, pool: WorkerPool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock

    def join(self, recorded: RecordedPlan, fetched: FetchedStreams) -> JoinedStream:
        """Compute the final SQL over the fragments' streams.

        Raises:
            CallerError: JOIN_FAILED, JOIN_LIMIT, QUERY_DEADLINE, QUERY_CANCELLED.
        """
        federated = recorded.restricted.federated
        request = recorded.request
        if federated.final is None:
            (stream,) = fetched.streams.values()
            return JoinedStream(validated(stream.chunks), fetched.reports, fetched.close)
        left = request.deadline - self._clock.monotonic_s()
        if left <= 0:
            raise error_for(Code.QUERY_DEADLINE)
        job = Job(
            setup=(),
            sql=federated.final,
            inputs={stream.fragment: stream.chunks for stream in fetched.streams.values()},
            rows_max=ROWS_MAX,
            bytes_max=LEAF_BYTES_MAX,
        )
        result = self._pool.run(job, deadline_s=left, cancel=request.cancel)

        def close() -> None:
            result.close()
            fetched.close()

        return JoinedStream(validated(result.chunks), fetched.reports, close)


def validated(chunks: Iterator[bytes]) -> Iterator[tuple[bytes, int]]:
    """Pass the chunks on unchanged with their rows, each only after its batch was validated in full.

    A chunk holds exactly one batch (``tidegate.ipc``), so that reading one batch consumes one chunk.

    Raises:
        IntegrityError: FETCH_INVALID_DATA.
    """
    seen: deque[bytes] = deque()

    def taken() -> Iterator[bytes]:
        for chunk in chunks:
            seen.append(chunk)
            yield chunk

    _, batches = ipc.read(taken())
    yield seen.popleft(), 0
    for batch in batches:
        if len(seen) != 1:
            raise error_for(Code.FETCH_INVALID_DATA, "Arrow stream: a chunk does not hold exactly one batch")
        yield seen.popleft(), batch.num_rows
    if seen:
        raise error_for(Code.FETCH_INVALID_DATA, "Arrow stream: bytes after the last batch")

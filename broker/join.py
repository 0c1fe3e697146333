"""Room 7, join: the departments' streams become one. In a locked worker process; or, for a single fragment, relayed.

The relay validates every batch in full and passes on the very bytes that the node signed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from broker.values import FetchedStreams, FragmentStream, JoinedStream, RecordedPlan
from engine.pool import WorkerPool
from engine.spec import Job
from tidegate import ipc
from tidegate.core.clock import Clock
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.limits import LEAF_BYTES_MAX, ROWS_MAX
from tidegate.sql.model import FederatedPlan


class Join:
    """The room."""

    def __init__(self, *, pool: WorkerPool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock

    def join(self, recorded: RecordedPlan, fetched: FetchedStreams) -> JoinedStream:
        """Compute the final SQL over the fragments' streams.

        Raises:
            CallerError: JOIN_FAILED, JOIN_LIMIT, QUERY_DEADLINE, QUERY_CANCELLED.
            IntegrityError: FETCH_INVALID_DATA, naming the department.
        """
        federated = recorded.restricted.federated
        request = recorded.request
        if federated.final is None:
            (stream,) = fetched.streams.values()
            relayed = relay(stream, len(federated.output_names))
            return JoinedStream(relayed, fetched.reports, fetched.close, relayed=stream.report)
        left = request.deadline - self._clock.monotonic_s()
        if left <= 0:
            raise error_for(Code.QUERY_DEADLINE)
        job = Job(
            setup=(),
            sql=federated.final,
            inputs={stream.fragment: stream.chunks for stream in fetched.streams.values()},
            rows_max=ROWS_MAX,
            bytes_max=LEAF_BYTES_MAX,
            streamed=_streamed(federated),
        )
        try:
            result = self._pool.run(job, deadline_s=left, cancel=request.cancel, owner=request.caller.member)
        except TidegateError as error:
            for stream in fetched.streams.values():
                if error.code is Code.FETCH_INVALID_DATA and error.message.startswith(f"{stream.fragment}: "):
                    raise _invalid(stream, error) from error  # the worker knows the fragment, not whose it is
            raise

        def close() -> None:
            result.close()
            fetched.close()

        return JoinedStream(validated(result.chunks), fetched.reports, close)


def _streamed(federated: FederatedPlan) -> frozenset[str]:
    """Give the inputs that need not be held: of a query without a join that reads each at one place.

    A guess from the text that we rendered, since what passes through is fetched no faster than it is read; the worker
    looks at the engine's plan before it lets anything pass. Never where one answer's keys are waited for by another: held
    back until the other is read, it would wait for ever.
    """
    if any(item.reductions for item in federated.fragments):
        return frozenset()
    once = all(item.scans == 1 for item in federated.fragments)
    alone = len(federated.fragments) == 1 or (federated.final is not None and " JOIN " not in federated.final.text)
    return frozenset(item.id for item in federated.fragments if once and alone)


def relay(stream: FragmentStream, columns: int) -> Iterator[tuple[bytes, int]]:
    """Pass one department's answer on, held to the number of columns that was asked for, and of rows that it signed.

    Raises:
        IntegrityError: FETCH_INVALID_DATA, naming the department.
    """
    chunks = validated(stream.chunks)
    try:
        first, _ = next(chunks)
        if len(ipc.parse_schema(first)) != columns:
            raise error_for(Code.FETCH_INVALID_DATA, detail="another number of columns than asked for")
        yield first, 0
        rows = 0
        for chunk, count in chunks:
            rows += count
            yield chunk, count
        if rows != stream.report.rows:  # what the node signed goes into the log
            raise error_for(Code.FETCH_INVALID_DATA, detail="another number of rows than the node signed")
    except TidegateError as error:
        # What the node itself signed off badly names the department already.
        named = error.code is not Code.FETCH_INVALID_DATA or error.message.startswith(f"{stream.report.member}: ")
        raise error if named else _invalid(stream, error) from error


def _invalid(stream: FragmentStream, error: TidegateError) -> TidegateError:
    message = f"{stream.report.member}: the answer of its node is not valid"
    return error_for(Code.FETCH_INVALID_DATA, message, detail=f"{error} {error.detail}")


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

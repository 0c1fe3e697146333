"""Run queries in locked-down DuckDB workers: the one door of the engine room for broker.join and node.

A job has a worker of its own from ``run`` until its answer was read or closed. One watching thread ends jobs that were
cancelled or are late: it asks first, and kills the worker when the engine does not heed (sleep_ms, a wide lpad and constant
folding heed nothing). A killed worker is replaced; the process that called never runs SQL.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import TracebackType

import pyarrow as pa

from engine import failures
from engine.frames import Frame, FrameError, Kind
from engine.inputs import Inputs
from engine.memory import give_back
from engine.process import Child
from engine.seats import Seats, error_of
from engine.spec import Job, WorkerSpec
from tidegate import ipc
from tidegate.core import values
from tidegate.core.errors import Code, TidegateError, error_for

HEED_GRACE_S = 0.3  # from asking a worker to stop until it is killed; an interrupt that is heeded takes about 10 ms
WATCH_INTERVAL_S = 0.02
IDLE_S = 2.0  # without a job, after which memory is given back
STREAMED_CHUNKS_MAX = (
    4  # of a streamed input, at the worker and not taken; at most 4 MiB each, so that it costs little memory
)
_NAMES_MAX = 1_000


class _Again(Enum):
    """There was a frame, and it was not for the reader."""

    AGAIN = 0


_AGAIN = _Again.AGAIN


class Result:
    """An answer that is being computed. Read by one thread.

    Attributes:
        schema: of the answer.
        chunks: the answer as ``tidegate.ipc`` cuts it, schema first; may raise any error of the job at any point. Read once.
    """

    def __init__(self, running: _Running, schema: pa.Schema, chunks: Iterator[bytes]) -> None:
        self._running = running
        self.schema = schema
        self.chunks = chunks

    @property
    def rows(self) -> int:
        """How many rows the whole answer had; -1 until it was read to its end."""
        return self._running.rows

    def close(self) -> None:
        """Stop the job if it still runs, and free its worker. May be called at any time, more than once."""
        self._running.abandon(Code.QUERY_CANCELLED)

    def __enter__(self) -> Result:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Running:
    """One job in one worker. Whoever reads or gives up owns ``receive``; watcher and inputs set a verdict, ask and kill."""

    def __init__(
        self, pool: WorkerPool, child: Child, number: int, job: Job, deadline_s: float, cancel: threading.Event
    ) -> None:
        self._pool = pool
        self._child = child
        self._job = job
        self._deadline_s = deadline_s
        self._cancel = cancel
        self._lock = threading.Lock()
        self._reading = threading.RLock()  # held by whoever reads the channel for this job
        self._verdict: TidegateError | None = None  # guarded by _lock; the first one stays
        self._asked_at_s = 0.0
        self._told = False
        self._over = False  # guarded by _lock
        self._inputs = Inputs(number, child.send, self.condemn, job.streamed)
        self.number = number
        self.rows = -1

    # -- the reader's side ------------------------------------------------------------------------------------------

    def start(self) -> Result:
        """Send the job and wait for the head of the answer."""
        job = self._job
        limit = self._pool.spec.memory_limit_bytes if job.input_bytes_max is None else job.input_bytes_max
        head = {
            "setup": list(job.setup),
            "sql": job.sql.text,
            "parameters": [values.encode(value) for value in job.sql.parameters],
            "inputs": list(job.inputs),
            "streamed": sorted(job.streamed),
            "keys": {name: [shape.kind, shape.rows] for name, shape in job.keys.items()},
            "rows_max": job.rows_max,
            "bytes_max": job.bytes_max,
            "input_bytes_max": limit,
            "cpu_s": max(self._deadline_s - time.monotonic(), 0.0) * (self._pool.spec.threads + 1),
        }
        try:
            self._child.send(Frame(Kind.JOB, self.number, json.dumps(head).encode()))
        except OSError:
            raise self._lost() from None
        self._inputs.start(job.inputs)
        first = self._next()
        if first is None:
            raise self._broken("no answer")
        try:
            schema = ipc.parse_schema(first)
        except TidegateError:
            raise self._broken("no schema") from None
        return Result(self, schema, self._chunks(first))

    def _chunks(self, first: bytes) -> Iterator[bytes]:
        try:
            chunk: bytes | None = first
            size = 0
            while chunk is not None:
                size += len(chunk)
                if size > self._job.bytes_max:  # the worker counts too; what it says is not trusted
                    raise self._broken("more bytes than agreed")
                yield chunk
                chunk = self._next()
        finally:
            self.abandon(Code.QUERY_CANCELLED)

    def _next(self) -> bytes | None:
        """Give the next chunk, or None at the end; raises the job's error. Frees the worker in both last cases."""
        while True:
            with self._reading:
                found = self._received()
            if found is not _AGAIN:
                return found

    def _received(self) -> bytes | _Again | None:
        """Read one frame. Holds ``_reading``: the channel is the next job's as soon as this one is over."""
        if self._over:
            raise self._verdict or error_for(Code.QUERY_CANCELLED)
        self._raise_verdict()
        try:
            frame = self._child.receive()
        except FrameError:
            raise self._lost() from None
        if frame.job != self.number:
            return _AGAIN
        if frame.kind is Kind.TAKEN and self._job.streamed:
            self._inputs.taken(frame.input)
            return _AGAIN
        if frame.kind is Kind.ANSWER:
            self._raise_verdict()
            return frame.payload
        if frame.kind in (Kind.ENDED, Kind.FAILED):
            verdict = self._verdict
            report = json.loads(frame.payload)
            self._finish(healthy="spent" not in report)
            if frame.kind is Kind.FAILED:
                raise verdict or error_of(report)
            self.rows = int(report["rows"])
            return None
        raise self._broken("unexpected frame")

    def _raise_verdict(self) -> None:
        if self._verdict is not None:
            verdict = self._verdict
            self._settle()
            raise verdict

    def abandon(self, code: Code) -> None:
        """Stop the job unless it is over."""
        if not self._over:
            self.condemn(error_for(code))
            self._settle()

    def _settle(self) -> None:
        """Read until the worker says that the condemned job is over; the watcher kills it when that takes too long.

        Another thread that still reads is let finish: it sees the same end. Two at once would tear frames apart.
        """
        with self._reading:
            while not self._over:
                try:
                    frame = self._child.receive()
                except (FrameError, ValueError, TimeoutError):
                    self._finish(healthy=False)
                    return
                if frame.job == self.number and frame.kind in (Kind.ENDED, Kind.FAILED):
                    self._finish(healthy="spent" not in json.loads(frame.payload))

    def _lost(self) -> TidegateError:
        status = self._child.end()
        verdict = self._verdict or failures.of_death(status)
        self._finish(healthy=False)
        return verdict

    def _broken(self, detail: str) -> TidegateError:
        self._finish(healthy=False)
        return error_for(Code.JOIN_FAILED, detail=f"worker: {detail}")

    def _finish(self, *, healthy: bool) -> None:
        with self._lock:
            if self._over:
                return
            self._over = True
        self._inputs.stop()
        self._pool.release(self, self._child, healthy=healthy)

    # -- the watcher's side -----------------------------------------------------------------------------------------

    def condemn(self, error: TidegateError) -> None:
        """Give the job its verdict, and ask the worker to stop. The first verdict stays."""
        with self._lock:
            if self._over or self._verdict is not None:
                return
            self._verdict = error
            self._asked_at_s = time.monotonic()
        self._inputs.stop()
        self._tell()

    def _tell(self) -> None:
        self._told = self._told or self._child.try_send(Frame(Kind.CANCEL, self.number, b""))

    def watch(self, now_s: float) -> None:
        """Look at the clock and at the caller's event; kill a worker that does not heed."""
        if self._verdict is None:
            if self._cancel.is_set():
                self.condemn(error_for(Code.QUERY_CANCELLED))
            elif now_s >= self._deadline_s:
                self.condemn(error_for(Code.QUERY_DEADLINE))
            return
        self._tell()
        if now_s - self._asked_at_s > HEED_GRACE_S and not self._over:
            self._child.kill()  # wakes the reader, if there is one
            self._finish(healthy=False)


class WorkerPool:
    """Workers of one kind.

    Args:
        spec: how each is built. Its ``temp_directory`` belongs to this pool alone.
        size: how many; one job each at a time.

    Raises:
        CallerError: CONFIG_INVALID when a worker cannot be built so.
    """

    def __init__(self, spec: WorkerSpec, size: int) -> None:
        self.spec = spec
        self._numbers = itertools.count(1)
        self._active: dict[int, _Running] = {}  # guarded by _wake
        self._wake = threading.Condition()
        self._closed = False
        if spec.temp_directory:
            for left in Path(spec.temp_directory).glob("worker-*"):  # plaintext rows of workers that were killed
                shutil.rmtree(left, ignore_errors=True)
        first = Frame(Kind.SPEC, 0, json.dumps(spec.to_json()).encode())
        self._seats = Seats(
            lambda: Child("engine.worker", first, mark=self._files()),
            size,
            refuse=lambda data: error_of(json.loads(data)),
            clean=self._wipe,
        )
        self.walls: dict[str, int] = json.loads(self._seats.first_ready)
        self._watcher = threading.Thread(target=self._watch, name="engine-watch", daemon=True)
        self._watcher.start()

    def run(self, job: Job, *, deadline_s: float, cancel: threading.Event | None = None, owner: str = "") -> Result:
        """Start a job and give its answer as a stream; returns when the answer's schema is known.

        Args:
            deadline_s: seconds from now until the whole answer must have been read.
            cancel: set it, from any thread, to end the job.
            owner: for whom; one owner never holds every worker (``engine.seats``).

        Raises:
            TidegateError: BUSY (no worker came free), QUERY_CANCELLED, QUERY_DEADLINE, JOIN_LIMIT, JOIN_FAILED,
                FETCH_INVALID_DATA (an input is not valid Arrow), or what an input raised.
        """
        if len(job.inputs) > _NAMES_MAX:
            raise error_for(Code.JOIN_LIMIT, "the query reads too many relations")
        cancel = cancel or threading.Event()
        until_s = time.monotonic() + deadline_s
        child = self._take(until_s, cancel, owner)
        running = _Running(self, child, next(self._numbers), job, until_s, cancel)
        with self._wake:
            self._active[running.number] = running
            self._wake.notify()
        try:
            return running.start()
        except BaseException:
            running.abandon(Code.QUERY_CANCELLED)
            raise

    def _take(self, until_s: float, cancel: threading.Event, owner: str) -> Child:
        """Lend a worker that was made from the files as they are now.

        One that was made before a file was replaced holds the old one: an attached database stays open, and Landlock's
        permission is for the file, not for its name.
        """
        while True:
            child = self._seats.take(until_s=until_s, cancelled=cancel, owner=owner)
            if child.mark == self._files():
                return child
            self._seats.discard(child)

    def _files(self) -> tuple[tuple[int, int, int, int], ...]:
        paths = [path for path, _ in self.spec.databases] + [path for table in self.spec.files for path in table.paths]
        states = []
        for path in paths:
            try:
                state = os.stat(path)
            except OSError:
                states.append((0, 0, 0, 0))
            else:
                states.append((state.st_dev, state.st_ino, state.st_mtime_ns, state.st_size))
        return tuple(states)

    @property
    def replaced(self) -> int:
        """How many workers were lost and replaced since the start."""
        return self._seats.replaced

    def close(self) -> None:
        """End all workers and their jobs."""
        with self._wake:
            self._closed = True
            active = list(self._active.values())
            self._wake.notify()
        for running in active:
            running.condemn(error_for(Code.QUERY_CANCELLED, "the process is about to end"))
        self._watcher.join()
        self._seats.close()

    def release(self, running: _Running, child: Child, *, healthy: bool) -> None:
        """Take a job off the list and its worker back; called by the job, once."""
        with self._wake:
            self._active.pop(running.number, None)
        if healthy:
            self._seats.give_back(child)
        else:
            self._seats.discard(child)

    def _watch(self) -> None:
        used = False
        while True:
            with self._wake:
                awake = self._wake.wait_for(
                    lambda: self._closed or bool(self._active), timeout=IDLE_S if used else None
                )
                if self._closed:
                    return
                active = list(self._active.values())
            if not awake:  # nothing to do: what answers left behind need not be kept
                give_back()
            used = awake
            now_s = time.monotonic()
            for running in active:
                running.watch(now_s)
            with self._wake:
                self._wake.wait_for(lambda: self._closed, timeout=WATCH_INTERVAL_S)

    def _wipe(self, pid: int) -> None:
        if self.spec.temp_directory:
            shutil.rmtree(Path(self.spec.temp_directory) / f"worker-{pid}", ignore_errors=True)

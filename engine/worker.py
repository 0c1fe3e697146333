"""The process in which DuckDB runs: ``python -m engine.worker <descriptor>``, started by engine.pool and by nothing else.

Order matters: imports, then the operating system's walls, then the engine (its threads must be born inside), then READY. The
main thread runs jobs; a listener thread reads the socket, so a cancel is heard while the engine works, and when the parent is
gone the process ends at once.
"""

from __future__ import annotations

import contextlib
import datetime
import decimal
import encodings.idna
import json
import os
import queue
import shutil
import socket
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from engine import failures, landlock, lockdown, sandbox
from engine.execute import Session, Task
from engine.frames import Frame, FrameError, Kind, receive, send, send_chunk
from engine.spec import KeyShape, WorkerSpec
from tidegate.core import values
from tidegate.core.errors import Code, TidegateError, error_for

_PRELOADED = (datetime, decimal, encodings.idna, uuid)  # what DuckDB imports lazily must be here before the walls
_CPU_MARGIN_S = 5.0


class _Inbox:
    """What the listener hands to the main thread for one job; the queues are the only thing that both touch."""

    def __init__(self, number: int, head: dict[str, Any]) -> None:
        self.number = number
        self.head = head
        self.cancelled = threading.Event()
        self.session: Session | None = None
        self._left = int(head["input_bytes_max"])
        self._streamed = frozenset(index for index, name in enumerate(head["inputs"]) if name in head["streamed"])
        self._inputs: list[queue.SimpleQueue[bytes | TidegateError | None]] = [
            queue.SimpleQueue() for _ in head["inputs"]
        ]

    def put(self, frame: Frame) -> None:
        """Take a chunk, or the end, of an input."""
        if frame.input >= len(self._inputs):
            return
        target = self._inputs[frame.input]
        if frame.kind is Kind.CHUNKS_END:
            target.put(None)
            return
        if frame.input not in self._streamed:  # the parent waits until chunks of those are taken
            self._left -= len(frame.payload)
        if self._left < 0:
            self.stop_inputs(
                error_for(Code.JOIN_LIMIT, "the departments' answers are larger than the query may hold at once")
            )
        else:
            target.put(frame.payload)

    def stop_inputs(self, error: TidegateError) -> None:
        """Make every input raise."""
        for waiting in self._inputs:
            waiting.put(error)

    def chunks(self, index: int, taken: Callable[[int], None]) -> Iterator[bytes]:
        """Give an input's chunks as they come."""
        while (item := self._inputs[index].get()) is not None:
            if isinstance(item, TidegateError):
                raise item
            if index in self._streamed:
                taken(index)
            yield item


class _Worker:
    def __init__(self, channel: socket.socket, instance: duckdb.DuckDBPyConnection, reserved_bytes_max: int) -> None:
        self._channel = channel
        self._reserved_bytes_max = reserved_bytes_max
        self._instance = instance
        self._sending = threading.Lock()  # the engine's threads say what they took while the main one sends
        self._jobs: queue.SimpleQueue[_Inbox] = queue.SimpleQueue()
        self._current: _Inbox | None = None  # written by the listener alone

    def serve(self) -> None:
        threading.Thread(target=self._listen, name="listener", daemon=True).start()
        while True:
            inbox = self._jobs.get()
            try:
                answer = self._work(inbox)
                send(self._channel, answer)
            except OSError:
                os._exit(0)  # the parent is gone

    def _listen(self) -> None:
        while True:
            try:
                frame = receive(self._channel)
            except (FrameError, OSError):
                os._exit(0)
            inbox = self._current
            if frame.kind is Kind.JOB:
                self._current = _Inbox(frame.job, json.loads(frame.payload))
                self._jobs.put(self._current)
            elif inbox is None or frame.job != inbox.number:
                continue  # of a job that is over
            elif frame.kind is Kind.CANCEL:
                inbox.cancelled.set()
                inbox.stop_inputs(error_for(Code.QUERY_CANCELLED))
                session = inbox.session
                if session is not None:
                    with contextlib.suppress(duckdb.Error):  # it may have ended this very moment
                        session.interrupt()
            else:
                inbox.put(frame)

    def _send(self, kind: Kind, job: int, payload: bytes | memoryview, number: int = 0) -> None:
        with self._sending:
            send_chunk(self._channel, kind, job, payload, number)

    def _work(self, inbox: _Inbox) -> Frame:
        head = inbox.head
        sandbox.limit_cpu(head["cpu_s"] + _CPU_MARGIN_S)
        session = Session(self._instance)
        inbox.session = session
        report: dict[str, Any]
        try:
            totals = session.run(
                _task(inbox, lambda index: self._send(Kind.TAKEN, inbox.number, b"", index)),
                lambda chunk: self._send(Kind.ANSWER, inbox.number, chunk),
                inbox.cancelled.is_set,
            )
            kind, report = Kind.ENDED, {"rows": totals.rows, "bytes": totals.bytes}
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 - an engine raises many kinds; each becomes a code
            failure = failures.of_engine(error)
            kind, report = (
                Kind.FAILED,
                {"code": failure.code.value, "message": failure.message, "detail": failure.detail},
            )
        inbox.session = None
        try:
            session.close()
        except duckdb.Error:
            report["spent"] = (
                True  # something of this job could be seen by the next one: the parent must replace this process
            )
        if sandbox.reserved_bytes() > self._reserved_bytes_max:
            report["spent"] = True  # what the allocator kept is missing from the next job's share
        return Frame(kind, inbox.number, _json(report))


def _task(inbox: _Inbox, taken: Callable[[int], None]) -> Task:
    head = inbox.head
    return Task(
        setup=tuple(head["setup"]),
        text=head["sql"],
        parameters=tuple(values.decode(item) for item in head["parameters"]),
        inputs={name: inbox.chunks(index, taken) for index, name in enumerate(head["inputs"])},
        keys={name: KeyShape(kind, rows) for name, (kind, rows) in head["keys"].items()},
        rows_max=head["rows_max"],
        bytes_max=head["bytes_max"],
        input_bytes_max=head["input_bytes_max"],
        streamed=frozenset(head["streamed"]),
    )


def _json(data: dict[str, Any]) -> bytes:
    return json.dumps(data).encode()


def _rules(spec: WorkerSpec, spill_folder: str | None) -> Iterator[tuple[str, int]]:
    for path, _ in spec.databases:
        yield path, landlock.READ_FILES
        yield f"{path}.wal", landlock.READ_FILES
    for table in spec.files:
        for path in table.paths:
            yield path, landlock.READ_FILES
    if spill_folder:
        yield spill_folder, landlock.SPILL_TREE


def _build(spec: WorkerSpec) -> tuple[duckdb.DuckDBPyConnection, dict[str, int]]:
    spill = None
    if spec.temp_directory and not (spec.databases and not spec.files):
        spill = str(Path(spec.temp_directory) / f"worker-{os.getpid()}")
        shutil.rmtree(spill, ignore_errors=True)
        Path(spill).mkdir(mode=0o700)
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    file_bytes_max = spec.spill_bytes_max if spill else 0
    walls = sandbox.enter(_rules(spec, spill), file_bytes_max=file_bytes_max, required=spec.sandbox_required)
    instance = lockdown.open_instance(spec, spill)
    instance.cursor().sql("SELECT sum(x) FROM (VALUES (1), (2)) AS t(x)").to_arrow_reader(10).read_all()
    sandbox.limit_memory(spec.address_space_bytes)
    return instance, walls


def main(descriptor: int) -> None:
    """Serve the parent at the other end of the socket until it closes it."""
    channel = socket.socket(fileno=descriptor)
    spec = WorkerSpec.from_json(json.loads(receive(channel).payload))
    try:
        instance, walls = _build(spec)
    except TidegateError as error:
        send(
            channel,
            Frame(Kind.FAILED, 0, _json({"code": error.code.value, "message": error.message, "detail": error.detail})),
        )
        return
    send(channel, Frame(Kind.READY, 0, _json(walls)))
    _Worker(channel, instance, sandbox.reserved_bytes() + spec.address_space_bytes // 2).serve()


if __name__ == "__main__":
    main(int(sys.argv[1]))

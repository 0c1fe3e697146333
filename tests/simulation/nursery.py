"""The process that the tests of crashes start brokers and nodes from: it has imported everything, and forks.

A child runs the very command line (``tidegate up``, ``tidegate node serve``) in a process, session and process group of its
own; only the second that Python needs for its imports is saved, so that a test can afford to kill many. The parent side is
``Nursery``, whose children look like those of ``subprocess``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


class Child:
    """One forked process."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self._nursery = nursery
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._nursery.ask({"do": "poll", "pid": self.pid})
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; it was told to end before."""
        if self.returncode is None:
            self.returncode = self._nursery.ask({"do": "wait", "pid": self.pid, "within_s": timeout})
        if self.returncode is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Nursery:
    """The parent side. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.simulation.nursery"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "GRPC_VERBOSITY": "NONE"},
        )

    def ask(self, question: dict[str, Any]) -> Any:
        with self._lock:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())

    def start(self, arguments: Sequence[str], log: Path) -> Child:
        return Child(self, self.ask({"do": "start", "arguments": list(arguments), "log": str(log)}))

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(20)
        assert self._process.stdout is not None
        self._process.stdout.close()


def _start(arguments: Sequence[str], log: str) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.setsid()
        sink = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        from tidegate.cli.main import main

        sys.argv = ["tidegate", *arguments]
        main()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _ended(pid: int, within_s: float | None) -> int | None:
    """Give the status of a child that has ended, waiting for it so long; the kernel wakes us."""
    handle = os.pidfd_open(pid)
    try:
        import select

        if not select.select([handle], [], [], within_s)[0]:
            return None
    finally:
        os.close(handle)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _serve() -> None:
    import tidegate.cli.main  # noqa: F401 - children find everything imported

    for line in sys.stdin:
        question = json.loads(line)
        match question["do"]:
            case "start":
                answer: int | None = _start(question["arguments"], question["log"])
            case "poll":
                answer = _ended(question["pid"], 0.0)
            case _:
                answer = _ended(question["pid"], question["within_s"])
        os.write(1, json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    _serve()

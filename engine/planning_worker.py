"""The process in which planning functions run: ``python -m engine.planning_worker <descriptor>``, started by engine.planning.

It parses what strangers wrote (sqlglot's time is exponential in some texts), so it has a limit on memory and time, and no
network, no secret, no file but the interpreter's own libraries. A function is pure: arguments in, value out, by pickle.
"""

from __future__ import annotations

import importlib
import json
import os
import pickle
import socket
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine import landlock, sandbox
from engine.frames import Frame, FrameError, Kind, receive, send
from tidegate.core.errors import Code, TidegateError, error_for

_CPU_MARGIN_S = 2.0


def _rules() -> Iterator[tuple[str, int]]:
    """Let imports work: the standard library, site-packages, and this project's own packages beside them."""
    for key in ("stdlib", "platstdlib", "purelib", "platlib"):
        yield sysconfig.get_path(key), landlock.READ_TREE
    for place in ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo"):
        yield place, landlock.READ_TREE
    root = Path(__file__).resolve().parents[1]
    for package in ("tidegate", "engine"):
        yield str(root / package), landlock.READ_TREE


def _answer(frame: Frame) -> Frame:
    """Run one call and give RESULT: a pickled (True, value) or (False, error)."""
    try:
        function, arguments, deadline_s = pickle.loads(frame.payload)  # noqa: S301 - our own parent wrote it
        sandbox.limit_cpu(deadline_s + _CPU_MARGIN_S)
        payload = pickle.dumps((True, function(*arguments)), protocol=5)
    except Exception as error:  # noqa: BLE001 - each becomes a code; the parent must always get an answer
        payload = pickle.dumps((False, _translated(error)), protocol=5)
    return Frame(Kind.RESULT, frame.job, payload)


def _translated(error: Exception) -> TidegateError:
    if isinstance(error, TidegateError):
        return error
    if isinstance(error, RecursionError | MemoryError):
        return error_for(Code.PLAN_TOO_LARGE, "the query is too large to plan", detail=type(error).__name__)
    # Without its text: a parser's quotes the caller's SQL, and the detail goes to the log.
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    where = f" at {Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno}" if frame is not None else ""
    return error_for(Code.INTERNAL, detail=f"planning: {type(error).__name__}{where}")


def main(descriptor: int) -> None:
    """Answer calls until the parent closes the socket."""
    channel = socket.socket(fileno=descriptor)
    spec: dict[str, Any] = json.loads(receive(channel).payload)
    for module in spec["preload"]:
        importlib.import_module(module)
    walls = sandbox.enter(_rules(), file_bytes_max=0, required=spec["sandbox_required"])
    sandbox.limit_memory(spec["address_space_bytes"])
    send(channel, Frame(Kind.READY, 0, json.dumps(walls).encode()))
    while True:
        try:
            send(channel, _answer(receive(channel)))
        except (FrameError, OSError):
            os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))

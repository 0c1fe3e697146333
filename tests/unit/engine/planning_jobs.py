"""Functions that the tests of the planning pool run in its processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sqlglot
from sqlglot import exp, serde

from tidegate.core.errors import Code, error_for


def double(value: int) -> int:
    return 2 * value


def parse(text: str) -> exp.Expression:
    return sqlglot.parse_one(text, read="duckdb")


def refuse() -> None:
    raise error_for(Code.PLAN_NOT_ALLOWED, "not this", detail="private")


def break_down() -> None:
    raise KeyError("a secret value")


def spin() -> None:
    while True:
        pass


def recurse(depth: int = 0) -> int:
    return recurse(depth + 1) + 1


def eat_memory(size_bytes: int) -> int:
    return len(bytearray(size_bytes))


def abort() -> None:
    signal.signal(signal.SIGABRT, signal.SIG_DFL)
    os.abort()


def environment() -> dict[str, str]:
    return dict(os.environ)


def attempt(what: str, place: str) -> str:
    """Try to do what a planning process must not; give the exception's class, or ``done``."""
    try:
        match what:
            case "read":
                Path(place).read_bytes()
            case "write":
                Path(place).write_bytes(b"x")
            case "socket":
                socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            case "unix":
                socket.socket(socket.AF_UNIX)
            case "run":
                subprocess.run([place], check=False)
            case "kill":
                os.kill(os.getppid(), 0)
    except OSError as error:
        return type(error).__name__
    return "done"


class Evil:
    """Pickles as a call of a function that nobody asked for."""

    def __reduce__(self) -> Any:
        return (os.getenv, ("HOME",))


class EvilTree:
    """Pickles as a sqlglot tree whose node is a function of another module."""

    def __reduce__(self) -> Any:
        return (serde.load, ([{serde.CLASS: "os.getcwd"}],))


def evil() -> Evil:
    return Evil()


def evil_tree() -> EvilTree:
    return EvilTree()


def echo(value: Mapping[str, Any]) -> Mapping[str, Any]:
    return value

"""A person with Java: one process of Door.java, asked line by line."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.java.driver import Java

SOURCE = Path(__file__).parent / "Door.java"


class JavaError(Exception):
    """What the driver threw."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        super().__init__(f"{told['class']}: {told['message']}")
        self.kind, self.message, self.cause = told["class"], told["message"], told["cause"]


class JavaDoor:
    """The process. ``ask`` gives its answer to one line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, *words: str) -> dict[str, Any]:
        """Say one line and read the answer; what the driver throws is raised here."""
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("a process without pipes")
        assert not any("\t" in word or "\n" in word for word in words), "tabs and lines are Door.java's own"
        self._process.stdin.write("\t".join(words) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"Door.java ended with {self._process.wait(10)}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise JavaError(answer["error"])
        return answer

    def rows(self, *words: str) -> list[dict[str, Any]]:
        """Ask for rows; give each as a mapping from label to value, all values as texts."""
        answer = self.ask(*words)
        labels = [column["label"] for column in answer["columns"]]
        return [dict(zip(labels, map(plain, row), strict=True)) for row in answer["rows"]]


def plain(value: Any) -> Any:
    """Take the class away from a value of the answer."""
    return value if value is None else value[1]


@contextmanager
def java_door(java: Java, log: Path) -> Iterator[JavaDoor]:
    """Run Door.java in a JVM of its own, in UTC; what the driver logs goes into a file."""
    command = [
        str(java.launcher),
        "--add-opens=java.base/java.nio=ALL-UNNAMED",
        "-Duser.timezone=UTC",
        "-Xmx512m",
        "-cp",
        str(java.jar),
        str(SOURCE),
    ]
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, encoding="utf-8"
        )
        try:
            yield JavaDoor(process)
        finally:
            if process.stdin is not None:
                process.stdin.close()  # the end of its input is its end
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def url(address: str, properties: Mapping[str, str]) -> str:
    """Give the driver's URL; what it does not know itself it sends as a header of every call."""
    shown = "&".join(
        f"{name}={quote(value, safe='')}" for name, value in {"useEncryption": "true", **properties}.items()
    )
    return f"jdbc:arrow-flight-sql://{address}/?{shown}"

"""The peer ``duckdb_postgres``: what a user would do today, DuckDB 1.5.5 attached to the departments' PostgreSQL databases.

DuckDB 2 has no postgres extension yet, so the peer is a process of its own with its own environment in the cache.
"""

from __future__ import annotations

import json
import queue
import subprocess
import threading
from collections.abc import Callable, Mapping
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from benchmarks.harness import Answer, SideTimeout
from benchmarks.peers_postgres import Databases, PeerError
from benchmarks.tpch_data import environment

WHEELS = ("duckdb==1.5.5", "duckdb-extension-postgres-scanner==1.5.5", "duckdb-extensions==1.5.5")
THREADS = 2
GRACE_S = 15.0  # beyond the limit: a child that heeds no interrupt by then is ended and started anew
_CHILD = Path(__file__).with_name("peers_attached_child.py")
_TAGS: Mapping[str, Callable[[str], Any]] = {
    "decimal": Decimal,
    "date": date.fromisoformat,
    "datetime": datetime.fromisoformat,
}


class DuckdbPostgres:
    """DuckDB with the four databases attached; the schema ``public`` of each is found by its name alone.

    Args:
        limit_s: for one query.
    """

    name = "duckdb_postgres"

    def __init__(self, found: Databases, *, limit_s: float, budget_s: float) -> None:
        self.budget_s = budget_s
        self._limit_s = limit_s
        self._python = environment("duckdb-postgres", WHEELS) / "python"
        where = urlsplit(found.url)
        login = f"host={where.hostname} port={where.port} user={where.username} password={where.password}"
        self._attach = {"attach": {name: f"{login} dbname={name}" for name in found.members}, "threads": THREADS}
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [str(self._python), "-I", str(_CHILD)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, args=(self._process, self._lines), daemon=True).start()
        self.versions = self._ask(self._attach, 60.0)["versions"]

    @staticmethod
    def _read(process: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
        for line in process.stdout or ():
            lines.put(line)
        lines.put("")

    def _ask(self, request: dict[str, Any], limit_s: float) -> dict[str, Any]:
        if self._process.stdin is None:
            raise PeerError("duckdb_postgres: its process has no input")
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._lines.get(timeout=limit_s)
        if not line:
            raise PeerError(f"duckdb_postgres: its process ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> DuckdbPostgres:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()

    def run(self, name: str, sql: str) -> Answer:
        """Answer one query; the time is the child's own.

        Raises:
            SideTimeout: it took longer than the limit.
        """
        try:
            done = self._ask({"sql": sql, "limit_s": self._limit_s}, self._limit_s + GRACE_S)
        except queue.Empty:
            self._process.kill()
            self._process.wait()
            self._start()
            raise SideTimeout(self._limit_s) from None
        if done.get("timeout"):
            raise SideTimeout(self._limit_s)
        if "error" in done:
            raise PeerError(done["error"])
        return Answer([tuple(_value(value) for value in row) for row in done["rows"]], done["elapsed_s"])


def _value(value: Any) -> Any:
    return _TAGS[value[0]](value[1]) if isinstance(value, list) else value

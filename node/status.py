"""The status file that ``tidegate node status`` shows: written whole by the serving process at each change; no secrets."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from node.link import LinkState
from tidegate.core.canonical import parse_json
from tidegate.core.clock import Clock, timestamp
from tidegate.core.errors import Code, error_for

STATUS_FILE = "status.json"
STATUS_BYTES_MAX = 1 << 20


class StatusFile:
    """The writer's side. Thread-safe; one per process."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._path = folder / STATUS_FILE
        self._clock = clock
        self._lock = threading.Lock()
        self._links: dict[str, LinkState] = {}
        self._facts: dict[str, Any] = {}

    def describe(self, facts: Mapping[str, Any]) -> None:
        """Set what does not depend on a link, and write."""
        with self._lock:
            self._facts = dict(facts)
            self._write()

    def link(self, state: LinkState) -> None:
        """Take a link's state, and write."""
        with self._lock:
            self._links[state.address] = LinkState(**asdict(state))
            self._write()

    def remove(self) -> None:
        """The process ends."""
        with self._lock:
            self._path.unlink(missing_ok=True)

    def _write(self) -> None:
        document = {
            **self._facts,
            "pid": os.getpid(),
            "written_at": timestamp(self._clock.now()),
            "brokers": [asdict(state) for state in self._links.values()],
        }
        temporary = self._path.with_suffix(".new")
        temporary.write_text(json.dumps(document, indent=2), encoding="utf-8")
        temporary.replace(self._path)  # a reader sees all of the old or all of the new


def read_status(folder: Path) -> dict[str, Any]:
    """Read the file of a serving process.

    Raises:
        PeerError: CLIENT_UNREACHABLE when none serves from this folder.
    """
    try:
        document = parse_json((folder / STATUS_FILE).read_bytes(), size_bytes_max=STATUS_BYTES_MAX)
    except FileNotFoundError as error:
        raise error_for(Code.CLIENT_UNREACHABLE, "node: not running; start it with `tidegate node serve`") from error
    if not isinstance(document, dict) or not _alive(document.get("pid")):
        raise error_for(Code.CLIENT_UNREACHABLE, "node: not running any more; its last status file is stale")
    return document


def _alive(pid: object) -> bool:
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # it runs as another user
    return True

"""When to copy, and what a copy's age means: every snapshot of a node, refreshed at its interval by one thread each.

An answer over a snapshot names the time of exactly the copy that was read. Past the dataset's promise it is refused, or
answered and flagged, as the dataset says. A copy that cannot be made leaves the one before in place and is tried again, soon at
first and then less often; its age tells.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import structlog

from node import snapshot
from node.postgres import PostgresSource
from node.sections import duration_text
from node.snapshot import Copy
from tidegate.core.clock import Clock
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.names import DatasetName

RETRY_S = 10.0  # after the first failure; doubled up to the interval itself
JITTER = 0.1  # of the interval, so that a department's nodes do not all ask its database at once
COPY_S_MAX = 4 * 3600.0


@dataclass(frozen=True, slots=True)
class Terms:
    """How one dataset's snapshot is kept.

    Args:
        refresh_s: from the start of one copy to the start of the next.
        promise_s: how old an answer may be; 0 promises nothing.
        stale: what happens past the promise.
        bytes_max: of the file; while a copy is made there are two.
    """

    refresh_s: float
    promise_s: float = 0.0
    stale: Literal["refuse", "flag"] = "refuse"
    bytes_max: int = 16 << 30


class Snapshot:
    """One dataset's copy. ``open`` first; thread-safe after it."""

    def __init__(
        self,
        name: DatasetName,
        terms: Terms,
        source: PostgresSource,
        table: tuple[str, str],
        path: Path,
        *,
        clock: Clock,
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self.name, self.terms, self.path = name, terms, path
        self._source, self._table = source, table
        self._clock = clock
        self._log = log.bind(dataset=str(name))
        self._stop = threading.Event()
        self._asked = threading.Event()
        self._lock = threading.Lock()
        self._copies: dict[tuple[int, int, int], Copy] = {}  # guarded by _lock: the newest and the one before it
        self._problem = ""  # guarded by _lock
        self._failures = 0
        self._thread: threading.Thread | None = None

    def open(self) -> Copy:
        """Have a copy: the one that is there if it is younger than the interval, else a new one, else the old one.

        Raises:
            TidegateError: as ``snapshot.take``, when there is no copy at all to begin with.
        """
        snapshot.remove(self.path.with_name(self.path.name + ".new"))  # of a process that was killed
        found = snapshot.load(self.path)
        if found is not None:
            self._keep(found)
            if 0 <= self.age_s(found) < self.terms.refresh_s:
                return found
        try:
            return self._take(expected=None)
        except TidegateError as error:
            if found is None:
                raise
            self._failed(error)
            return found

    def start(self) -> None:
        """Begin to refresh."""
        self._thread = threading.Thread(target=self._run, name=f"snapshot-{self.name.name}", daemon=True)
        self._thread.start()

    def refresh(self) -> None:
        """Copy now rather than when it is due."""
        self._asked.set()

    def close(self) -> None:
        """Stop; a copy under way is given up."""
        self._stop.set()
        self._asked.set()
        if self._thread is not None:
            self._thread.join()

    @property
    def serving(self) -> str:
        """Say in the catalogue how the dataset is served."""
        said = f"snapshot, copied every {duration_text(self.terms.refresh_s)}"
        if not self.terms.promise_s:
            return said
        past = "refused" if self.terms.stale == "refuse" else "flagged"
        return f"{said}, past {duration_text(self.terms.promise_s)} {past}"

    @property
    def copy(self) -> Copy:
        """The newest copy."""
        with self._lock:
            return list(self._copies.values())[-1]

    def age_s(self, copy: Copy) -> float:
        """Give the age of a copy in seconds."""
        return float((self._clock.now() - copy.as_of) / timedelta(seconds=1))

    def copy_of(self, file: tuple[int, int, int]) -> Copy | None:
        """Give the copy that a file is, if it is still known."""
        with self._lock:
            return self._copies.get(file)

    def past_promise(self, copy: Copy) -> bool:
        """Say whether a copy is older than was promised."""
        return bool(self.terms.promise_s) and self.age_s(copy) > self.terms.promise_s

    def check(self) -> None:
        """Refuse when the newest copy is past its promise and the dataset says so.

        Raises:
            PeerError: NODE_STALE.
        """
        copy = self.copy
        if self.terms.stale == "refuse" and self.past_promise(copy):
            raise error_for(
                Code.NODE_STALE,
                f"dataset {self.name}: its copy is as of {moment_text(copy.as_of)}, "
                f"past the promise of {duration_text(self.terms.promise_s)}",
            )

    def words(self, copy: Copy) -> str:
        """Say in an answer's report how old the data is."""
        said = f"{self.name}: snapshot as of {moment_text(copy.as_of)}"
        if self.past_promise(copy):
            return f"{said}, past its promise of {duration_text(self.terms.promise_s)}"
        return said

    def facts(self) -> Mapping[str, Any]:
        """Give what ``tidegate node status`` shows."""
        copy = self.copy
        with self._lock:
            problem = self._problem
        return {
            "as_of": moment_text(copy.as_of),
            "refresh": duration_text(self.terms.refresh_s),
            "promise": duration_text(self.terms.promise_s) if self.terms.promise_s else "",
            "stale": self.past_promise(copy),
            "bytes": copy.bytes,
            "problem": problem,
        }

    # -- the refreshing thread

    def _run(self) -> None:
        while not self._stop.is_set():
            self._asked.wait(self._wait_s())
            self._asked.clear()
            if self._stop.is_set():
                return
            try:
                self._take(expected=self.copy.columns)
            except TidegateError as error:
                self._failed(error)
            except Exception as error:  # noqa: BLE001 - a refresh must not end its thread in silence; the old copy serves on
                self._failed(error_for(Code.INTERNAL, detail=type(error).__name__))

    def _wait_s(self) -> float:
        if self._failures:
            wait_s = min(RETRY_S * 2.0 ** (self._failures - 1), self.terms.refresh_s)
        else:
            wait_s = max(self.terms.refresh_s - self.age_s(self.copy), 0.0)
        return wait_s * (1 - JITTER * secrets.randbelow(1000) / 1000)

    def _take(self, expected: tuple[tuple[str, str, bool], ...] | None) -> Copy:
        made = snapshot.take(
            self._source,
            self._table,
            self.path,
            bytes_max=self.terms.bytes_max,
            deadline_s=COPY_S_MAX,
            clock=self._clock,
            stop=self._stop,
            expected=expected,
        )
        self._keep(made)
        self._log.info("snapshot taken", rows=made.rows, bytes=made.bytes, as_of=moment_text(made.as_of))
        return made

    def _keep(self, copy: Copy) -> None:
        with self._lock:
            before = list(self._copies.items())[-1:]
            self._copies = {**dict(before), copy.file: copy}
            self._problem = ""
        self._failures = 0

    def _failed(self, error: TidegateError) -> None:
        if self._stop.is_set():
            return
        self._failures += 1
        with self._lock:
            self._problem = error.message
        self._log.warning("snapshot not taken", problem=str(error), detail=error.detail, failures=self._failures)


class Reading:
    """What an answer reads of snapshots, held from before its worker was chosen until after.

    The file's identity before and after tells which copy a worker was made from: when they differ, the answer is begun anew.
    """

    def __init__(self, snapshots: Iterable[Snapshot]) -> None:
        self._snapshots = tuple(snapshots)
        for item in self._snapshots:
            item.check()
        self._files = self._now()

    def _now(self) -> tuple[tuple[int, int, int], ...]:
        return tuple(snapshot.file_of(item.path) for item in self._snapshots)

    def settled(self) -> bool:
        """Say whether no copy was replaced since."""
        return self._now() == self._files and None not in self._copies()

    def _copies(self) -> list[Copy | None]:
        return [item.copy_of(file) for item, file in zip(self._snapshots, self._files, strict=True)]

    def words(self) -> tuple[str, ...]:
        """Say how old what was read is, dataset by dataset."""
        pairs = zip(self._snapshots, self._copies(), strict=True)
        return tuple(item.words(copy) for item, copy in pairs if copy is not None)


class Snapshots:
    """All snapshots of a node, in a folder of their own. ``open`` them, then ``start``."""

    def __init__(self, folder: Path, *, clock: Clock, log: structlog.stdlib.BoundLogger) -> None:
        self._folder = folder
        self._clock, self._log = clock, log
        self._held: dict[DatasetName, Snapshot] = {}

    def open(self, name: DatasetName, terms: Terms, source: PostgresSource, table: tuple[str, str]) -> Snapshot:
        """Give a dataset's snapshot; takes a copy the first time, unless there is one that is young enough.

        Raises:
            TidegateError: as ``Snapshot.open``.
        """
        if name not in self._held:
            path = self._folder / f"{name.name}.duckdb"
            made = Snapshot(name, terms, source, table, path, clock=self._clock, log=self._log)
            made.open()
            self._held[name] = made
        return self._held[name]

    def start(self) -> None:
        """Remove what belongs to no dataset any more, and begin to refresh."""
        sweep(self._folder, (item.path for item in self._held.values()))
        for item in self._held.values():
            item.start()

    def close(self) -> None:
        """Stop refreshing."""
        for item in self._held.values():
            item.close()

    def ages(self) -> Mapping[str, float]:
        """Give the age of each dataset's newest copy, in seconds."""
        return {str(name): item.age_s(item.copy) for name, item in self._held.items()}

    def facts(self, name: DatasetName) -> Mapping[str, Any]:
        """Give what ``tidegate node status`` shows of a dataset; empty when it is no snapshot."""
        return self._held[name].facts() if name in self._held else {}


def sweep(folder: Path, kept: Iterable[Path]) -> None:
    """Remove copies of datasets that are snapshots no more, and what killed processes left."""
    if not folder.is_dir():
        return
    names = {path.name for path in kept}
    for item in folder.iterdir():
        if item.name not in names and item.is_file():
            item.unlink()


def moment_text(moment: datetime) -> str:
    """Print a time for people and records: UTC, whole seconds (rounded down: never younger than it is)."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

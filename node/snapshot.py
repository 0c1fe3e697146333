"""Snapshots: the node's own copy of a PostgreSQL table, taken at a stated interval, as old as it says that it is.

A copy is one read-only REPEATABLE READ transaction streamed into a new DuckDB file, made durable and renamed over the old one:
whoever reads sees all of the old copy or all of the new one, and a crash in the middle leaves the old one. Workers find the new
file at their next job (``engine.pool`` replaces those that were made from another file). The time of the copy stands in the
file itself; ``node.snapshots`` decides when to copy and what a copy's age means for an answer.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa

from node.postgres import PostgresColumn, PostgresSource, quote
from tidegate.core.clock import Clock
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.names import is_strict_name

TABLE = "data"  # of the copy, in the file's schema main
_FACTS = "tidegate_copy"
_LAYOUT = 1  # of the file; another one is copied anew
_MEMORY = "256MB"
_SIZE_CHECK_BATCHES = 16


@dataclass(frozen=True, slots=True)
class Copy:
    """A finished copy.

    Args:
        as_of: when its transaction began, by the node's clock: the copy lacks nothing that was committed before.
        file: (device, inode, modification time in ns) of its file, to tell it from the one before and the one after.
        columns: (name, DuckDB type, nullable), in order.
    """

    as_of: datetime
    file: tuple[int, int, int]
    columns: tuple[tuple[str, str, bool], ...]
    rows: int
    bytes: int


def take(
    source: PostgresSource,
    table: tuple[str, str],
    path: Path,
    *,
    bytes_max: int,
    deadline_s: float,
    clock: Clock,
    stop: threading.Event,
    expected: tuple[tuple[str, str, bool], ...] | None = None,
) -> Copy:
    """Copy a table into ``path``; the file that is there stays until the new one is complete and durable.

    Args:
        table: schema and name at the source.
        bytes_max: what the new file may hold on disk.
        expected: the columns that the table must have (those that the node was started with), or None.

    Raises:
        TidegateError: NODE_EXECUTE (database away, no room, a value that the exchange cannot carry), QUERY_CANCELLED
            (``stop``), CONFIG_INVALID (no such table, or another shape than expected).
    """
    new = path.with_name(path.name + ".new")
    remove(new)
    try:
        found = _columns(source, table)
        if expected is not None and found != expected:
            raise error_for(
                Code.CONFIG_INVALID, "snapshot: the table changed its columns; restart the node to serve them"
            )
        as_of = clock.now().astimezone(UTC)
        rows = _fill(new, source, table, found, as_of, bytes_max, deadline_s, stop)
        _durable(new)
        new.replace(path)
        _sync_folder(path.parent)
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        raise error_for(Code.NODE_EXECUTE, "snapshot: the copy failed", detail=type(error).__name__) from error
    finally:
        remove(new)
    return Copy(as_of, file_of(path), found, rows, path.stat().st_size)


def load(path: Path) -> Copy | None:
    """Give what is known of the copy at ``path``; None when there is none that this version made whole."""
    if not path.exists():
        return None
    try:
        with duckdb.connect(str(path), read_only=True) as connection:
            facts = connection.execute(f"SELECT layout, as_of, row_count FROM {_FACTS}").fetchall()  # noqa: S608 - our own name
            described = connection.execute(f"DESCRIBE {TABLE}").fetchall()
    except (duckdb.Error, OSError):
        return None
    if len(facts) != 1 or facts[0][0] != _LAYOUT:
        return None
    columns = tuple((str(row[0]), str(row[1]), row[2] != "NO") for row in described)
    as_of = datetime.fromisoformat(facts[0][1])
    return Copy(as_of, file_of(path), columns, int(facts[0][2]), path.stat().st_size)


def file_of(path: Path) -> tuple[int, int, int]:
    """Give what tells a file from another one under its name; zeros when there is none."""
    try:
        state = path.stat()
    except OSError:
        return (0, 0, 0)
    return (state.st_dev, state.st_ino, state.st_mtime_ns)


def remove(path: Path) -> None:
    """Remove a copy and what DuckDB keeps beside it."""
    for item in (path, path.with_name(path.name + ".wal"), path.with_name(path.name + ".tmp")):
        item.unlink(missing_ok=True) if not item.is_dir() else None


def _columns(source: PostgresSource, table: tuple[str, str]) -> tuple[tuple[str, str, bool], ...]:
    """Give the columns that the exchange can carry; the others stay where they are."""
    found = source.columns(".".join(table))
    kept = tuple(_canonical(column) for column in found if column.type and is_strict_name(column.name))
    if not kept:
        raise error_for(Code.CONFIG_INVALID, "snapshot: the table is not there, or no column of it can be served")
    return kept


def _canonical(column: PostgresColumn) -> tuple[str, str, bool]:
    return column.name, column.type, column.nullable


def _fill(
    new: Path,
    source: PostgresSource,
    table: tuple[str, str],
    columns: tuple[tuple[str, str, bool], ...],
    as_of: datetime,
    bytes_max: int,
    deadline_s: float,
    stop: threading.Event,
) -> int:
    new.parent.mkdir(parents=True, exist_ok=True, mode=0o700)  # nobody else looks into it
    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": _MEMORY,
        "threads": 1,
        "temp_directory": "",
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
    }
    connection = duckdb.connect(str(new), config=settings)
    try:
        new.chmod(0o600)
        connection.execute("SET TimeZone = 'UTC'")
        spelled = ", ".join(
            f"{quote(name)} {kind}{'' if nullable else ' NOT NULL'}" for name, kind, nullable in columns
        )
        connection.execute(f"CREATE TABLE {TABLE} ({spelled})")
        named = [(name, kind) for name, kind, _ in columns]
        with source.stream(table, named, stop=stop, deadline_s=deadline_s) as (schema, batches):
            checked = pa.RecordBatchReader.from_batches(schema, _within(batches, new, bytes_max))
            connection.register("incoming", checked)
            try:
                connection.execute(f"INSERT INTO {TABLE} SELECT * FROM incoming")  # noqa: S608 - our own names
            except duckdb.Error as error:
                raise _told(error, stop) from error
            connection.unregister("incoming")
        rows = int(connection.execute(f"SELECT count(*) FROM {TABLE}").fetchall()[0][0])  # noqa: S608
        connection.execute(f"CREATE TABLE {_FACTS} (layout INTEGER, as_of VARCHAR, row_count BIGINT)")
        connection.execute(f"INSERT INTO {_FACTS} VALUES (?, ?, ?)", [_LAYOUT, as_of.isoformat(), rows])  # noqa: S608
        connection.execute("CHECKPOINT")
    finally:
        connection.close()
    if new.stat().st_size > bytes_max:
        raise _too_large()
    return rows


def _within(reader: Iterator[pa.RecordBatch], new: Path, bytes_max: int) -> Iterator[pa.RecordBatch]:
    """Pass batches on while the new file keeps within its limit."""
    wal = new.with_name(new.name + ".wal")
    for number, batch in enumerate(reader):
        if number % _SIZE_CHECK_BATCHES == 0:
            size = sum(item.stat().st_size for item in (new, wal) if item.exists())
            if size > bytes_max:
                raise _too_large()
        yield batch


def _too_large() -> TidegateError:
    return error_for(Code.NODE_EXECUTE, "snapshot: the copy is larger than the disk that it may use (snapshot_mib)")


def _told(error: duckdb.Error, stop: threading.Event) -> TidegateError:
    """Give what the stream raised: DuckDB wraps it into an error of its own, whose text may quote a value."""
    if stop.is_set():
        return error_for(Code.QUERY_CANCELLED)
    if "snapshot_mib" in str(error):
        return _too_large()
    return error_for(Code.NODE_EXECUTE, "snapshot: the copy failed", detail=type(error).__name__)


def _durable(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""What a worker is made of, what a job is, what a job gives: the values at the door of the engine room.

A spec is configuration and is trusted. A job's SQL has passed two walls (tidegate.sql); the worker trusts it no more for that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tidegate.core.errors import Code, error_for
from tidegate.core.limits import LEAF_BYTES_MAX, ROWS_MAX
from tidegate.core.names import is_strict_name

if TYPE_CHECKING:  # a worker has no use for a parser, and importing one takes as long as all else that it does at start
    from tidegate.sql.model import RenderedSql

MEMORY_LIMIT_BYTES = 512 << 20  # DuckDB's own limit; what spills or fails beyond it
ADDRESS_SPACE_BYTES = (
    2 << 30
)  # RLIMIT_AS beyond what an idle worker has reserved; values in expressions heed only this one
SPILL_BYTES_MAX = 4 << 30  # a worker's spill file system is usually tmpfs, so this is memory too
THREADS_MAX = 64

FileFormat = Literal["parquet", "csv", "duckdb"]


@dataclass(frozen=True, slots=True)
class FileTable:
    """A dataset that a worker reads from files: it appears in SQL as ``schema.name``.

    Args:
        schema: the department.
        name: the dataset's own name.
        paths: exact files, no patterns; for ``duckdb`` none, the file is attached by ``WorkerSpec.databases``.
        format: how to read them.
        columns: (name, DuckDB type) of every column that SQL may see, in order; no other column of the file exists.
            An empty type keeps the file's own (not for CSV).
        database: for ``duckdb``, the alias in ``WorkerSpec.databases``.
        relation: for ``duckdb``, (schema, table) in that database.
        options: for ``csv``, reader options: ``delim``, ``quote``, ``escape``, ``nullstr``, ``header``, ``encoding`` ...
    """

    schema: str
    name: str
    paths: tuple[str, ...]
    format: FileFormat
    columns: tuple[tuple[str, str], ...]
    database: str = ""
    relation: tuple[str, str] = ("main", "")
    options: Mapping[str, str | bool | tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a table that the worker could not make."""
        names = [self.schema, self.name, *(name for name, _ in self.columns)]
        if not all(is_strict_name(name) for name in names) or not self.columns:
            raise error_for(Code.CONFIG_INVALID, "file table: schema, name and columns must be strict names")
        expected = (False, True) if self.format == "duckdb" else (True, False)
        if (bool(self.paths), bool(self.database)) != expected:
            raise error_for(
                Code.CONFIG_INVALID, "file table: expected paths for parquet and csv, a database alias for duckdb"
            )
        if any(set(path) & set("*?[]{}") or not Path(path).is_absolute() for path in self.paths):
            raise error_for(Code.CONFIG_INVALID, "file table: paths must be absolute and hold no pattern")


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """How a worker process is built. The pool's workers are all alike.

    Args:
        kind: ``join`` reads nothing but its inputs; ``files`` reads the named files too.
        memory_limit_bytes: DuckDB's memory_limit; also the limit of a job's inputs.
        address_space_bytes: RLIMIT_AS beyond what the idle worker has reserved.
        threads: DuckDB's threads.
        temp_directory: folder for spill, on tmpfs or encrypted; each worker makes a private folder in it, removed at its
            end and at the pool's start. None: no spill, a query that needs it fails. Not used with databases attached.
        databases: (path of a DuckDB file, alias), attached read-only.
        files: the datasets that SQL may name.
        sandbox_required: refuse to start where the kernel has no Landlock or no seccomp filter.
    """

    kind: Literal["join", "files"] = "join"
    memory_limit_bytes: int = MEMORY_LIMIT_BYTES
    address_space_bytes: int = ADDRESS_SPACE_BYTES
    threads: int = 1
    temp_directory: str | None = None
    databases: tuple[tuple[str, str], ...] = ()
    files: tuple[FileTable, ...] = ()
    spill_bytes_max: int = SPILL_BYTES_MAX
    sandbox_required: bool = False

    def __post_init__(self) -> None:
        """Refuse contradictions before any process is started."""
        if (
            not 1 <= self.threads <= THREADS_MAX
            or self.memory_limit_bytes < 16 << 20
            or self.address_space_bytes < 64 << 20
        ):
            raise error_for(Code.CONFIG_INVALID, "worker: threads or memory limits are out of range")
        if self.kind == "join" and (self.databases or self.files):
            raise error_for(Code.CONFIG_INVALID, "worker: a join worker reads no files")
        aliases = [alias for _, alias in self.databases]
        if len(set(aliases)) != len(aliases) or not all(is_strict_name(alias) for alias in aliases):
            raise error_for(Code.CONFIG_INVALID, "worker: database aliases must be strict names, each once")
        if any(table.database not in aliases for table in self.files if table.format == "duckdb"):
            raise error_for(Code.CONFIG_INVALID, "worker: a table names a database that is not attached")
        if any(not Path(path).is_absolute() for path, _ in self.databases):
            raise error_for(Code.CONFIG_INVALID, "worker: database paths must be absolute")

    def to_json(self) -> dict[str, Any]:
        """Give the form in which a spec goes to its worker."""
        return {
            "kind": self.kind,
            "memory_limit_bytes": self.memory_limit_bytes,
            "address_space_bytes": self.address_space_bytes,
            "threads": self.threads,
            "temp_directory": self.temp_directory,
            "databases": [list(pair) for pair in self.databases],
            "files": [_table_json(table) for table in self.files],
            "spill_bytes_max": self.spill_bytes_max,
            "sandbox_required": self.sandbox_required,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> WorkerSpec:
        """Read what ``to_json`` wrote. Trust: our own parent process."""
        fields = dict(data)
        fields["databases"] = tuple((path, alias) for path, alias in data["databases"])
        fields["files"] = tuple(_table_of(item) for item in data["files"])
        return cls(**fields)


def _table_json(table: FileTable) -> dict[str, Any]:
    return {
        "schema": table.schema,
        "name": table.name,
        "paths": list(table.paths),
        "format": table.format,
        "columns": [list(pair) for pair in table.columns],
        "database": table.database,
        "relation": list(table.relation),
        "options": {key: list(value) if isinstance(value, tuple) else value for key, value in table.options.items()},
    }


def _table_of(data: Mapping[str, Any]) -> FileTable:
    fields = dict(data)
    fields["paths"] = tuple(data["paths"])
    fields["columns"] = tuple((name, kind) for name, kind in data["columns"])
    fields["relation"] = (data["relation"][0], data["relation"][1])
    fields["options"] = {k: tuple(v) if isinstance(v, list) else v for k, v in data["options"].items()}
    return FileTable(**fields)


KeyKind = Literal["integer", "text", "date"]


@dataclass(frozen=True, slots=True)
class KeyShape:
    """What an input that holds keys must be: one column ``k`` of that kind, no NULL, exactly so many rows."""

    kind: KeyKind
    rows: int


@dataclass(frozen=True, slots=True)
class Job:
    """One query.

    Args:
        setup: statements of our own making, run before the query in the same session (CREATE TEMP SECURE VIEW ...).
        sql: the query; exactly one SELECT.
        inputs: Arrow streams as ``tidegate.ipc`` cuts them, by the name under which SQL sees them: ``f0`` or
            ``department.dataset``. Each is read once, by a thread of its own; an error that an iterator raises ends the
            job and is raised by ``run``. An iterator must end by itself when its query is cancelled.
        keys: which inputs hold keys; a worker refuses one that is not what is said here (FETCH_INVALID_DATA).
        rows_max, bytes_max: of the answer.
        input_bytes_max: of all inputs together; None means the worker's memory limit.
        streamed: inputs that may pass through without being held, however large they are, where the engine's plan reads
            them once from beginning to end (``engine.streamed``); the worker decides.
    """

    setup: tuple[str, ...]
    sql: RenderedSql
    inputs: Mapping[str, Iterator[bytes]] = field(default_factory=dict)
    keys: Mapping[str, KeyShape] = field(default_factory=dict)
    rows_max: int = ROWS_MAX
    bytes_max: int = LEAF_BYTES_MAX
    input_bytes_max: int | None = None
    streamed: frozenset[str] = frozenset()

"""Make a DuckDB instance that can read exactly what its spec names, and then lock it.

Three recipes (reference hardening 10.1, design planner.md), each ending in ``lock_configuration``:
* nothing but inputs, or attached database files: no external access, and no local file system at all once the files are open
  (without that, read_blob of an attached file works);
* Parquet and CSV: no external access, ``allowed_paths`` for exactly the data sets' files;
* with spill: no external access, a private temp_directory that holds nothing else.

DuckDB calls none of this a security boundary; the process around it is (engine.sandbox).
"""

from __future__ import annotations

import re

import duckdb

from engine.spec import FileTable, WorkerSpec
from tidegate.core.errors import Code, error_for

_CONNECT: dict[str, str | bool | int | float | list[str]] = {
    "autoload_known_extensions": "false",
    "autoinstall_known_extensions": "false",
    "allow_community_extensions": "false",
    "python_enable_replacements": "false",
    "python_scan_all_frames": "false",
}
_TYPE = re.compile(r"[A-Za-z][A-Za-z0-9_ (),\[\]\"]*\Z")
_CSV_OPTIONS = frozenset(
    [
        "delim",
        "quote",
        "escape",
        "nullstr",
        "header",
        "encoding",
        "dateformat",
        "timestampformat",
        "decimal_separator",
        "comment",
        "compression",
    ]
)
_CSV_DEFAULTS: dict[str, str | bool | tuple[str, ...]] = {"delim": ",", "quote": '"', "escape": '"', "header": True}


def open_instance(spec: WorkerSpec, spill_folder: str | None) -> duckdb.DuckDBPyConnection:
    """Connect, attach, make the data sets' views, lock.

    Raises:
        CallerError: CONFIG_INVALID when a file cannot be read as the spec says.
    """
    connection = duckdb.connect(":memory:", config=_CONNECT | {"threads": str(spec.threads)})
    paths = [path for table in spec.files for path in table.paths]
    before = [
        f"SET GLOBAL temp_directory = {text(spill_folder or '')}",
        f"SET GLOBAL max_temp_directory_size = '{spec.spill_bytes_max if spill_folder else 0} bytes'",
        "SET GLOBAL allow_persistent_secrets = false",
        f"SET GLOBAL memory_limit = '{spec.memory_limit_bytes} bytes'",
        "SET GLOBAL TimeZone = 'UTC'",
        *(f"ATTACH {text(path)} AS {name(alias)} (READ_ONLY)" for path, alias in spec.databases),
        *([f"SET GLOBAL allowed_paths = [{', '.join(text(path) for path in paths)}]"] if paths else []),
    ]
    for statement in before:
        _do(connection, statement)
    for table in spec.files:
        _do(connection, f"CREATE SCHEMA IF NOT EXISTS {name(table.schema)}")
        _do(connection, f"CREATE VIEW {name(table.schema)}.{name(table.name)} AS {_select(connection, table)}")
    _do(connection, "SET GLOBAL enable_external_access = false")
    if not paths and not spill_folder:
        _do(connection, "SET GLOBAL disabled_filesystems = 'LocalFileSystem'")
    _do(connection, "SET GLOBAL lock_configuration = true")
    return connection


def name(identifier: str) -> str:
    """Quote an identifier."""
    return '"' + identifier.replace('"', '""') + '"'


def text(value: str) -> str:
    """Quote a text literal. For configuration only: a caller's text is always a parameter."""
    if "\x00" in value:
        raise error_for(Code.CONFIG_INVALID, "worker: a configured text holds a NUL")
    return "'" + value.replace("'", "''") + "'"


def _do(connection: duckdb.DuckDBPyConnection, statement: str) -> None:
    try:
        connection.execute(statement)
    except duckdb.Error as error:
        what = " ".join(statement.split()[:2])
        raise error_for(
            Code.CONFIG_INVALID, f"worker: the engine refused to be set up ({what})", detail=str(error)[:500]
        ) from error


def _select(connection: duckdb.DuckDBPyConnection, table: FileTable) -> str:
    if any(kind and not _TYPE.match(kind) for _, kind in table.columns):
        raise error_for(Code.CONFIG_INVALID, "worker: a column's type is not a type")
    source = _source(connection, table)
    columns = (
        f"CAST({name(c)} AS {kind}) AS {name(c)}" if kind and table.format != "csv" else name(c)
        for c, kind in table.columns
    )
    return f"SELECT {', '.join(columns)} FROM {source}"  # noqa: S608 - quoted names and configured types


def _source(connection: duckdb.DuckDBPyConnection, table: FileTable) -> str:
    if table.format == "duckdb":
        schema, relation = table.relation
        return f"{name(table.database)}.{name(schema)}.{name(relation or table.name)}"
    paths = f"[{', '.join(text(path) for path in table.paths)}]"
    if table.format == "parquet":
        return f"read_parquet({paths})"
    unknown = set(table.options) - _CSV_OPTIONS
    if unknown or not all(kind for _, kind in table.columns):
        raise error_for(Code.CONFIG_INVALID, "worker: a CSV table needs a type for each column, and known options only")
    options = ", ".join(
        f"{key} = {_option(value)}" for key, value in sorted((_CSV_DEFAULTS | dict(table.options)).items())
    )
    return f"read_csv({paths}, {options}, auto_detect = false, columns = {_csv_columns(connection, table, options)})"


def _csv_columns(connection: duckdb.DuckDBPyConnection, table: FileTable, options: str) -> str:
    """Name every column of the file, in its order: the reader goes by position. Those that SQL may not see stay texts."""
    known = dict(table.columns)
    if not table.options.get("header", True):
        found = [column for column, _ in table.columns]
    else:
        try:
            source = f"read_csv({text(table.paths[0])}, {options}, all_varchar = true)"
            rows = connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()  # noqa: S608 - quoted configuration
        except duckdb.Error as error:
            raise error_for(
                Code.CONFIG_INVALID, "worker: a CSV file cannot be read", detail=type(error).__name__
            ) from error
        found = [str(row[0]) for row in rows]
    if set(known) - set(found):
        raise error_for(Code.CONFIG_INVALID, "worker: a CSV file lacks a configured column")
    return "{" + ", ".join(f"{text(column)}: {text(known.get(column, 'VARCHAR'))}" for column in found) + "}"


def _option(value: str | bool | tuple[str, ...]) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return f"[{', '.join(text(item) for item in value)}]"
    return text(value)

"""Where the node's datasets lie, and what its locked workers must be able to read for them.

Files go into the workers' specification: a worker can open exactly these, and a snapshot of a PostgreSQL table is one of them.
Live PostgreSQL tables are not: the serving process asks their database (it alone holds the URL), and where the database cannot
compute an answer itself, hands rows to a worker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import structlog

from engine.spec import FileTable, WorkerSpec
from node.config import DatasetConfig, EngineLimits
from node.describe import DuckDescriber, PostgresDescriber, describe
from node.postgres import PostgresSource, split_table
from node.snapshot import TABLE
from node.snapshots import Snapshot, Snapshots, Terms
from tidegate.core.dataset import Dataset
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.names import DatasetName
from tidegate.sql.postgres_types import NativeTable


@dataclass(frozen=True, slots=True)
class PostgresTable:
    """A dataset that lies in PostgreSQL and is asked for live; ``source`` is one object for each database."""

    source: PostgresSource
    native: NativeTable


class Databases:
    """The PostgreSQL databases of a node, each opened once. Used by the thread that describes."""

    def __init__(self, limits: EngineLimits) -> None:
        self._limits = limits
        self._held: dict[str, PostgresSource] = {}

    def get(self, url: str) -> PostgresSource:
        """Give the database of a URL."""
        if url not in self._held:
            self._held[url] = PostgresSource(url, statement_timeout_s=self._limits.fragment_deadline_s_max)
        return self._held[url]

    def close(self) -> None:
        """Close the connections that are idle."""
        for source in self._held.values():
            source.close()


@dataclass(frozen=True, slots=True)
class Sources:
    """Every dataset of the node, described, with what reads it."""

    datasets: Mapping[DatasetName, Dataset]
    files: tuple[FileTable, ...]
    databases: tuple[tuple[str, str], ...]
    postgres: Mapping[DatasetName, PostgresTable]
    snapshots: Mapping[DatasetName, Snapshot] = field(default_factory=dict)

    def worker_spec(self, limits: EngineLimits) -> WorkerSpec:
        """Give the specification of the node's workers."""
        return WorkerSpec(
            kind="files",
            memory_limit_bytes=limits.memory_bytes,
            address_space_bytes=limits.address_space_bytes,
            threads=limits.threads,
            databases=self.databases,
            files=self.files,
            sandbox_required=limits.sandbox == "required",
        )


def open_sources(
    configs: Sequence[DatasetConfig],
    *,
    member: str,
    node: str,
    limits: EngineLimits,
    log: structlog.stdlib.BoundLogger,
    databases: Databases | None = None,
    snapshots: Snapshots | None = None,
) -> Sources:
    """Describe every dataset and say how it is read.

    Args:
        databases: those that were opened before; None opens anew.
        snapshots: of the node; needed where a dataset is one.

    Raises:
        CallerError: CONFIG_INVALID; the message names every dataset that cannot be served.
    """
    problems: list[str] = []
    datasets: dict[DatasetName, Dataset] = {}
    postgres: dict[DatasetName, PostgresTable] = {}
    copies: dict[DatasetName, Snapshot] = {}
    held = databases or Databases(limits)
    files: list[FileTable] = []
    aliases: dict[str, str] = {}
    for config in configs:
        name = DatasetName(member, config.name)
        try:
            if config.source == "postgres" and config.mode == "snapshot":
                copies[name] = _snapshot(config, name, held, snapshots)
                config = _of_copy(config, copies[name])  # from here on it is a file like any other
            table = _live(config, held) if config.source == "postgres" else None
            dataset = _describe(config, table, member=member, node=node, log=log)
        except TidegateError as error:
            log.error("dataset cannot be served", dataset=config.name, code=error.code.value, detail=error.detail)
            problems.append(f"{config.name}: {error.message}")
            continue
        datasets[dataset.name] = dataset
        if table is not None:
            postgres[dataset.name] = table
        else:
            files.append(_file_table(config, dataset, aliases))
    if problems:
        raise error_for(Code.CONFIG_INVALID, "datasets: " + "; ".join(problems))
    attached = tuple((path, alias) for path, alias in aliases.items())
    return Sources(datasets=datasets, files=tuple(files), databases=attached, postgres=postgres, snapshots=copies)


def _snapshot(config: DatasetConfig, name: DatasetName, databases: Databases, snapshots: Snapshots | None) -> Snapshot:
    if snapshots is None:
        raise error_for(Code.CONFIG_INVALID, "snapshot: only a node that keeps state can have one")
    terms = Terms(config.refresh_s, config.promise_s, config.stale, config.snapshot_bytes_max)
    return snapshots.open(name, terms, databases.get(config.url), split_table(config.table))


def _of_copy(config: DatasetConfig, copy: Snapshot) -> DatasetConfig:
    """Give the configuration of the copy: a table of a DuckDB file, which says of itself what it is a copy of."""
    said = {"serving": copy.serving, **config.extra}
    return replace(config, source="duckdb", paths=(copy.path,), table=TABLE, extra=said)


def _live(config: DatasetConfig, databases: Databases) -> PostgresTable:
    source = databases.get(config.url)
    return PostgresTable(source, source.native(config.table))


def _describe(
    config: DatasetConfig,
    table: PostgresTable | None,
    *,
    member: str,
    node: str,
    log: structlog.stdlib.BoundLogger,
) -> Dataset:
    if table is not None:
        live = replace(config, extra={"serving": "live", **config.extra})
        return describe(
            live, member=member, node=node, describer=PostgresDescriber(table.source, config.table), log=log
        )
    describer = DuckDescriber(config)
    try:
        return describe(config, member=member, node=node, describer=describer, log=log)
    finally:
        describer.close()


def _file_table(config: DatasetConfig, dataset: Dataset, aliases: dict[str, str]) -> FileTable:
    columns = tuple((column.name, column.type) for column in dataset.columns)
    department, name = dataset.name.department, dataset.name.name
    if config.source == "duckdb":
        alias = aliases.setdefault(str(config.paths[0]), f"file{len(aliases)}")
        schema, _, relation = config.table.rpartition(".")
        return FileTable(department, name, (), "duckdb", columns, database=alias, relation=(schema or "main", relation))
    paths = tuple(str(path) for path in config.paths)
    if config.source == "parquet":
        return FileTable(department, name, paths, "parquet", columns)
    return FileTable(department, name, paths, "csv", columns, options=dict(config.csv_options))

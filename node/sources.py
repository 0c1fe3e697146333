"""Where the node's datasets lie, and what its locked workers must be able to read for them.

Files go into the workers' specification: a worker can open exactly these. PostgreSQL tables do not: the serving process
scans them (it alone holds the URL) and hands the rows to a worker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog

from engine.spec import FileTable, WorkerSpec
from node.config import DatasetConfig, EngineLimits
from node.describe import DuckDescriber, PostgresDescriber, describe
from node.postgres import PostgresSource, split_table
from tidegate.core.dataset import Dataset
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.names import DatasetName


@dataclass(frozen=True, slots=True)
class PostgresTable:
    """A dataset that lies in PostgreSQL."""

    source: PostgresSource
    schema: str
    table: str


@dataclass(frozen=True, slots=True)
class Sources:
    """Every dataset of the node, described, with what reads it."""

    datasets: Mapping[DatasetName, Dataset]
    files: tuple[FileTable, ...]
    databases: tuple[tuple[str, str], ...]
    postgres: Mapping[DatasetName, PostgresTable]

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
) -> Sources:
    """Describe every dataset and say how it is read.

    Raises:
        CallerError: CONFIG_INVALID; the message names every dataset that cannot be served.
    """
    problems: list[str] = []
    datasets: dict[DatasetName, Dataset] = {}
    postgres: dict[DatasetName, PostgresTable] = {}
    files: list[FileTable] = []
    aliases: dict[str, str] = {}
    for config in configs:
        try:
            dataset, table = _open(config, member=member, node=node, limits=limits, log=log)
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
    databases = tuple((path, alias) for path, alias in aliases.items())
    return Sources(datasets=datasets, files=tuple(files), databases=databases, postgres=postgres)


def _open(
    config: DatasetConfig, *, member: str, node: str, limits: EngineLimits, log: structlog.stdlib.BoundLogger
) -> tuple[Dataset, PostgresTable | None]:
    if config.source == "postgres":
        source = PostgresSource(config.url, statement_timeout_s=limits.fragment_deadline_s_max)
        postgres = PostgresDescriber(source, config.table)
        described = describe(config, member=member, node=node, describer=postgres, log=log)
        return described, PostgresTable(source, *split_table(config.table))
    describer = DuckDescriber(config)
    try:
        return describe(config, member=member, node=node, describer=describer, log=log), None
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

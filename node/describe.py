"""What a node holds, in the exchange's words: datasets with columns, types, row counts and harmless statistics.

Made at start and whenever the broker asks. It runs SQL of our own only, over the department's own data. Statistics are not
published for restricted and secret columns, for the subject column, for texts (a least or greatest text is somebody's
value), nor for a closed dataset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import duckdb
import structlog

from node.config import DatasetConfig
from node.postgres import PostgresSource, quote, split_table
from policies.question import MASK_KEY, column_mask
from tidegate.core.dataset import Column, Dataset, DatasetClass
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.names import DatasetName, is_strict_name
from tidegate.sql.families import family
from tidegate.sql.types import parse_type

DISTINCT_EXACT_ROWS_MAX = 2_000_000  # above, distinct values are estimated: a description must not take minutes
_RANGED = ("integer", "decimal", "float", "date", "timestamp", "time")


@dataclass(frozen=True, slots=True)
class FoundColumn:
    """A column as the source has it."""

    name: str
    type: str
    nullable: bool = True


class Describer(Protocol):
    """One source of one dataset, as far as a description needs it."""

    def columns(self) -> Sequence[FoundColumn]:
        """Give the columns in order."""
        ...

    def count(self) -> int:
        """Give the number of rows."""
        ...

    def statistics(
        self, columns: Sequence[FoundColumn], *, exact: bool
    ) -> Sequence[tuple[int, str | None, str | None]]:
        """Give (distinct, least, greatest) of each column; least and greatest are None where a type has no range."""
        ...


class DuckDescriber:
    """Parquet, CSV and DuckDB files, read by DuckDB."""

    def __init__(self, config: DatasetConfig) -> None:
        settings: dict[str, str | bool | int | float | list[str]] = {
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
        }
        database = str(config.paths[0]) if config.source == "duckdb" else ":memory:"
        try:
            self._connection = duckdb.connect(database, read_only=config.source == "duckdb", config=settings)
        except duckdb.Error as error:
            raise _unreadable(error) from error
        self._relation = self._csv(config) if config.source == "csv" else _relation(config)

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def columns(self) -> Sequence[FoundColumn]:
        """Give the columns in order."""
        rows = self._rows(f"DESCRIBE SELECT * FROM {self._relation}")  # noqa: S608 - names from our configuration, quoted
        return [FoundColumn(row[0], _served_as(row[1]), row[2] != "NO") for row in rows]

    def count(self) -> int:
        """Give the number of rows."""
        return int(self._rows(f"SELECT count(*) FROM {self._relation}")[0][0])  # noqa: S608

    def statistics(
        self, columns: Sequence[FoundColumn], *, exact: bool
    ) -> Sequence[tuple[int, str | None, str | None]]:
        """Give (distinct, least, greatest) of each column."""
        return _read_statistics(self._rows(_statistics_sql(self._relation, columns, exact=exact, text="VARCHAR"))[0])

    def _csv(self, config: DatasetConfig) -> str:
        """Guess types once, over every row, then read with exactly these: as the locked worker will, which guesses nothing."""
        files = f"[{', '.join(_literal(str(path)) for path in config.paths)}]"
        options = {"delim": ",", "quote": '"', "escape": '"', **config.csv_options}
        shared = ", ".join(
            ["header = true", *(f"{name} = {_option(value)}" for name, value in sorted(options.items()))]
        )
        types = ", ".join(f"{_literal(name)}: {_literal(text)}" for name, text in config.column_types.items())
        guess = f"read_csv({files}, {shared}, sample_size = -1{f', types = {{{types}}}' if types else ''})"
        rows = self._rows(f"DESCRIBE SELECT * FROM {guess}")  # noqa: S608
        columns = ", ".join(f"{_literal(row[0])}: {_literal(row[1])}" for row in rows)
        return f"read_csv({files}, {shared}, auto_detect = false, columns = {{{columns}}})"

    def _rows(self, sql: str) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(sql).fetchall()
        except duckdb.Error as error:
            raise _unreadable(error) from error


def _unreadable(error: duckdb.Error) -> TidegateError:
    return error_for(
        Code.CONFIG_INVALID, "dataset: its source cannot be read", detail=type(error).__name__
    )  # its text may quote a value


class PostgresDescriber:
    """A PostgreSQL table."""

    def __init__(self, source: PostgresSource, table: str) -> None:
        schema, name = split_table(table)
        self._source, self._table, self._relation = source, table, f"{quote(schema)}.{quote(name)}"

    def columns(self) -> Sequence[FoundColumn]:
        """Give the columns in order."""
        return [FoundColumn(column.name, column.type, column.nullable) for column in self._source.columns(self._table)]

    def count(self) -> int:
        """Give the number of rows."""
        return int(self._source.row(f"SELECT count(*) FROM {self._relation}")[0])  # noqa: S608

    def statistics(
        self, columns: Sequence[FoundColumn], *, exact: bool
    ) -> Sequence[tuple[int, str | None, str | None]]:
        """Give (distinct, least, greatest); always exact: PostgreSQL has no approximate count."""
        del exact
        return _read_statistics(self._source.row(_statistics_sql(self._relation, columns, exact=True, text="text")))


def _relation(config: DatasetConfig) -> str:
    """Give the FROM item of Parquet files or a DuckDB file's table; all of it the department's own configuration."""
    if config.source == "duckdb":
        schema, _, table = config.table.rpartition(".")
        return f"{quote(schema or 'main')}.{quote(table)}"
    return f"read_parquet([{', '.join(_literal(str(path)) for path in config.paths)}])"


def _option(value: str | tuple[str, ...]) -> str:
    return _literal(value) if isinstance(value, str) else f"[{', '.join(_literal(item) for item in value)}]"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _served_as(type_text: str) -> str:
    """Give the type as which a column is served: one of a list of words is a text to whoever does not have the list."""
    return "VARCHAR" if type_text.startswith("ENUM(") and type_text.endswith(")") else type_text


def _has_range(type_text: str) -> bool:
    return family(type_text) in _RANGED


def _statistics_sql(relation: str, columns: Sequence[FoundColumn], *, exact: bool, text: str) -> str:
    parts = []
    for column in columns:
        name = quote(column.name)
        parts.append(f"count(DISTINCT {name})" if exact else f"approx_count_distinct({name})")
        ranged = _has_range(column.type)
        parts.extend(f"CAST({end}({name}) AS {text})" if ranged else "NULL" for end in ("min", "max"))
    return f"SELECT {', '.join(parts)} FROM {relation}"  # noqa: S608 - quoted names of our own source


def _read_statistics(row: tuple[Any, ...]) -> list[tuple[int, str | None, str | None]]:
    return [(int(row[at]), row[at + 1], row[at + 2]) for at in range(0, len(row), 3)]


_TOLD = ("public", "internal")


def describe(
    config: DatasetConfig, *, member: str, node: str, describer: Describer, log: structlog.stdlib.BoundLogger
) -> Dataset:
    """Describe one dataset.

    A column whose name or type the exchange cannot carry is left out, and the log says so.

    Raises:
        CallerError: CONFIG_INVALID when the configuration names a column that the source does not have.
    """
    usable = []
    for found in describer.columns():
        column = _canonical(found)
        if column is None:
            log.warning("column left out", dataset=config.name, column=found.name, type=found.type)
        else:
            usable.append(column)
    _check_names(config, {column.name for column in usable})
    rows = describer.count() if config.dataset_class is not DatasetClass.CLOSED and config.statistics else None
    facts = _statistics(config, usable, describer, rows)
    masks = {MASK_KEY + name: said.mask for name, said in config.columns.items() if said.mask}
    dataset = Dataset(
        name=DatasetName(member, config.name),
        owner=member,
        node=node,
        title=config.title,
        dataset_class=config.dataset_class,
        columns=tuple(_column(config, column, facts) for column in usable),
        description=config.description,
        legal_basis=config.legal_basis,
        citation=config.citation,
        subject_column=config.subject_column,
        keys=config.keys,
        freshness=config.freshness,
        rows=rows,
        tags=config.tags,
        licence=config.licence,
        hidden_from=config.hidden_from,
        bearer_ok=config.bearer_ok,
        extra={**config.extra, **masks},
    )
    for held in dataset.columns:
        _check_mask(dataset, held.name)
    return dataset


def _check_mask(dataset: Dataset, column: str) -> None:
    """Say at start what would otherwise refuse every request."""
    try:
        column_mask(dataset, column)
    except TidegateError as error:
        problem = f"dataset {dataset.name.name}: column {column}: not a mask of the library"
        raise error_for(Code.CONFIG_INVALID, problem, detail=error.detail) from error


def _canonical(column: FoundColumn) -> FoundColumn | None:
    """Give the column with the exchange's spelling of its type; None when the exchange cannot carry it."""
    try:
        return (
            FoundColumn(column.name, parse_type(column.type), column.nullable) if is_strict_name(column.name) else None
        )
    except TidegateError:
        return None


def _check_names(config: DatasetConfig, present: set[str]) -> None:
    named = {*config.columns, *config.keys, *([config.subject_column] if config.subject_column else [])}
    missing = sorted(named - present)
    if missing:
        raise error_for(Code.CONFIG_INVALID, f"dataset {config.name}: the source has no column {', '.join(missing)}")
    if not present:
        raise error_for(Code.CONFIG_INVALID, f"dataset {config.name}: the source has no column that can be served")


def _statistics(
    config: DatasetConfig, columns: Sequence[FoundColumn], describer: Describer, rows: int | None
) -> Mapping[str, tuple[int, str | None, str | None]]:
    if rows is None:
        return {}
    public = [column for column in columns if _may_tell(config, column.name)]
    if not public:
        return {}
    facts = describer.statistics(public, exact=rows <= DISTINCT_EXACT_ROWS_MAX)
    return {column.name: fact for column, fact in zip(public, facts, strict=True)}


def _may_tell(config: DatasetConfig, name: str) -> bool:
    """Say whether statistics of a column may stand in the catalogue: never of what a mask is meant to hide."""
    said = config.columns.get(name)
    return name != config.subject_column and (said is None or (said.sensitivity in _TOLD and not said.mask))


def _may_show(config: DatasetConfig, name: str) -> bool:
    """Say whether the least and the greatest value may: they are values of single rows, and the catalogue is for everybody."""
    said = config.columns.get(name)
    return config.dataset_class is DatasetClass.OPEN or (said is not None and said.sensitivity == "public")


def _column(
    config: DatasetConfig, column: FoundColumn, facts: Mapping[str, tuple[int, str | None, str | None]]
) -> Column:
    said = config.columns.get(column.name)
    distinct, least, greatest = facts.get(column.name, (None, None, None))
    if not _may_show(config, column.name):
        least = greatest = None
    return Column(
        name=column.name,
        type=column.type,
        description=said.description if said else "",
        sensitivity=said.sensitivity if said else "internal",
        element=said.element if said else "",
        nullable=column.nullable,
        distinct=distinct,
        minimum=least,
        maximum=greatest,
    )

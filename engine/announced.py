"""The Arrow schema of an answer before there is one: from the plan, over tables that are typed and empty.

A client of Arrow Flight is told an answer's schema first, and stops when the stream has another. Nobody knows types better than
the engine that will compute them: DuckDB binds each fragment over empty tables of the catalogue's types, then what joins them
over empty relations of the fragments' Arrow types, and the types of that go to Arrow as those of an answer do. Nothing is
executed. Runs in a planning process, for the planner's reasons: strangers wrote what it reads.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from engine.lockdown import name as quoted
from tidegate import ipc
from tidegate.core.dataset import Dataset
from tidegate.core.errors import Code, error_for
from tidegate.core.names import DatasetName
from tidegate.sql.model import FederatedPlan, RenderedSql
from tidegate.sql.parameters import Wanted, wanted
from tidegate.sql.scope import SUBJECT_COLUMN
from tidegate.sql.types import parse_type

_CONNECT: dict[str, str | bool | int | float | list[str]] = {
    "autoload_known_extensions": "false",
    "autoinstall_known_extensions": "false",
    "python_enable_replacements": "false",
    "threads": "1",
}
_SETTINGS = (
    "SET GLOBAL memory_limit = '256MB'",  # binding takes kilobytes; what the engine folds must not take the machine
    "SET GLOBAL temp_directory = ''",
    "SET GLOBAL TimeZone = 'UTC'",  # as in the workers: it is part of a type's Arrow form
    "SET GLOBAL enable_external_access = false",
    "SET GLOBAL lock_configuration = true",
)


def announced_schema(plan: FederatedPlan, datasets: Mapping[DatasetName, Dataset]) -> bytes:
    """Give the schema's chunk of what a plan answers with, under the caller's names.

    Args:
        datasets: the descriptions of the datasets that the fragments name.

    Raises:
        CallerError: PLAN_TYPE, the engine finds no types for the query.
    """
    with _ENGINE.session() as session:
        try:
            types = _result_types(session, plan, datasets)
            shown = types[: len(plan.output_names)]  # what follows is hidden: counts that floors cut off
            schema = _arrow(session, shown)
        except duckdb.Error as error:
            raise error_for(Code.PLAN_TYPE, detail=f"announced: {type(error).__name__}") from error
    names = zip(schema, plan.output_names, strict=True)
    return ipc.schema_chunk(pa.schema([field.with_name(name) for field, name in names]))


@dataclass(frozen=True, slots=True)
class Expected:
    """What values a text wants before it can be answered.

    Args:
        schema: the chunk of an Arrow schema with a field for each.
    """

    wanted: tuple[Wanted, ...]
    schema: bytes


NOTHING_EXPECTED = Expected((), ipc.schema_chunk(pa.schema([])))


def expected_parameters(text: str, datasets: Mapping[DatasetName, Dataset]) -> Expected:
    """Say which parameters a text has.

    Raises:
        CallerError: a PLAN code.
    """
    found = wanted(text, datasets)
    with _ENGINE.session() as session:
        schema = _arrow(session, [parse_type(item.type) for item in found])
    named = [field.with_name(item.name) for field, item in zip(schema, found, strict=True)]
    return Expected(found, ipc.schema_chunk(pa.schema(named)))


def _result_types(
    session: duckdb.DuckDBPyConnection, plan: FederatedPlan, datasets: Mapping[DatasetName, Dataset]
) -> Sequence[str]:
    for department in {name.department for name in datasets}:
        session.execute(f"CREATE SCHEMA {quoted(department)}")
    for dataset in datasets.values():
        columns = [f"{quoted(column.name)} {parse_type(column.type)}" for column in dataset.columns]
        columns.append(f"{quoted(SUBJECT_COLUMN)} VARCHAR")  # a pseudonym, where a fragment asks for subjects
        table = f"{quoted(dataset.name.department)}.{quoted(dataset.name.name)}"
        session.execute(f"CREATE TABLE {table} ({', '.join(columns)})")
    types: Sequence[str] = ()
    for fragment in plan.fragments:
        types = _types(session, fragment.sql)
        if plan.final is not None:
            # Not empty_table(), which imports pandas where there is one: seconds, inside of a caller's planning time.
            session.register(fragment.id, pa.Table.from_batches([], _arrow(session, types)))
    return types if plan.final is None else _types(session, plan.final)


def _types(session: duckdb.DuckDBPyConnection, sql: RenderedSql) -> Sequence[str]:
    """Bind a query of ours; give the types of its columns as the engine prints them."""
    rows = session.execute(f"DESCRIBE {sql.text}", list(sql.parameters) or None).fetchall()
    return [str(row[1]) for row in rows]


def _arrow(session: duckdb.DuckDBPyConnection, types: Sequence[str]) -> pa.Schema:
    """Give the Arrow schema that columns ``c0`` ... of these types have when an answer leaves the engine."""
    if not types:
        return pa.schema([])
    columns = ", ".join(f"CAST(NULL AS {text}) AS c{place}" for place, text in enumerate(types))
    reader = session.sql(f"SELECT {columns}").to_arrow_reader(1)
    try:
        return reader.schema
    finally:
        reader.close()


class _Engine:
    """DuckDB in this process: one locked instance that never sees a row. ``_lock`` owns it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = 0
        self._instance: duckdb.DuckDBPyConnection | None = None

    @contextmanager
    def session(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Give a cursor in a transaction that is rolled back: what one plan needs is gone before the next."""
        with self._lock:
            if self._instance is None or self._pid != os.getpid():  # a fork inherits the object, not DuckDB's threads
                self._instance, self._pid = duckdb.connect(":memory:", config=_CONNECT), os.getpid()
                for statement in _SETTINGS:
                    self._instance.execute(statement)
            cursor = self._instance.cursor()
            try:
                cursor.execute("BEGIN TRANSACTION")
                yield cursor
                cursor.execute("ROLLBACK")
            except BaseException:
                self._instance = None  # the next plan begins with a new one
                raise
            finally:
                cursor.close()


_ENGINE = _Engine()

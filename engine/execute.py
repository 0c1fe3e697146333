"""Run one job in a locked instance: a fresh session, inputs as Arrow tables, setup, one SELECT in a read-only transaction.

What a session registers or creates as temporary is gone with it. A relation with a department's name needs a schema, which
cannot be temporary; those are dropped after the job, and a worker that cannot drop them must end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import duckdb
import pyarrow as pa

from engine import failures, streamed
from engine.lockdown import name as quoted
from engine.spec import KeyShape
from engine.streamed import Budget, StreamedInput
from engine.wide import WideNumbers
from tidegate import ipc
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.values import Value

_CONTINUATION = (
    b"\xff\xff\xff\xff"  # begins every message since Arrow 0.15 (Columnar format, Encapsulated message format)
)


# Rows of an answer's batch: a chunk of one to four MB where rows are of usual width, so that nothing is cut again, the first
# leaves early, and what lies between two processes stays small.
ANSWER_ROWS = 16_384


@dataclass(frozen=True, slots=True)
class Task:
    """A job as the worker sees it. ``inputs`` maps names to chunk streams that block until their chunks are there."""

    setup: tuple[str, ...]
    text: str
    parameters: tuple[Value, ...]
    inputs: Mapping[str, Iterator[bytes]]
    rows_max: int
    bytes_max: int
    input_bytes_max: int
    streamed: frozenset[str] = frozenset()
    keys: Mapping[str, KeyShape] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Totals:
    """What was sent."""

    rows: int
    bytes: int


class Session:
    """One job's cursor. Owned by the worker's main thread; ``interrupt`` alone may be called from another."""

    def __init__(self, instance: duckdb.DuckDBPyConnection) -> None:
        self._cursor = instance.cursor()
        self._made: list[str] = []
        self._transaction = False

    def interrupt(self) -> None:
        """Ask the running statement to stop."""
        self._cursor.interrupt()

    def run(self, task: Task, send: Callable[[bytes | memoryview], None], stop: Callable[[], bool]) -> Totals:
        """Run the job and hand over the chunks of its answer.

        Args:
            send: called for each chunk, schema first.
            stop: says whether the job was cancelled; asked between steps.
        """
        passing: dict[str, StreamedInput] = {}
        budget = Budget(task.input_bytes_max)
        for number, (name, chunks) in enumerate(task.inputs.items()):
            if name in task.streamed:
                with _named(name):
                    passing[name] = StreamedInput(_whole(chunks), budget)
            else:
                self._register(number, name, chunks, task.keys.get(name))
            _heed(stop)
        for statement in task.setup:
            self._cursor.execute(statement)
        self._hold_to_one_select(task.text)
        self._register_streamed(passing, task, stop)
        self._cursor.execute("BEGIN TRANSACTION READ ONLY")
        self._transaction = True
        _heed(stop)
        try:
            relation = self._cursor.sql(task.text, params=list(task.parameters) or None)
            reader = relation.to_arrow_reader(ANSWER_ROWS)
            try:
                return _stream(reader, WideNumbers(relation.types), task, send, stop)
            finally:
                reader.close()  # a session with an open result cannot be ended
        except Exception as error:
            for name, source in passing.items():
                if source.failure is not None:
                    raise _of_input(name, source.failure) from error
            raise

    def close(self) -> None:
        """End the session and remove what it made outside of itself.

        Raises:
            duckdb.Error: something stayed; the instance must not be used again.
        """
        if self._transaction:
            self._cursor.rollback()
        for statement in reversed(self._made):
            self._cursor.execute(statement)
        self._cursor.close()

    def _register(self, number: int, name: str, chunks: Iterator[bytes], shape: KeyShape | None) -> None:
        """Materialise an input: a stream that is scanned twice gives an error or, worse, no rows (planner.md)."""
        with _named(name):
            schema, batches = ipc.read(_whole(chunks))
            table = pa.Table.from_batches(list(batches), schema)
            if shape is not None:
                _hold_keys(table, shape)
        department, dot, dataset = name.partition(".")
        if not dot:
            self._cursor.register(name, table)
            return
        inner = f"tg_input_{number}"
        self._cursor.register(inner, table)
        known = self._cursor.execute(
            "SELECT count(*) FROM duckdb_schemas() WHERE schema_name = ? AND database_name = 'memory'", [department]
        )
        if known.fetchall() == [(0,)]:
            self._cursor.execute(f"CREATE SCHEMA memory.{quoted(department)}")
            self._made.append(f"DROP SCHEMA memory.{quoted(department)}")
        view = f"memory.{quoted(department)}.{quoted(dataset)}"
        self._cursor.execute(f"CREATE VIEW {view} AS SELECT * FROM temp.{quoted(inner)}")  # noqa: S608 - quoted names
        self._made.append(f"DROP VIEW {view}")

    def _register_streamed(self, passing: Mapping[str, StreamedInput], task: Task, stop: Callable[[], bool]) -> None:
        """Hold what is small or may be read more than once; let the rest pass through."""
        large = {}
        for name, source in passing.items():
            with _named(name):
                if source.is_small():
                    self._cursor.register(name, source.table())
                else:
                    large[name] = source
                    self._cursor.register(name, pa.RecordBatchReader.from_batches(source.schema, ()))  # for the plan
            _heed(stop)
        if not large:
            return
        scans = streamed.scans(self._cursor, task.text, list(task.parameters) or None)
        alone = scans == len(task.inputs) == len(task.streamed)
        for name, source in large.items():
            with _named(name):
                self._cursor.register(name, source.reader() if alone else source.table())
            _heed(stop)

    def _hold_to_one_select(self, text: str) -> None:
        """Hold the query to one SELECT that writes nothing, whatever the walls before this one said.

        The statement's kind alone is not enough: DuckDB 2 takes INSERT and COPY as the body of a CTE under a SELECT.
        """
        statements = self._cursor.extract_statements(text)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise error_for(Code.JOIN_FAILED, detail="not one SELECT")


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Put an input's name before what is wrong with it: whoever gave the inputs knows whose this one was."""
    try:
        yield
    except TidegateError as error:
        raise _of_input(name, error) from error


def _of_input(name: str, error: TidegateError) -> TidegateError:
    if error.code is not Code.FETCH_INVALID_DATA:
        return error
    return error_for(error.code, f"{name}: {error.message}", detail=error.detail)


def _hold_keys(table: pa.Table, shape: KeyShape) -> None:
    """Refuse keys that are not what was said: a value that is compared with a cast could raise, or drop rows that matter."""
    good = table.column_names == ["k"] and table.num_rows == shape.rows
    if not good or _kind(table.schema.field(0).type) != shape.kind or table.column(0).null_count:
        raise error_for(Code.FETCH_INVALID_DATA, "keys: not valid", detail=f"{table.num_rows} rows of {table.schema}")


def _kind(data_type: pa.DataType) -> str:
    if pa.types.is_integer(data_type):
        return "integer"
    if pa.types.is_string(data_type):
        return "text"
    return "date" if pa.types.is_date32(data_type) else ""


def _stream(
    reader: pa.RecordBatchReader,
    wide: WideNumbers,
    task: Task,
    send: Callable[[bytes | memoryview], None],
    stop: Callable[[], bool],
) -> Totals:
    rows = 0

    def counted() -> Iterator[pa.RecordBatch]:
        nonlocal rows
        for batch in _batches(reader):
            _heed(stop)
            wide.check(batch)
            rows += batch.num_rows
            if rows > task.rows_max:
                raise error_for(Code.JOIN_LIMIT, f"the answer has more than {task.rows_max} rows")
            yield batch

    sent = 0
    for chunk in ipc.cut_views(reader.schema, counted()):
        sent += len(chunk)
        if sent > task.bytes_max:
            raise error_for(Code.JOIN_LIMIT, f"the answer has more than {task.bytes_max} bytes")
        send(chunk)
        _heed(stop)
    return Totals(rows, sent)


def _batches(reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    while True:
        try:
            batch = reader.read_next_batch()
        except StopIteration:
            return
        except (OSError, pa.ArrowException) as error:  # Arrow's C stream carries an engine's error as a text
            raise failures.of_stream(error) from error
        yield batch


def _whole(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Refuse a chunk whose head claims more than the chunk holds, before Arrow reserves memory for the claim."""
    for chunk in chunks:
        if len(chunk) < 8 or chunk[:4] != _CONTINUATION or int.from_bytes(chunk[4:8], "little") > len(chunk) - 8:
            raise error_for(Code.FETCH_INVALID_DATA, "Arrow stream: not valid", detail="head of a chunk")
        yield chunk


def _heed(stop: Callable[[], bool]) -> None:
    if stop():
        raise error_for(Code.QUERY_CANCELLED)

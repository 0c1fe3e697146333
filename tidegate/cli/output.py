"""How every verb prints: data on stdout in the format asked for, everything else on stderr.

Exit codes are those of ``tidegate.core.errors.Exit``; the next step stands below every error.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tidegate.cli.cells import csv_field, json_text, plain, shown, unique, words
from tidegate.core.errors import Code, Exit, TidegateError, error_for

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_SHOWN_MAX = 100  # of a table on a terminal; -o csv, json, arrow, parquet give every row
CELL_CHARS_MAX = 240  # of a table; -o json and csv give the whole value
PIPED_WIDTH_CHARS = 160  # of a table that goes to a file or a pipe, where no terminal says how wide it is

EXIT_INTERRUPTED = 130  # as shells have it for SIGINT
EXIT_BROKEN_PIPE = 141  # as shells have it for SIGPIPE


class Format(StrEnum):
    """Formats of ``-o``."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    ARROW = "arrow"
    PARQUET = "parquet"


def err() -> Console:
    """Give the console for messages; made anew so that tests and pipes see the current stderr. Heeds NO_COLOR."""
    return Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)


def say(message: str) -> None:
    """Say something to the person, on stderr; a stranger's words in it cannot move the cursor."""
    err().print("\n".join(plain(line) for line in message.split("\n")))


def shows_progress(console: Console) -> bool:
    """Say whether progress may be shown: to a person who looks on, never into a file or a pipe."""
    return console.is_terminal and not console.is_dumb_terminal and sys.stderr.isatty()


@contextmanager
def failing() -> Iterator[None]:
    """Turn errors into a message with the next step and the documented exit code."""
    try:
        yield
        sys.stdout.flush()  # here, where a reader that has gone is still handled
    except TidegateError as error:
        report(error)
        raise typer.Exit(int(error.info.exit)) from None
    except BrokenPipeError:
        # The reader (head, a pager that was left) has gone; the interpreter's own flush at exit must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(EXIT_BROKEN_PIPE) from None
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        report(error_for(Code.CLIENT_INPUT, f"the operating system refused: {what}"))
        raise typer.Exit(int(Exit.USAGE)) from None
    except KeyboardInterrupt:
        say("interrupted")
        raise typer.Exit(EXIT_INTERRUPTED) from None


def report(error: TidegateError) -> None:
    """Print an error: what, why, what to ask for, who decides, what to do next."""
    from tidegate.client.telling import raw_error_lines

    console = err()
    for number, line in enumerate(raw_error_lines(error)):
        console.print(plain(line), style=None if number else "red")


def records(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], output: Format) -> None:
    """Print records in the format asked for."""
    match output:
        case Format.TABLE:
            _print_table(columns, [[row.get(name) for name in columns] for row in rows])
        case Format.JSON:
            _write_json(json_text(row) for row in rows)
        case Format.CSV:
            _write_csv(columns, ([words(row.get(name)) or None for name in columns] for row in rows))
        case Format.ARROW | Format.PARQUET:
            import pyarrow as pa

            columns_of_text = {name: [words(row.get(name)) for row in rows] for name in columns}
            schema = pa.schema([(name, pa.string()) for name in columns])
            _write_binary(pa.table(columns_of_text, schema=schema), output)


def arrow(table: pa.Table, output: Format) -> None:
    """Print an Arrow table in the format asked for; Arrow and Parquet keep every type, JSON and CSV every digit."""
    match output:
        case Format.TABLE:
            _print_table(table.schema.names, list(_rows(table.slice(0, ROWS_SHOWN_MAX))))
            if table.num_rows > ROWS_SHOWN_MAX:
                say(f"{ROWS_SHOWN_MAX} of {table.num_rows} rows shown; -o csv, json, arrow or parquet gives all")
        case Format.JSON:
            keys = unique(table.schema.names)
            _write_json(json_text(dict(zip(keys, row, strict=True))) for row in _rows(table))
        case Format.CSV:
            _write_csv(table.schema.names, _rows(table))
        case Format.ARROW | Format.PARQUET:
            _write_binary(table, output)


def _rows(table: pa.Table) -> Iterator[list[Any]]:
    """Give the rows as Python values, a batch at a time; what is finer than Python's microsecond as text."""
    import pyarrow as pa

    for batch in table.to_batches():
        columns = []
        for column in batch.columns:
            fine = (pa.types.is_timestamp(column.type) or pa.types.is_time64(column.type)) and column.type.unit == "ns"
            columns.append((column.cast(pa.string()) if fine else column).to_pylist())
        yield from (list(row) for row in zip(*columns, strict=True))


def _write_json(rows: Iterable[str]) -> None:
    """Write a JSON array, one row a line, so that line tools can read it too."""
    separator = "[\n  "
    for row in rows:
        sys.stdout.write(separator + row)
        separator = ",\n  "
    sys.stdout.write("[]\n" if separator.startswith("[") else "\n]\n")


def _write_csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write CSV with a header: exact in a file or a pipe, harmless on a terminal."""
    harmless = sys.stdout.isatty()
    for row in itertools.chain([columns], rows):
        line = ",".join(csv_field(value) for value in row)
        sys.stdout.write((plain(line) if harmless else line) + "\n")


def _write_binary(table: pa.Table, output: Format) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if sys.stdout.isatty():
        raise error_for(
            Code.CLIENT_INPUT, f"-o {output.value} writes binary data; send it to a file: > answer.{output.value}"
        )
    if output is Format.ARROW:
        with pa.ipc.new_stream(sys.stdout.buffer, table.schema) as writer:
            writer.write_table(table)
    else:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        sys.stdout.buffer.write(sink.getvalue())
    sys.stdout.buffer.flush()


def lines(text: str) -> None:
    """Print a text of several lines on stdout; a stranger wrote it."""
    for line in text.split("\n"):
        typer.echo(plain(line))


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    console = Console(highlight=False, emoji=False, markup=False)
    if not console.is_terminal:
        console.width = max(console.width, PIPED_WIDTH_CHARS)
    table = Table(show_edge=False, pad_edge=False, header_style="bold")
    for position, name in enumerate(columns):
        numeric = bool(rows) and all(_is_number(row[position]) for row in rows)
        table.add_column(Text(plain(name)), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_table_cell(value) for value in row))
    console.print(table)


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float | Decimal) and not isinstance(value, bool))


def _table_cell(value: Any) -> Text:
    text = words(value) if isinstance(value, list | tuple) else shown(value)
    if len(text) > CELL_CHARS_MAX:
        text = text[: CELL_CHARS_MAX - 1] + "\u2026"
    return Text(plain(text))

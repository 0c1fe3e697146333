"""How every verb prints: data on stdout in the format asked for, everything else on stderr.

Exit codes are those of ``tidegate.core.errors.Exit``; the next step stands below every error.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

from tidegate.core.errors import Exit, TidegateError

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_SHOWN_MAX = 100  # of a table on a terminal; -o csv, json, arrow, parquet give every row
TERMINAL_CELL_CHARS_MAX = 60
PIPED_WIDTH_CHARS = 160  # of a table that goes to a file or a pipe, where no terminal says how wide it is


class Format(StrEnum):
    """Formats of ``-o``."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    ARROW = "arrow"
    PARQUET = "parquet"


def err() -> Console:
    """Give the console for messages; made anew so that tests and pipes see the current stderr. Heeds NO_COLOR."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def say(message: str) -> None:
    """Say something to the person, on stderr."""
    err().print(message, markup=False)


@contextmanager
def failing() -> Iterator[None]:
    """Turn our errors into a message with the next step and the documented exit code."""
    try:
        yield
    except TidegateError as error:
        report(error)
        raise typer.Exit(int(error.info.exit)) from None
    except KeyboardInterrupt:
        say("interrupted")
        raise typer.Exit(130) from None


def report(error: TidegateError) -> None:
    """Print an error: what, why, what to ask for, who decides, what to do next."""
    console = err()
    console.print(f"error {error.code.value}: {error.message}", markup=False, style="red")
    for reason in error.reasons:
        if reason.text != error.message:
            console.print(f"  reason   {reason.code}: {reason.text}", markup=False)
        else:
            console.print(f"  reason   {reason.code}", markup=False)
        if reason.ask_for:
            console.print(f"  ask for  {reason.ask_for}", markup=False)
        if reason.decided_by:
            console.print(f"  decided  by {reason.decided_by}", markup=False)
    if error.request_id:
        console.print(f"  request  {error.request_id}", markup=False)
    if error.retry_after_s:
        console.print(f"  retry    after {error.retry_after_s:g} s", markup=False)
    console.print(f"  next     {error.info.next_step}", markup=False)


def records(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], output: Format) -> None:
    """Print records in the format asked for."""
    match output:
        case Format.TABLE:
            _print_table(columns, [[row.get(name) for name in columns] for row in rows])
        case Format.JSON:
            json.dump(list(rows), sys.stdout, indent=2, default=str, ensure_ascii=False)
            sys.stdout.write("\n")
        case Format.CSV:
            writer = csv.writer(sys.stdout)
            writer.writerow(columns)
            writer.writerows([[_cell(row.get(name)) for name in columns] for row in rows])
        case Format.ARROW | Format.PARQUET:
            import pyarrow as pa

            table = pa.table({name: [_cell(row.get(name)) for row in rows] for name in columns})
            _write_binary(table, output)


def arrow(table: pa.Table, output: Format) -> None:
    """Print an Arrow table in the format asked for."""
    match output:
        case Format.TABLE:
            shown = table.slice(0, ROWS_SHOWN_MAX)
            _print_table(table.schema.names, list(_rows(shown)))
            if table.num_rows > ROWS_SHOWN_MAX:
                say(f"{ROWS_SHOWN_MAX} of {table.num_rows} rows shown; -o csv, json, arrow or parquet gives all")
        case Format.JSON:
            names = table.schema.names
            json.dump(
                [dict(zip(names, row, strict=True)) for row in _rows(table)],
                sys.stdout,
                indent=2,
                default=str,
                ensure_ascii=False,
            )
            sys.stdout.write("\n")
        case Format.CSV:
            writer = csv.writer(sys.stdout)
            writer.writerow(table.schema.names)
            writer.writerows(_rows(table))
        case Format.ARROW | Format.PARQUET:
            _write_binary(table, output)


def _rows(table: pa.Table) -> Iterator[list[Any]]:
    columns = [column.to_pylist() for column in table.columns]
    for position in range(table.num_rows):
        yield [column[position] for column in columns]


def _write_binary(table: pa.Table, output: Format) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if sys.stdout.isatty():
        say(f"-o {output.value} writes binary data; send it to a file: > answer.{output.value}")
        raise typer.Exit(int(Exit.USAGE))
    if output is Format.ARROW:
        with pa.ipc.new_stream(sys.stdout.buffer, table.schema) as writer:
            writer.write_table(table)
    else:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        sys.stdout.buffer.write(sink.getvalue())
    sys.stdout.buffer.flush()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value)
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPED_WIDTH_CHARS
    console = Console(highlight=False, width=width)
    table = Table(show_edge=False, pad_edge=False, header_style="bold")
    numeric = [bool(rows) and all(isinstance(row[i], int | float) for row in rows) for i in range(len(columns))]
    for name, right in zip(columns, numeric, strict=True):
        table.add_column(_safe(name), justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_safe(_cell(value))[: TERMINAL_CELL_CHARS_MAX * 4] for value in row))
    console.print(table)


def _safe(text: str) -> str:
    """Keep a stranger's text from moving the cursor or colouring the terminal."""
    from rich.markup import escape

    return escape("".join(char if char.isprintable() else "\ufffd" for char in text))

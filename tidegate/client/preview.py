"""An answer as a page of HTML for a notebook: what was filtered or masked first, then the first rows, then the receipt.

Whoever wrote the data may have written HTML into it, or marks that turn text round: every text is escaped, what is not
printable becomes U+FFFD, and rows, columns and letters shown are bounded, however large the answer is.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tidegate.client.telling import error_lines
from tidegate.core.errors import TidegateError

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_MAX = 20
COLUMNS_MAX = 50
CELL_CHARS_MAX = 240
BANNER_LINES_MAX = 50

_BANNER = "border-left:3px solid #d98e04;padding:2px 8px;margin:4px 0"
_ERROR = "border-left:3px solid #b3261e;padding:2px 8px;margin:4px 0;white-space:pre-wrap"


def page(table: pa.Table, banner: Sequence[str], *, request_id: str, receipts: Sequence[int]) -> str:
    """Give an answer that was read to its end as HTML.

    Args:
        banner: ``Result.banner()``.
        receipts: indices of its entries in the log.
    """
    lines = [*banner[:BANNER_LINES_MAX]]
    if len(banner) > BANNER_LINES_MAX:
        lines.append(f"and {len(banner) - BANNER_LINES_MAX} more: banner() gives all")
    said = "".join(f"<div>{text(line)}</div>" for line in lines)
    counts = [
        f"{table.num_rows:,} row{'' if table.num_rows == 1 else 's'}"
        + (f", {ROWS_MAX} shown" if table.num_rows > ROWS_MAX else "")
    ]
    if table.num_columns > COLUMNS_MAX:
        counts.append(f"{table.num_columns} columns, {COLUMNS_MAX} shown")
    counts += [f"request {request_id}", f"log entries {', '.join(map(str, receipts))}"]
    below = f"<p><small>{text('; '.join(counts))}</small></p>"
    return (f'<div style="{_BANNER}">{said}</div>' if said else "") + _rows(table) + below


def error_page(error: TidegateError) -> str:
    """Give an error as one block."""
    return f'<div style="{_ERROR}">{"".join(f"<div>{text(line)}</div>" for line in error_lines(error))}</div>'


def text(value: str) -> str:
    """Give a stranger's text as HTML that shows it and does nothing else."""
    return html.escape("".join(char if char.isprintable() else "\ufffd" for char in value))


def _rows(table: pa.Table) -> str:
    shown = table.slice(0, ROWS_MAX)
    columns = [shown.column(position) for position in range(min(table.num_columns, COLUMNS_MAX))]
    head = "".join(f"<th>{text(_cut(name))}</th>" for name in table.column_names[:COLUMNS_MAX])
    cells = [[_cell(column, row) for column in columns] for row in range(shown.num_rows)]
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in cells)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(column: pa.ChunkedArray, row: int) -> str:
    value = _value(column, row)
    return "<em>NULL</em>" if value is None else text(_cut(value if isinstance(value, str) else str(value)))


def _value(column: pa.ChunkedArray, row: int) -> Any:
    """Give a value as Python has it; what Python has not (nanoseconds, the year 290,000) as Arrow's own text."""
    import pyarrow as pa

    try:
        return column[row].as_py()
    except (ValueError, OverflowError, pa.ArrowException):
        pass
    try:
        return column.slice(row, 1).cast(pa.string())[0].as_py()
    except (ValueError, pa.ArrowException):
        return f"({column.type})"


def _cut(value: str) -> str:
    return value if len(value) <= CELL_CHARS_MAX else value[: CELL_CHARS_MAX - 1] + "\u2026"

"""What a dataset must be before the catalogue takes it: every problem is named at once, none by its value.

``tidegate.core.dataset`` holds what is always true of a dataset; here stand the limits and the promises between fields
that matter once strangers read the entry and planners make SQL of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from catalogue.texts import is_plain
from tidegate.core.dataset import Column, Dataset
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.sql.types import parse_type

COLUMNS_MAX: Final = 2_000
PARTS_MAX: Final = 1_000
TAGS_MAX: Final = 50
EXTRA_MAX: Final = 200
HIDDEN_FROM_MAX: Final = 1_000
TITLE_CHARS_MAX: Final = 200
SHORT_CHARS_MAX: Final = 500
LONG_CHARS_MAX: Final = 20_000
STATISTIC_CHARS_MAX: Final = 200
PROBLEMS_SHOWN_MAX: Final = 20
ROWS_MAX: Final = 2**53 - 1  # beyond this a number has no canonical JSON form (RFC 8785)
EVERYBODY: Final = "*"  # in hidden_from: every member but the owner, also those who join later

_ELEMENT = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+)*\Z")
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_SECRETIVE = ("restricted", "secret")


def validated(dataset: Dataset) -> Dataset:
    """Give the dataset with its types in canonical spelling.

    Raises:
        CallerError: CAT_INVALID; the message lists every problem by field.
    """
    problems = [*_of_texts(dataset), *_of_form(dataset), *_of_lists(dataset)]
    columns = []
    for position, column in enumerate(dataset.columns, start=1):
        label = f"column {position}"
        problems += _of_column(label, column)
        try:
            columns.append(replace(column, type=parse_type(column.type)))
        except TidegateError:
            problems.append(f"{label}: type not one of those that the exchange allows")
    if problems:
        more = len(problems) - PROBLEMS_SHOWN_MAX
        shown = problems[:PROBLEMS_SHOWN_MAX] + ([f"and {more} more"] if more > 0 else [])
        raise error_for(Code.CAT_INVALID, f"dataset: {'; '.join(shown)}")
    return replace(dataset, columns=tuple(columns))


def _of_texts(dataset: Dataset) -> Iterator[str]:
    texts = (
        ("title", dataset.title, TITLE_CHARS_MAX, False),
        ("description", dataset.description, LONG_CHARS_MAX, True),
        ("legal basis", dataset.legal_basis, SHORT_CHARS_MAX, False),
        ("citation", dataset.citation, SHORT_CHARS_MAX, False),
        ("freshness", dataset.freshness, SHORT_CHARS_MAX, False),
        ("licence", dataset.licence, SHORT_CHARS_MAX, False),
    )
    for field, text, chars_max, lines in texts:
        yield from _of_text(field, text, chars_max, lines=lines)
    if not dataset.title.strip():
        yield "title: expected one"


def _of_form(dataset: Dataset) -> Iterator[str]:
    if not dataset.columns:
        yield "columns: expected at least one"
    if len(dataset.columns) > COLUMNS_MAX:
        yield f"columns: more than {COLUMNS_MAX}"
    if dataset.rows is not None and not 0 <= dataset.rows <= ROWS_MAX:
        yield "rows: expected a number that is not negative"
    if dataset.parts:
        if dataset.node:
            yield "node: a collection has none; its parts have"
        if dataset.name in dataset.parts or len(set(dataset.parts)) != len(dataset.parts):
            yield "parts: a part occurs twice, or is the collection itself"
    else:
        if not _NODE.match(dataset.node):
            yield "node: expected the name of the node that holds the data"
        if dataset.owner != dataset.name.department:
            yield "owner: expected the department in the dataset's name"
    if len(set(dataset.keys)) != len(dataset.keys) or not set(dataset.keys) <= {item.name for item in dataset.columns}:
        yield "keys: expected names of columns, each once"


def _of_lists(dataset: Dataset) -> Iterator[str]:
    sizes = (
        ("parts", len(dataset.parts), PARTS_MAX),
        ("tags", len(dataset.tags), TAGS_MAX),
        ("extra", len(dataset.extra), EXTRA_MAX),
        ("hidden_from", len(dataset.hidden_from), HIDDEN_FROM_MAX),
    )
    for field, size, size_max in sizes:
        if size > size_max:
            yield f"{field}: more than {size_max}"
    for tag in dataset.tags[:TAGS_MAX]:
        yield from _of_text("tags", tag, 100)
    for key, value in list(dataset.extra.items())[:EXTRA_MAX]:
        yield from _of_text("extra", key, 100)
        yield from _of_text("extra", value, SHORT_CHARS_MAX)
    if dataset.owner in dataset.hidden_from:
        yield "hidden_from: a dataset cannot be hidden from its owner"


def _of_column(label: str, column: Column) -> Iterator[str]:
    yield from _of_text(f"{label}: description", column.description, LONG_CHARS_MAX, lines=True)
    if column.element and not (_ELEMENT.match(column.element) and len(column.element) <= 100):
        yield f"{label}: element: expected dotted lower-case words"
    statistics = (column.distinct, column.minimum, column.maximum)
    if column.sensitivity in _SECRETIVE and statistics != (None, None, None):
        yield f"{label}: statistics of a restricted or secret column are never published"
    if column.distinct is not None and not 0 <= column.distinct <= ROWS_MAX:
        yield f"{label}: distinct: expected a number that is not negative"
    for text in (column.minimum, column.maximum):
        if text is not None:
            yield from _of_text(f"{label}: statistics", text, STATISTIC_CHARS_MAX)


def _of_text(field: str, text: str, chars_max: int, *, lines: bool = False) -> Iterator[str]:
    if len(text) > chars_max:
        yield f"{field}: longer than {chars_max} characters"
    elif not is_plain(text, lines=lines):
        yield f"{field}: holds control or invisible characters"

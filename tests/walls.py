"""The first two walls, each alone, as functions for a planning process (a hostile text is never parsed in a test's own)."""

from __future__ import annotations

from tests.escape_world import COLUMNS, HERE
from tests.sql_world import DATASETS, dataset
from tidegate.core.errors import TidegateError
from tidegate.sql.admit import admit
from tidegate.sql.bind import bind
from tidegate.sql.wall import check_text

STAFF = {name: "INTEGER" if name in ("id", "amount") else "VARCHAR" for name in COLUMNS.values()}
KNOWN = {
    item.name: item
    for item in (
        dataset("north.staff_a", STAFF),
        dataset("south.claims", STAFF),
        *(
            dataset(
                f"{HERE.get(item.name.department, item.name.department)}.{item.name.name}",
                {column.name: column.type for column in item.columns},
                parts=tuple(map(str, item.parts)),
                withdrawn=item.withdrawn,
            )
            for item in DATASETS
        ),
    )
}
TABLES = frozenset(str(name) for name in KNOWN)


def parser_alone(sql: str) -> str:
    """Say why admit and bind (sqlglot) refuse a text; empty when they do not."""
    try:
        bind(admit(sql), KNOWN)
    except TidegateError as error:
        return error.code.value
    return ""


def tree_alone(sql: str) -> str:
    """Say why the second wall (DuckDB's own tree of the raw text) refuses it; empty when it does not."""
    try:
        check_text(sql, TABLES)
    except TidegateError as error:
        return error.code.value
    return ""

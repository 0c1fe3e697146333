"""What PostgreSQL's columns are to us: the tables of a database as a node knows them, and kinds of values in a translation.

A kind says what may be done with a value such that PostgreSQL and DuckDB agree on the outcome (``postgres_query``). Texts carry
their collation: equality is by bytes under every deterministic one, order only under ``C``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from sqlglot import exp

from tidegate.sql.families import family
from tidegate.sql.types import parse_type, type_text

Sort: TypeAlias = Literal[
    "text", "integer", "decimal", "boolean", "date", "timestamp", "timestamptz", "uuid", "other", "null"
]
"""Floats, times and bytes are ``other``: they may be read, counted, and compared with NULL, and nothing else."""

COMPUTED = "C"  # the collation of every text that a translation computes
_ZONED = ("TIMESTAMPTZ", "TIMESTAMP WITH TIME ZONE")
_SORTS: tuple[Sort, ...] = ("text", "integer", "decimal", "boolean", "date")


@dataclass(frozen=True, slots=True)
class NativeColumn:
    """A column at the source.

    Args:
        native: PostgreSQL's name of its type (``int4``, ``bpchar``).
        collation: of a text, by name; empty when it is not deterministic (two texts of other bytes may be equal there).
    """

    native: str
    collation: str = ""


@dataclass(frozen=True, slots=True)
class NativeTable:
    """A table or view at the source."""

    schema: str
    name: str
    columns: Mapping[str, NativeColumn]


@dataclass(frozen=True, slots=True)
class Kind:
    """The kind of an expression; ``collation`` is of texts alone."""

    sort: Sort
    collation: str = ""

    @property
    def exact(self) -> bool:
        """Say whether equality is the same in both engines, so that values may be grouped and joined."""
        return self.sort != "other" and (self.sort != "text" or bool(self.collation))


def kind_of(type_text: str, column: NativeColumn | None = None) -> Kind:
    """Give the kind of a column of a catalogue type."""
    found = family(type_text)
    if type_text.upper() in _ZONED:
        return Kind("timestamptz")
    if type_text.upper() == "TIMESTAMP":
        return Kind("timestamp")
    if found == "text":
        return Kind("text", column.collation if column else COMPUTED)
    if found in _SORTS:
        return Kind(found)
    return Kind("uuid" if type_text.upper() == "UUID" else "other")


def numeric(kind: Kind) -> bool:
    """Say whether a value is an exact number."""
    return kind.sort in ("integer", "decimal")


def cast_type(node: exp.Expr) -> str:
    """Give the catalogue text of a cast's type: a bound tree has the text itself, a policy's tree a type of sqlglot's."""
    return parse_type(node.name) if isinstance(node, exp.Var) else type_text(node)

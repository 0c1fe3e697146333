"""Families of column types: which values compare with each other without a cast that could raise.

Lowest in the planner's house: filters, masks and the leakproof rule ask it. The closed list of type texts is
``tidegate.sql.types``; a text that is in no family here is ``other`` and gets the careful treatment.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

Family: TypeAlias = Literal["text", "integer", "decimal", "float", "boolean", "date", "timestamp", "time", "other"]

_FAMILIES: dict[str, Family] = {
    "VARCHAR": "text",
    "TINYINT": "integer",
    "SMALLINT": "integer",
    "INTEGER": "integer",
    "BIGINT": "integer",
    "HUGEINT": "integer",
    "UTINYINT": "integer",
    "USMALLINT": "integer",
    "UINTEGER": "integer",
    "UBIGINT": "integer",
    "UHUGEINT": "integer",
    "FLOAT": "float",
    "DOUBLE": "float",
    "BOOLEAN": "boolean",
    "DATE": "date",
    "TIME": "time",
    "TIMESTAMP": "timestamp",
    "TIMESTAMP_S": "timestamp",
    "TIMESTAMP_MS": "timestamp",
    "TIMESTAMP_NS": "timestamp",
    "TIMESTAMPTZ": "timestamp",
    "TIMESTAMP WITH TIME ZONE": "timestamp",
}

NUMBERS: frozenset[Family] = frozenset({"integer", "decimal", "float"})
MOMENTS: frozenset[Family] = frozenset({"date", "timestamp"})


def family(type_text: str) -> Family:
    """Give the family of a type text of the catalogue; nested types and unknown texts are ``other``."""
    text = type_text.strip().upper()
    if text.endswith("]"):
        return "other"
    if text.startswith("DECIMAL"):
        return "decimal"
    return _FAMILIES.get(text, "other")


def comparable(first: Family, second: Family) -> bool:
    """Say whether values of both families compare without a cast of a column that could fail.

    Numbers widen to each other; dates widen to timestamps; everything else compares with its own kind only.
    """
    if first == "other" or second == "other":
        return False
    if first == second:
        return True
    return (first in NUMBERS and second in NUMBERS) or (first in MOMENTS and second in MOMENTS)

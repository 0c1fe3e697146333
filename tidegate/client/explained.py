"""EXPLAIN in front of a query: the client sends such a text to the Explain call, which plans and runs nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SPACE = r"(?:\s|--[^\n]*(?:\n|\Z)|/\*.*?\*/)"
_EXPLAIN = re.compile(rf"{_SPACE}*EXPLAIN(?=\W){_SPACE}*(?P<analyze>ANALYZE(?=\W))?", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Explained:
    """What stands behind EXPLAIN."""

    sql: str
    analyze: bool


def explained(sql: str) -> Explained | None:
    """Cut EXPLAIN off the front of a statement; None when the statement does not begin with it."""
    found = _EXPLAIN.match(sql)
    return None if found is None else Explained(sql[found.end() :], analyze=found["analyze"] is not None)

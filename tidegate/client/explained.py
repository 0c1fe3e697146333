"""EXPLAIN in front of a query: the client sends such a text to the Explain call; and a plan as a table of its parts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

_SPACE = r"(?:\s|--[^\n]*(?:\n|\Z)|/\*.*?\*/)"
_EXPLAIN = re.compile(rf"{_SPACE}*EXPLAIN(?=\W){_SPACE}*(?P<analyze>ANALYZE(?=\W))?", re.IGNORECASE | re.DOTALL)

_TEXTS = ("fragment", "department", "node", "datasets", "sql", "pushed", "kept", "rules", "barrier", "reduced by")
_MEASURED = ("rows", "bytes", "ms to first row", "ms", "keys received")


@dataclass(frozen=True, slots=True)
class Explained:
    """What stands behind EXPLAIN."""

    sql: str
    analyze: bool


def explained(sql: str) -> Explained | None:
    """Cut EXPLAIN off the front of a statement; None when the statement does not begin with it."""
    found = _EXPLAIN.match(sql)
    return None if found is None else Explained(sql[found.end() :], analyze=found["analyze"] is not None)


def table(plan: Mapping[str, Any]) -> pa.Table:
    """Give a plan as a table: one row for each fragment, and one, ``answer``, for what the broker does with them.

    Columns: fragment, department, node, datasets, sql, pushed, kept, rules, barrier, reduced by (texts), estimated rows; of a
    plan that was run also rows, bytes, ms to first row, ms (milliseconds), keys received. What may not be told is null.
    """
    import pyarrow as pa

    kinds = {name: pa.string() for name in _TEXTS} | {"estimated rows": pa.int64()}
    if plan.get("analyzed"):
        kinds |= dict(zip(_MEASURED, (pa.int64(), pa.int64(), pa.float64(), pa.float64(), pa.string()), strict=True))
    rows = [_row(item) for item in plan["fragments"]] + [_answer(plan)]
    schema = pa.schema(list(kinds.items()))
    return pa.Table.from_pylist([{name: row.get(name) for name in kinds} for row in rows], schema)


def _row(item: Mapping[str, Any]) -> dict[str, Any]:
    row = {
        "fragment": item["id"],
        "department": item["department"],
        "node": item["node"],
        "datasets": _lines(f"{ref} = {name}" for ref, name in item["datasets"].items()),
        "sql": item["sql"],
        "pushed": _lines(item["pushed"]),
        "kept": _lines(f"{entry['condition']} ({entry['why']})" for entry in item["kept"]),
        "rules": _lines(
            [*(f"{ref}: {rule}" for ref, found in item["rules"].items() for rule in found), *_floors(item)]
        ),
        "barrier": _barrier(item["barrier"]),
        "reduced by": _lines(
            f"{reduced['column']}: keys {key['fragment']}.{key['column']} of {key['department']}"
            for reduced in item["reduced_by"]
            for key in reduced["keys_of"]
        ),
        "estimated rows": item["rows_estimated"],
    }
    if "measured" in item:
        row |= _measured(item["measured"])
    return row


def _answer(plan: Mapping[str, Any]) -> dict[str, Any]:
    row = {
        "fragment": "answer",
        "sql": plan["final"],
        "rules": _lines([f"at most {plan['rows_max']} rows", *_floors(plan)]),
        "reduced by": _lines(f"withheld: {text}" for text in plan["withheld"]),
    }
    if "measured" in plan:
        measured = plan["measured"]
        row |= {"rows": measured["rows"], "bytes": measured["bytes"], "ms": measured["elapsed_ms"]}
    return row


def _measured(measured: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "rows": measured["rows"],
        "bytes": measured["bytes"],
        "ms to first row": measured["first_row_ms"],
        "ms": measured["elapsed_ms"],
        "keys received": _lines(
            f"{item['column']}: {'not told how many' if item['count'] is None else item['count']} of {item['from']}"
            for item in measured["keys_received"]
        ),
    }


def _floors(item: Mapping[str, Any]) -> list[str]:
    return [
        f"hide groups with fewer than {floor['minimum']} subjects of {floor['dataset']}" for floor in item["floors"]
    ]


def _barrier(barrier: Mapping[str, Any] | None) -> str | None:
    if barrier is None:
        return None
    refs = ", ".join(barrier["refs"])
    if not barrier["secure"]:
        return f"none at {refs}"
    more = [f"and {barrier['more']} more"] if barrier["more"] else []
    return f"{refs}: " + "; ".join([*(f"{item['expression']} ({item['why']})" for item in barrier["causes"]), *more])


def _lines(texts: Iterable[str]) -> str | None:
    return "; ".join(texts) or None

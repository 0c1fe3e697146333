"""Calls in PostgreSQL's dialect: functions and aggregates that are the same in both engines, or printed so that they are."""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot import exp

from tidegate.sql import callnames
from tidegate.sql.nodes import AggregateCall, Call
from tidegate.sql.postgres_expressions import BOOLEAN, SORTED, Expressions, Said
from tidegate.sql.postgres_types import COMPUTED, Kind, numeric
from tidegate.sql.postgres_values import Unsaid

_PARTS = frozenset({"year", "month", "day"})
_SUBSTRING_MAX = 1_000_000


class Calls(Expressions):
    """Prints calls."""

    def _print_extract(self, node: exp.Expr) -> Said:
        return self._part(node.name.lower(), node.args["expression"])

    def _part(self, unit: str, node: exp.Expr) -> Said:
        text, kind = self.value(node)
        if unit not in _PARTS or kind.sort not in ("date", "timestamp"):
            raise Unsaid(f"the part {unit} of a value")
        part = f"CAST(EXTRACT({unit} FROM {text}) AS int8)"
        # DuckDB has a year 0 and no parts of infinity.
        if unit == "year":
            part = f"({part} + CASE WHEN EXTRACT(year FROM {text}) < 0 THEN 1 ELSE 0 END)"
        return f"(CASE WHEN isfinite({text}) THEN {part} END)", Kind("integer")

    def _print_filter(self, node: exp.Expr) -> Said:
        text, kind = self.value(node.this)
        if not isinstance(node.this, AggregateCall) or callnames.name(node.this) == "avg":
            raise Unsaid("FILTER over this aggregate")
        return f"{text} FILTER (WHERE {self.condition(node.args['expression'].this)})", kind

    def call(self, node: Call) -> Said:
        """Print a call of a function or an aggregate."""
        name, arguments = callnames.name(node), callnames.arguments(node)
        if isinstance(node, AggregateCall):
            return self._aggregate(name, arguments, distinct=callnames.is_distinct(node))
        if name in _PARTS and len(arguments) == 1:
            return self._part(name, arguments[0])
        if name == "coalesce" and arguments:
            said = [self.value(item) for item in arguments]
            kind = self._common([item[1] for item in said])
            return self._finished(f"COALESCE({', '.join(item[0] for item in said)})", kind)
        if name in ("substring", "substr") and len(arguments) == 3:
            return self._substring(arguments)
        if name in ("starts_with", "prefix") and len(arguments) == 2:
            (left, first), (right, second) = (self.value(item) for item in arguments)
            if first.sort == second.sort == "text" and first.collation and second.collation:
                return f"starts_with({left}, {right})", BOOLEAN
        raise Unsaid(f"the function {name}")

    def _substring(self, arguments: Sequence[exp.Expr]) -> Said:
        text, kind = self.value(arguments[0])
        bounds = [item.unnest() for item in arguments[1:]]
        if kind.sort != "text" or not all(isinstance(item, exp.Literal) and item.is_int for item in bounds):
            raise Unsaid("substring by something else than numbers")
        start, length = (int(item.name) for item in bounds)
        if not 1 <= start <= _SUBSTRING_MAX or not 0 <= length <= _SUBSTRING_MAX:
            raise Unsaid("substring out of a text's bounds")
        return self._finished(f"substr({text}, {start}, {length})", Kind("text", COMPUTED))

    def _aggregate(self, name: str, arguments: Sequence[exp.Expr], *, distinct: bool) -> Said:
        if name in ("count_star", "count") and (not arguments or isinstance(arguments[0], exp.Star)):
            return "count(*)", Kind("integer")
        if len(arguments) != 1:
            raise Unsaid(f"the aggregate {name} in this form")
        text, kind = self.value(arguments[0])
        word = "DISTINCT " if distinct else ""
        if distinct and not kind.exact:
            raise Unsaid("DISTINCT over a type that compares in another way")
        if name == "count":
            return f"count({word}{text})", Kind("integer")
        if name in ("min", "max") and kind.sort in SORTED:
            return (
                (f"{name}({self.sorted_text(text, kind)})", Kind("text", COMPUTED))
                if kind.sort == "text"
                else (
                    f"{name}({text})",
                    kind,
                )
            )
        if name == "sum" and numeric(kind):
            return f"sum({word}{text})", kind
        if name == "avg" and numeric(kind):
            exact = f"CAST(sum({word}{text}) AS numeric(1000, 60))"
            return f"CAST({exact} / NULLIF(count({word}{text}), 0) AS float8)", Kind("other")
        raise Unsaid(f"the aggregate {name} over this type")

    def _print_anonymous(self, node: exp.Expr) -> Said:
        """Print a function of a mask: ``tidegate.sql.masks`` makes them, a caller cannot."""
        said = [self.value(item) for item in node.expressions]
        match node.name.lower(), [kind.sort for _, kind in said]:
            case "length", ["text"]:
                return f"length({said[0][0]})", Kind("integer")
            case "right", ["text", "integer"] if isinstance(node.expressions[1], exp.Literal):
                return self._finished(f"right({said[0][0]}, {said[1][0]})", Kind("text", COMPUTED))
        raise Unsaid(f"the function {node.name.lower()}")

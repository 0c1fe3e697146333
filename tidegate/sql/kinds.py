"""The type of an expression, as far as dividing an aggregate needs it: family, scale, and a text that is one for each type.

A state that was computed part by part travels as Arrow and comes back as another type than DuckDB's own (HUGEINT becomes
DECIMAL(38,0)), so the merged value is cast to what DuckDB would have given: for that the family must be known. And a UNION ALL
whose branches differ in a column's type unifies it; computed below the union, the same words would mean something else. What is
not known here is ``other``, and the passes then leave the query as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlglot import exp

from tidegate.core.errors import TidegateError
from tidegate.core.values import Value
from tidegate.sql import callnames
from tidegate.sql.families import MOMENTS, NUMBERS, Family, family
from tidegate.sql.lineage import Lineage
from tidegate.sql.model import BoundQuery, Schema
from tidegate.sql.nodes import column
from tidegate.sql.render import render
from tidegate.sql.types import parse_type

_WIDE = frozenset({"HUGEINT", "UHUGEINT"})  # Arrow has no such type
_UNSIGNED = frozenset({"UBIGINT"})  # with a signed integer they make a HUGEINT
_PREDICATES = (
    exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE, exp.NullSafeEQ, exp.NullSafeNEQ, exp.And, exp.Or, exp.Not, exp.Is,
    exp.In, exp.Between, exp.Like, exp.ILike, exp.Glob, exp.Boolean,
)  # fmt: skip
_TEXTS = frozenset(
    [
        "lower",
        "upper",
        "lcase",
        "ucase",
        "trim",
        "ltrim",
        "rtrim",
        "left",
        "right",
        "substr",
        "substring",
        "replace",
        "reverse",
        "strftime",
        "monthname",
        "dayname",
        "concat",
        "concat_ws",
        "md5",
        "sha256",
        "sha1",
        "split_part",
        "regexp_replace",
        "regexp_extract",
        "lpad",
        "rpad",
        "strip_accents",
        "nfc_normalize",
    ]
)
_INTEGERS = frozenset(
    [
        "length",
        "strlen",
        "char_length",
        "character_length",
        "strpos",
        "instr",
        "position",
        "year",
        "month",
        "day",
        "quarter",
        "week",
        "dayofweek",
        "dayofyear",
        "isodow",
        "hour",
        "minute",
        "second",
        "weekday",
        "weekofyear",
        "isoyear",
        "decade",
        "century",
        "ascii",
        "unicode",
        "ord",
    ]
)
_INTEGER_PARTS = frozenset(
    [
        "year",
        "month",
        "day",
        "quarter",
        "week",
        "dayofweek",
        "dow",
        "dayofyear",
        "doy",
        "isodow",
        "hour",
        "minute",
        "second",
    ]
)
_SAME = frozenset({"abs", "coalesce", "ifnull", "greatest", "least", "nullif"})


@dataclass(frozen=True, slots=True)
class Kind:
    """What is known of a type.

    Args:
        family: ``other`` when it is not known, is nested, or does not come back from Arrow as it was.
        scale: decimal digits after the point (0 when not a decimal).
        exact: equal for two expressions only when DuckDB gives both the same type.
    """

    family: Family
    scale: int
    exact: str

    @property
    def is_number(self) -> bool:
        """Say whether sums and means of it are known."""
        return self.family in NUMBERS


class Kinds:
    """The types of one bound query's expressions; holds while the tree's derived tables stay as they are."""

    def __init__(self, bound: BoundQuery, schema: Schema, lineage: Lineage) -> None:
        self._parameters = bound.parameters
        self._lineage = lineage
        self._datasets = {leaf.ref: schema[leaf.dataset] for leaf in bound.leaves}
        self._known: dict[tuple[str, str], Kind | None] = {}
        self._types: dict[str, Kind | None] = {}

    def of(self, node: exp.Expr) -> Kind | None:
        """Give the kind of an expression; None when a column in it has none (branches of a union differ)."""
        node = node.unnest()
        if isinstance(node, exp.Column):
            return self.column(node)
        if isinstance(node, exp.Cast):
            to = node.args["to"]
            return self._typed(to.name if isinstance(to, exp.Var) else to.sql("duckdb"))
        if isinstance(node, exp.Literal) and not node.is_string:
            return _number(node.name)
        if isinstance(node, exp.Parameter):
            return _parameter(self._parameters[int(node.this.name) - 1])
        if isinstance(node, exp.Null):
            return None
        exact = self._signature(node)
        if exact is None:
            return None
        found, scale = self._family(node)
        if found in ("integer", "decimal") and any(word in exact for word in _UNSIGNED):
            found = "other"  # a HUGEINT, or what comes of one
        return Kind(found, scale, exact)

    def typed(self, node: exp.Expr) -> bool:
        """Say whether each column in an expression has one type in all branches behind it."""
        return all(self.column(item) is not None for item in node.find_all(exp.Column))

    def column(self, node: exp.Column) -> Kind | None:
        """Give the kind of a column: its catalogue type (masks keep it), or what defines it when all branches agree."""
        key = (node.table, node.name)
        if key not in self._known:
            self._known[key] = None  # what refers to itself has no kind
            if node.table in self._datasets:
                held = self._datasets[node.table].column(node.name)
                self._known[key] = self._typed(held.type) if held is not None else None
            else:
                kinds = {self.of(item) for item in self._lineage.definitions(node)}
                self._known[key] = kinds.pop() if len(kinds) == 1 else None
        return self._known[key]

    def _typed(self, text: str) -> Kind | None:
        if text not in self._types:
            try:
                canonical = parse_type(text)
            except TidegateError:
                self._types[text] = None
                return None
            found: Family = "other" if canonical in _WIDE else family(canonical)
            scale = int(canonical[:-1].rpartition(",")[2]) if found == "decimal" else 0
            self._types[text] = Kind(found, scale, canonical)
        return self._types[text]

    def _signature(self, node: exp.Expr) -> str | None:
        """Print an expression with types in the place of columns."""
        if node.find(exp.Query) is not None:
            return None
        tree = exp.Paren(this=node.copy())
        for item in list(tree.find_all(exp.Column)):
            kind = self.column(item)
            if kind is None:
                return None
            item.replace(column("type", kind.exact or "?"))
        try:
            printed = render(tree.this, self._parameters)
        except TidegateError:
            return None
        return f"{printed.text} {printed.parameters!r}"

    def _family(self, node: exp.Expr) -> tuple[Family, int]:
        if isinstance(node, _PREDICATES):
            return "boolean", 0
        if isinstance(node, exp.Case):
            values = [item.args["true"] for item in node.args["ifs"]]
            default = node.args.get("default")
            return self._common([*values, *([default] if default is not None else [])])
        if isinstance(node, exp.Neg):
            return self._common([node.this])
        if isinstance(node, exp.Add | exp.Sub | exp.Mul | exp.Div | exp.IntDiv | exp.Mod):
            return self._arithmetic(node)
        if isinstance(node, exp.DPipe):
            return ("text", 0) if self._common([node.this, node.args["expression"]])[0] == "text" else ("other", 0)
        return self._call(callnames.name(node), callnames.arguments(node))

    def _arithmetic(self, node: exp.Expr) -> tuple[Family, int]:
        sides = [self.of(node.this), self.of(node.args["expression"])]
        kinds = [kind for kind in sides if kind is not None and kind.is_number and kind.exact not in _UNSIGNED]
        if len(kinds) < 2:
            return "other", 0
        families = {kind.family for kind in kinds}
        if isinstance(node, exp.Div) or "float" in families:
            return "float", 0
        if isinstance(node, exp.IntDiv):
            return ("integer", 0) if families == {"integer"} else ("other", 0)
        scales = [kind.scale for kind in kinds]
        if "decimal" in families:
            return "decimal", sum(scales) if isinstance(node, exp.Mul) else max(scales)
        return "integer", 0

    def _common(self, nodes: Sequence[exp.Expr]) -> tuple[Family, int]:
        """Give the family of a value that is one of these (CASE, coalesce)."""
        kinds = [self.of(node) for node in nodes if not isinstance(node.unnest(), exp.Null)]
        known = [kind for kind in kinds if kind is not None]
        if not known or len(known) < len(kinds) or (len(known) > 1 and any(kind.exact in _UNSIGNED for kind in known)):
            return "other", 0
        families = {kind.family for kind in known}
        if len(families) == 1:
            return known[0].family, max(kind.scale for kind in known)
        if families <= NUMBERS:
            return ("float", 0) if "float" in families else ("decimal", max(kind.scale for kind in known))
        return "other", 0

    def _call(self, name: str, arguments: list[exp.Expr]) -> tuple[Family, int]:
        if name in _TEXTS:
            return "text", 0
        if name in _INTEGERS:
            return "integer", 0
        if name in _SAME and arguments:
            return self._common(arguments[:1] if name == "nullif" else arguments)
        if name in ("date_part", "datepart") and isinstance(arguments[0], exp.Parameter):
            unit = self._parameters[int(arguments[0].this.name) - 1]
            return ("integer", 0) if unit in _INTEGER_PARTS else ("other", 0)
        if name in ("date_trunc", "datetrunc") and len(arguments) == 2:
            kind = self.of(arguments[1])
            return ("timestamp", 0) if kind is not None and kind.family in MOMENTS else ("other", 0)
        return "other", 0


def _number(text: str) -> Kind:
    if text.isdigit():
        value = int(text)
        exact = "INTEGER" if value < 2**31 else "BIGINT" if value < 2**63 else ""
        return Kind("integer" if exact else "other", 0, exact or f"number {text}")
    if "e" in text.lower():
        return Kind("float", 0, "DOUBLE")
    return Kind("decimal", len(text.partition(".")[2]), f"number {len(text)} {len(text.partition('.')[2])}")


def _parameter(value: Value) -> Kind | None:
    if value is None:
        return None
    simple: Mapping[type, tuple[Family, str]] = {
        bool: ("boolean", "BOOLEAN"), str: ("text", "VARCHAR"), float: ("float", "DOUBLE"),
    }  # fmt: skip
    if type(value) in simple:
        found, exact = simple[type(value)]
        return Kind(found, 0, exact)
    if isinstance(value, int):
        return _number(str(value)) if value >= 0 else Kind("other", 0, f"number {value}")
    return Kind("other", 0, f"{type(value).__name__} {value!r}")

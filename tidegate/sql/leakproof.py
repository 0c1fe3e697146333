"""Which expressions can neither raise nor tell: the leakproof rule of the planner, as one allow-list.

What is leakproof may run on hidden rows, at a leaf that filters later, or over one person's values; everything else stays
above a barrier. Comparison, IN, BETWEEN, IS NULL, LIKE with a constant pattern, AND, OR, NOT over columns and constants of
the column's own family; and a few functions that are total over what they accept. No cast, no arithmetic.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TypeAlias

from sqlglot import exp

from tidegate.core.values import Value
from tidegate.sql import callnames
from tidegate.sql.families import MOMENTS, Family, comparable, family
from tidegate.sql.lineage import Lineage
from tidegate.sql.model import BoundQuery, Schema
from tidegate.sql.nodes import Keys

Kind: TypeAlias = "Family | None"

_DIGITS_MAX = 18  # of a constant: a longer one may not fit the type that DuckDB compares in
_WIDE = frozenset({"HUGEINT", "UHUGEINT"})  # with a DECIMAL they compare in a type that may be too narrow
_MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}( [0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?)?\Z")

_COMPARE = (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.NullSafeEQ, exp.NullSafeNEQ)
_TEXT_TO_TEXT = frozenset({"lower", "upper", "trim", "ltrim", "rtrim"})
_TEXT_TESTS = frozenset({"starts_with", "ends_with", "contains", "prefix", "suffix"})
_PARTS = frozenset({"year", "month", "day", "quarter", "week", "dayofweek", "dayofyear", "isodow"})
_AGGREGATES = frozenset({"count", "count_star", "min", "max", "sum", "avg"})
"""Run on rows that the restriction let through, never before it; and these five do not raise on what a table holds."""


class Leakproof:
    """The rule for one bound query: it knows the columns' types and the parameters' values."""

    def __init__(self, bound: BoundQuery, schema: Schema, lineage: Lineage | None = None) -> None:
        self._lineage = lineage or Lineage.of(bound)
        self._parameters = bound.parameters
        self._datasets = {leaf.ref: schema[leaf.dataset] for leaf in bound.leaves}
        # A CTE may be mentioned twice by the next one, and so on: without this, forty of them are 2^40 steps.
        self._kinds: dict[tuple[str, str], Kind] = {}

    def predicate(self, node: exp.Expr) -> bool:
        """Say whether a condition is leakproof."""
        node = node.unnest()
        match node:
            case exp.And() | exp.Or():
                return self.predicate(node.left) and self.predicate(node.right)
            case exp.Not():
                return self.predicate(node.this)
            case exp.Boolean():
                return True
            case exp.Is():
                right = node.expression
                return isinstance(right, exp.Null | exp.Boolean) and (
                    self.value(node.this) is not None or self.predicate(node.this)
                )
            case Keys():
                return self.value(node.this) is not None
            case exp.In():
                return self._membership(node)
            case exp.Between():
                return all(self._comparable(node.this, bound) for bound in (node.args["low"], node.args["high"]))
            case exp.Like() | exp.ILike():
                return self.value(node.this) == "text" and self._constant(node.expression) == "text"
        if isinstance(node, _COMPARE):
            return self._comparable(node.this, node.expression)
        return self.value(node) == "boolean"

    def _membership(self, node: exp.In) -> bool:
        options = node.expressions
        return (
            bool(options) and not node.args.get("query") and all(self._comparable(node.this, item) for item in options)
        )

    def _comparable(self, left: exp.Expr, right: exp.Expr) -> bool:
        first, second = self.value(left), self.value(right)
        if first is None or second is None:
            return False
        if comparable(first, second):
            return True
        return first in MOMENTS and second == "text" and self._is_moment(right)

    def value(self, node: exp.Expr) -> Kind:
        """Give the family of an expression that cannot raise, or None when it may raise or is not known."""
        node = node.unnest()
        if isinstance(node, exp.Column):
            return self.column(node)
        constant = self._constant(node)
        if constant is not None:
            return constant
        if isinstance(node, exp.Extract):
            return "integer" if self.value(node.expression) in MOMENTS else None
        return self._call(callnames.name(node), callnames.arguments(node))

    def _call(self, name: str, arguments: list[exp.Expr]) -> Kind:
        kinds = [self.value(item) for item in arguments]
        if name in _TEXT_TO_TEXT and kinds == ["text"]:
            return "text"
        if name in ("length", "strlen") and kinds == ["text"]:
            return "integer"
        if name in _TEXT_TESTS and kinds == ["text", "text"]:
            return "boolean"
        if name in _PARTS and len(kinds) == 1 and kinds[0] in MOMENTS:
            return "integer"
        if (
            name in ("date_trunc", "datetrunc")
            and len(kinds) == 2
            and kinds[1] in MOMENTS
            and self._constant(arguments[0])
        ):
            return "timestamp"
        if name == "date_part" and len(kinds) == 2 and kinds[1] in MOMENTS and self._constant(arguments[0]):
            return "integer"
        if name == "coalesce" and kinds and kinds[0] is not None and len(set(kinds)) == 1:
            return kinds[0]
        return None

    def column(self, column: exp.Column) -> Kind:
        """Give the family of a column; None when what defines it may raise, or its branches differ."""
        if column.table in self._datasets:
            return self._base(column.table, column.name)
        key = (column.table, column.name)
        if key not in self._kinds:
            kinds = {self.value(item) for item in self._lineage.definitions(column)}
            self._kinds[key] = kinds.pop() if len(kinds) == 1 else None
        return self._kinds[key]

    def _base(self, ref: str, name: str) -> Kind:
        found = self._datasets[ref].column(name)
        if found is None:
            return "text"  # the reserved column of subjects
        return None if found.type.upper() in _WIDE else family(found.type)

    def _constant(self, node: exp.Expr) -> Kind:
        node = node.unnest()
        if isinstance(node, exp.Neg):
            inner = self._constant(node.this)
            return inner if inner in ("integer", "decimal", "float") else None
        if isinstance(node, exp.Literal):
            if node.is_string:
                return "text"
            return None if len(node.name) > _DIGITS_MAX else "integer" if node.is_int else "decimal"
        if isinstance(node, exp.Boolean):
            return "boolean"
        if isinstance(node, exp.Parameter):
            return _family_of(self._parameters[int(node.this.name) - 1])
        if isinstance(node, exp.Cast) and not isinstance(node, exp.TryCast):
            kind = family(node.to.sql("duckdb"))
            if isinstance(node.this, exp.Null):
                return kind
            return kind if kind in MOMENTS and self._is_moment(node.this) else None
        if isinstance(node, exp.Add | exp.Sub):
            return self._sum(node)
        return None

    def _sum(self, node: exp.Add | exp.Sub) -> Kind:
        """Give the family of constants added: a moment and a small interval, or two short numbers; neither can overflow."""
        left, right = node.left.unnest(), node.right.unnest()
        if isinstance(left, exp.Cast) and self._constant(left) in MOMENTS and self._is_small_interval(right):
            return "timestamp"
        short = all(
            isinstance(item, exp.Literal) and not item.is_string and len(item.name) <= 9 for item in (left, right)
        )
        return ("integer" if left.is_int and right.is_int else "decimal") if short else None

    def _is_small_interval(self, node: exp.Expr) -> bool:
        if not isinstance(node, exp.Interval) or node.this is None:
            return False
        count = node.this.unnest()
        if isinstance(count, exp.Parameter):
            value = self._parameters[int(count.this.name) - 1]
        else:
            value = count.name if isinstance(count, exp.Literal) else None
        return bool(re.fullmatch(r"[0-9]{1,3}", str(value))) and not isinstance(value, bool | float)

    def _is_moment(self, node: exp.Expr) -> bool:
        """Say whether a constant text is a date or time: a bad one raises, and perhaps only where there are rows."""
        node = node.unnest()
        if isinstance(node, exp.Parameter):
            text = self._parameters[int(node.this.name) - 1]
        else:
            text = node.name if isinstance(node, exp.Literal) and node.is_string else None
        return isinstance(text, str) and _is_moment_text(text)

    def query(self, tree: exp.Expr) -> bool:
        """Say whether nothing in a whole query can raise or tell: then a leaf's restriction needs no barrier."""
        return next(self.culprits(tree), None) is None

    def culprits(self, tree: exp.Expr) -> Iterator[exp.Expr]:
        """Give what in a whole query may raise or tell: values, conditions, and lists of values that stand in it."""
        for select in tree.find_all(exp.Select):
            yield from self._culprits(select)
        yield from tree.find_all(exp.Values)

    def _culprits(self, select: exp.Select) -> Iterator[exp.Expr]:
        values = [item.unalias() for item in select.expressions]
        group = select.args.get("group")
        order = select.args.get("order")
        values += group.expressions if group is not None else []
        values += [item.this for item in order.expressions] if order is not None else []
        conditions = [
            node.this for node in (select.args.get(key) for key in ("where", "having", "qualify")) if node is not None
        ]
        conditions += [join.args["on"] for join in select.args.get("joins") or () if join.args.get("on") is not None]
        yield from (value for value in values if not self.item(value))
        yield from (condition for condition in conditions if not self.predicate(condition))

    def item(self, node: exp.Expr) -> bool:
        """Say whether a value of a select list cannot raise: an aggregate of the few that are safe, or a value."""
        if callnames.name(node) in _AGGREGATES:
            return all(isinstance(item, exp.Star) or self.value(item) is not None for item in callnames.arguments(node))
        return self.value(node) is not None


def _is_moment_text(text: str) -> bool:
    if not _MOMENT.match(text):
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def constant_class(value: Value) -> tuple[str, Kind, bool]:
    """Give all that this rule sees of a constant: its type, its family, and whether it is the text of a date or time."""
    return type(value).__name__, _family_of(value), isinstance(value, str) and _is_moment_text(value)


def constant_classes(values: Sequence[Value]) -> set[tuple[str, Kind, bool]]:
    """Give the classes of many constants; those of a batch of keys are all of one type, and are not looked at one by one."""
    kinds = set(map(type, values))
    if kinds == {int}:
        ends = {constant_class(min(values)), constant_class(max(values))}  # type: ignore[type-var]
        # No number between two has more digits than both, so when neither end has too many, none has.
        if ends == {("int", "integer", False)}:
            return ends
    if kinds == {str}:
        return {("str", "text", moment) for moment in set(map(_is_moment_text, values))}  # type: ignore[arg-type]
    return {constant_class(item) for item in values}


def _family_of(value: Value) -> Kind:
    if isinstance(value, int) and len(str(value)) > _DIGITS_MAX:
        return None
    kinds: Mapping[type, Family] = {bool: "boolean", int: "integer", float: "float", str: "text"}
    named: Mapping[str, Family] = {"Decimal": "decimal", "date": "date", "datetime": "timestamp", "time": "time"}
    if type(value) in kinds:
        return kinds[type(value)]
    return named.get(type(value).__name__)


def rejects_null(node: exp.Expr, ref: str) -> bool:
    """Prove that a condition is never TRUE when every column of ``ref`` is NULL; only simple forms are proven."""
    node = node.unnest()
    match node:
        case exp.And():
            return rejects_null(node.left, ref) or rejects_null(node.right, ref)
        case exp.Or():
            return rejects_null(node.left, ref) and rejects_null(node.right, ref)
        case exp.Not():
            inner = node.this.unnest()
            if isinstance(inner, exp.Is):
                return isinstance(inner.expression, exp.Null) and _strict(inner.this, ref)
            # NOT of AND or OR is not proven: NOT (NULL AND FALSE) is TRUE
            return isinstance(inner, (exp.Between, exp.In, exp.Like, exp.ILike, *_STRICT)) and rejects_null(inner, ref)
        case exp.Is():
            return isinstance(node.expression, exp.Boolean) and _strict(node.this, ref)
        case exp.In() | exp.Between() | exp.Like() | exp.ILike():
            return _strict(node.this, ref)
    return isinstance(node, _STRICT) and (_strict(node.this, ref) or _strict(node.expression, ref))


_STRICT = (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE)


def _strict(node: exp.Expr, ref: str) -> bool:
    node = node.unnest()
    return isinstance(node, exp.Column) and node.table == ref

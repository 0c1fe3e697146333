"""The scan that a node sends to PostgreSQL: raw columns, and only such conditions as mean there what they mean in DuckDB.

The result is a superset of what the fragment needs. The node runs the whole restricted fragment in DuckDB over it, so a
condition that is left out costs bytes and nothing else: equality and IN on anything comparable, ranges on numbers and dates,
IS NULL; texts by equality alone (ranges depend on the server's collation), and nothing of texts under NOT.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal

from sqlglot import exp

from tidegate.core.dataset import Dataset
from tidegate.core.decision import Decision
from tidegate.core.errors import Code, error_for
from tidegate.core.values import Value
from tidegate.sql import filters, postgres_values
from tidegate.sql.families import Family, comparable, family
from tidegate.sql.leakproof import Leakproof
from tidegate.sql.lineage import Lineage, conjuncts
from tidegate.sql.model import BoundQuery, RenderedSql, Schema
from tidegate.sql.postgres_types import NativeColumn
from tidegate.sql.pushdown import push

_RANGES: dict[type[exp.Expr], str] = {exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">="}
_EXACT: frozenset[Family] = frozenset({"integer", "decimal", "date", "boolean"})
"""Families whose order and equality are the same in both engines. Floats: NaN sorts last in both, but -0.0 and casts differ."""


def prefilter(bound: BoundQuery, ref: str, decision: Decision, *, schema: Schema) -> tuple[exp.Expr, ...]:
    """Give the conditions over raw columns that every row must meet that the restricted fragment can use.

    The row filter's conjuncts, and the fragment's own over columns that are not masked (of a masked one the condition is
    about the masked value).
    """
    leaf, resource = bound.leaf(ref), decision.resources[ref]
    held = filters.predicate(resource.row_filter, schema[leaf.dataset], ref)
    found = list(conjuncts(held.this)) if held is not None else []
    lineage = Lineage.of(bound)
    for item in push(bound.tree, lineage, Leakproof(bound, schema, lineage))[ref].pushed:
        if all(resource.rule(column.name).access == "plain" for column in item.find_all(exp.Column)):
            found.append(item)
    return tuple(found)


def scan(
    dataset: Dataset,
    table: Sequence[str],
    columns: Iterable[str],
    conditions: Iterable[exp.Expr],
    parameters: Sequence[Value] = (),
    *,
    natives: Mapping[str, NativeColumn] | None = None,
    keys: Mapping[str, Sequence[Value]] | None = None,
) -> RenderedSql:
    """Print the scan in PostgreSQL's dialect; a condition that cannot be said there is left out.

    Args:
        table: schema and name of the table or view at the source, from the node's configuration.
        parameters: those that ``exp.Parameter`` nodes of the conditions stand for.
        natives: what the columns are at the source; None where all of them are what the catalogue says.
        keys: column -> keys; rows with another value, or none, cannot matter.
    """
    printer = _Printer(dataset, parameters, natives)
    wanted = list(columns)
    items = ", ".join(raw(name, _native(natives, name)) for name in wanted) or "1"
    said = [text for text in map(printer.condition, conditions) if text is not None]
    for name, values in (keys or {}).items():
        condition = printer.keys(name, values)
        if condition is not None:
            said.append(condition)
    where = f" WHERE {' AND '.join(said)}" if said else ""
    source = ".".join(quoted(part) for part in table)
    return RenderedSql(f"SELECT {items} FROM {source}{where}", tuple(printer.values))  # noqa: S608 - quoted names and our own print


def quoted(name: str) -> str:
    """Quote an identifier."""
    return '"' + name.replace('"', '""') + '"'


def raw(name: str, native: str) -> str:
    """Print a column of a scan: a fixed-width text has no blanks at its end, as everywhere in the exchange."""
    return f"CAST({quoted(name)} AS text) AS {quoted(name)}" if native == "bpchar" else quoted(name)


_PLACES = re.compile(r'"(?:[^"]|"")*"|CAST\(\$([0-9]+) AS text\)')


def inlined(query: RenderedSql) -> str:
    """Give the scan's text without parameters, for COPY, which takes none: each is printed as the digits of its bytes.

    Raises:
        InternalError: INTERNAL, a parameter that is no text; ``scan`` makes none.
    """

    def said(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0]  # a quoted name
        value = query.parameters[int(match[1]) - 1]
        if not isinstance(value, str):
            raise error_for(Code.INTERNAL, detail="scan: a parameter that is no text")
        return postgres_values.text(value)

    return _PLACES.sub(said, query.text)


def _native(natives: Mapping[str, NativeColumn] | None, name: str) -> str:
    found = (natives or {}).get(name)
    return found.native if found is not None else ""


class _Unsaid(Exception):
    """The condition has no exact form; a signal inside this module, never an error of anybody's."""


class _Printer:
    """Prints conditions; texts become parameters ``$1`` ... of type text."""

    def __init__(
        self, dataset: Dataset, parameters: Sequence[Value], natives: Mapping[str, NativeColumn] | None
    ) -> None:
        self._dataset = dataset
        self._natives = natives
        self._parameters = parameters
        self.values: list[Value] = []

    def condition(self, node: exp.Expr) -> str | None:
        """Print a condition, or None; parameters of a condition that was given up are taken back."""
        count = len(self.values)
        try:
            return self._boolean(node, positive=True)
        except _Unsaid:
            del self.values[count:]
            return None

    def _boolean(self, node: exp.Expr, *, positive: bool) -> str:
        node = node.unnest()
        match node:
            case exp.And() | exp.Or():
                word = "AND" if isinstance(node, exp.And) else "OR"
                return f"({self._boolean(node.left, positive=positive)} {word} {self._boolean(node.right, positive=positive)})"
            case exp.Not():
                return f"(NOT {self._boolean(node.this, positive=False)})"
            case exp.Is() if isinstance(node.expression, exp.Null):
                return f"({self._column(node.this)[0]} IS NULL)"
            case exp.In() if node.expressions and not node.args.get("query"):
                name, kind = self._column(node.this)
                return f"({name} IN ({', '.join(self._value(item, kind, positive=positive) for item in node.expressions)}))"
            case exp.Between():
                name, kind = self._column(node.this, ordered=True)
                low, high = (self._value(node.args[key], kind, positive=positive) for key in ("low", "high"))
                return f"({name} BETWEEN {low} AND {high})"
        return self._comparison(node, positive=positive)

    def _comparison(self, node: exp.Expr, *, positive: bool) -> str:
        if isinstance(node, exp.EQ):
            word, ordered = "=", False
        elif type(node) in _RANGES:
            word, ordered = _RANGES[type(node)], True
        elif isinstance(node, exp.NEQ):
            word, ordered = "<>", True  # of a text: a looser equality at the source would make it a subset
        else:
            raise _Unsaid
        left, right = node.this.unnest(), node.expression.unnest()
        if not isinstance(left, exp.Column):
            left, right = right, left
            word = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}.get(word, word)
        name, kind = self._column(left, ordered=ordered)
        return f"({name} {word} {self._value(right, kind, positive=positive)})"

    def _column(self, node: exp.Expr, *, ordered: bool = False) -> tuple[str, Family]:
        node = node.unnest()
        held = self._dataset.column(node.name) if isinstance(node, exp.Column) else None
        if held is None:
            raise _Unsaid
        kind = family(held.type)
        if ordered and kind not in _EXACT:
            raise _Unsaid
        native = self._natives.get(held.name) if self._natives is not None else None
        if kind == "text" and native is not None:
            if not native.collation:  # two texts of other bytes may be equal there
                raise _Unsaid
            if native.native == "bpchar":
                return f"CAST({quoted(held.name)} AS text)", kind
        return quoted(held.name), kind

    def keys(self, name: str, values: Sequence[Value]) -> str | None:
        """Print the condition that a column is among keys, or None."""
        try:
            text, kind = self._column(exp.column(name))
            return f"({text} = ANY ({postgres_values.array(values, kind)}))"
        except (_Unsaid, postgres_values.Unsaid):
            return None

    def _value(self, node: exp.Expr, kind: Family, *, positive: bool) -> str:
        node = node.unnest()
        if kind not in _EXACT and not (kind == "text" and positive):
            raise _Unsaid
        value = self._python(node)
        return self._print(value, kind)

    def _python(self, node: exp.Expr) -> Value:
        if isinstance(node, exp.Parameter):
            return self._parameters[int(node.this.name) - 1]
        if isinstance(node, exp.Literal):
            return node.this if node.is_string else Decimal(node.this)
        if isinstance(node, exp.Neg) and isinstance(node.this, exp.Literal) and not node.this.is_string:
            return -Decimal(node.this.this)
        if isinstance(node, exp.Boolean):
            return bool(node.this)
        if isinstance(node, exp.Cast) and not isinstance(node, exp.TryCast) and family(node.to.sql("duckdb")) == "date":
            inner = self._python(node.this.unnest())
            return _date(inner) if isinstance(inner, str) else _unsaid()
        return _unsaid()

    def _print(self, value: Value, kind: Family) -> str:
        match value:
            case bool() if kind == "boolean":
                return "TRUE" if value else "FALSE"
            case str() if kind == "text" and "\x00" not in value:
                self.values.append(value)
                return f"CAST(${len(self.values)} AS text)"
            case datetime():
                return _unsaid()
            case date() if kind == "date":
                return f"DATE '{value.isoformat()}'"
            case int() | Decimal() if not isinstance(value, bool) and comparable(kind, "decimal"):
                number = Decimal(value)
                return format(number, "f") if number.is_finite() else _unsaid()
        return _unsaid()


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise _Unsaid from None


def _unsaid() -> str:
    raise _Unsaid

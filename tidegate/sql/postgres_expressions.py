"""Expressions in PostgreSQL's dialect: a closed list of forms, each of which means in both engines the same.

What is not listed is ``Unsaid``. Where the engines differ, the print says what DuckDB means: a text sorts by bytes (COLLATE
"C"), LIKE has no escape character, a fixed-width text has no blanks at its end (also in scans), whole numbers are added in
BIGINT, the mean is the exact sum divided by the count.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal

from sqlglot import exp

from tidegate.core.values import Value
from tidegate.sql import postgres_values
from tidegate.sql.nodes import Call, parameter_number
from tidegate.sql.postgres_types import COMPUTED, Kind, cast_type, kind_of, numeric
from tidegate.sql.postgres_values import Unsaid

Said = tuple[str, Kind]

_RANGES: dict[type[exp.Expr], str] = {exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">="}
_EQUALS: dict[type[exp.Expr], str] = {
    exp.EQ: "=",
    exp.NEQ: "<>",
    exp.NullSafeEQ: "IS NOT DISTINCT FROM",
    exp.NullSafeNEQ: "IS DISTINCT FROM",
}
_ARITHMETIC: dict[type[exp.Expr], str] = {exp.Add: "+", exp.Sub: "-", exp.Mul: "*"}
SORTED = frozenset({"integer", "decimal", "date", "timestamp", "timestamptz", "text"})
_UNITS = frozenset({"YEAR", "YEARS", "MONTH", "MONTHS", "DAY", "DAYS"})
_BINARY_COLLATIONS = frozenset({"C", "POSIX"})
BOOLEAN = Kind("boolean")


class Expressions:
    """Prints expressions. ``query``, ``keys_of`` and ``call`` are its subclasses'."""

    def __init__(self, parameters: Sequence[Value]) -> None:
        self._parameters = parameters
        self._columns: ChainMap[str, Mapping[str, Kind]] = ChainMap()
        self._natives: ChainMap[str, Mapping[str, str]] = ChainMap()

    def query(self, node: exp.Expr) -> tuple[str, dict[str, Kind]]:
        """Print a sub-query."""
        raise NotImplementedError

    def keys_of(self, query: exp.Expr) -> Sequence[Value] | None:
        """Give the keys that a sub-query stands for."""
        raise NotImplementedError

    def call(self, node: Call) -> Said:
        """Print a call of a function."""
        raise NotImplementedError

    @staticmethod
    def quoted(name: str) -> str:
        """Quote an identifier."""
        if not name or "\x00" in name:
            raise Unsaid("a name that cannot be quoted")
        return '"' + name.replace('"', '""') + '"'

    # -- scopes

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Open a scope: what is brought in it is gone at its end, what was there before is seen."""
        columns, natives = self._columns, self._natives
        self._columns, self._natives = columns.new_child(), natives.new_child()
        try:
            yield
        finally:
            self._columns, self._natives = columns, natives

    def bring(self, alias: str, columns: Mapping[str, Kind], natives: Mapping[str, str] | None = None) -> None:
        """Make a relation's columns known under an alias."""
        self._columns[alias] = columns
        self._natives[alias] = natives or {}

    # -- conditions

    def condition(self, node: exp.Expr) -> str:
        """Print a boolean."""
        text, kind = self.value(node)
        if kind.sort not in ("boolean", "null"):
            raise Unsaid("a condition that is no boolean")
        return text

    def value(self, node: exp.Expr) -> Said:
        """Print an expression, in parentheses where it is not atomic, and say what it is."""
        node = node.unnest()
        if isinstance(node, exp.Subquery | exp.Select) or type(node) in (exp.Union, exp.Intersect, exp.Except):
            text, columns = self.query(node)
            if len(columns) != 1:
                raise Unsaid("a sub-query of several columns as a value")
            return f"({text})", next(iter(columns.values()))
        if type(node) in _EQUALS or type(node) in _RANGES:
            return self._compared(node.this, node.args["expression"], type(node)), BOOLEAN
        if type(node) in _ARITHMETIC:
            return self._arithmetic(node)
        if isinstance(node, Call):
            return self.call(node)
        printer = getattr(self, f"_print_{type(node).__name__.lower()}", None)
        if printer is None:
            raise Unsaid(f"{type(node).__name__}")
        made: Said = printer(node)
        return made

    def _print_and(self, node: exp.Expr) -> Said:
        return f"({self.condition(node.this)} AND {self.condition(node.args['expression'])})", BOOLEAN

    def _print_or(self, node: exp.Expr) -> Said:
        return f"({self.condition(node.this)} OR {self.condition(node.args['expression'])})", BOOLEAN

    def _print_not(self, node: exp.Expr) -> Said:
        return f"(NOT {self.condition(node.this)})", BOOLEAN

    def _print_is(self, node: exp.Expr) -> Said:
        right = node.args["expression"]
        if isinstance(right, exp.Null):
            return f"({self.value(node.this)[0]} IS NULL)", BOOLEAN
        if isinstance(right, exp.Boolean):
            return f"({self.condition(node.this)} IS {'TRUE' if right.this else 'FALSE'})", BOOLEAN
        raise Unsaid("IS in this form")

    def _print_between(self, node: exp.Expr) -> Said:
        low = self._compared(node.this, node.args["low"], exp.GTE)
        return f"({low} AND {self._compared(node.this, node.args['high'], exp.LTE)})", BOOLEAN

    def _print_in(self, node: exp.Expr) -> Said:
        query = node.args.get("query")
        if query is None:
            if not node.expressions:
                raise Unsaid("IN without values")
            return f"({' OR '.join(self._one_of(node.this, node.expressions))})", BOOLEAN
        left, kind = self.value(node.this)
        keys = self.keys_of(query)
        if keys is not None:
            if not kind.exact:
                raise Unsaid("keys for a type that compares in another way")
            return f"({left} = ANY ({postgres_values.array(keys, kind.sort)}))", BOOLEAN
        text, columns = self.query(query)
        if len(columns) != 1:
            raise Unsaid("IN over several columns")
        left, _, _ = self._agreed((left, kind), ("", next(iter(columns.values()))), ordered=False)
        return f"({left} IN ({text}))", BOOLEAN

    def _one_of(self, target: exp.Expr, options: Sequence[exp.Expr]) -> Iterator[str]:
        """Print a list as one IN where every value is of the column's kind, else as comparisons."""
        left = self.value(target)
        values = [self._constant_for(left[1], self.value(item), item) for item in options]
        if all(value[1] == left[1] or value[1].sort == left[1].sort for value in values):
            self._agreed(left, values[0], ordered=False)
            yield f"{left[0]} IN ({', '.join(text for text, _ in values)})"
            return
        for item in options:
            yield self._compared(target, item, exp.EQ)

    def _print_exists(self, node: exp.Expr) -> Said:
        return f"EXISTS ({self.query(node.this)[0]})", BOOLEAN

    def _print_like(self, node: exp.Expr) -> Said:
        (left, first), (right, second) = self.value(node.this), self.value(node.args["expression"])
        if first.sort != "text" or second.sort != "text" or not first.collation:
            raise Unsaid("LIKE over something else than texts")
        if self._constant_text(node.args["expression"].unnest()) is None:
            raise Unsaid("LIKE with a pattern that is not constant")
        return f"({left} LIKE {right} ESCAPE '')", BOOLEAN  # DuckDB has no escape character; PostgreSQL's is \

    # -- comparisons

    def _compared(self, this: exp.Expr, that: exp.Expr, form: type[exp.Expr]) -> str:
        left, right = self.value(this), self.value(that)
        left, right = self._constant_for(right[1], left, this), self._constant_for(left[1], right, that)
        ordered = form in _RANGES
        first, second, _ = self._agreed(left, right, ordered=ordered)
        return f"({first} {_RANGES[form] if ordered else _EQUALS[form]} {second})"

    def _constant_for(self, kind: Kind, said: Said, node: exp.Expr) -> Said:
        """Print a constant text beside a date or time as one: DuckDB casts it, and a bad one raises there."""
        node = node.unnest()
        if kind.sort not in ("date", "timestamp") or said[1].sort != "text":
            return said
        value = self._constant_text(node)
        if value is None:
            raise Unsaid("a text beside a date")
        return postgres_values.moment(value)

    def _constant_text(self, node: exp.Expr) -> str | None:
        if isinstance(node, exp.Literal) and node.args.get("is_string"):
            return node.name
        value = self._parameters[parameter_number(node) - 1] if isinstance(node, exp.Parameter) else None
        return value if isinstance(value, str) else None

    def _agreed(self, left: Said, right: Said, *, ordered: bool) -> tuple[str, str, Kind]:
        """Give both sides in a form in which the engines compare alike."""
        (first, one), (second, two) = left, right
        if "null" in (one.sort, two.sort):
            return first, second, one
        if one.sort == "other" or two.sort == "other" or (ordered and one.sort not in SORTED):
            raise Unsaid("a comparison of a type that compares in another way")
        if one.sort == "text" and two.sort == "text":
            return (*self._texts(left, right, ordered=ordered), one)
        moments = {one.sort, two.sort} == {"date", "timestamp"}
        if one.sort != two.sort and not (numeric(one) and numeric(two)) and not moments:
            raise Unsaid("a comparison across types")
        return first, second, one

    def _texts(self, left: Said, right: Said, *, ordered: bool) -> tuple[str, str]:
        (first, one), (second, two) = left, right
        if not one.collation or not two.collation:
            raise Unsaid("a text under a collation that is not deterministic")
        if ordered:
            return self.sorted_text(first, one), second
        constant = "convert_from("
        if one.collation == two.collation or first.startswith(constant) or second.startswith(constant):
            return first, second
        return f'({first} COLLATE "C")', second

    def sorted_text(self, text: str, kind: Kind) -> str:
        """Print a text such that it sorts by bytes, as in DuckDB."""
        if not kind.collation:
            raise Unsaid("a text under a collation that is not deterministic")
        return text if kind.collation in _BINARY_COLLATIONS else f'({text} COLLATE "C")'

    # -- values

    def _print_column(self, node: exp.Expr) -> Said:
        table = node.args.get("table")
        alias = table.name if table is not None else ""
        kind = self._columns.get(alias, {}).get(node.name)
        if kind is None:
            raise Unsaid("a column that is not known here")
        text = f"{self.quoted(alias)}.{self.quoted(node.name)}"
        return native(text, self._natives.get(alias, {}).get(node.name, "")), kind

    def _print_parameter(self, node: exp.Expr) -> Said:
        assert isinstance(node, exp.Parameter)
        return postgres_values.constant(self._parameters[parameter_number(node) - 1])

    def _print_literal(self, node: exp.Expr) -> Said:
        if node.args.get("is_string"):  # a policy's; a caller's are parameters
            return postgres_values.constant(node.name)
        if not set(node.name) <= set("0123456789."):
            raise Unsaid("a number with an exponent")
        return postgres_values.number(Decimal(node.name))

    def _print_neg(self, node: exp.Expr) -> Said:
        text, kind = self.value(node.this)
        if not numeric(kind):
            raise Unsaid("the negative of something else than an exact number")
        return f"(- {text})", kind

    def _print_boolean(self, node: exp.Expr) -> Said:
        return ("TRUE" if node.this else "FALSE"), BOOLEAN

    def _print_null(self, node: exp.Expr) -> Said:
        return "NULL", Kind("null")

    def _print_cast(self, node: exp.Expr) -> Said:
        wanted = cast_type(node.args["to"])
        inner = node.this.unnest()
        if isinstance(inner, exp.Null):
            return postgres_values.null(wanted), kind_of(wanted)
        value = self._constant_text(inner)
        if value is not None and wanted == "DATE":
            return postgres_values.moment(value)
        text, kind = self.value(inner)
        if wanted == "VARCHAR" and kind.sort == "text":
            return text, kind
        if wanted == "VARCHAR" and kind.sort in ("integer", "uuid"):
            return self._finished(f"CAST({text} AS text)", Kind("text", COMPUTED))
        if wanted == "DATE" and kind.sort == "date":
            return text, kind
        raise Unsaid(f"a cast to {wanted}")

    _print_trycast = _print_cast  # none of these can fail

    def _print_dpipe(self, node: exp.Expr) -> Said:
        (left, first), (right, second) = self.value(node.this), self.value(node.args["expression"])
        if first.sort != "text" or second.sort != "text":
            raise Unsaid("|| over something else than texts")
        return self._finished(f"({left} || {right})", Kind("text", COMPUTED))

    def _arithmetic(self, node: exp.Expr) -> Said:
        if isinstance(node.args["expression"].unnest(), exp.Interval):
            return self._later(node)
        (left, first), (right, second) = self.value(node.this), self.value(node.args["expression"])
        if not numeric(first) or not numeric(second):
            raise Unsaid("arithmetic over something else than exact numbers")
        word = _ARITHMETIC[type(node)]
        if first.sort == second.sort == "integer":
            return f"(CAST({left} AS int8) {word} {right})", first
        return f"({left} {word} {right})", Kind("decimal")

    def _later(self, node: exp.Expr) -> Said:
        """Print a constant date and an interval: a timestamp in both engines."""
        if isinstance(node, exp.Mul) or node.this.find(exp.Column) is not None:
            raise Unsaid("an interval added to a column")
        left, kind = self.value(node.this)
        interval = node.args["expression"].unnest()
        count, counted = self.value(interval.this)
        unit = interval.args["unit"].name.upper()
        if kind.sort not in ("date", "timestamp") or unit not in _UNITS or counted.sort not in ("integer", "text"):
            raise Unsaid("an interval of this form")
        if counted.sort == "text":
            found = self._constant_text(interval.this.unnest()) or ""
            if not found.isdecimal() or not found.isascii():
                raise Unsaid("an interval of this form")
            count = found
        sign = "-" if isinstance(node, exp.Sub) else "+"
        return f"(CAST({left} AS timestamp) {sign} ({count} * INTERVAL '1 {unit.rstrip('S')}'))", Kind("timestamp")

    def _print_case(self, node: exp.Expr) -> Said:
        if node.args.get("this") is not None:
            raise Unsaid("CASE over a value")
        branches = [(self.condition(item.this), self.value(item.args["true"])) for item in node.args["ifs"]]
        default = self.value(node.args["default"]) if node.args.get("default") is not None else ("NULL", Kind("null"))
        kind = self._common([value[1] for _, value in branches] + [default[1]])
        text = " ".join(f"WHEN {condition} THEN {value[0]}" for condition, value in branches)
        return self._finished(f"(CASE {text} ELSE {default[0]} END)", kind)

    def _common(self, kinds: Sequence[Kind]) -> Kind:
        sorts = {kind.sort for kind in kinds} - {"null"}
        if sorts == {"integer", "decimal"}:
            return Kind("decimal")
        if len(sorts) != 1 or sorts & {"other", "uuid"}:
            raise Unsaid("values of other types in one expression")
        (sort,) = sorts
        if sort == "text" and not all(kind.collation for kind in kinds if kind.sort == "text"):
            raise Unsaid("a text under a collation that is not deterministic")
        return Kind(sort, COMPUTED if sort == "text" else "")

    def _finished(self, text: str, kind: Kind) -> Said:
        return (f'({text} COLLATE "C")' if kind.sort == "text" else text), kind


def native(text: str, kind: str) -> str:
    """Print a raw column in the form in which the exchange carries it: no blanks at the end of a fixed-width text."""
    return f"CAST({text} AS text)" if kind in ("bpchar", "uuid") else text

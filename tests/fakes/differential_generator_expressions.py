"""Expressions, conditions and aggregates of the generated queries: typed by family, so that nearly all of them bind.

Nothing here is ambiguous in SQL itself: aggregates whose value depends on the order of rows get an order that is total up to
equal values, floats are summed only where sums are exact in every order (``fin``), and no float becomes a text.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, TypeVar

T = TypeVar("T")
Kind = Literal["int", "big", "huge", "dec", "num", "fin", "text", "date", "ts", "tz", "bool", "list", "other"]

KIND_OF: dict[str, Kind] = {
    "BIGINT": "int",
    "INTEGER": "int",
    "SMALLINT": "int",
    "HUGEINT": "huge",
    "DOUBLE": "num",
    "VARCHAR": "text",
    "DATE": "date",
    "TIMESTAMP": "ts",
    "TIMESTAMPTZ": "tz",
    "BOOLEAN": "bool",
    "INTEGER[]": "list",
}
NUMERIC: tuple[Kind, ...] = ("int", "big", "huge", "dec", "num", "fin")
GROUPABLE: tuple[Kind, ...] = ("int", "huge", "dec", "num", "text", "date", "ts", "tz", "bool")
_SPREADS = (
    "stddev_samp", "stddev_pop", "var_samp", "var_pop", "stddev", "variance", "fsum", "favg", "sem", "kurtosis", "skewness",
    "entropy",
)  # fmt: skip
_COMPARISONS = ("=", "<>", "<>", "<", "<=", "<", ">", ">=", ">", ">=")


@dataclass(frozen=True)
class Column:
    """A column in scope: its text, its family, and the alias of the relation that it belongs to."""

    text: str
    kind: Kind
    alias: str

    @property
    def name(self) -> str:
        """Give the name without the alias."""
        return self.text.rsplit(".", 1)[-1]


@dataclass
class Chooser:
    """A seeded source of choices, and the parameters that were chosen so far."""

    rng: random.Random
    parameters: list[Any] = field(default_factory=list)
    parameters_allowed: bool = True

    def one(self, items: Sequence[T]) -> T:
        """Choose one."""
        return items[self.rng.randrange(len(items))]

    def chance(self, share: float) -> bool:
        """Say yes in this share of the cases."""
        return self.rng.random() < share

    def some(self, items: Sequence[T], low: int, high: int) -> list[T]:
        """Choose a few different ones, in random order."""
        return self.rng.sample(list(items), min(len(items), self.rng.randint(low, high)))

    def value(self, value: Any, text: str) -> str:
        """Give a value as literal, or now and then as parameter."""
        if not self.parameters_allowed or not self.chance(0.12):
            return text
        self.parameters.append(value)
        return f"${len(self.parameters)}"


def literal(choose: Chooser, kind: Kind) -> str:
    """Give a constant of a family, near the values that the tables hold."""
    rng = choose.rng
    if kind in ("int", "num", "fin"):
        number = rng.randrange(-1, choose.one((6, 6, 25)))
        return choose.value(number, str(number))
    if kind == "big":
        return choose.one(("0", "7", "4611686018427387904", "-1"))
    if kind == "huge":
        return choose.one(("0", "3", "1000000000", "-5"))
    if kind == "dec":
        cents = Decimal(rng.randrange(0, 90)) / 4
        return choose.value(cents, str(cents))
    if kind == "text":
        text = choose.one(("JFK", "LGA", "", "o", "Ö", "it's", "E", "a", "9"))
        return choose.value(text, "'" + text.replace("'", "''") + "'")
    day = date(2024, 1, 1) + timedelta(days=choose.one((0, 1, 31, 60, 91, 150)))
    if kind == "date":
        return choose.value(day, choose.one((f"DATE '{day}'", f"'{day}'")))
    if kind == "ts":
        moment = datetime(2024, 1, 1) + timedelta(hours=choose.one((0, 24, 1440, 2160)))
        return choose.value(moment, f"TIMESTAMP '{moment}'")
    if kind == "tz":
        return f"TIMESTAMPTZ '{day} {choose.one(('00:00:00+00', '01:30:00+02', '23:00:00-01'))}'"
    return choose.one(("TRUE", "FALSE"))


def expression(choose: Chooser, column: Column, *, grouped: bool = False) -> tuple[str, Kind]:
    """Give something computed from one column. ``grouped``: as a group key, so with no constant that could be a parameter."""
    if choose.chance(0.5):
        return column.text, column.kind
    if column.kind in NUMERIC:
        return choose.one(_of_number(column.text, column.kind))
    if column.kind in ("date", "ts", "tz"):
        return choose.one(_of_moment(column.text, column.kind, grouped=grouped))
    return choose.one(_of_value(column.text, column.kind, grouped=grouped))


def _of_number(c: str, kind: Kind) -> list[tuple[str, Kind]]:
    match kind:
        case "int":
            return [
                (f"{c} + 1", "int"), (f"{c} * 2", "int"), (f"abs({c})", "int"), (f"{c} % 5", "int"), (f"-{c}", "int"),
                (f"{c} / 4", "fin"), (f"{c} // 3", "int"), (f"coalesce({c}, 0)", "int"), (f"nullif({c}, 1)", "int"),
                (f"CASE WHEN {c} > 9 THEN {c} END", "int"), (f"{c}::VARCHAR", "text"), (f"{c}::DOUBLE", "fin"),
                (f"sign({c})", "int"), (f"typeof({c})", "text"), (f"{c} & 3", "int"), (f"abs({c})::UHUGEINT", "other"),
                (f"{{'a': {c}}}", "other"), (f"[{c}, 1]", "list"), (f"{c}::FLOAT", "other"), (f"greatest({c}, 5)", "int"),
                (f"{c}::DECIMAL(18,2)", "dec"), (f"{c} > 4", "bool"),
            ]  # fmt: skip
        case "dec":
            return [
                (f"{c} * 2", "dec"), (f"{c} + 1", "dec"), (f"round({c}, 1)", "dec"), (f"floor({c})", "dec"), (f"-{c}", "dec"),
                (f"{c}::DOUBLE", "fin"), (f"{c}::VARCHAR", "text"), (f"{c}::INTEGER", "int"), (f"{c} / 2", "fin"),
            ]  # fmt: skip
        case "huge":
            return [
                (f"{c} > 5", "bool"), (f"{c}::VARCHAR", "text"), (f"-{c}", "huge"), (f"{c} + 1", "huge"), (f"{c} * 2", "huge"),
                (f"{c} % 7", "huge"), (f"{c}::DOUBLE", "num"), (f"{c} // 3", "huge"), (f"{c} & 3", "huge"), (f"{c} / 3", "num"),
                (f"typeof({c})", "text"), (f"[{c}]", "other"), (f"abs({c})", "huge"),
            ]  # fmt: skip
        case "num":
            return [
                (f"isnan({c})", "bool"), (f"{c} > 1", "bool"), (f"isinf({c})", "bool"), (f"coalesce({c}, 0)", "num"),
            ]  # fmt: skip
        case "fin":
            return [(f"{c} * 2", "fin"), (f"abs({c})", "fin"), (f"floor({c})", "fin"), (f"{c} > 1", "bool")]
    return [(f"{c} > 0", "bool"), (f"{c} % 10", "int"), (f"{c} // 2", "big"), (f"{c}::DOUBLE", "num")]


def _of_moment(c: str, kind: Kind, *, grouped: bool) -> list[tuple[str, Kind]]:
    if kind == "date":
        forms: list[tuple[str, Kind]] = [
            (f"year({c})", "int"), (f"month({c})", "int"), (f"dayofweek({c})", "int"), (f"last_day({c})", "date"),
            (f"{c} + 1", "date"), (f"{c} + INTERVAL 1 MONTH", "ts"), (f"extract(week FROM {c})", "int"),
            (f"{c}::TIMESTAMP", "ts"), (f"quarter({c})", "int"), (f"{c}::VARCHAR", "text"),
        ]  # fmt: skip
        texts: list[tuple[str, Kind]] = [
            (f"date_trunc('month', {c})", "ts"), (f"strftime({c}, '%Y-%m')", "text"), (f"dayname({c})", "text"),
            (f"date_diff('day', {c}, DATE '2024-06-01')", "int"),
        ]  # fmt: skip
    else:
        forms = [
            (f"hour({c})", "int"), (f"{c}::DATE", "date"), (f"extract(minute FROM {c})", "int"), (f"typeof({c})", "text"),
            (f"{c} + INTERVAL 2 HOUR", kind), (f"month({c})", "int"), (f"epoch({c})", "fin"),
        ]  # fmt: skip
        texts = [(f"date_trunc('day', {c})", kind), (f"date_part('hour', {c})", "int")]
        if kind == "ts":
            forms.append((f"{c}::TIME", "other"))
    return forms if grouped else forms + texts


def _of_value(c: str, kind: Kind, *, grouped: bool) -> list[tuple[str, Kind]]:
    if kind == "text":
        forms: list[tuple[str, Kind]] = [
            (f"upper({c})", "text"), (f"lower({c})", "text"), (f"length({c})", "int"), (f"trim({c})", "text"),
            (f"left({c}, 1)", "text"), (f"strip_accents({c})", "text"), (f"coalesce({c}, {c}, NULL)", "text"),
            (f"reverse({c})", "text"), (f"try_cast({c} AS INTEGER)", "int"), (f"{c} || {c}", "text"),
            (f"substr({c}, 2, 2)", "text"), (f"concat({c}, 7)", "text"), (f"md5({c})", "text"), (f"strlen({c})", "int"),
            (f"md5({c})::UUID", "other"), (f"encode({c})", "other"), (f"sha256({c})", "text"),
        ]  # fmt: skip
        forms += [] if grouped else [(f"{c} || '-'", kind), (f"coalesce({c}, 'none')", kind)]
        return forms
    if kind == "bool":
        return [
            (f"NOT {c}", "bool"), (f"{c} IS NULL", "bool"), (f"coalesce({c}, FALSE)", "bool"), (f"{c}::INTEGER", "int"),
            (f"CASE WHEN {c} THEN 1 ELSE 0 END", "int"),
        ]  # fmt: skip
    return [(f"len({c})", "int"), (f"{c}[1]", "int"), (f"list_contains({c}, 5)", "bool"), (f"list_sort({c})", "list")]


def condition(choose: Chooser, columns: Sequence[Column], depth: int = 2) -> str:
    """Give a condition without sub-queries."""
    roll = choose.rng.random()
    if depth and roll < 0.10:
        return f"({condition(choose, columns, depth - 1)} OR {condition(choose, columns, depth - 1)})"
    if depth and roll < 0.16:
        return f"({condition(choose, columns, depth - 1)} AND {condition(choose, columns, depth - 1)})"
    if depth and roll < 0.24:
        return f"NOT ({condition(choose, columns, depth - 1)})"
    column: Column = choose.one(columns)
    if roll < 0.30:
        return f"{column.text} IS {choose.one(('', 'NOT '))}NULL"
    if roll < 0.36:
        return choose.one(
            (f"({condition(choose, columns, 0)}) IS {choose.one(('TRUE', 'NOT TRUE', 'FALSE', 'NOT FALSE'))}", "TRUE")
            if depth
            else ("TRUE", "NULL")
        )
    if roll < 0.46:
        others = [item for item in columns if item is not column and _like(item.kind, column.kind)]
        if others:
            return f"{column.text} {choose.one((*_COMPARISONS, 'IS DISTINCT FROM'))} {choose.one(others).text}"
    return _simple(choose, column)


def _like(first: Kind, second: Kind) -> bool:
    return first == second or (first in NUMERIC and second in NUMERIC)


def _simple(choose: Chooser, column: Column) -> str:
    """Compare one column, or something computed from it, with constants."""
    text, kind = expression(choose, column) if choose.chance(0.25) else (column.text, column.kind)
    if kind == "bool":
        return choose.one((text, f"({text}) = TRUE", f"NOT ({text})", f"({text}) IS TRUE", f"({text}) IS NOT TRUE"))
    if kind == "other":
        return f"{text} IS NOT NULL"
    if kind == "list":
        return f"len({text}) {choose.one(_COMPARISONS)} {choose.rng.randrange(3)}"
    roll = choose.rng.random()
    if kind == "num" and roll < 0.2:
        return f"{text} {choose.one(_COMPARISONS)} '{choose.one(('NaN', 'Infinity', '-Infinity'))}'::DOUBLE"
    if roll < 0.2:
        options = ", ".join(literal(choose, kind) for _ in range(choose.rng.randint(1, 3)))
        return f"{text} {choose.one(('IN', 'NOT IN'))} ({options}{choose.one(('', '', ', NULL'))})"
    if roll < 0.3:
        return f"{text} {choose.one(('BETWEEN', 'NOT BETWEEN'))} {literal(choose, kind)} AND {literal(choose, kind)}"
    if kind == "text" and roll < 0.5:
        return f"{text} {choose.one(('LIKE', 'NOT LIKE', 'ILIKE'))} '{choose.one(('J%', '%G%', '%', '_', '', 'a%', '%Ö'))}'"
    if roll < 0.56:
        return f"{text} IS {choose.one(('NOT ', ''))}DISTINCT FROM {literal(choose, kind)}"
    return f"{text} {choose.one(_COMPARISONS)} {literal(choose, kind)}"


def aggregate(choose: Chooser, columns: Sequence[Column], *, filters: bool = True) -> tuple[str, Kind]:
    """Give an aggregate; its family is that of a value that two plans may compute in different orders."""
    if choose.chance(0.15):
        return "count(*)", "int"
    column: Column = choose.one(columns)
    if choose.chance(0.2):
        text, kind = expression(choose, column, grouped=True)
        column = column if kind == "other" else Column(text, kind, column.alias)
    unique = f"{column.alias}.u" if any(item.text == f"{column.alias}.u" for item in columns) else ""
    forms = _forms(choose, column, unique, columns)
    call, kind = choose.one(forms)
    if filters and choose.chance(0.12):
        call = f"{call} FILTER (WHERE {condition(choose, columns, 0)})"
    return call, kind


def _forms(choose: Chooser, column: Column, unique: str, columns: Sequence[Column]) -> list[tuple[str, Kind]]:
    c, kind = column.text, column.kind
    forms: list[tuple[str, Kind]] = [(f"count({c})", "int"), (f"count(DISTINCT {c})", "int")]
    if kind != "list":
        forms += [(f"min({c})", kind), (f"max({c})", kind)] * 2
        forms += [(f"list(DISTINCT {c} ORDER BY {c})", "list"), (f"list({c} ORDER BY {c})", "list")]
        if kind not in ("num", "huge"):
            forms += [(f"approx_count_distinct({c})", "int"), (f"max({c}, 2)", "list"), (f"min({c}, 2)", "list")]
            forms += [(f"histogram({c})", "list")]
    if kind in ("int", "dec", "fin", "big", "huge"):
        # The product of a sum and a count must not be a surprise of types: sums widen to HUGEINT and DECIMAL(38).
        forms += [(f"sum({c})", "huge" if kind in ("int", "big", "huge") else kind), (f"avg({c})", "fin")] * 3
        forms += [(f"sum(DISTINCT {c})", "num"), (f"avg(DISTINCT {c})", "num"), (f"median({c})", "num")]
        forms += [(f"quantile_cont({c}, 0.25)", "num"), (f"quantile_disc({c}, 0.75)", kind), (f"mad({c})", "num")]
    if kind in ("int", "fin"):
        forms += [(f"{name}({c})", "fin") for name in _SPREADS]
        other = choose.one([item for item in columns if item.kind in ("int", "fin")] or [column])
        pairs = choose.one(("corr", "covar_pop", "covar_samp", "regr_slope", "regr_count", "regr_sxy"))
        forms += [(f"{pairs}({c}, {other.text})", "fin"), (f"percentile_cont(0.5) WITHIN GROUP (ORDER BY {c})", "num")]
        forms += [(f"sum({c}) / count({c})", "fin"), (f"sum(CASE WHEN {c} > 3 THEN 1 ELSE 0 END)", "huge")]
        forms += [(f"sum({c} + 1)", "huge" if kind == "int" else kind)]
    if kind in ("int", "huge"):
        forms += [(f"{name}({c})", "int") for name in ("bit_and", "bit_or", "bit_xor")]
        forms += [(f"max({c}) - min({c})", "int"), (f"coalesce(sum({c}), 0) + count(*)", "huge")]
    if kind == "num":
        forms += [(f"sum({c})", "num"), (f"avg({c})", "num"), (f"max({c})", "num"), (f"min({c})", "num")]
    if kind == "bool":
        forms += [(f"bool_and({c})", "bool"), (f"bool_or({c})", "bool"), (f"count_if({c})", "int")]
        forms += [(f"sum({c}::INTEGER)", "huge")]
    if kind == "text":
        forms += [
            (f"string_agg({c}, ',' ORDER BY {c})", "text"),
            (f"string_agg(DISTINCT {c}, '|' ORDER BY {c} DESC)", "text"),
        ]
    if kind in ("date", "ts"):
        forms += [(f"median({c})", "ts"), (f"quantile_disc({c}, 0.5)", kind), (f"avg({c})", "ts")]
    if unique:
        forms += [(f"{choose.one(('arg_max', 'arg_min', 'max_by', 'arg_min_null'))}({c}, {unique})", kind)]
        forms += [(f"{choose.one(('first', 'last', 'any_value', 'array_agg'))}({c} ORDER BY {unique} DESC)", "list")]
        forms += [(f"arg_max({c}, {unique}, 2)", "list")]
    return forms

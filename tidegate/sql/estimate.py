"""How many rows: estimates from the catalogue's published statistics, for ordering fetches and nothing else.

Statistics may be missing, old or wrong by any factor: an estimate chooses between plans that are all right, never between
answers (the differential suite runs with statistics that are wrong by 1000x). Unit: rows; distinct values; bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, datetime

from sqlglot import exp

from tidegate.core.dataset import Column, Dataset
from tidegate.core.values import Value
from tidegate.sql.families import family
from tidegate.sql.lineage import Lineage, conjuncts, sources, unwrap
from tidegate.sql.model import BoundQuery, Schema

ROWS_UNKNOWN = 100_000.0  # of a dataset that publishes no count
ROWS_MOST = 1e15  # beyond it an estimate says nothing more
_EQUAL, _RANGE, _BETWEEN, _TEXT, _OTHER = (
    0.05,
    0.3,
    0.1,
    0.05,
    0.5,
)  # share of rows that pass, where statistics say nothing
_WIDTHS: Mapping[str, float] = {
    "text": 24.0, "integer": 8.0, "decimal": 16.0, "float": 8.0, "boolean": 1.0, "date": 4.0, "timestamp": 8.0,
    "time": 8.0, "other": 64.0,
}  # fmt: skip
_ORDERED = (exp.LT, exp.LTE, exp.GT, exp.GTE)


class Estimate:
    """Estimates for one bound query."""

    def __init__(self, bound: BoundQuery, schema: Schema, lineage: Lineage) -> None:
        self._lineage = lineage
        self._parameters = bound.parameters
        self._datasets: Mapping[str, Dataset] = {leaf.ref: schema[leaf.dataset] for leaf in bound.leaves}

    def is_known(self, refs: Iterable[str]) -> bool:
        """Say whether every leaf's dataset publishes its count of rows."""
        return all(self._datasets[ref].rows is not None for ref in refs)

    def rows(self, ref: str) -> float:
        """Give the rows of a leaf's dataset."""
        found = self._datasets[ref].rows
        return ROWS_UNKNOWN if found is None else float(min(max(found, 1), int(ROWS_MOST)))

    def distinct(self, ref: str, name: str) -> float:
        """Give the distinct values of a leaf's column; when they are not published, as many as a key would have."""
        held = self._column(ref, name)
        known = held.distinct if held is not None else None
        rows = self.rows(ref)
        return rows if known is None else float(min(max(known, 1), int(rows)))

    def width(self, ref: str, names: Iterable[str]) -> float:
        """Give the bytes of a row of some columns."""
        held = (self._column(ref, name) for name in names)
        return sum(_WIDTHS[family(item.type)] for item in held if item is not None) + 1.0

    def _column(self, ref: str, name: str) -> Column | None:
        return self._datasets[ref].column(name) if ref in self._datasets else None

    # -- conditions ---------------------------------------------------------------------------------------------------

    def filtered(self, ref: str, conditions: Iterable[exp.Expr]) -> float:
        """Give the rows of a leaf that pass conditions over it alone."""
        return max(self.rows(ref) * self._all(list(conditions)), 1.0)

    def _all(self, conditions: list[exp.Expr]) -> float:
        """Give the share that passes every condition; bounds of one column are one range, not two chances."""
        share = 1.0
        bounds: dict[tuple[str, str], list[exp.Expr]] = {}
        for item in conditions:
            column = item.this.unnest() if isinstance(item, _ORDERED) else None
            if isinstance(column, exp.Column) and not isinstance(item.expression.unnest(), exp.Column):
                bounds.setdefault((column.table, column.name), []).append(item)
            else:
                share *= self.share(item)
        for items in bounds.values():
            highs = [item.expression for item in items if isinstance(item, exp.LT | exp.LTE)]
            lows = [item.expression for item in items if isinstance(item, exp.GT | exp.GTE)]
            share *= self._range(items[0].this, lows[0] if lows else None, highs[0] if highs else None)
        return share

    def share(self, node: exp.Expr) -> float:
        """Give the share of rows that pass a condition over one leaf."""
        node = node.unnest()
        match node:
            case exp.And():
                return self._all(list(conjuncts(node)))
            case exp.Or():
                return min(self.share(node.left) + self.share(node.right), 1.0)
            case exp.Not():
                return max(1.0 - self.share(node.this), 0.05)
            case exp.In() if not node.args.get("query"):
                return min(len(node.expressions) * self._one(node.this), 1.0)
            case exp.EQ():
                return self._one(node.this if isinstance(node.this.unnest(), exp.Column) else node.expression)
            case exp.Between():
                return self._range(node.this, node.args["low"], node.args["high"])
            case exp.Like() | exp.ILike():
                return _TEXT
        if isinstance(node, _ORDERED):
            return self._ordered(node)
        return _OTHER

    def _one(self, node: exp.Expr) -> float:
        column = node.unnest()
        if isinstance(column, exp.Column) and column.table in self._datasets:
            held = self._column(column.table, column.name)
            if held is not None and held.distinct is not None:
                return 1.0 / self.distinct(column.table, column.name)
        return _EQUAL

    def _ordered(self, node: exp.Expr) -> float:
        left, right = node.this.unnest(), node.expression.unnest()
        if isinstance(left, exp.Column) and not isinstance(right, exp.Column):
            below = isinstance(node, exp.LT | exp.LTE)
            return self._range(left, None if below else right, right if below else None)
        return _RANGE

    def _range(self, node: exp.Expr, low: exp.Expr | None, high: exp.Expr | None) -> float:
        column = node.unnest()
        unknown = _RANGE if low is None or high is None else _BETWEEN
        if not isinstance(column, exp.Column):
            return unknown
        held = self._column(column.table, column.name)
        if held is None or held.minimum is None or held.maximum is None:
            return unknown
        least, most = _number(held.minimum), _number(held.maximum)
        start = least if low is None else self._constant(low)
        end = most if high is None else self._constant(high)
        if least is None or most is None or start is None or end is None or most <= least:
            return unknown
        return min(max((min(end, most) - max(start, least)) / (most - least), 0.001), 1.0)

    def _constant(self, node: exp.Expr) -> float | None:
        node = node.unnest()
        if isinstance(node, exp.Literal):
            return _number(node.name)
        if isinstance(node, exp.Parameter):
            return _number(self._parameters[int(node.this.name) - 1])
        if isinstance(node, exp.Cast):
            return self._constant(node.this)
        if isinstance(node, exp.Neg):
            inner = self._constant(node.this)
            return None if inner is None else -inner
        if isinstance(node, exp.Add | exp.Sub):
            first, second = self._constant(node.left), self._constant(node.right)
            if first is None or second is None:
                return None
            return first + second if isinstance(node, exp.Add) else first - second
        if isinstance(node, exp.Interval):
            count = None if node.this is None else self._constant(node.this)
            days = {"DAY": 1.0, "WEEK": 7.0, "MONTH": 30.4, "QUARTER": 91.3, "YEAR": 365.25}
            return None if count is None else count * days.get(str(node.args.get("unit")).upper(), 0.0)
        return None

    # -- queries ------------------------------------------------------------------------------------------------------

    def joined(self, parts: Mapping[str, float], equal: Iterable[tuple[tuple[str, str], tuple[str, str]]]) -> float:
        """Give the rows of an inner join of leaves: the product, cut by each equality's larger count of distinct values.

        Args:
            parts: ref -> rows that take part.
        """
        rows = 1.0
        for count in parts.values():
            rows *= count
        for first, second in equal:
            rows /= max(min(self.distinct(*first), self.rows(first[0])), min(self.distinct(*second), 1e18), 1.0)
        return max(rows, 1.0)

    def query(self, query: exp.Expr, pushed: Mapping[str, Iterable[exp.Expr]]) -> float:
        """Give the rows of a query; ``pushed`` are conditions that reach its leaves."""
        return self._query(query, pushed, {})

    def _query(self, query: exp.Expr, pushed: Mapping[str, Iterable[exp.Expr]], known: dict[int, float]) -> float:
        query = unwrap(query)
        if id(query) not in known:  # a CTE may be mentioned twice by the next one, and so on
            known[id(query)] = self._compute(query, pushed, known)
        return known[id(query)]

    def _compute(self, query: exp.Expr, pushed: Mapping[str, Iterable[exp.Expr]], known: dict[int, float]) -> float:
        if isinstance(query, exp.SetOperation):
            return self._query(query.left, pushed, known) + self._query(query.right, pushed, known)
        if not isinstance(query, exp.Select):
            return 1.0
        rows = 1.0
        leaves: list[str] = []
        for source in sources(query):
            alias = source.alias_or_name
            if alias in self._datasets:
                leaves.append(alias)
                rows *= self.filtered(alias, pushed.get(alias, ()))
            elif alias in self._lineage.derived:
                rows *= self._query(self._lineage.derived[alias], pushed, known)
        rows = self._equalities(query, rows)
        rows = self._grouped(query, rows)
        limit = query.args.get("limit")
        count = self._constant(limit.expression) if limit is not None and limit.expression is not None else None
        return min(max(min(rows, count) if count is not None else rows, 1.0), ROWS_MOST)

    def _equalities(self, select: exp.Select, rows: float) -> float:
        where = select.args.get("where")
        conditions = list(conjuncts(where.this if where is not None else None))
        conditions += [item for join in select.args.get("joins") or () for item in conjuncts(join.args.get("on"))]
        for item in conditions:
            left, right = item.this, item.args.get("expression")
            if isinstance(item, exp.EQ) and isinstance(left, exp.Column) and isinstance(right, exp.Column):
                found = [self.distinct(side.table, side.name) for side in (left, right) if side.table in self._datasets]
                rows /= max(found, default=1.0)
            elif item.find(exp.Query) is not None:
                rows *= _OTHER
        return max(rows, 1.0)

    def _grouped(self, select: exp.Select, rows: float) -> float:
        group = select.args.get("group")
        if group is None:
            aggregated = any(item.find(exp.AggFunc) and not item.find(exp.Window) for item in select.expressions)
            return 1.0 if aggregated else rows
        groups = 1.0
        for key in group.expressions:
            base = self._lineage.plain(key)
            groups *= self.distinct(*base[0]) if base else 100.0
        rows = min(rows, groups)
        return rows * 0.1 if select.args.get("having") is not None else rows


def _number(value: Value | str | None) -> float | None:
    """Give a finite number for a constant or a published extreme; whoever published it may have written anything."""
    found = _as_float(value)
    return found if found is not None and abs(found) < ROWS_MOST else None


def _as_float(value: Value | str | None) -> float | None:
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            pass
        try:
            return float(datetime.fromisoformat(value).toordinal())
        except ValueError:
            return None
    if isinstance(value, datetime | date):
        return float(value.toordinal())
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None

"""Partial states of aggregates, and how states become the value that DuckDB gives over all rows at once.

A state is an aggregate that each branch computes; ``States`` collects them (equal ones once) and gives, for an aggregate of the
caller's, the expression over the branches' states that is its value. Variances merge as (count, mean, squared differences from
the mean), Chan, Golub and LeVeque 1979: sums of squares cancel (values near 1e9 lose every digit). An aggregate that is not in
this table is not split.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from sqlglot import exp

from tidegate.sql import callnames
from tidegate.sql.kinds import Kind, Kinds
from tidegate.sql.nodes import AggregateCall, column, scalar
from tidegate.sql.shards import movable

DISTINCTS_MAX = 2  # different arguments of DISTINCT in one SELECT: each multiplies the rows of a branch's groups
EXACT_SCALE_MAX = 15  # digits after the point that a DOUBLE can shift without losing one
_COUNTS = frozenset({"count", "count_star"})
_COUNTS_IF = frozenset({"count_if", "countif"})
_MEANS = frozenset({"avg", "mean"})
_VARIANCES = {
    "var_pop": (0, False),
    "var_samp": (1, False),
    "variance": (1, False),
    "stddev_pop": (0, True),
    "stddev_samp": (1, True),
    "stddev": (1, True),
}
"""Name -> (what is taken off the count, whether the root is drawn)."""
_AGAIN = {
    "min": "", "max": "", "bool_and": "boolean", "bool_or": "boolean", "bit_and": "integer", "bit_or": "integer",
    "bit_xor": "integer",
}  # fmt: skip
"""Aggregates that merge with themselves, and the family that their argument must have."""


class NotSplit(Exception):
    """This SELECT is not of a form whose work can be divided; the plan stays as it was. Never leaves the planner."""


@dataclass(slots=True)
class States:
    """Collects what the branches compute.

    Args:
        kinds: types of the expressions.
        reads_only: says whether an expression reads nothing but the union's columns.
        distincts: arguments of DISTINCT aggregates; branches group by them, so the merging SELECT sees each value.
        found: the states.
        means: (count, mean) pairs of states whose group-wide mean the merging SELECT needs beside each row.

    Columns of the merging SELECT's source are named here by what they are (``d0``, ``s0``, ``n0``, ``m0``) and get their
    numbers at the end, when it is known how many there are.
    """

    kinds: Kinds
    reads_only: Callable[[exp.Expr], bool]
    alias: str
    distincts: list[exp.Expr] = field(default_factory=list)
    found: list[exp.Expr] = field(default_factory=list)
    means: list[tuple[exp.Column, exp.Column]] = field(default_factory=list)

    def merged(self, call: AggregateCall, condition: exp.Expr | None) -> exp.Expr:
        """Give the value of an aggregate of the caller's over the states.

        Raises:
            NotSplit: it cannot be divided.
        """
        arguments = callnames.arguments(call)
        if call.find(exp.Order, exp.Ordered, exp.IgnoreNulls, exp.RespectNulls) is not None:
            raise NotSplit
        self._check([item for item in arguments if not isinstance(item, exp.Star)])
        if condition is not None:
            self._check([condition])
        if callnames.is_distinct(call) and call.name not in ("min", "max"):
            return self._distinct(call.name, arguments, condition)
        if call.name in _COUNTS:
            count = self._state(call.name, arguments, condition)
            return _cast(scalar("coalesce", _sum(count), exp.Literal.number(0)), "BIGINT")
        if call.name in _COUNTS_IF:
            return _cast(_sum(self._state(call.name, arguments, condition)), "HUGEINT")
        if len(arguments) != 1:
            raise NotSplit
        return self._of_one(call.name, arguments[0], condition)

    def _check(self, nodes: list[exp.Expr]) -> None:
        if not all(movable(item) and self.reads_only(item) and self.kinds.typed(item) for item in nodes):
            raise NotSplit

    def _of_one(self, name: str, argument: exp.Expr, condition: exp.Expr | None) -> exp.Expr:
        kind = self.kinds.of(argument)
        if name in _AGAIN:
            wanted = _AGAIN[name]
            if not self.travels(argument) or (wanted and (kind is None or kind.family != wanted)):
                raise NotSplit
            return _call(name, self._state(name, [argument], condition))
        if name == "sum" and kind is not None and (kind.is_number or kind.family == "boolean"):
            total = _sum(self._state(name, [argument], condition))
            # DuckDB's sum of integers is a HUGEINT; Arrow brings each part's back as DECIMAL(38,0)
            return _cast(total, "HUGEINT") if kind.family in ("integer", "boolean") else total
        if kind is None or not kind.is_number:
            raise NotSplit
        if name in _MEANS:
            total, count = (_sum(self._state(each, [argument], condition)) for each in ("sum", "count"))
            return _mean(total, count, kind)
        if name in _VARIANCES:
            return self._variance(name, argument, condition)
        raise NotSplit

    def travels(self, node: exp.Expr) -> bool:
        """Say whether an expression's values come back from Arrow as they were (a plain column's do as without this pass)."""
        kind = self.kinds.of(node)
        if kind is None:
            return False
        return isinstance(node, exp.Column) or kind.family != "other"

    def _state(self, name: str, arguments: list[exp.Expr], condition: exp.Expr | None) -> exp.Column:
        return self._add(_filtered(AggregateCall(this=name, expressions=_copies(arguments)), condition))

    def _add(self, state: exp.Expr) -> exp.Column:
        if state not in self.found:
            self.found.append(state)
        return column(self.alias, f"s{self.found.index(state)}")

    def _distinct(self, name: str, arguments: list[exp.Expr], condition: exp.Expr | None) -> exp.Expr:
        """Let the branches group by the argument; the caller's own aggregate then runs over what is left."""
        if condition is not None or len(arguments) != 1 or not self.travels(arguments[0]):
            raise NotSplit
        kind = self.kinds.of(arguments[0])
        if name != "count" and (name not in {"sum", *_MEANS, *_VARIANCES} or kind is None or not kind.is_number):
            raise NotSplit
        if arguments[0] not in self.distincts:
            if len(self.distincts) == DISTINCTS_MAX:
                raise NotSplit
            self.distincts.append(arguments[0].copy())
        value = column(self.alias, f"d{self.distincts.index(arguments[0])}")
        return AggregateCall(this=name, expressions=[exp.Distinct(expressions=[value])])

    def _variance(self, name: str, argument: exp.Expr, condition: exp.Expr | None) -> exp.Expr:
        count = self._state("count", [argument], condition)
        spread = self._state("var_pop", [argument], condition)
        low, high, mean = (
            _filtered(AggregateCall(this=each, expressions=[argument.copy()]), condition)
            for each in ("min", "max", "avg")
        )
        # of equal values the mean is that value to the last bit, so that their variance over all parts is 0, as in DuckDB
        same = exp.If(this=exp.EQ(this=low, expression=high), true=_cast(low.copy(), "DOUBLE"))
        average = self._add(exp.Case(ifs=[same], default=mean))
        if (count, average) not in self.means:
            self.means.append((count, average))
        number = self.means.index((count, average))
        whole, middle = (column(self.alias, f"{letter}{number}") for letter in "nm")
        within = _sum(exp.Mul(this=spread, expression=count.copy()))
        apart = exp.Sub(this=average.copy(), expression=middle)
        between = exp.Mul(this=exp.Mul(this=count.copy(), expression=apart), expression=apart.copy())
        # a part that holds every value has no distance; written out, because for an infinite mean it would be NaN
        alone = exp.If(this=exp.EQ(this=count.copy(), expression=whole), true=exp.Literal.number(0))
        squares = exp.Add(this=within, expression=_sum(exp.Case(ifs=[alone], default=between)))
        less, root = _VARIANCES[name]
        total = _cast(_sum(count.copy()), "DOUBLE")
        divisor = exp.Sub(this=total, expression=exp.Literal.number(less)) if less else total
        value: exp.Expr = exp.Div(this=squares, expression=divisor)
        enough = exp.GT(this=total.copy(), expression=exp.Literal.number(less))
        value = scalar("sqrt", value) if root else value
        return exp.Case(ifs=[exp.If(this=enough, true=value)])

    def beside(self, keys: list[exp.Column]) -> list[exp.Expr]:
        """Give, for each pair in ``means``, the group's count and mean over all parts, as windows over the branches' rows."""
        made: list[exp.Expr] = []
        for count, mean in self.means:

            def over(name: str, value: exp.Expr) -> exp.Expr:
                call = AggregateCall(this=name, expressions=[value.copy()])
                return exp.Window(this=call, partition_by=[key.copy() for key in keys])

            weighted = over("sum", exp.Mul(this=count, expression=mean))
            equal = exp.If(this=exp.EQ(this=over("min", mean), expression=over("max", mean)), true=over("min", mean))
            whole = over("sum", count)
            made += [whole, exp.Case(ifs=[equal], default=exp.Div(this=weighted, expression=whole.copy()))]
        return made


def _mean(total: exp.Expr, count: exp.Expr, kind: Kind) -> exp.Expr:
    """Divide as DuckDB does: of a decimal, the number without its point by the count times the power of ten."""
    value, divisor = _cast(total, "DOUBLE"), _cast(count, "DOUBLE")
    if kind.family == "decimal" and 0 < kind.scale <= EXACT_SCALE_MAX:
        power = exp.Literal.number(10**kind.scale)
        value = scalar("round", exp.Mul(this=value, expression=power))
        divisor = exp.Mul(this=divisor, expression=power.copy())
    return exp.Div(this=value, expression=divisor)


def _filtered(call: exp.Expr, condition: exp.Expr | None) -> exp.Expr:
    return call if condition is None else exp.Filter(this=call, expression=exp.Where(this=condition.copy()))


def _copies(nodes: list[exp.Expr]) -> list[exp.Expr]:
    return [item.copy() for item in nodes]


def _call(name: str, node: exp.Expr) -> exp.Expr:
    return AggregateCall(this=name, expressions=[node])


def _sum(node: exp.Expr) -> exp.Expr:
    return _call("sum", node)


def _cast(node: exp.Expr, kind: str) -> exp.Expr:
    return exp.Cast(this=node, to=exp.Var(this=kind))

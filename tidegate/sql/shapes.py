"""Shapes: when a plan that was made for some parameters' values is the plan for others too. The rule of every plan cache.

A value matters to planning in more ways than one sees: a LIMIT, a unit of an interval, the width of a pad, whether a text is
a date and so cannot raise. So the rule is a list of what is free, and everything else is in the key by its very value. A
parameter is free where it stands alone beside a column, in ``=`` or in a list of IN, or where it is the whole list of an IN,
and there only its class counts. Equal
values share one parameter in a bound query (``scope.Context.parameter``), so a template serves only values that are all
different, also from the texts of the query itself.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from sqlglot import exp

from tidegate.core.values import Value
from tidegate.sql import callnames
from tidegate.sql.leakproof import constant_class, constant_classes
from tidegate.sql.model import BoundQuery, FederatedPlan, RenderedSql

Given: TypeAlias = Mapping[str, Value]
Slots: TypeAlias = tuple["str | None", ...]
"""For each parameter: the caller's name for it, or None for a text of the query itself."""

_BARE = frozenset({"kind", "expressions"})


def given(parameters: Sequence[Value] | Given) -> dict[str, Value]:
    """Name the caller's parameters as the binder does."""
    if isinstance(parameters, Mapping):
        return {str(name): value for name, value in parameters.items()}
    return {str(number): value for number, value in enumerate(parameters, start=1)}


def identity(value: Value) -> tuple[str, str]:
    """Give what two values must share to be one parameter: type and exact print."""
    return type(value).__name__, repr(value)


def class_of(value: Value) -> Hashable:
    """Give all that planning may see of a free parameter: its type, its family as a constant, whether it is a date."""
    if isinstance(value, list | tuple):
        return ("list", *sorted(constant_classes(value), key=repr))
    return constant_class(value)


@dataclass(frozen=True, slots=True)
class Shape:
    """What is known of a text's parameters once it was bound.

    Args:
        free: the caller's names whose values do not matter beyond their class.
        texts: identities of the values that the query brings itself.
    """

    free: frozenset[str]
    texts: frozenset[tuple[str, str]]

    def key(self, values: Given) -> Hashable | None:
        """Give the part of a cache's key that the values decide; None where no template may be used for them."""
        identities = [identity(value) for value in values.values()]
        if len(set(identities)) != len(identities) or not self.texts.isdisjoint(identities):
            return None
        return tuple(
            (name, class_of(value)) if name in self.free else (name, *identity(value))
            for name, value in sorted(values.items())
        )


def shape_of(bound: BoundQuery, values: Given) -> tuple[Shape, Slots]:
    """Find the free parameters of a bound query, and where each of its parameters comes from."""
    names = {identity(value): name for name, value in values.items()}
    slots: Slots = tuple(names.get(identity(value)) for value in bound.parameters)
    held: dict[int, bool] = {}
    for node in bound.tree.find_all(exp.Parameter):
        number = int(node.this.name)
        held[number] = held.get(number, True) and _stands_free(node)
    free = {name for number, name in enumerate(slots, start=1) if name is not None and held.get(number, False)}
    texts = {identity(value) for value, name in zip(bound.parameters, slots, strict=True) if name is None}
    return Shape(frozenset(free), frozenset(texts)), slots


def _stands_free(node: exp.Parameter) -> bool:
    parent = node.parent
    if isinstance(parent, exp.EQ):
        other = parent.this if parent.expression is node else parent.expression
        return isinstance(other, exp.Column)
    if isinstance(parent, exp.In):
        return parent.this is not node and isinstance(parent.this, exp.Column)
    return _is_list_of_keys(parent)


def _is_list_of_keys(call: exp.Expr | None) -> bool:
    """Say whether a call is the whole of ``column IN (SELECT unnest($1))``: the form of a batch of look-ups."""
    if call is None or callnames.name(call) != "unnest" or len(callnames.arguments(call)) != 1:
        return False
    select = call.parent.parent if isinstance(call.parent, exp.Alias) else None
    if not isinstance(select, exp.Select) or {name for name, value in select.args.items() if value} - _BARE:
        return False
    query = select.parent if isinstance(select.parent, exp.Subquery) else None
    found = query.parent if query is not None else None
    return len(select.expressions) == 1 and isinstance(found, exp.In) and isinstance(found.this, exp.Column)


def refilled(bound: BoundQuery, slots: Slots, values: Given) -> BoundQuery:
    """Give a template with other values in its parameters. The tree is shared: nobody may change it."""
    return replace(bound, parameters=_filled(bound.parameters, slots, values))


def _filled(parameters: tuple[Value, ...], slots: Slots, values: Given) -> tuple[Value, ...]:
    return tuple(held if name is None else values[name] for held, name in zip(parameters, slots, strict=True))


def sql_slots(sql: RenderedSql, values: Given) -> Slots:
    """Say where the parameters of a printed query come from; its values must be all different, as a ``Shape`` holds them."""
    names = {identity(value): name for name, value in values.items()}
    return tuple(names.get(identity(value)) for value in sql.parameters)


def refill_sql(sql: RenderedSql, slots: Slots, values: Given) -> RenderedSql:
    """Give a printed query with other values in its parameters."""
    return RenderedSql(sql.text, _filled(sql.parameters, slots, values)) if any(slots) else sql


@dataclass(frozen=True, slots=True)
class PlanTemplate:
    """A federated plan whose parameters can be filled anew."""

    plan: FederatedPlan
    fragments: tuple[Slots, ...]
    final: Slots

    @classmethod
    def of(cls, plan: FederatedPlan, values: Given) -> PlanTemplate:
        """Make the template of a plan that was made with these values."""
        fragments = tuple(sql_slots(fragment.sql, values) for fragment in plan.fragments)
        return cls(plan, fragments, sql_slots(plan.final, values) if plan.final is not None else ())

    def fill(self, values: Given) -> FederatedPlan:
        """Give the plan for other values of the same shape."""
        plan = self.plan
        fragments = tuple(
            replace(fragment, sql=refill_sql(fragment.sql, slots, values))
            for fragment, slots in zip(plan.fragments, self.fragments, strict=True)
        )
        final = refill_sql(plan.final, self.final, values) if plan.final is not None else None
        return replace(plan, fragments=fragments, final=final)

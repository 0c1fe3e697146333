"""Join reduction: which answers' keys make which other fetches smaller, and so the order of the fetches (planner.md, pass 11).

A candidate is a condition "this column is among the keys of that answer" which an equality of the query implies. It is pushed
down to leaves by the same rules as any written condition (``pushdown``), so what holds for those holds for it: a row that is
dropped could not have mattered. Keys disclose rows of the department that they come from: a candidate whose department does
not permit that (``keys_may_go_to``), or through whose own reduction a third one's keys would shine, is withheld.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from sqlglot import exp

from tidegate.core.decision import Decision
from tidegate.sql.estimate import Estimate
from tidegate.sql.joins import Classes, Column, equalities, inner_prefix, inner_queries, is_missing, where_of
from tidegate.sql.leakproof import Leakproof
from tidegate.sql.lineage import Lineage, conjuncts, output_names, outputs, sources, unwrap
from tidegate.sql.model import BoundQuery
from tidegate.sql.nodes import Keys, column, keys
from tidegate.sql.pushdown import Implied, LeafPush, join_kind, push
from tidegate.sql.units import Unit, Units

SOURCES_MAX = 64  # a collection of more parts than this gives no keys
_KEY_BYTES, _STAGE_BYTES = 24.0, 400_000.0
"""What a key costs on its way to the broker and on, and what waiting for another answer costs: 5 ms at 80 MB/s."""

Source = tuple[int, Column]
"""Where keys come from: (unit, its visible column); of a whole query the column is ("", output name)."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A reduction of a unit's leaf by keys of other units."""

    ref: str
    name: str
    sources: tuple[Source, ...]


@dataclass(slots=True)
class Schedule:
    """The order of the fetches (unit numbers), what reduces each, and what policy withheld."""

    order: list[int] = field(default_factory=list)
    chosen: dict[int, list[Choice]] = field(default_factory=dict)
    rows: dict[int, float] = field(default_factory=dict)
    withheld: list[str] = field(default_factory=list)


class Reduce:
    """The choice for one bound tree."""

    def __init__(
        self,
        bound: BoundQuery,
        tree: exp.Expr,
        units: Units,
        decision: Decision,
        estimate: Estimate,
        lineage: Lineage,
        leakproof: Leakproof,
    ) -> None:
        self._bound = bound
        self._tree = tree
        self._units = units
        self._decision = decision
        self._estimate = estimate
        self._lineage = lineage
        self._leakproof = leakproof
        self._unit_of = {ref: unit for unit in units.all for ref in unit.refs}
        self._whole = {id(unwrap(unit.query)): unit for unit in units.all if unit.query is not None}
        self._sources: list[tuple[Source, ...]] = []
        self._pushes: Mapping[str, LeafPush] = {}
        self._known: dict[tuple[int, str], tuple[Source, ...]] = {}

    def schedule(self, pushes: Mapping[str, LeafPush], *, enabled: bool) -> Schedule:
        """Choose."""
        self._pushes = pushes
        possible = self._possible() if enabled else {}
        return self._greedy(possible, pushes)

    # -- candidates ---------------------------------------------------------------------------------------------------

    def _possible(self) -> dict[int, list[Choice]]:
        implied = Implied()
        inside = {
            id(select)
            for unit in self._units.all
            for query in self._taken_over(unit)
            for select in query.find_all(exp.Select)
        }
        for select in self._tree.find_all(exp.Select):
            if id(select) not in inside:
                implied.conditions[id(select)] = list(self._of_select(select, implied))
        found: dict[int, list[Choice]] = {}
        for ref, pushed in push(self._tree, self._lineage, self._leakproof, implied).items():
            unit = self._unit_of[ref]
            for item in pushed.pushed:
                if isinstance(item, Keys) and isinstance(item.this, exp.Column):
                    sources_ = self._sources[int(item.args["field"].name)]
                    choice = Choice(ref, item.this.name, sources_)
                    known = found.setdefault(unit.number, [])
                    if all(number != unit.number for number, _ in sources_) and choice not in known:
                        known.append(choice)
        return found

    def _taken_over(self, unit: Unit) -> Iterator[exp.Expr]:
        if unit.query is not None:
            yield unit.query
        for item in unit.conditions:
            yield from inner_queries(item)

    def _of_select(self, select: exp.Select, implied: Implied) -> Iterator[tuple[exp.Expr, int | None]]:
        own = {source.alias_or_name for source in sources(select)}
        conditions = where_of(select)
        inner = {source.alias_or_name for source in inner_prefix(select)}
        classes = self._units.classes(select)
        for group in classes.groups():
            for target in group:
                for origin in group:
                    if target[0] != origin[0]:
                        yield from self._candidate(column(*target), column(*origin), None)
        for left, right in equalities(conditions):
            if not {left.table, right.table} <= inner:
                yield from self._both(left, right, own, None)
        for number, join in enumerate(select.args.get("joins") or (), start=1):
            if join_kind(join):
                for left, right in equalities(list(conjuncts(join.args.get("on")))):
                    yield from self._both(left, right, own, number)
        for item in conditions:
            if isinstance(item, exp.In) and item.args.get("query") is not None:
                yield from self._membership(item, implied, classes)

    def _both(
        self, left: exp.Column, right: exp.Column, own: set[str], join: int | None
    ) -> Iterator[tuple[exp.Expr, int | None]]:
        """Try both directions; what stands outside of the SELECT (correlation) can only be the origin of keys."""
        if not self._units.same_kind(left, right):
            return
        for target, origin in ((left, right), (right, left)):
            if target.table in own:
                yield from self._candidate(target, origin, join)

    def _membership(self, item: exp.In, implied: Implied, classes: Classes) -> Iterator[tuple[exp.Expr, int | None]]:
        """``x IN (SELECT y ...)`` as a conjunct of WHERE reduces both: x by the ys, and the ys by the xs."""
        query, target = unwrap(item.args["query"]), item.this.unnest()
        names = output_names(query)
        if not isinstance(target, exp.Column) or len(names) != 1:
            return
        kinds = {self._leakproof.value(found) for found in outputs(query, names[0])}
        if kinds != {self._leakproof.column(target)} or not kinds <= {"integer", "text", "date"}:
            return
        origins = self._origins_of(query, names[0])
        if origins:
            same = next((group for group in classes.groups() if (target.table, target.name) in group), None)
            for held in same or [(target.table, target.name)]:
                yield self._number(column(*held), origins), None
        back = self._origins(target)
        if back:
            implied.outputs.append((query, [self._number(column("", names[0]), back)]))

    def _candidate(
        self, target: exp.Column, origin: exp.Column, join: int | None
    ) -> Iterator[tuple[exp.Expr, int | None]]:
        found = self._origins(origin)
        if found:
            yield self._number(target, found), join

    def _number(self, target: exp.Column, origins: tuple[Source, ...]) -> Keys:
        self._sources.append(origins)
        return keys(target, len(self._sources) - 1)

    def _origins(self, origin: exp.Column) -> tuple[Source, ...]:
        """Give the units whose answers hold every value of a column; empty when it is computed at the broker."""
        if origin.table in self._unit_of:
            unit = self._unit_of[origin.table]
            return ((unit.number, (origin.table, origin.name)),) if origin.table in unit.members else ()
        query = self._lineage.derived.get(origin.table)
        return () if query is None else self._origins_of(query, origin.name)

    def _origins_of(self, query: exp.Expr, name: str) -> tuple[Source, ...]:
        query = unwrap(query)
        key = (id(query), name)
        if key not in self._known:  # a CTE may be mentioned twice by the next one, and so on
            found = tuple(dict.fromkeys(self._find_origins(query, name)))
            self._known[key] = found if len(found) <= SOURCES_MAX else ()
        return self._known[key]

    def _find_origins(self, query: exp.Expr, name: str) -> tuple[Source, ...]:
        unit = self._whole.get(id(query))
        if unit is not None:
            return () if any(map(is_missing, outputs(query, name))) else ((unit.number, ("", name)),)
        if isinstance(query, exp.SetOperation):
            position = output_names(query).index(name) if name in output_names(query) else -1
            found: tuple[Source, ...] = ()
            for branch in (query.left, query.right):
                names = output_names(branch)
                below = self._origins_of(branch, names[position]) if 0 <= position < len(names) else ()
                if not below:
                    return ()
                found += below
            return found
        defined = outputs(query, name)
        if len(defined) == 1 and isinstance(defined[0], exp.Column):
            return self._origins(defined[0])
        return ()

    # -- choice -------------------------------------------------------------------------------------------------------

    def _greedy(self, possible: Mapping[int, list[Choice]], pushes: Mapping[str, LeafPush]) -> Schedule:
        """Fetch what is smallest first, each reduced by what is there by then and worth waiting for."""
        found = Schedule()
        base = {unit.number: self._base(unit, pushes) for unit in self._units.all}
        stages: dict[int, int] = {}
        remaining = set(base)
        while remaining:
            options = {number: self._reduced(number, base, possible, found, stages) for number in remaining}
            number = min(options, key=lambda item: (options[item][0], item))
            rows, chosen, withheld = options[number]
            found.withheld += [why for why in withheld if why not in found.withheld]
            found.order.append(number)
            found.rows[number] = rows
            found.chosen[number] = chosen
            stages[number] = 1 + max((stages[s] for item in chosen for s, _ in item.sources), default=-1)
            remaining.discard(number)
        return found

    def _reduced(
        self,
        number: int,
        base: Mapping[int, float],
        possible: Mapping[int, list[Choice]],
        found: Schedule,
        stages: Mapping[int, int],
    ) -> tuple[float, list[Choice], list[str]]:
        """Give the unit's rows as reduced, by which keys, and which keys policy withholds that would have paid."""
        rows = base[number]
        options = []
        for choice in possible.get(number, ()):
            if all(source in stages for source, _ in choice.sources):
                there = sum(min(found.rows[s], self._values(s, c)) for s, c in choice.sources)
                domain = sum(self._domain(s, c) for s, c in choice.sources)
                share = min(there / max(self._estimate.distinct(choice.ref, choice.name), domain), 1.0)
                options.append((share, 1 + max(stages[source] for source, _ in choice.sources), there, choice))
        chosen: list[Choice] = []
        withheld: list[str] = []
        done: set[Column] = set()
        stage = 0
        width = self._width(self._units.all[number])
        for share, needed, there, choice in sorted(options, key=lambda item: item[:2]):
            cost = there * _KEY_BYTES + _STAGE_BYTES * max(needed - stage, 0)
            saved = rows * (1.0 - share) * width + self._later(number, rows, rows * share, base, possible, stages)
            if (choice.ref, choice.name) in done or saved <= cost:
                continue
            why = self._forbidden(number, choice, found)
            if why:
                withheld.append(why)
                continue
            rows, stage = max(rows * share, 1.0), max(stage, needed)
            done.add((choice.ref, choice.name))
            chosen.append(choice)
        return rows, chosen, withheld

    def _later(
        self,
        number: int,
        before: float,
        after: float,
        base: Mapping[int, float],
        possible: Mapping[int, list[Choice]],
        stages: Mapping[int, int],
    ) -> float:
        """Give the bytes that other units would save, at most one of them, if this one's keys became fewer."""
        most = 0.0
        for target, choices in possible.items():
            for choice in choices if target != number and target not in stages else ():
                if all(source == number or source in stages for source, _ in choice.sources):
                    values = self._estimate.distinct(choice.ref, choice.name)
                    shares = [min(rows / values, 1.0) for rows in (before, after)]
                    most = max(most, base[target] * (shares[0] - shares[1]) * self._width(self._units.all[target]))
        return most

    def _domain(self, number: int, origin: Column) -> float:
        """Give how many different values a column of keys has before anything is filtered; 0 when nobody says."""
        ref, name = origin
        return self._estimate.distinct(ref, name) if ref else 0.0

    def _values(self, number: int, origin: Column) -> float:
        ref, name = origin
        if ref:
            return min(self._estimate.distinct(ref, name), self._estimate.filtered(ref, self._pushes[ref].pushed))
        unit = self._units.all[number]
        defined = outputs(unit.query, name) if unit.query is not None else []
        base = self._lineage.plain(defined[0]) if len(defined) == 1 else None
        return self._estimate.distinct(*base[0]) if base and len(base) == 1 else float("inf")

    def _base(self, unit: Unit, pushes: Mapping[str, LeafPush]) -> float:
        pushed = {ref: pushes[ref].pushed for ref in unit.refs}
        if unit.query is not None:
            return self._estimate.query(unit.query, pushed)
        parts = {ref: self._estimate.filtered(ref, pushed[ref]) for ref in unit.members}
        rows = self._estimate.joined(parts, unit.equal)
        queries = sum(1 for item in unit.conditions if next(inner_queries(item), None) is not None)
        return max(rows * 0.5**queries, 1.0)

    def _width(self, unit: Unit) -> float:
        leaves = {leaf.ref: leaf for leaf in self._bound.leaves}
        return sum(self._estimate.width(ref, leaves[ref].columns) for ref in unit.members or unit.refs)

    # -- permission ---------------------------------------------------------------------------------------------------

    def _forbidden(self, number: int, choice: Choice, found: Schedule) -> str:
        """Say why keys may not travel; empty when they may."""
        target = self._units.all[number]
        resources = self._decision.resources
        if resources[choice.ref].rule(choice.name).access != "plain":
            return f"{self._name(choice.ref)}.{choice.name} is masked: no keys are sent for it"
        for source, origin in choice.sources:
            why = self._origin_masked(source, origin) or self._not_to(target.place[0], source, found)
            if why:
                return why
        return ""

    def _origin_masked(self, number: int, origin: Column) -> str:
        ref, name = origin
        unit = self._units.all[number]
        bases = (
            [origin]
            if ref
            else [
                base
                for defined in (outputs(unit.query, name) if unit.query is not None else [])
                for base in sorted(self._lineage.reads(defined))
            ]
        )
        for held, field_name in bases:
            if self._decision.resources[held].rule(field_name).access != "plain":
                return f"{self._name(held)}.{field_name} is masked: its values are no keys for others"
        return ""

    def _not_to(self, member: str, number: int, found: Schedule) -> str:
        """Say which department's rows the keys would disclose to a member that may not see them."""
        unit = self._units.all[number]
        for ref in unit.refs:
            rules = self._decision.resources[ref].constraints
            if unit.place[0] != member and not rules.keys_may_go(member):
                return f"keys of {self._name(ref)} may not go to {member} (keys_may_go_to)"
        for choice in found.chosen.get(number, ()):
            for source, _ in choice.sources:
                why = self._not_to(member, source, found)
                if why:
                    return why
        return ""

    def _name(self, ref: str) -> str:
        return str(self._bound.leaf(ref).dataset)

"""Carve: cut the units out of a bound tree. Each becomes the tree of a fragment; what is left joins their answers.

A unit's conditions go with it and leave the rest (they are proven to be the same there), so that columns which only they read
do not travel. Conditions that are copied to a leaf are added where the leaf stands, when that place is as good as the leaf.
Mentions that need the same rows under the same rules become one fragment with the columns of both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlglot import exp

from tidegate.core.decision import Decision
from tidegate.core.errors import Code, error_for
from tidegate.core.names import DatasetName
from tidegate.sql.estimate import Estimate
from tidegate.sql.joins import is_missing, where_of
from tidegate.sql.journeys import cast_of_output, casts_of_query
from tidegate.sql.kinds import Kinds
from tidegate.sql.lineage import conjuncts, is_base, output_names, sources, unwrap
from tidegate.sql.model import BoundQuery, Fragment, Reduction, RenderedSql
from tidegate.sql.nodes import Call, Keys, aliased, column, identifier, table_alias
from tidegate.sql.pushdown import LeafPush, join_kind
from tidegate.sql.reduce import Choice, Schedule
from tidegate.sql.render import render
from tidegate.sql.units import Unit


@dataclass(slots=True)
class _Piece:
    """A fragment in the making. ``columns`` maps the visible columns (ref, name) to their place in its answer."""

    id: str
    unit: Unit
    tree: exp.Query
    refs: dict[str, DatasetName]
    reductions: tuple[Reduction, ...]
    rows: float
    columns: dict[tuple[str, str], int] = field(default_factory=dict)
    shipped: tuple[int, ...] = ()  # of a whole query: the positions of its output that travel
    pushed: list[str] = field(default_factory=list)
    kept: list[tuple[str, str]] = field(default_factory=list)
    scans: int = 1
    aliases: dict[str, str] = field(default_factory=dict)  # ref -> ref of the same leaf in a shared piece


class Carve:
    """One carving; ``tree`` is changed in place and becomes the final query."""

    def __init__(
        self,
        bound: BoundQuery,
        tree: exp.Query,
        decision: Decision,
        pushes: Mapping[str, LeafPush],
        schedule: Schedule,
        units: list[Unit],
        estimate: Estimate,
        kinds: Kinds,
        *,
        sharing: bool,
    ) -> None:
        self._bound = bound
        self.tree = tree
        self._decision = decision
        self._pushes = pushes
        self._schedule = schedule
        self._units = units
        self._estimate = estimate
        self._kinds = kinds
        self._sharing = sharing
        self._pieces: dict[int, _Piece] = {}
        self._shared: dict[str, _Piece] = {}

    def run(self) -> tuple[tuple[Fragment, ...], RenderedSql]:
        """Carve; gives the fragments in the order of their fetching, and the final query."""
        wholes = {unit.number: _copied(unit.query) for unit in self._units if unit.query is not None}
        for unit in self._units:
            if unit.query is None:
                _remove(unit)
        needed = self._needed()
        for number in self._schedule.order:
            unit = self._units[number]
            piece = self._piece(unit, needed, wholes.get(number))
            self._pieces[number] = piece
        for unit in self._units:
            self._replace(unit, self._pieces[unit.number])
        self._rename()
        pieces = list({id(piece): piece for piece in self._pieces.values()}.values())
        pieces.sort(key=lambda piece: int(piece.id[1:]))
        return tuple(self._fragment(piece) for piece in pieces), render(self.tree, self._bound.parameters)

    # -- what travels -------------------------------------------------------------------------------------------------

    def _needed(self) -> dict[str, set[str]]:
        """Give the columns of visible leaves that what is left reads, and those that give keys."""
        found: dict[str, set[str]] = {ref: set() for unit in self._units for ref in unit.members}
        inside = {
            id(item)
            for unit in self._units
            if unit.query is not None
            for item in unwrap(unit.query).find_all(exp.Column)
        }
        for item in self.tree.find_all(exp.Column):
            if item.table in found and id(item) not in inside:
                found[item.table].add(item.name)
        for choices in self._schedule.chosen.values():
            for choice in choices:
                for _, (ref, name) in choice.sources:
                    if ref:
                        found[ref].add(name)
        return found

    # -- pieces -------------------------------------------------------------------------------------------------------

    def _piece(self, unit: Unit, needed: Mapping[str, set[str]], whole: exp.Query | None) -> _Piece:
        tree = self._group(unit) if whole is None else whole
        pushed, kept = self._push(unit, tree)
        reductions = tuple(self._reduction(choice) for choice in self._schedule.chosen[unit.number])
        refs = {ref: self._bound.leaf(ref).dataset for ref in unit.refs}
        rows = self._schedule.rows[unit.number]
        key, order = self._key(unit, tree, reductions)
        piece = self._shared.get(key) if self._sharing else None
        if piece is not None and not self._same_rules(piece, order, needed):
            piece = None
        if piece is None:
            piece = _Piece(f"f{len({id(item) for item in self._pieces.values()})}", unit, tree, refs, reductions, rows)
            piece.pushed, piece.kept = pushed, kept
            self._shared.setdefault(key, piece)
            piece.aliases = {ref: ref for ref in unit.refs}
            if whole is not None:
                _ship(piece)
        else:
            piece.scans += 1
            piece.aliases.update(dict(zip(order, _order(piece.tree), strict=True)))
        for ref in unit.members:
            for name in sorted(needed[ref]):
                piece.columns.setdefault((piece.aliases[ref], name), len(piece.columns))
        return piece

    def _reduction(self, choice: Choice) -> Reduction:
        found = []
        for number, (ref, name) in choice.sources:
            piece = self._pieces[number]
            if ref:
                position = piece.columns[piece.aliases[ref], name]
            else:
                outputs = output_names(unwrap(self._units[number].query or exp.Select()))
                position = piece.shipped.index(outputs.index(name))
            found.append((piece.id, f"c{position}"))
        return Reduction(choice.ref, choice.name, tuple(found))

    def _group(self, unit: Unit) -> exp.Select:
        """Build ``SELECT FROM a CROSS JOIN b WHERE ...``; the select list comes when every reader is known."""
        first, *others = unit.members
        select = exp.Select(expressions=[], from_=exp.From(this=self._table(first)))
        for ref in others:
            select.append("joins", exp.Join(this=self._table(ref), kind="CROSS"))
        conditions: list[exp.Expr] = [
            exp.EQ(this=column(*left), expression=column(*right)) for left, right in unit.equal
        ]
        conditions += [item.copy() for item in unit.conditions if not _equates(item, unit)]
        if conditions:
            select.set("where", exp.Where(this=exp.and_(*conditions, copy=False)))
        return select

    def _table(self, ref: str) -> exp.Table:
        dataset = self._bound.leaf(ref).dataset
        return exp.Table(this=identifier(dataset.name), db=identifier(dataset.department), alias=table_alias(ref))

    def _push(self, unit: Unit, tree: exp.Query) -> tuple[list[str], list[tuple[str, str]]]:
        """Add the copied conditions at their leaves, and say for EXPLAIN what was pushed and kept."""
        said = [describe(item) for item in unit.conditions]
        kept: list[tuple[str, str]] = []
        for ref in unit.refs:
            for item in self._pushes[ref].pushed:
                if isinstance(item, Keys):
                    continue
                copied = item.copy()
                for found in copied.find_all(exp.Column):
                    found.set("table", identifier(ref))
                if _add(tree, ref, copied) or copied in unit.conditions or unit.query is not None:
                    said.append(describe(copied))
            taken = set(map(describe, unit.conditions))
            kept += [(describe(item), why) for item, why in self._pushes[ref].kept if describe(item) not in taken]
        return list(dict.fromkeys(said)), list(dict.fromkeys(kept))

    def _key(self, unit: Unit, tree: exp.Query, reductions: tuple[Reduction, ...]) -> tuple[str, tuple[str, ...]]:
        """Give what two mentions must have in common to be fetched once, and the leaves in the order of their mention."""
        order = _order(tree)
        numbers = {ref: f"r{number}" for number, ref in enumerate(order)}
        copied = tree.copy()
        for item in copied.find_all(exp.Column):
            if item.table in numbers:
                item.set("table", identifier(numbers[item.table]))
        for table in copied.find_all(exp.Table):
            if is_base(table):
                table.set("alias", table_alias(numbers[table.alias]))
        rules = [{**self._decision.resources[ref].to_json(), "columns": None} for ref in order]
        filters = sorted((numbers[item.ref], item.column, item.sources) for item in reductions)
        kind = "group" if unit.query is None else "whole"
        return repr((kind, unit.place, copied.sql("duckdb"), rules, filters)), order

    def _same_rules(self, piece: _Piece, order: tuple[str, ...], needed: Mapping[str, set[str]]) -> bool:
        """Say whether each column that a mention reads is decided alike in the piece that it would share."""
        resources = self._decision.resources
        for ref, held in zip(order, _order(piece.tree), strict=True):
            names = set(self._bound.leaf(ref).columns) | needed.get(ref, set())
            if any(resources[ref].rule(name) != resources[held].rule(name) for name in names):
                return False
        return True

    # -- what is left -------------------------------------------------------------------------------------------------

    def _replace(self, unit: Unit, piece: _Piece) -> None:
        if unit.query is not None:
            query = unwrap(unit.query)
            query.replace(_reader(query, piece, casts_of_query(query, self._kinds) or ()))
            return
        tables = {table.alias: table for table in self.tree.find_all(exp.Table) if is_base(table)}
        first, *others = unit.members
        tables[first].set("db", None)
        tables[first].set("this", identifier(piece.id))
        for ref in others:
            join = tables[ref].parent
            if join is not None:
                join.pop()

    def _rename(self) -> None:
        places = {ref: unit for unit in self._units for ref in unit.members}
        for item in list(self.tree.find_all(exp.Column)):
            unit = places.get(item.table)
            if unit is not None:
                cast = cast_of_output(item, self._kinds)
                piece = self._pieces[unit.number]
                position = piece.columns[piece.aliases[item.table], item.name]
                item.set("this", identifier(f"c{position}"))
                item.set("table", identifier(unit.members[0]))
                if cast:
                    item.replace(exp.Cast(this=item.copy(), to=exp.Var(this=cast)))

    def _fragment(self, piece: _Piece) -> Fragment:
        tree = piece.tree
        if piece.unit.query is None:
            items: list[exp.Expr] = [column(*key) for key in piece.columns] or [exp.Literal.number(1)]
            tree.set("expressions", [aliased(item, f"c{number}") for number, item in enumerate(items)])
            count = len(items)
        else:
            count = len(piece.shipped)
        return Fragment(
            id=piece.id,
            member=piece.unit.place[0],
            node=piece.unit.place[1],
            sql=render(tree, self._bound.parameters),
            refs=piece.refs,
            columns=tuple(f"c{number}" for number in range(count)),
            whole=False,
            pushed=tuple(piece.pushed),
            kept=tuple(piece.kept),
            scans=piece.scans,
            reductions=piece.reductions,
            rows_estimated=round(piece.rows) if self._estimate.is_known(piece.refs) else None,
        )


def _copied(query: exp.Expr) -> exp.Query:
    found = unwrap(query).copy()
    if not isinstance(found, exp.Query):
        raise error_for(Code.INTERNAL, detail="carve: a unit that is no query")
    return found


def _remove(unit: Unit) -> None:
    """Take a group's conditions out of the SELECT that they stood in."""
    if unit.select is None:
        return
    taken = set(map(id, unit.conditions))
    left = [item for item in where_of(unit.select) if id(item) not in taken]
    unit.select.set("where", exp.Where(this=exp.and_(*left, copy=False)) if left else None)


def _equates(item: exp.Expr, unit: Unit) -> bool:
    """Say whether a condition is one of the equalities that the unit has anyway."""
    if not isinstance(item, exp.EQ):
        return False
    left, right = item.this.unnest(), item.expression.unnest()
    if not isinstance(left, exp.Column) or not isinstance(right, exp.Column):
        return False
    pair = ((left.table, left.name), (right.table, right.name))
    return pair in unit.equal or pair[::-1] in unit.equal


def _add(tree: exp.Query, ref: str, condition: exp.Expr) -> bool:
    """Add a condition over one leaf where the leaf stands; False when it says nothing new there, or the place is no good.

    WHERE is as good as the leaf itself unless a RIGHT or FULL join adds rows after it; for what a LEFT join adds, its ON is.
    """
    for select in tree.find_all(exp.Select):
        for position, source in enumerate(sources(select)):
            if not is_base(source) or source.alias != ref:
                continue
            joins = select.args.get("joins") or []
            kinds = [join_kind(join) for join in joins]
            if any(kind in ("RIGHT", "FULL", "") for kind in kinds):
                return False
            if position and kinds[position - 1] not in ("INNER", "CROSS"):
                on = joins[position - 1].args.get("on")
                if on is None or condition in list(conjuncts(on)):
                    return False
                joins[position - 1].set("on", exp.and_(on, condition, copy=False))
                return True
            held = where_of(select)
            if condition in held:
                return False
            select.set("where", exp.Where(this=exp.and_(*held, condition, copy=False)))
            return True
    return False


def _order(tree: exp.Expr) -> tuple[str, ...]:
    return tuple(table.alias for table in tree.find_all(exp.Table) if is_base(table))


def _ship(piece: _Piece) -> None:
    """Leave out what nobody reads (``pruning`` made it a typed NULL), and name the output columns c0, c1 ..."""
    query = piece.tree
    count = len(output_names(query))
    positions = list(range(count))
    if isinstance(query, exp.Select) and query.args.get("distinct") is None and not _by_position(query):
        positions = [number for number in positions if not is_missing(query.expressions[number])] or [0]
        query.set("expressions", [query.expressions[number] for number in positions])
    first = unwrap(query)
    while isinstance(first, exp.SetOperation):
        first = unwrap(first.left)
    old = [item.alias_or_name for item in first.expressions]
    first.set("expressions", [aliased(item.unalias(), f"c{number}") for number, item in enumerate(first.expressions)])
    renamed = {name: f"c{number}" for number, name in enumerate(old)}
    order = query.args.get("order")
    for item in order.find_all(exp.Column) if order is not None else ():
        if not item.table and item.name in renamed:
            item.set("this", identifier(renamed[item.name]))
    piece.shipped = tuple(positions)


def _by_position(query: exp.Select) -> bool:
    """Say whether ORDER BY or GROUP BY names output columns by number."""
    order, group = query.args.get("order"), query.args.get("group")
    keys = [item.this for item in order.expressions] if order is not None else []
    keys += list(group.expressions) if group is not None else []
    return any(isinstance(key, exp.Literal) for key in keys)


def _reader(query: exp.Expr, piece: _Piece, casts: tuple[str, ...]) -> exp.Select:
    """Build the SELECT over a fragment's answer that stands where the whole query stood."""
    items: list[exp.Expr] = []
    names = output_names(query)
    for position, name in enumerate(names):
        if position in piece.shipped:
            read: exp.Expr = column(piece.id, f"c{piece.shipped.index(position)}")
            if casts[position]:
                read = exp.Cast(this=read, to=exp.Var(this=casts[position]))
            items.append(aliased(read, name))
        else:
            items.append(aliased(unwrap(query).expressions[position].unalias().copy(), name))
    return exp.Select(
        expressions=items, from_=exp.From(this=exp.Table(this=identifier(piece.id), alias=table_alias(piece.id)))
    )


def describe(condition: exp.Expr) -> str:
    """Print a condition for EXPLAIN; texts of the caller are parameters, so none is shown."""
    holder = exp.Paren(this=condition.copy())
    for call in reversed(list(holder.find_all(Call))):  # the innermost first
        call.replace(exp.Anonymous(this=call.name, expressions=call.expressions))
    return str(holder.this.sql(dialect="duckdb", normalize_functions=False))

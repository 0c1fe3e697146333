"""Queries made from a seed, over ``differential_generator_world``: the same seed gives the same query for ever.

What SQL leaves open is not asked: an ordered answer is ordered totally, a LIMIT inside a query too. The one exception is
marked: a LIMIT without an order may give any rows of ``within``, and how many is all that is fixed.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tests.fakes.differential_generator_expressions import (
    GROUPABLE,
    KIND_OF,
    Chooser,
    Column,
    Kind,
    aggregate,
    condition,
    expression,
    literal,
)
from tests.fakes.differential_generator_world import COLLECTIONS, TYPES, types_of
from tests.fakes.differential_queries import Question

DEPTH_MAX = 2  # of sub-queries and derived tables in each other
_JOINS = ("JOIN", "JOIN", "JOIN", "LEFT JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN", "SEMI JOIN", "ANTI JOIN")
_KEYS = ("k", "k", "k", "j", "s", "d", "z", "m", "b")


@dataclass(frozen=True)
class Generated(Question):
    """One query of a seed.

    Args:
        within: for a LIMIT without an order: the query without it, whose rows the answer's rows must be among.
    """

    seed: int = 0
    within: str = ""


@dataclass(frozen=True)
class Relation:
    """Something that FROM may read: its text, its columns, and whether ``u`` tells its rows apart."""

    text: str
    alias: str
    columns: tuple[Column, ...]
    unique: bool


@dataclass(frozen=True)
class Scope:
    """A FROM clause: its text, what may be read, conditions that belong in WHERE, and the columns that order it totally."""

    text: str
    columns: tuple[Column, ...]
    conditions: tuple[str, ...]
    order: tuple[str, ...] | None


@dataclass(frozen=True)
class Triple:
    """A query cut in three by a condition (TLP): the answer of ``whole`` is that of the three parts together."""

    whole: str
    parts: tuple[str, str, str]
    seed: int


def question(seed: int) -> Generated:
    """Make the query of a seed."""
    return Maker(seed).question()


def triple(seed: int) -> Triple:
    """Make the three-part check of a seed."""
    return Maker(seed, parameters=False).triple()


class Maker:
    """Makes one query. The state is what has been chosen: aliases, parameters, CTEs."""

    def __init__(self, seed: int, *, parameters: bool = True) -> None:
        self.seed = seed
        self.choose = Chooser(random.Random(seed), parameters_allowed=parameters)
        self.aliases = 0
        self.ctes: list[str] = []
        self.cte_relations: list[tuple[str, tuple[tuple[str, Kind], ...], bool]] = []
        # Much of what the planner does needs tables of one department; so a query has a home.
        self.home = self.choose.one(("air", "sea", "land"))
        self.homely = self.choose.one((0.2, 0.6, 0.95))

    # -- whole queries ------------------------------------------------------------------------------------------------

    def question(self) -> Generated:
        choose = self.choose
        if choose.chance(0.22):
            self._cte()
        shapes: list[Callable[[], tuple[str, bool, str]]] = [
            *[self._rows] * 8, *[self._grouped] * 8, *[self._top] * 4, *[self._totals] * 3, *[self._set] * 4,
            *[self._window] * 3, *[self._distinct] * 2, self._distinct_on, self._any_rows,
        ]  # fmt: skip
        sql, ordered, within = choose.one(shapes)()
        head = f"WITH {', '.join(self.ctes)} " if self.ctes else ""
        return _with_used_parameters(
            Generated(head + sql, tuple(choose.parameters), ordered, self.seed, within and head + within)
        )

    def triple(self) -> Triple:
        scope = self._from()
        where = self._where(scope)
        outputs = ", ".join(column.text for column in self.choose.some(scope.columns, 1, 4))
        cut = condition(self.choose, scope.columns) if self.choose.chance(0.7) else self._subquery(scope.columns, 0)
        whole = f"SELECT {outputs} FROM {scope.text}{where}"
        link = "AND" if where else "WHERE"
        parts = [f"{whole} {link} {word}" for word in (f"({cut})", f"(NOT ({cut}))", f"(({cut}) IS NULL)")]
        return Triple(whole, (parts[0], parts[1], parts[2]), self.seed)

    def _rows(self) -> tuple[str, bool, str]:
        scope = self._from()
        return f"SELECT {self._outputs(scope)[0]} FROM {scope.text}{self._where(scope)}", False, ""

    def _distinct(self) -> tuple[str, bool, str]:
        scope = self._from()
        columns = self.choose.some([item for item in scope.columns if item.kind != "list"], 1, 3)
        outputs = ", ".join(expression(self.choose, column)[0] for column in columns)
        return f"SELECT DISTINCT {outputs} FROM {scope.text}{self._where(scope)}", False, ""

    def _distinct_on(self) -> tuple[str, bool, str]:
        scope = self._from()
        if scope.order is None:
            return self._rows()
        keys = ", ".join(column.text for column in self.choose.some(self._groupable(scope.columns), 1, 2))
        outputs = self._outputs(scope)[0]
        order = ", ".join((keys, *scope.order))
        sql = f"SELECT DISTINCT ON ({keys}) {outputs} FROM {scope.text}{self._where(scope)} ORDER BY {order}"
        return sql, False, ""

    def _any_rows(self) -> tuple[str, bool, str]:
        scope = self._from()
        within = f"SELECT {self._outputs(scope)[0]} FROM {scope.text}{self._where(scope)}"
        offset = self.choose.one(("", "", " OFFSET 2"))
        return f"{within} LIMIT {self.choose.rng.randint(0, 9)}{offset}", False, within

    def _top(self) -> tuple[str, bool, str]:
        scope = self._from()
        if scope.order is None:
            return self._rows()
        order = ", ".join([*self._order_keys(scope.columns), *(f"{name} NULLS LAST" for name in scope.order)])
        sql = f"SELECT {self._outputs(scope)[0]} FROM {scope.text}{self._where(scope)} ORDER BY {order}"
        return sql + self._limit(0.8), True, ""

    def _totals(self) -> tuple[str, bool, str]:
        scope = self._from()
        calls = [aggregate(self.choose, scope.columns)[0] for _ in range(self.choose.rng.randint(1, 4))]
        having = f" HAVING count(*) > {self.choose.rng.randint(0, 3)}" if self.choose.chance(0.1) else ""
        return f"SELECT {', '.join(calls)} FROM {scope.text}{self._where(scope)}{having}", False, ""

    def _grouped(self) -> tuple[str, bool, str]:
        choose, scope = self.choose, self._from()
        sets, positions = choose.chance(0.15), choose.chance(0.15)
        keys = []
        for column in choose.some(self._groupable(scope.columns), 1, 3):
            computed = (
                expression(choose, column, grouped=sets or not positions)[0] if choose.chance(0.3) else column.text
            )
            keys.append(column.text if sets else computed)  # ROLLUP (x > 1) is not read by the exchange's parser
        keys = list(dict.fromkeys(keys))
        calls = [aggregate(choose, scope.columns)[0] for _ in range(choose.rng.randint(1, 3))]
        group = self._grouping(keys) if sets else ", ".join(keys)
        if positions and not sets:
            group = choose.one(("ALL", ", ".join(str(number) for number in range(1, len(keys) + 1))))
        levels = [f"grouping({key})" for key in keys] if sets else []
        order = ""
        if choose.chance(0.25) and (sets or not positions):
            first = choose.one(("count(*) DESC", keys[0], "count(*)"))
            order = (
                " ORDER BY " + ", ".join((first, *(f"{key} NULLS FIRST" for key in keys), *levels)) + self._limit(0.7)
            )
        having = ""
        if choose.chance(0.25):
            having = " HAVING " + self._having(scope)
        outputs = ", ".join((*keys, *calls, *levels))
        sql = f"SELECT {outputs} FROM {scope.text}{self._where(scope)} GROUP BY {group}{having}{order}"
        return sql, bool(order), ""

    def _having(self, scope: Scope) -> str:
        choose = self.choose
        numbers = [column for column in scope.columns if column.kind in ("int", "dec", "fin")]
        forms = [f"count(*) > {choose.rng.randint(0, 3)}", f"count(DISTINCT {choose.one(scope.columns).text}) >= 1"]
        if numbers:
            forms += [f"sum({choose.one(numbers).text}) > 10", f"max({choose.one(numbers).text}) IS NOT NULL"]
            forms += [f"avg({choose.one(numbers).text}) > (SELECT avg(y) FROM {self._name()})"]
        return choose.one(forms)

    def _grouping(self, keys: Sequence[str]) -> str:
        joined = ", ".join(keys)
        if self.choose.chance(0.6):
            return f"{self.choose.one(('ROLLUP', 'CUBE'))} ({joined})"
        return f"GROUPING SETS (({joined}), ({keys[0]}), ())"

    def _window(self) -> tuple[str, bool, str]:
        choose, scope = self.choose, self._from(most=2)
        calls = [self._window_call(scope) for _ in range(choose.rng.randint(1, 2))]
        outputs = self._outputs(scope)[0]
        qualify = ""
        if choose.chance(0.4):
            partition = choose.one(self._groupable(scope.columns)).text
            key = choose.one(self._groupable(scope.columns)).text
            qualify = f" QUALIFY rank() OVER (PARTITION BY {partition} ORDER BY {key} NULLS LAST) <= {choose.rng.randint(1, 3)}"
        if choose.chance(0.3):
            inner = f"SELECT {outputs} AS o, {calls[0]} AS w FROM {scope.text}{self._where(scope)}".replace(", ", ", ")
            if outputs.count(",") == 0:
                return f"SELECT v.o, v.w FROM ({inner}) v WHERE v.w IS NOT NULL", False, ""
        return f"SELECT {outputs}, {', '.join(calls)} FROM {scope.text}{self._where(scope)}{qualify}", False, ""

    def _window_call(self, scope: Scope) -> str:
        choose = self.choose
        partition = f"PARTITION BY {choose.one(self._groupable(scope.columns)).text}" if choose.chance(0.7) else ""
        key = choose.one(self._groupable(scope.columns)).text
        numbers = [column for column in scope.columns if column.kind in ("int", "dec", "fin")]
        number = choose.one(numbers).text if numbers else key
        total = "sum" if numbers else "count"
        forms = [
            f"count(*) OVER ({partition})",
            f"{total}({number}) OVER ({partition})",
            f"max({key}) OVER ({partition})",
            f"rank() OVER ({partition} ORDER BY {key} DESC NULLS LAST)",
            f"dense_rank() OVER ({partition} ORDER BY {key})",
            f"{total}({number}) OVER ({partition} ORDER BY {key} NULLS FIRST)",
        ]
        if scope.order is not None:
            full = ", ".join((key, *scope.order))
            forms += [
                f"row_number() OVER ({partition} ORDER BY {full})",
                f"{choose.one(('lag', 'lead', 'first_value', 'last_value'))}({number}) OVER ({partition} ORDER BY {full})",
                f"ntile(3) OVER ({partition} ORDER BY {full})",
                f"{total}({number}) OVER ({partition} ORDER BY {full} ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)",
            ]
        return choose.one(forms)

    def _set(self) -> tuple[str, bool, str]:
        choose = self.choose
        every: tuple[Kind, ...] = ("int", "text", "date", "dec", "bool", "fin", "tz", "huge")
        kinds = choose.some(every, 1, 3)
        sides = []
        for _ in range(choose.one((2, 2, 3))):
            scope = self._from(most=2, columns=("u", "k", "j", "s", "n", "m", "y", "d", "z", "b", "h"))
            outputs = ", ".join(self._of_kind(scope.columns, kind) for kind in kinds)
            sides.append(f"SELECT {outputs} FROM {scope.text}{self._where(scope)}")
        words = ("UNION", "UNION ALL", "UNION ALL", "INTERSECT", "EXCEPT", "EXCEPT ALL", "INTERSECT ALL")
        sql = sides[0] + "".join(f" {choose.one(words)} {side}" for side in sides[1:])
        if choose.chance(0.3):
            order = ", ".join(f"{number} {choose.one(('', 'DESC'))} NULLS LAST" for number in range(1, len(kinds) + 1))
            return f"{sql} ORDER BY {order}{self._limit(0.6)}", True, ""
        return sql, False, ""

    def _of_kind(self, columns: Sequence[Column], kind: Kind) -> str:
        found = [column.text for column in columns if column.kind == kind]
        return self.choose.one(found) if found else f"CAST(NULL AS {_NAMES[kind]})"

    # -- parts of a query -------------------------------------------------------------------------------------------------

    def _outputs(self, scope: Scope) -> tuple[str, list[Column]]:
        chosen = self.choose.some(scope.columns, 1, 4)
        texts = [expression(self.choose, column)[0] for column in chosen]
        if self.choose.chance(0.08):
            texts.append(self._scalar(scope.columns, 0))
        return ", ".join(texts), chosen

    def _order_keys(self, columns: Sequence[Column]) -> list[str]:
        keys = []
        for column in self.choose.some(self._groupable(columns), 0, 2):
            text = expression(self.choose, column)[0] if self.choose.chance(0.3) else column.text
            keys.append(
                f"{text} {self.choose.one(('', 'ASC', 'DESC'))} {self.choose.one(('', 'NULLS FIRST', 'NULLS LAST'))}"
            )
        return keys

    def _limit(self, share: float) -> str:
        if not self.choose.chance(share):
            return ""
        limit = f" LIMIT {self.choose.one((0, 1, 2, 3, 5, 8, 13, 100))}" if self.choose.chance(0.9) else ""
        return limit + (f" OFFSET {self.choose.rng.randint(0, 4)}" if self.choose.chance(0.3) or not limit else "")

    def _groupable(self, columns: Sequence[Column]) -> list[Column]:
        return [column for column in columns if column.kind in GROUPABLE and column.name != "u"] or list(columns)

    def _where(self, scope: Scope, depth: int = 0) -> str:
        conditions = list(scope.conditions)
        for _ in range(self.choose.one((0, 0, 1, 1, 2) if depth == 0 else (0, 0, 1))):
            share = 0.35 if depth == 0 else 0.12
            if depth < DEPTH_MAX and self.choose.chance(share):
                conditions.append(self._subquery(scope.columns, depth))
            else:
                conditions.append(condition(self.choose, scope.columns))
        return " WHERE " + " AND ".join(conditions) if conditions else ""

    # -- FROM -------------------------------------------------------------------------------------------------------------

    def _from(self, most: int = 5, depth: int = 0, columns: tuple[str, ...] | None = None) -> Scope:
        """Make a FROM clause of one to ``most`` relations."""
        count = min(most, self.choose.one((1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 3, 3, 3, 4, 5)))
        first = self._relation(depth, columns)
        if count == 2 and self.choose.chance(0.08):
            return self._using(first, self._relation(depth, columns))
        text, relations, conditions, comma = first.text, [first], [], False
        for _ in range(count - 1):
            relation = self._relation(depth, columns)
            kind = self.choose.one(_JOINS)
            # What follows a comma joins by comma too: in "a, b JOIN c ON a.k = c.k" a is not in sight of the ON.
            if comma or (self.choose.chance(0.1) and not text.startswith("(")):
                comma = True
                text, kind = f"{text}, {relation.text}", "JOIN"
                conditions.append(self._link(relations, relation))
            elif self.choose.chance(0.08):
                inner = self._relation(depth, columns)
                on = f"{relation.text} {self.choose.one(_JOINS[:7])} {inner.text} ON {self._link([relation], inner)}"
                text += f" {self.choose.one(_JOINS[:7])} ({on}) ON {self._link(relations, relation)}"
                relations += [relation, inner]
                continue
            else:
                text += f" {kind} {relation.text} ON {self._on(relations, relation)}"
            if not kind.startswith(("SEMI", "ANTI")):
                relations.append(relation)
        found = tuple(column for relation in relations for column in relation.columns)
        order = (
            tuple(f"{relation.alias}.u" for relation in relations) if all(item.unique for item in relations) else None
        )
        return Scope(text, found, tuple(conditions), order)

    def _using(self, left: Relation, right: Relation) -> Scope:
        names = {column.name for column in left.columns} & {column.name for column in right.columns} & {"k", "j", "s"}
        on = f"USING ({sorted(names)[0]})" if names else "ON TRUE"
        kind = self.choose.one(_JOINS[:7])
        order = (f"{left.alias}.u", f"{right.alias}.u") if left.unique and right.unique else None
        return Scope(f"{left.text} {kind} {right.text} {on}", left.columns + right.columns, (), order)

    def _on(self, relations: Sequence[Relation], relation: Relation) -> str:
        on = self._link(relations, relation)
        if self.choose.chance(0.3):
            on += f" AND {condition(self.choose, relation.columns, 1)}"
        if self.choose.chance(0.15):
            on += f" AND {condition(self.choose, self.choose.one(relations).columns, 1)}"
        return on

    def _link(self, relations: Sequence[Relation], relation: Relation) -> str:
        """Join by equal keys, mostly; the keys' types may differ."""
        choose = self.choose
        other: Relation = choose.one(relations)
        ours = {column.name: column for column in other.columns}
        shared = [column for column in relation.columns if column.name in ours and _joins(column, ours[column.name])]
        keys = [column for column in shared if column.name in _KEYS]
        if not keys:
            return "TRUE" if choose.chance(0.3) else condition(choose, relation.columns, 0)
        weighted = [column for name in _KEYS for column in keys if column.name == name]
        key = choose.one(weighted)
        operator = choose.one(("=",) * 12 + ("IS NOT DISTINCT FROM",))
        on = f"{ours[key.name].text} {operator} {key.text}"
        if choose.chance(0.5):
            on = f"{key.text} {operator} {ours[key.name].text}"
        if choose.chance(0.2) and len(keys) > 1:
            second = choose.one([column for column in keys if column is not key])
            on += f" AND {second.text} {choose.one(('=', '=', '<', '<>'))} {ours[second.name].text}"
        return on

    def _relation(self, depth: int, columns: tuple[str, ...] | None) -> Relation:
        choose = self.choose
        alias = self._alias()
        if depth < DEPTH_MAX and choose.chance(0.15):
            body, outputs, unique = self._body(depth + 1)
            return Relation(f"({body}) {alias}", alias, _columns(alias, outputs), unique)
        if self.cte_relations and choose.chance(0.5):
            name, outputs, unique = choose.one(self.cte_relations)
            return Relation(f"{name} {alias}", alias, _columns(alias, outputs), unique)
        if choose.chance(0.02):
            rows = ", ".join(f"({number}, '{choose.one(('JFK', 'o', ''))}', {number * 3})" for number in range(4))
            outputs = (("k", "int"), ("s", "text"), ("n", "int"))
            text = f"(SELECT * FROM (VALUES {rows}, (NULL, NULL, 1)) v(k, s, n)) {alias}"
            return Relation(text, alias, _columns(alias, outputs), False)
        table = self._name()
        outputs = _outputs_of(table)
        if columns is not None:
            outputs = tuple(item for item in outputs if item[0] in columns)
        return Relation(f"{table} {alias}", alias, _columns(alias, outputs), True)

    def _name(self) -> str:
        if self.choose.chance(0.33):
            return self.choose.one(tuple(COLLECTIONS))
        own = [name for name in TYPES if name.startswith(f"{self.home}.")]
        return self.choose.one(own if self.choose.chance(self.homely) else tuple(TYPES))

    def _alias(self) -> str:
        self.aliases += 1
        return f"q{self.aliases}"

    def _body(self, depth: int) -> tuple[str, tuple[tuple[str, Kind], ...], bool]:
        """Make a query for a derived table or a CTE, with columns of known names."""
        choose = self.choose
        scope = self._from(most=2, depth=depth, columns=("u", "k", "j", "s", "n", "m", "y", "d", "b"))
        where = self._where(scope, depth)
        by_name: dict[str, Column] = {}
        for column in choose.some(scope.columns, len(scope.columns), len(scope.columns)):
            by_name.setdefault(column.name, column)
        roll = choose.rng.random()
        if roll < 0.3:
            keys = [
                by_name[name] for name in choose.some([name for name in ("k", "j", "s", "d") if name in by_name], 1, 2)
            ]
            if keys:
                return self._grouped_body(scope, where, keys)
        if roll < 0.4 and not any(item.kind == "list" for item in by_name.values()):
            return self._union_body(depth)
        picked = [item for name, item in by_name.items() if name in ("k", "s", "n", "d") or choose.chance(0.5)]
        outputs = [f"{item.text} AS {item.name}" for item in picked if item.name != "u"]
        kinds: list[tuple[str, Kind]] = [(item.name, item.kind) for item in picked if item.name != "u"]
        single = scope.order is not None and len(scope.order) == 1
        if single and scope.order is not None:
            outputs.append(f"{scope.order[0]} AS u")
            kinds.append(("u", "int"))
        if not outputs:
            outputs, kinds = ["1 AS n"], [("n", "int")]
        tail, head = "", "DISTINCT " if choose.chance(0.08) else ""
        if not head and choose.chance(0.1):
            partition, key = (choose.one(self._groupable(scope.columns)).text for _ in range(2))
            window = choose.one(("rank()", "count(*)", f"max({key})"))
            frame = f" ORDER BY {key} NULLS LAST" if window == "rank()" else ""
            outputs.append(f"{window} OVER (PARTITION BY {partition}{frame}) AS w")
            if window != f"max({key})":
                kinds.append(("w", "int"))
        if scope.order is not None and not head and choose.chance(0.15):
            order = ", ".join([*self._order_keys(scope.columns), *(f"{name} NULLS LAST" for name in scope.order)])
            tail = f" ORDER BY {order} LIMIT {choose.rng.randint(1, 12)}"
        return f"SELECT {head}{', '.join(outputs)} FROM {scope.text}{where}{tail}", tuple(kinds), single

    def _grouped_body(
        self, scope: Scope, where: str, keys: Sequence[Column]
    ) -> tuple[str, tuple[tuple[str, Kind], ...], bool]:
        numbers = [column for column in scope.columns if column.kind in ("int", "dec", "fin")]
        outputs = [f"{key.text} AS {key.name}" for key in keys] + ["count(*) AS n"]
        kinds: list[tuple[str, Kind]] = [(key.name, key.kind) for key in keys] + [("n", "int")]
        if numbers:
            number = self.choose.one(numbers)
            outputs.append(f"{self.choose.one(('min', 'max'))}({number.text}) AS m")
            kinds.append(("m", number.kind))
            if number.kind == "int":
                outputs.append(f"sum({number.text}) AS h")
                kinds.append(("h", "huge"))
            else:
                outputs.append(f"avg({number.text}) AS y")
                kinds.append(("y", "num"))
        group = ", ".join(key.text for key in keys)
        having = " HAVING count(*) > 1" if self.choose.chance(0.2) else ""
        return f"SELECT {', '.join(outputs)} FROM {scope.text}{where} GROUP BY {group}{having}", tuple(kinds), False

    def _union_body(self, depth: int) -> tuple[str, tuple[tuple[str, Kind], ...], bool]:
        sides = []
        for _ in range(2):
            relation = self._relation(DEPTH_MAX, ("k", "s", "n", "d", "y"))
            scope = Scope(relation.text, relation.columns, (), None)
            known = (
                {column.name: column.text for column in relation.columns if column.kind == _UNION[column.name]}
                if all(column.name in _UNION for column in relation.columns)
                else {}
            )
            items = [f"{known.get(name, f'CAST(NULL AS {_NAMES[kind]})')} AS {name}" for name, kind in _UNION.items()]
            sides.append(f"SELECT {', '.join(items)} FROM {scope.text}{self._where(scope, depth)}")
        word = self.choose.one(("UNION ALL", "UNION", "EXCEPT"))
        return f"{sides[0]} {word} {sides[1]}", tuple(_UNION.items()), False

    def _cte(self) -> None:
        for _ in range(self.choose.one((1, 1, 2))):
            body, outputs, unique = self._body(1)
            name = f"w{len(self.ctes)}"
            hint = self.choose.one(("", "", "", "MATERIALIZED ", "NOT MATERIALIZED "))
            self.ctes.append(f"{name} AS {hint}({body})")
            self.cte_relations.append((name, outputs, unique))

    # -- sub-queries ----------------------------------------------------------------------------------------------------

    def _inner(self, outer: Sequence[Column], depth: int, *, correlated: bool) -> tuple[Scope, str]:
        """Make FROM and WHERE of a sub-query; correlated by keys of a column of the outer query, or by a comparison."""
        choose = self.choose
        scope = self._from(
            most=choose.one((1, 1, 1, 2)), depth=depth + 1, columns=("u", "k", "j", "s", "n", "m", "d", "y")
        )
        conditions = list(scope.conditions)
        if correlated:
            pairs = [
                (ours, theirs)
                for ours in scope.columns
                for theirs in outer
                if _joins(ours, theirs) and ours.name == theirs.name and ours.name in _KEYS
            ]
            loose = [
                (a, b) for a in scope.columns for b in outer if a.kind == b.kind and a.kind in ("int", "text", "date")
            ]
            if pairs:
                ours, theirs = choose.one(pairs)
                conditions.append(choose.one((f"{ours.text} = {theirs.text}", f"{theirs.text} = {ours.text}")))
            if loose and (choose.chance(0.2) or not pairs):
                ours, theirs = choose.one(loose)
                conditions.append(f"{ours.text} {choose.one(('<', '>', '<>', '<='))} {theirs.text}")
        if choose.chance(0.6):
            conditions.append(condition(choose, scope.columns, 1))
        if depth + 1 < DEPTH_MAX and choose.chance(0.15):
            conditions.append(self._subquery(scope.columns, depth + 1))
        return scope, " WHERE " + " AND ".join(conditions) if conditions else ""

    def _subquery(self, outer: Sequence[Column], depth: int) -> str:
        """Make a condition with a sub-query."""
        choose = self.choose
        roll = choose.rng.random()
        negated = choose.one(("", "NOT "))
        if roll < 0.4:
            scope, where = self._inner(outer, depth, correlated=choose.chance(0.85))
            made = f"{negated}EXISTS (SELECT 1 FROM {scope.text}{where})"
        elif roll < 0.7:
            scope, where = self._inner(outer, depth, correlated=choose.chance(0.2))
            pairs = [(a, b) for a in scope.columns for b in outer if _joins(a, b) and a.kind not in ("list", "bool")]
            if not pairs:
                return condition(choose, outer)
            ours, theirs = choose.one(pairs)
            made = f"{theirs.text} {negated}IN (SELECT {ours.text} FROM {scope.text}{where})"
            if choose.chance(0.15):
                quantified = choose.one(("= ANY", ">= ALL", "< ANY", "<> ALL"))
                made = f"{theirs.text} {quantified} (SELECT {ours.text} FROM {scope.text}{where})"
        else:
            column = choose.one([item for item in outer if item.kind in ("int", "dec", "fin", "num")] or [None])
            scalar = self._scalar(outer, depth)
            left = column.text if column is not None else literal(choose, "int")
            made = f"{left} {choose.one(('=', '<', '>', '<=', '<>'))} {scalar}"
        if choose.chance(0.12):
            made = f"({made} OR {condition(choose, outer, 0)})"
        return made

    def _scalar(self, outer: Sequence[Column], depth: int) -> str:
        """Make a scalar sub-query: an aggregate, so that it has one row."""
        scope, where = self._inner(outer, depth, correlated=self.choose.chance(0.6))
        numbers = [column.text for column in scope.columns if column.kind in ("int", "dec", "fin")]
        call = "count(*)"
        if numbers and self.choose.chance(0.75):
            name, number = self.choose.one(("max", "min", "avg", "sum", "count", "avg")), self.choose.one(numbers)
            factor = self.choose.one(("", "", "0.5 * "))
            call = f"{factor}{name}({number})"
        return f"(SELECT {call} FROM {scope.text}{where})"


_PARAMETER = re.compile(r"\$([0-9]+)")
_UNION: dict[str, Kind] = {"k": "int", "s": "text", "n": "int", "d": "date", "y": "fin"}
_NAMES: dict[str, str] = {
    "int": "INTEGER",
    "text": "VARCHAR",
    "date": "DATE",
    "dec": "DECIMAL(12,2)",
    "bool": "BOOLEAN",
    "fin": "DOUBLE",
    "tz": "TIMESTAMPTZ",
    "huge": "HUGEINT",
}


def _kind(name: str, type: str) -> Kind:
    if name == "g":
        return "big"
    if name == "y":
        return "fin"
    return "dec" if type.startswith("DECIMAL") else KIND_OF[type]


def _outputs_of(table: str) -> tuple[tuple[str, Kind], ...]:
    return tuple((name, _kind(name, type)) for name, type in types_of(table).items())


def _columns(alias: str, outputs: Sequence[tuple[str, Kind]]) -> tuple[Column, ...]:
    return tuple(Column(f"{alias}.{name}", kind, alias) for name, kind in outputs)


def _joins(first: Column, second: Column) -> bool:
    numbers: tuple[Any, ...] = ("int", "huge", "dec", "num", "fin")
    return first.kind == second.kind or (first.kind in numbers and second.kind in numbers)


def _with_used_parameters(made: Generated) -> Generated:
    """Number the parameters as the text uses them: forms that were made and not chosen have taken some."""
    used = list(dict.fromkeys(int(number) for number in _PARAMETER.findall(made.sql)))
    numbers = {old: new for new, old in enumerate(used, start=1)}

    def renumber(text: str) -> str:
        return _PARAMETER.sub(lambda match: f"${numbers[int(match[1])]}", text)

    parameters = tuple(made.parameters[old - 1] for old in used)
    return replace(made, sql=renumber(made.sql), parameters=parameters, within=renumber(made.within))

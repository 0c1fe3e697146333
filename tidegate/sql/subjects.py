"""Count distinct subjects: hidden columns that say, for every output group, how many persons stand behind it.

For each dataset in mode ``aggregate`` the reserved column ``tg_subject`` is carried from its leaf up to the caller's SELECT,
through sub-selects, CTEs and UNION ALL (where parts of one collection share a column: counts of parts never add up), and
counted there with DISTINCT. Called after ``structure.check``, which admits only shapes through which rows pass unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TypeAlias

from sqlglot import exp

from tidegate.core.decision import Decision
from tidegate.core.errors import Code, error_for
from tidegate.core.names import DatasetName
from tidegate.sql import callnames
from tidegate.sql.lineage import Lineage, is_base, sources, unwrap
from tidegate.sql.model import BoundQuery, Floor, Leaf, Role
from tidegate.sql.nodes import aliased, column
from tidegate.sql.scope import SUBJECT_COLUMN

SUBJECTS_MAX = 64  # carried side by side; a chain of CTEs that each join the one before with itself doubles them


@dataclass(frozen=True, slots=True)
class Counted:
    """The query with its hidden trailing columns, and the floors over them."""

    bound: BoundQuery
    floors: tuple[Floor, ...]


@dataclass(frozen=True, slots=True)
class _Subject:
    """One carried column: what it counts, the strictest minimum of its parts, and where it stands at this level."""

    dataset: DatasetName
    minimum: int
    ref: str
    value: exp.Expr


def counted_leaves(bound: BoundQuery, decision: Decision) -> tuple[Leaf, ...]:
    """Give the leaves in mode aggregate whose subjects must be counted in this query."""
    return tuple(
        leaf
        for leaf in bound.leaves
        if decision.resources[leaf.ref].constraints.mode == "aggregate" and SUBJECT_COLUMN not in leaf.columns
    )


def count(bound: BoundQuery, decision: Decision) -> Counted:
    """Add the hidden columns; a query over no dataset in mode aggregate comes back as it is."""
    wanted = counted_leaves(bound, decision)
    if not wanted:
        return Counted(bound, ())
    minimums = {leaf.ref: decision.resources[leaf.ref].constraints.min_group_size for leaf in wanted}
    tree = bound.tree.copy()
    carrier = _Carrier(Lineage.of_tree(tree), {leaf.ref: leaf for leaf in wanted}, minimums)
    top = unwrap(tree)
    if not isinstance(top, exp.Select):
        raise error_for(Code.INTERNAL, detail="subjects: the query is not a single SELECT")
    found = carrier.select(top)
    if carrier.carried != set(minimums):
        raise error_for(Code.INTERNAL, detail="subjects: a leaf was not reached")
    first = len(bound.output_names)
    floors = []
    for number, subject in enumerate(found):
        top.append("expressions", aliased(callnames.count_distinct(subject.value), f"tg_n{number}"))
        floors.append(Floor(first + number, subject.minimum, subject.ref))
    leaves = tuple(_with_subject(leaf) if leaf.ref in minimums else leaf for leaf in bound.leaves)
    return Counted(replace(bound, tree=tree, leaves=leaves), tuple(floors))


def _with_subject(leaf: Leaf) -> Leaf:
    columns = {**leaf.columns, SUBJECT_COLUMN: frozenset({Role.AGGREGATE})}
    return replace(leaf, columns=MappingProxyType(columns))


class _Carrier:
    """Carries subjects up a tree, adding columns to what is derived. Each derived query is changed once."""

    def __init__(self, lineage: Lineage, leaves: Mapping[str, Leaf], minimums: Mapping[str, int]) -> None:
        self._lineage = lineage
        self._leaves = leaves
        self._minimums = minimums
        self._done: dict[int, list[_Subject]] = {}
        self._names = 0
        self.carried: set[str] = set()

    def select(self, select: exp.Select) -> list[_Subject]:
        """Give the subjects of everything in FROM, as columns that the SELECT may read."""
        found: list[_Subject] = []
        for source in sources(select):
            found.extend(self._source(source))
            if len(found) > SUBJECTS_MAX:
                raise error_for(
                    Code.PLAN_TOO_LARGE, "the query joins too many instances of datasets shared as aggregates"
                )
        return found

    def _source(self, source: exp.Expr) -> list[_Subject]:
        alias = source.alias_or_name
        if is_base(source):
            leaf = self._leaves.get(alias)
            if leaf is None:
                return []
            self.carried.add(alias)
            name = leaf.collection or leaf.dataset
            return [_Subject(name, self._minimums[alias], alias, column(alias, SUBJECT_COLUMN))]
        query = self._lineage.derived.get(alias)
        if query is None:
            return []
        return [replace(item, value=column(alias, item.value.name)) for item in self._outputs(query)]

    def _outputs(self, query: exp.Expr) -> list[_Subject]:
        """Add a column for each subject to a derived query's outputs, and name them."""
        query = unwrap(query)
        if id(query) not in self._done:
            found = self._inside(query)
            names = [f"tg_s{self._names + number}" for number in range(len(found))]
            self._names += len(found)
            self._append(query, dict(zip(_keyed(found), names, strict=True)))
            self._done[id(query)] = [
                replace(item, value=column("", name)) for item, name in zip(found, names, strict=True)
            ]
        return self._done[id(query)]

    def _inside(self, query: exp.Expr) -> list[_Subject]:
        if isinstance(query, exp.Select):
            return self.select(query)
        if not isinstance(query, exp.SetOperation):
            return []
        merged = _keyed(self._inside(unwrap(query.left)))
        for key, subject in _keyed(self._inside(unwrap(query.right))).items():
            held = merged.get(key, subject)
            merged[key] = replace(held, minimum=max(held.minimum, subject.minimum))
        return list(merged.values())

    def _append(self, query: exp.Expr, names: Mapping[_Key, str]) -> None:
        query = unwrap(query)
        if isinstance(query, exp.SetOperation):
            self._append(query.left, names)
            self._append(query.right, names)
        elif isinstance(query, exp.Select):
            own = _keyed(self.select(query))
            for key, name in names.items():
                missing = exp.Cast(this=exp.null(), to=exp.DataType.build("VARCHAR", dialect="duckdb"))
                query.append("expressions", aliased(own[key].value.copy() if key in own else missing, name))


_Key: TypeAlias = tuple[DatasetName, int]


def _keyed(subjects: list[_Subject]) -> dict[_Key, _Subject]:
    """Key subjects by dataset and, for a dataset that stands side by side with itself, by number."""
    found: dict[_Key, _Subject] = {}
    for subject in subjects:
        number = sum(1 for dataset, _ in found if dataset == subject.dataset)
        found[subject.dataset, number] = subject
    return found

"""The values that flow through the planner: what a bound query is, what a fragment is, what a federated plan is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from sqlglot import exp

from tidegate.core.dataset import Dataset
from tidegate.core.names import DatasetName
from tidegate.core.values import Value

Schema = Mapping[DatasetName, Dataset]
"""What the one who asks may know about; a dataset that is not in here does not exist."""


class Role(Enum):
    """How a query uses a column; the words of ``used_as`` in a policy question."""

    OUTPUT = "output"
    PREDICATE = "predicate"
    JOIN = "join"
    GROUP = "group"
    ORDER = "order"
    AGGREGATE = "aggregate"


@dataclass(frozen=True, slots=True)
class Leaf:
    """One instance of a dataset in a query. Two mentions are two leaves.

    Args:
        ref: ``r0``, ``r1`` ... in order of appearance; also the table alias of the instance in ``BoundQuery.tree``.
        columns: every column that the query reads of this instance, with all of its roles.
        collection: the collection that this leaf is a part of, or None.
    """

    ref: str
    dataset: DatasetName
    columns: Mapping[str, frozenset[Role]]
    collection: DatasetName | None = None


@dataclass(frozen=True, slots=True)
class Namespace:
    """Where names of other than two parts are looked for. Grants nothing: what is found is decided on like any other.

    Args:
        exchange: may stand before a department, as SQL's catalog; empty: nothing may.
        department: where a name of one part is looked for; empty: nowhere.
    """

    exchange: str = ""
    department: str = ""


BARE = Namespace()
"""``department.dataset`` alone: what the nodes read."""


@dataclass(frozen=True, slots=True)
class BoundQuery:
    """A query in which every name is resolved and no string of the user's is left.

    ``tree`` holds: base tables only as ``exp.Table(this=<dataset name>, db=<department>, alias=<ref>)``; every column
    qualified by a generated alias; no star, no USING, no NATURAL; aliases and CTE names generated (``a0``, ``t0`` ...);
    the top-level select list aliased ``c0`` ... ``cn``; text literals (and the caller's parameters) as
    ``exp.Parameter(this=exp.Literal.number(i))`` for ``parameters[i - 1]``.

    Args:
        output_names: the names that the caller sees, in order; may repeat.
        shape: the ``query`` object of a policy question.
    """

    tree: exp.Query
    leaves: tuple[Leaf, ...]
    output_names: tuple[str, ...]
    parameters: tuple[Value, ...]
    shape: Mapping[str, Any]

    def leaf(self, ref: str) -> Leaf:
        """Find a leaf by its ref."""
        return next(leaf for leaf in self.leaves if leaf.ref == ref)


@dataclass(frozen=True, slots=True)
class RenderedSql:
    """SQL text of our own making with ``$1`` ... parameters."""

    text: str
    parameters: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Floor:
    """A group is suppressed unless hidden result column ``column`` (int64 count of distinct subjects) is >= ``minimum``."""

    column: int
    minimum: int
    ref: str


@dataclass(frozen=True, slots=True)
class Reduction:
    """A join reduction: of a leaf, only rows whose key another fragment's answer holds can matter to the query.

    The node that is asked drops the other rows if it is given the keys; it may be asked without them, and then the answer is
    larger and as right. Keys disclose rows of the department that they come from: a plan holds a reduction only where that
    department's decision says that its keys may go there (``keys_may_go_to``).

    Args:
        ref, column: the leaf of this fragment, and its column as the caller sees it (after masks).
        sources: the fragments whose answers hold the keys, each with its output column (``c0`` ...); their union is sent.
            More than one when the keys come from a collection in parts.
    """

    ref: str
    column: str
    sources: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Fragment:
    """What one node is asked: SQL over base datasets, before any restriction; the node restricts it itself.

    Args:
        id: ``f0``, ``f1`` ...; also the name of its relation in the final SQL.
        member, node: who is asked.
        sql: over ``department.dataset AS r0`` tables; output columns ``c0`` ... ``cn``.
        refs: instances in it.
        whole: True when the node answers the caller's whole query (and so applies floors itself).
        floors: of this fragment, when ``whole``.
        reductions: keys that make it smaller; each of their sources is a fragment that comes earlier in the plan.
        rows_estimated: from the catalogue's statistics; None when they say nothing.
        pushed, kept: conjuncts, rendered for EXPLAIN, with the reason why one was kept.
        scans: how often the final SQL reads it.
    """

    id: str
    member: str
    node: str
    sql: RenderedSql
    refs: Mapping[str, DatasetName]
    columns: tuple[str, ...]
    whole: bool
    pushed: tuple[str, ...] = ()
    kept: tuple[tuple[str, str], ...] = ()
    scans: int = 1
    floors: tuple[Floor, ...] = ()
    reductions: tuple[Reduction, ...] = ()
    rows_estimated: int | None = None


@dataclass(frozen=True, slots=True)
class FederatedPlan:
    """Fragments and how to join them.

    Args:
        final: SQL over relations ``f0`` ...; None when the one fragment's stream is the answer (relay).
        floors: hidden trailing columns of the final result to check and cut off; empty when a node did it.
        output_names: set on the answer's Arrow schema.
        rows_max: the strictest ``max_rows`` of the leaves' decisions.
        withheld: reductions that policy does not permit, in words for EXPLAIN.
    """

    fragments: tuple[Fragment, ...]
    final: RenderedSql | None
    floors: tuple[Floor, ...]
    output_names: tuple[str, ...]
    rows_max: int
    withheld: tuple[str, ...] = ()

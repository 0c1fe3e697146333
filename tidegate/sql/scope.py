"""What a name can mean at one place of a query: sources, visible columns, aliases; and the state of one binding.

``Context`` is the state of one call of ``bind`` (counters, parameters, leaves); ``Env`` is immutable and says what is in
scope where an expression stands; the binder of queries makes it, the binder of expressions reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from sqlglot import exp

from tidegate.core.dataset import Dataset
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.limits import SQL_PARAMETERS_MAX
from tidegate.core.names import DatasetName
from tidegate.core.values import Value
from tidegate.sql.functions import fold
from tidegate.sql.model import BARE, Namespace, Schema
from tidegate.sql.nodes import aliased, column, parameter, table_alias

BOUND_NODES_MAX = 50_000  # an alias that is used is bound again, so a chain of doubling aliases grows as 2^n
GROWTH_MAX = (
    1_000_000  # product over all repeat and range calls of a query; nested ones multiply, also across sub-queries
)
SUBJECT_COLUMN = "tg_subject"  # the reserved column of a leaf that fragments may read (design policy.md, count_entity)


def not_allowed(what: str) -> TidegateError:
    """Make the error for something that the exchange's SQL does not have; ``what`` is our own word, never the caller's."""
    return error_for(Code.PLAN_NOT_ALLOWED, f"not allowed in a query: {what}")


@dataclass(slots=True)
class Lazy:
    """A derived table whose select list grows with what the query reads of it.

    Used for collections (a UNION ALL of parts) and for parenthesised joins, so that no more is read than is asked for.
    """

    alias: str
    node: exp.Subquery
    finish: Callable[[list[str]], exp.Query]
    wanted: list[str] = field(default_factory=list)

    def want(self, key: str) -> exp.Column:
        """Note that a column is read, and give it as the tree will have it."""
        if key not in self.wanted:
            self.wanted.append(key)
        return column(self.alias, f"c{self.wanted.index(key)}")


@dataclass(frozen=True, slots=True)
class Source:
    """One thing in FROM.

    Args:
        names: what a query may write before the dot: ``("t",)``, or department and dataset, and the exchange before them.
        columns: visible names in order, each with the maker of its column in the tree.
        hidden: columns that can be read by name but are not part of a star (and that the policy may well refuse).
    """

    names: tuple[str, ...]
    columns: tuple[tuple[str, Callable[[], exp.Expr]], ...]
    hidden: Mapping[str, Callable[[], exp.Expr]] = field(default_factory=dict)

    def find(self, name: str) -> list[Callable[[], exp.Expr]]:
        """Find the makers of all columns of a name."""
        wanted = fold(name)
        found = [make for visible, make in self.columns if fold(visible) == wanted]
        return found or self.find_hidden(name)

    def find_hidden(self, name: str) -> list[Callable[[], exp.Expr]]:
        """Find the maker of a hidden column."""
        return [make for hidden, make in self.hidden.items() if fold(hidden) == fold(name)]

    def is_called(self, names: tuple[str, ...]) -> bool:
        """Say whether a qualifier means this source; the last part alone is enough."""
        own = tuple(fold(name) for name in self.names)
        return bool(names) and own[-len(names) :] == tuple(fold(name) for name in names)


@dataclass(frozen=True, slots=True)
class Visible:
    """One column of a star: its name, its maker, and the sources it belongs to (several after USING)."""

    name: str
    make: Callable[[], exp.Expr]
    sources: tuple[Source, ...]


@dataclass(frozen=True, slots=True)
class From:
    """What FROM brings into scope; grows join by join."""

    sources: tuple[Source, ...] = ()
    visible: tuple[Visible, ...] = ()


@dataclass(frozen=True, slots=True)
class Cte:
    """A common table expression in scope: its generated name and its columns' visible names."""

    name: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Item:
    """One output of a SELECT. ``make`` binds it (again at each use: a copy of a sub-query is a new instance)."""

    name: str
    make: Callable[[], exp.Expr]
    alias: str = ""


@dataclass(frozen=True, slots=True)
class Env:
    """What is in scope where an expression stands."""

    names: From
    outer: Env | None
    ctes: Mapping[str, Cte]
    aliases: Mapping[str, Item] = field(default_factory=dict)
    alias_first: bool = False
    grouped: frozenset[str] = frozenset()
    windows: Mapping[str, exp.Window] = field(default_factory=dict)
    lambdas: Mapping[str, str] = field(default_factory=dict)

    def over(self, names: From) -> Env:
        """Give the same scope over other sources."""
        return replace(self, names=names)


@dataclass(frozen=True, slots=True)
class BoundSelect:
    """A bound query and the visible names of its outputs; output i is the column ``c<i>``."""

    query: exp.Query
    names: tuple[str, ...]


@dataclass(slots=True)
class Context:
    """The state of one binding."""

    schema: Schema
    given: Mapping[str, Value]
    fragment: bool
    query: Callable[[exp.Expr, Env], BoundSelect]
    unlisted: Mapping[DatasetName, frozenset[str]] = field(default_factory=dict)
    namespace: Namespace = BARE
    values: list[Value] = field(default_factory=list)
    numbers: dict[tuple[str, str], int] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    leaves: dict[str, tuple[DatasetName, DatasetName | None]] = field(default_factory=dict)
    lazies: list[Lazy] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=dict)
    nodes: int = 0
    growth: int = 1

    def fresh(self, prefix: str) -> str:
        """Give the next generated name of a kind: ``a0``, ``t0``, ``x0``."""
        number = self.counters.get(prefix, 0)
        self.counters[prefix] = number + 1
        return f"{prefix}{number}"

    def count(self) -> None:
        """Count one bound node against the limit."""
        self.nodes += 1
        if self.nodes > BOUND_NODES_MAX:
            raise error_for(Code.PLAN_TOO_LARGE, "the query grows over the limit when its aliases are resolved")

    def grow(self, factor: int) -> None:
        """Count by how much the calls of one query may multiply a value's size, wherever they stand."""
        self.growth *= max(1, factor)
        if self.growth > GROWTH_MAX:
            raise error_for(Code.PLAN_TOO_LARGE, f"repeat, range: together they grow values by more than {GROWTH_MAX}")

    def parameter(self, value: Value) -> exp.Parameter:
        """Give the parameter that carries a value; equal values share one, so that equal expressions stay equal."""
        key = (type(value).__name__, repr(value))
        if key not in self.numbers:
            if len(self.values) >= SQL_PARAMETERS_MAX:
                raise error_for(Code.PLAN_TOO_LARGE, f"parameters and text literals: more than {SQL_PARAMETERS_MAX}")
            self.values.append(value)
            self.numbers[key] = len(self.values)
        return parameter(self.numbers[key])

    def named(self, name: str) -> exp.Parameter:
        """Give the parameter that the caller named (``$name``, ``$1``, ``?``)."""
        if name not in self.given:
            raise error_for(Code.PLAN_PARAMETERS, "parameters: the query names one that was not given")
        self.used.add(name)
        return self.parameter(self.given[name])

    def department(self, written: exp.Expr | None, catalog: exp.Expr | None) -> str:
        """Give the department that a table's name means: the one written, or the namespace's; empty when there is none.

        Raises:
            CallerError: PLAN_UNKNOWN_DATASET for another exchange's name: what it has is not known here.
        """
        if catalog is not None:
            exchange = self.namespace.exchange
            if not (exchange and isinstance(catalog, exp.Identifier) and fold(catalog.name) == fold(exchange)):
                raise error_for(Code.PLAN_UNKNOWN_DATASET)
        return written.name if written is not None else self.namespace.department

    def dataset(self, department: str, name: str) -> tuple[DatasetName, Dataset]:
        """Find a dataset by exact name, else by the only one that differs in ASCII case.

        Raises:
            CallerError: PLAN_UNKNOWN_DATASET, the same for what does not exist and for what must not be known.
        """
        wanted = (fold(department), fold(name))
        found = [key for key in self.schema if (fold(key.department), fold(key.name)) == wanted]
        exact = [key for key in found if (key.department, key.name) == (department, name)]
        chosen = exact or found
        if len(chosen) != 1 or self.schema[chosen[0]].withdrawn:
            raise error_for(Code.PLAN_UNKNOWN_DATASET)
        return chosen[0], self.schema[chosen[0]]

    def lazy(self, finish: Callable[[list[str]], exp.Query]) -> Lazy:
        """Make a derived table whose query is built at the end."""
        alias = self.fresh("a")
        node = exp.Subquery(
            this=exp.Select(expressions=[aliased(exp.Literal.number(1), "c0")]), alias=table_alias(alias)
        )
        lazy = Lazy(alias, node, finish)
        self.lazies.append(lazy)
        return lazy

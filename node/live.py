"""Live PostgreSQL datasets: a fragment is computed in the database where it can be, else over rows that are read from it.

Whole in the database: when all of its leaves lie in one, and every form in it is one that both engines read alike
(``tidegate.sql.postgres_query``). Otherwise each dataset is scanned, as few rows and columns as can be said, and the restricted
fragment runs over them in a worker. Either way the answer is what a DuckDB file of the same rows would give.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from node.postgres import PostgresSource
from node.shapes import Shapes
from node.sources import Sources
from node.values import AdmittedFragment, DecidedFragment
from tidegate import ipc
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.names import DatasetName
from tidegate.core.values import Value
from tidegate.sql import postgres
from tidegate.sql.postgres_query import PostgresQuery, translate
from tidegate.sql.postgres_values import Unsaid
from tidegate.sql.restrict import KEY, KEYS_PREFIX, RestrictedQuery

_KEY_TYPES: Mapping[str, Any] = {
    "integer": pa.types.is_integer,
    "text": pa.types.is_string,
    "date": pa.types.is_date32,
}


@dataclass(frozen=True, slots=True)
class Whole:
    """A fragment that the database computes itself."""

    source: PostgresSource
    query: PostgresQuery
    schema: pa.Schema

    def chunks(self, cancel: threading.Event, deadline_s: float) -> Generator[bytes, None, None]:
        """Ask; the answer as ``tidegate.ipc`` cuts it."""
        return self.source.ask(self.query, self.schema, cancel=cancel, deadline_s=deadline_s)


@dataclass(frozen=True, slots=True)
class Plan:
    """How a fragment with live datasets is computed.

    Args:
        whole: None when the node computes it over rows that it reads.
        words: for the answer's report, dataset by dataset.
    """

    whole: Whole | None
    words: tuple[str, ...]


def plan(decided: DecidedFragment, restricted: RestrictedQuery, sources: Sources, shapes: Shapes) -> Plan:
    """Say how; asks the database nothing but what its server can do, once.

    Raises:
        PeerError: NODE_SOURCE_AWAY; NODE_FRAGMENT, keys that are not what the grant says.
    """
    leaves = decided.admitted.bound.leaves
    live = [name for name in dict.fromkeys(leaf.dataset for leaf in leaves) if name in sources.postgres]
    if not live:
        return Plan(None, ())
    try:
        whole = _whole(decided.admitted, restricted, sources, shapes)
    except Unsaid as reason:
        words = f"live, read from the database and computed at the node ({reason})"
        return Plan(None, tuple(f"{name}: {words}" for name in live))
    return Plan(whole, tuple(f"{name}: live, computed in the database" for name in live))


def _whole(admitted: AdmittedFragment, restricted: RestrictedQuery, sources: Sources, shapes: Shapes) -> Whole:
    found = {leaf.dataset: sources.postgres.get(leaf.dataset) for leaf in admitted.bound.leaves}
    tables = {name: table for name, table in found.items() if table is not None}
    databases = {id(table.source): table.source for table in tables.values()}
    if len(databases) != 1 or len(tables) != len(found):
        raise Unsaid("its datasets do not all lie in one database")
    (source,) = databases.values()
    query = translate(
        restricted,
        admitted.bound,
        {name: table.native for name, table in tables.items()},
        schema=sources.datasets,
        keys={name: _Lazy(admitted, restricted, name) for name in restricted.keys},
        may_make_views=source.facts.may_make_views,
    )
    return Whole(source, query, shapes.of(restricted, [sources.datasets[name] for name in tables]))


class _Lazy:
    """The keys of one relation, read when a translation comes to them."""

    def __init__(self, admitted: AdmittedFragment, restricted: RestrictedQuery, name: str) -> None:
        self._admitted, self._restricted, self._name = admitted, restricted, name

    def __call__(self) -> Sequence[Value]:
        """Give them."""
        return keys(self._admitted, self._restricted, self._name)


def keys(admitted: AdmittedFragment, restricted: RestrictedQuery, name: str) -> Sequence[Value]:
    """Read a key relation, held to what the grant says of it.

    Raises:
        PeerError: NODE_FRAGMENT.
    """
    held = admitted.keys[int(name.removeprefix(KEYS_PREFIX))]
    try:
        schema, batches = ipc.read(iter(held.chunks))
        table = pa.Table.from_batches(list(batches), schema)
    except TidegateError as error:
        raise error_for(Code.NODE_FRAGMENT, "fragment: its keys are not valid", detail=str(error)) from error
    right = table.column_names == [KEY] and table.num_rows == held.granted.count
    if not right or not _KEY_TYPES[restricted.keys[name]](table.schema.field(0).type) or table.column(0).null_count:
        raise error_for(Code.NODE_FRAGMENT, "fragment: its keys are not valid", detail=str(table.schema))
    values: list[Value] = table.column(0).to_pylist()
    return values


def scans(
    decided: DecidedFragment, restricted: RestrictedQuery, sources: Sources, cancel: threading.Event, deadline_s: float
) -> Mapping[str, Iterator[bytes]]:
    """Open a scan for each live dataset of the fragment; it runs when the worker asks for its first chunk."""
    refs: dict[DatasetName, list[str]] = defaultdict(list)
    for leaf in decided.admitted.bound.leaves:
        if leaf.dataset in sources.postgres:
            refs[leaf.dataset].append(leaf.ref)
    return {
        str(name): _scan(decided, restricted, sources, name, found, cancel, deadline_s) for name, found in refs.items()
    }


def _scan(
    decided: DecidedFragment,
    restricted: RestrictedQuery,
    sources: Sources,
    name: DatasetName,
    refs: list[str],
    cancel: threading.Event,
    deadline_s: float,
) -> Iterator[bytes]:
    datasets, table = sources.datasets, sources.postgres[name]
    dataset, bound = datasets[name], decided.admitted.bound
    names = {column for ref in refs for column in restricted.raw[ref]}
    # Nothing is read (count(*)): any one column, so that the worker sees the rows.
    columns = [column for column in dataset.columns if column.name in names] or [dataset.columns[0]]
    # Several instances of one dataset share the scan, and then no instance's own conditions may cut it.
    alone = len(refs) == 1
    conditions = postgres.prefilter(bound, refs[0], decided.decision, schema=datasets) if alone else ()
    query = postgres.scan(
        dataset,
        (table.native.schema, table.native.name),
        [column.name for column in columns],
        conditions,
        bound.parameters,
        natives=table.native.columns,
        keys=_keys_of(decided.admitted, restricted, refs[0]) if alone else {},
    )
    return table.source.scan(query, columns, cancel=cancel, deadline_s=deadline_s)


def _keys_of(admitted: AdmittedFragment, restricted: RestrictedQuery, ref: str) -> Mapping[str, Sequence[Value]]:
    """Give the keys that the restricted fragment uses for a leaf, by column."""
    found: dict[str, Sequence[Value]] = {}
    for name in restricted.keys:
        terms = admitted.keys[int(name.removeprefix(KEYS_PREFIX))].granted.terms
        if terms.ref == ref:
            found[terms.column] = keys(admitted, restricted, name)
    return found

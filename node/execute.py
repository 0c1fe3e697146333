"""Restrict the fragment by the intersected decision, and execute it in a locked-down worker.

Restricting is the node's own, from the bound tree: the broker's text is never run. What is rendered is parsed once more by
DuckDB's own parser and held to the second allow-list, as in the broker. Rows of PostgreSQL come as a superset, scanned by the
serving process with raw columns, and the whole restricted fragment runs over them in the worker.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from engine import floors
from engine.pool import WorkerPool
from engine.spec import Job
from node.answer import Answer
from node.keys import KeyStore
from node.sources import PostgresTable, Sources
from node.values import AdmittedFragment, DecidedFragment, RecordedFragment
from tidegate import ipc
from tidegate.core.clock import Clock
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.limits import LEAF_BYTES_MAX, LEAF_ROWS_MAX
from tidegate.core.names import DatasetName
from tidegate.sql import postgres, wall
from tidegate.sql.restrict import RestrictedQuery, restrict

_TRANSLATED = {Code.JOIN_FAILED: Code.NODE_EXECUTE, Code.JOIN_LIMIT: Code.FETCH_LIMIT}
"""The engine's codes are those of a join; at a node they mean the department's part."""


@dataclass(frozen=True, slots=True)
class PreparedFragment:
    """A decided fragment in its restricted form, passed by both walls; nothing was executed yet."""

    decided: DecidedFragment
    restricted: RestrictedQuery


class Execute:
    """The last step. Thread-safe."""

    def __init__(self, *, pool: WorkerPool, sources: Callable[[], Sources], keys: KeyStore, clock: Clock) -> None:
        self._pool = pool
        self._sources = sources
        self._keys = keys
        self._clock = clock

    def prepare(self, decided: DecidedFragment) -> PreparedFragment:
        """Restrict the fragment. Pure; runs before the record, so that only what will be executed is recorded.

        Raises:
            Refused: POLICY_REFUSED, POLICY_STRUCTURE. PeerError: NODE_FRAGMENT.
        """
        admitted = decided.admitted
        restricted = restrict(
            admitted.bound,
            decided.decision,
            self._keys.for_recipient(str(admitted.grant.caller["member"])),
            schema=self._sources().datasets,
            subject_key=_subject_key(admitted.grant.subject_key),
        )
        try:
            wall.check(restricted.query, restricted.tables)
        except TidegateError as error:
            raise error_for(Code.NODE_FRAGMENT, "fragment: this node does not accept it", detail=str(error)) from error
        return PreparedFragment(decided, restricted)

    def execute(self, prepared: PreparedFragment, recorded: RecordedFragment, deadline_s: float) -> Answer:
        """Start the query; gives the answer as a stream.

        Raises:
            PeerError: NODE_EXECUTE. CallerError: FETCH_LIMIT, QUERY_DEADLINE, QUERY_CANCELLED. Overloaded: BUSY.
        """
        started_s = self._clock.monotonic_s()
        admitted = recorded.decided.admitted
        offer, restricted = admitted.offer, prepared.restricted
        rows_max = min(
            [offer.rows_max, *(item.constraints.max_rows for item in recorded.decided.decision.resources.values())]
        )
        job = Job(
            setup=restricted.setup,
            sql=restricted.query,
            inputs=self._inputs(prepared, offer.cancel, deadline_s),
            # One more than the limit: whether an answer is too large is said by `Answer`, in the department's words. Before
            # small groups are dropped no limit of the broker's counts: whether it was passed would tell of those groups.
            rows_max=rows_max + 1 if not restricted.floors else LEAF_ROWS_MAX,
            bytes_max=offer.bytes_max if not restricted.floors else LEAF_BYTES_MAX,
        )
        try:
            result = self._pool.run(job, deadline_s=deadline_s, cancel=offer.cancel, owner=_owner(admitted))
        except TidegateError as error:
            raise _translated(error) from error
        chunks, suppressed = _floored(_reworded(result.chunks), restricted)
        return Answer(
            chunks,
            fragment_id=offer.id,
            grant_id=admitted.grant.id,
            entry_index=recorded.index,
            rows_max=rows_max,
            bytes_max=offer.bytes_max,
            suppressed=suppressed,
            close=result.close,
            clock=self._clock,
            started_s=started_s,
            rules=_rules(prepared),
        )

    def _inputs(
        self, prepared: PreparedFragment, cancel: threading.Event, deadline_s: float
    ) -> Mapping[str, Iterator[bytes]]:
        """Open a scan for each PostgreSQL dataset of the fragment; it runs when the worker asks for its first chunk."""
        sources = self._sources()
        refs: dict[DatasetName, list[str]] = defaultdict(list)
        for leaf in prepared.decided.admitted.bound.leaves:
            if leaf.dataset in sources.postgres:
                refs[leaf.dataset].append(leaf.ref)
        return {
            str(name): self._scan(prepared, name, sources.postgres[name], found, cancel, deadline_s)
            for name, found in refs.items()
        }

    def _scan(
        self,
        prepared: PreparedFragment,
        name: DatasetName,
        table: PostgresTable,
        refs: list[str],
        cancel: threading.Event,
        deadline_s: float,
    ) -> Iterator[bytes]:
        datasets = self._sources().datasets
        dataset, bound = datasets[name], prepared.decided.admitted.bound
        names = {column for ref in refs for column in prepared.restricted.raw[ref]}
        # Nothing is read (count(*)): any one column, so that the worker sees the rows.
        columns = [column for column in dataset.columns if column.name in names] or [dataset.columns[0]]
        # Several instances of one dataset share the scan, and then no instance's own conditions may cut it.
        conditions = (
            postgres.prefilter(bound, refs[0], prepared.decided.decision, schema=datasets) if len(refs) == 1 else ()
        )
        query = postgres.scan(
            dataset, (table.schema, table.table), [column.name for column in columns], conditions, bound.parameters
        )
        return table.source.scan(query, columns, cancel=cancel, deadline_s=deadline_s)


def _subject_key(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise error_for(Code.NODE_GRANT, "grant: its subject key is not hexadecimal") from error


def _floored(chunks: Iterator[bytes], restricted: RestrictedQuery) -> tuple[Iterator[bytes], Callable[[], int]]:
    """Drop small groups and cut the hidden columns, where this node answers the whole query in mode aggregate."""
    if not restricted.floors:
        return chunks, lambda: 0
    schema, batches = ipc.read(chunks)
    visible, kept, counter = floors.apply(schema, batches, restricted.floors)
    return ipc.cut(visible, kept), lambda: counter.groups


def _reworded(chunks: Iterator[bytes]) -> Iterator[bytes]:
    try:
        yield from chunks
    except TidegateError as error:
        raise _translated(error) from error


def _translated(error: TidegateError) -> TidegateError:
    code = _TRANSLATED.get(error.code)
    return error if code is None else error_for(code, detail=f"{error} {error.detail}")


def _rules(prepared: PreparedFragment) -> tuple[str, ...]:
    """Say what was done to the data, dataset by dataset, in words without values."""
    refs = {leaf.ref: leaf.dataset for leaf in prepared.decided.admitted.bound.leaves}
    found = [
        f"{refs[ref]}: {rule}" for ref, rules in prepared.restricted.rules.items() for rule in rules if ref in refs
    ]
    return tuple(dict.fromkeys(found))


def _owner(admitted: AdmittedFragment) -> str:
    """Give the member for whom a worker computes: no member holds every one of them."""
    return str(admitted.grant.caller.get("member", ""))

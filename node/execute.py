"""Restrict the fragment by the intersected decision, and execute it in a locked-down worker.

Restricting is the node's own, from the bound tree: the broker's text is never run. What is rendered is parsed once more by
DuckDB's own parser and held to the second allow-list, as in the broker. Rows of PostgreSQL come as a superset, scanned by the
serving process with raw columns, and the whole restricted fragment runs over them in the worker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from engine import floors
from engine.pool import Result, WorkerPool
from engine.spec import Job, KeyShape
from node import live
from node.answer import Answer
from node.keys import KeyStore
from node.lookup import LookupForm, Lookups
from node.prepared import Prepared
from node.shapes import Shapes
from node.snapshots import Reading
from node.sources import Sources
from node.values import AdmittedFragment, DecidedFragment, RecordedFragment
from policies.memory import decision_content
from tidegate import ipc
from tidegate.core.clock import Clock
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.limits import LEAF_BYTES_MAX, LEAF_ROWS_MAX
from tidegate.sql import wall
from tidegate.sql.restrict import KEYS_PREFIX, KeyRelation, RestrictedQuery, restrict
from tidegate.sql.structure import structure_error

_TRANSLATED = {Code.JOIN_FAILED: Code.NODE_EXECUTE, Code.JOIN_LIMIT: Code.FETCH_LIMIT}
"""The engine's codes are those of a join; at a node they mean the department's part."""
_RUNS_MAX = 3
_RETRY_AFTER_S = 1.0


@dataclass(frozen=True, slots=True)
class PreparedFragment:
    """A decided fragment in its restricted form, passed by both walls; nothing was executed yet.

    Args:
        lookup: how it may be run together with others that wait for the same form.
        ages: how old the snapshots are that it would read now, for the node's record; they can only become younger.
    """

    decided: DecidedFragment
    restricted: RestrictedQuery
    ages: tuple[str, ...] = ()
    lookup: LookupForm | None = None


class Execute:
    """The last step. Thread-safe."""

    def __init__(
        self,
        *,
        pool: WorkerPool,
        sources: Callable[[], Sources],
        keys: KeyStore,
        clock: Clock,
        prepared: Prepared | None = None,
    ) -> None:
        self._pool = pool
        self._prepared = prepared or Prepared()
        self._lookups = Lookups(pool, clock)
        self._sources = sources
        self._keys = keys
        self._clock = clock
        self._shapes = Shapes()

    def lookups(self) -> tuple[int, int]:
        """Give how many statements of look-ups were run, and how many fragments they answered."""
        return self._lookups.statements, self._lookups.answers

    def prepare(self, decided: DecidedFragment) -> PreparedFragment:
        """Restrict the fragment. Pure; runs before the record, so that only what will be executed is recorded.

        Raises:
            Refused: POLICY_REFUSED, POLICY_STRUCTURE. PeerError: NODE_FRAGMENT; NODE_STALE, a snapshot is past its promise.
        """
        ages = self._reading(decided).words()
        restricted, form = self._restricted(decided)
        if restricted.floors and not decided.admitted.grant.whole:
            # What the broker makes of a part would be silently too small if this node left groups out of it.
            raise structure_error(
                "part_of_groups",
                "this department shares the data as aggregates only, and was asked for a part of a larger query",
                "a query over this department's data alone, or an agreement in mode rows",
                "the steward of the department",
            )
        return PreparedFragment(decided, restricted, ages, form)

    def _reading(self, decided: DecidedFragment) -> Reading:
        """Look at the snapshots that a fragment reads; refuses when one is too old."""
        held = self._sources().snapshots
        names = dict.fromkeys(leaf.dataset for leaf in decided.admitted.bound.leaves)
        return Reading(held[name] for name in names if name in held)

    def _restricted(self, decided: DecidedFragment) -> tuple[RestrictedQuery, LookupForm | None]:
        admitted = decided.admitted
        bound, recipient, content = admitted.bound, _owner(admitted), decision_content(decided.decision)
        kept = self._prepared.restricted(bound, content, recipient) if not admitted.keys else None
        if kept is not None:
            return kept.fill(bound), kept.lookup
        restricted = restrict(
            bound,
            decided.decision,
            self._keys.for_recipient(recipient),
            schema=self._sources().datasets,
            subject_key=_subject_key(admitted.grant.subject_key),
            reductions=[
                KeyRelation(item.granted.terms.ref, item.granted.terms.column, f"{KEYS_PREFIX}{place}")
                for place, item in enumerate(admitted.keys)
            ],
        )
        try:
            wall.check(restricted.query, restricted.tables)
        except TidegateError as error:
            raise error_for(Code.NODE_FRAGMENT, "fragment: this node does not accept it", detail=str(error)) from error
        if not admitted.keys:  # what came with the fragment is part of its form, and of this one alone
            kept = self._prepared.keep_restricted(bound, decided.decision, content, recipient, restricted)
        return restricted, kept.lookup if kept is not None else None

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
        planned = live.plan(recorded.decided, restricted, self._sources(), self._shapes)
        said = planned.words
        chunks: Iterator[bytes]
        together = self._together(prepared, deadline_s)
        if together is not None:
            chunks, close = iter(together), _nothing
        elif planned.whole is not None:
            whole = planned.whole.chunks(offer.cancel, deadline_s)
            chunks, close = whole, whole.close
        else:
            result, ages = self._run(prepared, rows_max, deadline_s)
            chunks, close, said = _reworded(result.chunks), result.close, (*said, *ages)
        shown, suppressed = _floored(chunks, restricted)
        return Answer(
            shown,
            fragment_id=offer.id,
            grant_id=admitted.grant.id,
            entry_index=recorded.index,
            rows_max=rows_max,
            bytes_max=offer.bytes_max,
            suppressed=suppressed,
            close=close,
            clock=self._clock,
            started_s=started_s,
            rules=(*_rules(prepared), *said),
            keys_may_go_to=recorded.decided.keys_may_go_to,
        )

    def _together(self, prepared: PreparedFragment, deadline_s: float) -> list[bytes] | None:
        """Run a look-up over files together with those who wait for the same form; None: it runs alone."""
        form, parameters, sources = prepared.lookup, prepared.restricted.query.parameters, self._sources()
        names = [leaf.dataset for leaf in prepared.decided.admitted.bound.leaves]
        if form is None or any(name in sources.postgres or name in sources.snapshots for name in names):
            return None
        return self._lookups.run(form, parameters[0], deadline_s) if form.fits(parameters[0]) else None

    def _run(self, prepared: PreparedFragment, rows_max: int, deadline_s: float) -> tuple[Result, tuple[str, ...]]:
        """Run it in a worker; gives how old the snapshots are that the worker read, besides.

        Which copy a worker holds is known only where none was replaced while it was chosen: else the run is begun anew.
        """
        until_s = self._clock.monotonic_s() + deadline_s
        admitted = prepared.decided.admitted
        for _ in range(_RUNS_MAX):
            reading = self._reading(prepared.decided)
            left_s = until_s - self._clock.monotonic_s()
            job = self._job(prepared, rows_max, left_s)
            try:
                result = self._pool.run(job, deadline_s=left_s, cancel=admitted.offer.cancel, owner=_owner(admitted))
            except TidegateError as error:
                raise _translated(error) from error
            if reading.settled():
                return result, reading.words()
            result.close()
        raise error_for(Code.BUSY, "the department's copies are being replaced", retry_after_s=_RETRY_AFTER_S)

    def _job(self, prepared: PreparedFragment, rows_max: int, deadline_s: float) -> Job:
        decided, restricted = prepared.decided, prepared.restricted
        offer = decided.admitted.offer
        keys, shapes = _keys(decided.admitted, restricted)
        return Job(
            setup=restricted.setup,
            sql=restricted.query,
            inputs={**keys, **live.scans(decided, restricted, self._sources(), offer.cancel, deadline_s)},
            keys=shapes,
            # One more than the limit: whether an answer is too large is said by `Answer`, in the department's words. Before
            # small groups are dropped no limit of the broker's counts: whether it was passed would tell of those groups.
            rows_max=rows_max + 1 if not restricted.floors else LEAF_ROWS_MAX,
            bytes_max=offer.bytes_max if not restricted.floors else LEAF_BYTES_MAX,
        )


def _keys(
    admitted: AdmittedFragment, restricted: RestrictedQuery
) -> tuple[dict[str, Iterator[bytes]], dict[str, KeyShape]]:
    """Give the key relations that the restricted query reads, as inputs of its worker, and what each must be."""
    inputs: dict[str, Iterator[bytes]] = {}
    shapes: dict[str, KeyShape] = {}
    for place, item in enumerate(admitted.keys):
        name = f"{KEYS_PREFIX}{place}"
        if name in restricted.keys:
            inputs[name] = iter(item.chunks)
            shapes[name] = KeyShape(restricted.keys[name], item.granted.count)
    return inputs, shapes


def _nothing() -> None:
    """Close an answer that holds no worker."""


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
    if error.code is Code.FETCH_INVALID_DATA and error.message.startswith(KEYS_PREFIX):
        return error_for(Code.NODE_FRAGMENT, "fragment: its keys are not valid", detail=f"{error} {error.detail}")
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

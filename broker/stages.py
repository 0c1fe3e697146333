"""Fragments of one plan in stages: what needs no keys is asked at once, the rest as soon as its sources have answered.

Nothing waits here but whoever reads: the threads that carry answers into the join gather the keys of a source as its chunks
pass, and the one that carries the last missing chunk sends the fragments that waited for it. Keys never hold up an answer:
where there are none to use (too many, a type without a safe comparison, a department's node that does not permit them), the
fragment goes without, and its answer is larger and as right. The streams must be read side by side: one that is held back
until another was read could be the one whose keys that other waits for (``broker.join`` sees to it).
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from broker.attachments import WAIT_SLICE_S, Attachment, PendingFragment
from broker.keys import Distinct, Packed, SentKeys, destination, given, origin, pack
from broker.values import FragmentReport, FragmentStream, KeysGiven, RecordedPlan
from tidegate import ipc
from tidegate.core.clock import Clock
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.grant import KeyTerms
from tidegate.core.limits import ENTRY_BYTES_MAX, KEYS_BYTES_MAX, KEYS_MAX
from tidegate.sql.model import Fragment

OUTCOME_BYTES = 1_400  # of an outcome entry, beside what it says of fragments and of keys
LEAF_BYTES = 64  # of what it says of one fragment: its name and two counts
NODE_BYTES_MAX = (
    3_000  # of what one fragment's node says of keys in its own entry, which names datasets and agreements too
)

Send = Callable[[Fragment, tuple[SentKeys, ...], FragmentReport], tuple[Attachment, PendingFragment]]


@dataclass(slots=True)
class _Part:
    """One fragment on its way. Guarded by ``Stages._changed`` but for ``wanted``, which the stream's reader owns."""

    fragment: Fragment
    report: FragmentReport
    terms: tuple[KeyTerms, ...]
    waits_for: set[str]
    wanted: dict[str, Distinct] = field(default_factory=dict)
    resolved: bool = False
    reduced_by: set[str] = field(default_factory=set)
    sent: tuple[Attachment, PendingFragment] | None = None
    failure: TidegateError | None = None
    ended: bool = False


class Stages:
    """The fragments of one recorded plan. ``start`` and ``close`` once each; each stream is read by one thread.

    Args:
        send: makes the grant and gives the fragment to its node.
    """

    def __init__(
        self, recorded_plan: RecordedPlan, reductions: dict[str, tuple[KeyTerms, ...]], send: Send, clock: Clock
    ) -> None:
        self._request = recorded_plan.request
        self._decision = recorded_plan.restricted.decided.decision
        self._send = send
        self._clock = clock
        self._changed = threading.Condition()
        self._closed = False  # guarded by _changed
        fragments = recorded_plan.restricted.federated.fragments
        self._record_left = ENTRY_BYTES_MAX - OUTCOME_BYTES - LEAF_BYTES * len(fragments)  # guarded by _changed
        self._record_named: set[tuple[tuple[str, str, int], ...]] = set()  # sources with a line; guarded by _changed
        self._packing = threading.Lock()
        self._packed: dict[
            tuple[tuple[str, str], ...], Packed | None
        ] = {}  # guarded by _packing, as all ``values()`` are
        self._parts: dict[str, _Part] = {}
        for fragment in fragments:
            waits_for = {source for item in fragment.reductions for source, _ in item.sources}
            report = FragmentReport(fragment.id, fragment.member, fragment.node)
            self._parts[fragment.id] = _Part(fragment, report, reductions[fragment.id], waits_for)
            for item in fragment.reductions:
                for source, name in item.sources:
                    self._parts[source].wanted.setdefault(name, Distinct())

    def start(self) -> dict[str, FragmentStream]:
        """Ask for what needs no keys; give the streams of all.

        Raises:
            PeerError: FETCH_NODE_AWAY. CallerError: QUERY_DEADLINE.
        """
        for part in self._parts.values():
            if not part.waits_for:
                self._ask(part, ())
        return {name: FragmentStream(name, self._read(part), part.report) for name, part in self._parts.items()}

    def close(self) -> None:
        """End everything: wake who waits, tell the nodes to stop, and let no further fragment go."""
        with self._changed:
            self._closed = True
            sent = [(part.sent, part.ended) for part in self._parts.values() if part.sent is not None]
            self._changed.notify_all()
        for (attachment, pending), ended in sent:
            attachment.done(pending.order.id, cancel=not ended)

    # -- sending ------------------------------------------------------------------------------------------------------

    def _ask(self, part: _Part, keys: tuple[SentKeys, ...]) -> None:
        self._refuse_if_closed()
        attachment, pending = sent = self._send(part.fragment, keys, part.report)
        with self._changed:
            part.sent = sent
            self._changed.notify_all()
        try:
            self._refuse_if_closed()
        except TidegateError:  # while the grant was made: nobody will read it
            attachment.done(pending.order.id, cancel=True)
            raise

    def _refuse_if_closed(self) -> None:
        with self._changed:
            if self._closed:
                raise error_for(Code.QUERY_CANCELLED)

    def _resolve(self, source: _Part, failure: TidegateError | None = None) -> None:
        """Note that a source has said what it will say of keys, and ask the fragments that waited for it alone."""
        ready = []
        with self._changed:
            if source.resolved:
                return
            source.resolved = True
            for part in self._parts.values():
                if source.fragment.id not in part.waits_for:
                    continue
                part.waits_for.discard(source.fragment.id)
                if failure is not None and part.failure is None:
                    part.failure = failure
                elif not part.waits_for and part.failure is None and not self._closed:
                    ready.append(part)
            self._changed.notify_all()
        for part in ready:
            try:
                self._ask(part, self._keys(part))
            except TidegateError as error:
                part.report.keys_given = ()  # set before they could go, so that the record never says too little
                self._fail(part, error)

    def _fail(self, part: _Part, error: TidegateError) -> None:
        with self._changed:
            part.failure = error
            self._changed.notify_all()
        if part.wanted:
            self._resolve(part, error)

    def _keys(self, part: _Part) -> tuple[SentKeys, ...]:
        """Make the batches of a fragment whose sources are all resolved, as many as policy and limits let go."""
        found: list[SentKeys] = []
        if not self._by_rows(part):
            return ()
        count, size, said = 0, 0, 0
        for place, (terms, item) in enumerate(zip(part.terms, part.fragment.reductions, strict=True)):
            sources = [self._parts[source] for source, _ in item.sources]
            if not all(self._may_go(source, part.fragment.member) for source in sources):
                continue
            packed = self._pack(item.sources)
            if packed is None:
                continue
            made = packed.sent(place, terms)
            if count + packed.count > KEYS_MAX or size + made.size_bytes > KEYS_BYTES_MAX:
                continue
            (item_given,) = given(part.fragment, (made,))
            line = _bytes(origin(item_given.sources)) + _bytes(self._destination(part, item_given))
            if said + line > NODE_BYTES_MAX or not self._recordable(part, item_given):
                continue
            count, size, said = count + made.granted.count, size + made.size_bytes, said + line
            part.reduced_by |= {source.fragment.id for source in sources}
            found.append(made)
        part.report.keys_given = given(part.fragment, found)
        return tuple(found)

    def _pack(self, sources: tuple[tuple[str, str], ...]) -> Packed | None:
        """Pack the keys of sources, once for all fragments that are given the same."""
        with self._packing:
            if sources not in self._packed:
                self._packed[sources] = pack([self._parts[source].wanted[name].values() for source, name in sources])
            return self._packed[sources]

    def _recordable(self, part: _Part, item: KeysGiven) -> bool:
        """Take room in the outcome entry; keys that it cannot name do not go."""
        needed = _bytes(self._destination(part, item))
        with self._changed:
            if item.sources not in self._record_named:
                needed += _bytes(origin(item.sources))
            if needed > self._record_left:
                return False
            self._record_left -= needed
            self._record_named.add(item.sources)
            return True

    def _destination(self, part: _Part, item: KeysGiven) -> dict[str, str]:
        return destination(part.fragment.id, part.fragment.member, item)

    def _may_go(self, source: _Part, member: str) -> bool:
        """Say whether keys of an answer may go to a member: its broker's and its node's decision, and those of every
        answer that made it smaller (its keys show theirs).
        """
        refs = source.fragment.refs
        if not self._by_rows(source):
            return False
        if source.fragment.member != member and not (
            self._decision.keys_may_go(refs, member) and member in source.report.keys_may_go_to
        ):
            return False
        return all(self._may_go(self._parts[other], member) for other in source.reduced_by)

    def _by_rows(self, part: _Part) -> bool:
        """Say whether all that a fragment reads is shared row by row: only there keys come from, and only there they go."""
        return all(self._decision.resources[ref].constraints.mode == "rows" for ref in part.fragment.refs)

    # -- reading ------------------------------------------------------------------------------------------------------

    def _read(self, part: _Part) -> Iterator[bytes]:
        """Give a fragment's chunks, once it was asked; gather the keys that others wait for."""
        try:
            _, pending = self._await(part)
            chunks = pending.chunks(self._request.deadline, self._request.cancel)
            yield from self._gathered(part, chunks) if part.wanted else chunks
            part.ended = True
            if part.wanted:
                self._resolve(part)
        except TidegateError as error:
            self._fail(part, error)
            raise
        finally:
            if part.wanted:  # given up in the middle: whoever waits for its keys waits in vain
                self._resolve(part, error_for(Code.QUERY_CANCELLED))

    def _await(self, part: _Part) -> tuple[Attachment, PendingFragment]:
        request = self._request
        with self._changed:
            while part.sent is None:
                if part.failure is not None:
                    raise part.failure
                if self._closed or request.cancel.is_set():
                    raise error_for(Code.QUERY_CANCELLED)
                left = request.deadline - self._clock.monotonic_s()
                if left <= 0:
                    raise error_for(Code.QUERY_DEADLINE)
                self._changed.wait(min(left, WAIT_SLICE_S))
            return part.sent

    def _gathered(self, part: _Part, chunks: Iterator[bytes]) -> Iterator[bytes]:
        seen: deque[bytes] = deque()

        def taken() -> Iterator[bytes]:
            for chunk in chunks:
                seen.append(chunk)
                yield chunk

        feed = taken()
        try:
            schema, batches = ipc.read(feed)
            places = _places(schema.names, part)
            for name, place in places.items():
                part.wanted[name].begin(schema.field(place).type)
            yield seen.popleft()
            for found in batches:
                while seen:
                    yield seen.popleft()  # to the join first: it has the longer way to go
                for name, place in places.items():
                    part.wanted[name].add(found.column(place))
                if not any(distinct.usable for distinct in part.wanted.values()):
                    self._resolve(part)  # there will be none: nobody has to wait for the rest
            if seen or next(feed, None) is not None:
                raise error_for(Code.FETCH_INVALID_DATA, detail="Arrow stream: bytes after the last batch")
        except TidegateError as error:
            if error.code is not Code.FETCH_INVALID_DATA or error.message.startswith(f"{part.report.member}: "):
                raise
            message = f"{part.report.member}: the answer of its node is not valid"
            raise error_for(error.code, message, detail=f"{error} {error.detail}") from error


def _bytes(said: Mapping[str, object]) -> int:
    """Give the bytes that a part of a line takes in an entry, with what joins it to the rest."""
    return len(json.dumps(said, ensure_ascii=False).encode()) + len(', "to": []')


def _places(names: Sequence[str], part: _Part) -> dict[str, int]:
    found = {name: place for place, name in enumerate(names) if name in part.wanted}
    if set(found) != set(part.wanted):
        raise error_for(Code.FETCH_INVALID_DATA, detail="an answer without a column that was asked for")
    return found

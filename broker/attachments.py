"""The nodes that are attached now, and the conversation with each: fragments down, answers up.

A node is found by (member, name). The newest attachment of a node replaces an older one. A pending fragment is a bounded
queue between the thread that hears the node and the thread that joins: a slow reader slows its node, nobody else.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from broker.keys import SentKeys
from broker.values import FragmentReport
from tidegate.core.canonical import canonical
from tidegate.core.clock import Clock
from tidegate.core.dataset import Dataset
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.grant import KeyTerms
from tidegate.core.names import SpiffeId

QUEUE_CHUNKS_MAX = 8  # chunks of at most 4 MiB that wait for a fragment's reader; more only hide a slow reader
WAIT_SLICE_S = 0.25  # how often a waiting thread looks at cancel and deadline
COUNT_MAX = (1 << 53) - 1  # of what a node counts: the largest number that every JSON reader keeps exact


@dataclass(frozen=True, slots=True)
class TrailerFacts:
    """What a node says at the end of an answer; the signature covers canonical {digest, fragment_id, grant_id, rows}."""

    rows: int
    size_bytes: int
    digest: str
    signature: bytes
    suppressed_groups: int
    entry_index: int
    elapsed_s: float
    rules: tuple[str, ...] = ()
    keys_may_go_to: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FragmentOrder:
    """What is sent to the node: the wire module turns it into the message."""

    id: str
    grant_id: str
    grant: bytes
    signature: bytes
    chain_pem: bytes
    sql: str
    parameters_json: str
    deadline_s: float
    rows_max: int
    bytes_max: int
    reductions: tuple[KeyTerms, ...] = ()
    keys: tuple[SentKeys, ...] = ()
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class AgreementOrder:
    """A signed agreement, or its revocation, for the owner's node."""

    agreement_id: str
    agreement_json: str
    signature: bytes
    chain_pem: bytes
    revocation_json: str = ""


@dataclass(frozen=True, slots=True)
class CancelOrder:
    """Stop working on a fragment."""

    fragment_id: str


@dataclass(frozen=True, slots=True)
class DescribeOrder:
    """Say again what you hold."""


@dataclass(frozen=True, slots=True)
class DrainOrder:
    """The broker is going."""

    reconnect_after_s: float


Order = FragmentOrder | AgreementOrder | CancelOrder | DescribeOrder | DrainOrder

_END = None


class PendingFragment:
    """One fragment that a node works on. Written by the wire's threads, read once by the join's."""

    def __init__(
        self, order: FragmentOrder, report: FragmentReport, verify: Callable[[bytes, bytes], bool], clock: Clock
    ) -> None:
        self.order = order
        self.report = report
        self._verify = verify
        self._clock = clock
        self._started = clock.monotonic_s()
        self._items: deque[bytes | TidegateError | None] = deque()
        self._changed = threading.Condition()
        self._schema_seen = False
        self._over = False  # guarded by _changed: finished or failed, so that whatever still comes is dropped
        self._closed = threading.Event()

    @property
    def is_closed(self) -> bool:
        """True when nobody reads any more."""
        return self._closed.is_set()

    def put(self, chunk: bytes) -> None:
        """Take the next chunk; waits while the reader is slow, at most until the deadline.

        Dropped once nobody reads or the answer is over; past the byte limit it ends with FETCH_LIMIT.
        """
        if not self._over and self._counted(chunk):
            self._push((chunk,), wait=True)

    def take(self, chunks: Sequence[bytes], trailer: TrailerFacts) -> None:
        """Take a small answer, which rides the stream that all others share: its reader wakes once, and finds all of it."""
        if not self._over and all(map(self._counted, chunks)) and self._checked(trailer):
            self._push((*chunks, _END), wait=False)

    def _counted(self, chunk: bytes) -> bool:
        """Count and hash a chunk; False when the answer ended with it."""
        if self._schema_seen:
            self.report.bytes += len(chunk)
            if self.report.first_row_s == 0.0:
                self.report.first_row_s = self._clock.monotonic_s() - self._started
        self._schema_seen = True
        if self.report.bytes > self.order.bytes_max:
            self.fail(
                error_for(Code.FETCH_LIMIT, f"{self.report.member}: its part of the answer is larger than the limit")
            )
            return False
        self.report.digest.update(chunk)
        return True

    def finish(self, trailer: TrailerFacts) -> None:
        """Check the trailer against what was received; a wrong digest or signature is the end of the query."""
        if not self._over and self._checked(trailer):
            self._push((_END,), wait=False)

    def _checked(self, trailer: TrailerFacts) -> bool:
        if not all(0 <= count <= COUNT_MAX for count in (trailer.rows, trailer.suppressed_groups, trailer.entry_index)):
            self.fail(error_for(Code.FETCH_INVALID_DATA, f"{self.report.member}: its node's counts are not valid"))
            return False
        signed = canonical(
            {
                "digest": trailer.digest,
                "fragment_id": self.order.id,
                "grant_id": self.order.grant_id,
                "rows": trailer.rows,
            }
        )
        if trailer.digest != self.report.digest.hexdigest() or not self._verify(signed, trailer.signature):
            self.fail(
                error_for(Code.FETCH_INVALID_DATA, f"{self.report.member}: the answer is not what its node signed")
            )
            return False
        self.report.rows = trailer.rows
        self.report.suppressed = trailer.suppressed_groups
        self.report.entry_index = trailer.entry_index
        self.report.rules = trailer.rules
        self.report.keys_may_go_to = trailer.keys_may_go_to
        self.report.elapsed_s = self._clock.monotonic_s() - self._started
        self.report.is_whole = True
        return True

    def fail(self, error: TidegateError) -> None:
        """End the stream with an error, at once: what is still queued is thrown away. What is over stays as it ended."""
        with self._changed:
            if self._over:
                return
            self._over = True
            self._items.clear()
            self._items.append(error)
            self._changed.notify_all()

    def close(self) -> None:
        """Say that nobody reads any more."""
        self._closed.set()
        with self._changed:
            self._items.clear()
            self._changed.notify_all()

    def _push(self, items: Sequence[bytes | None], *, wait: bool) -> None:
        with self._changed:
            while wait and len(self._items) >= QUEUE_CHUNKS_MAX and not self._closed.is_set() and not self._over:
                left = self._started + self.order.deadline_s - self._clock.monotonic_s()
                if left <= 0:  # a caller who does not read must not hold a thread of the nodes' listener for ever
                    self.fail(error_for(Code.QUERY_DEADLINE, f"{self.report.member}: its answer was not read in time"))
                    return
                self._changed.wait(left)
            if not self._closed.is_set() and not self._over:
                self._over = items[-1] is _END
                self._items.extend(items)
                self._changed.notify_all()

    def chunks(self, deadline: float, cancel: threading.Event) -> Iterator[bytes]:
        """Read the chunks, schema first.

        Raises:
            CallerError: QUERY_DEADLINE, QUERY_CANCELLED.
            TidegateError: whatever ``fail`` was given.
        """
        while True:
            if cancel.is_set():
                raise error_for(Code.QUERY_CANCELLED)
            left = deadline - self._clock.monotonic_s()
            if left <= 0:
                raise error_for(Code.QUERY_DEADLINE, f"{self.report.member}: did not answer before the deadline")
            with self._changed:
                if not self._items and not self._closed.is_set():
                    self._changed.wait(min(left, WAIT_SLICE_S))
                if self._closed.is_set():  # the query is over: whoever still waits here is let go
                    raise error_for(Code.QUERY_CANCELLED)
                if not self._items:
                    continue
                item = self._items.popleft()
                self._changed.notify_all()
            if item is _END:
                return
            if isinstance(item, TidegateError):
                raise item
            yield item


@dataclass(eq=False)
class Attachment:
    """One attached node. The wire module owns the stream; this object owns what is pending on it."""

    identity: SpiffeId
    session: str
    features: tuple[str, ...]
    verify: Callable[[bytes, bytes], bool]
    orders: queue.SimpleQueue[Order | None] = field(default_factory=queue.SimpleQueue)
    described: tuple[Dataset, ...] = ()
    _pending: dict[str, PendingFragment] = field(default_factory=dict)
    _acks: dict[str, threading.Event] = field(default_factory=dict)
    _stored: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _pushing: threading.Lock = field(default_factory=threading.Lock)
    _gone: bool = False

    def send(self, order: FragmentOrder, report: FragmentReport, clock: Clock) -> PendingFragment:
        """Give the node a fragment.

        Raises:
            PeerError: FETCH_NODE_AWAY when it left meanwhile.
        """
        pending = PendingFragment(order, report, self.verify, clock)
        with self._lock:
            if self._gone:
                raise away(self.identity.member)
            self._pending[order.id] = pending
        self.orders.put(order)
        return pending

    def pending(self, fragment_id: str) -> PendingFragment | None:
        """Find a fragment that is under way here."""
        with self._lock:
            return self._pending.get(fragment_id)

    @property
    def open_fragments(self) -> int:
        """How many fragments are under way here."""
        return len(self._pending)

    def done(self, fragment_id: str, *, cancel: bool) -> None:
        """Forget a fragment; with ``cancel``, tell the node to stop."""
        with self._lock:
            pending = self._pending.pop(fragment_id, None)
        if pending is not None:
            pending.close()
            if cancel:
                self.orders.put(CancelOrder(fragment_id))

    def push_agreement(self, order: AgreementOrder, wait_s: float) -> bool:
        """Send an agreement or revocation and wait until the node says that it is stored; False when it did not.

        One at a time: an acknowledgement names the agreement alone, so that an agreement's could pass for its revocation's.
        """
        if not self._pushing.acquire(timeout=max(wait_s, 0.0)):
            return False
        try:
            return self._push_agreement(order, wait_s)
        finally:
            self._pushing.release()

    def _push_agreement(self, order: AgreementOrder, wait_s: float) -> bool:
        key = order.agreement_id
        event = threading.Event()
        with self._lock:
            if self._gone:
                return False
            self._acks[key] = event
            self._stored.discard(key)
        self.orders.put(order)
        event.wait(wait_s)
        with self._lock:
            self._acks.pop(key, None)
            stored = key in self._stored
            self._stored.discard(key)
            return stored

    def acknowledged(self, agreement_id: str, *, stored: bool) -> None:
        """Take the node's acknowledgement; one that nobody waits for is dropped, so that a node can make nothing grow."""
        with self._lock:
            event = self._acks.get(agreement_id)
            if event is None:
                return
            if stored:
                self._stored.add(agreement_id)
        event.set()

    def leave(self) -> None:
        """End: every pending fragment fails by name of the department."""
        with self._lock:
            self._gone = True
            pending = list(self._pending.values())
            self._pending.clear()
        for fragment in pending:
            fragment.fail(away(self.identity.member))
        self.orders.put(None)


def away(member: str) -> TidegateError:
    """Make the error that names a department whose node is not there."""
    return error_for(Code.FETCH_NODE_AWAY, f"{member}: its node is not attached")


class Attachments:
    """The registry. Thread-safe; holds at most ``attachments_max``."""

    def __init__(self, *, attachments_max: int) -> None:
        self._attachments_max = attachments_max
        self._by_node: dict[tuple[str, str], Attachment] = {}
        self._lock = threading.Lock()

    def enter(self, attachment: Attachment) -> None:
        """Add an attachment; an older one of the same node leaves.

        Raises:
            Overloaded: BUSY.
        """
        key = (attachment.identity.member, attachment.identity.name)
        with self._lock:
            old = self._by_node.get(key)
            if old is None and len(self._by_node) >= self._attachments_max:
                raise error_for(Code.BUSY, "too many nodes are attached", retry_after_s=30.0)
            self._by_node[key] = attachment
        if old is not None:
            old.leave()

    def leave(self, attachment: Attachment) -> None:
        """Take an attachment out."""
        key = (attachment.identity.member, attachment.identity.name)
        with self._lock:
            if self._by_node.get(key) is attachment:
                del self._by_node[key]
        attachment.leave()

    def find(self, member: str, node: str) -> Attachment:
        """Find the attachment of a node.

        Raises:
            PeerError: FETCH_NODE_AWAY, naming the department.
        """
        with self._lock:
            found = self._by_node.get((member, node))
        if found is None:
            raise away(member)
        return found

    def of_member(self, member: str) -> tuple[Attachment, ...]:
        """Give every attachment of a member."""
        with self._lock:
            return tuple(item for (owner, _), item in self._by_node.items() if owner == member)

    def all(self) -> tuple[Attachment, ...]:
        """Give every attachment."""
        with self._lock:
            return tuple(self._by_node.values())

    def drain(self, reconnect_after_s: float) -> None:
        """Tell every node that the broker is going."""
        for attachment in self.all():
            attachment.orders.put(DrainOrder(reconnect_after_s))

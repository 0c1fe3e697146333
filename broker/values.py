"""What passes from room to room. The type is the key to the next room: only ``record`` makes a ``RecordedPlan``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from broker.plan_cache import PlanKey
from tidegate.core.caller import Caller
from tidegate.core.dataset import Dataset
from tidegate.core.decision import Decision
from tidegate.core.errors import Code
from tidegate.core.names import DatasetName
from tidegate.core.values import Value
from tidegate.ipc import Digest
from tidegate.sql.model import BoundQuery, FederatedPlan
from tidegate.telemetry import NO_TRACE, Trace


@dataclass(frozen=True, slots=True)
class Request:
    """One request of an identified caller.

    Args:
        deadline, started: on the broker's monotonic clock, seconds; one deadline for every room.
        department: where names of one part are looked for; empty: nowhere.
        cancel: set when the caller went away or cancelled; every room that waits heeds it.
        trace: the span of the call that it came with.
    """

    id: str
    caller: Caller
    sql: str
    purpose: str
    legal_basis: str
    parameters: Sequence[Value] | Mapping[str, Value]
    door: str
    deadline: float
    received_at: str
    started: float
    explain: bool = False
    department: str = ""
    cancel: threading.Event = field(default_factory=threading.Event)
    trace: Trace = field(default=NO_TRACE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class QueryPlan:
    """A request whose SQL was admitted and bound.

    Args:
        datasets: every dataset of the query's leaves.
        left_out: the columns that a star does not stand for, because the caller may not see them.
        key: under which plans for this request are kept (``broker.plan_cache``); None: nothing is.
    """

    request: Request
    bound: BoundQuery
    datasets: Mapping[DatasetName, Dataset]
    left_out: Mapping[DatasetName, frozenset[str]] = field(default_factory=dict)
    key: PlanKey | None = None


@dataclass(frozen=True, slots=True)
class DecidedPlan:
    """A plan with the policy's answer: permit or refuse, a value and never an exception.

    Args:
        refusal: the code under which a refusal reaches the caller; None when the decision allows.
        content: digest of what the decision says about data (``broker.plan_cache``).
    """

    plan: QueryPlan
    question: Mapping[str, Any]
    decision: Decision
    policy_revision: str
    agreements: tuple[str, ...]
    refusal: Code | None = None
    content: bytes = b""


@dataclass(frozen=True, slots=True)
class RestrictedPlan:
    """A permitted plan, split into what each department is asked and what remains for the broker."""

    decided: DecidedPlan
    federated: FederatedPlan


@dataclass(frozen=True, slots=True)
class Announced:
    """What was said of an answer before it was asked for.

    Args:
        schema: the chunk of its Arrow schema, under the caller's names.
        terms: digest of what this holds under: what the decision says about data, and which versions of the datasets.
    """

    schema: bytes
    terms: bytes


@dataclass(frozen=True, slots=True)
class Preview:
    """A permitted plan that nobody asked to run: no access, and so no entry of the log."""

    restricted: RestrictedPlan
    announced: Announced


@dataclass(frozen=True, slots=True)
class ClosedRecord:
    """A durable entry: its place, its bytes, the log's receipt, and the salt that opens its one commitment, if any."""

    index: int
    entry: bytes
    receipt: bytes
    salt: bytes


@dataclass(frozen=True, slots=True)
class RecordedPlan:
    """A restricted plan whose ``decision`` entry is durable. Only ``broker.record`` makes one; no receipt, no data.

    Args:
        salts: fragment id -> the salt that opens the entry's commitment to that fragment; goes into its grant.
    """

    restricted: RestrictedPlan
    decision: ClosedRecord
    salts: Mapping[str, bytes]

    @property
    def request(self) -> Request:
        """The request that it answers."""
        return self.restricted.decided.plan.request

    @property
    def counted(self) -> frozenset[str]:
        """The fragments whose counts the caller may be told: those over data that is shared row by row.

        How many rows or groups a fragment had before small groups were dropped is an answer about single persons: a
        condition on one person's key turns it into "is this person in your data".
        """
        resources = self.restricted.decided.decision.resources
        return frozenset(
            fragment.id
            for fragment in self.restricted.federated.fragments
            if all(resources[ref].constraints.mode == "rows" for ref in fragment.refs)
        )


@dataclass(frozen=True, slots=True)
class KeysGiven:
    """One batch of keys that a fragment's node was given: for which ``department.dataset.column``, and whose they are.

    Args:
        sources: (fragment, member whose rows the keys disclose, how many distinct keys its answer holds).
    """

    column: str
    sources: tuple[tuple[str, str, int], ...]


@dataclass(slots=True)
class FragmentReport:
    """What one department's part cost; grows while it streams.

    Args:
        keys_may_go_to: of the members to whom keys of this answer were meant to go, those that its own node permits.
        digest: of the chunks as they came; held to the node's signature at their end.
        is_whole: all of the answer is here, and is what its node signed.
        keys_given: the keys that its node was given; the outcome entry says so (``broker.keys.lines``).
    """

    fragment: str
    member: str
    node: str
    rows: int = 0
    bytes: int = 0
    suppressed: int = 0
    elapsed_s: float = 0.0
    entry_index: int = -1
    first_row_s: float = 0.0
    is_whole: bool = False
    rules: tuple[str, ...] = ()
    keys_may_go_to: tuple[str, ...] = ()
    keys_given: tuple[KeysGiven, ...] = ()
    digest: Digest = field(default_factory=Digest)
    trace: Trace = field(default=NO_TRACE, compare=False, repr=False)

    @property
    def keys_received(self) -> tuple[tuple[str, str, int], ...]:
        """The keys that made the answer smaller: (member whose rows they disclose, ``department.dataset.column``, count)."""
        return tuple((member, item.column, count) for item in self.keys_given for _, member, count in item.sources)


@dataclass(frozen=True, slots=True)
class FragmentStream:
    """One department's answer: Arrow chunks (``tidegate.ipc``), schema first, read once; bytes of a node: hostile."""

    fragment: str
    chunks: Iterator[bytes]
    report: FragmentReport


@dataclass(frozen=True, slots=True)
class FetchedStreams:
    """Every fragment's stream; ``close`` cancels at the nodes what has not ended."""

    streams: Mapping[str, FragmentStream]
    close: Callable[[], None]

    @property
    def reports(self) -> tuple[FragmentReport, ...]:
        """The reports, in the order of the fragments."""
        return tuple(stream.report for stream in self.streams.values())


@dataclass(frozen=True, slots=True)
class JoinedStream:
    """The result before it is counted and cut: validated chunks with the columns ``c0`` ... and hidden ones.

    ``chunks`` gives pairs (chunk, rows in it), schema first with 0 rows. ``relayed`` is the report of the one fragment whose
    chunks these are, byte for byte; None when they were made here.
    """

    chunks: Iterator[tuple[bytes, int]]
    reports: tuple[FragmentReport, ...]
    close: Callable[[], None]
    relayed: FragmentReport | None = None


@dataclass(frozen=True, slots=True)
class Closing:
    """What an ``outcome`` entry says; ``error`` is a code, or empty."""

    rows: int
    bytes: int
    suppressed_groups: int
    result_digest: str
    reports: tuple[FragmentReport, ...]
    duration_s: float
    error: str

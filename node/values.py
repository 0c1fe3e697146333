"""What passes from step to step inside a node. The type is the key to the next step: only ``admit`` makes an
``AdmittedFragment``, only ``record`` a ``RecordedFragment``.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from tidegate.core.agreement import Agreement
from tidegate.core.decision import Decision
from tidegate.core.grant import Grant, GrantedKeys, KeyTerms
from tidegate.core.names import DatasetName
from tidegate.core.values import Value
from tidegate.sql.model import BoundQuery


@dataclass(frozen=True, slots=True)
class OfferedKeys:
    """A batch of keys as it came; ``reduction`` is the place of its reduction, ``chunks`` are Arrow, schema first."""

    reduction: int
    chunks: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class FragmentOffer:
    """What a broker sent. Trust: nothing in it is checked yet.

    Args:
        deadline_s: time left, from when the message was read.
        reductions: every one that the fragment's digest covers; keys: batches for some of them, in the grant's order.
        cancel: set by a cancel of the broker, or when its link ends.
        traceparent: under which the node's spans go; names a trace and decides nothing.
    """

    id: str
    grant: bytes
    signature: bytes
    chain_pem: bytes
    sql: str
    parameters_json: str
    deadline_s: float
    rows_max: int
    bytes_max: int
    reductions: tuple[KeyTerms, ...] = ()
    keys: tuple[OfferedKeys, ...] = ()
    cancel: threading.Event = field(default_factory=threading.Event, compare=False)
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class Session:
    """One attachment: the broker at the other end, as its Welcome named it, and the node's own nonce (hex)."""

    broker: str
    nonce: str


@dataclass(frozen=True, slots=True)
class AdmittedKeys:
    """A batch of keys that the grant names, by their digest. What is in the chunks only a worker looks at."""

    granted: GrantedKeys
    chunks: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class AdmittedFragment:
    """A fragment under a genuine, fresh, unused grant with a receipt that verifies, parsed and bound again here."""

    offer: FragmentOffer
    grant: Grant
    parameters: tuple[Value, ...]
    bound: BoundQuery
    receipt_index: int
    keys: tuple[AdmittedKeys, ...] = ()


@dataclass(frozen=True, slots=True)
class DecidedFragment:
    """An admitted fragment with the intersection of the broker's decision and the node's own."""

    admitted: AdmittedFragment
    decision: Decision
    revision: str
    agreements: tuple[Agreement, ...]

    @property
    def keys_may_go_to(self) -> tuple[str, ...]:
        """Of the members to whose nodes the grant says that keys of the answer are meant to go, those to which they may."""
        granted = self.admitted.grant.keys_go_to
        return tuple(member for member in granted if self.decision.keys_may_go(self.decision.resources, member))


@dataclass(frozen=True, slots=True)
class RecordedFragment:
    """A decided fragment whose execution is durably recorded in the node's own log, at ``index``."""

    decided: DecidedFragment
    index: int


@dataclass(frozen=True, slots=True)
class Trailer:
    """What the node says at the end of an answer; it signs canonical {digest, fragment_id, grant_id, rows}.

    Args:
        rules: what the node did to the data, in words without values; for the caller's report.
    """

    rows: int
    size_bytes: int
    digest: str
    signature: bytes
    suppressed_groups: int
    entry_index: int
    elapsed_s: float
    rules: tuple[str, ...] = ()
    keys_may_go_to: tuple[str, ...] = ()


Refs = Mapping[str, DatasetName]

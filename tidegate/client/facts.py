"""What the broker's services told the client, as plain values: no generated message gets out of ``client.wire``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class RawReceipt:
    """A receipt as it came."""

    note: bytes
    entry: bytes
    index: int


@dataclass(frozen=True, slots=True)
class StartedFacts:
    """The first word of an answer."""

    request_id: str
    receipt: RawReceipt
    schema: bytes
    disclosure: dict[str, Any]


@dataclass(frozen=True, slots=True)
class FinishedFacts:
    """The last word of an answer; without it there was none."""

    rows: int
    bytes: int
    result_digest: str
    digest_nonce: str
    receipt: RawReceipt
    report: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class ExplainedFacts:
    """What EXPLAIN gives; ``tidegate.client.explained.table`` makes a table of it.

    Args:
        receipt: of the decision entry.
        outcome: of the outcome entry, when the query was run (ANALYZE); else None.
    """

    plan: dict[str, Any]
    picture: str
    request_id: str
    receipt: RawReceipt
    outcome: RawReceipt | None = None

"""Decisions that are still good: the answer to exactly this question, for as long as the rules themselves say.

A question is the same when everything in it is the same but the request's id and time: caller, roles, purpose, agreements,
columns, the shape of the query. So a revoked agreement or a lost role is another question, and is asked anew. An answer that
says nothing of ``cache_until`` is never kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from tidegate.core.cache import BoundedCache
from tidegate.core.clock import Clock, parse_timestamp
from tidegate.core.decision import Decision

KEPT_S_MAX = 300.0  # whatever the rules say: a clock that is set back must not make an answer live for ever
ENTRIES_MAX = 4_096
BYTES_MAX = 32 << 20
_CONTENT = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=dict)  # a filter is a read-only mapping
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True, slots=True)
class _Held:
    decision: Decision
    asked_at: datetime
    until: datetime
    until_s: float


class DecisionMemory:
    """Kept decisions. Thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._held: BoundedCache[_Held] = BoundedCache(entries_max=ENTRIES_MAX, bytes_max=BYTES_MAX)

    def find(self, key: bytes, question: Mapping[str, Any]) -> Decision | None:
        """Give the decision for a question; None when it must be asked."""
        held = self._held.get(key)
        if held is None:
            return None
        asked = parse_timestamp(question["request"]["time"])
        # Both: the question's own time may be behind the clock, and the clock's ahead of the question.
        fresh = held.asked_at <= asked < held.until and self._clock.now() < held.until
        return held.decision if fresh and self._clock.monotonic_s() < held.until_s else None

    def keep(self, key: bytes, question: Mapping[str, Any], decision: Decision) -> None:
        """Keep a decision that says how long it holds; it was checked before."""
        said = decision.obligations.cache_until
        if said is None:
            return
        asked = parse_timestamp(question["request"]["time"])
        # A second time, and not in the rules' language: what an agreement gave ends with the agreement.
        ends = [parse_timestamp(item["expires_at"]) for item in question["agreements"]]
        if decision.obligations.expires_at is not None:
            ends.append(parse_timestamp(decision.obligations.expires_at))
        until = min(
            [parse_timestamp(said), asked + timedelta(seconds=KEPT_S_MAX), *(end for end in ends if end > asked)]
        )
        held = _Held(decision, asked, until, self._clock.monotonic_s() + KEPT_S_MAX)
        owner = str(question["caller"]["member"])
        self._held.put(key, held, owner=owner, size_bytes=len(json.dumps(decision.to_json())))

    @property
    def counts(self) -> tuple[int, int]:
        """How often a decision was found, and how often not."""
        return self._held.hits, self._held.misses


def question_key(revision: str, question: Mapping[str, Any]) -> bytes:
    """Give the digest of a question without its id and its time, under a revision of the rules."""
    request = {name: value for name, value in question["request"].items() if name not in ("id", "time")}
    return sha256(_ENCODER.encode([revision, {**question, "request": request}]).encode()).digest()


def decision_content(decision: Decision) -> bytes:
    """Give the digest of what a decision says about data: what a plan depends on. Reasons and times are left out."""
    resources = {ref: resource.to_json() for ref, resource in decision.resources.items()}
    return sha256(_CONTENT.encode(resources).encode()).digest()

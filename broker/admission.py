"""Admission of requests: how many may be under way, in all and for one member, so that nobody starves anybody.

The callers' pool has more threads than ``requests_max``: what is over the limit is answered at once with "busy, retry
after", and health, look-ups of metadata and other members always find a thread.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from tidegate.core.errors import Code, error_for


class Admission:
    """Counts what is under way. Thread-safe."""

    def __init__(self, *, requests_max: int, requests_per_member_max: int) -> None:
        self._requests_max = requests_max
        self._per_member_max = requests_per_member_max
        self._by_member: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._draining = False
        self._idle = threading.Condition(self._lock)

    @property
    def places(self) -> tuple[int, int]:
        """How many requests are under way, and how many may be."""
        with self._lock:
            return self._by_member.total(), self._requests_max

    @contextmanager
    def admitted(self, member: str) -> Iterator[None]:
        """Hold a place for one request.

        Raises:
            Overloaded: BUSY, with the time after which to come back.
        """
        with self._lock:
            if self._draining:
                raise error_for(Code.BUSY, "the broker is shutting down", retry_after_s=5.0)
            if self._by_member[member] >= self._per_member_max:
                raise error_for(
                    Code.BUSY,
                    f"{member}: already has {self._per_member_max} requests under way",
                    retry_after_s=1.0,
                )
            if self._by_member.total() >= self._requests_max:
                raise error_for(Code.BUSY, f"{self._requests_max} requests are under way", retry_after_s=1.0)
            self._by_member[member] += 1
        try:
            yield
        finally:
            with self._lock:
                self._by_member[member] -= 1
                self._idle.notify_all()

    def drain(self, wait_s: float) -> bool:
        """Admit nothing more and wait for what is under way; True when all of it ended in time."""
        with self._lock:
            self._draining = True
            return self._idle.wait_for(lambda: self._by_member.total() == 0, timeout=wait_s)

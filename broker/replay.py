"""Remembers the idempotency keys of requests for as long as a retry could come."""

from __future__ import annotations

import threading
from collections import OrderedDict

from tidegate.core.clock import Clock

KEEP_S = 3600.0  # six times the longest deadline; a retry after that is a new request
KEYS_MAX = 1_000_000


class UsedIds:
    """A bounded set of keys, oldest forgotten first. Thread-safe."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._seen: OrderedDict[str, float] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, key: str) -> bool:
        """Use a key; False when it was used before."""
        now = self._clock.monotonic_s()
        with self._lock:
            while self._seen and (len(self._seen) >= KEYS_MAX or next(iter(self._seen.values())) < now - KEEP_S):
                self._seen.popitem(last=False)
            if key in self._seen:
                return False
            self._seen[key] = now
            return True

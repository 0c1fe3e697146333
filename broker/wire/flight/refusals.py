"""Refusals of the second door that come before there is a question: a handle that is not known, a purpose that is missing.

They are recorded like any other, but for one certificate only so many in a time: whoever tries handles must not fill the log.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from tidegate.core.clock import Clock

EACH_MAX = 12
PERIOD_S = 60.0
CALLERS_MAX = 10_000


class Refusals:
    """Says which refusals are recorded. Thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: OrderedDict[str, tuple[float, int]] = OrderedDict()  # certificate -> (begin of its time, count)

    def is_recorded(self, fingerprint: str) -> bool:
        """Count a refusal; True when it is one of those that the log takes."""
        now_s = self._clock.monotonic_s()
        with self._lock:
            begun, count = self._seen.get(fingerprint, (now_s, 0))
            if now_s - begun >= PERIOD_S:
                begun, count = now_s, 0
            self._seen[fingerprint] = (begun, count + 1)
            self._seen.move_to_end(fingerprint)
            if len(self._seen) > CALLERS_MAX:
                self._seen.popitem(last=False)
            return count < EACH_MAX

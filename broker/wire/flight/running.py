"""The answers that are streaming now, by the handle of their ticket, so that a call of its own may cancel one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from broker.open_calls import Cancellable

HEED_S = (
    0.3  # for an answer to end by itself when it is cancelled; one that is stuck in a reader who reads nothing is cut
)


@dataclass(eq=False, slots=True)
class _Answer:
    owner: str
    cancel: threading.Event
    context: Cancellable
    ended: threading.Event = field(default_factory=threading.Event)


class Running:
    """The registry. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: dict[bytes, _Answer] = {}  # owned by the lock

    @contextmanager
    def enter(self, handle: bytes, owner: str, cancel: threading.Event, context: Cancellable) -> Iterator[None]:
        """Keep an answer while it streams."""
        answer = _Answer(owner, cancel, context)
        with self._lock:
            self._answers[handle] = answer
        try:
            yield
        finally:
            answer.ended.set()
            with self._lock:
                self._answers.pop(handle, None)

    def cancel(self, handle: bytes, owner: str) -> bool:
        """End an answer of this certificate's; False when there is none."""
        with self._lock:
            answer = self._answers.get(handle)
        if answer is None or answer.owner != owner:
            return False
        answer.cancel.set()
        if not answer.ended.wait(HEED_S):
            answer.context.cancel()
        return True

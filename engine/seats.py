"""A fixed number of children, kept alive: made at start, lent to one user at a time, replaced when one is lost.

Both pools sit on this. It knows nothing of what a child does.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from engine.frames import Kind
from engine.process import Child
from tidegate.core.errors import Code, TidegateError, error_for

_CANCEL_POLL_S = 0.02  # an Event cannot be waited for together with a Condition
_RESTART_PAUSE_S = 1.0  # between attempts when replacements do not start
_RETRY_AFTER_S = 1.0


class Seats:
    """The children of a pool.

    Args:
        make: starts a child (does not wait for it).
        refuse: turns the payload of a child's FAILED at start into an error.
        clean: called with the process id of each child that has ended.
    """

    def __init__(
        self,
        make: Callable[[], Child],
        size: int,
        *,
        refuse: Callable[[bytes], TidegateError],
        clean: Callable[[int], None],
    ) -> None:
        self._make = make
        self._refuse = refuse
        self._clean = clean
        self._changed = threading.Condition()
        self._idle: list[Child] = []  # guarded by _changed
        self._lent: set[Child] = set()  # guarded by _changed
        self._closing = threading.Event()
        self._replacers: list[threading.Thread] = []  # guarded by _changed
        self.replaced = 0
        self.first_ready = b""
        children = [make() for _ in range(size)]  # all start at once
        with ThreadPoolExecutor(max_workers=size) as waiting:
            outcomes = list(waiting.map(self._readied, children))
        failure = next((outcome for outcome in outcomes if isinstance(outcome, TidegateError)), None)
        self._idle = [child for child, outcome in zip(children, outcomes, strict=True) if outcome is None]
        if failure is not None:
            self.close()
            raise failure

    def take(self, *, until_s: float, cancelled: threading.Event | None = None) -> Child:
        """Lend a child; waits for one.

        Args:
            until_s: as ``time.monotonic``.

        Raises:
            Overloaded: BUSY when none came free in time.
            CallerError: QUERY_CANCELLED when the caller gave up meanwhile.
        """
        with self._changed:
            while True:
                if self._closing.is_set():
                    raise error_for(Code.BUSY, "the process is about to end", retry_after_s=_RETRY_AFTER_S)
                while self._idle:
                    child = self._idle.pop()
                    if child.alive:
                        self._lent.add(child)
                        return child
                    self._replace(child)
                if cancelled is not None and cancelled.is_set():
                    raise error_for(Code.QUERY_CANCELLED)
                left = until_s - time.monotonic()
                if left <= 0:
                    raise error_for(Code.BUSY, retry_after_s=_RETRY_AFTER_S)
                self._changed.wait(min(left, _CANCEL_POLL_S) if cancelled is not None else left)

    def give_back(self, child: Child) -> None:
        """Return a child that is ready for its next user."""
        with self._changed:
            if child in self._lent:
                self._lent.remove(child)
                self._idle.append(child)
                self._changed.notify()

    def discard(self, child: Child) -> None:
        """Have a child that was lost, or is not trusted any more, replaced."""
        with self._changed:
            if child in self._lent:
                self._lent.remove(child)
                self._replace(child)

    def close(self) -> None:
        """End every child; whoever reads from one gets FrameError."""
        self._closing.set()
        with self._changed:
            children = [*self._idle, *self._lent]
            self._idle.clear()
            self._lent.clear()
            self._changed.notify_all()
            replacers = list(self._replacers)
        for child in children:
            child.kill()
            child.end()
            self._clean(child.pid)
        for thread in replacers:
            thread.join()

    def _replace(self, lost: Child) -> None:
        """Start another in its place, in a thread of its own: a start takes half a second. Holds _changed."""
        self.replaced += 1
        thread = threading.Thread(target=self._start_one, args=(lost,), name="engine-replace", daemon=True)
        self._replacers = [other for other in self._replacers if other.is_alive()]
        self._replacers.append(thread)
        thread.start()

    def _start_one(self, lost: Child) -> None:
        lost.kill()
        lost.end()
        self._clean(lost.pid)
        while not self._closing.is_set():
            try:
                child = self._make()
            except OSError:  # no process or descriptor to be had now
                self._closing.wait(_RESTART_PAUSE_S)
                continue
            if self._readied(child) is None and self._seat(child):
                return
            self._closing.wait(_RESTART_PAUSE_S)

    def _seat(self, child: Child) -> bool:
        with self._changed:
            if not self._closing.is_set():
                self._idle.append(child)
                self._changed.notify()
                return True
        self._ended(child)
        return False

    def _readied(self, child: Child) -> TidegateError | None:
        try:
            frame = child.wait_ready()
        except TidegateError as error:
            self._ended(child)
            return error
        if frame.kind is Kind.FAILED:
            self._ended(child)
            return self._refuse(frame.payload)
        self.first_ready = self.first_ready or frame.payload
        return None

    def _ended(self, child: Child) -> None:
        with contextlib.suppress(OSError):
            child.end()
        self._clean(child.pid)


def error_of(data: Mapping[str, str]) -> TidegateError:
    """Make the error that a child reported. Trust: a child; an unknown code becomes INTERNAL."""
    try:
        code = Code(data["code"])
    except (ValueError, KeyError):
        return error_for(Code.INTERNAL, detail="a worker reported an unknown code")
    return error_for(code, str(data.get("message", "")), detail=str(data.get("detail", "")))

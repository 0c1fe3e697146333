"""A fixed number of children, kept alive: made at start, lent to one user at a time, replaced when one is lost.

Both pools sit on this. It knows nothing of what a child does. An owner (a member) holds all children but one at most, so that
nobody's slow work keeps everybody out; a child that died under an owner counts as held until its replacement is there.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
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
        self._lent: dict[Child, str] = {}  # child -> its owner; guarded by _changed
        self._held: Counter[str] = Counter()  # by owner; guarded by _changed
        self._share = max(1, size - 1)
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

    def take(self, *, until_s: float, cancelled: threading.Event | None = None, owner: str = "") -> Child:
        """Lend a child; waits for one.

        Args:
            until_s: as ``time.monotonic``.
            owner: for whom it is; waits while the owner holds its share. Empty: for nobody, and without a share.

        Raises:
            Overloaded: BUSY when none came free in time.
            CallerError: QUERY_CANCELLED when the caller gave up meanwhile.
        """
        with self._changed:
            while True:
                if self._closing.is_set():
                    raise error_for(Code.BUSY, "the process is about to end", retry_after_s=_RETRY_AFTER_S)
                while self._idle and (not owner or self._held[owner] < self._share):
                    child = self._idle.pop()
                    if child.alive:
                        self._lent[child] = owner
                        self._held[owner] += 1
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
                self._release(self._lent.pop(child))
                self._idle.append(child)

    def discard(self, child: Child) -> None:
        """Have a child that was lost, or is not trusted any more, replaced."""
        with self._changed:
            if child in self._lent:
                self._replace(child, self._lent.pop(child))

    def _release(self, owner: str | None) -> None:
        """Give an owner its place back, and wake those who wait: all, for one alone may be over its share. Holds _changed."""
        if owner is not None:
            self._held[owner] -= 1
            if self._held[owner] <= 0:
                del self._held[owner]
        self._changed.notify_all()

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

    def _replace(self, lost: Child, owner: str | None = None) -> None:
        """Start another in its place, in a thread of its own: a start takes half a second. Holds _changed."""
        self.replaced += 1
        thread = threading.Thread(target=self._start_one, args=(lost, owner), name="engine-replace", daemon=True)
        self._replacers = [other for other in self._replacers if other.is_alive()]
        self._replacers.append(thread)
        thread.start()

    def _start_one(self, lost: Child, owner: str | None) -> None:
        lost.kill()
        lost.end()
        self._clean(lost.pid)
        while not self._closing.is_set():
            try:
                child = self._make()
            except OSError:  # no process or descriptor to be had now
                self._closing.wait(_RESTART_PAUSE_S)
                continue
            if self._readied(child) is None and self._seat(child, owner):
                return
            self._closing.wait(_RESTART_PAUSE_S)

    def _seat(self, child: Child, owner: str | None) -> bool:
        with self._changed:
            if not self._closing.is_set():
                self._idle.append(child)
                self._release(owner)
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

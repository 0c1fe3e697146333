"""A bounded pool: every call ends by its deadline, whatever the callee does.

Neither engine can be interrupted: rego-cpp computes in C, and an HTTP client's timeout starts anew with each byte. So a
call runs in a thread of this pool and the caller stops waiting. A thread that is stuck keeps its place; when all are
stuck every further call ends by its deadline too, which is the safe side: no answer is a refusal.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

State = TypeVar("State")
Result = TypeVar("Result")


class BoundedPool(Generic[State]):
    """Daemon threads, each with a state of its own made by ``make_state`` in the constructor."""

    def __init__(self, make_state: Callable[[], State], size: int, name: str) -> None:
        states = [make_state() for _ in range(size)]
        self._work: queue.Queue[tuple[Future[Any], Callable[[State], Any]] | None] = queue.Queue()
        self._threads = [
            threading.Thread(target=self._serve, args=(state,), name=f"{name}-{number}", daemon=True)
            for number, state in enumerate(states)
        ]
        for thread in self._threads:
            thread.start()

    def run(self, function: Callable[[State], Result], timeout_s: float) -> Result:
        """Run the function with one thread's state.

        Raises:
            TimeoutError: it did not end in time; if it had not begun it never will.
        """
        future: Future[Result] = Future()
        self._work.put((future, function))
        try:
            return future.result(timeout_s)
        except TimeoutError:
            future.cancel()
            raise

    def close(self) -> None:
        """Let every thread end once it is free."""
        for _ in self._threads:
            self._work.put(None)

    def _serve(self, state: State) -> None:
        while (item := self._work.get()) is not None:
            future, function = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function(state))
            except BaseException as error:  # noqa: BLE001 - handed to the one who waits
                future.set_exception(error)

"""Turns at work that no query has and that takes long: listing a whole catalogue takes seconds of this one process.

Whoever asks for sixteen listings at once, as its member's places allow, would otherwise have sixteen threads that compete for
the interpreter with every query. One listing works at a time, and of each member one waits for that: another member's comes
next, whoever else asked before. A turn lasts for one batch, so that a slow reader holds up nobody.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")


class Turns:
    """Who may work. Thread-safe."""

    def __init__(self) -> None:
        self._one = threading.Lock()
        self._lock = threading.Lock()  # owns the table; what is in it is one lock for each member that ever came
        self._members: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def taken(self, member: str, make: Callable[[], Iterator[Item]]) -> Iterator[Item]:
        """Make an iterator in a turn, and give its items, each made in a turn of its own.

        Raises:
            TidegateError: what ``make`` raises, at once; what making an item raises, then.
        """
        with self._turn(member):
            items = make()
        return self._each(member, items)

    def _each(self, member: str, items: Iterator[Item]) -> Iterator[Item]:
        while True:
            with self._turn(member):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item

    @contextmanager
    def _turn(self, member: str) -> Iterator[None]:
        with self._lock:
            own = self._members[member]
        with own, self._one:
            yield

"""What clients of Flight SQL hold in their hands: tickets and prepared statements, and what the broker keeps behind them.

A handle is a random number that says nothing; everything stays here, bounded for each caller and in all, and ends by itself. It
belongs to the certificate that it was given to: with any other it is as good as unknown, and the answer does not tell which.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

from tidegate.core.clock import Clock, Ids
from tidegate.core.errors import Code, TidegateError, error_for

HANDLE_BYTES = 32  # 256 bits of chance: nobody guesses one

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is kept, and for how long.

    Args:
        lifetime_s: unused; seconds.
        each_max: of one certificate; beyond, its oldest goes.
        all_max: of everybody; beyond, the oldest of whoever holds the most goes.
        bytes_max: of the sizes that ``give`` was told, of everybody.
    """

    lifetime_s: float
    each_max: int
    all_max: int
    bytes_max: int


TICKETS = Limits(lifetime_s=300.0, each_max=1_000, all_max=20_000, bytes_max=256 << 20)
"""Long enough for partitions that are handed to other processes; a ticket holds a place, and no data."""
STATEMENTS = Limits(lifetime_s=3_600.0, each_max=500, all_max=20_000, bytes_max=256 << 20)
"""An hour without use: as long as a person leaves a tool open between two questions."""


@dataclass(slots=True)
class _Kept(Generic[Item]):
    item: Item
    owner: str
    until_s: float
    size_bytes: int


class Handles(Generic[Item]):
    """Items behind handles. Thread-safe; every call takes microseconds."""

    def __init__(self, limits: Limits, *, what: str, clock: Clock, ids: Ids) -> None:
        self._limits = limits
        self._what = what
        self._clock = clock
        self._ids = ids
        self._lock = threading.Lock()  # owns everything below
        self._kept: OrderedDict[bytes, _Kept[Item]] = OrderedDict()  # by time of use: the first ends first
        self._of: dict[str, OrderedDict[bytes, None]] = {}
        self._bytes: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._kept)

    def give(self, item: Item, owner: str, size_bytes: int) -> bytes:
        """Keep an item for a certificate; give its handle."""
        handle = self._ids.nonce(HANDLE_BYTES)
        with self._lock:
            self._expire()
            self._put(handle, item, owner, size_bytes)
        return handle

    def find(self, handle: bytes, owner: str) -> Item:
        """Find an item; it lives on from now.

        Raises:
            CallerError: FLIGHT_HANDLE.
        """
        with self._lock:
            self._expire()
            kept = self._mine(handle, owner)
            kept.until_s = self._clock.monotonic_s() + self._limits.lifetime_s
            self._kept.move_to_end(handle)
            self._of[owner].move_to_end(handle)
            return kept.item

    def take(self, handle: bytes, owner: str) -> Item:
        """Find an item for the last time.

        Raises:
            CallerError: FLIGHT_HANDLE.
        """
        with self._lock:
            self._expire()
            item = self._mine(handle, owner).item
            self._drop(handle)
            return item

    def change(self, handle: bytes, item: Item, owner: str, size_bytes: int) -> None:
        """Put another item behind a handle.

        Raises:
            CallerError: FLIGHT_HANDLE.
        """
        with self._lock:
            self._expire()
            self._mine(handle, owner)
            self._drop(handle)
            self._put(handle, item, owner, size_bytes)

    def _put(self, handle: bytes, item: Item, owner: str, size_bytes: int) -> None:
        until_s = self._clock.monotonic_s() + self._limits.lifetime_s
        self._kept[handle] = _Kept(item, owner, until_s, size_bytes)
        self._of.setdefault(owner, OrderedDict())[handle] = None
        self._bytes[owner] += size_bytes
        if len(self._of[owner]) > self._limits.each_max:
            self._drop(next(iter(self._of[owner])))
        while len(self._kept) > self._limits.all_max:
            self._drop_of(max(self._of, key=lambda name: len(self._of[name])))
        while self._bytes.total() > self._limits.bytes_max:
            self._drop_of(max(self._of, key=lambda name: self._bytes[name]))

    def _mine(self, handle: bytes, owner: str) -> _Kept[Item]:
        kept = self._kept.get(handle)
        if kept is None or kept.owner != owner:
            raise self._unknown("unknown, used or expired" if kept is None else "of another certificate")
        return kept

    def _unknown(self, detail: str) -> TidegateError:
        return error_for(
            Code.FLIGHT_HANDLE,
            f"{self._what}: not known; it was used, has expired, or is another caller's",
            detail=detail,
        )

    def _expire(self) -> None:
        now_s = self._clock.monotonic_s()
        while self._kept and next(iter(self._kept.values())).until_s <= now_s:
            self._drop(next(iter(self._kept)))

    def _drop_of(self, owner: str) -> None:
        self._drop(next(iter(self._of[owner])))

    def _drop(self, handle: bytes) -> None:
        kept = self._kept.pop(handle)
        mine = self._of[kept.owner]
        del mine[handle]
        self._bytes[kept.owner] -= kept.size_bytes
        if not mine:
            del self._of[kept.owner]
            del self._bytes[kept.owner]

"""A bounded memory of what was computed before: least recently used goes first, and first of whoever holds the most.

Bounded by entries and by an estimate of bytes. Each entry has an owner (a member), so that one who asks for ever new things
pushes out what is its own, not what others use. What is kept must be immutable: it is handed out as it is.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class _Kept(Generic[Value]):
    value: Value
    owner: str
    size_bytes: int


class BoundedCache(Generic[Value]):
    """The memory. Thread-safe; every call takes microseconds.

    Args:
        entries_max: how many entries, of all owners together.
        bytes_max: of the sizes that ``put`` was told.
    """

    def __init__(self, *, entries_max: int, bytes_max: int) -> None:
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._lock = threading.Lock()  # owns everything below
        self._kept: dict[Hashable, _Kept[Value]] = {}
        self._order: dict[str, OrderedDict[Hashable, None]] = {}  # by owner: oldest use first
        self._bytes: Counter[str] = Counter()
        self._size_bytes = 0
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def size_bytes(self) -> int:
        """The sum of the sizes that are kept."""
        return self._size_bytes

    def get(self, key: Hashable) -> Value | None:
        """Find a value; finding it makes it the last to go."""
        with self._lock:
            kept = self._kept.get(key)
            if kept is None:
                self.misses += 1
                return None
            self.hits += 1
            self._order[kept.owner].move_to_end(key)
            return kept.value

    def put(self, key: Hashable, value: Value, *, owner: str = "", size_bytes: int = 0) -> None:
        """Keep a value; one that is larger than a quarter of the whole is not kept."""
        if size_bytes * 4 > self._bytes_max:
            return
        with self._lock:
            self._drop(key)
            self._kept[key] = _Kept(value, owner, size_bytes)
            self._order.setdefault(owner, OrderedDict())[key] = None
            self._bytes[owner] += size_bytes
            self._size_bytes += size_bytes
            while len(self._kept) > self._entries_max or self._size_bytes > self._bytes_max:
                self._make_room()

    def drop(self, key: Hashable) -> None:
        """Forget a value."""
        with self._lock:
            self._drop(key)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._kept.clear()
            self._order.clear()
            self._bytes.clear()
            self._size_bytes = 0

    def _make_room(self) -> None:
        """Take the oldest entry of the owner who holds the most of what has run out."""
        full = self._size_bytes > self._bytes_max
        owner = max(self._order, key=lambda name: self._bytes[name] if full else len(self._order[name]))
        self._drop(next(iter(self._order[owner])))

    def _drop(self, key: Hashable) -> None:
        kept = self._kept.pop(key, None)
        if kept is None:
            return
        mine = self._order[kept.owner]
        del mine[key]
        self._bytes[kept.owner] -= kept.size_bytes
        self._size_bytes -= kept.size_bytes
        if not mine:
            del self._order[kept.owner]
            del self._bytes[kept.owner]

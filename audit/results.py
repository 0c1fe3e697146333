"""What the log hands back: a recorded entry with its receipt, and what a search found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from audit import entries


@dataclass(frozen=True, slots=True)
class Appended:
    """A durable entry with the log's promise; ``nonce`` opens its commitments and never leaves the exchange's hands."""

    index: int
    leaf_hash: bytes
    entry: bytes
    receipt: bytes
    nonce: bytes

    def salt(self, name: str, position: int = 0) -> bytes:
        """Give the salt that opens one commitment: what a grant or an answer may carry."""
        return entries.salt(self.nonce, name, position)


@dataclass(frozen=True, slots=True)
class FoundEntry:
    """A search result: the entry from the log itself, and the side material if asked for and not erased."""

    index: int
    entry: bytes
    side: dict[str, Any] | None = None

"""Time and chance as things that are handed in, so that a test can hold them still."""

from __future__ import annotations

import secrets
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Where time comes from. ``now`` is UTC and may jump; ``monotonic_s`` never goes back."""

    def now(self) -> datetime:
        """Give the time of day, UTC, aware."""
        ...

    def monotonic_s(self) -> float:
        """Give seconds since some fixed point."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Give the time of day, UTC, aware."""
        return datetime.now(UTC)

    def monotonic_s(self) -> float:
        """Give seconds since some fixed point."""
        return time.monotonic()


class Ids(Protocol):
    """Where random identifiers come from."""

    def request_id(self) -> str:
        """Give a fresh identifier of 128 bits, lower-case hexadecimal."""
        ...

    def nonce(self, size_bytes: int) -> bytes:
        """Give fresh random bytes."""
        ...


class SystemIds:
    """The operating system's random source."""

    def request_id(self) -> str:
        """Give a fresh identifier of 128 bits, lower-case hexadecimal."""
        return secrets.token_hex(16)

    def nonce(self, size_bytes: int) -> bytes:
        """Give fresh random bytes."""
        return secrets.token_bytes(size_bytes)


def timestamp(moment: datetime) -> str:
    """Give RFC 3339 with microseconds and ``Z``: the one form in entries, grants and documents."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def parse_timestamp(text: str) -> datetime:
    """Read an RFC 3339 time; a time without zone is refused (ValueError)."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("time without a zone")
    return moment.astimezone(UTC)

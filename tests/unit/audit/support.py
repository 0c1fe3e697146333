"""Working fakes for the log's tests: a clock that is moved by hand, a disk that runs full or breaks; and entries."""

from __future__ import annotations

import errno
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from typing_extensions import override

from audit import entries
from audit.disk import Disk, SyncFailed
from tidegate.core.caller import Caller
from tidegate.core.clock import timestamp
from tidegate.core.names import SpiffeId

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


class ManualClock:
    """Time stands still until it is moved."""

    def __init__(self) -> None:
        self.time = NOON

    def now(self) -> datetime:
        return self.time

    def monotonic_s(self) -> float:
        return self.time.timestamp()

    def move(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


class FaultyDisk(Disk):
    """A real disk whose space can end and whose syncs can fail."""

    def __init__(self) -> None:
        self.space: int | None = None  # bytes that may still be written
        self.sync_fails = False
        self.free = 1 << 40

    @override
    def write(self, file: int, data: bytes) -> None:
        if self.space is not None:
            part = data[: max(self.space, 0)]
            self.space -= len(part)
            super().write(file, part)
            if len(part) < len(data):
                raise OSError(errno.ENOSPC, "no space")
            return
        super().write(file, data)

    @override
    def sync(self, file: int) -> None:
        if self.sync_fails:
            raise SyncFailed("fdatasync: errno 5")
        super().sync(file)

    @override
    def free_bytes(self, folder: Path) -> int:
        return self.free


def caller(member: str = "harbour", name: str = "svc", *, person: str = "", roles: tuple[str, ...] = ()) -> Caller:
    kind = "person" if person else "service"
    identity = SpiffeId.parse(f"spiffe://test.example/member/{member}/{kind}/{name}")
    return Caller(identity, roles, "internal", "government", "0" * 64, person)


def decision(request_id: str = "r1", *, who: Caller | None = None, seconds: float = 60, **more: Any) -> entries.Entry:
    fields: dict[str, Any] = {
        "purpose": "harbour.planning",
        "legal_basis": "act.12",
        "datasets": {"harbour.ships": 3},
        "policy_revision": "a" * 64,
        "obligations": "b" * 64,
        "agreements": ["agr-1"],
        "deadline": timestamp(NOON + timedelta(seconds=seconds)),
    }
    return entries.decision(request_id=request_id, caller=who or caller(), **(fields | more))


def outcome(request_id: str = "r1", of: int = 0) -> entries.Entry:
    return entries.outcome(
        request_id=request_id,
        of=of,
        rows=3,
        size_bytes=100,
        suppressed=0,
        duration_us=1200,
        leaves={"f0": {"rows": 3, "bytes": 100}},
    )

"""What the tests of the log share: a clock that is held, entries, a log in a fresh folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from audit.log import AuditLog
from tests.unit.audit.support import ManualClock
from tidegate.core.clock import SystemIds


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


OpenLog = Callable[..., AuditLog]


@pytest.fixture
def open_log(tmp_path: Path, clock: ManualClock) -> Iterator[OpenLog]:
    """Open (or make) the log in the test's folder; whatever is left open is closed at the end."""
    opened: list[AuditLog] = []

    def run(**options: Any) -> AuditLog:
        folder = tmp_path / "log"
        options = {"reserve_bytes": 0, "checkpoint_period_s": 0.02, **options}
        start = AuditLog.open if folder.exists() else None
        log = (
            start(folder, clock, SystemIds(), **options)
            if start
            else AuditLog.create(folder, "test.example/broker/audit/2026", clock, SystemIds(), **options)
        )
        opened.append(log)
        return log

    yield run
    for log in opened:
        log.close()

"""One small exchange for all tests of this folder; its clock stands still, so a test that needs time makes its own."""

from __future__ import annotations

import pytest

from tests.fakes.exchange import ManualClock, SmallExchange


@pytest.fixture(scope="session")
def exchange(tmp_path_factory: pytest.TempPathFactory) -> SmallExchange:
    return SmallExchange(tmp_path_factory.mktemp("exchange"), ManualClock())

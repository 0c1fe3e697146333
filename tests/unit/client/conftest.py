"""A scripted exchange over real gRPC, shared by the tests of a module; its log only grows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fakes.scripted_query import ScriptedExchange, scripted_exchange


@pytest.fixture(scope="module")
def exchange(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptedExchange]:
    with scripted_exchange(tmp_path_factory.mktemp("scripted")) as running:
        yield running

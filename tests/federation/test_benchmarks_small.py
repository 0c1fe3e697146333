"""The benchmarks of small queries run, small: every number that the documentation names comes from a command that works."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.governance import benchmark as governance
from benchmarks.instrumented import STEPS
from benchmarks.members import KINDS
from benchmarks.members import benchmark as members

pytestmark = pytest.mark.xdist_group("federation-benchmarks")


def test_governance_compares_and_says_where_the_time_goes(tmp_path: Path) -> None:
    found = governance(tmp_path, rows=5_000, runs=3, count=3)
    assert found["query_ms"] > 0
    assert found["query_without_ms"] > 0
    for phase in ("uncached", "cached"):
        assert set(found["small"][phase]["steps"]) == {step for step, _, _ in STEPS}
        assert all(cell["wall_ms"] > 0 for cell in found["small"][phase]["steps"].values())


def test_three_nodes_are_attached_and_every_kind_of_query_works(tmp_path: Path) -> None:
    found = members(tmp_path, counts=(1, 3), rows=2_000, queries=1)
    assert set(found["nodes"]) == {"1", "3"}
    for measured in found["nodes"].values():
        assert set(measured["median_ms"]) == set(KINDS)
        assert measured["serving_mb"] > 0

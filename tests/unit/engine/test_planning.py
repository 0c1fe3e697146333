"""The planning pool: results come back, a bomb costs its sender alone, and a process can do nothing but compute."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.planning import PlanningPool
from tests.unit.engine import planning_jobs as jobs
from tidegate.core.errors import CallerError, Code, Overloaded, TidegateError


@pytest.fixture(scope="module")
def pool() -> Iterator[PlanningPool]:
    made = PlanningPool(1, preload=["tests.unit.engine.planning_jobs"])
    yield made
    made.close()


def test_gives_the_value(pool: PlanningPool) -> None:
    assert pool.run(jobs.double, 21) == 42


def test_an_error_of_the_family_passes_with_all_of_its_parts(pool: PlanningPool) -> None:
    with pytest.raises(CallerError) as caught:
        pool.run(jobs.refuse)
    assert (caught.value.code, caught.value.message, caught.value.detail) == (
        Code.PLAN_NOT_ALLOWED,
        "not this",
        "private",
    )


def test_any_other_exception_is_internal_and_its_text_is_private(pool: PlanningPool) -> None:
    with pytest.raises(TidegateError) as caught:
        pool.run(jobs.break_down)
    assert caught.value.code is Code.INTERNAL
    assert "secret" not in caught.value.message


def test_a_tree_of_sqlglot_survives_the_way(pool: PlanningPool) -> None:
    tree = pool.run(jobs.parse, "SELECT a, sum(b) FROM d.t GROUP BY ALL")
    assert tree == jobs.parse("SELECT a, sum(b) FROM d.t GROUP BY ALL")


def test_what_never_ends_is_killed_at_its_deadline_and_the_next_call_is_served(pool: PlanningPool) -> None:
    started = time.monotonic()
    with pytest.raises(CallerError) as caught:
        pool.run(jobs.spin, deadline_s=0.3)
    assert caught.value.code is Code.PLAN_DEADLINE
    assert time.monotonic() - started < 3
    assert pool.run(jobs.double, 2, deadline_s=30) == 4


def test_sqlglot_s_exponential_texts_are_killed(pool: PlanningPool) -> None:
    with pytest.raises(CallerError) as caught:
        pool.run(jobs.parse, "SELECT " + "DATE(" * 40 + "1" + ")" * 40, deadline_s=0.5)
    assert caught.value.code is Code.PLAN_DEADLINE


def test_too_deep_and_too_large_are_clear_errors(pool: PlanningPool) -> None:
    for call in ((jobs.recurse,), (jobs.eat_memory, 3 << 30)):
        with pytest.raises(CallerError) as caught:
            pool.run(*call, deadline_s=30)
        assert caught.value.code is Code.PLAN_TOO_LARGE


def test_a_process_that_dies_is_a_clear_error_and_is_replaced(pool: PlanningPool) -> None:
    before = pool.replaced
    with pytest.raises(CallerError) as caught:
        pool.run(jobs.abort, deadline_s=30)
    assert caught.value.code is Code.PLAN_TOO_LARGE
    assert pool.replaced == before + 1
    assert pool.run(jobs.double, 1, deadline_s=30) == 2


@pytest.mark.parametrize("function", [jobs.evil, jobs.evil_tree])
def test_a_result_cannot_make_the_parent_call_what_it_likes(pool: PlanningPool, function: Callable[[], object]) -> None:
    with pytest.raises(TidegateError) as caught:
        pool.run(function, deadline_s=30)
    assert caught.value.code is Code.INTERNAL
    assert "not readable" in caught.value.detail


def test_nothing_of_the_parents_environment_is_inherited(pool: PlanningPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_SECRET", "x")
    fresh = PlanningPool(1, preload=["tests.unit.engine.planning_jobs"])
    try:
        assert "TIDEGATE_SECRET" not in fresh.run(jobs.environment, deadline_s=30)
    finally:
        fresh.close()


@pytest.mark.parametrize("what", ["read", "write", "socket", "unix", "run", "kill"])
def test_a_process_has_no_files_no_network_and_no_power_over_others(
    pool: PlanningPool, what: str, tmp_path: Path
) -> None:
    if not (pool.walls["landlock"] and pool.walls["seccomp"]):
        pytest.skip("this kernel has no Landlock or no seccomp")
    place = tmp_path / "secret"
    place.write_text("x")
    target = "/bin/true" if what == "run" else str(place if what == "read" else tmp_path / "new")
    assert pool.run(jobs.attempt, what, target, deadline_s=30) == "PermissionError"
    assert not (tmp_path / "new").exists()


def test_who_finds_no_free_process_before_its_deadline_is_told_that_it_is_busy(pool: PlanningPool) -> None:
    entered = threading.Thread(target=_expect_deadline, args=(pool,))
    entered.start()
    while pool._seats._idle:  # until the other call holds the only process
        time.sleep(0)
    with pytest.raises(Overloaded) as caught:
        pool.run(jobs.double, 1, deadline_s=0.1)
    entered.join()
    assert caught.value.code is Code.BUSY
    assert caught.value.retry_after_s > 0


def _expect_deadline(pool: PlanningPool) -> None:
    with pytest.raises(CallerError):
        pool.run(jobs.spin, deadline_s=1.5)


def test_a_module_that_does_not_exist_fails_the_start_with_a_word() -> None:
    with pytest.raises(CallerError) as caught:
        PlanningPool(1, preload=["tests.unit.engine.no_such_module"])
    assert caught.value.code is Code.CONFIG_INVALID
    assert "no_such_module" in caught.value.detail

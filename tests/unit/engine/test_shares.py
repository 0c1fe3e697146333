"""One owner's slow work never takes every process: the others find one, also while a killed one is being replaced."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from engine.planning import PlanningPool
from engine.pool import WorkerPool
from engine.spec import WorkerSpec
from tests.unit.engine import planning_jobs
from tests.unit.engine.running import job
from tidegate.core.errors import Code, TidegateError
from tidegate.sql.admit import admit

STUCK = "SELECT count(*) AS c0 FROM range(10000000) AS a(x), range(10000000) AS b(y) WHERE a.x * b.y < 0"


@pytest.fixture(scope="module")
def planners() -> Iterator[PlanningPool]:
    pool = PlanningPool(2, preload=(planning_jobs.__name__, "tidegate.sql.admit"))
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def workers() -> Iterator[WorkerPool]:
    pool = WorkerPool(WorkerSpec(memory_limit_bytes=128 << 20, address_space_bytes=512 << 20), 2)
    yield pool
    pool.close()


def test_many_slow_plans_of_one_owner_leave_a_process_to_the_others(planners: PlanningPool) -> None:
    endings: list[Code] = []

    def bomb() -> None:
        try:
            planners.run(time.sleep, 30.0, deadline_s=1.0, owner="noisy")
        except TidegateError as error:
            endings.append(error.code)

    bombs = [threading.Thread(target=bomb) for _ in range(6)]
    for thread in bombs:
        thread.start()
    answered = 0
    while any(thread.is_alive() for thread in bombs):
        planners.run(admit, "SELECT 1", deadline_s=0.9, owner="quiet")  # raises BUSY when every process is taken
        answered += 1
    assert answered >= 1
    assert set(endings) <= {Code.PLAN_DEADLINE, Code.BUSY}
    assert Code.PLAN_DEADLINE in endings


def test_a_stuck_join_of_one_owner_leaves_a_worker_to_the_others(workers: WorkerPool) -> None:
    cancel = threading.Event()
    endings: list[Code] = []

    def stuck() -> None:
        try:
            workers.run(job(STUCK), deadline_s=30.0, cancel=cancel, owner="noisy").close()
        except TidegateError as error:
            endings.append(error.code)

    threads = [threading.Thread(target=stuck) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        workers.run(job("SELECT 42 AS c0"), deadline_s=20.0, owner="quiet").close()
    assert all(thread.is_alive() for thread in threads), "none of the noisy ones ended to make room"
    cancel.set()
    for thread in threads:
        thread.join()
    assert set(endings) == {Code.QUERY_CANCELLED}


def test_an_owner_gets_its_place_back(workers: WorkerPool) -> None:
    for _ in range(5):
        workers.run(job("SELECT 42 AS c0"), deadline_s=20.0, owner="noisy").close()


def test_a_pool_of_one_serves_any_owner() -> None:
    pool = PlanningPool(1, preload=("tidegate.sql.admit",))
    try:
        assert all(pool.run(admit, "SELECT 1", owner=owner) is not None for owner in ("a", "a", "b", ""))
    finally:
        pool.close()

"""What a session's department means to planning, to the memory of plans, and to the record: the same text, another question."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from audit.log import AuditLog
from broker.plan import Plan
from broker.plan_cache import PlanCache
from broker.record import Record
from broker.values import Request
from catalogue.store import Catalogue
from engine.planning import PlanningPool
from tests.contract.catalogue_setup import HeldClock, city, dataset, opened
from tidegate.core.caller import Caller
from tidegate.core.clock import SystemIds
from tidegate.core.dataset import DatasetClass
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.names import SpiffeId

CALLER = Caller(
    SpiffeId.parse("spiffe://city.example/member/east/service/desk"), ("analyst",), "internal", "government", "00"
)


def request(sql: str, department: str = "", caller: Caller = CALLER) -> Request:
    at = "2026-11-21T10:00:00.000000Z"
    return Request("0" * 32, caller, sql, "p", "b", (), "flight", 1e9, at, 0.0, department=department)


@pytest.fixture
def clock() -> HeldClock:
    return HeldClock()


@pytest.fixture
def catalogue(tmp_path: Path, clock: HeldClock) -> Iterator[Catalogue]:
    with opened("sqlite", tmp_path) as engine:
        found, _ = city(engine, clock)
        for name in ("aviation.towns", "weather.towns"):
            found.register(dataset(name, dataset_class=DatasetClass.OPEN))
        found.register(dataset("health.towns", dataset_class=DatasetClass.OPEN, hidden_from=("east",)))
        yield found


@pytest.fixture
def pool() -> Iterator[PlanningPool]:
    pool = PlanningPool(1, preload=("tidegate.sql.plan",))
    yield pool
    pool.close()


def test_the_same_text_under_another_department_is_another_plan(
    catalogue: Catalogue, pool: PlanningPool, clock: HeldClock
) -> None:
    cache = PlanCache()
    room = Plan(catalogue=catalogue, pool=pool, clock=clock, cache=cache)
    sql = "SELECT id FROM towns"

    def read(department: str) -> list[str]:
        return [str(name) for name in room.plan(request(sql, department)).datasets]

    for _ in range(2):
        assert read("aviation") == ["aviation.towns"]
        assert read("weather") == ["weather.towns"]
        for unknown in ("", "health", "nobody"):
            with pytest.raises(TidegateError) as caught:
                read(unknown)
            assert (caught.value.code, caught.value.message) == (Code.PLAN_UNKNOWN_DATASET, error_text())
    assert cache.counts["bound"][0] == 2, "the second round came from memory"


def error_text() -> str:
    return error_for(Code.PLAN_UNKNOWN_DATASET).message


def test_the_exchange_in_a_name_is_that_of_the_caller(
    catalogue: Catalogue, pool: PlanningPool, clock: HeldClock
) -> None:
    room = Plan(catalogue=catalogue, pool=pool, clock=clock)
    plan = room.plan(request('SELECT t.id FROM "city.example"."aviation"."towns" t'))
    assert [str(name) for name in plan.datasets] == ["aviation.towns"]
    for sql in ('SELECT id FROM "town.example".aviation.towns', 'SELECT id FROM "city.example".health.towns'):
        with pytest.raises(TidegateError) as caught:
            room.plan(request(sql))
        assert caught.value.code is Code.PLAN_UNKNOWN_DATASET


def test_the_record_keeps_the_department_that_the_text_was_read_under(tmp_path: Path, clock: HeldClock) -> None:
    log = AuditLog.create(tmp_path / "log", "x/b/audit/2026", clock, SystemIds())
    try:
        room = Record(log=log, clock=clock)
        for department in ("aviation", ""):
            room.refusal(request("SELECT id FROM towns", department), None, error_for(Code.PLAN_UNKNOWN_DATASET))
        first, second = log.side(0), log.side(1)
        assert first is not None and first["department"] == "aviation" and first["sql"] == "SELECT id FROM towns"
        assert second is not None and "department" not in second
    finally:
        log.close()

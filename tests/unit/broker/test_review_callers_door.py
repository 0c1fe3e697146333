"""Found in review: what a caller could learn, or hold on to, through the callers' door."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from audit.log import AuditLog
from broker.deliver import report_json
from broker.open_calls import GRACE_S
from broker.record import Record
from broker.replay import UsedIds
from broker.values import (
    ClosedRecord,
    Closing,
    DecidedPlan,
    FragmentReport,
    QueryPlan,
    RecordedPlan,
    Request,
    RestrictedPlan,
)
from broker.wire.asking import Asking
from tests.fakes.exchange import ManualClock, SmallExchange
from tests.unit.broker.test_open_calls import cancelled, opened
from tests.unit.sql.test_structure import PEOPLE, PROTECTED
from tidegate.core.caller import Caller
from tidegate.core.clock import SystemClock, SystemIds
from tidegate.core.errors import Code, TidegateError
from tidegate.core.names import SpiffeId

CALLER = Caller(SpiffeId.parse("spiffe://x/member/police/service/s"), ("analyst",), "secret", "government", "00")


def recorded(sql: str, index: int = 0) -> RecordedPlan:
    plan, decision = PEOPLE.plan(sql, policy=PROTECTED)
    bound = PEOPLE.bind(sql)
    request = Request("0" * 32, CALLER, sql, "p", "b", (), "grpc", 1e9, "2026-01-01T00:00:00.000000Z", 0.0)
    datasets = {leaf.dataset: PEOPLE.schema[leaf.dataset] for leaf in bound.leaves}
    decided = DecidedPlan(QueryPlan(request, bound, datasets), MappingProxyType({}), decision, "r", ())
    return RecordedPlan(RestrictedPlan(decided, plan), ClosedRecord(index, b"", b"", b""), {})


def closing(plan: RecordedPlan, rows: int, suppressed: int) -> Closing:
    reports = tuple(
        FragmentReport(item.id, item.member, item.node, rows, 10 * rows, suppressed)
        for item in plan.restricted.federated.fragments
    )
    return Closing(0, 0, suppressed, "00", reports, 0.0, "")


ORACLES = {
    "one node": "SELECT region, count(*) FROM home.patients WHERE p = 5 AND cost = 50 GROUP BY region",
    "several nodes": "SELECT region, count(*) FROM city.patients WHERE p = 5 AND cost = 50 GROUP BY region",
}


@pytest.mark.parametrize("sql", ORACLES.values(), ids=ORACLES)
def test_how_much_was_held_back_does_not_tell_whether_a_person_is_there(sql: str, tmp_path: Path) -> None:
    """A condition on one person gives one small group or none: the count of dropped groups, or of rows, was the answer."""
    clock, ids = SystemClock(), SystemIds()
    log = AuditLog.create(tmp_path / "log", "x/b/audit/2026", clock, ids)
    try:
        room = Record(log=log, clock=clock)
        told = []
        for rows, suppressed in ((0, 0), (1, 1)):
            plan = recorded(sql)
            end = closing(plan, rows, suppressed)
            entry = room.outcome(plan, end).entry
            report = report_json(end, plan.counted)
            told.append((_without_salts(json.loads(entry)), report))
        assert told[0] == told[1]
        side = log.side(1)
        assert side is not None and side["suppressed"] == 1, "the auditor still sees it"
    finally:
        log.close()


def _without_salts(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name not in ("ts", "commitments", "duration_us")}


def test_counts_of_data_that_is_shared_row_by_row_are_told() -> None:
    plan = recorded("SELECT name FROM land.regions")
    assert report_json(closing(plan, 7, 0), plan.counted)[0]["rows"] == 7


def test_an_id_that_the_broker_made_is_used_up_as_well() -> None:
    used = UsedIds(clock=ManualClock())
    unused: Any = None
    asking = Asking(guard=unused, used=used, clock=ManualClock(), ids=SystemIds())
    made = asking._id("")
    assert re.fullmatch("[0-9a-f]{32}", made)
    with pytest.raises(TidegateError) as caught:
        asking._id(made)
    assert caught.value.code is Code.CAT_CONFLICT


def test_a_call_that_outlives_its_deadline_is_ended_even_when_nobody_reads(tmp_path: Path) -> None:
    clock = ManualClock()
    exchange = SmallExchange(tmp_path, clock)
    try:
        calls, call = exchange.open_calls, opened(exchange, exchange.member())
        with calls.enter(call):
            calls.until(call.context, clock.monotonic_s() + 60)
            clock.move(seconds=59)
            calls.review()
            call.check()
            clock.move(seconds=1)
            calls.review()
            with pytest.raises(TidegateError) as caught:
                call.check()
            assert caught.value.code is Code.QUERY_DEADLINE
            clock.move(seconds=GRACE_S)
            calls.review()
            assert cancelled(call) >= 1
    finally:
        exchange.open_calls.close()

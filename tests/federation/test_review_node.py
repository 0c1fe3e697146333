"""Found in review: what a cheating broker could still do at a node with a grant and a receipt that verify."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes.exchange import EXCHANGE
from tests.fakes.scripted_broker import Received, allowing
from tests.federation.test_node import (
    AGGREGATE,
    FLIGHTS_SQL,
    HELD,
    HELD_SQL,
    PLAIN,
    REFS,
    World,
    agreement_of,
    push,
    world,
)

pytestmark = pytest.mark.xdist_group("node")
_ = world  # the fixture of that module, used by name


@pytest.mark.parametrize(
    "entry",
    [
        {"datasets": []},
        {"datasets": [{"name": "weather.hourly", "version": "1"}]},
        {"identity": f"spiffe://{EXCHANGE}/member/weather/service/another"},
        {"identity": f"spiffe://{EXCHANGE}/member/weather/person/desk"},
        {"identity": ""},
    ],
    ids=["no dataset", "another dataset", "another service", "a person", "nobody"],
)
def test_an_entry_that_hides_the_dataset_or_the_caller_opens_nothing(world: World, entry: dict[str, Any]) -> None:
    """The plan's commitment is salted: who searches the log by dataset or by identity would never have found this."""
    assert world.refused(FLIGHTS_SQL, REFS, PLAIN, entry=entry).code == "TG-NODE-003"


@pytest.mark.parametrize("deadline_s", [float("nan"), 0.0, -1.0, float("-inf")])
def test_a_deadline_that_is_no_time_is_no_time(world: World, deadline_s: float) -> None:
    assert world.refused(FLIGHTS_SQL, REFS, PLAIN, message={"deadline_s": deadline_s}).code == "TG-QUERY-001"


@pytest.mark.parametrize("limit", [{"rows_max": 0}, {"rows_max": 1}, {"bytes_max": 1}])
def test_limits_that_a_broker_chooses_do_not_tell_whether_a_small_group_is_there(
    world: World, limit: dict[str, int]
) -> None:
    sql = (
        'SELECT "r0"."origin" AS "c0", count("r0"."delay") AS "c1" FROM "aviation"."flights" AS "r0" '
        'WHERE "r0"."id" < {} GROUP BY 1'
    )
    decision = allowing("origin", "delay", "id", **AGGREGATE)
    told = []
    for below in (0, 20):
        reply = world.ask(sql.format(below), REFS, decision, message=limit)
        told.append(reply.rows if isinstance(reply, Received) else reply.code)
    assert told[0] == told[1]


def test_an_empty_legal_basis_fits_no_agreement_that_names_one(world: World) -> None:
    """The registry is the exchange's, so that the basis is the broker's word; the agreement's is the department's own."""
    assert push(world, agreement_of(world, legal_basis="air.act.7"), world.steward).stored
    error = world.refused(HELD_SQL, HELD, allowing("id"))
    assert [reason.code for reason in error.reasons][-1] == "agreement_missing"

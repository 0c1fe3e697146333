"""Found in review: forms of query that gave one person a weight of the caller's choice, or named persons, in mode aggregate."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.fakes.sql_world import World, decide, table
from tests.unit.sql.test_structure import COUNTED, NINE, PEOPLE, PROTECTED, reason
from tidegate.core.decision import ColumnRule, ResourceDecision
from tidegate.core.errors import Code, Refused

FAN_OUT = {
    # One person's row meets every row of the other side: a sum of a thousand copies of one value and one of each other.
    "SELECT sum(a.n) FROM air.a a JOIN sea.b b ON a.p = 3 OR a.k = b.k": "aggregate_join",
    "SELECT avg(a.n) FROM air.a a, sea.b b WHERE a.p = 3 OR b.k = 1": "aggregate_join",
    "SELECT sum(a.n) FROM air.a a JOIN air.a b ON a.p = 3 OR a.k = b.k": "aggregate_join",
    "SELECT sum(a.n) FROM air.a a JOIN sea.b b ON a.k <= b.k": "aggregate_join",
    "SELECT sum(x.n) FROM (SELECT a.n FROM air.a a JOIN sea.b b ON a.p = 3 OR a.k = b.k) x": "aggregate_join",
    "SELECT s, sum(p) FROM air.a GROUP BY s": "aggregate_subject_measure",
    "SELECT avg(q) FROM (SELECT p AS q FROM air.a) x": "aggregate_subject_measure",
}


@pytest.mark.parametrize("sql", FAN_OUT, ids=lambda item: item[:70])
def test_one_person_can_be_given_no_weight_and_no_name(sql: str) -> None:
    assert reason(sql, COUNTED) == (Code.POLICY_STRUCTURE, FAN_OUT[sql])


DOUBLED = ", ".join(f"t{n} AS (SELECT * FROM t{n - 1} UNION ALL SELECT * FROM t{n - 1})" for n in range(1, 15))
COPIES = {
    "sub-select": "SELECT avg(cost) FROM (SELECT cost FROM home.patients UNION ALL SELECT cost FROM home.patients WHERE p = 5)",
    "doubled": (
        f"WITH t0 AS (SELECT cost FROM home.patients WHERE p = 5), {DOUBLED}, "
        "x AS (SELECT cost FROM home.patients UNION ALL SELECT * FROM t14) SELECT avg(cost) FROM x"
    ),
    "parts": (
        "SELECT avg(cost) FROM (SELECT cost FROM city.patients UNION ALL SELECT cost FROM west.patients WHERE p = 5)"
    ),
}


@pytest.mark.parametrize("name", COPIES)
def test_copies_of_one_persons_rows_give_no_weight(name: str) -> None:
    """The doubled form gave 50.16 in one query: 2^14 copies of a cost of 50 among those of 37 persons."""
    with pytest.raises(Refused) as caught:
        PEOPLE.run(COPIES[name], policy=PROTECTED)
    assert caught.value.reasons[-1].code == "aggregate_set_operation"


def test_what_a_disjunction_over_a_join_told_before() -> None:
    """The cost of person 5 is 50; with 70 rows on the other side its copies outweigh all others."""
    sql = "SELECT avg(t.cost), count(*) FROM home.patients t JOIN land.regions r ON t.p = 5 OR r.name = 'no such'"
    with pytest.raises(Refused):
        PEOPLE.run(sql, policy=PROTECTED)


def test_equal_columns_and_conditions_on_one_side_still_join() -> None:
    sql = (
        "SELECT r.region, count(*) FROM home.patients t JOIN land.regions r ON t.region = r.region AND r.name LIKE 'name%' "
        "WHERE t.cost >= 0 AND (t.cost > 1 OR t.region = 'r1') GROUP BY r.region"
    )
    assert len(PEOPLE.run(sql, policy=PROTECTED).rows) == 3  # of r0 one person's cost is 0
    crossed = "SELECT t.region, avg(t.cost) FROM home.patients t, (SELECT name FROM land.regions) r GROUP BY t.region"
    assert len(PEOPLE.run(crossed, policy=PROTECTED).rows) == 4


RULES = {name: ColumnRule("plain") for name in ("p", "g", "s", "region", "cost", "d")}
WEIGHTS = World(
    {
        **PEOPLE.tables,
        "spy.weights": table(
            "spy.weights", {"p": "BIGINT", "g": "VARCHAR", "s": "BIGINT"}, [(5, "r1", i) for i in range(100)]
        ),
    }
)
WEIGHTED = {
    "SELECT avg(t.cost) FROM home.patients t JOIN spy.weights w ON t.p = w.p": "aggregate_join_key",
    "SELECT avg(t.cost) FROM home.patients t, spy.weights w WHERE w.p = t.p": "aggregate_join_key",
    "SELECT w.g, sum(t.cost) FROM home.patients t JOIN spy.weights w ON t.p = w.p GROUP BY w.g": "aggregate_join_key",
    "SELECT t.region, sum(t.cost) FROM home.patients t JOIN spy.weights w ON t.region = w.g AND t.p = w.p GROUP BY 1": (
        "aggregate_join_key"
    ),
    "SELECT avg(x.cost) FROM (SELECT t.cost FROM home.patients t JOIN spy.weights w ON t.p = w.p) x": "aggregate_join_key",
    "SELECT avg(x.cost) FROM (SELECT cost, p FROM home.patients) x JOIN (SELECT p FROM spy.weights) w ON x.p = w.p": (
        "aggregate_join_key"
    ),
    "SELECT avg(t.cost) FROM home.patients t, LATERAL (SELECT w.g FROM spy.weights w WHERE w.p = t.p) x": (
        "aggregate_subquery"
    ),
}


def test_the_callers_own_rows_give_no_weight_when_they_are_shared_as_aggregates_too() -> None:
    """A department may grant itself an agreement in mode aggregate on rows that it made up."""
    both = decide(
        {
            "home.patients": ResourceDecision(True, {}, RULES, NINE),
            "spy.weights": ResourceDecision(True, {}, RULES, replace(NINE, count_entity="s")),
        }
    )
    with pytest.raises(Refused) as caught:
        WEIGHTS.plan("SELECT avg(t.cost) FROM home.patients t JOIN spy.weights w ON t.p = w.p", policy=both)
    assert caught.value.reasons[-1].code == "aggregate_join_key"


@pytest.mark.parametrize("sql", WEIGHTED, ids=lambda item: item[:70])
def test_the_callers_own_rows_give_nobody_a_weight(sql: str) -> None:
    """With 20,000 rows for person 5 and one for each of 19 others the average was 50.04; the cost of person 5 is 50."""
    with pytest.raises(Refused) as caught:
        WEIGHTS.plan(sql, policy=PROTECTED)
    assert caught.value.reasons[-1].code == WEIGHTED[sql]

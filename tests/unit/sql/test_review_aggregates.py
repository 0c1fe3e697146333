"""Found in review: forms of query that gave one person a weight of the caller's choice, or named persons, in mode aggregate."""

from __future__ import annotations

import pytest

from tests.unit.sql.test_structure import COUNTED, PEOPLE, PROTECTED, reason
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


def test_what_a_disjunction_over_a_join_told_before() -> None:
    """The cost of person 5 is 50; with 70 rows on the other side its copies outweigh all others."""
    sql = "SELECT avg(t.cost), count(*) FROM home.patients t JOIN land.regions r ON t.p = 5 OR r.name = 'no such'"
    with pytest.raises(Refused):
        PEOPLE.run(sql, policy=PROTECTED)


def test_equal_columns_and_conditions_on_one_side_still_join() -> None:
    sql = (
        "SELECT r.name, count(*) FROM home.patients t JOIN land.regions r ON t.region = r.region AND r.name LIKE 'name%' "
        "WHERE t.cost >= 0 AND (t.cost > 1 OR t.region = 'r1') GROUP BY r.name"
    )
    assert len(PEOPLE.run(sql, policy=PROTECTED).rows) == 2

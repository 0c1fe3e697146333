"""The plan cache serves only what is the same in everything that a plan depends on, and stays within its bounds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from broker.plan_cache import PlanCache, PlanKey
from policies.memory import decision_content
from tests.unit.sql.test_shapes import PLACEMENT, SCHEMA, _decision
from tidegate.core.decision import Decision
from tidegate.sql.model import BoundQuery
from tidegate.sql.plan import plan_shaped
from tidegate.sql.shapes import given
from tidegate.sql.split import split

SQL = "SELECT name FROM health.people WHERE id = $1"


def keep(
    cache: PlanCache, text: Any, parameters: list[Any], sql: str = SQL, owner: str = "m"
) -> tuple[PlanKey, BoundQuery]:
    values = given(parameters)
    key, found = cache.find(text, values, owner)
    assert found is None
    bound, shape, slots = plan_shaped(sql, SCHEMA, parameters)
    return cache.keep(key, bound, shape, slots), bound


def test_the_same_text_under_another_generation_or_view_of_the_catalogue_is_another_text() -> None:
    cache = PlanCache()
    keep(cache, (SQL, 7, frozenset({"health.people"}), ()), [1])
    hit = (SQL, 7, frozenset({"health.people"}), ())
    assert cache.find(hit, given([2]), "other")[1] is not None
    for other in (
        (SQL, 8, frozenset({"health.people"}), ()),
        (SQL, 7, frozenset(), ()),
        (SQL, 7, frozenset({"health.people"}), (("health.people", frozenset({"name"})),)),
        (SQL + " ", 7, frozenset({"health.people"}), ()),
    ):
        assert cache.find(other, given([2]), "m")[1] is None
    assert cache.find(hit, given(["2"]), "m")[1] is None
    assert cache.find(hit, given([1, 2]), "m")[1] is None


def test_a_hit_holds_the_values_of_the_request_and_no_other() -> None:
    cache = PlanCache()
    keep(cache, SQL, [111])
    key, found = cache.find(SQL, given([222]), "m")
    assert found is not None
    assert found.fill(key.values).parameters == (222,)


def test_a_split_plan_serves_only_the_same_content_and_placement() -> None:
    cache = PlanCache()
    key, bound = keep(cache, SQL, [1])
    decision = _decision(bound)
    content, places = decision_content(decision), tuple(sorted(PLACEMENT.items(), key=str))
    cache.keep_plan(key, content, places, split(bound, decision, PLACEMENT, schema=SCHEMA))
    again, _ = cache.find(SQL, given([2]), "m")
    served = cache.plan(again, content, places)
    assert served is not None
    assert served.fragments[0].sql.parameters == (2,)
    stricter = replace(
        decision.resources["r0"], row_filter={"type": "field", "field": "id", "operator": "eq", "value": 1}
    )
    other = Decision(True, (), {"r0": stricter})
    assert cache.plan(again, decision_content(other), places) is None
    assert cache.plan(again, content, ()) is None
    assert not cache.permits(again, content)
    cache.keep_permitted(again, content)
    assert cache.permits(key, content)
    assert not cache.permits(again, decision_content(other))


def test_the_content_of_a_decision_leaves_out_reasons_and_times_alone() -> None:
    bound, _, _ = plan_shaped(SQL, SCHEMA, [1])
    decision = _decision(bound)
    same = replace(decision, obligations=replace(decision.obligations, cache_until="2027-01-01T00:00:00.000000Z"))
    assert decision_content(same) == decision_content(decision)
    fewer = replace(decision.resources["r0"], constraints=replace(decision.resources["r0"].constraints, max_rows=1))
    assert decision_content(replace(decision, resources={"r0": fewer})) != decision_content(decision)


def test_ever_new_texts_of_one_member_push_out_that_members_own() -> None:
    cache = PlanCache(entries_max=20)
    keep(cache, "quiet", [1], owner="quiet")
    for number in range(200):
        keep(cache, ("loud", number), [1], owner="loud")
    assert cache.find("quiet", given([5]), "quiet")[1] is not None

"""Decisions: an answer is valid or it is a refusal; two answers compose into one that permits no more than either."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.core.decision import MODES, Decision, intersect
from tidegate.core.errors import Code, TidegateError

ANSWER: dict[str, Any] = {
    "version": 1,
    "allow": True,
    "reasons": [{"code": "agreement", "text": "agreement 17"}],
    "resources": {
        "r0": {
            "allow": True,
            "row_filter": {"type": "field", "field": "origin", "operator": "in", "value": ["JFK"]},
            "columns": {
                "tailnum": {
                    "access": "masked",
                    "mask": {"kind": "pseudonym", "key": "recipient"},
                    "in_predicate": "deny",
                },
                "delay": {"access": "plain"},
                "name": {"access": "deny"},
            },
            "constraints": {
                "mode": "rows",
                "min_group_size": 10,
                "count_entity": "person_id",
                "allowed_aggregates": ["count"],
                "max_rows": 100,
                "key_lookup_only": False,
                "keys_max": 100,
                "keys_may_go_to": [],
            },
        }
    },
    "obligations": {"expires_at": None, "cache_until": None, "watermark": False, "notify_owner": False},
}


def test_a_good_answer_reads_back() -> None:
    assert Decision.from_json(ANSWER).to_json() == ANSWER


def test_a_decision_survives_pickling() -> None:
    decision = Decision.from_json(ANSWER)
    assert pickle.loads(pickle.dumps(decision)) == decision


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if isinstance(value, dict):
        for key, item in value.items():
            found += _paths(item, (*path, key))
    return found


def _changed(path: tuple[Any, ...], change: str) -> dict[str, Any]:
    answer = copy.deepcopy(ANSWER)
    holder: Any = answer
    for key in path[:-1]:
        holder = holder[key]
    if change == "missing":
        del holder[path[-1]]
    elif change == "null":
        holder[path[-1]] = None
    elif change == "extra":
        holder[path[-1] + "_more"] = 1
    else:
        holder[path[-1]] = {"an": "object"} if not isinstance(holder[path[-1]], dict) else "text"
    return answer


# Below these keys, names are data: a column or a resource may be called anything, and a filter is checked elsewhere.
_OPEN = {("resources",), ("resources", "r0", "columns")}
_NULL_IS_A_VALUE = {"expires_at", "cache_until"}
_FILTER = ("resources", "r0", "row_filter")


@pytest.mark.parametrize("change", ["missing", "null", "extra", "type"])
def test_every_field_that_is_missing_null_extra_or_of_another_type_is_a_refusal(change: str) -> None:
    for path in _paths(ANSWER):
        if path[:3] == _FILTER and len(path) > 3:
            continue
        named = path[:-1] in _OPEN
        optional = path[-1] in ("in_predicate",) or (path[-1] == "key" and "mask" in path)
        if (change in ("missing", "extra") and named) or (change == "missing" and optional):
            continue
        if change == "null" and path[-1] in _NULL_IS_A_VALUE:
            continue
        with pytest.raises(TidegateError) as caught:
            Decision.from_json(_changed(path, change))
        assert caught.value.code is Code.POLICY_UNAVAILABLE, path


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("version",), 2),
        (("version",), True),
        (("resources", "r0", "constraints", "mode"), "everything"),
        (("resources", "r0", "columns", "tailnum", "mask"), {"kind": "rot13"}),
        (("resources", "r0", "columns", "tailnum", "mask"), {"kind": "bucket", "width": 0}),
        (("resources", "r0", "columns", "tailnum", "mask"), {"kind": "last_n", "n": 99}),
        (("resources", "r0", "columns", "tailnum", "mask"), {"kind": "null", "value": 1}),
        (("resources", "r0", "columns", "tailnum", "mask"), {"kind": "hash", "key": "broker"}),
        (("resources", "r0", "columns", "delay"), {"access": "plain", "mask": {"kind": "null"}}),
        (("resources", "r0", "columns", "delay"), {"access": "masked"}),
        (("resources", "r0", "columns", "delay"), {"access": "plain", "in_predicate": "allow"}),
        (("resources", "r0", "constraints", "min_group_size"), 0),
        (("resources", "r0", "constraints", "max_rows"), True),
        (("resources", "r0", "row_filter"), []),
    ],
)
def test_unknown_values_are_a_refusal(path: tuple[str, ...], value: Any) -> None:
    answer = copy.deepcopy(ANSWER)
    holder: Any = answer
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    with pytest.raises(TidegateError):
        Decision.from_json(answer)


MEMBERS = ("rail", "road", "air")
FIELDS = st.sampled_from(["a", "b", "c"])
RULES = (
    st.just({"access": "plain"})
    | st.just({"access": "deny"})
    | st.just({"access": "masked", "mask": {"kind": "null"}})
    | st.just({"access": "masked", "mask": {"kind": "last_n", "n": 4}, "in_predicate": "deny"})
)
FILTERS = st.just({}) | st.builds(
    lambda field, value: {"type": "field", "field": field, "operator": "eq", "value": value}, FIELDS, st.integers(0, 3)
)
ANSWERS = st.builds(
    lambda allow, row_filter, columns, mode, size, rows, aggregates, keys: {
        **ANSWER,
        "allow": allow,
        "resources": {
            "r0": {
                "allow": allow,
                "row_filter": row_filter,
                "columns": columns,
                "constraints": {
                    **ANSWER["resources"]["r0"]["constraints"],
                    "mode": mode,
                    "min_group_size": size,
                    "max_rows": rows,
                    "allowed_aggregates": aggregates,
                    "keys_may_go_to": keys if mode == "rows" else [],
                },
            }
        },
    },
    st.booleans(),
    FILTERS,
    st.dictionaries(FIELDS, RULES),
    st.sampled_from(MODES),
    st.integers(1, 50),
    st.integers(0, 1000),
    st.lists(st.sampled_from(["count", "sum", "avg"]), unique=True),
    st.just(["*"]) | st.lists(st.sampled_from(MEMBERS), unique=True),
)
_STRICTNESS = {"deny": 0, "masked": 1, "plain": 2}


@given(ANSWERS, ANSWERS)
def test_composing_never_permits_more_than_either(left: Any, right: Any) -> None:
    first, second = Decision.from_json(left), Decision.from_json(right)
    both = intersect(first, second)
    assert both.allow <= (first.allow and second.allow)
    rule = both.resources["r0"]
    for part in (first.resources["r0"], second.resources["r0"]):
        for column in ("a", "b", "c"):
            assert _STRICTNESS[rule.rule(column).access] <= _STRICTNESS[part.rule(column).access]
            mask = part.rule(column).mask
            if mask is not None and rule.rule(column).access == "masked":
                assert rule.rule(column).mask == mask
            if part.rule(column).in_predicate_denied and rule.rule(column).access != "deny":
                assert rule.rule(column).in_predicate_denied
        assert MODES.index(rule.constraints.mode) <= MODES.index(part.constraints.mode)
        assert rule.constraints.min_group_size >= part.constraints.min_group_size
        assert rule.constraints.max_rows <= part.constraints.max_rows
        for member in MEMBERS:
            assert rule.constraints.keys_may_go(member) <= part.constraints.keys_may_go(member)
        if part.row_filter:
            held = rule.row_filter
            assert held == part.row_filter or part.row_filter in held["value"]


@pytest.mark.parametrize(
    ("left", "right", "both"),
    [
        (["*"], ["*"], ("*",)),
        (["*"], ["rail", "air"], ("rail", "air")),
        (["rail", "air"], ["*"], ("rail", "air")),
        (["rail", "air"], ["air", "road"], ("air",)),
        (["rail", "*"], ["air"], ("air",)),
        (["rail"], [], ()),
        (["*"], [], ()),
    ],
)
def test_keys_go_where_both_let_them_go(left: list[str], right: list[str], both: tuple[str, ...]) -> None:
    first, second = (Decision.from_json(_keys(names)) for names in (left, right))
    assert intersect(first, second).resources["r0"].constraints.keys_may_go_to == both


def test_keys_of_groups_go_nowhere() -> None:
    rows, groups = Decision.from_json(_keys(["*"])), Decision.from_json(_keys(["*"], mode="aggregate"))
    assert rows.keys_may_go(["r0"], "rail")
    assert not groups.keys_may_go(["r0"], "rail")
    assert intersect(rows, groups).resources["r0"].constraints.keys_may_go_to == ()


def test_keys_of_an_answer_need_the_permission_of_all_that_is_in_it() -> None:
    decision = Decision.from_json(_keys(["rail", "air"]))
    resource = decision.resources["r0"]
    only_air = replace(resource, constraints=replace(resource.constraints, keys_may_go_to=("air",)))
    both = replace(decision, resources={"r0": resource, "r1": only_air})
    assert both.keys_may_go(["r0"], "rail") and both.keys_may_go(["r0", "r1"], "air")
    assert not both.keys_may_go(["r0", "r1"], "rail")
    assert not replace(both, allow=False).keys_may_go(["r0"], "air")
    refused = replace(both, resources={"r0": replace(resource, allow=False)})
    assert not refused.keys_may_go(["r0"], "air")


def _keys(names: list[str], mode: str = "rows") -> dict[str, Any]:
    answer = copy.deepcopy(ANSWER)
    answer["resources"]["r0"]["constraints"] |= {"keys_may_go_to": names, "mode": mode}
    return answer


@given(ANSWERS)
def test_composing_with_itself_changes_nothing(answer: Any) -> None:
    decision = Decision.from_json(answer)
    assert intersect(decision, decision) == decision


def test_a_resource_that_one_side_does_not_name_is_denied() -> None:
    first = Decision.from_json(ANSWER)
    second = Decision.from_json({**ANSWER, "resources": {}})
    assert intersect(first, second).allow is False


def test_two_different_masks_on_one_column_deny_it() -> None:
    other = copy.deepcopy(ANSWER)
    other["resources"]["r0"]["columns"]["tailnum"] = {"access": "masked", "mask": {"kind": "null"}}
    both = intersect(Decision.from_json(ANSWER), Decision.from_json(other))
    assert both.resources["r0"].rule("tailnum").access == "deny"

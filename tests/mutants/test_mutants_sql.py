"""Mutants: each breaks one rule of the planner, and a named check of the suites must then fail.

A check that passes under its mutant has no teeth. Every mutant is first run unbroken, so that it fails for its reason alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlglot import exp

from tests.contract import test_differential as differential
from tests.fakes.differential_queries import GROUPS, Question
from tests.property import test_sql_restriction as properties
from tests.unit.sql import test_filters, test_masks, test_pushdown, test_restrict, test_structure
from tidegate.core import decision as decisions
from tidegate.sql import aggregates, carve, filters, masks, pushdown, restrict, structure, subjects
from tidegate.sql.passes import ALL

Check = Callable[[], object]


def dies(check: Check, monkeypatch: pytest.MonkeyPatch, target: Any, name: str, value: Any) -> None:
    """Run a check unbroken, then with the mutant: it must pass, then fail."""
    check()
    with monkeypatch.context() as patch:
        if isinstance(target, dict):
            patch.setitem(target, name, value)
        else:
            patch.setattr(target, name, value)
        try:
            check()
        except BaseException as error:  # an assertion, a refusal, an error of the engine: all of them are noticed
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            return
    raise AssertionError(f"the mutant of {name} survived {check}")


def answers(questions: list[Question]) -> Check:
    """Make a check of the differential suite over some queries, with no policy."""

    def check() -> None:
        for question in questions:
            expected = differential.comparable(differential.answer(differential.WORLD.local, question))
            assert differential.comparable(differential.WORLD.run(question.sql, question.parameters).rows) == expected

    return check


# -- the pushdown table ---------------------------------------------------------------------------------------------

TURNED: dict[pushdown.Rule, tuple[pushdown.Rule, ...]] = {
    "yes": ("null", "no"),
    "null": ("yes", "no"),
    "no": ("yes", "null"),
}
CELL_MUTANTS = [(kind, place, wrong) for (kind, place), rule in test_pushdown.CELLS.items() for wrong in TURNED[rule]]


def cell(kind: str, place: pushdown.Place) -> None:
    """Check a cell of the pass that copies conjuncts, with the pass off that would take them over."""
    if kind != "INNER":
        test_pushdown.check_cell(kind, place)
        return
    # Inner joins that come first are cross joins with a WHERE by then; one that comes after a LEFT join is what it says.
    side = "c" if place.endswith("left") else "b"
    for condition in (f"{side}.n > 12", f"{side}.n IS NULL"):
        where, on = (f" WHERE {condition}", "") if place.startswith("where") else ("", f" AND {condition}")
        sql = f"SELECT c.k, c.n, b.n FROM land.c c LEFT JOIN rail.d d ON c.k = d.k JOIN sea.b b ON b.k = c.k{on}{where}"
        assert test_pushdown.pushes(sql, "land.c" if side == "c" else "sea.b") == (1, 0)
        test_pushdown.same_answer(sql)


@pytest.mark.parametrize(("kind", "place", "wrong"), CELL_MUTANTS, ids=lambda item: str(item))
def test_cell_turned_fails_its_check(kind: str, place: Any, wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_pushdown.WORLD, "passes", replace(ALL, subtrees=False))
    dies(lambda: cell(kind, place), monkeypatch, pushdown.JOIN_RULES[kind], place, wrong)


WRONG_ANSWERS = [(kind, place) for (kind, place), rule in test_pushdown.CELLS.items() if rule != "yes"]


@pytest.mark.parametrize(("kind", "place"), WRONG_ANSWERS, ids=lambda item: str(item))
def test_cell_that_pushes_too_much_gives_a_wrong_answer(kind: str, place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only what is pushed changes: the differential suite sees a wrong answer."""
    dies(lambda: test_pushdown.check_cell_answers(kind, place), monkeypatch, pushdown.JOIN_RULES[kind], place, "yes")


def _some(group: str, *words: str) -> list[Question]:
    found = [question for question in GROUPS[group]() if any(word in question.sql for word in words)]
    assert found
    return found


CHAINS = answers(_some("chains", "FULL JOIN land.c c ON c.p", "RIGHT JOIN land.c c ON c.p"))
SUBSELECTS = answers(_some("subqueries", "LIMIT", "OFFSET") + _some("ctes_and_windows", "AS r", "DISTINCT ON"))


def test_null_rejection_not_proven_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    dies(
        answers(_some("join_matrix", "LEFT JOIN", "FULL JOIN")), monkeypatch, pushdown, "rejects_null", lambda *_: True
    )


def test_later_outer_join_forgotten_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    real = pushdown.place_rule

    def own_join_only(position: int, join: int | None, kinds: list[str]) -> pushdown.Rule:
        return real(position, join, [kind if number < position else "INNER" for number, kind in enumerate(kinds)])

    dies(CHAINS, monkeypatch, pushdown, "place_rule", own_join_only)


def test_group_keys_forgotten_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    dies(SUBSELECTS, monkeypatch, pushdown, "_keys_only", lambda *_: True)


def test_window_partitions_forgotten_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    dies(SUBSELECTS, monkeypatch, pushdown, "_partitions", lambda *_: [])


@pytest.mark.parametrize("key", ["limit", "offset", "distinct"])
def test_modifier_forgotten_fails(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = pushdown._Pusher._into

    def forgetful(self: Any, select: exp.Select, incoming: Any) -> Any:
        bare = select.copy()
        bare.set(key, None)
        return real(self, bare, incoming)

    dies(SUBSELECTS, monkeypatch, pushdown._Pusher, "_into", forgetful)


def test_or_with_a_branch_that_says_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    real = pushdown._implied

    def first_branch(tree: exp.Expr, alias: str) -> exp.Expr | None:
        found = real(tree, alias)
        bare = tree.unnest()
        return (
            real(bare.left, alias) or real(bare.right, alias) if found is None and isinstance(bare, exp.Or) else found
        )

    dies(
        answers(_some("null_logic", " OR ") + _some("join_matrix", " OR ")),
        monkeypatch,
        pushdown,
        "_implied",
        first_branch,
    )


def test_cte_that_is_mentioned_twice_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(self: Any, source: exp.Expr, alias: str) -> Any:
        return self._lineage.derived.get(alias)

    dies(answers(_some("ctes_and_windows", "FROM q x JOIN q y")), monkeypatch, pushdown._Pusher, "_derived", careless)


def test_fragment_shared_between_different_conditions_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    real = carve.Carve._key

    def careless(self: Any, unit: Any, tree: Any, reductions: Any) -> Any:
        bare = tree.copy()
        bare.set("where", None)
        return real(self, unit, bare, reductions)

    sql = "SELECT x.n, y.n FROM air.a x LEFT JOIN sea.b b ON x.k = b.k LEFT JOIN air.a y ON y.n = b.n WHERE x.n > 20"
    dies(answers([Question(sql)]), monkeypatch, carve.Carve, "_key", careless)


# -- masks, filters, decisions --------------------------------------------------------------------------------------

MASK_CHECKS: dict[str, Check] = {
    "null": lambda: test_masks.test_constant_is_of_the_columns_type(None, "VARCHAR", None) or mask_hides("null", {}),
    "constant": lambda: mask_hides("constant", {"value": "x"}),
    "truncate_date": test_masks.test_truncate_date_truncates_and_keeps_the_type,
    "bucket": test_masks.test_bucket_is_the_lower_bound_of_its_bucket_also_below_zero_and_at_the_edge,
    "last_n": test_masks.test_last_n_shows_nothing_of_a_short_value_and_hides_the_length,
    "redact": test_masks.test_redact_hides_texts_and_nulls_other_types,
}


def mask_hides(kind: str, arguments: dict[str, Any]) -> None:
    found, _ = test_masks.apply(decisions.Mask(kind, arguments), "VARCHAR", ["secret"])
    assert found != ["secret"]


@pytest.mark.parametrize("kind", MASK_CHECKS)
def test_mask_that_lets_through_fails(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dies(MASK_CHECKS[kind], monkeypatch, masks._KINDS, kind, lambda column, *_: column.copy())


@pytest.mark.parametrize(
    "check",
    [
        test_masks.test_hash_is_the_hmac_of_the_text,
        test_masks.test_pseudonym_is_the_first_half_of_the_hmac_under_the_recipients_key,
        lambda: masked_answers(),
    ],
    ids=["hash", "pseudonym", "differential"],
)
def test_keyed_mask_without_its_key_fails(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    real = masks.hmac_hex
    dies(check, monkeypatch, masks, "hmac_hex", lambda key, text: real(b"", text))


def policy_answers(kind: str) -> None:
    question = Question("SELECT a.k, a.s, a.d, b.n FROM air.a a JOIN sea.b b ON a.k = b.k")
    change, policy = {
        "filter": (lambda _, row: row, differential.FILTERED),
        "mask": (differential.masked, differential.FILTERED_AND_MASKED),
    }[kind]
    expected = differential.comparable(
        differential.answer(differential.restricted(differential.WORLD, change), question)
    )
    assert differential.comparable(differential.WORLD.run(question.sql, policy=policy).rows) == expected


def masked_answers() -> None:
    policy_answers("mask")


def test_row_filter_forgotten_fails_the_differential_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    dies(lambda: policy_answers("filter"), monkeypatch, filters, "predicate", lambda *_: None)


def test_masks_forgotten_fail_the_differential_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    dies(masked_answers, monkeypatch, masks, "expression", lambda mask, column, *_: column.copy())


def test_filter_that_keeps_null_rows_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    real = filters.predicate

    def not_false(*arguments: Any) -> exp.Expr | None:
        found = real(*arguments)
        return None if found is None else exp.Not(this=exp.Is(this=found.this, expression=exp.false()))

    def check() -> None:
        for tree, passes in test_filters.CASES:
            test_filters.test_filter_passes_the_rows_that_python_passes(tree, passes)

    dies(check, monkeypatch, filters, "predicate", not_false)


def test_intersection_that_takes_the_first_fails_the_property(monkeypatch: pytest.MonkeyPatch) -> None:
    first = decisions.ResourceDecision(
        True, {}, test_structure.PLAIN, decisions.Constraints("rows", 1, "", (), 9, False, 0, ())
    )
    second = replace(
        first,
        row_filter=test_restrict.FILTER,
        columns=test_structure.PLAIN | {"s": decisions.ColumnRule("masked", decisions.Mask("null", {}))},
    )
    inner = properties.test_more_policy_never_permits_more.hypothesis.inner_test  # type: ignore[attr-defined]

    def check() -> None:
        for pair in ((first, second), (second, first)):
            inner(
                sql="SELECT q.k, q.n, q.s, q.m, q.b FROM air.a q", first={"air.a": pair[0]}, second={"air.a": pair[1]}
            )

    dies(check, monkeypatch, properties, "intersect", lambda ours, theirs: ours)


def test_denied_column_let_through_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(*_: Any) -> None:
        return None

    dies(test_structure.test_denied_column_refuses_and_is_named, monkeypatch, structure, "_columns", careless)


def test_masked_join_let_through_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def check() -> None:
        test_structure.test_masked_columns_compare_across_departments_only_under_one_shared_key(
            test_structure.ACROSS[0]
        )

    dies(check, monkeypatch, structure, "_masked_joins", lambda *_: None)


def test_instance_that_is_not_restricted_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    real = restrict._restriction

    def whole(leaf: Any, resource: Any, *arguments: Any) -> Any:
        return real(leaf, replace(resource, row_filter={}) if leaf.ref == "r1" else resource, *arguments)

    check = answers_filtered("SELECT x.k, y.n FROM air.a x JOIN air.a y ON x.k = y.k")
    dies(check, monkeypatch, restrict, "_restriction", whole)


def answers_filtered(sql: str) -> Check:
    def check() -> None:
        expected = differential.answer(differential.restricted(differential.WORLD, lambda _, row: row), Question(sql))
        found = differential.WORLD.run(sql, policy=differential.FILTERED).rows
        assert differential.comparable(found) == differential.comparable(expected)

    return check


# -- mode aggregate -------------------------------------------------------------------------------------------------


def test_subjects_counted_without_distinct_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from tidegate.sql.nodes import AggregateCall

    def check() -> None:
        test_structure.test_join_fan_out_does_not_make_one_person_many("city.patients")

    dies(
        check,
        monkeypatch,
        subjects.callnames,
        "count_distinct",
        lambda column: AggregateCall(this="count", expressions=[column]),
    )


def test_floor_of_one_part_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(subjects, "max", max, raising=False)
        dies(test_structure.test_strictest_minimum_of_the_parts_holds, monkeypatch, subjects, "max", min)


@pytest.mark.parametrize("name", ["_modifiers", "_conditions", "_key", "_aggregate"])
def test_check_of_mode_aggregate_forgotten_fails(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def check() -> None:
        for sql in test_structure.BYPASSES:
            test_structure.test_bypass_is_refused(sql)

    dies(check, monkeypatch, aggregates._Check, name, lambda *_: None)

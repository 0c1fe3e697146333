from __future__ import annotations

import pickle

import pytest
from sqlglot import exp

from tests.sql_world import SCHEMA, dataset
from tidegate.core.errors import CallerError, Code
from tidegate.core.names import DatasetName
from tidegate.sql.model import Role
from tidegate.sql.plan import plan
from tidegate.sql.render import render


def text(sql: str, *params: object) -> str:
    bound = plan(sql, SCHEMA, params)  # type: ignore[arg-type]
    return render(bound.tree, bound.parameters).text


def code(sql: str, *params: object) -> Code:
    with pytest.raises(CallerError) as caught:
        plan(sql, SCHEMA, params)  # type: ignore[arg-type]
    return caught.value.code


def test_nothing_of_the_callers_text_is_left() -> None:
    rendered = text(
        "WITH mine AS (SELECT carrier AS nick FROM aviation.flights WHERE dest = 'x') SELECT nick AS out FROM mine AS m"
    )
    assert not any(word in rendered for word in ("mine", "nick", "'x'", " m", "out"))


def test_every_instance_is_a_leaf_of_its_own() -> None:
    bound = plan(
        "SELECT count(*) FROM aviation.flights a JOIN aviation.flights b USING (day) WHERE EXISTS (FROM aviation.flights)",
        SCHEMA,
    )
    assert [leaf.ref for leaf in bound.leaves] == ["r0", "r1", "r2"]
    tables = [table for table in bound.tree.find_all(exp.Table) if table.args.get("db")]
    assert sorted(table.alias for table in tables) == ["r0", "r1", "r2"]


def test_an_alias_that_holds_a_sub_query_is_a_new_instance_at_each_use() -> None:
    bound = plan("SELECT (SELECT max(temp) FROM weather.hours) AS m, m + 1 AS n FROM aviation.flights", SCHEMA)
    assert len(bound.leaves) == 3


def test_a_cte_shadows_only_names_without_a_department() -> None:
    assert "aviation" not in text("WITH flights AS (SELECT 1 AS a) SELECT * FROM flights")
    assert '"aviation"."flights"' in text("WITH flights AS (SELECT 1 AS a) SELECT carrier FROM aviation.flights")


def test_a_collection_is_the_union_of_its_parts_and_reads_what_is_asked() -> None:
    bound = plan("SELECT kind FROM city.permits", SCHEMA)
    assert [(str(leaf.dataset), str(leaf.collection), set(leaf.columns)) for leaf in bound.leaves] == [
        ("north.permits", "city.permits", {"kind"}),
        ("south.permits", "city.permits", {"kind"}),
    ]


def test_a_collection_with_a_part_that_must_not_be_known_is_unknown() -> None:
    schema = {name: item for name, item in SCHEMA.items() if str(name) != "south.permits"}
    with pytest.raises(CallerError) as caught:
        plan("SELECT kind FROM city.permits", schema)
    assert caught.value.code is Code.PLAN_UNKNOWN_DATASET


def test_unknown_forbidden_and_withdrawn_look_alike() -> None:
    assert (
        code("FROM secret.files")
        is code("FROM north.old")
        is code("FROM aviation.nothing")
        is Code.PLAN_UNKNOWN_DATASET
    )


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT nothing FROM aviation.flights", Code.PLAN_UNKNOWN_COLUMN),
        ("SELECT f FROM aviation.flights AS f", Code.PLAN_UNKNOWN_COLUMN),
        ("SELECT tg_subject FROM aviation.flights", Code.PLAN_UNKNOWN_COLUMN),
        ("SELECT day FROM aviation.flights, weather.hours", Code.PLAN_AMBIGUOUS),
        ("SELECT x.carrier FROM aviation.flights AS x, aviation.flights AS x", Code.PLAN_AMBIGUOUS),
        ("WITH a AS (SELECT 1), A AS (SELECT 2) SELECT 1", Code.PLAN_AMBIGUOUS),
        ("SELECT carrier FROM aviation.flights ORDER BY 2", Code.PLAN_UNKNOWN_COLUMN),
        ("SELECT $1", Code.PLAN_PARAMETERS),
    ],
)
def test_names_without_one_meaning_are_refused(sql: str, expected: Code) -> None:
    assert code(sql) is expected


def test_a_parameter_that_is_not_named_is_refused() -> None:
    assert code("SELECT $1", 1, 2) is Code.PLAN_PARAMETERS


def test_a_fragment_keeps_its_refs_and_may_read_the_subject() -> None:
    schema = {DatasetName("d", "t"): dataset("d.t", {"a": "BIGINT"})}
    bound = plan('SELECT "r5"."tg_subject" AS "c0", "r5"."a" AS "c1" FROM "d"."t" AS "r5"', schema, fragment=True)
    assert [(leaf.ref, set(leaf.columns)) for leaf in bound.leaves] == [("r5", {"tg_subject", "a"})]
    assert '"tg_subject"' not in render(plan('FROM "d"."t" AS "r5"', schema, fragment=True).tree, ()).text


def test_roles_follow_a_column_through_a_sub_query() -> None:
    bound = plan(
        "SELECT c, sum(x) FROM (SELECT carrier AS c, dep_delay AS x, origin AS o FROM aviation.flights) AS q "
        "WHERE o = 'JFK' GROUP BY c ORDER BY max(x)",
        SCHEMA,
    )
    columns = bound.leaves[0].columns
    assert columns["carrier"] == {Role.OUTPUT, Role.GROUP}
    assert columns["origin"] == {Role.PREDICATE}
    assert columns["dep_delay"] == {Role.AGGREGATE, Role.ORDER}
    assert bound.shape["aggregated"] is True
    assert bound.shape["group_by"] == ["r0.carrier"]
    assert bound.shape["functions"] == ["max", "sum"]


def test_joins_are_described_by_their_columns() -> None:
    bound = plan("SELECT f.carrier FROM aviation.flights f LEFT JOIN weather.hours h ON f.origin = h.origin", SCHEMA)
    assert bound.shape["joins"] == [{"left": "r0.origin", "right": "r1.origin", "type": "left"}]
    assert bound.leaves[1].columns == {"origin": frozenset({Role.JOIN})}


def test_the_callers_names_are_kept_beside_the_tree() -> None:
    bound = plan('SELECT carrier AS "a b", count(*), 1 AS x, 2 AS x FROM aviation.flights GROUP BY 1', SCHEMA)
    assert bound.output_names == ("a b", "count_star()", "x", "x")
    assert [item.alias for item in bound.tree.expressions] == ["c0", "c1", "c2", "c3"]


def test_equal_texts_share_one_parameter() -> None:
    bound = plan("SELECT 'a', 'b', 'a' FROM aviation.flights WHERE carrier = 'a'", SCHEMA)
    assert bound.parameters == ("a", "b")


def test_a_bound_query_survives_pickling() -> None:
    bound = plan("SELECT carrier, sum(dep_delay) OVER (ORDER BY day) FROM aviation.flights WHERE dest = 'x'", SCHEMA)
    again = pickle.loads(pickle.dumps(bound))
    assert render(again.tree, again.parameters) == render(bound.tree, bound.parameters)
    assert again == bound

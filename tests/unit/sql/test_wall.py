from __future__ import annotations

import duckdb
import pytest

from tests.sql_world import TABLES, Case, cases
from tidegate.core.errors import CallerError, InternalError
from tidegate.sql import walllist
from tidegate.sql.functions import FUNCTIONS
from tidegate.sql.model import RenderedSql
from tidegate.sql.wall import check, check_text

COLUMNS_ONLY = ("rowid", "filename", "tg_subject", "secret FROM aviation")  # binding refuses these, not this wall
READS = [
    case
    for case in cases("escapes")
    if case.kind in ("file", "catalogue", "dynamic") and not any(word in case.sql for word in COLUMNS_ONLY)
]


def test_a_text_of_ours_passes() -> None:
    check(RenderedSql('SELECT "r0"."a" AS "c0" FROM "d"."t" AS "r0" WHERE ("r0"."a" = $1)', ("x",)), frozenset({"d.t"}))
    check(RenderedSql('SELECT count(*) AS "c0" FROM "f0" AS "a0"', ()), frozenset({"f0"}))


@pytest.mark.parametrize(
    ("sql", "params"),
    [
        ('SELECT 1 FROM "d"."u"', ()),
        ('SELECT 1 FROM "t"', ()),
        ('SELECT 1 FROM "x"."d"."t"', ()),
        ('SELECT 1 FROM "d.t"', ()),
        ("SELECT 'x'", ()),
        ("SELECT * FROM d.t", ()),
        ("SELECT $1", ()),
        ("SELECT 1", ("x",)),
        ("SELECT $2", ("x",)),
        ("SELECT current_setting($1)", ("x",)),
        ("SELECT 1; SELECT 2", ()),
        ("SELECT 1 FROM range(3)", ()),
        ("SELECT 1 FROM d.t POSITIONAL JOIN d.t AS b", ()),
        ("SELECT a COLLATE nocase FROM d.t", ()),
        ("DROP TABLE d.t", ()),
        ("SELECT 1 FROM d.t USING SAMPLE 5", ()),
        ("WITH RECURSIVE r AS (SELECT 1 UNION ALL SELECT 1 FROM r) SELECT 1 FROM r", ()),
    ],
)
def test_what_the_planner_did_not_mean_is_our_own_fault(sql: str, params: tuple[str, ...]) -> None:
    with pytest.raises(InternalError) as caught:
        check(RenderedSql(sql, params), frozenset({"d.t"}))
    assert caught.value.message == "an internal error"


@pytest.mark.parametrize("case", READS, ids=lambda case: f"{case.id}-{case.kind}")
def test_this_wall_alone_stops_what_reads_files_catalogues_or_runs_sql(case: Case) -> None:
    with pytest.raises(CallerError):
        check_text(case.sql, TABLES)


def test_every_admitted_function_is_on_this_list_too() -> None:
    # written twice on purpose; a name on one list alone could never be used
    grammar = {"grouping", "grouping_id", "percentile_cont", "percentile_disc"}
    assert set(FUNCTIONS) - walllist.FUNCTIONS - grammar == set()


def test_every_listed_function_exists_in_this_duckdb() -> None:
    known = {row[0].lower() for row in duckdb.execute("SELECT function_name FROM duckdb_functions()").fetchall()}
    windows = {"row_number", "rank", "dense_rank", "percent_rank", "cume_dist", "ntile", "lag", "lead"}
    windows |= {"first_value", "last_value", "nth_value"}
    grammar = {
        "coalesce",
        "grouping",
        "grouping_id",
        "ifnull",
        "percentile_cont",
        "percentile_disc",
        "current_timestamp",
    }
    assert set(FUNCTIONS) - known - windows - grammar == set()

"""The Python client's own ways to an answer: Arrow's C stream, ibis expressions, the notebook; each against a local DuckDB."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import duckdb
import ibis
import pandas
import polars
import pytest
from ibis import _
from IPython.core.interactiveshell import InteractiveShell

import tidegate
from tests.federation.connect_world import OTHER, PURPOSE, VISITS, ConnectWorld, connect_world, local_engine
from tidegate.client.session import Session
from tidegate.core.errors import Code, TidegateError

pytestmark = pytest.mark.xdist_group("federation-connect")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConnectWorld]:
    with connect_world(tmp_path_factory.mktemp("connect")) as made:
        yield made


@pytest.fixture(scope="module")
def session(world: ConnectWorld) -> Iterator[Session]:
    with world.connect() as made:
        yield made


@pytest.fixture(scope="module")
def local() -> Iterator[duckdb.DuckDBPyConnection]:
    with local_engine() as engine:
        yield engine


def fails(session: Session, query: Any, **options: Any) -> TidegateError:
    with pytest.raises(TidegateError) as caught:
        session.query(query, **options)
    return caught.value


# libraries that take Arrow's C stream

QUESTION = (
    "SELECT district, count(*) AS n, sum(minutes) AS minutes FROM parking.visits GROUP BY district ORDER BY district"
)


def test_polars_duckdb_and_pandas_take_a_result_as_it_is(session: Session, local: duckdb.DuckDBPyConnection) -> None:
    expected = local.sql(QUESTION).fetchall()
    result = session.query(QUESTION)
    assert duckdb.sql("SELECT * FROM result ORDER BY district").fetchall() == expected
    assert polars.DataFrame(result).rows() == expected
    assert [tuple(row) for row in pandas.DataFrame.from_arrow(result).itertuples(index=False)] == expected
    assert result.to_polars().equals(polars.DataFrame(result))
    assert result.to_pandas()["n"].tolist() == [row[1] for row in expected]
    assert ibis.memtable(result.to_arrow()).count().execute() == len(expected)


def test_a_reader_streams_into_duckdb_and_the_answer_is_verified_afterwards(session: Session) -> None:
    result = session.query("SELECT * FROM parking.visits")
    reader = result.reader()  # noqa: F841 - DuckDB finds it by its name
    assert duckdb.sql("SELECT count(*), count(DISTINCT id) FROM reader").fetchall() == [(VISITS, VISITS)]
    assert result.finished.rows == VISITS
    result.verify()


def test_an_answer_shows_in_text_and_html_what_was_left_out(session: Session) -> None:
    result = session.query("SELECT * FROM parking.visits")
    assert "not read yet" in repr(result)
    page = result._repr_html_()
    assert "not shown, and not in *: plate" in page
    assert f"{VISITS} rows, 20 shown" in page
    assert page.count("<tr>") == 1 + 20
    assert f"{VISITS} rows, 7 columns" in repr(result)


def test_html_that_lies_in_the_data_is_shown_and_not_run(session: Session) -> None:
    page = session.query('SELECT note, note AS "<img src=x>" FROM parking.notes')._repr_html_()
    assert "<script" not in page
    assert "<img" not in page
    assert "\u202e" not in page
    assert "&lt;script&gt;" in page


# ibis


def shapes(visits: Any, days: Any) -> dict[str, Any]:
    """Give the expressions that are compared: every kind that analysts write."""
    rows = visits.drop("plate") if "plate" in visits.columns else visits
    joined = rows.join(days, "day")
    return {
        "filter": rows.filter((rows.id > 10) & (rows.district == "north") & rows.hall.notnull()),
        "everything": visits.filter(_.id < 7),
        "project": rows.select("id", twice=_.minutes * 2),
        "join": joined.select("id", "sky", "rain"),
        "left join": rows.left_join(days.filter(_.rain > 2), "day").select("id", "rain"),
        "semi join": rows.semi_join(days.filter(_.sky == "wet"), "day").select("id"),
        "anti join": rows.anti_join(days.filter(_.sky == "wet"), "day").select("id"),
        "group": rows.group_by("district").agg(n=_.count(), minutes=_.minutes.sum(), mean=_.minutes.mean()),
        "having": rows.group_by("weekday").agg(n=_.count(), top=_.minutes.max()).filter(_.n > 34),
        "group of a join": joined.group_by("sky", "district").agg(n=_.count(), halls=_.hall.nunique()),
        "row number": rows.mutate(place=ibis.row_number().over(group_by="district", order_by=_.id)).filter(_.place < 3),
        "running sum": rows.mutate(
            so_far=_.minutes.sum().over(ibis.cumulative_window(group_by="district", order_by=_.id))
        ).select("id", "so_far"),
        "lag": rows.mutate(before=_.minutes.lag().over(order_by=_.id)).select("id", "before"),
        "order and limit": rows.order_by([ibis.desc("minutes"), "id"]).limit(5, offset=3),
        "distinct": rows.select("district", "weekday").distinct(),
        "case": rows.mutate(
            size=ibis.cases((_.minutes < 20, "short"), (_.minutes < 60, "middle"), else_="long"),
            free=ibis.ifelse(_.minutes == 0, 1, 0),
        ).select("id", "size", "free"),
        "cast": rows.select(
            "id", text=_.id.cast("string"), number=_.minutes.cast("float64"), day=_.day.cast("timestamp")
        ),
        "fill": rows.select("id", hall=_.hall.fill_null(-1), first=ibis.coalesce(_.hall, _.id)),
        "strings": rows.select(
            "id",
            upper=_.district.upper(),
            size=_.district.length(),
            part=_.district.substr(1, 3),
            has=_.district.contains("or"),
            other=_.district.replace("or", "OR"),
            like=_.district.like("%th"),
            found=_.district.re_search("^[ns]o"),
            both=_.district + "/" + _.weekday,
            left=_.weekday.left(2),
            trimmed=(_.weekday + "  ").strip(),
            starts=_.weekday.startswith("M"),
        ),
        "arithmetic": rows.select("id", rest=_.id % 7, whole=_.id // 7, power=_.id**2, near=(_.minutes / 3).round(2)),
        "dates": rows.select(
            "id", year=_.day.year(), month=_.day.truncate("M"), text=_.day.strftime("%d.%m.%Y"), hour=_.entered.hour()
        ),
        "days on": rows.select("id", later=_.day + ibis.interval(days=3)),
        "in": rows.filter(_.district.isin(["north", "harbour"])).select("id"),
        "in a table": rows.filter(_.day.isin(days.filter(days.rain > 3).day)).select("id"),
        "union": rows.select("district").union(days.select(district="sky"), distinct=True),
        "quantile": rows.group_by("district").agg(middle=_.minutes.quantile(0.5), spread=_.minutes.std()),
        "pivot": rows.select("district", "weekday", "minutes").pivot_wider(
            names_from="weekday", values_from="minutes", names=["Mon", "Tue"], values_agg="sum"
        ),
        "one number": rows.minutes.sum(),
        "one column": rows.district.value_counts(),
        "between": rows.filter(_.day.between(ibis.date("2024-01-03"), ibis.date("2024-01-05"))).select("id"),
    }


def same(ours: Any, theirs: Any) -> None:
    """Compare two Arrow tables as bags of rows: nothing is ordered that the query does not order."""
    assert ours.column_names == theirs.column_names

    def bag(table: Any) -> list[str]:
        rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
        return sorted(repr([_rounded(value) for value in row]) for row in rows)

    assert bag(ours) == bag(theirs)
    assert ours.num_rows > 0


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 9)
    return value.normalize() if isinstance(value, Decimal) else value


def test_ibis_expressions_give_what_a_local_duckdb_gives(session: Session, local: duckdb.DuckDBPyConnection) -> None:
    here = shapes(session.ibis.table("parking.visits"), session.ibis.table("weather.days"))
    there = ibis.duckdb.from_connection(local)
    expected = shapes(there.table("visits", database="parking"), there.table("days", database="weather"))
    assert len(here) >= 25
    for name, expression in here.items():
        try:
            # Of the local tables' own expression, by DuckDB alone: ibis would cast the answer to types that it inferred.
            there_sql = str(ibis.to_sql(expected[name], dialect="duckdb"))
            same(session.query(expression).to_arrow(), local.sql(there_sql).to_arrow_table())
        except (AssertionError, TidegateError) as error:
            raise AssertionError(f"{name}: {error}\n{ibis.to_sql(expression, dialect='duckdb')}") from error


def test_a_parameter_of_ibis_is_given_with_the_query(session: Session) -> None:
    least, visits = ibis.param("int64"), session.ibis.table("parking.visits")
    result = session.query(visits.filter(visits.id >= least).count(), params={least: 200})
    assert result.to_polars().item() == VISITS - 200
    injected = ibis.param("string")
    asked = visits.filter(visits.district == injected).count()
    assert session.query(asked, params={injected: "x' OR 'a' = 'a"}).to_polars().item() == 0
    assert fails(session, asked).code is Code.CLIENT_INPUT
    assert fails(session, asked, params={"name": "north"}).code is Code.CLIENT_INPUT


def test_an_expression_is_explained_too(session: Session) -> None:
    visits = session.ibis.table("parking.visits")
    plan = session.explain(visits.group_by("district").agg(n=_.count()))
    assert [item["department"] for item in plan.plan["fragments"]] == ["parking"]


def test_an_expression_of_another_database_or_with_rows_of_its_own_is_refused_here(session: Session) -> None:
    visits = session.ibis.table("parking.visits")
    elsewhere = ibis.duckdb.connect()
    elsewhere.raw_sql("CREATE SCHEMA parking; CREATE TABLE parking.visits AS SELECT 1 AS id")
    own = ibis.memtable({"id": [1, 2]})
    for query, words in (
        (elsewhere.table("visits", database="parking"), "another database"),
        (visits.semi_join(own, "id").select("id"), "rows of its own"),
        (7, "expected SQL or an unbound ibis expression, got a int"),
        (visits, None),
    ):
        if words is None:
            assert session.query(query).to_arrow().num_rows == VISITS
        else:
            error = fails(session, query)
            assert error.code is Code.CLIENT_INPUT
            assert words in error.message


def test_an_unknown_table_is_what_the_catalogue_says(session: Session) -> None:
    with pytest.raises(TidegateError) as caught:
        session.ibis.table("parking.nothing")
    assert caught.value.code is Code.CAT_NOT_FOUND
    unknown = ibis.table({"id": "int64"}, name="nothing", database="parking")
    assert fails(session, unknown).code is Code.PLAN_UNKNOWN_DATASET


# DB-API 2.0 (the guide's own blocks run in test_guide_connect.py)


@pytest.mark.filterwarnings("error::Warning")
def test_a_refusal_through_adbc_carries_reasons_and_a_receipt_that_verifies(
    world: ConnectWorld, session: Session
) -> None:
    module: Any = tidegate.dbapi
    with module.connect(identity=world.identity, purpose=PURPOSE) as connection, connection.cursor() as cursor:
        with pytest.raises(module.DatabaseError, match="TG-POLICY-001") as caught:
            cursor.execute("SELECT * FROM parking.fines")
        refusal = module.error_of(caught.value)
        assert refusal.reasons[0].code == "agreement_missing"
        assert session.verify_refusal(refusal).index > 0
        cursor.execute("SELECT count(*) FROM parking.visits WHERE district = ?", ("north",))
        assert cursor.fetchall() == [(VISITS // 3,)]
    with module.connect(identity=world.identity, purpose="") as connection, connection.cursor() as cursor:
        with pytest.raises(module.DatabaseError) as caught:
            cursor.execute("SELECT 1")
        assert module.error_of(caught.value).code is Code.FLIGHT_PURPOSE
    for seconds in (0, -1, 601, float("nan")):
        with pytest.raises(TidegateError) as refused:
            module.connect(identity=world.identity, deadline_s=seconds)
        assert refused.value.code is Code.CLIENT_INPUT


# the notebook


class Notebook:
    """A real shell of IPython, whose cells are run as a notebook's are."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.shell = InteractiveShell()
        self._capsys = capsys
        self("%load_ext tidegate")

    def __call__(self, cell: str) -> Any:
        """Run a cell; give its value, or raise what it raised."""
        done = self.shell.run_cell(cell)
        self.printed = "".join(self._capsys.readouterr())
        if done.error_before_exec or done.error_in_exec:
            raise done.error_before_exec or done.error_in_exec
        return done.result


@pytest.fixture
def notebook(
    world: ConnectWorld, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[[str], Any]]:
    for name in ("CONTEXT", "PURPOSE", "LEGAL_BASIS"):
        monkeypatch.delenv(f"TIDEGATE_{name}", raising=False)
    monkeypatch.setenv("TIDEGATE_HOME", str(world.home))
    made = Notebook(capsys)
    yield made
    made.shell.run_cell("%unload_ext tidegate")


def test_a_cell_is_a_query_and_its_answer_a_variable(notebook: Any) -> None:
    result = notebook("%%tidegate --out visits\nSELECT district, count(*) AS n FROM parking.visits GROUP BY 1")
    assert result.to_arrow().num_rows == 3
    assert notebook.shell.user_ns["visits"] is result
    assert "3 rows" in result._repr_html_()
    for form, kind in (("pandas", pandas.DataFrame), ("polars", polars.DataFrame)):
        notebook(f"%%tidegate --out frame --as {form}\nSELECT * FROM weather.days")
        assert isinstance(notebook.shell.user_ns["frame"], kind)
        assert len(notebook.shell.user_ns["frame"]) == 30


def test_parameters_of_a_cell_are_a_variable_or_json(notebook: Any) -> None:
    notebook("wanted = {'day': 'Mon'}")
    count = "SELECT count(*) AS n FROM parking.visits WHERE weekday = "
    expected = len(range(0, VISITS, 7))
    for line, mark in (
        ("--params wanted", "$day"),
        ("""--params '{"day": "Mon"}'""", "$day"),
        ("""--params '["Mon"]'""", "?"),
    ):
        assert notebook(f"%%tidegate {line}\n{count}{mark}").to_polars().item() == expected


def test_a_purpose_holds_for_a_cell_or_for_the_notebook(notebook: Any) -> None:
    def purpose(cell: str) -> str:
        return str(notebook(f"{cell}\nSELECT 1 FROM weather.days LIMIT 1").receipt.entry["purpose"])

    assert purpose("%%tidegate") == PURPOSE  # the context's
    assert purpose(f"%%tidegate -p {OTHER}") == OTHER
    said = notebook(f"%tidegate connect --context lin --purpose {OTHER}")
    assert said.startswith("spiffe://city/member/planning/person/lin at ")
    assert purpose("%%tidegate") == OTHER
    assert notebook("%tidegate close") == "closed"
    assert purpose("%%tidegate") == OTHER


def test_an_error_is_one_block_with_code_and_next_step(notebook: Any) -> None:
    for cell, code in (
        ("%%tidegate\nSELECT * FROM parking.fines", Code.POLICY_REFUSED),
        ("%%tidegate\nSELECT nothing FROM parking.visits", Code.PLAN_UNKNOWN_COLUMN),
        ("%%tidegate -p no.such.purpose\nSELECT * FROM parking.visits", None),
        ("%%tidegate --params nobody\nSELECT 1", Code.CLIENT_INPUT),
        ("%%tidegate --params '[\nSELECT 1", Code.CLIENT_INPUT),
        ("%%tidegate --params 7\nSELECT 1", Code.CLIENT_INPUT),
        ("%%tidegate --out 1x\nSELECT 1", Code.CLIENT_INPUT),
        ("%%tidegate --no-such-option\nSELECT 1", Code.CLIENT_INPUT),
        ("%%tidegate --deadline 0\nSELECT 1", Code.CLIENT_INPUT),
        ("%tidegate SELECT 1", Code.CLIENT_INPUT),
        ("%tidegate connect --context nobody", Code.CLIENT_NO_CONTEXT),
    ):
        with pytest.raises(TidegateError) as caught:
            notebook(cell)
        assert code in (None, caught.value.code), cell
        assert f"error {caught.value.code.value}: " in notebook.printed, cell
        assert re.search(r"^  next     \w", notebook.printed, re.M), cell
        assert "Traceback" not in notebook.printed
        assert ".py" not in notebook.printed
    refused = notebook.printed
    assert "nobody" in refused
    with pytest.raises(tidegate.Refused):
        notebook("%%tidegate\nSELECT * FROM parking.fines")
    assert "decided  by the steward of parking" in notebook.printed


def test_the_magic_goes_when_it_is_unloaded(notebook: Any) -> None:
    assert notebook("%%tidegate\nSELECT 1 AS one").to_polars().item() == 1
    notebook("%unload_ext tidegate")
    with pytest.raises(Exception, match="not found"):
        notebook("%%tidegate\nSELECT 1 AS one")

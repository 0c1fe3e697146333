"""The real JDBC driver, as DBeaver and Java services use it, over mutual TLS against a whole exchange.

tests/java/Door.java does what a line says and prints what the driver gave or threw; here is what that must be.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.federation.doors_world import (
    EXCHANGE,
    KEEPS_A_NODE_BUSY,
    OTHER_PURPOSE,
    PURPOSE,
    PURPOSE_HEADER,
    DoorsWorld,
    doors_world,
    until,
)
from tests.java.door import JavaDoor, JavaError, java_door, url
from tests.java.driver import require_java

pytestmark = pytest.mark.xdist_group("federation-jdbc")

STOPPED_S = 1.0
BUSY_S = 0.3
INTEGER, BIGINT, DOUBLE, VARCHAR, DATE = 4, -5, 8, 12, 91  # java.sql.Types


@pytest.fixture(scope="module")
def java(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JavaDoor]:
    with java_door(require_java(), tmp_path_factory.mktemp("java") / "driver.log") as opened:
        yield opened


@pytest.fixture(scope="module")
def world(java: JavaDoor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DoorsWorld]:
    with doors_world(tmp_path_factory.mktemp("jdbc")) as made:
        yield made


@pytest.fixture(scope="module")
def files(world: DoorsWorld, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The analyst's certificate, key and root as the driver wants them: three PEM files."""
    return world.pem_files(tmp_path_factory.mktemp("pem"))


@pytest.fixture(scope="module")
def door(world: DoorsWorld, java: JavaDoor, files: dict[str, str]) -> JavaDoor:
    """A connection ``c`` of the analyst for the usual purpose."""
    assert java.ask("open", "c", url(world.address, {**files, PURPOSE_HEADER: PURPOSE})) == {"valid": True}
    return java


# -- connecting -------------------------------------------------------------------------------------------------------


def test_without_a_client_certificate_there_is_no_connection(
    world: DoorsWorld, java: JavaDoor, files: dict[str, str]
) -> None:
    root = {"tlsRootCerts": files["tlsRootCerts"]}
    with pytest.raises(JavaError):
        java.ask("open", "bare", url(world.address, {**root, PURPOSE_HEADER: PURPOSE}))
        java.ask("query", "bare", "SELECT 1 AS one FROM alpha.towns")


def test_user_and_password_are_refused_with_the_way(world: DoorsWorld, java: JavaDoor, files: dict[str, str]) -> None:
    with pytest.raises(JavaError) as caught:
        java.ask("open", "named", url(world.address, {**files, "user": "ada", "password": "secret"}))
    assert "certificate" in caught.value.message + caught.value.cause
    assert "secret" not in caught.value.message + caught.value.cause


def test_the_driver_reads_what_the_exchange_is(door: JavaDoor) -> None:
    about = door.ask("about", "c")
    assert about["product"] == "Tidegate"
    assert about["version"]
    assert about["readOnly"] is True
    assert about["transactions"] is False
    assert about["quote"] == '"'


def test_a_catalog_in_the_url_opens_and_closes_a_session(
    world: DoorsWorld, java: JavaDoor, files: dict[str, str]
) -> None:
    java.ask("open", "session", url(world.address, {**files, PURPOSE_HEADER: PURPOSE, "catalog": EXCHANGE}))
    assert java.rows("query", "session", "SELECT name FROM alpha.towns WHERE id = 1") == [{"name": "Ulm"}]
    with pytest.raises(JavaError, match="Channel shutdown invoked"):
        java.ask("close", "session")  # the driver (18.3.0) closes its session a second time, after its own channel
    with pytest.raises(JavaError):
        java.ask("open", "elsewhere", url(world.address, {**files, PURPOSE_HEADER: PURPOSE, "catalog": "elsewhere"}))


# -- what there is ----------------------------------------------------------------------------------------------------


def test_catalogs_schemas_and_tables(door: JavaDoor) -> None:
    assert [row["TABLE_CAT"] for row in door.rows("catalogs", "c")] == [EXCHANGE]
    assert [row["TABLE_SCHEM"] for row in door.rows("schemas", "c")] == ["alpha", "beta"]
    assert [row["TABLE_SCHEM"] for row in door.rows("schemas", "c", EXCHANGE, "al%")] == ["alpha"]
    tables = door.rows("tables", "c", "", "alpha", "")
    assert {"towns", "rivers", "kinds", "empty", "numbers"} <= {row["TABLE_NAME"] for row in tables}
    assert {row["TABLE_TYPE"] for row in tables} <= {row["TABLE_TYPE"] for row in door.rows("tabletypes", "c")}
    assert [row["TABLE_NAME"] for row in door.rows("tables", "c", EXCHANGE, "alpha", "town_")] == ["towns"]
    assert door.rows("tables", "c", "", "alpha", "nothing") == []


def test_columns_of_a_table_with_their_types(door: JavaDoor) -> None:
    found = door.rows("columns", "c", EXCHANGE, "alpha", "towns", "")
    assert [(row["COLUMN_NAME"], int(row["DATA_TYPE"]), int(row["ORDINAL_POSITION"])) for row in found] == [
        ("id", INTEGER, 1),
        ("name", VARCHAR, 2),
        ("people", INTEGER, 3),
        ("founded", DATE, 4),
    ]
    assert {row["TABLE_SCHEM"] for row in found} == {"alpha"}
    (only,) = door.rows("columns", "c", "", "alpha", "towns", "fo%")
    assert only["COLUMN_NAME"] == "founded"


def test_keys(door: JavaDoor) -> None:
    assert [row["COLUMN_NAME"] for row in door.rows("primarykeys", "c", EXCHANGE, "alpha", "towns")] == ["id"]
    assert door.rows("importedkeys", "c", EXCHANGE, "alpha", "towns") == []


# -- asking -----------------------------------------------------------------------------------------------------------


def test_rows_and_types_of_one_department(door: JavaDoor) -> None:
    answer = door.ask("query", "c", "SELECT id, name, people, founded FROM alpha.towns ORDER BY id")
    assert [(column["label"], column["type"]) for column in answer["columns"]] == [
        ("id", INTEGER),
        ("name", VARCHAR),
        ("people", INTEGER),
        ("founded", DATE),
    ]
    assert answer["rows"] == [
        [["Integer", "1"], ["String", "Ulm"], ["Integer", "126000"], ["Date", "0854-07-22"]],
        [["Integer", "2"], ["String", "Köln"], ["Integer", "1087000"], None],
        [["Integer", "3"], None, ["Integer", "500"], ["Date", "1999-01-01"]],
        [["Integer", "4"], ["String", "深圳"], ["Integer", "17560000"], ["Date", "1979-03-05"]],
    ]


def test_rows_of_two_departments(door: JavaDoor) -> None:
    sql = "SELECT t.name, r.river, t.people * 2.0 AS twice FROM alpha.towns t JOIN beta.rivers r ON r.town = t.id ORDER BY t.id"
    assert door.rows("query", "c", sql) == [
        {"name": "Ulm", "river": "Donau", "twice": "252000.0"},
        {"name": "Köln", "river": "Rhein", "twice": "2174000.0"},
    ]


def test_no_rows_still_have_columns(door: JavaDoor) -> None:
    """The driver (18.3.0) counts the columns of a result without rows twice, whatever a server sends."""
    sql = "SELECT id, id, bigint FROM alpha.empty"
    prepared = door.ask("prepare", "c", "empty", sql)
    assert [column["type"] for column in prepared["columns"]] == [INTEGER, INTEGER, BIGINT]
    answer = door.ask("execute", "empty")
    assert answer["rows"] == []
    assert [column["type"] for column in answer["columns"]][:3] == [INTEGER, INTEGER, BIGINT]
    door.ask("release", "empty")


def test_many_rows(door: JavaDoor) -> None:
    rows = door.rows("query", "c", "SELECT x FROM alpha.numbers")
    assert sorted(int(row["x"]) for row in rows) == list(range(1, 100_001))


def test_a_prepared_statement_is_executed_twice(door: JavaDoor) -> None:
    sql = "SELECT id, name FROM alpha.towns WHERE people > ? AND id < ? ORDER BY id"
    prepared = door.ask("prepare", "c", "p", sql)
    assert prepared["parameters"] == 2
    assert [(column["label"], column["type"]) for column in prepared["columns"]] == [("id", INTEGER), ("name", VARCHAR)]
    assert [row["id"] for row in door.rows("execute", "p", "int:1000", "int:3")] == ["1", "2"]
    assert [row["id"] for row in door.rows("execute", "p", "int:1000000", "int:99")] == ["2", "4"]
    door.ask("release", "p")


@pytest.mark.parametrize(
    ("condition", "value", "ids"),
    [
        ("name = ?", "text:Köln", ["2"]),
        ("name = ?", "text:' OR 1=1 --", []),
        ("people = ?", "long:17560000", ["4"]),
        ("people > ?", "double:1086999.5", ["2", "4"]),
        ("people = ?", "decimal:500.00", ["3"]),
    ],
)
def test_parameters_of_each_kind(door: JavaDoor, condition: str, value: str, ids: list[str]) -> None:
    door.ask("prepare", "c", "kind", f"SELECT id FROM alpha.towns WHERE {condition} ORDER BY id")
    assert [row["id"] for row in door.rows("execute", "kind", value)] == ids
    door.ask("release", "kind")


@pytest.mark.parametrize(
    ("sql", "values", "rows"),
    [
        ("SELECT ? AS x", ["text:Grüße"], [{"x": "Grüße"}]),
        ("SELECT ? AS x, id FROM alpha.towns WHERE id < ?", ["text:a", "int:2"], [{"x": "a", "id": "1"}]),
        (
            "SELECT id FROM alpha.towns WHERE id = ? OR name = ? ORDER BY id",
            ["int:1", "text:Köln"],
            [{"id": "1"}, {"id": "2"}],
        ),
        ("SELECT id FROM alpha.towns WHERE id = $1 OR people = $1", ["int:500"], [{"id": "3"}]),
        (
            "SELECT r.town FROM alpha.towns t JOIN beta.rivers r ON t.id = r.town WHERE t.id = $1",
            ["int:2"],
            [{"town": "2"}],
        ),
        ("SELECT coalesce(name, ?) AS name FROM alpha.towns WHERE id = 3", ["text:nobody's"], [{"name": "nobody's"}]),
        ("SELECT people + CAST(? AS INTEGER) AS more FROM alpha.towns WHERE id = 3", ["int:7"], [{"more": "507"}]),
    ],
)
def test_parameters_that_stand_beside_nothing_or_beside_several(
    door: JavaDoor, sql: str, values: list[str], rows: list[dict[str, str]]
) -> None:
    """The driver binds what is announced and nothing else: text, where no type is to be seen."""
    prepared = door.ask("prepare", "c", "open", sql)
    assert prepared["parameters"] == len(values)
    for _ in "12":
        assert door.rows("execute", "open", *values) == rows
    door.ask("release", "open")


def test_cancel_stops_the_node_within_a_second(world: DoorsWorld, door: JavaDoor) -> None:
    ended, before = world.answered(), world.cpu_s("alpha-node1")
    door.ask("ask", "c", KEEPS_A_NODE_BUSY)
    until(lambda: world.cpu_s("alpha-node1") >= before + BUSY_S, 20)
    with pytest.raises(JavaError) as caught:
        door.ask("cancel", "c")
    until(lambda: world.answered() > ended, STOPPED_S)
    assert "cancel" in (caught.value.message + caught.value.cause).lower()
    assert door.rows("query", "c", "SELECT count(*) AS n FROM alpha.towns") == [{"n": "4"}]


# -- what is refused, and how -----------------------------------------------------------------------------------------


def refused(door: JavaDoor, *words: str) -> str:
    with pytest.raises(JavaError) as caught:
        door.ask(*words)
    said = f"{caught.value.message} {caught.value.cause}"
    assert "Traceback" not in said
    return said


def test_a_denied_query_says_why_in_words(door: JavaDoor) -> None:
    said = refused(door, "query", "c", "SELECT owner, balance FROM alpha.accounts")
    assert "TG-POLICY-001" in said
    assert "agreement" in said
    assert "person" not in said


def test_updates_are_refused(door: JavaDoor) -> None:
    for sql in ("DELETE FROM alpha.towns", "INSERT INTO alpha.towns VALUES (9, 'x', 1, NULL)"):
        assert "TG-" in refused(door, "update", "c", sql)
    assert door.rows("query", "c", "SELECT count(*) AS n FROM alpha.towns") == [{"n": "4"}]


def test_a_query_that_is_wrong_says_so(door: JavaDoor) -> None:
    assert "TG-PLAN" in refused(door, "query", "c", "SELECT nothing FROM alpha.towns")


def test_purposes(world: DoorsWorld, java: JavaDoor, files: dict[str, str]) -> None:
    sql = "SELECT name FROM alpha.towns WHERE id = 1"
    java.ask("open", "none", url(world.address, files))
    said = refused(java, "query", "none", sql)
    assert "TG-FLIGHT-004" in said
    assert PURPOSE_HEADER in said
    java.ask("open", "unknown", url(world.address, {**files, PURPOSE_HEADER: "just.curious"}))
    assert "purpose" in refused(java, "query", "unknown", sql)
    java.ask("open", "other", url(world.address, {**files, PURPOSE_HEADER: OTHER_PURPOSE}))
    assert java.rows("query", "other", sql) == [{"name": "Ulm"}]

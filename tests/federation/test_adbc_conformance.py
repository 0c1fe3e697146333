"""The real ADBC driver over mutual TLS: every call that it makes has the answer that people who use it expect.

What ADBC's Python packages offer is gone through call by call, each in a test of its own; then pandas and polars as their own
documentation shows them. Expected rows come from one local DuckDB.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import date
from typing import Any

import adbc_driver_manager as manager
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from adbc_driver_flightsql import ConnectionOptions, DatabaseOptions, StatementOptions
from adbc_driver_flightsql.dbapi import Connection
from adbc_driver_manager import dbapi

from tests.federation.doors_world import (
    EXCHANGE,
    HEADER,
    KEEPS_A_NODE_BUSY,
    OTHER_PURPOSE,
    PURPOSE,
    PURPOSE_HEADER,
    DoorsWorld,
    doors_world,
    until,
)

pytestmark = pytest.mark.xdist_group("federation-adbc")

ONE = "SELECT id, name, people, founded FROM alpha.towns ORDER BY id"
TWO = "SELECT t.name, r.river FROM alpha.towns AS t JOIN beta.rivers AS r ON r.town = t.id ORDER BY t.id"
STOPPED_S = 1.0
BUSY_S = 0.3


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DoorsWorld]:
    with doors_world(tmp_path_factory.mktemp("adbc")) as made:
        yield made


@pytest.fixture(scope="module")
def connection(world: DoorsWorld) -> Iterator[Connection]:
    with world.adbc() as opened:
        yield opened


def ask(connection: Connection, sql: str, parameters: Any = None) -> pa.Table:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetch_arrow_table()


def message(caught: pytest.ExceptionInfo[BaseException]) -> str:
    return str(caught.value)


# -- connecting, executing, parameters --------------------------------------------------------------------------------


def test_a_connection_asks_for_transactions_and_goes_on_without(world: DoorsWorld) -> None:
    """DB-API wants transactions; the driver asks for them, is told that there are none, warns, and works."""
    with pytest.warns(manager.Warning, match="autocommit"), world.adbc(autocommit=False) as opened:
        assert ask(opened, ONE).equals(world.expected(ONE))


def test_no_certificate_no_connection(world: DoorsWorld) -> None:
    identity = world.identity()
    uri = f"grpc+tls://{world.address}"
    with (
        pytest.raises(dbapi.Error),
        manager.dbapi.connect(
            driver="adbc_driver_flightsql",
            db_kwargs={"uri": uri, DatabaseOptions.TLS_ROOT_CERTS.value: identity.root_pem.decode()},
            autocommit=True,
        ) as opened,
    ):
        ask(opened, ONE)


@pytest.mark.parametrize("sql", [ONE, TWO, "SELECT count(*) AS n FROM alpha.numbers", "SELECT id FROM alpha.empty"])
def test_execute(world: DoorsWorld, connection: Connection, sql: str) -> None:
    answer = ask(connection, sql)
    assert answer.schema.equals(world.expected(sql).schema)
    assert answer.equals(world.expected(sql))


def test_execute_gives_rows_and_descriptions_as_db_api_says(connection: Connection) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT id, name FROM alpha.towns ORDER BY id")
        assert [item[0] for item in cursor.description or ()] == ["id", "name"]
        assert cursor.fetchone() == (1, "Ulm")
        assert cursor.fetchmany(2) == [(2, "Köln"), (3, None)]
        assert cursor.fetchall() == [(4, "深圳")]


def test_columns_of_the_same_name_keep_it(connection: Connection) -> None:
    answer = ask(connection, "SELECT t.id, t.id, r.town AS id FROM alpha.towns t JOIN beta.rivers r ON r.town = t.id")
    assert answer.column_names == ["id", "id", "id"]


def test_a_statement_is_run_again(connection: Connection) -> None:
    with connection.cursor() as cursor:
        for _ in range(3):
            cursor.execute("SELECT count(*) AS n FROM alpha.towns")
            assert cursor.fetchone() == (4,)


@pytest.mark.parametrize(
    ("sql", "parameters", "expected"),
    [
        ("SELECT name FROM alpha.towns WHERE id = ?", (2,), [("Köln",)]),
        ("SELECT name FROM alpha.towns WHERE id = $1", (1,), [("Ulm",)]),
        ("SELECT id FROM alpha.towns WHERE people > ? AND name <> ? ORDER BY id", (1000, "Ulm"), [(2,), (4,)]),
        ("SELECT id FROM alpha.towns WHERE name = $2 AND id < $1", (9, "深圳"), [(4,)]),
        ("SELECT id FROM alpha.towns WHERE name = ?", ("' OR 1=1 --",), []),
        ("SELECT id FROM alpha.towns WHERE founded = ?", (date(1999, 1, 1),), [(3,)]),
        (
            "SELECT t.name, r.river FROM alpha.towns t JOIN beta.rivers r ON r.town = t.id WHERE r.river = ?",
            ("Rhein",),
            [("Köln", "Rhein")],
        ),
    ],
)
def test_positional_parameters(
    connection: Connection, sql: str, parameters: tuple[Any, ...], expected: list[tuple[Any, ...]]
) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        assert cursor.fetchall() == expected


def test_a_parameter_as_a_column_has_the_type_of_its_value(connection: Connection) -> None:
    for value in (7, 2.5, "text"):
        assert ask(connection, "SELECT ? AS z, id FROM alpha.towns WHERE id = 1", (value,)).column(0).to_pylist() == [
            value
        ]


def test_a_wrong_number_of_parameters_is_refused(connection: Connection) -> None:
    for parameters in ((1, 2), ()):
        with connection.cursor() as cursor, pytest.raises(dbapi.Error) as caught:
            cursor.execute("SELECT name FROM alpha.towns WHERE id = ?", parameters)
            cursor.fetchall()
        assert "TG-PLAN" in message(caught)


def test_named_parameters_are_refused_by_the_driver_itself(connection: Connection) -> None:
    with connection.cursor() as cursor, pytest.raises(dbapi.Error, match="bind_by_name"):
        cursor.execute("SELECT name FROM alpha.towns WHERE id = $id", {"id": 2})


def test_prepare_tells_the_types_of_parameters_and_execute_follows(connection: Connection) -> None:
    with connection.cursor() as cursor:
        parameters = cursor.adbc_prepare("SELECT name FROM alpha.towns WHERE id = ? AND people > ?")
        assert parameters is not None
        assert len(parameters) == 2
        assert len(cursor.adbc_prepare("SELECT name FROM alpha.towns") or ()) == 0


# -- what there is ----------------------------------------------------------------------------------------------------


def objects(connection: Connection, **conditions: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = connection.adbc_get_objects(**conditions).read_all().to_pylist()
    return found


def test_objects_at_the_depth_of_catalogs(connection: Connection) -> None:
    (catalog,) = objects(connection, depth="catalogs")
    assert catalog["catalog_name"] == EXCHANGE
    assert catalog["catalog_db_schemas"] is None


def test_objects_at_the_depth_of_schemas(connection: Connection) -> None:
    (catalog,) = objects(connection, depth="db_schemas")
    assert [item["db_schema_name"] for item in catalog["catalog_db_schemas"]] == ["alpha", "beta"]
    assert all(item["db_schema_tables"] is None for item in catalog["catalog_db_schemas"])


def test_objects_at_the_depth_of_tables(connection: Connection) -> None:
    (catalog,) = objects(connection, depth="tables", db_schema_filter="alpha")
    (schema,) = catalog["catalog_db_schemas"]
    names = [item["table_name"] for item in schema["db_schema_tables"]]
    assert {"towns", "rivers", "kinds", "empty", "numbers"} <= set(names)
    assert len({item["table_type"] for item in schema["db_schema_tables"]}) == 1


def test_objects_at_full_depth_with_filters(connection: Connection) -> None:
    (catalog,) = objects(
        connection, depth="all", catalog_filter=EXCHANGE, db_schema_filter="al%", table_name_filter="town_"
    )
    (schema,) = catalog["catalog_db_schemas"]
    (table,) = schema["db_schema_tables"]
    assert table["table_name"] == "towns"
    assert [item["column_name"] for item in table["table_columns"]] == ["id", "name", "people", "founded"]
    assert [item["ordinal_position"] for item in table["table_columns"]] == [1, 2, 3, 4]
    types = {item["column_name"]: item["xdbc_type_name"] for item in table["table_columns"]}
    assert types == {"id": "INTEGER", "name": "VARCHAR", "people": "INTEGER", "founded": "DATE"}
    (column,) = (
        item
        for item in objects(
            connection, depth="all", db_schema_filter="alpha", table_name_filter="towns", column_name_filter="fo%"
        )[0]["catalog_db_schemas"][0]["db_schema_tables"][0]["table_columns"]
    )
    assert column["column_name"] == "founded"


@pytest.mark.parametrize(
    "conditions",
    [
        {"table_name_filter": "nothing"},
        {"db_schema_filter": "nobody"},
        {"db_schema_filter": "alpha", "table_types_filter": ["INDEX"]},
    ],
)
def test_objects_that_do_not_exist(connection: Connection, conditions: dict[str, Any]) -> None:
    found = objects(connection, depth="tables", **conditions)
    tables = [
        table
        for catalog in found
        for schema in catalog["catalog_db_schemas"] or ()
        for table in schema["db_schema_tables"] or ()
    ]
    assert tables == []


@pytest.mark.parametrize("table", ["towns", "kinds", "empty", "numbers"])
def test_a_tables_schema_is_that_of_its_rows(world: DoorsWorld, connection: Connection, table: str) -> None:
    told = connection.adbc_get_table_schema(table, db_schema_filter="alpha")
    assert told.names == world.columns[f"alpha.{table}"]
    assert told.types == ask(connection, f"SELECT * FROM alpha.{table} WHERE false").schema.types


def test_a_table_that_nobody_has_has_no_schema(connection: Connection) -> None:
    with pytest.raises(dbapi.Error, match=r"(?i)not.?found"):
        connection.adbc_get_table_schema("nothing", db_schema_filter="alpha")


def test_table_types_are_those_of_the_tables(connection: Connection) -> None:
    (catalog,) = objects(connection, depth="tables", db_schema_filter="alpha", table_name_filter="towns")
    assert catalog["catalog_db_schemas"][0]["db_schema_tables"][0]["table_type"] in connection.adbc_get_table_types()


def test_info(connection: Connection) -> None:
    told = connection.adbc_get_info()
    assert told["vendor_name"] == "Tidegate"
    assert told["vendor_version"]
    assert told["driver_name"] == "ADBC Flight SQL Driver - Go"


# -- statements without rows, in parts, by and by ---------------------------------------------------------------------


def test_execute_schema_runs_nothing(world: DoorsWorld, connection: Connection) -> None:
    before = world.answered()
    with connection.cursor() as cursor:
        assert cursor.adbc_execute_schema(ONE).equals(world.expected(ONE).schema)
        assert cursor.adbc_execute_schema(TWO).equals(world.expected(TWO).schema)
    assert world.answered() == before


@pytest.mark.parametrize("sql", [ONE, TWO, "SELECT id, id FROM alpha.empty", "SELECT NULL AS nothing FROM alpha.towns"])
def test_partitions(world: DoorsWorld, connection: Connection, sql: str) -> None:
    with connection.cursor() as cursor:
        partitions, announced = cursor.adbc_execute_partitions(sql)
        assert len(partitions) == 1
        cursor.adbc_read_partition(partitions[0])
        answer = cursor.fetch_arrow_table()
    assert announced is not None
    assert announced.equals(answer.schema)
    assert answer.equals(world.expected(sql))


def test_a_partition_is_read_once(connection: Connection) -> None:
    with connection.cursor() as cursor:
        partitions, _ = cursor.adbc_execute_partitions(ONE)
        cursor.adbc_read_partition(partitions[0])
        assert cursor.fetch_arrow_table().num_rows == 4
        with pytest.raises(dbapi.Error) as caught:
            cursor.adbc_read_partition(partitions[0])
            cursor.fetch_arrow_table()
    assert "TG-FLIGHT-001" in message(caught)


def test_a_partition_of_another_certificate_is_not_known(world: DoorsWorld, connection: Connection) -> None:
    with connection.cursor() as cursor, world.adbc(who=("city", "colleague")) as other, other.cursor() as theirs:
        partitions, _ = cursor.adbc_execute_partitions(ONE)
        with pytest.raises(dbapi.Error) as caught:
            theirs.adbc_read_partition(partitions[0])
            theirs.fetch_arrow_table()
        assert "TG-FLIGHT-001" in message(caught)
        cursor.adbc_read_partition(partitions[0])
        assert cursor.fetch_arrow_table().num_rows == 4


def test_incremental_execution_polls(world: DoorsWorld, connection: Connection) -> None:
    with connection.cursor() as cursor:
        cursor.adbc_statement.set_options(**{manager.StatementOptions.INCREMENTAL.value: "true"})
        found = []
        while True:
            partitions, announced = cursor.adbc_execute_partitions(TWO)
            if not partitions:
                break
            found += partitions
            assert announced is not None
            assert announced.equals(world.expected(TWO).schema)
        assert len(found) == 1
        cursor.adbc_read_partition(found[0])
        assert cursor.fetch_arrow_table().equals(world.expected(TWO))


def test_a_large_answer_comes_in_batches_below_the_drivers_limit(world: DoorsWorld, connection: Connection) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT x, repeat('y', 200) AS y FROM alpha.numbers")
        sizes = [(batch.num_rows, batch.nbytes) for batch in cursor.fetch_record_batch()]
    assert sum(rows for rows, _ in sizes) == 100_000
    assert max(size for _, size in sizes) <= 4 << 20


# -- sessions ---------------------------------------------------------------------------------------------------------


def option(connection: Connection, name: str) -> str:
    found: str = connection.adbc_connection.get_option(ConnectionOptions.OPTION_SESSION_OPTION_PREFIX.value + name)
    return found


def test_session_options(world: DoorsWorld) -> None:
    with world.adbc() as opened:
        assert opened.adbc_current_catalog == EXCHANGE
        opened.adbc_current_catalog = EXCHANGE
        opened.adbc_current_db_schema = "alpha"
        assert opened.adbc_current_db_schema == "alpha"
        assert option(opened, "schema") == "alpha"
        assert ask(opened, "SELECT name FROM towns WHERE id = 1").to_pylist() == [{"name": "Ulm"}]
        opened.adbc_current_db_schema = "beta"
        assert ask(opened, "SELECT river FROM rivers WHERE town = 2").to_pylist() == [{"river": "Rhein"}]


def test_a_session_is_its_connections_own(world: DoorsWorld, connection: Connection) -> None:
    with world.adbc() as opened:
        opened.adbc_current_db_schema = "alpha"
        with pytest.raises(dbapi.Error):
            ask(connection, "SELECT name FROM towns WHERE id = 1")
        assert ask(opened, "SELECT name FROM towns WHERE id = 1").num_rows == 1


@pytest.mark.parametrize(("name", "value"), [("catalog", "elsewhere"), ("schema", "nobody"), ("colour", "red")])
def test_session_options_that_mean_nothing_are_refused(world: DoorsWorld, name: str, value: str) -> None:
    with world.adbc() as opened, pytest.raises(dbapi.Error):
        opened.adbc_connection.set_options(**{ConnectionOptions.OPTION_SESSION_OPTION_PREFIX.value + name: value})


def test_close_ends_the_session(world: DoorsWorld) -> None:
    opened = world.adbc()
    opened.adbc_current_db_schema = "alpha"
    opened.close()
    with pytest.raises(dbapi.Error):
        opened.cursor()
    with world.adbc() as again:
        assert ask(again, ONE).num_rows == 4


# -- cancel and timeouts ----------------------------------------------------------------------------------------------


def test_cancel_stops_the_node_within_a_second(world: DoorsWorld, connection: Connection) -> None:
    failures: list[BaseException] = []
    with connection.cursor() as cursor:

        def wait_for_rows() -> None:
            try:
                cursor.execute(KEEPS_A_NODE_BUSY)
                cursor.fetchall()
            except dbapi.Error as error:
                failures.append(error)

        ended, before = world.answered(), world.cpu_s("alpha-node1")
        thread = threading.Thread(target=wait_for_rows)
        thread.start()
        until(lambda: world.cpu_s("alpha-node1") >= before + BUSY_S, 20)
        cursor.adbc_cancel()
        until(lambda: world.answered() > ended, STOPPED_S)
        thread.join(20)
    assert not thread.is_alive()
    assert len(failures) == 1
    assert "cancel" in str(failures[0]).lower()


def test_a_timeout_of_the_client_stops_the_node(world: DoorsWorld) -> None:
    timeouts = {ConnectionOptions.TIMEOUT_FETCH.value: "1.5"}
    with world.adbc() as opened:
        opened.adbc_connection.set_options(**timeouts)
        ended, started = world.answered(), time.monotonic()
        with pytest.raises(dbapi.Error):
            ask(opened, KEEPS_A_NODE_BUSY)
        assert time.monotonic() - started < 10
        until(lambda: world.answered() > ended, STOPPED_S)


# -- what is refused, and how -----------------------------------------------------------------------------------------


def test_ingest_is_refused(connection: Connection) -> None:
    with connection.cursor() as cursor, pytest.raises(dbapi.Error) as caught:
        cursor.adbc_ingest("towns", pa.table({"id": [9]}), mode="append")
    assert "TG-FLIGHT-003" in message(caught)


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO alpha.towns VALUES (9, 'x', 1, NULL)",
        "DELETE FROM alpha.towns",
        "CREATE TABLE alpha.more AS SELECT 1",
        "SET TimeZone = 'UTC'",
        "SELECT 1; DROP TABLE alpha.towns",
    ],
)
def test_statements_that_change_something_are_refused(connection: Connection, sql: str) -> None:
    with connection.cursor() as cursor, pytest.raises(dbapi.Error) as caught:
        cursor.execute(sql)
        cursor.fetchall()
    assert "TG-" in message(caught)
    assert ask(connection, "SELECT count(*) AS n FROM alpha.towns").to_pylist() == [{"n": 4}]


def test_updates_without_rows_are_refused(connection: Connection) -> None:
    with connection.cursor() as cursor:
        cursor.adbc_statement.set_sql_query("DELETE FROM alpha.towns")
        with pytest.raises(manager.Error) as caught:
            cursor.adbc_statement.execute_update()
    assert "TG-FLIGHT-003" in message(caught)


def test_user_and_password_are_refused_with_the_way(world: DoorsWorld) -> None:
    with pytest.raises(dbapi.Error) as caught, world.adbc(options={"username": "ada", "password": "secret"}) as opened:
        ask(opened, ONE)
    assert "certificate" in message(caught)
    assert "secret" not in message(caught)


def test_no_purpose_is_refused_with_the_way(world: DoorsWorld) -> None:
    with world.adbc(purpose=None) as opened, pytest.raises(dbapi.Error) as caught:
        ask(opened, ONE)
    assert "TG-FLIGHT-004" in message(caught)
    assert PURPOSE_HEADER in message(caught)
    assert HEADER in message(caught)


def test_metadata_needs_no_purpose(world: DoorsWorld) -> None:
    with world.adbc(purpose=None) as opened:
        assert objects(opened, depth="catalogs")[0]["catalog_name"] == EXCHANGE


def test_a_purpose_may_be_given_with_the_statement(world: DoorsWorld) -> None:
    with world.adbc(purpose=None) as opened, opened.cursor() as cursor:
        cursor.adbc_statement.set_options(**{StatementOptions.RPC_CALL_HEADER_PREFIX.value + PURPOSE_HEADER: PURPOSE})
        cursor.execute(ONE)
        assert cursor.fetch_arrow_table().num_rows == 4


@pytest.mark.parametrize(("said", "works"), [(OTHER_PURPOSE, False), (PURPOSE, True)])
def test_two_purposes_must_not_differ(world: DoorsWorld, said: str, works: bool) -> None:
    """The driver sends both headers, the statement's and the connection's."""
    with world.adbc(purpose=PURPOSE) as opened, opened.cursor() as cursor:
        cursor.adbc_statement.set_options(**{StatementOptions.RPC_CALL_HEADER_PREFIX.value + PURPOSE_HEADER: said})
        if works:
            cursor.execute(ONE)
            assert cursor.fetch_arrow_table().num_rows == 4
            return
        with pytest.raises(dbapi.Error) as caught:
            cursor.execute(ONE)
        assert "TG-FLIGHT-004" in message(caught)


def test_a_purpose_that_nobody_defined_is_refused(world: DoorsWorld) -> None:
    with world.adbc(purpose="just.curious") as opened, pytest.raises(dbapi.Error) as caught:
        ask(opened, ONE)
    assert "TG-" in message(caught)
    assert "purpose" in message(caught)


def test_a_denied_query_says_why_in_words(connection: Connection) -> None:
    with pytest.raises(dbapi.Error) as caught:
        ask(connection, "SELECT owner, balance FROM alpha.accounts")
    assert "TG-POLICY-001" in message(caught)
    assert "agreement" in message(caught)
    assert "Unauthorized" in message(caught) or "PERMISSION" in message(caught).upper().replace(" ", "")
    for value in ("person", "100.25"):
        assert value not in message(caught)


@pytest.mark.parametrize(
    "sql", ["SELEC 1", "SELECT nothing FROM alpha.towns", "SELECT * FROM alpha.nothing", "SELECT read_text('x')"]
)
def test_a_query_that_is_wrong_says_so(connection: Connection, sql: str) -> None:
    with pytest.raises(dbapi.ProgrammingError) as caught:
        ask(connection, sql)
    assert "TG-PLAN" in message(caught)
    assert "Traceback" not in message(caught)


# -- pandas and polars ------------------------------------------------------------------------------------------------


def test_pandas_read_sql(world: DoorsWorld, connection: Connection) -> None:
    frame = pd.read_sql(TWO, connection)
    pd.testing.assert_frame_equal(frame, world.expected(TWO).to_pandas(), check_dtype=False)


def test_pandas_read_sql_with_arrow_types(world: DoorsWorld, connection: Connection) -> None:
    frame = pd.read_sql(ONE, connection, dtype_backend="pyarrow")
    assert pa.Table.from_pandas(frame, preserve_index=False).to_pylist() == world.expected(ONE).to_pylist()
    assert str(frame["founded"].dtype) == "date32[day][pyarrow]"


def test_polars_read_database(world: DoorsWorld, connection: Connection) -> None:
    frame = pl.read_database(TWO, connection)
    assert frame.to_arrow().to_pylist() == world.expected(TWO).to_pylist()


def test_polars_read_database_with_parameters(connection: Connection) -> None:
    frame = pl.read_database(
        "SELECT id FROM alpha.towns WHERE name = $1", connection, execute_options={"parameters": ["Köln"]}
    )
    assert frame.to_dicts() == [{"id": 2}]


def test_polars_reads_in_batches(connection: Connection) -> None:
    frames = list(pl.read_database("SELECT x FROM alpha.numbers", connection, iter_batches=True, batch_size=10_000))
    assert sum(frame.height for frame in frames) == 100_000

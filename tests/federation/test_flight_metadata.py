"""Metadata, sessions and names through the real door, with the driver that people have; what each of two callers may know."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import adbc_driver_flightsql.dbapi as flightsql
import adbc_driver_manager
import pyarrow as pa
import pyarrow.flight as arrow_flight
import pytest
from adbc_driver_flightsql import ConnectionOptions, DatabaseOptions

from broker.wire.flight import schemas
from broker.wire.flight.messages import pack
from broker.wire.flight.sessions import COOKIE
from tests.federation.doors_world import EXCHANGE, KINDS, PURPOSE, DoorsWorld, doors_world
from tidegate import __version__
from tidegate.core.dataset import Column, Dataset, DatasetClass
from tidegate.core.names import DatasetName
from tidegate.v1 import flight_pb2
from tidegate.v1 import flight_sql_pb2 as sql_pb2

pytestmark = pytest.mark.xdist_group("federation-flight-metadata")

STAFF = (
    Column("id", "BIGINT", "Number of the person", sensitivity="public"),
    Column("office", "VARCHAR"),
    Column("salary", "INTEGER", sensitivity="restricted"),
)
OPTION = ConnectionOptions.OPTION_SESSION_OPTION_PREFIX.value
ANALYST, CHIEF, REPORTER = ("city", "analyst"), ("city", "chief"), ("press", "reporter")


def _dataset(name: str, **more: Any) -> Dataset:
    full = DatasetName.parse(name)
    values = {"owner": full.department, "node": "node1", "title": name, "dataset_class": DatasetClass.OPEN}
    return Dataset(full, columns=STAFF, keys=("id",), **{**values, **more})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DoorsWorld]:
    with doors_world(tmp_path_factory.mktemp("metadata")) as world:
        exchange = world.exchange
        exchange.join("city", "chief", roles=["analyst"], clearance="restricted")
        exchange.join("press", "reporter", roles=["analyst"])
        exchange.join("vault", "steward", kind="person", roles=["steward"])
        alpha, vault = exchange.session("alpha", "steward"), exchange.session("vault", "steward")
        alpha.catalogue.register(_dataset("alpha.staff"))
        alpha.catalogue.register(_dataset("alpha.affairs", hidden_from=("press",)))
        vault.catalogue.register(_dataset("vault.papers", hidden_from=("press",)))
        yield world


def connect(world: DoorsWorld, who: tuple[str, str] = ANALYST, *, purpose: str | None = None, **options: Any) -> Any:
    """Connect; without a purpose, since metadata needs none."""
    return world.adbc(who=who, purpose=purpose, options=options)


def objects(connection: flightsql.Connection, depth: Any, **filters: Any) -> dict[str, dict[str, list[str]]]:
    """Give what is listed: ``department.table`` with its columns, or departments alone."""
    found: dict[str, dict[str, list[str]]] = {}
    for catalog in connection.adbc_get_objects(depth=depth, **filters).read_all().to_pylist():
        tables = found.setdefault(catalog["catalog_name"], {})
        for schema in catalog["catalog_db_schemas"] or ():
            if schema["db_schema_tables"] is None:
                tables[schema["db_schema_name"]] = []
            for table in schema["db_schema_tables"] or ():
                name = f"{schema['db_schema_name']}.{table['table_name']}"
                tables[name] = [column["column_name"] for column in table["table_columns"] or ()]
    return found


def refusal(connection: flightsql.Connection, sql: str) -> str:
    with connection.cursor() as cursor, pytest.raises(adbc_driver_manager.Error) as caught:
        cursor.execute(sql)
        cursor.fetchall()
    return str(caught.value)


# --- listing -------------------------------------------------------------------------------------------------------------


def test_objects_at_every_depth_show_each_caller_what_it_may_know(world: DoorsWorld) -> None:
    with connect(world, ANALYST) as city, connect(world, REPORTER) as press:
        assert objects(city, "catalogs") == objects(press, "catalogs") == {EXCHANGE: {}}
        assert set(objects(city, "db_schemas")[EXCHANGE]) == {"alpha", "beta", "vault"}
        assert set(objects(press, "db_schemas")[EXCHANGE]) == {"alpha", "beta"}
        for depth in ("tables", "columns", "all"):
            seen, less = objects(city, depth)[EXCHANGE], objects(press, depth)[EXCHANGE]
            assert set(seen) - set(less) == {"alpha.affairs", "vault.papers"}, depth
            assert set(less) < set(seen) and "beta.towns" in less
            assert bool(less["beta.towns"]) is (depth != "tables")


def test_two_callers_of_one_member_see_the_columns_that_each_is_cleared_for(world: DoorsWorld) -> None:
    filters = {"db_schema_filter": "alpha", "table_name_filter": "staff"}
    with connect(world, ANALYST) as analyst, connect(world, CHIEF) as chief:
        assert objects(analyst, "all", **filters) == {EXCHANGE: {"alpha.staff": ["id", "office"]}}
        assert objects(chief, "all", **filters) == {EXCHANGE: {"alpha.staff": ["id", "office", "salary"]}}
        assert analyst.adbc_get_table_schema("staff", db_schema_filter="alpha").names == ["id", "office"]
        assert chief.adbc_get_table_schema("staff", db_schema_filter="alpha").names == ["id", "office", "salary"]


def test_filters_of_objects(world: DoorsWorld) -> None:
    with connect(world) as connection:
        towns = objects(connection, "tables", table_name_filter="t_wn%")[EXCHANGE]
        assert [name for name in towns if "." in name] == ["alpha.towns", "beta.towns"]
        assert objects(connection, "tables", db_schema_filter="vau%")[EXCHANGE] == {"vault.papers": []}
        assert objects(connection, "catalogs", catalog_filter="nobody").get("nobody") is None
        kinds = connection.adbc_get_objects(depth="tables", table_types_filter=["VIEW"]).read_all().to_pylist()
        assert not any(s["db_schema_tables"] for c in kinds for s in c["catalog_db_schemas"])
        sql_as_a_name = "SELECT * FROM alpha.towns WHERE name LIKE '%m'" * 50
        assert not any("." in name for name in objects(connection, "all", table_name_filter=sql_as_a_name)[EXCHANGE])


def test_columns_carry_types_and_remarks_to_the_driver(world: DoorsWorld) -> None:
    with connect(world) as connection:
        found = connection.adbc_get_objects(depth="all", db_schema_filter="alpha", table_name_filter="staff").read_all()
        (table,) = found.to_pylist()[0]["catalog_db_schemas"][0]["db_schema_tables"]
        columns = {column["column_name"]: column for column in table["table_columns"]}
        assert columns["id"]["xdbc_type_name"] == "BIGINT" and columns["id"]["ordinal_position"] == 1
        assert columns["id"]["xdbc_scope_catalog"] == EXCHANGE and columns["id"]["xdbc_scope_table"] == "staff"
        field = connection.adbc_get_table_schema("staff", db_schema_filter="alpha").field("id")
        assert (
            field.metadata[b"ARROW:FLIGHT:SQL:REMARKS"]
            == b"Number of the person [public; open: any registered purpose]"
        )


def test_types_of_tables_and_info(world: DoorsWorld) -> None:
    with connect(world) as connection:
        assert connection.adbc_get_table_types() == ["TABLE", "VIEW"]
        info = connection.adbc_get_info()
        assert info["vendor_name"] == "Tidegate" and info["vendor_version"] == __version__
        assert info["vendor_arrow_version"] == pa.__version__


@pytest.mark.parametrize("table", ["alpha.kinds", "beta.empty", "alpha.towns"])
def test_the_schema_of_a_table_is_that_of_selecting_all_of_it(world: DoorsWorld, table: str) -> None:
    department, _, name = table.partition(".")
    with connect(world, purpose=PURPOSE) as connection, connection.cursor() as cursor:
        described = connection.adbc_get_table_schema(name, db_schema_filter=department)
        cursor.execute(f"SELECT * FROM {table} LIMIT 3")
        sent = cursor.fetch_arrow_table().schema
        assert described.equals(sent, check_metadata=False)
        assert [str(field.type) for field in described] == [str(field.type) for field in sent]
        assert name == "towns" or len(described) == len(KINDS) + 2


# --- what ADBC does not ask, and JDBC and ODBC do: with Arrow's own client ------------------------------------------------


class Headers(arrow_flight.ClientMiddlewareFactory):  # type: ignore[misc]
    """Sends headers with every call, and keeps those that came back."""

    def __init__(self, **sent: str) -> None:
        super().__init__()
        self.sent = sent
        self.received: dict[str, list[str]] = {}

    def start_call(self, _info: Any) -> Any:
        outer = self

        class Call(arrow_flight.ClientMiddleware):  # type: ignore[misc]
            def sending_headers(self) -> dict[str, str]:
                return outer.sent

            def received_headers(self, headers: dict[str, list[str]]) -> None:
                outer.received.update(headers)

        return Call()


def arrow_client(world: DoorsWorld, who: tuple[str, str], headers: Headers | None = None) -> arrow_flight.FlightClient:
    identity = world.identity(*who)
    return arrow_flight.connect(
        f"grpc+tls://{world.address}",
        tls_root_certs=identity.root_pem,
        cert_chain=identity.presented_pem,
        private_key=identity.key_pem,
        middleware=[headers] if headers is not None else [],
    )


def ask(client: arrow_flight.FlightClient, command: Any) -> pa.Table:
    info = client.get_flight_info(arrow_flight.FlightDescriptor.for_command(pack(command)))
    (endpoint,) = info.endpoints
    answer = client.do_get(endpoint.ticket).read_all()
    assert answer.schema.equals(info.schema, check_metadata=True)
    described = client.get_schema(arrow_flight.FlightDescriptor.for_command(pack(command))).schema
    assert described.equals(info.schema, check_metadata=True)
    return answer


@pytest.mark.parametrize("command", sorted(schemas.COMMANDS, key=str))
def test_every_command_is_answered_as_it_was_announced(world: DoorsWorld, command: Any) -> None:
    with arrow_client(world, REPORTER) as client:
        answer = ask(client, command())
        assert answer.schema.equals(schemas.schema_of(command()))
        empty = {"GetExportedKeys", "GetImportedKeys", "GetCrossReference", "GetPrimaryKeys"}
        assert (answer.num_rows == 0) is (command.__name__.removeprefix("Command") in empty)


def test_keys_are_shown_to_whom_the_table_is(world: DoorsWorld) -> None:
    with arrow_client(world, REPORTER) as press, arrow_client(world, ANALYST) as city:
        towns = {"catalog_name": EXCHANGE, "db_schema_name": "alpha", "table_name": "towns", "column_name": "id"}
        command = sql_pb2.CommandGetPrimaryKeys(catalog=EXCHANGE, db_schema="alpha", table="towns")
        assert ask(press, command).to_pylist() == [{**towns, "key_name": None, "key_sequence": 1}]
        hidden = sql_pb2.CommandGetPrimaryKeys(db_schema="vault", table="papers")
        assert ask(city, hidden).num_rows == 1 and ask(press, hidden).num_rows == 0


def test_many_infos_and_types_at_once(world: DoorsWorld) -> None:
    with arrow_client(world, ANALYST) as client:
        info = ask(client, sql_pb2.CommandGetSqlInfo(info=[0, 3, 8, 504, 517, 557]))
        values = dict(zip(info.column(0).to_pylist(), info.column(1).to_pylist(), strict=True))
        assert list(values) == [0, 3, 8, 504, 517, 557] and values[3] is True and values[504] == '"'
        assert "VARCHAR" in ask(client, sql_pb2.CommandGetXdbcTypeInfo(data_type=12)).column("type_name").to_pylist()


# --- what must not be known ------------------------------------------------------------------------------------------------

_HIDDEN = [("alpha.affairs", "alpha.nothing"), ("vault.papers", "vault.nothing"), ("vault.papers", "nowhere.papers")]


@pytest.mark.parametrize(("hidden", "absent"), _HIDDEN)
def test_what_is_hidden_and_what_does_not_exist_look_alike(world: DoorsWorld, hidden: str, absent: str) -> None:
    def answers(name: str) -> list[str]:
        department, _, table = name.partition(".")
        with connect(world, REPORTER, purpose=PURPOSE) as connection:
            said = [
                refusal(connection, f"SELECT * FROM {name}"),
                refusal(connection, f"SELECT id FROM {EXCHANGE}.{name}"),
                refusal(connection, f"SELECT t.id FROM alpha.towns t, {name} u"),
            ]
            with pytest.raises(adbc_driver_manager.Error) as caught:
                connection.adbc_get_table_schema(table, db_schema_filter=department)
            said.append(str(caught.value))
            with pytest.raises(adbc_driver_manager.Error) as caught:
                connection.adbc_connection.set_options(
                    **{f"{OPTION}schema": department if department != "alpha" else "x"}
                )
            said.append(str(caught.value))
        assert not any(table in text or f"{department}." in text for text in said), said
        return [_without_ids(text) for text in said]

    assert answers(hidden) == answers(absent)


def _without_ids(text: str) -> str:
    """Leave out what differs from call to call: the request's id, and the entry that recorded the refusal."""
    return " ".join(word for word in text.split() if not any(char.isdigit() for char in word) or word.startswith("TG-"))


def test_who_may_know_it_is_answered_by_name(world: DoorsWorld) -> None:
    with connect(world, ANALYST) as connection:
        assert connection.adbc_get_table_schema("papers", db_schema_filter="vault").names == ["id", "office"]
        assert connection.adbc_get_table_schema("affairs", db_schema_filter="alpha").names == ["id", "office"]


# --- names ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sql",
    [
        'SELECT "id" FROM "doors"."alpha"."towns" ORDER BY 1',
        'SELECT "towns"."id" FROM "doors"."alpha"."towns" ORDER BY 1',
        'SELECT "alpha"."towns"."id" FROM "doors"."alpha"."towns" ORDER BY 1',
        'SELECT doors.alpha.towns.id FROM "doors"."alpha"."towns" ORDER BY 1',
        'SELECT "T"."id" FROM "doors"."alpha"."towns" "T" ORDER BY "T"."id"',
    ],
)
def test_names_of_three_parts_as_tools_write_them(world: DoorsWorld, sql: str) -> None:
    with connect(world, purpose=PURPOSE) as connection, connection.cursor() as cursor:
        cursor.execute(sql)
        assert [row[0] for row in cursor.fetchall()] == [1, 2, 3, 4]


def test_another_catalog_is_an_unknown_dataset(world: DoorsWorld) -> None:
    with connect(world, purpose=PURPOSE) as connection:
        assert "TG-PLAN-003" in refusal(connection, "SELECT * FROM other.alpha.towns")
        assert "TG-PLAN-003" in refusal(connection, "SELECT * FROM towns")


# --- sessions ------------------------------------------------------------------------------------------------------------

COOKIES: dict[str, Any] = {DatabaseOptions.WITH_COOKIE_MIDDLEWARE.value: "true"}


@pytest.mark.parametrize("options", [{}, COOKIES], ids=["connection", "cookie"])
def test_a_department_is_set_read_back_and_used_on_one_connection_alone(
    world: DoorsWorld, options: dict[str, Any]
) -> None:
    with connect(world, purpose=PURPOSE, **options) as one, connect(world, purpose=PURPOSE, **options) as other:
        assert (one.adbc_current_catalog, one.adbc_current_db_schema) == (EXCHANGE, "")
        one.adbc_current_catalog = EXCHANGE
        one.adbc_current_db_schema = "alpha"
        other.adbc_current_db_schema = "beta"
        assert (one.adbc_current_catalog, one.adbc_current_db_schema) == (EXCHANGE, "alpha")
        with one.cursor() as cursor:
            cursor.execute("SELECT t.id FROM towns t JOIN beta.rivers r ON t.id = r.town ORDER BY 1")
            assert cursor.fetchall() == [(1,), (2,)]
            cursor.execute("SELECT count(*) FROM numbers WHERE x <= ?", [7])
            assert cursor.fetchall() == [(7,)]
        assert other.adbc_current_db_schema == "beta"
        one.adbc_connection.set_options(**{ConnectionOptions.OPTION_ERASE_SESSION_OPTION_PREFIX.value + "schema": ""})
        assert (one.adbc_current_db_schema, other.adbc_current_db_schema) == ("", "beta")
        assert "TG-PLAN-003" in refusal(one, "SELECT count(*) FROM towns")


def test_a_cookie_finds_its_session_over_any_connection_and_no_other_caller(world: DoorsWorld) -> None:
    def schema(who: tuple[str, str], token: str) -> str:
        with arrow_client(world, who, Headers(cookie=f"{COOKIE}={token}")) as client:
            (result,) = client.do_action(arrow_flight.Action("GetSessionOptions", b""))
            read = flight_pb2.FlightGetSessionOptionsResult.FromString(result.body.to_pybytes())
            return str(read.session_options["schema"].string_value)

    asked, headers = flight_pb2.FlightSetSessionOptionsRequest(), Headers()
    asked.session_options["schema"].string_value = "alpha"
    with arrow_client(world, ANALYST, headers) as client:
        (result,) = client.do_action(arrow_flight.Action("SetSessionOptions", asked.SerializeToString()))
        assert result.body.to_pybytes() == b""
        name, _, rest = headers.received["set-cookie"][0].partition("=")
        token = rest.partition(";")[0]
        assert name == COOKIE
        assert schema(ANALYST, token) == "alpha"
        assert schema(CHIEF, token) == schema(REPORTER, token) == schema(ANALYST, "0" * 32) == ""


def test_a_new_connection_begins_without_options(world: DoorsWorld) -> None:
    with connect(world) as connection:
        connection.adbc_current_db_schema = "alpha"
    with connect(world) as connection:
        assert connection.adbc_current_db_schema == ""


def test_a_department_that_the_caller_may_not_know_cannot_be_set(world: DoorsWorld) -> None:
    with connect(world, REPORTER) as press, connect(world, ANALYST) as city:
        city.adbc_current_db_schema = "vault"
        assert city.adbc_current_db_schema == "vault"
        for name, value in (("schema", "vault"), ("schema", "nowhere"), ("catalog", "other"), ("colour", "red")):
            with pytest.raises(adbc_driver_manager.Error) as caught:
                press.adbc_connection.set_options(**{OPTION + name: value})
            assert f"'{name}'" in str(caught.value) and value not in str(caught.value)
        assert press.adbc_current_db_schema == ""

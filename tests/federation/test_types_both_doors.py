"""Every type that the planner admits travels through both doors unchanged, alone and in a join of two departments.

Each column of the two departments is asked for through our own client and through ADBC, in every shape of plan, and compared
with one local DuckDB over the same files: type by type and value by value. Where Arrow has no type for one of DuckDB's, what
local DuckDB makes of it is what arrives, and ``ON_THE_WIRE`` says what that is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from adbc_driver_flightsql.dbapi import Connection
from adbc_driver_manager import dbapi

from scripts.wire_types import ON_THE_WIRE
from tests.federation.doors_world import KINDS, OTHERS, PURPOSE, PURPOSE_HEADER, DoorsWorld, Kind, doors_world
from tests.java.door import java_door, url
from tests.java.driver import require_java
from tidegate.client.session import Session
from tidegate.core.errors import Code, TidegateError
from tidegate.sql.types import SIMPLE_TYPES

pytestmark = pytest.mark.xdist_group("federation-types")

PLANS = {
    "relayed": "SELECT id, {column} AS v FROM alpha.kinds ORDER BY id",
    "relayed, no rows": "SELECT {column}, id FROM alpha.empty",
    "joined": (
        "SELECT a.id, a.{column} AS v, b.{column} AS w FROM alpha.kinds a JOIN beta.kinds b ON a.id = b.id ORDER BY a.id"
    ),
    "joined, no rows": "SELECT a.{column} AS v, b.{column} AS v FROM alpha.empty a JOIN beta.empty b ON a.id = b.id",
    "joined, nothing but NULL": "SELECT a.id, b.{column} AS v FROM alpha.kinds a LEFT JOIN beta.empty b USING (id) ORDER BY 1",
    "both branches of a union": (
        "SELECT * FROM (SELECT id, {column} AS v FROM alpha.kinds UNION ALL SELECT id + 100, {column} FROM beta.kinds) "
        "ORDER BY id"
    ),
    "compared with itself in the other department": (
        "SELECT a.id AS x, b.id AS y FROM alpha.kinds a JOIN beta.kinds b ON a.{column} = b.{column} ORDER BY ALL"
    ),
    "DuckDB's type where the departments meet": (
        "SELECT a.id, typeof(a.{column}) AS t, typeof(b.{column}) AS u FROM alpha.kinds a JOIN beta.kinds b ON a.id = b.id "
        "ORDER BY a.id"
    ),
}
TOO_WIDE = "340282366920938463463374607431768211455"  # the most that UHUGEINT holds; DuckDB hands it to Arrow as -1


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DoorsWorld]:
    with doors_world(tmp_path_factory.mktemp("types")) as made:
        yield made


@pytest.fixture(scope="module")
def session(world: DoorsWorld) -> Iterator[Session]:
    with world.session() as opened:
        yield opened


@pytest.fixture(scope="module")
def connection(world: DoorsWorld) -> Iterator[Connection]:
    with world.adbc() as opened:
        yield opened


def first_door(session: Session, sql: str) -> pa.Table:
    return session.query(sql).to_arrow()


def second_door(connection: Connection, sql: str) -> pa.Table:
    """Ask through ADBC in two steps, so that the announced schema can be seen beside the stream's."""
    with connection.cursor() as cursor:
        partitions, announced = cursor.adbc_execute_partitions(sql)
        (partition,) = partitions
        cursor.adbc_read_partition(partition)
        answer = cursor.fetch_arrow_table()
    assert announced is not None
    assert exact(announced) == exact(answer.schema)
    return answer


def exact(schema: pa.Schema) -> list[tuple[str, str, bool]]:
    """Give a schema with everything in it that could differ: names of nested fields too."""
    return [(field.name, str(field.type), field.nullable) for field in schema]


def values(table: pa.Table) -> list[list[str]]:
    """Give values as texts, in which NaN is NaN and -0.0 is not 0.0."""
    return [[repr(value) for value in column.to_pylist()] for column in table.columns]


def assert_same(found: pa.Table, expected: pa.Table, door: str) -> None:
    assert exact(found.schema) == exact(expected.schema), door
    assert values(found) == values(expected), door


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_type_travels_unchanged(
    world: DoorsWorld, session: Session, connection: Connection, kind: Kind, plan: str
) -> None:
    sql = PLANS[plan].format(column=kind.name)
    expected = world.expected(sql)
    assert_same(first_door(session, sql), expected, "our own")
    assert_same(second_door(connection, sql), expected, "Flight SQL")


@pytest.mark.parametrize("plan", ["relayed", "joined", "both branches of a union"])
def test_an_enum_is_served_as_text(world: DoorsWorld, session: Session, connection: Connection, plan: str) -> None:
    sql = PLANS[plan].format(column="colour")
    expected = world.expected(sql)
    assert expected.schema.field("v").type == pa.string()
    assert "'green'" in values(expected)[1]
    assert_same(first_door(session, sql), expected, "our own")
    assert_same(second_door(connection, sql), expected, "Flight SQL")


def test_null_has_its_own_type(world: DoorsWorld, session: Session, connection: Connection) -> None:
    sql = "SELECT id, NULL AS nothing, CAST(NULL AS UUID) AS typed FROM alpha.towns ORDER BY id"
    assert world.expected(sql).schema.field("nothing").type == pa.null()
    assert_same(first_door(session, sql), world.expected(sql), "our own")
    assert_same(second_door(connection, sql), world.expected(sql), "Flight SQL")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_catalogues_schema_is_the_streams(connection: Connection, kind: Kind) -> None:
    told = connection.adbc_get_table_schema("kinds", db_schema_filter="alpha").field(kind.name)
    with connection.cursor() as cursor:
        cursor.execute(f'SELECT "{kind.name}" FROM alpha.kinds')
        assert told.type == cursor.fetch_arrow_table().schema.field(0).type


# -- the table of the guide -------------------------------------------------------------------------------------------


def test_the_guide_has_every_type_and_tells_the_truth(world: DoorsWorld) -> None:
    """docs/SQL.md shows ``ON_THE_WIRE``; here each line of it is held to DuckDB."""
    families = {"DECIMAL(p, s)", "T[]", "T[n]", "STRUCT(...)", "MAP(K, V)", "ENUM(...)"}
    assert {row.duckdb for row in ON_THE_WIRE} == SIMPLE_TYPES | families
    examples = {
        "DECIMAL(p, s)": "decimal_15_2",
        "T[]": "integers",
        "T[n]": "array_of_three",
        "STRUCT(...)": "struct_flat",
        "MAP(K, V)": "map_of_integers",
        "ENUM(...)": "colour",
    }
    for row in ON_THE_WIRE:
        column = examples.get(row.duckdb, row.duckdb.lower())
        found = str(world.expected(f'SELECT "{column}" FROM alpha.kinds').schema.field(0).type)
        assert found.startswith(row.arrow.partition("<")[0].partition("(")[0]), row
        if row.duckdb in SIMPLE_TYPES:
            assert found == row.arrow, row


# -- what is not admitted, and what does not fit ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", OTHERS, ids=lambda kind: kind.name)
def test_a_type_that_is_not_admitted_is_left_out_and_refused(
    world: DoorsWorld, session: Session, connection: Connection, kind: Kind
) -> None:
    assert kind.name not in world.columns["alpha.kinds"]
    assert f'"column": "{kind.name}"' in world.log("alpha-node1")
    for sql in (f"SELECT {kind.name} FROM alpha.kinds", f"SELECT CAST(NULL AS {kind.type}) AS v FROM alpha.towns"):
        with pytest.raises(TidegateError) as ours:
            first_door(session, sql)
        with pytest.raises(dbapi.Error, match="TG-PLAN"):
            second_door(connection, sql)
        assert ours.value.code.value.startswith("TG-PLAN")


@pytest.mark.parametrize(
    "expression",
    [
        f"CAST('{TOO_WIDE}' AS UHUGEINT)",
        "CAST('170141183460469231731687303715884105728' AS UHUGEINT)",
        "CAST('-170141183460469231731687303715884105728' AS HUGEINT)",
        "CAST('100000000000000000000000000000000000000' AS HUGEINT)",
        f"[CAST('{TOO_WIDE}' AS UHUGEINT)]",
        f"{{'n': CAST('{TOO_WIDE}' AS UHUGEINT)}}",
    ],
)
@pytest.mark.parametrize("source", ["alpha.towns t", "alpha.towns t JOIN beta.rivers r ON r.town = t.id"])
def test_a_number_that_arrow_has_no_room_for_is_refused_and_never_another(
    session: Session, connection: Connection, expression: str, source: str
) -> None:
    sql = f"SELECT t.id, {expression} AS v FROM {source}"
    with pytest.raises(TidegateError) as ours:
        first_door(session, sql)
    assert ours.value.code in (Code.JOIN_FAILED, Code.NODE_EXECUTE)
    with pytest.raises(dbapi.Error, match=ours.value.code.value):
        second_door(connection, sql)


# -- the same over JDBC, as far as its driver can say it ---------------------------------------------------------------

INTERVALS = ["P14M3D PT4.5S", "P-1M PT0S", "P0D PT0S", "P0D PT25H"]


def test_jdbc_reads_the_same_values(world: DoorsWorld, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("types-java")
    classes = {row.duckdb: row.java for row in ON_THE_WIRE}
    with java_door(require_java(), folder / "driver.log") as java:
        java.ask("open", "c", url(world.address, {**world.pem_files(folder), PURPOSE_HEADER: PURPOSE}))
        for kind in KINDS:
            for plan in ("relayed", "joined"):
                sql = PLANS[plan].format(column=kind.name)
                expected = world.expected(sql)
                answer = java.ask("query", "c", sql)
                assert [column["label"] for column in answer["columns"]] == expected.column_names
                found = [flattened(row[1]) for row in answer["rows"]]
                wanted = [in_java(value, expected.schema.field("v").type) for value in expected.column("v").to_pylist()]
                if kind.name == "interval":
                    wanted[: len(INTERVALS)] = INTERVALS
                assert found == wanted, (kind.name, plan)
                if kind.type in classes:
                    assert {row[1][0].replace("ArrowFlightJdbc", "") for row in answer["rows"] if row[1]} == {
                        classes[kind.type]
                    }
            assert java.ask("query", "c", f"SELECT {kind.name} AS v, id FROM alpha.empty")["rows"] == []


def test_jdbc_reads_unsigned_numbers_that_are_cast(world: DoorsWorld, tmp_path_factory: pytest.TempPathFactory) -> None:
    """As docs/SQL.md advises."""
    folder = tmp_path_factory.mktemp("unsigned-java")
    columns = "utinyint::SMALLINT AS a, usmallint::INTEGER AS b, uinteger::BIGINT AS c, ubigint::HUGEINT AS d"
    sql = f"SELECT {columns} FROM alpha.kinds WHERE id = 1"
    with java_door(require_java(), folder / "driver.log") as java:
        java.ask("open", "c", url(world.address, {**world.pem_files(folder), PURPOSE_HEADER: PURPOSE}))
        (row,) = java.rows("query", "c", sql)
    assert [row[name] for name in "abcd"] == [str(2**bits - 1) for bits in (8, 16, 32, 64)]


def flattened(value: Any) -> Any:
    """Take the classes away from a value that Door.java printed; floats in Python's spelling."""
    if value is None:
        return None
    kind, held = value
    if kind == "list":
        return [flattened(each) for each in held]
    if kind == "map":
        return [[flattened(key), flattened(each)] for key, each in held]
    return repr(float(held)) if kind in ("Double", "Float") else held


def in_java(value: Any, kind: pa.DataType, *, inside: bool = False) -> Any:
    """Give a value as the driver shows it; ``inside`` of a nested one, moments are the numbers that Arrow holds."""
    types = pa.types
    if value is None:
        return None
    if types.is_list(kind) or types.is_fixed_size_list(kind):
        return [in_java(each, kind.value_type, inside=True) for each in value]
    if types.is_map(kind):
        return [
            [in_java(key, kind.key_type, inside=True), in_java(each, kind.item_type, inside=True)]
            for key, each in value
        ]
    if types.is_struct(kind):
        fields = ((field.name, value[field.name], field.type) for field in kind)
        return [[name, in_java(each, type_, inside=True)] for name, each, type_ in fields if each is not None]
    if inside and (types.is_timestamp(kind) or types.is_date(kind)):
        return str(pa.scalar(value, kind).value)
    if types.is_unsigned_integer(kind) and value >= 2 ** (kind.bit_width - 1):
        return str(value - 2**kind.bit_width)
    if types.is_timestamp(kind):
        digits = f"{value.microsecond:06}{getattr(value, 'nanosecond', 0):03}".rstrip("0") or "0"
        return f"{value.year:04}-{value:%m-%d %H:%M:%S}.{digits}"
    if types.is_time(kind):
        digits = f"{value.microsecond // 1_000:03}".rstrip("0")
        return f"{value:%H:%M:%S}" + (f".{digits}" if digits else "")
    if types.is_boolean(kind):
        return str(value).lower()
    if types.is_floating(kind):
        return repr(value)
    if types.is_decimal(kind):
        return format(value, "f")
    return value.hex() if types.is_binary(kind) else str(value)

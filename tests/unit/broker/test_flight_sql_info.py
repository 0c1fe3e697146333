"""What Flight SQL says of our SQL is what the planner does: each claim is asked of it."""

from __future__ import annotations

import duckdb
import pyarrow as pa
import pytest

from broker.wire.flight.function_groups import FUNCTION_GROUPS
from broker.wire.flight.schemas import SQL_INFO
from broker.wire.flight.sql_info import CONVERSIONS, InfoValue, sql_info, sql_info_batch
from tests.sql_world import SCHEMA, world
from tidegate import __version__
from tidegate.core.errors import CallerError
from tidegate.core.limits import SQL_BYTES_MAX, SQL_JOINS_MAX
from tidegate.sql.functions import FUNCTIONS
from tidegate.sql.plan import plan
from tidegate.sql.render import render

INFO = sql_info(statement_timeout_s=900.0)


def takes(sql: str) -> bool:
    try:
        plan(sql, SCHEMA)
    except CallerError:
        return False
    return True


def values(*asked: int) -> dict[int, object]:
    batch = sql_info_batch(INFO, asked)
    return dict(zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True))


def test_all_are_given_when_none_is_asked_and_each_once_in_the_order_of_asking() -> None:
    batch = sql_info_batch(INFO, [])
    assert batch.schema.equals(SQL_INFO) and batch.validate(full=True) is None
    assert batch.column(0).to_pylist() == list(INFO)
    expected = {*range(12), 100, 101, *range(500, 577)}
    assert set(INFO) == expected
    assert list(values(563, 8, 563, 99_999)) == [563, 8]
    assert values(99_999) == {}


def test_the_union_has_its_six_members_in_the_order_of_the_protocol() -> None:
    kinds = SQL_INFO.field("value").type
    assert isinstance(kinds, pa.DenseUnionType) and kinds.type_codes == [0, 1, 2, 3, 4, 5]
    names = [kinds.field(place).name for place in range(kinds.num_fields)]
    assert names == [
        "string_value",
        "bool_value",
        "bigint_value",
        "int32_bitmask",
        "string_list",
        "int32_to_int32_list_map",
    ]
    batch = sql_info_batch(INFO, [0, 3, 557, 8, 508, 517])
    assert batch.column(1).type_codes.to_pylist() == [0, 1, 2, 3, 4, 5]


def test_the_server_says_who_it_is_and_that_it_changes_nothing() -> None:
    assert values(0, 1, 2, 3, 4, 5, 8, 9, 100) == {
        0: "Tidegate",
        1: __version__,
        2: pa.__version__,
        3: True,
        4: True,
        5: False,
        8: 0,
        9: True,
        100: 900_000,
    }
    assert values(557, 560) == {557: SQL_BYTES_MAX, 560: SQL_JOINS_MAX + 1}


def test_every_function_is_in_one_group() -> None:
    named = [name for group in FUNCTION_GROUPS.values() for name in group]
    assert sorted(named) == sorted(FUNCTIONS)
    asked = values(509, 510, 511, 512)
    assert {"sqrt", "sum"} <= set(asked[509]) and "lower" in asked[510]  # type: ignore[call-overload, operator]
    assert "coalesce" in asked[511] and "date_trunc" in asked[512]  # type: ignore[operator]


FLIGHTS = "aviation.flights"


@pytest.mark.parametrize(
    ("number", "value", "queries"),
    [
        (504, '"', ['SELECT "carrier" FROM "aviation"."flights"']),
        (503, 1, ["SELECT CARRIER FROM Aviation.FLIGHTS"]),
        (505, 1, ['SELECT "CARRIER" FROM "Aviation"."FLIGHTS"']),
        (515, True, [f"SELECT carrier AS c FROM {FLIGHTS}"]),
        (518, True, [f"SELECT f.carrier FROM {FLIGHTS} f"]),
        (519, False, [f"SELECT flights.carrier FROM {FLIGHTS} flights"]),
        (520, True, [f"SELECT carrier FROM {FLIGHTS} ORDER BY distance * 2"]),
        (521, True, [f"SELECT carrier FROM {FLIGHTS} ORDER BY dest"]),
        (522, 3, [f"SELECT count(*) FROM {FLIGHTS} GROUP BY dest", f"SELECT dest FROM {FLIGHTS} GROUP BY dest, origin"]),
        (523, True, [f"SELECT carrier FROM {FLIGHTS} WHERE dest LIKE '!%' ESCAPE '!'"]),
        (
            528,
            0b110,
            [
                f"SELECT 1 FROM {FLIGHTS} f {side} OUTER JOIN weather.hours h ON f.origin = h.origin"
                for side in ("LEFT", "RIGHT", "FULL")
            ],
        ),
        (
            538,
            0b1111,
            [
                f"SELECT 1 FROM {FLIGHTS} WHERE distance > (SELECT max(temp) FROM weather.hours)",
                f"SELECT 1 FROM {FLIGHTS} WHERE EXISTS (SELECT 1 FROM weather.hours)",
                f"SELECT 1 FROM {FLIGHTS} WHERE origin IN (SELECT origin FROM weather.hours)",
                f"SELECT 1 FROM {FLIGHTS} WHERE distance > ALL (SELECT temp FROM weather.hours)",
                f"SELECT 1 FROM {FLIGHTS} WHERE distance > ANY (SELECT temp FROM weather.hours)",
            ],
        ),
        (
            539,
            True,
            [f"SELECT 1 FROM {FLIGHTS} f WHERE EXISTS (SELECT 1 FROM weather.hours h WHERE h.origin = f.origin)"],
        ),
        (
            540,
            3,
            [f"SELECT origin FROM {FLIGHTS} UNION {how} SELECT origin FROM weather.hours" for how in ("", "ALL")],
        ),
        (
            560,
            SQL_JOINS_MAX + 1,
            [f"SELECT 1 FROM {', '.join(f'{FLIGHTS} f{number}' for number in range(SQL_JOINS_MAX + 1))}"],
        ),
    ],
)  # fmt: skip
def test_what_is_said_to_be_taken_is_taken(number: int, value: object, queries: list[str]) -> None:
    assert values(number) == {number: value}
    for query in queries:
        assert takes(query), query


@pytest.mark.parametrize(
    ("number", "value", "query"),
    [
        (500, False, "CREATE DATABASE x"),
        (501, False, "CREATE SCHEMA x"),
        (502, False, "CREATE TABLE aviation.x AS SELECT 1"),
        (535, 0, f"DELETE FROM {FLIGHTS} WHERE CURRENT OF c"),
        (536, False, f"SELECT carrier FROM {FLIGHTS} FOR UPDATE"),
        (537, False, "CALL x()"),
        (563, False, "BEGIN TRANSACTION"),
        (573, False, "SAVEPOINT x"),
        (560, SQL_JOINS_MAX + 1, f"SELECT 1 FROM {', '.join(f'{FLIGHTS} f{n}' for n in range(SQL_JOINS_MAX + 2))}"),
        (557, SQL_BYTES_MAX, f"SELECT '{'x' * SQL_BYTES_MAX}'"),
    ],
)
def test_what_is_said_not_to_be_taken_is_not(number: int, value: InfoValue, query: str) -> None:
    assert values(number) == {number: value}
    assert not takes(query), query[:80]


def test_null_with_anything_is_null_and_nulls_come_last() -> None:
    assert values(516, 507) == {516: True, 507: 3}
    engine = world()
    for sql, expected in [
        ("SELECT 'a' || NULL AS x", [None]),
        ("SELECT carrier FROM aviation.flights GROUP BY 1 ORDER BY 1", ["AA", "DL", "UA", None]),
        ("SELECT carrier FROM aviation.flights GROUP BY 1 ORDER BY 1 DESC", ["UA", "DL", "AA", None]),
    ]:
        bound = plan(sql, SCHEMA)
        printed = render(bound.tree, bound.parameters)
        rows = engine.execute(printed.text, list(printed.parameters)).fetchall()
        assert [row[0] for row in rows] == expected


TYPES = {
    0: "BIGINT", 1: "BLOB", 2: "BOOLEAN", 3: "VARCHAR", 4: "DATE", 5: "DECIMAL(18,3)", 6: "DOUBLE", 7: "INTEGER",
    8: "INTERVAL", 9: "INTERVAL", 10: "BLOB", 11: "VARCHAR", 12: "DECIMAL(18,3)", 13: "FLOAT", 14: "SMALLINT", 15: "TIME",
    16: "TIMESTAMP", 17: "TINYINT", 18: "BLOB", 19: "VARCHAR",
}  # fmt: skip
VALUES = {
    "BLOB": "ab", "BOOLEAN": "true", "DATE": "2024-01-02", "INTERVAL": "3 days", "TIME": "10:11:12",
    "TIMESTAMP": "2024-01-02 03:04:05",
}  # fmt: skip


def test_every_cast_that_is_said_to_work_works() -> None:
    said = dict(values(517)[517])  # type: ignore[call-overload]
    assert said == {key: list(targets) for key, targets in CONVERSIONS.items()} and set(said) == set(TYPES)
    engine = duckdb.connect()
    for source, targets in CONVERSIONS.items():
        for target in targets:
            text = VALUES.get(TYPES[target] if TYPES[source] == "VARCHAR" else TYPES[source], "7")
            cast = f"CAST(CAST('{text}' AS {TYPES[source]}) AS {TYPES[target]})"
            assert takes(f"SELECT {cast} AS x")
            assert engine.execute(f"SELECT {cast}").fetchall() != [(None,)], cast

"""The schema of an answer before there is one, and what a text wants as parameters."""

from __future__ import annotations

import sys

import pyarrow as pa
import pytest

from engine.announced import announced_schema, expected_parameters
from tidegate.core.dataset import Column, Dataset, DatasetClass
from tidegate.core.errors import Code, TidegateError
from tidegate.core.names import DatasetName
from tidegate.sql.model import FederatedPlan, Floor, Fragment, RenderedSql

NAME = DatasetName.parse("land.parcels")
COLUMNS = (Column("id", "BIGINT"), Column("size", "HUGEINT"), Column("day", "DATE"), Column("key", "UUID"))
DATASETS = {
    NAME: Dataset(
        name=NAME, owner="land", node="node1", title="Parcels", dataset_class=DatasetClass.OPEN, columns=COLUMNS
    )
}


def fragment(sql: str, *parameters: object) -> Fragment:
    rendered = RenderedSql(sql, parameters)  # type: ignore[arg-type]
    return Fragment("f0", "land", "node1", rendered, {"r0": NAME}, ("c0",), whole=True)


def schema(plan: FederatedPlan) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(announced_schema(plan, DATASETS)))


def whole(sql: str, names: tuple[str, ...], *parameters: object) -> FederatedPlan:
    return FederatedPlan((fragment(sql, *parameters),), None, (), names, 10)


def test_duplicate_names_and_wide_types_are_announced_as_they_leave_the_engine() -> None:
    sql = "SELECT r0.size AS c0, r0.key AS c1, sum(r0.id) AS c2, $1 AS c3 FROM land.parcels AS r0 GROUP BY ALL"
    found = schema(whole(sql, ("a", "a", "b", ""), 5))
    types = [pa.decimal128(38, 0), pa.string(), pa.decimal128(38, 0), pa.int32()]
    assert found == pa.schema([pa.field(name, kind) for name, kind in zip(("a", "a", "b", ""), types, strict=True)])


def test_what_joins_sees_the_types_that_travelled_and_hidden_columns_are_left_out() -> None:
    first = fragment("SELECT r0.size AS c0, r0.tg_subject AS c1 FROM land.parcels AS r0")
    final = RenderedSql("SELECT sum(f0.c0) AS c0, count(DISTINCT f0.c1) AS c1 FROM f0", ())
    plan = FederatedPlan((first,), final, (Floor(1, 5, "r0"),), ("total",), 10)
    assert schema(plan) == pa.schema([("total", pa.decimal128(38, 0))])


def test_one_plan_leaves_nothing_for_the_next() -> None:
    for _ in range(3):
        assert schema(whole("SELECT r0.day AS c0 FROM land.parcels AS r0", ("d",))) == pa.schema([("d", pa.date32())])


def test_nothing_is_executed() -> None:
    sql = "SELECT sum(x) AS c0 FROM (SELECT unnest(range($1)) AS x)"
    assert schema(whole(sql, ("s",), 10**12)) == pa.schema([("s", pa.decimal128(38, 0))])


def test_a_query_that_has_no_types_is_refused_and_the_next_is_not() -> None:
    with pytest.raises(TidegateError) as caught:
        schema(whole("SELECT r0.nothing AS c0 FROM land.parcels AS r0", ("x",)))
    assert caught.value.code is Code.PLAN_TYPE
    assert "nothing" not in f"{caught.value} {caught.value.detail}"
    assert schema(whole("SELECT r0.id AS c0 FROM land.parcels AS r0", ("x",))).names == ["x"]


def test_pandas_is_not_imported_for_it() -> None:
    import subprocess

    code = (
        "import sys\n"
        "from tests.unit.engine.test_announced import *\n"
        "test_what_joins_sees_the_types_that_travelled_and_hidden_columns_are_left_out()\n"
        "assert 'pandas' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("sql", "types"),
    [
        ("SELECT id FROM land.parcels", []),
        ("SELECT id FROM land.parcels WHERE day = ? AND ? < size", [pa.date32(), pa.decimal128(38, 0)]),
        ("SELECT id FROM land.parcels WHERE id IN (?, ?) LIMIT ?", [pa.int64()] * 3),
        ("SELECT id FROM land.parcels WHERE day BETWEEN $2 AND $1", [pa.date32()] * 2),
        ("SELECT id FROM land.parcels WHERE id = $1 OR day = $1", [pa.string()]),
        ("SELECT id FROM land.parcels WHERE id = $1 OR size = $1", [pa.int64()]),
        ("SELECT CAST($1 AS DOUBLE) FROM land.parcels WHERE id = $1", [pa.float64()]),
        ("SELECT CAST($1 AS TIMESTAMP) FROM land.parcels WHERE day = $1", [pa.timestamp("us")]),
        ("SELECT ?, CAST(? AS DOUBLE), '?' FROM land.parcels", [pa.string(), pa.float64()]),
        ("SELECT id FROM land.parcels WHERE elsewhere = ?", [pa.string()]),
    ],
)
def test_parameters_have_the_types_that_stand_beside_them(sql: str, types: list[pa.DataType]) -> None:
    expected = expected_parameters(sql, DATASETS)
    found = pa.ipc.read_schema(pa.py_buffer(expected.schema))
    assert (found.types, found.names) == (types, [str(number) for number in range(1, len(types) + 1)])
    assert [item.name for item in expected.wanted] == found.names


def test_named_parameters_are_named_and_kinds_are_not_mixed() -> None:
    found = expected_parameters("SELECT id FROM land.parcels WHERE day = $when AND id = $id", DATASETS)
    assert [item.name for item in found.wanted] == ["when", "id"]
    with pytest.raises(TidegateError) as caught:
        expected_parameters("SELECT id FROM land.parcels WHERE id = $1 AND id = $id", DATASETS)
    assert caught.value.code is Code.PLAN_PARAMETERS

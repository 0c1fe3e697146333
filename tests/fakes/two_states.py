"""Two states of TPC-H's data that differ only in what the policy ``restricted`` hides: rows, and values under a mask.

Whoever asks under that policy must not be able to tell them apart. The rules are written here a third time, as the SQL that
makes the other state: hidden rows get the values that would change the answers most, masked values others of the same mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import duckdb
import pyarrow as pa

from benchmarks.tpch_data import SPLIT_BY, TABLES, Held, Layout, parquet, part_of
from benchmarks.tpch_policy import RESTRICTED
from tests.fakes.sql_world import ROWS, Decide, World, decide, distinct
from tidegate import ipc
from tidegate.core.dataset import Column, Dataset, DatasetClass
from tidegate.core.decision import ColumnRule, Decision, Mask, ResourceDecision
from tidegate.core.names import DatasetName
from tidegate.sql.model import FederatedPlan, Fragment
from tidegate.sql.restrict import KeyRelation, RestrictedQuery

HIDDEN: Mapping[str, str] = {
    "lineitem": "l_shipmode = 'REG AIR'",
    "orders": "o_orderpriority = '4-NOT SPECIFIED'",
    "customer": "c_mktsegment = 'MACHINERY'",
    "part": "p_size > 45",
    "partsupp": "ps_availqty <= 100",
    "supplier": "s_acctbal < -900",
}
"""Which rows the policy hides; what they have otherwise is free."""

_OTHER_ROWS: Mapping[str, Mapping[str, str]] = {
    "lineitem": {
        "l_orderkey": "1", "l_partkey": "1 + l_partkey * 7 % 2000", "l_suppkey": "1 + l_suppkey * 7 % 100",
        "l_quantity": "9999999999.99", "l_extendedprice": "9999999999.99", "l_discount": "0.06", "l_tax": "99.99",
        "l_returnflag": "'R'", "l_linestatus": "'F'", "l_shipdate": "DATE '1994-06-15'",
        "l_commitdate": "DATE '1994-07-01'", "l_receiptdate": "DATE '1994-07-15'",
        "l_shipinstruct": "'DELIVER IN PERSON'", "l_comment": "'none'",
    },
    "orders": {
        "o_orderkey": "o_orderkey - 1", "o_custkey": "1", "o_orderstatus": "'F'", "o_totalprice": "9999999999.99",
        "o_orderdate": "DATE '1993-08-01'", "o_comment": "'special requests'",
    },
    "customer": {
        "c_custkey": "1", "c_nationkey": "6", "c_acctbal": "9999999999.99", "c_phone": "'13-000-000-0000'",
        "c_name": "'nobody'",
    },
    "part": {
        "p_partkey": "1", "p_name": "'forest green'", "p_brand": "'Brand#23'", "p_type": "'PROMO BRUSHED BRASS'",
        "p_container": "'MED BOX'", "p_retailprice": "9999999999.99",
    },
    "partsupp": {"ps_partkey": "1", "ps_suppkey": "1", "ps_supplycost": "0.01"},
    "supplier": {"s_suppkey": "1", "s_nationkey": "20", "s_comment": "'Customer Complaints'", "s_name": "'nobody'"},
}  # fmt: skip
_SAME_MASK: Mapping[str, Mapping[str, str]] = {
    "lineitem": {"l_extendedprice": "l_extendedprice - l_extendedprice % 100 + 99.99"},
    "orders": {"o_totalprice": "o_totalprice - o_totalprice % 1000 + 999.99"},
    "customer": {"c_name": "'somebody else ' || right(c_name, 4)"},
    "part": {"p_mfgr": "'somebody else'"},
    "partsupp": {"ps_comment": "'something else'"},
    "supplier": {"s_phone": "'00-' || right(s_phone, 4)"},
}


def changed(table: str, source: str) -> str:
    """Give the SELECT of a table's other state.

    Args:
        source: what to read the first state from.
    """
    if table not in HIDDEN:
        return f"SELECT * FROM {source}"
    rows, values = _OTHER_ROWS[table], _SAME_MASK[table]
    items = []
    for column in (*rows, *(name for name in values if name not in rows)):
        hidden, shown = rows.get(column, column), values.get(column, column)
        # the type stays what it was: a wider one would be another table, not another state of it
        items.append(f"CASE WHEN {HIDDEN[table]} THEN {hidden} ELSE {shown} END AS {column}")
    return f"SELECT * REPLACE ({', '.join(items)}) FROM {source}"


def emptied(table: str, source: str) -> str:
    """Give the SELECT of a state in which no row is hidden at all."""
    where = f" WHERE NOT coalesce({HIDDEN[table]}, false)" if table in HIDDEN else ""
    return f"SELECT * FROM {source}{where}"


def untouched(table: str, source: str) -> str:
    """Give the SELECT of the first state."""
    del table
    return f"SELECT * FROM {source}"


Make = Callable[[str, str], str]
"""Table, source -> the SELECT of a state."""


def fill(database: duckdb.DuckDBPyConnection, item: Held, select: str, first: str, schema: str = "") -> None:
    """Make a table of a state with the column types of the first one."""
    target = f'"{schema or item.member}"."{item.table}"'
    database.execute(f"CREATE TABLE {target} AS SELECT * FROM '{first}' LIMIT 0")
    database.execute(f"INSERT INTO {target} {select}")


class Showing(World):
    """A world that keeps what a query shows."""

    def __post_init__(self) -> None:
        """Set up the parties."""
        super().__post_init__()
        self._answers: dict[str, pa.Table] = {}
        self._views: list[str] = []

    def ask(
        self, fragment: Fragment, decision: Decision, answers: Mapping[str, pa.Table] = MappingProxyType({})
    ) -> tuple[pa.Table, int]:
        """Ask, and remember what was answered."""
        found = super().ask(fragment, decision, answers)
        self._answers[fragment.id] = found[0]
        return found

    def prepare(self, fragment: Fragment, decision: Decision, reductions: tuple[KeyRelation, ...]) -> RestrictedQuery:
        """Restrict, and remember the views."""
        made = super().prepare(fragment, decision, reductions)
        self._views += made.setup
        return made

    def seen(self, sql: str, policy: Decide) -> dict[str, Any]:
        """Give everything that a query shows to anybody: its plan, its answer, counts of rows, bytes and keys."""
        self._answers, self._views = {}, []
        plan, decision = self.plan(sql, (), policy)
        try:
            answer = self.execute(plan, decision)
            shown: Any = (tuple(map(str, answer.types)), [repr(row) for row in answer.rows])
        except duckdb.Error as error:
            shown = type(error).__name__  # its text never leaves the node; that there was one does
        return {
            "asked": [(item.member, item.sql.text, item.reductions) for item in plan.fragments],
            "fragments": {name: (data.num_rows, _size(data)) for name, data in self._answers.items()},
            "keys": dict(_keys(plan, self._answers)),
            "answer": shown,
            "views": tuple(self._views),
        }


class TpchWorld(Showing):
    """TPC-H over the departments of a layout, in one process: planned, restricted and joined as broker and nodes do it.

    Every state is given the same description in the catalogue: what is published about a dataset is no secret.
    """

    def __init__(self, held: Layout, schema: Mapping[DatasetName, Dataset], make: Make, scale: float) -> None:
        super().__init__({}, {})
        self.schema = dict(schema)
        files = parquet(scale)
        for item in held.held:
            node = self.nodes.setdefault(item.member, _database())
            node.execute(f'CREATE SCHEMA IF NOT EXISTS "{item.member}"')
            fill(node, item, make(item.table, source_of(item, str(files[item.table]))), str(files[item.table]))
            self.placement[DatasetName(item.member, item.table)] = (item.member, "main")


def source_of(item: Held, file: str) -> str:
    """Give what a department's table is made from: the whole file, or its part of it."""
    key = SPLIT_BY.get(item.table, "")
    if not item.member.startswith("depot"):
        return f"'{file}'"
    return f"(SELECT * FROM '{file}' WHERE {part_of(key)} = {int(item.member[-1]) - 1})"


def _database() -> duckdb.DuckDBPyConnection:
    database = duckdb.connect(config={"threads": 1})
    database.execute("SET GLOBAL TimeZone = 'UTC'")
    return database


def _size(data: pa.Table) -> int:
    return sum(map(len, ipc.cut(data.schema, data.to_batches())))


def _keys(plan: FederatedPlan, answers: Mapping[str, pa.Table]) -> Iterator[tuple[tuple[str, str], list[int]]]:
    for fragment in plan.fragments:
        for item in fragment.reductions:
            found = [distinct(answers[source].column(name)) for source, name in item.sources if source in answers]
            yield (fragment.id, f"{item.ref}.{item.column}"), [-1 if keys is None else len(keys) for keys in found]


def described(held: Layout, scale: float) -> dict[DatasetName, Dataset]:
    """Describe the tables of a layout as their nodes do, from the first state, and the collections."""
    found: dict[DatasetName, Dataset] = {}
    files = parquet(scale)
    with duckdb.connect() as engine:
        shapes = {table: engine.execute(f"DESCRIBE SELECT * FROM '{files[table]}'").fetchall() for table in TABLES}
        for item in held.held:
            counts = ", ".join(f"approx_count_distinct({name})" for name, *_ in shapes[item.table])
            row = engine.execute(f"SELECT count(*), {counts} FROM '{files[item.table]}'").fetchone()
            assert row is not None
            columns = tuple(
                Column(name, kind, distinct=count)
                for (name, kind, *_), count in zip(shapes[item.table], row[1:], strict=True)
            )
            name = DatasetName(item.member, item.table)
            found[name] = Dataset(name, item.member, "main", item.table, DatasetClass.OPEN, columns, rows=row[0])
    for text, parts in held.collections.items():
        name, first = DatasetName.parse(text), found[DatasetName(parts[0].member, parts[0].table)]
        named = tuple(DatasetName(item.member, item.table) for item in parts)
        columns = tuple(Column(column.name, column.type) for column in first.columns)
        found[name] = Dataset(name, name.department, "", text, DatasetClass.OPEN, columns, parts=named)
    return found


def restricted(schema: Mapping[DatasetName, Dataset], keys_may_go_to: tuple[str, ...] = ("*",)) -> Decide:
    """Give the decision point of the benchmark's restricted policy."""
    constraints = replace(ROWS, keys_may_go_to=keys_may_go_to)
    rules = {}
    for name, dataset in schema.items():
        terms = RESTRICTED.get(name.name)
        columns = {column.name: ColumnRule("plain") for column in dataset.columns}
        if terms is not None:
            columns |= {column: ColumnRule("masked", _mask(text)) for column, text in terms.masks.items()}
        rules[str(name)] = ResourceDecision(True, terms.row_filter if terms else {}, columns, constraints)
    return decide(rules)


def _mask(text: str) -> Mask:
    kind, _, argument = text.partition(":")
    return Mask(kind, {{"bucket": "width", "last_n": "n"}[kind]: int(argument)} if argument else {})

"""A small exchange in one process: departments' tables in DuckDB, planned and executed as broker and nodes do it.

Each node has its own DuckDB with its own tables alone and gets nothing but the fragment's text and the decision; the final
query runs in another DuckDB over the fragments' Arrow tables. ``World.local`` holds everything, for the answer to compare with.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import duckdb
import pyarrow as pa

from broker import keys
from engine import floors
from tidegate import ipc
from tidegate.core.dataset import Column, Dataset, DatasetClass
from tidegate.core.decision import ColumnRule, Constraints, Decision, Mask, ResourceDecision
from tidegate.core.names import DatasetName
from tidegate.sql import admit, bind, restrict, split, wall
from tidegate.sql.model import BoundQuery, FederatedPlan, Floor, Fragment, RenderedSql
from tidegate.sql.passes import ALL, Passes

SUBJECT_KEY = bytes(range(32))
ROWS = Constraints("rows", 1, "", (), 1_000_000, False, 0, ())


class Keys:
    """Mask keys derived from names: per node by default, one for each shared id."""

    def key(self, mask: Mask, dataset: DatasetName, column: str) -> bytes:
        name = str(mask.arguments.get("key", "node"))
        scope = name if name.startswith("shared:") else f"{name}/{dataset.department}"
        return hashlib.sha256(scope.encode()).digest()


KEYS = Keys()


def hmac_text(mask: Mask, dataset: str, column: str, value: object) -> str | None:
    """Compute a keyed mask with Python's own hmac."""
    if value is None:
        return None
    text = hmac.new(KEYS.key(mask, DatasetName.parse(dataset), column), str(value).encode(), hashlib.sha256).hexdigest()
    return text if mask.kind == "hash" else text[:32]


@dataclass(frozen=True)
class Table:
    """One dataset with its rows."""

    dataset: Dataset
    rows: tuple[tuple[Any, ...], ...]


def table(name: str, columns: Mapping[str, str], rows: Sequence[tuple[Any, ...]], subject: str = "") -> Table:
    """Make a dataset of a department whose node has the department's name."""
    parsed = DatasetName.parse(name)
    dataset = Dataset(
        name=parsed,
        owner=parsed.department,
        node="main",
        title=name,
        dataset_class=DatasetClass.OPEN,
        columns=tuple(Column(column, kind) for column, kind in columns.items()),
        subject_column=subject,
    )
    return Table(dataset, tuple(rows))


Decide = Callable[[BoundQuery], Decision]


def whole(bound: BoundQuery) -> Decision:
    """Decide as no policy at all."""
    return decide({})(bound)


def decide(rules: Mapping[str, ResourceDecision]) -> Decide:
    """Decide by dataset; a dataset that is not named passes whole."""

    def decision(bound: BoundQuery) -> Decision:
        resources = {}
        for leaf in bound.leaves:
            plain = ResourceDecision(True, {}, {name: ColumnRule("plain") for name in leaf.columns}, ROWS)
            resources[leaf.ref] = rules.get(str(leaf.dataset), plain)
        return Decision(True, (), MappingProxyType(resources))

    return decision


@dataclass(frozen=True)
class Answer:
    """What came back: names, rows, the plan, and how many rows each fragment sent."""

    names: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    plan: FederatedPlan
    fetched: tuple[int, ...]
    suppressed: int
    types: tuple[pa.DataType, ...]


@dataclass
class World:
    """Tables by name, collections by name, and a DuckDB for each party."""

    tables: Mapping[str, Table]
    collections: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    passes: Passes = ALL

    def __post_init__(self) -> None:
        self.schema: dict[DatasetName, Dataset] = {item.dataset.name: item.dataset for item in self.tables.values()}
        for name, parts in self.collections.items():
            first = self.tables[parts[0]].dataset
            parsed = DatasetName.parse(name)
            self.schema[parsed] = Dataset(
                parsed,
                parsed.department,
                "",
                name,
                DatasetClass.OPEN,
                first.columns,
                parts=tuple(map(DatasetName.parse, parts)),
            )
        self.nodes = {member: _database() for member in {item.dataset.owner for item in self.tables.values()}}
        self.local = _database()
        for item in self.tables.values():
            load(self.local, item)
            load(self.nodes[item.dataset.owner], item)
        for name, parts in self.collections.items():
            view(self.local, name, parts)
        self.broker = _database()
        self.placement = {item.dataset.name: (item.dataset.owner, item.dataset.node) for item in self.tables.values()}

    def bind(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> BoundQuery:
        """Admit and bind as the broker does."""
        return bind.bind(admit.admit(sql), self.schema, parameters)

    def plan(self, sql: str, parameters: Any = (), policy: Decide = whole) -> tuple[FederatedPlan, Decision]:
        """Plan as the broker does."""
        bound = self.bind(sql, parameters)
        decision = policy(bound)
        return split.split(bound, decision, self.placement, schema=self.schema, passes=self.passes), decision

    def run(self, sql: str, parameters: Any = (), policy: Decide = whole, *, keys: bool = True) -> Answer:
        """Plan, ask the nodes, join."""
        return self.execute(*self.plan(sql, parameters, policy), keys=keys)

    def execute(self, plan: FederatedPlan, decision: Decision, *, keys: bool = True) -> Answer:
        """Ask the nodes, join.

        Args:
            keys: give the nodes the keys that the plan's reductions are about.
        """
        found: list[tuple[pa.Table, int]] = []
        for fragment in plan.fragments:
            answers = {other.id: data for other, (data, _) in zip(plan.fragments, found, strict=False)}
            found.append(self.ask(fragment, decision, answers if keys else {}))
        suppressed = sum(count for _, count in found)
        if plan.final is None:
            answer = found[0][0]
        else:
            cursor = self.broker.cursor()
            wall.check(plan.final, frozenset(fragment.id for fragment in plan.fragments))
            for fragment, (data, _) in zip(plan.fragments, found, strict=True):
                cursor.register(fragment.id, data)
            answer, more = cut(execute(cursor, plan.final), plan.floors)
            suppressed += more
            cursor.close()
        fetched = tuple(data.num_rows for data, _ in found)
        return Answer(plan.output_names, rows_of(answer), plan, fetched, suppressed, tuple(answer.schema.types))

    def ask(
        self, fragment: Fragment, decision: Decision, answers: Mapping[str, pa.Table] = MappingProxyType({})
    ) -> tuple[pa.Table, int]:
        """Answer a fragment as a node does: from its text and parameters, its own tables, the decision, and the keys that
        other fragments' answers hold.
        """
        held = key_relations(fragment, answers)
        made = self.prepare(fragment, decision, tuple(held))
        cursor = self.nodes[fragment.member].cursor()
        for relation, data in held.items():
            cursor.register(relation.name, data)
        for statement in made.setup:
            cursor.execute(statement)
        data = cut(execute(cursor, made.query), made.floors)
        cursor.close()
        return data

    def prepare(
        self, fragment: Fragment, decision: Decision, reductions: tuple[restrict.KeyRelation, ...]
    ) -> restrict.RestrictedQuery:
        """Read a fragment's text and restrict it, as a node does, knowing its own tables alone."""
        wall.check(fragment.sql, frozenset(map(str, fragment.refs.values())))
        own = {name: item for name, item in self.schema.items() if item.owner == fragment.member and not item.parts}
        bound = bind.bind(admit.admit(fragment.sql.text), own, fragment.sql.parameters, fragment=True)
        assert {leaf.ref: leaf.dataset for leaf in bound.leaves} == dict(fragment.refs)
        made = restrict.restrict(
            bound,
            decision.only(tuple(fragment.refs)),
            KEYS,
            schema=own,
            subject_key=SUBJECT_KEY,
            reductions=reductions,
        )
        wall.check(made.query, made.tables)
        return made


def key_relations(fragment: Fragment, answers: Mapping[str, pa.Table]) -> dict[restrict.KeyRelation, pa.Table]:
    """Make the keys that a node is given, as the broker makes them; a reduction whose keys are of no use is left out."""
    found = {}
    for place, item in enumerate(fragment.reductions):
        if not all(source in answers for source, _ in item.sources):
            continue
        packed = keys.pack([distinct(answers[source].column(name)) for source, name in item.sources])
        if packed is not None:
            schema, batches = ipc.read(iter(packed.chunks))
            relation = restrict.KeyRelation(item.ref, item.column, f"{restrict.KEYS_PREFIX}{place}")
            found[relation] = pa.Table.from_batches(list(batches), schema)
    return found


def distinct(column: pa.ChunkedArray) -> pa.Array | None:
    """Gather the keys of a column of an answer."""
    gathered = keys.Distinct()
    gathered.begin(column.type)
    for chunk in column.chunks:
        gathered.add(chunk)
    return gathered.values()


def execute(cursor: duckdb.DuckDBPyConnection, sql: RenderedSql) -> pa.Table:
    """Run rendered SQL."""
    return cursor.sql(sql.text, params=list(sql.parameters)).to_arrow_table()


def cut(data: pa.Table, wanted: Sequence[Floor]) -> tuple[pa.Table, int]:
    """Apply floors to a table."""
    schema, batches, counter = floors.apply(data.schema, data.to_batches(), wanted)
    kept = pa.Table.from_batches(list(batches), schema=schema)
    return kept, counter.groups


def rows_of(data: pa.Table) -> list[tuple[Any, ...]]:
    """Give the rows by position; names may repeat. Nanoseconds, which Python's datetime has not, come as integers."""
    nanoseconds = pa.timestamp("ns")
    columns = [(c.cast(pa.int64()) if c.type == nanoseconds else c).to_pylist() for c in data.columns]
    return list(zip(*columns, strict=True)) if columns else []


def comparable(rows: Sequence[tuple[Any, ...]], *, ordered: bool = False) -> list[str]:
    """Give rows in a form to compare: floats rounded to 12 digits, NaN equal to itself, sorted unless ordered."""
    texts = [repr(tuple(map(_normal, row))) for row in rows]
    return texts if ordered else sorted(texts)


def _normal(value: Any) -> Any:
    if isinstance(value, float | Decimal):
        number = float(value)
        return "nan" if math.isnan(number) else float(f"{number:.10g}") + 0.0
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, list | tuple):
        return [_normal(item) for item in value]
    if isinstance(value, dict):
        return {key: _normal(item) for key, item in value.items()}
    return value


def _database() -> duckdb.DuckDBPyConnection:
    database = duckdb.connect(config={"threads": 1})
    database.execute("SET GLOBAL TimeZone = 'UTC'")
    database.execute("SET python_enable_replacements = false")
    return database


def load(database: duckdb.DuckDBPyConnection, item: Table, name: str = "") -> None:
    """Make a dataset's table."""
    department, own = item.dataset.name.department, name or item.dataset.name.name
    columns = ", ".join(f'"{column.name}" {column.type}' for column in item.dataset.columns)
    database.execute(f'CREATE SCHEMA IF NOT EXISTS "{department}"')
    database.execute(f'CREATE TABLE "{department}"."{own}" ({columns})')
    if item.rows:
        marks = "(" + ", ".join("?" for _ in item.dataset.columns) + ")"
        values = [value for row in item.rows for value in row]
        database.execute(f'INSERT INTO "{department}"."{own}" VALUES {", ".join(marks for _ in item.rows)}', values)


def view(database: duckdb.DuckDBPyConnection, name: str, parts: Sequence[str]) -> None:
    """Make a collection's view."""
    department, own = name.split(".")
    database.execute(f'CREATE SCHEMA IF NOT EXISTS "{department}"')
    body = " UNION ALL ".join(f"SELECT * FROM {part}" for part in parts)
    database.execute(f'CREATE VIEW "{department}"."{own}" AS {body}')


_START = datetime(2024, 1, 1)
_TEXTS = ("JFK", "LGA", "EWR", "", "jfk", None, "Ö", "it's", "LGA ")
_FLOATS = (0.5, -0.0, 0.0, float("nan"), None, 1e9, -3.25, 7.0)


def _rows(count: int, seed: int) -> list[tuple[Any, ...]]:
    """Make rows with NULLs, duplicates, NaN, -0.0, empty and look-alike texts; the same every time."""
    rows = []
    for i in range(count):
        j = i * 7 + seed
        rows.append(
            (
                None if j % 11 == 3 else j % 9,
                _TEXTS[j % len(_TEXTS)],
                None if j % 13 == 5 else (j * 5) % 40,
                _FLOATS[j % len(_FLOATS)],
                None if j % 10 == 7 else date(2024, 1, 1) + timedelta(days=(j * 3) % 200),
                None if j % 12 == 1 else _START + timedelta(hours=j * 11),
                (True, False, None)[j % 3],
                None if j % 14 == 2 else Decimal(j % 23) / 4,
                j % 6,
            )
        )
    return rows


COLUMNS = {
    "k": "BIGINT",
    "s": "VARCHAR",
    "n": "INTEGER",
    "x": "DOUBLE",
    "d": "DATE",
    "t": "TIMESTAMP",
    "b": "BOOLEAN",
    "m": "DECIMAL(12,2)",
    "p": "BIGINT",
}


def small_world(*, count: int = 24) -> World:
    """Make the world of the differential suite: four departments, an empty dataset, collections in 1, 2 and 5 parts."""
    tables = {}
    for seed, name in enumerate(
        ("air.a", "sea.b", "land.c", "rail.d", "north.t", "south.t", "east.t", "west.t", "mid.t")
    ):
        size = count if "." in name and name[-1] != "t" else count // 2
        tables[name] = table(name, COLUMNS, _rows(size, seed * 5 + 1), "p")
    tables["air.a2"] = table("air.a2", COLUMNS, _rows(count, 77), "p")
    tables["void.e"] = table("void.e", COLUMNS, [], "p")
    parts = ("north.t", "south.t", "east.t", "west.t", "mid.t")
    return World(tables, {"city.t1": parts[:1], "city.t2": parts[:2], "city.t5": parts})

"""Look-ups that wait are run together: each caller gets its own rows, whoever else asks, and a common failure is nobody's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from engine.pool import WorkerPool
from engine.spec import FileTable, Job, WorkerSpec
from node.lookup import KEYS_MAX, LookupForm, Lookups, lookup_form
from tests.fakes.sql_world import KEYS, ROWS
from tidegate import ipc
from tidegate.core.clock import SystemClock
from tidegate.core.dataset import Column, Dataset, DatasetClass
from tidegate.core.decision import ColumnRule, Decision, Mask, ResourceDecision
from tidegate.core.names import DatasetName
from tidegate.core.values import Value
from tidegate.sql.admit import admit
from tidegate.sql.bind import bind
from tidegate.sql.model import RenderedSql
from tidegate.sql.restrict import restrict

PEOPLE = Dataset(
    DatasetName.parse("health.people"),
    "health",
    "node1",
    "people",
    DatasetClass.OPEN,
    (Column("id", "BIGINT"), Column("name", "VARCHAR"), Column("ward", "VARCHAR"), Column("day", "DATE")),
)
SCHEMA = {PEOPLE.name: PEOPLE}
LOOK_UP = "SELECT name, ward FROM health.people WHERE id = $1"


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerPool]:
    file = tmp_path_factory.mktemp("data") / "people.duckdb"
    with duckdb.connect(str(file)) as engine:
        engine.execute(
            "CREATE TABLE people AS SELECT i AS id, 'n' || i AS name, 'w' || (i % 7) AS ward,"
            " DATE '2026-01-01' + (i % 31)::INTEGER AS day FROM range(1000) AS t(i)"
        )
        engine.execute("INSERT INTO people VALUES (5, 'twin', 'w9', NULL), (NULL, 'nobody', 'w0', NULL)")
    columns = tuple((column.name, column.type) for column in PEOPLE.columns)
    table = FileTable("health", "people", (), "duckdb", columns, database="src0", relation=("main", "people"))
    made = WorkerPool(WorkerSpec(kind="files", databases=((str(file), "src0"),), files=(table,)), 1)
    yield made
    made.close()


def form(sql: str, value: Value = 5, *, row_filter: dict[str, Any] | None = None, mask: str = "") -> LookupForm | None:
    bound = bind(admit(sql), SCHEMA, [value])
    rules = {name: ColumnRule("plain") for name in bound.leaves[0].columns}
    if mask:
        rules[mask] = ColumnRule("masked", Mask("last_n", {"n": 1}))
    resource = ResourceDecision(True, row_filter or {}, rules, ROWS)
    return lookup_form(bound, restrict(bound, Decision(True, (), {"r0": resource}), KEYS, schema=SCHEMA), SCHEMA)


def rows(chunks: list[bytes]) -> list[tuple[Any, ...]]:
    schema, batches = ipc.read(iter(chunks))
    return sorted(tuple(row.values()) for row in pa.Table.from_batches(list(batches), schema).to_pylist())


def alone(pool: WorkerPool, made: LookupForm, key: Value) -> list[tuple[Any, ...]]:
    with pool.run(Job(made.setup, RenderedSql(made.text, (key,))), deadline_s=30) as result:
        return rows(list(result.chunks))


class Held:
    """A pool whose first statement waits until it is told to go on, so that others gather behind it."""

    def __init__(self, pool: WorkerPool, fail: Callable[[Job], Job] | None = None) -> None:
        self._pool = pool
        self._fail = fail
        self.go = threading.Event()
        self.begun = threading.Event()
        self.jobs: list[Job] = []

    def run(self, job: Job, **options: Any) -> Any:
        first = not self.jobs
        self.jobs.append(job)
        if first:
            self.begun.set()
            assert self.go.wait(30)
        elif self._fail is not None:
            job = self._fail(job)
        return self._pool.run(job, **options)


def gathered(held: Held, made: LookupForm, keys: list[Value]) -> tuple[Lookups, list[list[bytes] | None]]:
    """Ask for the first key, and for all others while it runs."""
    lookups = Lookups(held, SystemClock())  # type: ignore[arg-type]
    found: list[list[bytes] | None] = [None] * len(keys)

    def ask(place: int) -> None:
        found[place] = lookups.run(made, keys[place], 30.0)

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(len(keys))]
    threads[0].start()
    assert held.begun.wait(30)
    for thread in threads[1:]:
        thread.start()
    group = lookups._groups[made.setup, made.text]
    while len(group.waiting) < len(keys) - 1:
        threading.Event().wait(0.001)
    held.go.set()
    for thread in threads:
        thread.join(30)
    return lookups, found


@pytest.mark.parametrize(
    ("sql", "options"),
    [
        (LOOK_UP, {}),
        ("SELECT ward, id FROM health.people WHERE $1 = id", {}),
        (LOOK_UP, {"row_filter": {"type": "field", "field": "ward", "operator": "in", "value": ["w1", "w5"]}}),
        (LOOK_UP, {"mask": "name"}),
    ],
)
def test_each_of_many_gets_what_it_would_get_alone(pool: WorkerPool, sql: str, options: dict[str, Any]) -> None:
    made = form(sql, **options)
    assert made is not None
    keys: list[Value] = [1, 5, 5, 6, 999_999, -3, 12, 1]
    held = Held(pool)
    lookups, found = gathered(held, made, keys)
    assert [rows(item) for item in found if item is not None] == [alone(pool, made, key) for key in keys]
    assert (lookups.statements, lookups.answers) == (2, len(keys))  # the first alone, all the others in one statement
    schemas = {ipc.parse_schema(item[0]) == ipc.parse_schema(found[0][0]) for item in found if item and found[0]}
    assert schemas == {True}  # nobody sees by the form of the answer whether it was alone


def test_keys_of_text_are_compared_as_texts(pool: WorkerPool) -> None:
    made = form("SELECT id FROM health.people WHERE name = $1", "n7")
    assert made is not None
    keys: list[Value] = ["n7", "twin", "n7 ", "N7", "'; --", "nobody"]
    _, found = gathered(Held(pool), made, keys)
    assert [rows(item) for item in found if item is not None] == [alone(pool, made, key) for key in keys]


def test_a_common_failure_leaves_each_to_run_alone(pool: WorkerPool) -> None:
    made = form(LOOK_UP)
    assert made is not None
    held = Held(pool, fail=lambda job: Job(job.setup, RenderedSql("SELECT error('no')", ())))
    lookups, found = gathered(held, made, [1, 2, 3])
    assert found[0] is not None
    assert found[1:] == [None, None]
    assert lookups.run(made, 4, 30.0) is None  # and for a while the form is not tried again


def test_more_than_one_statement_holds_wait_for_the_next(pool: WorkerPool) -> None:
    made = form(LOOK_UP)
    assert made is not None
    keys: list[Value] = list(range(KEYS_MAX + 20))
    lookups, found = gathered(Held(pool), made, keys)
    assert all(item is not None for item in found)
    assert lookups.statements == 3


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*) FROM health.people WHERE id = $1",
        "SELECT upper(name) FROM health.people WHERE id = $1",
        "SELECT name FROM health.people WHERE id = $1 LIMIT 1",
        "SELECT DISTINCT name FROM health.people WHERE id = $1",
        "SELECT name FROM health.people WHERE id = $1 ORDER BY name",
        "SELECT name FROM health.people WHERE id = $1 AND ward = 'w1'",
        "SELECT name FROM health.people WHERE id > $1",
        "SELECT name FROM health.people WHERE id + 1 = $1",
        "SELECT name FROM health.people WHERE day = $1",
    ],
)
def test_what_is_no_look_up_has_no_common_statement(sql: str) -> None:
    assert form(sql) is None


@pytest.mark.parametrize("value", ["5", 5.0, True, None, 1 << 62])
def test_a_value_of_another_type_is_run_alone(value: Value) -> None:
    made = form(LOOK_UP)
    assert made is not None
    assert not made.fits(value)

"""The locked worker alone: with no allow-list before it, nothing of the machine is read, written, reached or exhausted."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.pool import WorkerPool
from engine.spec import FileTable, WorkerSpec
from tests.contract.hostile_worker_sql import FORBIDDEN, RESOURCES, TOLERATED
from tests.unit.engine.running import ask, job, rows
from tidegate.core.errors import Code, TidegateError

CANARY = "CANARY-7f3a"
INPUT = pa.table({"a": [1, 2, 3]})
ENDS_BADLY = {Code.JOIN_FAILED, Code.JOIN_LIMIT, Code.QUERY_DEADLINE}
MAY_FIT = {"deep", "deep functions", "printf", "format"}  # these only must not take the worker's neighbours with them
READERS = (
    "text",
    "blob",
    "blob list",
    "csv",
    "csv auto",
    "json",
    "parquet",
    "database file",
    "replacement csv",
    "replacement quoted",
    "through query",
    "through serialized",
    "in a subquery",
    "in a cte",
    "in a lateral",
)


@dataclass
class World:
    """The machine around a worker: files with canaries, somebody who listens."""

    folder: Path
    files: frozenset[str]
    port: int
    visitors: list[object]

    def text(self, sql: str) -> str:
        return sql.format(f=self.folder, port=self.port, ppid=os.getpid())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    (folder / "canary.csv").write_text(f"a\n{CANARY}\n")
    (folder / "canary.json").write_text(f'{{"a": "{CANARY}"}}\n')
    pq.write_table(pa.table({"a": [CANARY]}), folder / "canary.parquet")
    pq.write_table(pa.table({"id": [1, 2]}), folder / "own.parquet")
    with duckdb.connect(str(folder / "canary.duckdb")) as connection:
        connection.execute(f"CREATE TABLE t AS SELECT '{CANARY}' AS a")
    with duckdb.connect(str(folder / "own.duckdb")) as connection:
        connection.execute("CREATE TABLE t AS SELECT 1 AS id")
    listener = socket.create_server(("127.0.0.1", 0))
    visitors: list[object] = []
    thread = threading.Thread(target=_welcome, args=(listener, visitors))
    thread.start()
    yield World(folder, frozenset(item.name for item in folder.iterdir()), listener.getsockname()[1], visitors)
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def _welcome(listener: socket.socket, visitors: list[object]) -> None:
    while True:
        try:
            connection, peer = listener.accept()
        except OSError:
            return
        visitors.append(peer)
        connection.close()


def _pool(kind: str, world: World, spill: Path) -> WorkerPool:
    limits: dict[str, Any] = {"memory_limit_bytes": 128 << 20, "address_space_bytes": 512 << 20}
    parquet = FileTable("d", "own", (str(world.folder / "own.parquet"),), "parquet", (("id", ""),))
    table = FileTable("d", "own", (), "duckdb", (("id", ""),), database="src", relation=("main", "t"))
    match kind:
        case "join":
            return WorkerPool(WorkerSpec(**limits), 2)
        case "spilling join":
            return WorkerPool(WorkerSpec(temp_directory=str(spill), spill_bytes_max=64 << 20, **limits), 2)
        case "parquet":
            return WorkerPool(WorkerSpec(kind="files", files=(parquet,), **limits), 2)
    return WorkerPool(
        WorkerSpec(kind="files", databases=((str(world.folder / "own.duckdb"), "src"),), files=(table,), **limits), 2
    )


@pytest.fixture(scope="module", params=["join", "spilling join", "parquet", "database"])
def pool(
    request: pytest.FixtureRequest, world: World, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WorkerPool]:
    made = _pool(request.param, world, tmp_path_factory.mktemp("spill"))
    yield made
    made.close()


@pytest.fixture(scope="module", params=["join", "spilling join"])
def joining(
    request: pytest.FixtureRequest, world: World, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WorkerPool]:
    """The workers whose limits matter; what a files worker reads changes nothing about them."""
    made = _pool(request.param, world, tmp_path_factory.mktemp("spill"))
    yield made
    made.close()


def _outcome(pool: WorkerPool, sql: str, *, deadline_s: float) -> pa.Table | TidegateError:
    try:
        return ask(pool, job(sql, inputs={"f0": INPUT}), deadline_s=deadline_s)
    except TidegateError as error:
        return error


def _harmless(pool: WorkerPool, world: World, answer: pa.Table | TidegateError) -> None:
    assert CANARY not in str(answer.to_pylist() if isinstance(answer, pa.Table) else (answer.message, answer.detail))
    assert {item.name for item in world.folder.iterdir()} == world.files
    assert world.visitors == []
    assert rows(pool, "SELECT 42 AS c0") == [(42,)]


@pytest.mark.parametrize("name", FORBIDDEN)
def test_files_network_host_and_settings_are_out_of_reach(pool: WorkerPool, world: World, name: str) -> None:
    answer = _outcome(pool, world.text(FORBIDDEN[name]), deadline_s=20)
    if isinstance(answer, pa.Table):
        assert answer.num_rows == 0, "an answer with rows to something that must not be reached"
    else:
        assert answer.code in ENDS_BADLY
    _harmless(pool, world, answer)


@pytest.mark.parametrize("name", TOLERATED)
def test_what_may_answer_tells_nothing_from_outside(pool: WorkerPool, world: World, name: str) -> None:
    _harmless(pool, world, _outcome(pool, world.text(TOLERATED[name]), deadline_s=20))


@pytest.mark.parametrize("name", RESOURCES)
def test_resources_are_bounded_and_the_pool_serves_on(joining: WorkerPool, world: World, name: str) -> None:
    started = time.monotonic()
    answer = _outcome(joining, world.text(RESOURCES[name]), deadline_s=0.3)
    assert time.monotonic() - started < 5
    if isinstance(answer, TidegateError):
        assert answer.code in ENDS_BADLY
    else:
        assert name in MAY_FIT
    _harmless(joining, world, answer)


def test_a_stuck_query_costs_the_others_nothing(pool: WorkerPool) -> None:
    stuck = threading.Thread(target=_outcome, args=(pool, RESOURCES["sleep"]), kwargs={"deadline_s": 1.0})
    stuck.start()
    while len(pool._seats._idle) == 2:
        time.sleep(0)
    assert rows(pool, "SELECT 42 AS c0", deadline_s=0.9) == [(42,)]
    stuck.join()


def test_the_answer_of_a_files_worker_is_its_own_data(pool: WorkerPool) -> None:
    if pool.spec.kind == "files":
        assert rows(pool, "SELECT min(id) AS c0 FROM d.own") == [(1,)]
    else:
        assert isinstance(_outcome(pool, "SELECT * FROM d.own", deadline_s=20), TidegateError)


@pytest.mark.parametrize("name", READERS)
def test_the_list_has_teeth(world: World, name: str) -> None:
    """An engine that is not locked gives the canary away, so the statements above fail for the right reason."""
    with duckdb.connect() as connection:
        connection.register("f0", INPUT)
        assert CANARY in str(connection.execute(world.text(FORBIDDEN[name])).fetchall())


def test_the_list_is_long_enough() -> None:
    assert len(FORBIDDEN) >= 60
    assert len(FORBIDDEN) + len(RESOURCES) + len(TOLERATED) >= 120

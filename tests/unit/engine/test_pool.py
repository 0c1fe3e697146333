"""The worker pool: answers stream, sessions see nothing of each other, and nothing that a query does outlives it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from engine.pool import WorkerPool
from engine.spec import WorkerSpec
from tests.unit.engine.running import ask, failure, job, rows, stream
from tidegate import ipc
from tidegate.core.errors import Code, error_for

TABLE = pa.table({"a": list(range(1000)), "t": [f"t{i % 7}" for i in range(1000)]})
ENDLESS = "SELECT count(*) FROM range(10000000) AS a(x), range(10000000) AS b(y) WHERE a.x * b.y < 0"


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    made = WorkerPool(WorkerSpec(memory_limit_bytes=256 << 20, address_space_bytes=1 << 30), 1)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _serves_after_each_test(pool: WorkerPool) -> Iterator[None]:
    yield
    assert rows(pool, "SELECT 42 AS c0") == [(42,)]


def test_joins_inputs_under_plain_and_departments_names(pool: WorkerPool) -> None:
    query = job(
        "SELECT count(*) AS c0, max(f0.t) AS c1 FROM f0 JOIN health.cases AS r1 ON f0.a = r1.a WHERE f0.a < $1",
        10,
        inputs={"f0": TABLE, "health.cases": TABLE},
    )
    assert rows(pool, query) == [(10, "t6")]


def test_an_input_may_be_read_any_number_of_times(pool: WorkerPool) -> None:
    query = job(
        "SELECT count(*) AS c0 FROM f0 AS x JOIN f0 AS y ON x.a = y.a WHERE x.a IN (SELECT a FROM f0)",
        inputs={"f0": TABLE},
    )
    assert rows(pool, query) == [(1000,)]


def test_an_input_without_rows_is_a_relation_without_rows(pool: WorkerPool) -> None:
    assert rows(pool, job("SELECT count(*) AS c0 FROM f0", inputs={"f0": TABLE.slice(0, 0)})) == [(0,)]


def test_two_inputs_of_one_department_share_its_schema(pool: WorkerPool) -> None:
    query = job(
        "SELECT count(*) AS c0 FROM d.x AS r0, d.y AS r1", inputs={"d.x": TABLE.slice(0, 3), "d.y": TABLE.slice(0, 4)}
    )
    assert rows(pool, query) == [(12,)]
    assert rows(pool, "SELECT count(*) AS c0 FROM duckdb_schemas() WHERE NOT internal AND schema_name = 'd'") == [(0,)]


def test_parameters_of_every_kind_arrive_as_they_are(pool: WorkerPool) -> None:
    moment = datetime(2026, 2, 3, 4, 5, 6, 7, tzinfo=UTC)
    values = (None, True, 7, 0.5, Decimal("1.50"), "it's; DROP", b"\x00x", date(2026, 1, 2), moment, ["a", "b"])
    marks = ", ".join(f"${i + 1} AS c{i}" for i in range(len(values)))
    (answer,) = rows(pool, job(f"SELECT {marks}", *values))
    assert answer == values


def test_setup_makes_views_that_the_query_reads(pool: WorkerPool) -> None:
    query = job(
        "SELECT count(*) AS c0 FROM v0",
        inputs={"d.x": TABLE},
        setup=("CREATE TEMP SECURE VIEW v0 AS SELECT a FROM d.x WHERE a < 5",),
    )
    assert rows(pool, query) == [(5,)]


def test_the_stream_begins_with_the_schema_and_its_batches_are_bounded(pool: WorkerPool) -> None:
    with pool.run(job("SELECT i AS c0 FROM range(200000) AS r(i)"), deadline_s=60) as result:
        chunks = list(result.chunks)
        assert chunks[0] == ipc.schema_chunk(result.schema)
        assert len(chunks) > 3
        assert result.rows == 200_000


def test_the_answer_streams_instead_of_being_built_first(pool: WorkerPool) -> None:
    """60 GB of answer can only begin to flow if nobody holds it."""
    with pool.run(job("SELECT i AS c0, repeat('x', 1000) AS c1 FROM range(60000000) AS r(i)"), deadline_s=60) as result:
        assert len(next(iter(result.chunks))) > 0
        assert result.rows == -1


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (job("SELECT 1 AS c0", inputs={"f0": TABLE}), "SELECT * FROM f0"),
        (job("SELECT 1 AS c0", inputs={"d.x": TABLE}), "SELECT * FROM d.x"),
        (job("SELECT 1 AS c0", inputs={"d.x": TABLE}), "SELECT * FROM temp.tg_input_0"),
        (job("SELECT 1 AS c0", setup=("CREATE TEMP SECURE VIEW v0 AS SELECT 1 AS x",)), "SELECT * FROM v0"),
        (job("SELECT 1 AS c0", setup=("CREATE TEMP TABLE t0 AS SELECT 1 AS x",)), "SELECT * FROM t0"),
        (job("SELECT 1 AS c0", setup=("CREATE TEMP MACRO m0(a) AS a + 1",)), "SELECT m0(1)"),
    ],
)
def test_nothing_of_one_job_is_seen_by_the_next(pool: WorkerPool, first: Any, second: str) -> None:
    fresh = job(first.sql.text, setup=first.setup, inputs=dict.fromkeys(first.inputs, TABLE))
    assert rows(pool, fresh) == [(1,)]
    assert failure(pool, second).code is Code.JOIN_FAILED


def test_a_variable_of_one_job_is_not_set_in_the_next(pool: WorkerPool) -> None:
    assert rows(pool, job("SELECT getvariable('a') AS c0", setup=("SET VARIABLE a = 7",))) == [(7,)]
    assert rows(pool, "SELECT getvariable('a') AS c0") == [(None,)]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1; SELECT 2",
        "CREATE TABLE main.kept AS SELECT 1 AS x",
        "ATTACH ':memory:' AS other",
        "SET VARIABLE a = 1",
        "EXPLAIN ANALYZE SELECT 1",
        "",
        "this is no SQL",
    ],
)
def test_anything_but_one_select_is_refused_by_the_worker_itself(pool: WorkerPool, sql: str) -> None:
    assert failure(pool, sql).code is Code.JOIN_FAILED


def test_a_select_that_writes_is_refused_by_the_read_only_transaction(pool: WorkerPool) -> None:
    """DuckDB calls this statement a SELECT; the table exists for the job's time, so only the transaction stands against it."""
    query = job(
        "WITH w AS (INSERT INTO memory.d.x SELECT 1 RETURNING *) SELECT * FROM w",
        setup=("CREATE SCHEMA memory.d", "CREATE TABLE memory.d.x(a INTEGER)"),
    )
    failed = failure(pool, query)
    assert failed.code is Code.JOIN_FAILED
    assert "TransactionException" in failed.detail


def test_too_many_rows_or_bytes_end_the_job(pool: WorkerPool) -> None:
    assert failure(pool, job("SELECT i AS c0 FROM range(1000) AS r(i)", rows_max=999)).code is Code.JOIN_LIMIT
    assert ask(pool, job("SELECT i AS c0 FROM range(1000) AS r(i)", rows_max=1000)).num_rows == 1000
    assert failure(pool, job("SELECT i AS c0 FROM range(1000000) AS r(i)", bytes_max=100_000)).code is Code.JOIN_LIMIT


def test_inputs_larger_than_the_limit_end_the_job(pool: WorkerPool) -> None:
    failed = failure(pool, job("SELECT count(*) AS c0 FROM f0", inputs={"f0": TABLE}, input_bytes_max=1_000))
    assert failed.code is Code.JOIN_LIMIT


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT len(repeat('x', 3000000000)) AS c0",
        "SELECT len(range(400000000)) AS c0",
        "SELECT len(list(i)) AS c0 FROM range(400000000) AS r(i)",
        "SELECT length(string_agg(repeat('x', 10000), '')) AS c0 FROM range(400000) AS r(i)",
    ],
)
def test_a_memory_bomb_is_a_limit_and_costs_nobody_else_anything(pool: WorkerPool, sql: str) -> None:
    assert failure(pool, sql, deadline_s=60).code is Code.JOIN_LIMIT


@pytest.mark.parametrize(
    "sql",
    [
        ENDLESS,
        "SELECT length(lpad('x', 2000000000, 'y')) AS c0",
        "SELECT sleep_ms(60000) AS c0",
        "SELECT sleep_ms(60000) AS c0 FROM range(3)",
    ],
)
def test_what_does_not_end_is_over_at_its_deadline(pool: WorkerPool, sql: str) -> None:
    started = time.monotonic()
    assert failure(pool, sql, deadline_s=0.4).code is Code.QUERY_DEADLINE
    assert time.monotonic() - started < 5


def test_a_cancel_ends_the_job_from_any_thread(pool: WorkerPool) -> None:
    cancel = threading.Event()
    timer = threading.Timer(0.1, cancel.set)
    timer.start()
    assert failure(pool, ENDLESS, cancel=cancel).code is Code.QUERY_CANCELLED
    timer.join()


def test_closing_a_result_early_frees_the_worker_without_a_kill(pool: WorkerPool) -> None:
    before = pool.replaced
    result = pool.run(job("SELECT i AS c0 FROM range(1000000000) AS r(i)"), deadline_s=60)
    chunks = iter(result.chunks)
    next(chunks)
    next(chunks)
    result.close()
    result.close()
    assert rows(pool, "SELECT 1 AS c0") == [(1,)]
    assert pool.replaced == before


def test_a_reader_that_stops_reading_loses_its_worker_at_the_deadline(pool: WorkerPool) -> None:
    before = pool.replaced
    result = pool.run(job("SELECT i AS c0 FROM range(1000000000) AS r(i)"), deadline_s=0.3)
    assert rows(pool, "SELECT 1 AS c0") == [(1,)]  # waits for the only worker's replacement
    assert pool.replaced == before + 1
    with pytest.raises(Exception, match="TG-QUERY-001"):
        list(result.chunks)


def test_an_input_s_error_ends_the_job_and_is_what_the_caller_sees(pool: WorkerPool) -> None:
    def broken() -> Iterator[bytes]:
        yield next(stream(TABLE))
        raise error_for(Code.FETCH_NODE_AWAY, "health is away")

    failed = failure(pool, job("SELECT * FROM f0, f1", inputs={"f0": broken(), "f1": TABLE}))
    assert (failed.code, failed.message) == (Code.FETCH_NODE_AWAY, "health is away")


def test_a_stuck_input_does_not_hold_the_caller_beyond_its_deadline(pool: WorkerPool) -> None:
    free = threading.Event()

    def stuck() -> Iterator[bytes]:
        yield next(stream(TABLE))
        free.wait(60)

    assert failure(pool, job("SELECT * FROM f0", inputs={"f0": stuck()}), deadline_s=0.3).code is Code.QUERY_DEADLINE
    free.set()


@pytest.mark.parametrize(
    "chunk", [b"", b"x" * 100, b"\xff\xff\xff\xff\xff\xff\xff\x7f", b"\xff\xff\xff\xff\x10\x00\x00\x00" + b"\x00" * 16]
)
def test_foreign_bytes_that_are_no_arrow_are_refused(pool: WorkerPool, chunk: bytes) -> None:
    assert failure(pool, job("SELECT * FROM f0", inputs={"f0": iter([chunk])})).code is Code.FETCH_INVALID_DATA


def test_a_forged_offset_costs_at_most_the_worker(pool: WorkerPool) -> None:
    chunks = list(stream(TABLE))
    marker = pa.array([f"t{i % 7}" for i in range(1000)]).buffers()[1].to_pybytes()[:400]
    at = chunks[1].index(marker)
    chunks[1] = chunks[1][: at + 40] + b"\xff\xff\xff\x7f" + chunks[1][at + 44 :]
    assert (
        failure(pool, job("SELECT max(t) AS c0 FROM f0", inputs={"f0": iter(chunks)})).code is Code.FETCH_INVALID_DATA
    )


def test_an_engine_s_words_do_not_leave(pool: WorkerPool) -> None:
    failed = failure(pool, job("SELECT CAST(t AS INTEGER) AS c0 FROM f0", inputs={"f0": TABLE}))
    assert failed.code is Code.JOIN_FAILED
    assert "t0" not in failed.message + failed.detail


def test_an_error_in_the_middle_of_the_stream_is_translated_too(pool: WorkerPool) -> None:
    before = pool.replaced
    failed = failure(
        pool,
        "SELECT CAST(CASE WHEN i = 900000 THEN 'SECRET' ELSE '1' END AS INTEGER) AS c0 FROM range(1000000) AS r(i)",
    )
    assert (failed.code, "SECRET" in failed.message + failed.detail) == (Code.JOIN_FAILED, False)
    assert "Conversion Error" in failed.detail
    assert pool.replaced == before


def test_a_worker_that_is_killed_is_a_clear_error_and_is_replaced(pool: WorkerPool) -> None:
    (child,) = pool._seats._idle
    result = pool.run(job("SELECT i AS c0 FROM range(1000000000) AS r(i)"), deadline_s=60)
    os.kill(child.pid, 9)
    with pytest.raises(Exception, match="TG-JOIN-002"):
        list(result.chunks)


def test_a_worker_that_died_between_two_jobs_is_not_lent(pool: WorkerPool) -> None:
    (child,) = pool._seats._idle
    os.kill(child.pid, 9)
    child._process.wait()
    assert rows(pool, "SELECT 1 AS c0") == [(1,)]


def test_who_waits_for_a_worker_can_be_cancelled_or_is_told_that_it_is_busy(pool: WorkerPool) -> None:
    with pool.run(job("SELECT i AS c0 FROM range(1000000000) AS r(i)"), deadline_s=60):
        assert failure(pool, "SELECT 1", deadline_s=0.1).code is Code.BUSY
        cancel = threading.Event()
        cancel.set()
        assert failure(pool, "SELECT 1", cancel=cancel).code is Code.QUERY_CANCELLED


def test_closing_a_pool_ends_its_jobs_and_its_processes() -> None:
    fresh = WorkerPool(WorkerSpec(), 1)
    (child,) = fresh._seats._idle
    result = fresh.run(job("SELECT i AS c0 FROM range(1000000000) AS r(i)"), deadline_s=60)
    fresh.close()
    assert not child.alive
    with pytest.raises(Exception, match="TG-QUERY-002"):
        list(result.chunks)
    assert failure(fresh, "SELECT 1").code is Code.BUSY

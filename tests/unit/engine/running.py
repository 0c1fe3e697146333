"""Short ways to run a query in a pool, for the tests of the engine."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from engine.pool import WorkerPool
from engine.spec import Job
from tidegate import ipc
from tidegate.core.errors import TidegateError
from tidegate.core.values import Value
from tidegate.sql.model import RenderedSql


def stream(table: pa.Table) -> Iterator[bytes]:
    return ipc.cut(table.schema, table.to_batches())


def job(sql: str, *parameters: Value, inputs: Mapping[str, Any] | None = None, **fields: Any) -> Job:
    streams = {name: stream(item) if isinstance(item, pa.Table) else item for name, item in (inputs or {}).items()}
    return Job(setup=fields.pop("setup", ()), sql=RenderedSql(sql, parameters), inputs=streams, **fields)


def ask(
    pool: WorkerPool, what: Job | str, *, deadline_s: float = 60, cancel: threading.Event | None = None
) -> pa.Table:
    task = job(what) if isinstance(what, str) else what
    with pool.run(task, deadline_s=deadline_s, cancel=cancel) as result:
        schema, batches = ipc.read(result.chunks)
        return pa.Table.from_batches(list(batches), schema)


def rows(pool: WorkerPool, what: Job | str, **options: Any) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in ask(pool, what, **options).to_pylist()]


def failure(pool: WorkerPool, what: Job | str, **options: Any) -> TidegateError:
    try:
        ask(pool, what, **options)
    except TidegateError as error:
        return error
    raise AssertionError("expected the job to fail")

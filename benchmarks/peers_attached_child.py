"""The child of the peer ``duckdb_postgres``: DuckDB with its postgres extension, in an environment of its own.

Started with that environment's Python, so it imports nothing of the project. Reads one JSON object per line, writes one:
``{"attach": {name: libpq text}, "threads": n}`` -> ``{"versions": ...}``; ``{"sql": text, "limit_s": s}`` ->
``{"elapsed_s": s, "rows": [...]}``, ``{"timeout": true}`` or ``{"error": text}``. Decimals and dates travel as tagged texts.
"""

from __future__ import annotations

import datetime
import decimal
import importlib
import json
import sys
import threading
import time
from typing import Any

import duckdb


def tagged(value: Any) -> Any:
    """Give a value's JSON form: what JSON has no word for becomes [tag, text]."""
    if isinstance(value, decimal.Decimal):
        return ["decimal", str(value)]
    if isinstance(value, datetime.datetime):
        return ["datetime", value.isoformat()]
    if isinstance(value, datetime.date):
        return ["date", value.isoformat()]
    return value


def attach(engine: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Load the extension from its wheel and attach the databases."""
    wheels = importlib.import_module("duckdb_extensions")  # of the child's own environment
    wheels.import_extension("postgres_scanner", con=engine)
    engine.execute("LOAD postgres_scanner")
    engine.execute(f"SET threads = {int(request['threads'])}")
    for name, where in request["attach"].items():
        engine.execute(f"ATTACH '{where}' AS {name} (TYPE postgres, READ_ONLY)")
    return {"versions": {"duckdb": duckdb.__version__}}


def answer(engine: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Run one query within its limit."""
    over = threading.Event()

    def stop() -> None:
        over.set()
        engine.interrupt()

    timer = threading.Timer(request["limit_s"], stop)
    timer.start()
    started = time.perf_counter()
    try:
        rows = engine.execute(request["sql"]).fetchall()
    except Exception as error:  # noqa: BLE001 whatever it is, the parent is told
        return {"timeout": True} if over.is_set() else {"error": f"{type(error).__name__}: {error}"}
    finally:
        timer.cancel()
    elapsed = time.perf_counter() - started
    return {"elapsed_s": elapsed, "rows": [[tagged(value) for value in row] for row in rows]}


def main() -> None:
    """Serve until the input ends."""
    engine = duckdb.connect()
    for line in sys.stdin:
        request = json.loads(line)
        done = attach(engine, request) if "attach" in request else answer(engine, request)
        print(json.dumps(done), flush=True)


if __name__ == "__main__":
    main()

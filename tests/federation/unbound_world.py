"""An exchange with the bearer listener on, and one department: some data marked for bearer tokens, some not."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import adbc_driver_flightsql.dbapi as flight_sql
import adbc_driver_manager
import duckdb
from adbc_driver_flightsql import DatabaseOptions

from engine import landlock
from examples.local import LocalExchange
from tests.fakes.exchange import free_port
from tidegate.identity.folder import IdentityFolder

PURPOSE = "research.statistics"
ROWS = 300_000
WAIT_S = 20.0
HEADER = DatabaseOptions.RPC_CALL_HEADER_PREFIX.value
MARKED, UNMARKED = "alpha.lines", "alpha.numbers"


@dataclass
class RunningProxy:
    """``tidegate proxy`` as a process."""

    process: subprocess.Popen[str]
    uri: str
    secret: str

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(WAIT_S)


@dataclass
class World:
    exchange: LocalExchange
    bearer: str

    @property
    def root_pem(self) -> str:
        return IdentityFolder(self.exchange.identity("city", "lin")).load().root_pem.decode()

    def join(self, name: str) -> None:
        self.exchange.join("city", name, kind="person", roles=["analyst"])

    def token(self, name: str, lifetime_s: int = 900) -> str:
        text, _, address = self.exchange.session("city", name).transport.issue_token(lifetime_s)
        assert address == self.bearer
        return text

    def by_token(self, token: str, **more: str) -> Any:
        """Connect with ADBC at the bearer listener."""
        options = {
            DatabaseOptions.TLS_ROOT_CERTS.value: self.root_pem,
            DatabaseOptions.AUTHORIZATION_HEADER.value: f"Bearer {token}",
            f"{HEADER}x-tidegate-purpose": PURPOSE,
            **more,
        }
        if not token:
            del options[DatabaseOptions.AUTHORIZATION_HEADER.value]
        return flight_sql.connect(f"grpc+tls://{self.bearer}", db_kwargs=options, autocommit=True)

    @contextmanager
    def proxy(self, *arguments: str, name: str = "lin") -> Iterator[RunningProxy]:
        """Run ``tidegate proxy`` for somebody."""
        command = [sys.executable, "-m", "tidegate", "proxy", "--identity", str(self.exchange.identity("city", name))]
        process = subprocess.Popen(
            [*command, "--listen", "127.0.0.1:0", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "GRPC_VERBOSITY": "NONE", "TIDEGATE_PURPOSE": ""},
        )
        assert process.stdout is not None
        assert process.stderr is not None
        said = process.stderr.readline()
        found = re.search(r" at (grpc\S*://[^;]+);", said)
        assert found, said + process.stderr.read()
        secret = "" if {"--no-secret", "--secret-file"} & set(arguments) else process.stdout.readline().strip()
        running = RunningProxy(process, found[1], secret)
        try:
            yield running
        finally:
            if process.poll() is None:
                running.stop()
            process.stdout.close()
            process.stderr.close()

    def entries(self, kind: str) -> list[dict[str, Any]]:
        """Give the entries of one type, newest first, as the auditor reads them."""
        found, _ = self.exchange.session("city", "auditor").transport.audit_search({"page_size": 500})
        return [item["entry"] for item in found if item["entry"]["type"] == kind]

    def log_of_node(self, action: str) -> list[dict[str, Any]]:
        """Give the published entries of the department's own log about an act, oldest first."""
        bundles = (self.exchange.folder / "members" / "alpha" / "node1-state").rglob("tile/entries/**/*")
        files = [item.read_bytes() for item in bundles if item.is_file()]
        data, found = max(files, key=len, default=b""), []  # few entries: the newest partial bundle holds all of them
        while data:
            size = int.from_bytes(data[:2], "big")
            found.append(json.loads(data[2 : 2 + size]))
            data = data[2 + size :]
        return [item for item in found if item["action"] == action]


def answer(connection: Any, sql: str, parameters: Sequence[Any] | None = None) -> Any:
    """Ask by ADBC and give the whole answer."""
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetch_arrow_table()


def abandon(*items: Any) -> None:
    """Close what the driver holds of a server that knows it no longer, or is gone."""
    for item in items:
        with suppress(adbc_driver_manager.Error):
            item.close()
        item._closed = True  # else its finaliser closes a second time, and complains


@contextmanager
def world(folder: Path) -> Iterator[World]:
    sandbox = "required" if landlock.abi() else "available"
    bearer = f"127.0.0.1:{free_port()}"
    settings: dict[str, dict[str, object]] = {
        "limits": {"sandbox": sandbox, "planning_workers": 1},
        "listen": {"bearer": bearer},
    }
    with LocalExchange(folder, name="unbound", broker_settings=settings) as exchange:
        exchange.start()
        exchange.operator().transport.add_purpose(PURPOSE, "Statistics", ["statistics.act.5"], os.urandom(16).hex())
        database = folder / "alpha.duckdb"
        with duckdb.connect(str(database)) as engine:
            engine.execute(
                f"CREATE TABLE lines AS SELECT range AS id, repeat(md5(range::VARCHAR), 20) AS words FROM range({ROWS})"
            )
            engine.execute("CREATE TABLE numbers AS SELECT range AS x FROM range(1000)")
        exchange.join("alpha", "node1", kind="node")
        exchange.join("alpha", "steward", kind="person", roles=["steward"])
        datasets = [
            {
                "name": table,
                "source": "duckdb",
                "path": str(database),
                "table": table,
                "title": table,
                "class": "open",
                "bearer_ok": table == "lines",
                "columns": {name: {"sensitivity": "public"} for name in columns},
            }
            for table, columns in (("lines", ("id", "words")), ("numbers", ("x",)))
        ]
        exchange.start_node("alpha", datasets, settings={"limits": {"planners": 1, "workers": 1, "sandbox": sandbox}})
        made = World(exchange, bearer)
        made.join("lin")
        exchange.join("city", "desk", roles=["analyst"])
        exchange.join("city", "auditor", kind="person", roles=["auditor"])
        exchange.wait_attached(("alpha",))
        steward = exchange.session("alpha", "steward")
        for dataset in steward.catalogue.held_by_node():
            steward.catalogue.register(dataset)
        yield made

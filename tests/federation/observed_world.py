"""An exchange that is watched: collectors of spans for client, broker and nodes, and the admin ports of broker and node.

Marks stand in rows, SQL text, parameters and names of persons; nothing that an operator is shown may hold one of them.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from engine import landlock
from examples.local import LocalExchange

PURPOSE = "research.statistics"
MEMBERS = ("alpha", "beta")
ROW_MARK = "rowmark7291"
SQL_MARK = "sqlmark5512"
VALUE_MARK = "valuemark8830"
PERSON_MARK = "personmark4471"
MARKS = (ROW_MARK, SQL_MARK, VALUE_MARK, PERSON_MARK)
JOIN = (
    f"SELECT a.id, a.name AS {SQL_MARK}, b.town FROM alpha.people AS a JOIN beta.towns AS b ON a.id = b.id "
    f"WHERE a.name <> '{VALUE_MARK}' ORDER BY a.id"
)


@dataclass(frozen=True)
class Span:
    """A span as a collector got it."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    facts: Mapping[str, Any]
    seconds: float


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """An OTLP collector over gRPC."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._spans: list[Span] = []
        self.raw: list[bytes] = []
        self._server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()
        self.endpoint = f"http://127.0.0.1:{self.port}"

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:
        found = []
        for resource in request.resource_spans:
            service = next(
                (item.value.string_value for item in resource.resource.attributes if item.key == "service.name"), ""
            )
            found += [_span(service, item) for scope in resource.scope_spans for item in scope.spans]
        with self._changed:
            self.raw.append(request.SerializeToString())
            self._spans += found
            self._changed.notify_all()
        return trace_service_pb2.ExportTraceServiceResponse()

    def spans(self, trace_id: str, names: set[str], each: int = 1, within_s: float = 30.0) -> list[Span]:
        """Wait until a trace has so many spans of each of these names; give all that it has."""

        def there() -> bool:
            found = Counter(span.name for span in self._spans if span.trace_id == trace_id)
            return all(found[name] >= each for name in names)

        with self._changed:
            assert self._changed.wait_for(there, within_s), (names, {(s.trace_id, s.name) for s in self._spans})
            return [span for span in self._spans if span.trace_id == trace_id]

    @property
    def all(self) -> list[Span]:
        with self._changed:
            return list(self._spans)

    def close(self) -> None:
        self._server.stop(None).wait()


def _span(service: str, item: Any) -> Span:
    facts = {fact.key: fact.value.string_value or fact.value.int_value for fact in item.attributes}
    seconds = (item.end_time_unix_nano - item.start_time_unix_nano) / 1e9
    return Span(service, item.name, item.trace_id.hex(), item.span_id.hex(), item.parent_span_id.hex(), facts, seconds)


@dataclass
class World:
    exchange: LocalExchange
    broker: Collector
    nodes: Collector
    client: Collector
    admin: Mapping[str, int] = field(default_factory=dict)

    def page(self, name: str, path: str = "/metrics") -> str:
        return get(self.admin[name], path)[1]

    def logs(self) -> str:
        folder = self.exchange.folder / "logs"
        return "\n".join(file.read_text(errors="replace") for file in sorted(folder.iterdir()))


def get(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    """Ask an admin port."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
    try:
        with opener.open(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(true: Callable[[], bool], within_s: float = 20.0) -> None:
    """Wait for something that no event tells."""
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, f"not within {within_s} s"
        time.sleep(0.02)


@contextmanager
def world(folder: Path, listen: Mapping[str, Any] | None = None) -> Iterator[World]:
    collectors = [Collector(), Collector(), Collector()]
    broker, nodes, client = collectors
    admin = {"broker": free_port(), "alpha": free_port()}
    sandbox = "required" if landlock.abi() else "available"
    settings = {
        "limits": {"sandbox": sandbox, "join_workers": 1, "planning_workers": 1},
        "listen": {"admin": f"127.0.0.1:{admin['broker']}", **(listen or {})},
        "telemetry": {"endpoint": broker.endpoint},
    }
    try:
        with LocalExchange(folder, name="watched", broker_settings=settings) as exchange:
            exchange.start()
            _fill(exchange, folder, {"alpha": admin["alpha"]}, nodes)
            yield World(exchange, broker, nodes, client, admin)
    finally:
        for collector in collectors:
            collector.close()


def _fill(exchange: LocalExchange, folder: Path, admin: Mapping[str, int], nodes: Collector) -> None:
    exchange.operator().transport.add_purpose(PURPOSE, "Statistics", ["statistics.act.5"], os.urandom(16).hex())
    tables = {
        "alpha": f"CREATE TABLE people AS SELECT range AS id, '{ROW_MARK} ' || range AS name FROM range(50)",
        "beta": "CREATE TABLE towns AS SELECT range AS id, 'town ' || range AS town FROM range(50)",
    }
    for member, sql in tables.items():
        database = folder / f"{member}.duckdb"
        with duckdb.connect(str(database)) as engine:
            engine.execute(sql)
        exchange.join(member, "node1", kind="node")
        exchange.join(member, "steward", kind="person", roles=["steward"])
        name, column = ("people", "name") if member == "alpha" else ("towns", "town")
        dataset = {
            "name": name,
            "source": "duckdb",
            "path": str(database),
            "table": name,
            "title": name,
            "class": "open",
            "licence": "CC0-1.0",
            "columns": {key: {"sensitivity": "public"} for key in ("id", column)},
        }
        environment = {"TIDEGATE_NODE_ADMIN": f"127.0.0.1:{admin[member]}"} if member in admin else {}
        settings = {"telemetry": {"endpoint": nodes.endpoint}}
        exchange.start_node(member, [dataset], settings=settings, environment=environment)
    exchange.join("city", "app", roles=["analyst"])
    exchange.join("city", PERSON_MARK, kind="person", roles=["analyst"])
    exchange.wait_attached(MEMBERS)
    for member in MEMBERS:
        steward = exchange.session(member, "steward")
        for found in steward.catalogue.held_by_node():
            steward.catalogue.register(found)

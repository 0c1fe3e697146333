"""A whole node against a scripted broker: real gRPC over mutual TLS, real workers, real logs, real policy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import pytest

from node.app import Node
from node.config import parse_config
from tests.fakes.scripted_broker import Attached, Received, ScriptedBroker, allowing, scripted_broker
from tidegate.core.names import IdentityKind
from tidegate.identity.folder import LocalIdentity

FLIGHTS = 40_000


def make_data(folder: Path) -> None:
    connection = duckdb.connect(str(folder / "aviation.duckdb"))
    connection.execute(
        """CREATE TABLE flights AS SELECT i AS id, ['JFK', 'LGA', 'EWR'][1 + i % 3] AS origin, 'N' || (i % 50) AS tailnum,
        DATE '2013-01-01' + (i % 365)::INTEGER AS day, (i * 7 % 100)::INTEGER AS delay FROM range(40000) t(i)"""
    )
    connection.execute(f"COPY flights TO '{folder}/flights.parquet'")
    connection.execute("CREATE TABLE airlines AS SELECT 'A' || i AS code, 'Airline ' || i AS name FROM range(5) t(i)")
    connection.execute(f"COPY airlines TO '{folder}/airlines.csv' (HEADER)")
    connection.close()


DATASETS: list[dict[str, Any]] = [
    {
        "name": "flights",
        "source": "parquet",
        "path": "flights.parquet",
        "class": "open",
        "subject_column": "tailnum",
        "columns": {"tailnum": {"sensitivity": "restricted"}},
    },
    {"name": "flights_held", "source": "duckdb", "path": "aviation.duckdb", "table": "flights", "class": "conditional"},
    {"name": "airlines", "source": "csv", "path": "airlines.csv", "class": "open"},
    {"name": "secrets", "source": "csv", "path": "airlines.csv", "class": "closed", "citation": "Air Security Act 7"},
]


@dataclass
class World:
    broker: ScriptedBroker
    node: Node
    session: Attached
    identity: LocalIdentity
    steward: LocalIdentity
    folder: Path

    def ask(self, sql: str, refs: dict[str, str], decision: dict[str, Any], **changes: Any) -> Any:
        fragment = self.broker.fragment(self.session, sql, refs, decision, **changes)
        reply = self.broker.ask(self.session, fragment)
        if isinstance(reply, Received):
            self.broker.check_trailer(reply, fragment, self.identity)
        return reply

    def rows(self, sql: str, refs: dict[str, str], decision: dict[str, Any], **changes: Any) -> list[dict[str, Any]]:
        reply = self.ask(sql, refs, decision, **changes)
        assert isinstance(reply, Received), reply
        return reply.rows

    def refused(self, sql: str, refs: dict[str, str], decision: dict[str, Any], **changes: Any) -> Any:
        reply = self.ask(sql, refs, decision, **changes)
        assert not isinstance(reply, Received), "the node answered"
        return reply


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("node")
    make_data(folder)
    with scripted_broker(folder) as broker:
        identity = broker.node_folder(folder / "identity").load()
        steward = broker.member(IdentityKind.PERSON, "aviation", "ann", roles=("steward",))
        config = parse_config(
            {
                "node": {"identity": "identity", "state": "state", "stewards": [str(steward.spiffe)]},
                "limits": {"workers": 1, "drain_s": 5},
                "dataset": DATASETS,
            },
            folder,
            {},
        )
        node = Node(config)
        node.start()
        try:
            yield World(broker, node, broker.attached(), identity, steward, folder)
        finally:
            node.stop()


FLIGHTS_SQL = 'SELECT "r0"."origin" AS "c0", "r0"."delay" AS "c1" FROM "aviation"."flights" AS "r0" WHERE "r0"."id" < 4'
REFS = {"r0": "aviation.flights"}
PLAIN = allowing("origin", "delay", "id")


def test_says_hello_with_a_fresh_nonce_and_its_datasets(world: World) -> None:
    assert len(world.session.hello.session_nonce) == 16
    documents = "".join(world.session.hello.dataset_json)
    assert '"aviation.flights"' in documents
    assert '"rows": 40000' in documents


def test_answers_a_small_fragment_on_the_stream_and_signs_it(world: World) -> None:
    reply = world.ask(FLIGHTS_SQL, REFS, PLAIN)
    assert isinstance(reply, Received)
    assert not reply.delivered
    assert sorted((row["c0"], row["c1"]) for row in reply.rows) == [("EWR", 14), ("JFK", 0), ("JFK", 21), ("LGA", 7)]

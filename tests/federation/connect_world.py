"""The exchange of the guide "Connect your tool": a parking authority, a weather office, and Lin, an analyst of the planning
office, whose context names the purpose. The same tables lie in a DuckDB of our own, for answers to be compared with.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

import tidegate
from examples.local import LocalExchange
from tidegate.client.contexts import Contexts
from tidegate.client.session import Session

PURPOSE, OTHER, BASIS = "transport.planning", "research.statistics", "city.charter.12"
DISTRICTS = ("north", "south", "harbour")
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
VISITS = 240
TABLES = {
    "parking.visits": (
        "SELECT i AS id, ['north', 'south', 'harbour'][1 + i % 3] AS district, "
        "['Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat', 'Sun'][1 + i % 7] AS weekday, "
        "DATE '2024-01-01' + (i % 30)::INTEGER AS day, TIMESTAMP '2024-01-01 06:00:00' + INTERVAL (i * 13) MINUTE AS entered, "
        "(i * 7 % 97)::DECIMAL(9, 2) AS minutes, CASE WHEN i % 5 = 0 THEN NULL ELSE i % 4 END AS hall, "
        f"'AA-' || i AS plate FROM range({VISITS}) AS r(i)"
    ),
    "parking.fines": "SELECT i AS id, 'north' AS district, 40 AS euros FROM range(20) AS r(i)",
    "parking.notes": "SELECT 1 AS id, '<script>alert(1)</script>\u202eabc' AS note, 'x' AS \"<b>\"",
    "weather.days": (
        "SELECT DATE '2024-01-01' + i::INTEGER AS day, (i % 4) * 1.5::DOUBLE AS rain, "
        "CASE WHEN i % 4 > 1 THEN 'wet' ELSE 'dry' END AS sky FROM range(30) AS r(i)"
    ),
}
# What the exchange gives of each table for this purpose, so that an independent engine can be asked the same.
HIDDEN = {"parking.visits": ("plate",)}


@dataclass(frozen=True)
class ConnectWorld:
    """The exchange that runs, and the folder where Lin's contexts lie."""

    exchange: LocalExchange
    home: Path

    @property
    def identity(self) -> str:
        """Lin's identity folder."""
        return str(self.exchange.identity("planning", "lin"))

    def connect(self, **options: Any) -> Session:
        """Connect as Lin."""
        return tidegate.connect(identity=self.identity, **{"purpose": PURPOSE, **options})

    def environment(self) -> dict[str, str]:
        """Give the environment of a program that Lin runs."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
        return kept | {"TIDEGATE_HOME": str(self.home), "GRPC_VERBOSITY": "NONE", "PYTHONWARNINGS": "default"}


def local_engine() -> duckdb.DuckDBPyConnection:
    """Give a DuckDB with the same tables, as far as Lin may see them."""
    engine = duckdb.connect()
    engine.execute("SET TimeZone = 'UTC'")
    for name, sql in TABLES.items():
        engine.execute(f"CREATE SCHEMA IF NOT EXISTS {name.partition('.')[0]}")
        hidden = ", ".join(HIDDEN.get(name, ()))
        engine.execute(f"CREATE TABLE {name} AS SELECT *{f' EXCLUDE ({hidden})' if hidden else ''} FROM ({sql})")
    return engine


def _dataset(name: str, folder: Path, **more: Any) -> dict[str, Any]:
    return {"name": name, "source": "parquet", "path": str(folder / f"{name}.parquet"), "class": "open", **more}


@contextmanager
def connect_world(folder: Path, **settings: Any) -> Iterator[ConnectWorld]:
    """Run the exchange for the length of the block."""
    with duckdb.connect() as engine:
        for name, sql in TABLES.items():
            engine.execute(f"COPY ({sql}) TO '{folder}/{name.partition('.')[2]}.parquet'")
    restricted = {"plate": {"description": "Number plate", "sensitivity": "restricted", "element": "vehicle.plate"}}
    datasets = {
        "parking": [
            _dataset("visits", folder, title="Visits to the city's car parks", columns=restricted),
            _dataset("notes", folder, title="Notes of the wardens"),
            {**_dataset("fines", folder, title="Fines"), "class": "conditional", "legal_basis": "parking.bylaw.3"},
        ],
        "weather": [_dataset("days", folder, title="Weather of each day")],
    }
    with LocalExchange(folder / "exchange", name="city", broker_settings=settings) as exchange:
        exchange.start()
        operator = exchange.operator()
        operator.transport.add_purpose(PURPOSE, "Planning of streets and buses", [BASIS], os.urandom(16).hex())
        operator.transport.add_purpose(OTHER, "Statistics", ["act.5"], os.urandom(16).hex())
        for member, listed in datasets.items():
            exchange.join(member, "node1", kind="node")
            exchange.join(member, "ada", kind="person", roles=["steward"])
            exchange.start_node(member, listed, steward="ada")
        exchange.join("planning", "lin", kind="person", roles=["analyst"])
        exchange.wait_attached(list(datasets))
        for member in datasets:
            steward = exchange.session(member, "ada")
            for dataset in steward.catalogue.held_by_node():
                steward.catalogue.register(dataset)
        home = folder / "home"
        contexts = Contexts(home)
        contexts.add("lin", exchange.identity("planning", "lin"), make_current=True)
        contexts.set_purpose("lin", PURPOSE, "")
        yield ConnectWorld(exchange, home)


PYTHON = sys.executable

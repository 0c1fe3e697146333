"""Keys of one department's answer make another's smaller, through real processes: permission, filter, record.

``health`` holds few cases under agreements, ``rail`` many trips and ``road`` a register, both open. What may travel is said in
the agreements; what travelled is in the broker's log and in the log of the node that was given it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from examples.local import LocalExchange
from tidegate.client.result import Result
from tidegate.core.agreement import Agreement
from tidegate.core.clock import SystemClock, SystemIds, timestamp
from tidegate.core.names import DatasetName
from tidegate.identity.documents import sign_document
from tidegate.tlog.tiles import decode_bundle

pytestmark = pytest.mark.xdist_group("federation-keys")

PURPOSE, BASIS = "epidemic.control", "epidemic.act.7"
TRIPS, CASES, PERSONS = 300_000, 40, 20_000
DATA = {
    "cases": f"SELECT i * 7 AS person_id, 'd' || (i % 3) AS district FROM range({CASES}) AS r(i)",
    "quiet": f"SELECT i * 7 AS person_id, 'd' || (i % 3) AS district FROM range({CASES}) AS r(i)",
    "none": "SELECT 1::BIGINT AS person_id, 'd' AS district WHERE false",
    "trips": f"SELECT i AS trip_id, i % {PERSONS} AS person_id, (i % 90)::INTEGER AS fare, 'line ' || (i % 5) AS line "
    f"FROM range({TRIPS}) AS r(i)",
    "owners": f"SELECT i AS person_id, 'X' || i AS plate, i % 4 AS cars, repeat('.', 40) AS remark "
    f"FROM range({4 * PERSONS}) AS r(i)",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys-data")
    with duckdb.connect() as engine:
        for name, rows in DATA.items():
            engine.execute(f"COPY ({rows}) TO '{folder}/{name}.parquet'")
    return folder


@pytest.fixture(scope="module")
def exchange(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Iterator[LocalExchange]:
    def held(name: str, kind: str) -> dict[str, object]:
        basis = {"legal_basis": BASIS} if kind == "conditional" else {}
        return {"name": name, "source": "parquet", "path": str(data / f"{name}.parquet"), "class": kind, **basis}

    departments = {
        "health": [held(name, "conditional") for name in ("cases", "quiet", "none")],
        "rail": [held("trips", "open")],
        "road": [held("owners", "open")],
    }
    with LocalExchange(tmp_path_factory.mktemp("keys")) as running:
        running.start()
        running.operator().transport.add_purpose(PURPOSE, "Control of an epidemic", [BASIS], SystemIds().request_id())
        for member, datasets in departments.items():
            running.join(member, "node1", kind="node")
            running.join(member, "steward", kind="person", roles=["steward"])
            running.start_node(member, datasets)
        running.join("city", "desk", roles=["analyst"])
        running.wait_attached(list(departments))
        for member in departments:
            catalogue = running.session(member, "steward").catalogue
            for dataset in catalogue.held_by_node():
                catalogue.register(dataset)
        agree(running, "cases", ("rail", "road"))
        agree(running, "none", ("*",))
        agree(running, "quiet", ("road",))
        yield running


def agree(running: LocalExchange, name: str, keys_may_go_to: tuple[str, ...]) -> None:
    steward = running.session("health", "steward")
    now = SystemClock().now()
    agreement = Agreement(
        id=SystemIds().request_id(),
        dataset=DatasetName("health", name),
        owner="health",
        grantee="city",
        purposes=(PURPOSE,),
        legal_basis=BASIS,
        columns=("person_id", "district"),
        mode="rows",
        min_group_size=1,
        row_filter={},
        issued_at=timestamp(now),
        expires_at=timestamp(now + timedelta(days=1)),
        granted_by=str(steward.identity.spiffe),
        keys_may_go_to=keys_may_go_to,
    )
    document = agreement.signed_bytes()
    assert steward.transport.grant_agreement(
        document, *sign_document(steward.identity, document), SystemIds().request_id()
    )


def asked(exchange: LocalExchange, sql: str) -> tuple[list[tuple[Any, ...]], Result]:
    result = exchange.session("city", "desk").query(sql, purpose=PURPOSE)
    table = result.to_arrow()
    result.verify()
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True)), result


def local_answer(data: Path, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect() as engine:
        for dataset, name in (
            ("health", "cases"),
            ("health", "quiet"),
            ("health", "none"),
            ("rail", "trips"),
            ("road", "owners"),
        ):
            engine.execute(f"CREATE SCHEMA IF NOT EXISTS {dataset}")
            engine.execute(f"CREATE VIEW {dataset}.{name} AS SELECT * FROM '{data}/{name}.parquet'")
        return engine.execute(sql).fetchall()


def part(result: Result, member: str) -> dict[str, Any]:
    (found,) = (item for item in result.report if item["member"] == member)
    return found


def wait_until(condition: Callable[[], bool], limit_s: float = 20.0) -> bool:
    """Look again and again until the condition holds or the limit is over."""
    pause = threading.Event()
    return any(condition() or pause.wait(0.01) for _ in range(int(limit_s / 0.01)))


def node_entry(exchange: LocalExchange, member: str, index: int) -> dict[str, Any]:
    """Read an entry of a node's own log, as published on its disk."""
    folder = exchange.folder / "members" / member / "node1-state" / "log" / "published" / "tile" / "entries" / "000.p"
    widths: list[int] = []

    def published() -> bool:
        names = [path.name for path in folder.iterdir()] if folder.exists() else []
        widths[:] = sorted(int(name) for name in names if name.isdigit())  # the others are about to be renamed
        return bool(widths) and widths[-1] > index

    assert wait_until(published)
    found: dict[str, Any] = json.loads(decode_bundle((folder / str(widths[-1])).read_bytes(), widths[-1])[index])
    return found


def joined(dataset: str) -> str:
    return (
        f"SELECT c.district, count(*) AS n, sum(t.fare) AS fares FROM health.{dataset} AS c JOIN rail.trips AS t "
        "ON t.person_id = c.person_id GROUP BY c.district ORDER BY c.district"
    )


def test_keys_that_may_travel_make_the_answer_smaller_and_are_recorded(exchange: LocalExchange, data: Path) -> None:
    rows, result = asked(exchange, joined("cases"))
    assert rows == local_answer(data, joined("cases")) != []
    trips, cases = part(result, "rail"), part(result, "health")
    assert trips["rows"] == CASES * TRIPS // PERSONS
    assert trips["keys_received"] == [{"from": "health", "column": "rail.trips.person_id", "count": CASES}]
    assert "rail.trips: person_id: only keys that were received" in trips["rules"]
    said = {"from": {"health": CASES}, "sources": [cases["fragment"]]}
    to = {"fragment": trips["fragment"], "member": "rail", "column": "rail.trips.person_id"}
    assert result.outcome.entry["keys"] == [{**said, "to": [to]}]
    given = node_entry(exchange, "rail", trips["node_entry"])
    assert given["keys"] == [{**said, "column": "rail.trips.person_id"}]
    assert given["request_id"] == result.request_id
    assert node_entry(exchange, "health", cases["node_entry"])["keys_may_go_to"] == ["rail"]


def test_keys_that_may_not_travel_stay_and_the_answer_is_the_same(exchange: LocalExchange, data: Path) -> None:
    rows, result = asked(exchange, joined("quiet"))
    assert rows == local_answer(data, joined("quiet")) != []
    assert part(result, "rail")["rows"] == TRIPS
    assert part(result, "rail")["keys_received"] == []
    assert "keys" not in result.outcome.entry
    assert "keys" not in node_entry(exchange, "rail", part(result, "rail")["node_entry"])


def test_no_keys_at_all_are_keys_too(exchange: LocalExchange, data: Path) -> None:
    rows, result = asked(exchange, joined("none"))
    assert rows == local_answer(data, joined("none")) == []
    trips = part(result, "rail")
    assert trips["rows"] == 0
    assert trips["keys_received"] == [{"from": "health", "column": "rail.trips.person_id", "count": 0}]
    assert node_entry(exchange, "rail", trips["node_entry"])["keys"][0]["from"] == {"health": 0}


def test_a_chain_of_three_departments(exchange: LocalExchange, data: Path) -> None:
    sql = (
        "SELECT c.district, t.line, count(*) AS n, sum(o.cars) AS cars, min(o.remark) AS remark FROM health.cases AS c "
        "JOIN rail.trips AS t ON t.person_id = c.person_id JOIN road.owners AS o ON o.person_id = t.person_id "
        "GROUP BY ALL ORDER BY ALL"
    )
    rows, result = asked(exchange, sql)
    assert rows == local_answer(data, sql) != []
    assert part(result, "rail")["rows"] == CASES * TRIPS // PERSONS
    assert part(result, "road")["rows"] == CASES

"""A node's life: renewal, coming back after days, a process of its own that drains, dies and starts again; PostgreSQL."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from audit.log import AuditLog
from node.app import Node
from node.config import parse_config
from tests.fakes.scripted_broker import Received, ScriptedBroker, allowing, scripted_broker
from tests.postgres import MISSING, postgres_server
from tidegate.core.clock import SystemClock, SystemIds
from tidegate.core.names import IdentityKind
from tidegate.identity.folder import IdentityFolder
from tidegate.tlog.verify import folder_source, verify_log

pytestmark = pytest.mark.xdist_group("node")

SQL = 'SELECT "r0"."code" AS "c0" FROM "aviation"."airlines" AS "r0"'
REFS = {"r0": "aviation.airlines"}
PLAIN = allowing("code", "name")
DATASET = {"name": "airlines", "source": "csv", "path": "airlines.csv", "class": "open"}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptedBroker]:
    with scripted_broker(tmp_path_factory.mktemp("broker"), heartbeat_s=0.2) as running:
        yield running


@contextmanager
def serving(broker: ScriptedBroker, folder: Path, *datasets: dict[str, Any], **sections: Any) -> Iterator[Node]:
    (folder / "airlines.csv").write_text("code,name\nA1,One\nA2,Two\n", encoding="utf-8")
    document = {
        "node": {"identity": "identity", "state": "state"},
        "limits": {"workers": 1, "drain_s": 5},
        "dataset": list(datasets) or [DATASET],
        **sections,
    }
    broker.forget_sessions()
    node = Node(parse_config(document, folder, {}))
    node.start()
    try:
        yield node
    finally:
        node.stop()


def rows(
    broker: ScriptedBroker, session: Any, sql: str = SQL, refs: Any = None, decision: Any = None, **changes: Any
) -> Any:
    reply = broker.ask(session, broker.fragment(session, sql, refs or REFS, decision or PLAIN, **changes))
    assert isinstance(reply, Received), reply
    return reply.rows


def test_renews_over_the_link_at_half_life_and_attaches_with_the_new_certificate(
    broker: ScriptedBroker, tmp_path: Path
) -> None:
    # Certificates are backdated by minutes, so half of this one's life has passed when it is issued.
    folder = broker.node_folder(tmp_path / "identity", lifetime=timedelta(seconds=60))
    first = folder.load().facts
    with serving(broker, tmp_path):
        broker.attached()
        session = broker.attached()  # the first one ended by itself, once the certificate was renewed
        renewed = folder.load().facts
        assert renewed.serial_hex != first.serial_hex
        assert renewed.not_after > first.not_after + timedelta(hours=12)
        assert session.caller.fingerprint == renewed.fingerprint
        assert rows(broker, session) == [{"c0": "A1"}, {"c0": "A2"}]


def test_a_node_that_was_off_for_two_days_comes_back_by_itself(broker: ScriptedBroker, tmp_path: Path) -> None:
    broker.node_folder(tmp_path / "identity")
    folder = IdentityFolder(tmp_path / "identity")
    exchange = broker.running.exchange
    uri = str(folder.load().spiffe)
    old = exchange.forge([uri], start=timedelta(days=-3), end=timedelta(days=-2))
    shown = old.facts
    exchange.members.record_certificate(shown.serial_hex, uri, shown.fingerprint, shown.not_after)
    folder.save(folder.load().renewed(old.key, old.certificate_pem, old.chain_pem))
    with serving(broker, tmp_path):
        session = broker.attached()
        assert folder.load().facts.not_after > SystemClock().now()
        assert rows(broker, session) == [{"c0": "A1"}, {"c0": "A2"}]


def test_beats_and_gives_up_a_silent_broker(broker: ScriptedBroker, tmp_path: Path) -> None:
    broker.node_folder(tmp_path / "identity")
    with serving(broker, tmp_path):
        session = broker.attached()
        assert [session.hear("heartbeat").count for _ in range(5)] == [1, 2, 3, 4, 5]
        broker.silent = True  # after a few missed beats the node gives the link up and attaches again
        try:
            again = broker.attached()
        finally:
            broker.silent = False
        assert again.hello.session_nonce != session.hello.session_nonce


def test_the_identity_must_be_a_nodes(broker: ScriptedBroker, tmp_path: Path) -> None:
    IdentityFolder(tmp_path / "identity").save(broker.member(IdentityKind.SERVICE, "aviation", "app"))
    with pytest.raises(Exception, match="TG-ID-005"), serving(broker, tmp_path):
        pytest.fail("it started")


# --- a process of its own


def start(broker: ScriptedBroker, folder: Path) -> subprocess.Popen[bytes]:
    broker.forget_sessions()
    (folder / "airlines.csv").write_text("code,name\nA1,One\nA2,Two\n", encoding="utf-8")
    (folder / "node.toml").write_text(
        """[node]
identity = "identity"
state = "state"
[limits]
workers = 1
drain_s = 5
[[dataset]]
name = "airlines"
source = "csv"
path = "airlines.csv"
class = "open"
""",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "tidegate", "node", "serve", str(folder)]
    return subprocess.Popen(
        command, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE, env=os.environ | {"NO_COLOR": "1"}
    )


def test_a_process_serves_shows_its_status_and_drains(broker: ScriptedBroker, tmp_path: Path) -> None:
    broker.node_folder(tmp_path / "identity")
    process = start(broker, tmp_path)
    try:
        session = broker.attached()
        assert rows(broker, session) == [{"c0": "A1"}, {"c0": "A2"}]
        command = [sys.executable, "-m", "tidegate", "node", "status", str(tmp_path), "-o", "json"]
        done = subprocess.run(command, capture_output=True, cwd=Path(__file__).parents[2], check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        (link,) = json.loads(done.stdout)
        assert (link["attached"], link["broker"]) == (True, broker.spiffe)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 0, err
        assert b"node down" in err
        assert b"Traceback" not in err
        done = subprocess.run(command, capture_output=True, cwd=Path(__file__).parents[2], check=False, timeout=60)
        assert done.returncode == 7
    finally:
        process.kill()
        process.communicate()


def test_a_killed_process_starts_again_and_its_log_holds_what_was_answered(
    broker: ScriptedBroker, tmp_path: Path
) -> None:
    broker.node_folder(tmp_path / "identity")
    answered: list[int] = []
    for _ in range(2):
        process = start(broker, tmp_path)
        try:
            session = broker.attached()
            for _ in range(3):
                reply = broker.ask(session, broker.fragment(session, SQL, REFS, PLAIN))
                assert isinstance(reply, Received), reply
                answered.append(reply.trailer.entry_index)
        finally:
            process.kill()
            process.communicate()
    log = AuditLog.open(tmp_path / "state" / "log", SystemClock(), SystemIds())
    try:
        kinds = [json.loads(log.entry(index))["kind"] for index in answered]
        assert kinds == ["node_execution"] * 6
        assert len(set(answered)) == 6
        log.prove(log.size - 1, 10.0)
        assert verify_log(folder_source(log.published_folder), log.verifier_key).size == log.size
    finally:
        log.close()


# --- PostgreSQL


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with postgres_server() as url:
        if url is None:
            pytest.skip(MISSING)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                """CREATE TABLE weather AS SELECT i AS id, ('station ' || i % 7)::varchar(20) AS station,
                (i % 31 - 5)::numeric(6,2) AS temperature, timestamptz '2013-01-01 00:00Z' + i * interval '1 hour' AS at,
                date '2013-01-01' + i % 365 AS day, i % 2 = 0 AS wet, i::float8 / 3 AS pressure, NULL::int AS nothing,
                md5(i::text)::uuid AS key, point(i, i) AS odd, 1::numeric AS unbounded FROM generate_series(0, 19999) i"""
            )
        yield url


WEATHER = {"r0": "aviation.weather"}


@pytest.mark.postgres
def test_serves_a_postgresql_table(broker: ScriptedBroker, database: str, tmp_path: Path) -> None:
    broker.node_folder(tmp_path / "identity")
    dataset = {"name": "weather", "source": "postgres", "url": database, "table": "weather", "class": "open"}
    dataset["columns"] = {"station": {"sensitivity": "restricted"}}
    with serving(broker, tmp_path, dataset, DATASET) as node:
        (held,) = (item for item in node._sources.datasets.values() if item.name.name == "weather")
        types = {column.name: column.type for column in held.columns}
        assert types == {
            "id": "INTEGER",
            "station": "VARCHAR",
            "temperature": "DECIMAL(6,2)",
            "at": "TIMESTAMPTZ",
            "day": "DATE",
            "wet": "BOOLEAN",
            "pressure": "DOUBLE",
            "nothing": "INTEGER",
            "key": "UUID",
        }
        assert (held.rows, held.column("id").maximum, held.column("station").distinct) == (20_000, "19999", None)
        session = broker.attached()
        sql = (
            'SELECT "r0"."temperature" AS "c0", "r0"."at" AS "c1", "r0"."key" AS "c2", "r0"."wet" AS "c3", '
            '"r0"."nothing" AS "c4" FROM "aviation"."weather" AS "r0" WHERE "r0"."id" BETWEEN 3 AND 4 ORDER BY 1'
        )
        found = rows(broker, session, sql, WEATHER, allowing("temperature", "at", "key", "wet", "nothing", "id"))
        assert [str(row["c0"]) for row in found] == ["-2.00", "-1.00"]
        assert [row["c1"].isoformat() for row in found] == ["2013-01-01T03:00:00+00:00", "2013-01-01T04:00:00+00:00"]
        assert [row["c3"] for row in found] == [False, True]
        assert [row["c4"] for row in found] == [None, None]
        counted = rows(
            broker, session, 'SELECT count(*) AS "c0" FROM "aviation"."weather" AS "r0"', WEATHER, allowing()
        )
        assert counted == [{"c0": 20_000}]
        only = {"type": "field", "field": "day", "operator": "eq", "value": "2013-01-02"}
        sql = 'SELECT count(*) AS "c0", min("r0"."temperature") AS "c1" FROM "aviation"."weather" AS "r0"'
        filtered = rows(broker, session, sql, WEATHER, allowing("temperature", row_filter=only))
        assert filtered[0]["c0"] == 55
        joined = (
            'SELECT count(*) AS "c0" FROM "aviation"."weather" AS "r0" JOIN "aviation"."weather" AS "r1" '
            'ON "r0"."id" = "r1"."id" + 1 JOIN "aviation"."airlines" AS "r2" ON "r2"."code" = $1'
        )
        refs = {"r0": "aviation.weather", "r1": "aviation.weather", "r2": "aviation.airlines"}
        decision = allowing("id")
        decision["resources"] = {
            "r0": decision["resources"]["r0"],
            "r1": decision["resources"]["r0"],
            "r2": allowing("code")["resources"]["r0"],
        }
        assert rows(broker, session, joined, refs, decision, parameters=("A1",)) == [{"c0": 19_999}]


@pytest.mark.postgres
def test_a_cancel_reaches_the_database(broker: ScriptedBroker, database: str, tmp_path: Path) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            """CREATE OR REPLACE VIEW slow AS
            SELECT id, pg_sleep(CASE WHEN id = 0 THEN 60 ELSE 0 END)::text AS slept FROM weather"""
        )
        broker.node_folder(tmp_path / "identity")
        dataset = {"name": "slow", "source": "postgres", "url": database, "class": "open", "statistics": False}
        with serving(broker, tmp_path, dataset):
            session = broker.attached()
            sql = 'SELECT "r0"."slept" AS "c0" FROM "aviation"."slow" AS "r0"'
            fragment = broker.fragment(session, sql, {"r0": "aviation.slow"}, allowing("slept"))
            broker.offer(session, fragment)
            running = """SELECT count(*) FROM pg_stat_activity
            WHERE query LIKE '%slept%' AND state = 'active' AND pid <> pg_backend_pid()"""

            def active() -> bool:
                found = connection.execute(running).fetchone()
                return found is not None and found[0] > 0

            assert wait_until(active)
            session.down.put(cancel_of(fragment.id))
            assert session.hear("failure").error.code == "TG-QUERY-002"
            assert wait_until(lambda: not active())


def cancel_of(fragment_id: str) -> Any:
    from tidegate.v1 import node_service_pb2

    return node_service_pb2.AttachDown(cancel=node_service_pb2.Cancel(fragment_id=fragment_id))


def wait_until(condition: Callable[[], bool], limit_s: float = 20.0) -> bool:
    pause = threading.Event()
    for _ in range(int(limit_s / 0.02)):
        if condition():
            return True
        pause.wait(0.02)
    return False

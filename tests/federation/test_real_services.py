"""The exchange with the services that a city would run: the catalogue in a real PostgreSQL, decisions by a real OPA server."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import duckdb
import psycopg
import pytest

from examples.local import LocalExchange
from tests.opa_binary import opa_server, require_opa
from tests.postgres import MISSING, fresh_database, postgres_url
from tidegate.core.agreement import Agreement
from tidegate.core.clock import SystemClock, SystemIds, timestamp
from tidegate.core.errors import Code, TidegateError
from tidegate.core.names import DatasetName
from tidegate.identity.documents import sign_document

pytestmark = [pytest.mark.xdist_group("federation-services"), pytest.mark.postgres, pytest.mark.opa]

PURPOSE, BASIS = "epidemic.control", "epidemic.act.7"
CASES = {
    "name": "cases",
    "source": "parquet",
    "title": "Cases",
    "class": "conditional",
    "subject_column": "person_id",
    "columns": {"person_id": {"sensitivity": "internal"}},
}


@pytest.fixture(scope="module")
def exchange(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalExchange, str]]:
    url = postgres_url()
    if url is None:
        pytest.skip(MISSING)
    database = fresh_database(url)
    folder = tmp_path_factory.mktemp("services")
    with duckdb.connect() as engine:
        rows = "SELECT 'p' || range AS person_id, 'd' || (range % 3) AS district FROM range(100)"
        engine.execute(f"COPY ({rows}) TO '{folder / 'cases.parquet'}' (FORMAT parquet)")
    with (
        opa_server(require_opa()) as opa,
        LocalExchange(folder, broker_settings={"policy": {"opa_url": opa}}, database=database) as running,
    ):
        running.start()
        running.operator().transport.add_purpose(PURPOSE, "Control of an epidemic", [BASIS], SystemIds().request_id())
        running.join("health", "node1", kind="node")
        running.join("health", "steward", kind="person", roles=["steward"])
        running.join("city", "desk", roles=["analyst"])
        running.start_node(
            "health", [{**CASES, "path": str(folder / "cases.parquet")}], settings={"policy": {"opa_url": opa}}
        )
        running.wait_attached(["health"])
        steward = running.session("health", "steward")
        for dataset in steward.catalogue.held_by_node():
            steward.catalogue.register(dataset)
        yield running, database


def agree(running: LocalExchange, mode: str) -> None:
    steward = running.session("health", "steward")
    now = SystemClock().now()
    agreement = Agreement(
        id=SystemIds().request_id(),
        dataset=DatasetName("health", "cases"),
        owner="health",
        grantee="city",
        purposes=(PURPOSE,),
        legal_basis=BASIS,
        columns=("person_id", "district"),
        mode=mode,
        min_group_size=10,
        row_filter={},
        issued_at=timestamp(now),
        expires_at=timestamp(now + timedelta(days=1)),
        granted_by=str(steward.identity.spiffe),
    )
    document = agreement.signed_bytes()
    assert steward.transport.grant_agreement(
        document, *sign_document(steward.identity, document), SystemIds().request_id()
    )


def test_a_question_is_refused_until_it_is_agreed_and_then_answered_by_the_same_rules(
    exchange: tuple[LocalExchange, str],
) -> None:
    running, database = exchange
    desk = running.session("city", "desk")
    sql = "SELECT district, count(*) AS n FROM health.cases GROUP BY district ORDER BY district"
    with pytest.raises(TidegateError) as caught:
        desk.query(sql, purpose=PURPOSE).to_arrow()
    assert caught.value.code is Code.POLICY_REFUSED
    agree(running, "aggregate")
    result = desk.query(sql, purpose=PURPOSE)
    assert result.to_arrow().to_pydict() == {"district": ["d0", "d1", "d2"], "n": [34, 33, 33]}
    result.verify()
    assert result.receipt.entry["legal_basis"] == BASIS
    with pytest.raises(TidegateError) as caught:
        desk.query("SELECT person_id FROM health.cases", purpose=PURPOSE).to_arrow()
    assert caught.value.code in (Code.POLICY_STRUCTURE, Code.POLICY_REFUSED)
    with psycopg.connect(database) as connection:
        found = connection.execute("SELECT count(*) FROM datasets").fetchone()
    assert found == (1,)


def test_the_catalogue_of_a_broker_that_crashed_is_whole(exchange: tuple[LocalExchange, str]) -> None:
    running, _ = exchange
    before = [dataset.to_json() for dataset in running.session("city", "desk").catalogue]
    running.stop("broker", kill=True)
    running.start_broker()
    running.wait_attached(["health"])
    assert [dataset.to_json() for dataset in running.session("city", "desk").catalogue] == before != []

"""EXPLAIN and EXPLAIN ANALYZE against a real exchange: as a picture, as JSON and as a table, and what none of them shows."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

import duckdb
import pytest
from typer.testing import CliRunner

import tidegate
from examples.local import LocalExchange
from tidegate.cli.main import app
from tidegate.client.explained import table
from tidegate.core.errors import TidegateError

pytestmark = pytest.mark.xdist_group("federation-explain")
PURPOSE, OTHER = "research.statistics", "operations.planning"
JOIN = "SELECT n.id, s.minutes FROM north.visits AS n JOIN south.visits AS s ON n.id = s.id WHERE n.district = 'd1'"
STAFF = "SELECT unit, count(*) AS persons FROM north.staff WHERE name <> 'needle' GROUP BY unit"
ROOMS = ["plan", "decide", "rewrite", "record", "fetch", "join", "deliver"]
runner = CliRunner()


class World:
    """The exchange, and the command line under one of its identities."""

    def __init__(self, exchange: LocalExchange) -> None:
        self.exchange = exchange

    def run(self, who: str, *arguments: str, code: int = 0) -> Any:
        """Run a command as ``member/name``."""
        identity = ["--identity", str(self.exchange.identity(*who.split("/")))]
        done = runner.invoke(app, [*arguments, *identity])
        assert done.exit_code == code, done.output + done.stderr
        return done

    def ask(self, sql: str, *arguments: str, code: int = 0) -> Any:
        """Ask as the city's analyst."""
        return self.run("city/planning", "query", sql, "-p", PURPOSE, *arguments, code=code)

    def plan(self, sql: str, *arguments: str) -> dict[str, Any]:
        """Give the plan as JSON tells it."""
        found: dict[str, Any] = json.loads(self.ask(sql, "-o", "json", *arguments).stdout)
        return found

    def rows(self, sql: str, *arguments: str) -> list[dict[str, str]]:
        """Give the plan's table."""
        return list(csv.DictReader(io.StringIO(self.ask(sql, "-o", "csv", *arguments).stdout)))

    def entries(self, said: str) -> list[dict[str, Any]]:
        """Give what the log holds of the request that a command named, in the order of the log."""
        request = said.split("request ")[1].split(";")[0].split()[0]
        done = self.run("audit_office/auditor", "audit", "search", "--request", request, "-o", "json")
        found = sorted(json.loads(done.stdout), key=lambda item: int(item["index"]))
        return [item["entry"] for item in found]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("explain")
    with duckdb.connect() as engine:
        for member in ("north", "south"):
            engine.execute(
                "COPY (SELECT i AS id, 'd' || i % 4 AS district, (i % 7)::INTEGER AS minutes FROM range(120) AS r(i)) "
                f"TO '{folder}/{member}.parquet'"
            )
        engine.execute(
            "COPY (SELECT i AS id, 'n' || i AS name, i % 3 AS unit FROM range(41) AS r(i) UNION ALL SELECT 99, 'single', 7) "
            f"TO '{folder}/staff.parquet'"
        )
    visits = {"name": "visits", "source": "parquet", "title": "Visits", "class": "open"}
    staff = {"name": "staff", "source": "parquet", "path": str(folder / "staff.parquet"), "title": "Staff"}
    staff |= {"class": "conditional", "legal_basis": "act.5", "subject_column": "id"}
    with LocalExchange(folder / "exchange", name="e.example") as exchange:
        exchange.start()
        made = World(exchange)
        made.run("operator/operator", "purposes", "add", PURPOSE, "--title", "Statistics", "--legal-basis", "act.5")
        for member, more in (("north", [staff]), ("south", [])):
            exchange.join(member, "node1", kind="node")
            exchange.join(member, "steward", kind="person", roles=["steward"])
            exchange.start_node(member, [visits | {"path": str(folder / f"{member}.parquet")}, *more])
        exchange.join("city", "planning", roles=["analyst"])
        exchange.join("audit_office", "auditor", roles=["auditor"])
        exchange.wait_attached(["north", "south"])
        for member in ("north", "south"):
            made.run(f"{member}/steward", "dataset", "register")
        yield made


@pytest.fixture
def agreed(world: World, request: pytest.FixtureRequest) -> Iterator[None]:
    """The city may read north.staff on the terms that the test names; revoked after it."""
    terms: tuple[str, ...] = request.param
    granted = world.run(
        "north/steward", "access", "grant", "north.staff", "city", "-p", PURPOSE, "--legal-basis", "act.5", *terms
    )
    yield
    world.run("north/steward", "access", "revoke", granted.stdout.strip(), "--reason", "a test")


FILTER = '{"type": "field", "field": "name", "operator": "ne", "value": "hidden-value"}'
BY_ROWS = ("--column", "id", "--column", "name", "--column", "unit", "--row-filter", FILTER)
AGGREGATE = (*BY_ROWS, "--mode", "aggregate", "--min-group-size", "5")


def test_analyze_tells_what_the_query_itself_costs_in_all_three_forms(world: World) -> None:
    expected = sum(1 for i in range(120) if i % 4 == 1)
    drawn = world.ask(f"EXPLAIN ANALYZE {JOIN}")
    assert f"came: {expected:,} rows" in drawn.stdout
    assert "time at the broker: plan " in drawn.stdout
    assert "its rows were thrown away" in drawn.stderr
    plan = world.plan(JOIN, "--analyze")
    assert plan["analyzed"] is True
    assert plan["measured"]["rows"] == expected
    assert list(plan["measured"]["rooms_ms"]) == ROOMS
    before_delivery = sum(plan["measured"]["rooms_ms"][room] for room in ROOMS[:-1])
    assert 0 < before_delivery <= plan["measured"]["elapsed_ms"]
    for item in plan["fragments"]:
        measured = item["measured"]
        assert measured["rows"] >= expected
        assert measured["bytes"] > 0
        assert 0 < measured["first_row_ms"] <= measured["elapsed_ms"]
    nobody = world.plan("EXPLAIN ANALYZE SELECT 1 AS one")
    assert (nobody["fragments"], nobody["measured"]["rows"]) == ([], 1)
    rows = world.rows(JOIN, "--explain", "--analyze")
    assert [row["fragment"] for row in rows] == [*(item["id"] for item in plan["fragments"]), "answer"]
    assert [row["rows"] for row in rows[:-1]] == [str(item["measured"]["rows"]) for item in plan["fragments"]]
    assert rows[-1]["rows"] == str(expected)
    assert {row["department"] for row in rows[:-1]} == {"north", "south"}


def test_analyze_is_decided_and_recorded_like_the_query(world: World) -> None:
    asked, analyzed = (world.entries(world.ask(sql).stderr) for sql in (JOIN, f"EXPLAIN ANALYZE {JOIN}"))
    assert [entry["type"] for entry in analyzed] == [entry["type"] for entry in asked]
    outcomes = [next(entry for entry in found if entry["type"] == "outcome") for found in (asked, analyzed)]
    assert outcomes[0]["rows"] == outcomes[1]["rows"] > 0
    assert outcomes[0]["leaves"].keys() == outcomes[1]["leaves"].keys()
    assert outcomes[1]["leaves"]
    assert "result" in outcomes[1]["commitments"]


def test_explain_asks_nobody_in_all_three_forms(world: World) -> None:
    drawn = world.ask(f"EXPLAIN {JOIN}")
    assert "came:" not in drawn.stdout
    plan = world.plan(JOIN, "--explain")
    assert plan["analyzed"] is False
    assert "measured" not in plan
    rows = world.rows(f"EXPLAIN {JOIN}")
    assert "rows" not in rows[0]
    assert "north.visits" in rows[0]["datasets"] + rows[1]["datasets"]
    said = world.ask(f"EXPLAIN {JOIN}", "-o", "table")
    assert "pushed" in said.stdout
    assert "reduced" not in said.stdout, "empty everywhere"
    outcome = world.entries(said.stderr)[-1]
    assert (outcome["type"], outcome["rows"], outcome["leaves"]) == ("outcome", 0, {})


@pytest.mark.parametrize("agreed", [AGGREGATE], indirect=True)
@pytest.mark.usefixtures("agreed")
def test_no_form_tells_a_count_of_what_is_shared_as_aggregates_nor_a_text(world: World) -> None:
    assert len(json.loads(world.ask(STAFF, "-o", "json").stdout)) == 3, "the single person's group is not told"
    (fragment,) = world.plan(STAFF, "--analyze")["fragments"]
    assert (fragment["measured"]["rows"], fragment["measured"]["bytes"]) == (None, None)
    first, answer = world.rows(f"EXPLAIN ANALYZE {STAFF}")
    assert (first["rows"], first["bytes"], answer["rows"]) == ("", "", "3")
    drawn = world.ask(f"EXPLAIN ANALYZE {STAFF}")
    assert "counts are not told" in drawn.stdout
    for form in (drawn.stdout, str(fragment), str(first), str(answer), drawn.stderr):
        assert not any(word in form for word in ("needle", "hidden-value", "single"))


@pytest.mark.parametrize("agreed", [BY_ROWS], indirect=True)
@pytest.mark.usefixtures("agreed")
def test_barrier_is_told_with_its_reason(world: World) -> None:
    (fragment,) = world.plan("SELECT id FROM north.staff WHERE id + 1 > 3 AND name <> 'needle'", "--explain")[
        "fragments"
    ]
    assert fragment["barrier"]["secure"] is True
    assert [item["expression"] for item in fragment["barrier"]["causes"]] == ['"r0"."id" + 1']
    drawn = world.ask("EXPLAIN SELECT id FROM north.staff WHERE id > 3").stdout
    assert "no barrier at r0" in drawn
    assert "hidden-value" not in drawn + json.dumps(fragment)


def test_analyze_is_refused_and_fails_as_the_query_does(world: World) -> None:
    world.ask(f"EXPLAIN ANALYZE {STAFF}", code=4)
    world.ask("EXPLAIN ANALYZE SELECT 1; SELECT 2", code=2)
    world.ask("EXPLAIN EXPLAIN SELECT id FROM north.visits", code=2)
    world.ask(f"EXPLAIN ANALYZE {JOIN}", "--verify", code=2)
    sql = "SELECT CAST(district AS INTEGER) FROM north.visits"
    with tidegate.connect(identity=str(world.exchange.identity("city", "planning")), purpose=PURPOSE) as session:
        with pytest.raises(TidegateError) as asked:
            session.query(sql).to_arrow()
        with pytest.raises(TidegateError) as analyzed:
            session.explain(sql, analyze=True)
        assert analyzed.value.code is asked.value.code
        plan = session.explain(JOIN, analyze=True)
        assert plan.outcome is not None
        assert plan.outcome.index > plan.receipt.index
        assert table(plan.plan).num_rows == 3

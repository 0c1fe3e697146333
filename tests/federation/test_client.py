"""The client and the command line against a real exchange: two departments, three askers, an auditor.

Every test uses the `tidegate` command as a person would (in this process, so that it is quick) or `tidegate.connect`. Tests
that take something away make it first, so that they can run in any order.
"""

from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import tidegate
from examples.local import LocalExchange
from tests.go.verifier import go_verifier
from tidegate.cli.main import app
from tidegate.core.errors import CallerError, Code, IntegrityError, PeerError, Refused, TidegateError
from tidegate.core.names import DatasetName
from tidegate.tlog.verify import folder_source, verify_log

pytestmark = pytest.mark.xdist_group("federation-client")
PURPOSE, OTHER = "research.statistics", "operations.planning"
HOSTILE = "\x1b[2J\x1b]0;owned\x07[red]:smile:"
runner = CliRunner()


class World:
    """The exchange, and the command line under one of its identities."""

    def __init__(self, exchange: LocalExchange) -> None:
        self.exchange = exchange

    def run(self, who: str, *arguments: str, ok: bool = True, stdin: str | None = None, code: int = 0) -> Any:
        """Run a command as `member/name`; give its result, whose exit code was as expected."""
        member, _, name = who.partition("/")
        identity = ["--identity", str(self.exchange.identity(member, name))]
        done = runner.invoke(app, [*arguments, *identity], input=stdin)
        assert done.exit_code == (code if ok else done.exit_code), done.output + done.stderr
        return done

    def rows(
        self, sql: str, *arguments: str, who: str = "city/planning", purpose: str = PURPOSE
    ) -> list[dict[str, Any]]:
        """Ask, and give the rows as JSON says them."""
        done = self.run(who, "query", sql, "-p", purpose, "-o", "json", *arguments)
        found: list[dict[str, Any]] = json.loads(done.stdout, parse_float=Decimal)
        return found

    def code(self, sql: str, *arguments: str, who: str = "city/planning", purpose: str = PURPOSE) -> int:
        """Ask, and give the exit code."""
        return int(self.run(who, "query", sql, "-p", purpose, *arguments, ok=False).exit_code)

    def connect(self, who: str = "city/planning") -> Any:
        """Connect as a program does."""
        member, _, name = who.partition("/")
        return tidegate.connect(identity=str(self.exchange.identity(member, name)), purpose=PURPOSE)


def make_data(folder: Path) -> None:
    with duckdb.connect() as engine:
        for department, first in (("north", 0), ("south", 1000)):
            engine.execute(
                f"COPY (SELECT {first} + i AS id, 'd' || i % 4 AS district, (i % 7)::DECIMAL(9, 2) AS minutes, "
                f"DATE '2024-01-01' + (i % 30)::INTEGER AS day FROM range(120) AS r(i)) TO '{folder}/{department}.parquet'"
            )
        engine.execute(
            f"COPY (SELECT i AS id, 'n' || i AS name, i % 3 AS unit FROM range(40) AS r(i)) TO '{folder}/staff.parquet'"
        )
        engine.execute(f"COPY (SELECT 1 AS id, ? AS word) TO '{folder}/words.parquet'", [HOSTILE])


def parquet(name: str, file: Path, **more: Any) -> dict[str, Any]:
    return {"name": name, "source": "parquet", "path": str(file), "title": name.capitalize(), "class": "open", **more}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("client")
    make_data(folder)
    with LocalExchange(folder / "exchange", name="c.example") as exchange:
        exchange.start()
        made = World(exchange)
        for code, title, basis in ((PURPOSE, "Statistics", "act.5"), (OTHER, "Planning", "act.12")):
            made.run("operator/operator", "purposes", "add", code, "--title", title, "--legal-basis", basis)
        staff = parquet("staff", folder / "staff.parquet", subject_column="id")
        for member, datasets in {
            "north": [
                parquet("visits", folder / "north.parquet"),
                parquet("plans", folder / "north.parquet", hidden_from=["rival"]),
                parquet("words", folder / "words.parquet"),
                {**staff, "class": "conditional", "legal_basis": "act.5"},
            ],
            "south": [parquet("visits", folder / "south.parquet")],
        }.items():
            exchange.join(member, "node1", kind="node")
            exchange.join(member, "steward", kind="person", roles=["steward"])
            exchange.start_node(member, datasets)
        for member, name, roles in (
            ("city", "planning", ["analyst"]),
            ("rival", "desk", ["analyst"]),
            ("audit_office", "auditor", ["auditor"]),
        ):
            exchange.join(member, name, roles=roles)
        exchange.wait_attached(["north", "south"])
        for member in ("north", "south"):
            made.run(f"{member}/steward", "dataset", "register")
        yield made


# the catalogue


def test_registering_again_changes_nothing(world: World) -> None:
    assert "unchanged south.visits (version 1)" in world.run("south/steward", "dataset", "register").stderr


def test_two_callers_see_different_catalogues(world: World) -> None:
    def names(who: str, *arguments: str) -> set[str]:
        return {row["name"] for row in json.loads(world.run(who, *arguments, "-o", "json").stdout)}

    everything = {"north.plans", "north.staff", "north.visits", "north.words", "south.visits"}
    assert names("city/planning", "dataset", "list") >= everything
    assert "north.plans" not in names("rival/desk", "dataset", "list")
    assert names("rival/desk", "dataset", "list") >= everything - {"north.plans"}
    assert "north.plans" in names("city/planning", "search", "plans")
    assert names("rival/desk", "search", "plans") == set()
    assert names("city/planning", "dataset", "list", "--owner", "south") == {"south.visits"}


def test_what_is_hidden_looks_like_what_is_not_there(world: World) -> None:
    for hidden, nothing in (
        (("dataset", "show", "north.plans"), ("dataset", "show", "north.nothing")),
        (
            ("query", "SELECT count(*) FROM north.plans", "-p", PURPOSE),
            ("query", "SELECT count(*) FROM north.nothing", "-p", PURPOSE),
        ),
    ):
        first, second = world.run("rival/desk", *hidden, code=5), world.run("rival/desk", *nothing, code=5)
        assert _without_ids(first.stderr, "plans") == _without_ids(second.stderr, "nothing")
    assert world.code("SELECT count(*) FROM north.plans") == 0


def _without_ids(text: str, name: str) -> list[str]:
    return [line.replace(name, "NAME") for line in text.splitlines() if not line.startswith("  request")]


def test_show_tells_terms_and_columns(world: World) -> None:
    done = world.run("city/planning", "dataset", "show", "north.staff")
    for words in ("conditional", "act.5", "subject      id"):
        assert words in done.stderr
    assert "VARCHAR" in done.stdout


def test_update_and_withdraw(world: World) -> None:
    with world.connect("north/steward") as steward:
        made = replace(steward.catalogue["north.visits"], name=DatasetName.parse("north.briefly"), version=1)
        steward.catalogue.register(made)
        changed = steward.catalogue.update(replace(steward.catalogue["north.briefly"], title="Changed"))
        assert (changed.version, changed.title) == (2, "Changed")
        with pytest.raises(TidegateError) as caught:
            steward.catalogue.update(replace(changed, version=1, title="Too late"))
        assert caught.value.code is Code.CAT_CONFLICT
        assert list(steward.catalogue.versions("north.briefly")) == [1, 2]
    world.run("city/planning", "dataset", "show", "north.briefly")
    world.run("south/steward", "dataset", "withdraw", "north.briefly", "-y", "--reason", "not mine", code=4)
    world.run("north/steward", "dataset", "withdraw", "north.briefly", "-y", "--reason", "a test")
    world.run("city/planning", "dataset", "show", "north.briefly", code=5)
    assert world.code("SELECT 1 FROM north.briefly") == 5


def test_a_collection_registered_from_a_contract_is_queried_as_one(world: World, tmp_path: Path) -> None:
    contract = tmp_path / "visits.yaml"
    contract.write_text("""\
apiVersion: v3.1.0
kind: DataContract
id: 53581432-6c55-4ba2-a65f-72344a91553b
version: 1.0.0
status: active
domain: north
schema:
  - name: all_visits
    businessName: Visits everywhere
    customProperties:
      - {property: class, value: open}
      - {property: parts, value: [north.visits, south.visits]}
    properties:
      - {name: id, logicalType: integer, physicalType: BIGINT}
      - {name: district, logicalType: string, physicalType: VARCHAR}
      - {name: minutes, logicalType: number, physicalType: "DECIMAL(9,2)"}
      - {name: day, logicalType: date, physicalType: DATE}
""")
    assert "registered north.all_visits" in world.run("north/steward", "dataset", "register", str(contract)).stderr
    counted = world.rows("SELECT count(*) AS n, min(id) AS first, max(id) AS last FROM north.all_visits")
    assert counted == [{"n": 240, "first": 0, "last": 1119}]
    assert world.rows("SELECT id FROM north.all_visits WHERE id IN (7, 1007) ORDER BY id") == [{"id": 7}, {"id": 1007}]


# queries


def test_parameters_by_name_and_by_position(world: World) -> None:
    named = "SELECT count(*) AS n FROM north.visits WHERE district = $district AND minutes > $least"
    placed = "SELECT count(*) AS n FROM north.visits WHERE district = ? AND minutes > ?"
    expected = [{"n": sum(1 for i in range(120) if i % 4 == 2 and i % 7 > 3)}]
    assert world.rows(named, "--param", "district=d2", "--param", "least=3") == expected
    assert world.rows(placed, "--param", "d2", "--param", "3") == expected
    injected = "d2' OR 'x' = 'x"
    assert world.rows(named, "--param", f"district={injected}", "--param", "least=3") == [{"n": 0}]
    assert world.code(named, "--param", "district=d2") == 2
    assert world.code(placed, "--param", "least=3", "--param", "d2") == 2


def test_parameters_of_every_type_from_python(world: World) -> None:
    sql = "SELECT count(*) AS n FROM north.visits WHERE day = $day AND minutes >= $least AND id IN ($first, 32, 62)"
    with world.connect() as exchange:
        values = {"day": date(2024, 1, 3), "least": Decimal("1.50"), "first": 2}
        assert exchange.query(sql, params=values).to_arrow().to_pylist() == [{"n": 3}]
        kinds = exchange.query(
            "SELECT $a AS a, $b AS b, $c AS c, $d AS d, $e AS e, $f AS f",
            params={"a": None, "b": True, "c": 1.5, "d": "数据", "e": b"\x00\xff", "f": datetime(2024, 1, 2, 3, 4)},
        ).to_arrow()
        assert kinds.to_pylist() == [
            {"a": None, "b": True, "c": 1.5, "d": "数据", "e": b"\x00\xff", "f": datetime(2024, 1, 2, 3, 4)}
        ]


TYPES = "SELECT id, minutes, day, district FROM north.visits WHERE id IN (2, 3) ORDER BY id"


def test_every_format_keeps_what_it_can(world: World) -> None:
    run = ["city/planning", "query", TYPES, "-p", PURPOSE, "-o"]
    as_json = json.loads(world.run(*run, "json").stdout, parse_float=Decimal)
    assert as_json[0] == {"id": 2, "minutes": Decimal("2.00"), "day": "2024-01-03", "district": "d2"}
    assert world.run(*run, "csv").stdout == "id,minutes,day,district\n2,2.00,2024-01-03,d2\n3,3.00,2024-01-04,d3\n"
    as_arrow = pa.ipc.open_stream(world.run(*run, "arrow").stdout_bytes).read_all()
    as_parquet = pq.read_table(io.BytesIO(world.run(*run, "parquet").stdout_bytes))
    assert as_arrow.equals(as_parquet)
    assert [str(kind) for kind in as_arrow.schema.types] == ["int64", "decimal128(9, 2)", "date32[day]", "string"]
    table = world.run(*run, "table")
    assert "2024-01-03" in table.stdout
    assert "2 rows; request " in table.stderr
    assert "rows; request" not in table.stdout


def test_hostile_words_in_an_answer_are_shown_and_do_nothing(world: World) -> None:
    assert world.rows("SELECT word FROM north.words") == [{"word": HOSTILE}]
    table = world.run("city/planning", "query", "SELECT word FROM north.words", "-p", PURPOSE).stdout
    assert "[red]:smile:" in table
    assert "\x1b" not in table


def test_sql_from_stdin_and_a_purpose_from_the_environment(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_PURPOSE", PURPOSE)
    done = world.run(
        "city/planning", "query", "-", "-o", "csv", stdin="SELECT count(*) AS n\nFROM south.visits -- all\n"
    )
    assert done.stdout == "n\n120\n"


def test_explain_runs_nothing_and_is_recorded(world: World) -> None:
    sql = "SELECT n.id FROM north.visits AS n JOIN south.visits AS s ON n.district = s.district WHERE n.id < 3"
    option = world.run("city/planning", "query", sql, "-p", PURPOSE, "--explain")
    word = world.run("city/planning", "query", f"EXPLAIN {sql}", "-p", PURPOSE)
    assert option.stdout == word.stdout
    assert "north" in word.stdout
    assert "nothing was run" in word.stderr
    plan = json.loads(world.run("city/planning", "query", f"explain {sql}", "-p", PURPOSE, "-o", "json").stdout)
    assert all(f'"{member}"' in json.dumps(plan) for member in ("north", "south"))
    world.run("city/planning", "query", "EXPLAIN SELECT 1 FROM north.nothing", "-p", PURPOSE, code=5)
    request = word.stderr.split("request ")[1].split(";")[0]
    found = json.loads(world.run("audit_office/auditor", "audit", "search", "--request", request, "-o", "json").stdout)
    assert [item["entry"]["type"] for item in found if item["entry"]["type"] == "decision"] == ["decision"]


def test_a_result_in_python(world: World) -> None:
    with world.connect() as exchange:
        assert exchange.whoami()["identity"] == "spiffe://c.example/member/city/service/planning"
        result = exchange.query("SELECT id FROM south.visits ORDER BY id")
        assert [item["member"] for item in result.disclosure["departments"]] == ["south"]
        assert sum(batch.num_rows for batch in result.reader()) == 120
        result.verify()
        assert result.receipt.entry["purpose"] == PURPOSE
        with pytest.raises(CallerError):
            exchange.query("SELEKT 1").to_arrow()
        with pytest.raises(Refused) as refused:
            exchange.query("SELECT name FROM north.staff", purpose=OTHER)
        assert refused.value.reasons
        assert refused.value.receipt.startswith(b"c.example/")
        with pytest.raises(CallerError) as purpose:
            exchange.query("SELECT 1 FROM south.visits", purpose="no.such")
        assert purpose.value.code is Code.POLICY_PURPOSE


# agreements


def test_an_agreement_opens_and_its_revocation_bites_on_the_next_request(world: World) -> None:
    sql = "SELECT count(*) AS n FROM north.staff"
    assert world.code(sql) == 4
    granted = world.run(
        "north/steward", "access", "grant", "north.staff", "city", "-p", PURPOSE, "--legal-basis", "act.5"
    )
    assert "your node has it" in granted.stderr
    agreement = granted.stdout.strip()
    assert world.rows(sql) == [{"n": 40}]
    assert world.code(sql, purpose=OTHER) == 4
    assert world.code(sql, who="rival/desk") == 4
    listed = json.loads(world.run("city/planning", "access", "list", "-o", "json").stdout)
    assert agreement in {item["id"] for item in listed}
    assert json.loads(world.run("rival/desk", "access", "list", "-o", "json").stdout) == []
    world.run("south/steward", "access", "revoke", agreement, "--reason", "not mine", ok=False)
    assert world.code(sql) == 0
    revoked = world.run("north/steward", "access", "revoke", agreement, "--reason", "a test")
    assert "your node knows" in revoked.stderr
    refused = world.run("city/planning", "query", sql, "-p", PURPOSE, code=4)
    assert "ask for" in refused.stderr


def test_terms_of_an_agreement_hold(world: World) -> None:
    granted = world.run(
        "north/steward", "access", "grant", "north.staff", "city", "-p", PURPOSE, "--legal-basis", "act.5",
        "--column", "id", "--column", "unit",
        "--row-filter", '{"type": "field", "field": "unit", "operator": "eq", "value": 1}',
    )  # fmt: skip
    try:
        asked = world.run("city/planning", "query", "SELECT count(*) AS n FROM north.staff", "-p", PURPOSE, "-o", "csv")
        assert asked.stdout == f"n\n{sum(1 for i in range(40) if i % 3 == 1)}\n"
        assert "rows filtered" in asked.stderr
        assert world.code("SELECT name FROM north.staff") == 4
    finally:
        world.run("north/steward", "access", "revoke", granted.stdout.strip(), "--reason", "a test")


# receipts and the log


@pytest.fixture(scope="module")
def receipt(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("receipt") / "saved"
    sql = "SELECT n.id, s.id AS other FROM north.visits AS n JOIN south.visits AS s ON s.id = n.id + 1000"
    done = world.run("city/planning", "query", sql, "-p", PURPOSE, "--receipt", str(folder), "-o", "csv")
    assert "tidegate receipt verify" in done.stderr
    assert done.stdout.count("\n") == 121
    return folder


def _key(world: World) -> str:
    with world.connect() as exchange:
        return str(exchange.identity.exchange.log_verifier_key)


def test_a_saved_receipt_verifies_offline_and_one_changed_byte_fails_it(
    world: World, receipt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEGATE_HOME", str(tmp_path / "nobody"))  # no context, no network: the key alone
    key = _key(world)
    copy = Path(shutil.copytree(receipt, tmp_path / "copy"))
    for folder in (copy, copy / "decision", copy / "outcome"):
        done = runner.invoke(app, ["receipt", "verify", str(folder), "--key", key])
        assert done.exit_code == 0, done.stderr
        assert "verified" in done.stderr
    for name in ("answer.arrow", "answer.json", "decision/entry.json", "outcome/receipt.note"):
        data = (copy / name).read_bytes()
        middle = len(data) // 2
        (copy / name).write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
        done = runner.invoke(app, ["receipt", "verify", str(copy), "--key", key])
        assert done.exit_code == 8, (name, done.stderr)
        (copy / name).write_bytes(data)
    assert runner.invoke(app, ["receipt", "verify", str(tmp_path / "nowhere"), "--key", key]).exit_code == 2
    world.run("city/planning", "receipt", "verify", str(copy))  # the key from joining


def test_a_refusal_has_a_receipt_that_verifies(world: World, tmp_path: Path) -> None:
    sql = "SELECT name FROM north.staff"
    folder = tmp_path / "kept"
    done = world.run("city/planning", "query", sql, "-p", OTHER, "--receipt", str(folder), code=4)
    assert "verified: the refusal is entry" in done.stderr
    assert {path.name for path in (folder / "refusal").iterdir()} == {"receipt.note", "proof.tlog-proof"}
    assert "verified" in world.run("city/planning", "query", sql, "-p", OTHER, "--verify", code=4).stderr
    with world.connect() as exchange:
        with pytest.raises(Refused) as refused:
            exchange.query(sql, purpose=OTHER)
        index = exchange.verify_refusal(refused.value).index
        refused.value.receipt = refused.value.receipt.replace(b"/", b"|", 1)
        with pytest.raises(IntegrityError):
            exchange.verify_refusal(refused.value)
        refused.value.receipt = b""
        with pytest.raises(CallerError, match="carries none"):
            exchange.verify_refusal(refused.value)
    request = refused.value.request_id
    found = json.loads(world.run("audit_office/auditor", "audit", "search", "--request", request, "-o", "json").stdout)
    assert [(item["index"], item["entry"]["type"]) for item in found] == [(index, "refusal")]


SLOW = (
    "SELECT sum((a.id * b.id + c.id * d.id + e.id) % 7) FROM north.visits AS a, north.visits AS b, north.visits AS c, "
    "north.visits AS d, north.visits AS e"
)


def test_ctrl_c_stops_the_departments_and_is_recorded(world: World) -> None:
    """The command in a process of its own; it is interrupted once the log shows that its query was decided."""
    identity = str(world.exchange.identity("city", "planning"))
    command = [sys.executable, "-m", "tidegate", "query", SLOW, "-p", PURPOSE, "--identity", identity]
    auditor = world.exchange.session("audit_office", "auditor")

    def newest(kind: str) -> dict[str, Any]:
        entries, _ = auditor.transport.audit_search({"type": kind, "page_size": 1})
        return dict(entries[0]["entry"]) if entries else {}

    assert world.code("SELECT 1 FROM north.visits LIMIT 1") == 0
    before = newest("decision")["request_id"]
    deadline = time.monotonic() + 60
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while newest("decision")["request_id"] == before:
            assert process.poll() is None
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, b"", b"interrupted\n")
    request = newest("decision")["request_id"]
    while newest("outcome")["request_id"] != request:
        assert time.monotonic() < deadline
    assert newest("outcome")["error"] == Code.QUERY_CANCELLED.value
    assert world.code("SELECT 1 FROM north.visits LIMIT 1") == 0


def test_the_auditor_searches_and_others_may_not(world: World, receipt: Path) -> None:
    request = json.loads((receipt / "decision" / "entry.json").read_bytes())["request_id"]
    done = world.run("audit_office/auditor", "audit", "search", "--request", request, "--side", "-o", "json")
    found = {item["entry"]["type"]: item for item in json.loads(done.stdout)}
    assert {"decision", "outcome"} <= set(found)
    assert "JOIN south.visits" in json.dumps(found["decision"]["side"])
    everything = json.loads(
        world.run("audit_office/auditor", "audit", "search", "--limit", "1000", "-o", "json").stdout
    )
    assert (
        "admin" in {item["entry"]["type"] for item in everything} or len({i["entry"]["type"] for i in everything}) > 3
    )
    few = world.run("audit_office/auditor", "audit", "search", "--limit", "2")
    assert "there are more" in few.stderr
    denied = world.run("city/planning", "audit", "search", ok=False)
    assert denied.exit_code == 4
    assert "auditor" in denied.stderr
    assert denied.stdout == ""


def test_the_log_is_verified_proved_and_exported(world: World, receipt: Path, tmp_path: Path) -> None:
    over_the_wire = json.loads(world.run("audit_office/auditor", "audit", "verify").stdout)
    assert over_the_wire["size"] > 20
    entry = json.loads((receipt / "outcome" / "entry.json").read_bytes())
    world.run("city/planning", "audit", "prove", str(entry["of"]), str(tmp_path / "proof"))
    folder = tmp_path / "export"
    done = world.run("audit_office/auditor", "audit", "export", str(folder))
    key = _key(world)
    assert f"tidegate audit verify {folder} --key '{key}'" in done.stderr
    alone = runner.invoke(app, ["audit", "verify", str(folder), "--key", key])
    assert (alone.exit_code, json.loads(alone.stdout)["size"]) == (0, verify_log(folder_source(folder), key).size)
    world.run("audit_office/auditor", "audit", "export", str(folder), code=2)
    path = next(item for item in (folder / "tile" / "entries").rglob("*") if item.is_file())
    data = path.read_bytes()
    path.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    assert runner.invoke(app, ["audit", "verify", str(folder), "--key", key]).exit_code == 8
    world.run("audit_office/auditor", "audit", "prove", "99999999", str(tmp_path / "none"), ok=False, code=5)


@pytest.mark.go
def test_a_proof_from_the_command_line_is_accepted_by_go(world: World, receipt: Path, tmp_path: Path) -> None:
    verifier = go_verifier()
    if verifier is None:
        pytest.skip("no Go toolchain, or its modules cannot be fetched: the independent verifier is not built")
    index = json.loads((receipt / "outcome" / "entry.json").read_bytes())["of"]
    world.run("city/planning", "audit", "prove", str(index), str(tmp_path / "proof"))
    world.run("audit_office/auditor", "audit", "export", str(tmp_path / "log"))
    command = [
        str(verifier),
        str(tmp_path / "log"),
        _key(world),
        str(tmp_path / "proof"),
        str(receipt / "decision/entry.json"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "proof verified" in done.stdout


# identities


def test_joining_and_losing_an_identity(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_HOME", str(tmp_path / "home"))
    added = world.run("operator/operator", "member", "add", "visitor", "--role", "analyst", "--title", "Guests")
    token = added.stdout.strip()
    assert "spiffe://c.example/member/visitor/service/main may join until" in added.stderr
    assert runner.invoke(app, ["join", token, "--name", "bad/name"]).exit_code == 2  # and the token is not spent
    joined = runner.invoke(app, ["join", token, "--name", "guest"])
    assert joined.exit_code == 0, joined.stderr
    assert runner.invoke(app, ["join", token, "--name", "again"]).exit_code != 0
    seen = json.loads(runner.invoke(app, ["whoami", "-o", "json"]).stdout)
    assert (seen[0]["identity"], seen[0]["roles"]) == ("spiffe://c.example/member/visitor/service/main", ["analyst"])
    ask = ["query", "SELECT count(*) FROM south.visits", "-o", "csv"]
    assert runner.invoke(app, ask).exit_code == 2  # no purpose yet
    assert runner.invoke(app, ["context", "purpose", PURPOSE]).exit_code == 0
    assert runner.invoke(app, ask).stdout.endswith("\n120\n")
    contexts = json.loads(runner.invoke(app, ["context", "list", "-o", "json"]).stdout)
    assert contexts == [{"current": "*", "name": "guest", "purpose": PURPOSE}]
    assert runner.invoke(app, ["renew"]).exit_code == 0
    assert runner.invoke(app, ask).exit_code == 0
    assert runner.invoke(app, ["doctor"]).exit_code == 0
    assert runner.invoke(app, ["member", "list"]).exit_code == 4  # not an operator
    world.run("operator/operator", "member", "revoke", "visitor", "--reason", "a test", "-y")
    revoked = runner.invoke(app, ask)
    assert revoked.exit_code == 3
    assert Code.ID_REVOKED.value in revoked.stderr
    doctor = runner.invoke(app, ["doctor", "-o", "json"])
    assert doctor.exit_code == 3
    assert [row["check"] for row in json.loads(doctor.stdout) if row["state"] == "wrong"] == ["connection"]
    members = json.loads(world.run("operator/operator", "member", "list", "-o", "json").stdout)
    assert [row["revoked"] for row in members if row["member"] == "visitor"] == [True]


def test_a_role_is_given_and_taken(world: World) -> None:
    who = str(world.exchange.identity("rival", "desk"))
    name = "spiffe://c.example/member/rival/service/desk"
    assert world.run("rival/desk", "audit", "search", ok=False).exit_code != 0
    world.run("operator/operator", "member", "role", name, "--role", "analyst", "--role", "auditor")
    assert runner.invoke(app, ["audit", "search", "--limit", "1", "--identity", who]).exit_code == 0
    world.run("operator/operator", "member", "role", name, "--role", "analyst")
    assert world.run("rival/desk", "audit", "search", ok=False).exit_code != 0


def _copy_identity(world: World, target: Path, **changed: str) -> list[str]:
    shutil.copytree(world.exchange.identity("city", "planning"), target)
    file = target / "exchange.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))
    return ["--identity", str(target)]


def test_doctor_finds_what_is_wrong(world: World, tmp_path: Path) -> None:
    def wrong(arguments: list[str]) -> tuple[int, list[str]]:
        done = runner.invoke(app, ["doctor", "-o", "json", *arguments])
        rows = json.loads(done.stdout)
        assert all(row["next"] for row in rows if row["state"] == "wrong")
        return done.exit_code, [row["check"] for row in rows if row["state"] == "wrong"]

    healthy = world.run("city/planning", "doctor", "-o", "json")
    assert [row["state"] for row in json.loads(healthy.stdout)] == ["ok"] * 4
    assert wrong(_copy_identity(world, tmp_path / "away", callers="127.0.0.1:1")) == (7, ["connection"])
    other = "c.example/other+00000000+ATowJ3gwAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
    code, checks = wrong(_copy_identity(world, tmp_path / "key", log_verifier_key=other))
    assert (code, checks) == (8, ["log"])
    assert wrong(["--identity", str(tmp_path / "nowhere")]) == (2, ["certificate"])
    broken = _copy_identity(world, tmp_path / "broken")
    (tmp_path / "broken" / "identity.pem").write_text("nonsense")
    assert wrong(broken)[1] == ["certificate"]


# every documented exit code, by a command that a person can type


def test_every_exit_code(world: World, receipt: Path, tmp_path: Path) -> None:
    world.exchange.join("guest", "gone")
    gone = "spiffe://c.example/member/guest/service/gone"
    world.run("operator/operator", "member", "revoke", "--only-identity", gone, "--reason", "a test", "-y")
    asked = ("query", "SELECT count(*) FROM north.visits", "-p", PURPOSE)
    world.run("city/planning", *asked, code=0)
    world.run("city/planning", "query", "SELECT CAST(district AS INTEGER) FROM north.visits", "-p", PURPOSE, code=1)
    world.run("city/planning", "query", "SELEKT 1", "-p", PURPOSE, code=2)
    world.run("guest/gone", "whoami", code=3)
    world.run("city/planning", "audit", "search", code=4)
    world.run("city/planning", "query", "SELECT name FROM north.staff", "-p", OTHER, code=4)
    world.run("city/planning", "dataset", "show", "north.nothing", code=5)
    world.run("north/steward", "access", "grant", "north.staff", "city", "-p", PURPOSE, "--column", "no_such", code=6)
    away = _copy_identity(world, tmp_path / "away", callers="127.0.0.1:1")
    assert runner.invoke(app, [*asked, *away]).exit_code == 7
    tampered = Path(shutil.copytree(receipt, tmp_path / "tampered"))
    (tampered / "answer.arrow").write_bytes(
        (receipt / "answer.arrow").read_bytes()[:-9] + b"x" + b"\xff" * 4 + b"\x00" * 4
    )
    world.run("city/planning", "receipt", "verify", str(tampered), code=8)


def test_a_department_that_is_away_is_named_and_comes_back(world: World) -> None:
    world.exchange.stop("south-node1")
    try:
        with world.connect() as exchange:
            with pytest.raises(PeerError, match="south") as caught:
                exchange.query("SELECT count(*) FROM south.visits").to_arrow()
            assert caught.value.code is Code.FETCH_NODE_AWAY
            assert exchange.query("SELECT count(*) AS n FROM north.visits").to_arrow().to_pylist() == [{"n": 120}]
        assert world.code("SELECT count(*) FROM south.visits") == 7
    finally:
        world.exchange.run_node("south")
        world.exchange.wait_attached(["south"])
    assert world.rows("SELECT count(*) AS n FROM south.visits") == [{"n": 120}]

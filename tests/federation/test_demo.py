"""What the demo says of itself is true of what it leaves on disk: verified again by us, by Go's own code, and by DuckDB.

`scripts/demo --json FILE` runs once, as a newcomer would run it. Everything below then reads only what lies in the evidence
folder. One changed byte in the log, a receipt or an answer fails it, which is tried on copies.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.go.verifier import go_verifier
from tidegate.client.evidence import verify_evidence
from tidegate.client.receipts import verify_note
from tidegate.core.errors import TidegateError
from tidegate.tlog.merkle import leaf_hash
from tidegate.tlog.receipt import verify_receipt
from tidegate.tlog.verify import VerifiedLog, folder_source, verify_log

pytestmark = pytest.mark.xdist_group("federation-demo")
ROOT = Path(__file__).resolve().parents[2]
FLIGHTS = 336_776
RECEIPT_FILES = ("receipt.note", "entry.json", "proof.tlog-proof")

# Another process, another program: plain DuckDB over the departments' files, knowing nothing of Tidegate.
LOCAL = """
import json, sys
import duckdb

asked = json.load(sys.stdin)
engine = duckdb.connect()
engine.execute("SET TimeZone = 'UTC'")
for dataset, path in asked["tables"].items():
    schema, table = dataset.split(".")
    engine.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
    engine.execute(f"CREATE VIEW {schema}.{table} AS SELECT * FROM '{path}'")
for view in asked["views"]:
    engine.execute(view)
engine.execute(f"COPY ({asked['sql']}) TO '{asked['target']}' (FORMAT parquet)")
"""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run the demo, really; give its summary."""
    file = tmp_path_factory.mktemp("demo") / "summary.json"
    done = subprocess.run(
        [ROOT / "scripts" / "demo", "--json", file],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        cwd=file.parent,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    summary: dict[str, Any] = json.loads(file.read_text())
    summary["said"] = done.stdout
    return summary


def local_answer(demo: dict[str, Any], sql: str, target: Path, views: list[str] | None = None) -> pa.Table:
    """Run SQL in a separate DuckDB process over the files that the summary names."""
    files = demo["data_files"]
    tables = {
        "aviation.flights": files["flights"],
        "aviation.airlines": files["airlines"],
        "weather.hourly": files["weather"],
        "registry.planes": files["planes"],
        "airports.airports": files["airports"],
    }
    asked = {"tables": tables, "views": views or [], "sql": sql, "target": str(target)}
    done = subprocess.run(
        [sys.executable, "-c", LOCAL], input=json.dumps(asked), capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return pq.read_table(target)


def rows(table: pa.Table) -> list[tuple[Any, ...]]:
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def verified(demo: dict[str, Any], folder: Path) -> VerifiedLog:
    return verify_log(folder_source(folder), demo["log_verifier_key"], progress=None)


def flipped(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def query(demo: dict[str, Any], title: str) -> dict[str, Any]:
    found: dict[str, Any] = next(item for item in demo["queries"] if item["title"].startswith(title))
    return found


# what the summary promises


def test_the_summary_keeps_its_promises(demo: dict[str, Any]) -> None:
    assert len(demo["members"]) >= 5
    assert len(demo["datasets"]) >= 5
    assert len(demo["queries"]) >= 3
    for item in demo["queries"]:
        assert item["receipt_verified"] is True
        assert item["sql"]
        assert item["purpose"]
        assert item["rows"] == pq.read_table(item["result_file"]).num_rows > 0
        assert set(item["departments"]) <= set(demo["members"])
    assert any(len(item["departments"]) >= 3 for item in demo["queries"])
    assert any("masked" in rule for item in demo["queries"] for rule in item["rules"])
    assert any("rows filtered" in rule for item in demo["queries"] for rule in item["rules"])
    assert any("groups of at least" in rule for item in demo["queries"] for rule in item["rules"])
    refusal = demo["refusals"][0]
    assert (refusal["code"], refusal["reasons"]) == ("TG-POLICY-001", ["agreement_missing"])
    assert demo["audit_verified"] is True


def test_a_newcomer_sees_what_happened_and_what_to_try_next(demo: dict[str, Any]) -> None:
    said = demo["said"]
    for words in ("asked aviation", "asked weather", "rows filtered", "refused:", "ask for", "verified", "Try next"):
        assert words in said, words
    assert "Traceback" not in said
    assert said.count(".venv/bin/tidegate ") >= 3


# the log


def test_the_log_verifies_and_tells_the_same_story(demo: dict[str, Any]) -> None:
    folder = Path(demo["log_folder"])
    assert verified(demo, folder).size == demo["audit_entries"]
    for item in demo["queries"]:
        evidence = verify_evidence(Path(item["evidence"]), demo["log_verifier_key"])
        assert evidence.request_id == item["request_id"]
        assert evidence.digest == item["result_digest"]
        entry = json.loads((Path(item["evidence"]) / "decision" / "entry.json").read_bytes())
        assert (entry["purpose"], entry["member"]) == (item["purpose"], "city")
        outcome = json.loads((Path(item["evidence"]) / "outcome" / "entry.json").read_bytes())
        assert (outcome["of"], outcome["error"]) == (evidence.decision.index, "")


def test_the_refusal_is_in_the_log_as_its_receipt_says(demo: dict[str, Any]) -> None:
    item = demo["refusals"][0]
    assert item["receipt_verified"] is True
    note, proof = ((Path(item["receipt"]) / name).read_bytes() for name in ("receipt.note", "proof.tlog-proof"))
    receipt = verify_note(note, demo["log_verifier_key"], lambda _: proof)
    entry = _entries(demo)[receipt.index]
    assert leaf_hash(entry) == verify_receipt(note, demo["log_verifier_key"]).leaf_hash
    told = json.loads(entry)
    assert (told["type"], told["request_id"], told["reasons"]) == ("refusal", item["request_id"], item["reasons"])
    assert told["member"] == "city"
    for position in range(0, len(note), 5):
        with pytest.raises(TidegateError):
            verify_note(
                note[:position] + bytes([note[position] ^ 1]) + note[position + 1 :],
                demo["log_verifier_key"],
                lambda _: proof,
            )


def _entries(demo: dict[str, Any]) -> list[bytes]:
    """Read the entries out of the exported bundle: each is two bytes of length and that many of JSON."""
    path = next(item for item in (Path(demo["log_folder"]) / "tile" / "entries").rglob("*") if item.is_file())
    data = path.read_bytes()
    found = []
    while data:
        size = int.from_bytes(data[:2], "big")
        found.append(data[2 : 2 + size])
        data = data[2 + size :]
    return found


def test_go_accepts_the_log_and_every_receipts_proof(demo: dict[str, Any]) -> None:
    verifier = _go()
    for item in demo["queries"]:
        for kind in ("decision", "outcome"):
            folder = Path(item["receipts"][kind])
            done = _run(verifier, demo, demo["log_folder"], folder / "proof.tlog-proof", folder / "entry.json")
            assert done.returncode == 0, done.stderr
            assert done.stdout == f"entries verified: {demo['audit_entries']}\nproof verified\n"


@pytest.mark.parametrize("name", ["checkpoint", "tile/entries", "tile/0"])
def test_one_changed_byte_in_the_log_fails_it(demo: dict[str, Any], tmp_path: Path, name: str) -> None:
    copy = Path(shutil.copytree(demo["log_folder"], tmp_path / "log"))
    path = copy / name if name == "checkpoint" else next(item for item in (copy / name).rglob("*") if item.is_file())
    size = path.stat().st_size
    for position in range(0, size, max(size // 25, 1)):
        flipped(path, position)
        with pytest.raises(TidegateError):
            verified(demo, copy)
        flipped(path, position)
    verified(demo, copy)


@pytest.mark.parametrize("name", ["checkpoint", "tile/entries"])
def test_go_sees_the_changed_byte_too(demo: dict[str, Any], tmp_path: Path, name: str) -> None:
    verifier = _go()
    copy = Path(shutil.copytree(demo["log_folder"], tmp_path / "log"))
    path = copy / name if name == "checkpoint" else next(item for item in (copy / name).rglob("*") if item.is_file())
    flipped(path, path.stat().st_size // 2)
    assert _run(verifier, demo, copy).returncode == 8


def _go() -> Path:
    verifier = go_verifier()
    if verifier is None:
        pytest.skip("no Go toolchain, or its modules cannot be fetched: the independent verifier is not built")
    return verifier


def _run(verifier: Path, demo: dict[str, Any], folder: object, *proof: object) -> subprocess.CompletedProcess[str]:
    command = [str(verifier), str(folder), demo["log_verifier_key"], *map(str, proof)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


# receipts and answers


@pytest.mark.parametrize("kind", ["decision", "outcome"])
@pytest.mark.parametrize("name", RECEIPT_FILES)
def test_one_changed_byte_in_a_receipt_fails_it(demo: dict[str, Any], tmp_path: Path, kind: str, name: str) -> None:
    copy = Path(shutil.copytree(demo["queries"][0]["evidence"], tmp_path / "evidence"))
    path = copy / kind / name
    for position in range(0, path.stat().st_size, 7):
        flipped(path, position)
        with pytest.raises(TidegateError):
            verify_evidence(copy, demo["log_verifier_key"])
        flipped(path, position)
    verify_evidence(copy, demo["log_verifier_key"])


def test_one_changed_byte_in_an_answer_fails_it(demo: dict[str, Any], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(demo["queries"][0]["evidence"], tmp_path / "evidence"))
    path = copy / "answer.arrow"
    for position in range(0, path.stat().st_size, 13):
        flipped(path, position)
        with pytest.raises(TidegateError):
            verify_evidence(copy, demo["log_verifier_key"])
        flipped(path, position)
    verify_evidence(copy, demo["log_verifier_key"])


def test_the_result_file_is_the_answer_that_the_log_commits_to(demo: dict[str, Any]) -> None:
    for item in demo["queries"]:
        with (Path(item["evidence"]) / "answer.arrow").open("rb") as file:
            assert pa.ipc.open_stream(file).read_all().equals(pq.read_table(item["result_file"]))


def test_one_changed_byte_in_a_result_file_fails_the_comparison(demo: dict[str, Any], tmp_path: Path) -> None:
    """Of the pages of values: the footer also holds words that say nothing, such as the name of the writer."""
    item = query(demo, "Permitted")
    expected = pq.read_table(item["result_file"])
    metadata = pq.ParquetFile(item["result_file"]).metadata
    copy = Path(shutil.copy(item["result_file"], tmp_path / "answer.parquet"))
    for number in range(metadata.num_columns):
        column = metadata.row_group(0).column(number)
        last = column.data_page_offset + column.total_compressed_size - 1
        if column.dictionary_page_offset is not None:
            last = column.dictionary_page_offset + column.total_compressed_size - 1
        flipped(copy, last)
        assert not _same(copy, expected), metadata.schema.column(number).name
        flipped(copy, last)
    assert _same(copy, expected)


def _same(path: Path, expected: pa.Table) -> bool:
    try:
        return bool(pq.read_table(path, page_checksum_verification=True).equals(expected))
    except OSError:
        return False


# the answers again, from the same files, by DuckDB alone


def test_the_permitted_answer_is_that_of_one_local_duckdb(demo: dict[str, Any], tmp_path: Path) -> None:
    item = query(demo, "Permitted")
    assert len(item["departments"]) == 3
    counted = local_answer(demo, "SELECT count(*) FROM aviation.flights", tmp_path / "count.parquet")
    assert rows(counted) == [(FLIGHTS,)]
    expected = local_answer(demo, item["sql"], tmp_path / "local.parquet")
    answer = pq.read_table(item["result_file"])
    assert answer.schema.names == expected.schema.names
    assert rows(answer) == rows(expected)
    assert sum(row[2] for row in rows(answer)) > FLIGHTS * 0.9


def test_the_aggregate_answer_holds_no_group_below_ten(demo: dict[str, Any], tmp_path: Path) -> None:
    item = query(demo, "Aggregates only")
    sql = item["sql"].replace(
        "GROUP BY p.manufacturer", "GROUP BY p.manufacturer HAVING count(DISTINCT p.tailnum) >= 10"
    )
    kept = local_answer(demo, sql, tmp_path / "kept.parquet")
    everything = local_answer(demo, item["sql"], tmp_path / "all.parquet")
    assert rows(pq.read_table(item["result_file"])) == rows(kept)
    assert 0 < kept.num_rows < everything.num_rows


def test_the_masked_answer_counts_what_the_filter_left_and_shows_no_tail_number(
    demo: dict[str, Any], tmp_path: Path
) -> None:
    item = query(demo, "Filtered and masked")
    filtered = "SELECT * FROM aviation.flights WHERE origin IN ('JFK', 'LGA')"
    view = f"CREATE OR REPLACE VIEW aviation.shown AS {filtered}"
    sql = item["sql"].replace("aviation.flights", "aviation.shown").replace("LIMIT 10", "LIMIT 100000")
    expected = rows(local_answer(demo, sql, tmp_path / "shown.parquet", [view]))
    answer = rows(pq.read_table(item["result_file"]))
    tails = {row[0] for row in expected}
    pseudonyms = [row[0] for row in answer]
    assert not set(pseudonyms) & tails
    assert all(len(name) >= 16 for name in pseudonyms)
    assert {row[1] for row in answer} <= {"JFK", "LGA"}
    # A pseudonym hides the name and keeps the groups apart; which of two equal ones stands in the first ten is open.
    assert [row[3] for row in answer] == [row[3] for row in expected][: len(answer)]
    assert {row[1:] for row in answer} <= {row[1:] for row in expected}

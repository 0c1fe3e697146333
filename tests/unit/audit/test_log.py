"""The log as its users see it: append, prove, read, search, side store, erase, orphans, re-opening."""

from __future__ import annotations

import json
import stat
import threading
from pathlib import Path

import pytest

from audit import entries
from audit.index import AuditQuery
from audit.log import Appended, AuditLog
from tests.unit.audit.conftest import OpenLog
from tests.unit.audit.support import NOON, ManualClock, caller, decision, outcome
from tidegate.core.clock import SystemClock, SystemIds
from tidegate.core.errors import CallerError, Code, IntegrityError, InternalError, Reason, TidegateError, error_for
from tidegate.tlog.merkle import leaf_hash
from tidegate.tlog.proof import TlogProof
from tidegate.tlog.receipt import verify_receipt
from tidegate.tlog.verify import verify_log


def test_an_appended_entry_has_a_receipt_and_soon_a_proof(open_log: OpenLog) -> None:
    log = open_log()
    done = log.append(decision(), {"sql": "SELECT 1"}, commit={"query": b"SELECT 1", "plan": [b"p0", b"p1"]})
    receipt = verify_receipt(done.receipt, log.verifier_key)
    assert (receipt.index, receipt.leaf_hash, receipt.origin) == (0, leaf_hash(done.entry), log.origin)
    assert receipt.time == json.loads(done.entry)["ts"]
    proof = TlogProof.parse(log.prove(0, 10))
    assert proof.verify(done.leaf_hash, log.verifier_key).size == 1
    assert log.read_tile("checkpoint") == log.checkpoint()


def test_each_commitment_opens_with_its_own_salt_alone(open_log: OpenLog) -> None:
    log = open_log()
    done = log.append(decision(), commit={"query": b"q", "plan": [b"p0", b"p1"]})
    entry = json.loads(done.entry)
    assert entries.opens(entry, "plan", done.salt("plan", 1), b"p1")
    assert not entries.opens(entry, "plan", done.salt("plan", 1), b"p0")
    assert entries.opens(entry, "query", done.salt("query"), b"q")
    assert not entries.opens(entry, "query", done.salt("plan", 1), b"q")
    assert not entries.opens(entry, "result", done.salt("result"), b"q")
    assert log.nonce(done.index) == done.nonce


def test_many_threads_append_and_every_entry_has_its_place(open_log: OpenLog) -> None:
    log = open_log()
    done: list[Appended] = []

    def work(thread: int) -> None:
        for number in range(50):
            done.append(log.append(decision(f"r-{thread}-{number}")))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(item.index for item in done) == list(range(400))
    log.prove(399, 10)
    seen: dict[int, bytes] = {}
    verified = verify_log(log.published_folder, log.verifier_key, on_entry=seen.__setitem__)
    assert verified.size == 400
    assert all(seen[item.index] == item.entry for item in done)
    times = [json.loads(seen[index])["ts"] for index in range(400)]
    assert times == sorted(times)


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 600])
def test_a_log_opened_again_goes_on_where_it_was(open_log: OpenLog, clock: ManualClock, count: int) -> None:
    log = open_log(checkpoint_period_s=3600)
    before = [log.append(decision(f"r{number}"), {"n": number}) for number in range(count)]
    log.close()
    log = open_log(checkpoint_period_s=3600)
    assert log.size == count
    after = log.append(decision("later"))
    assert after.index == count
    for item in before:
        assert log.entry(item.index) == item.entry
        assert log.side(item.index) == {"n": item.index}
    log.close()
    assert verify_log(log.published_folder, log.verifier_key).size == count + 1


def test_a_log_is_never_made_implicitly_nor_twice(tmp_path: Path) -> None:
    with pytest.raises(InternalError, match="holds no log"):
        AuditLog.open(tmp_path, SystemClock(), SystemIds())
    log = AuditLog.create(tmp_path / "log", "o.example/audit", SystemClock(), SystemIds(), reserve_bytes=0)
    with pytest.raises(InternalError, match="another process"):
        AuditLog.open(tmp_path / "log", SystemClock(), SystemIds())
    log.close()
    with pytest.raises(InternalError, match="not empty"):
        AuditLog.create(tmp_path / "log", "o.example/audit", SystemClock(), SystemIds())
    (tmp_path / "log" / "head.sqlite").unlink()
    with pytest.raises(InternalError, match="head"):
        AuditLog.open(tmp_path / "log", SystemClock(), SystemIds())


def test_an_origin_that_would_blur_receipts_is_refused(tmp_path: Path) -> None:
    for origin in ("tidegate-receipt/v1", "a b", ""):
        with pytest.raises(TidegateError):
            AuditLog.create(tmp_path / "log", origin, SystemClock(), SystemIds())


def test_the_key_is_private_and_must_be_the_logs_own(open_log: OpenLog, tmp_path: Path) -> None:
    log = open_log()
    log.close()
    path = tmp_path / "log" / "keys" / "log.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o640)
    with pytest.raises(InternalError, match="readable by others"):
        open_log()
    path.unlink()
    with pytest.raises(InternalError, match="cannot be read"):
        open_log()
    other = AuditLog.create(tmp_path / "other", "o.example/audit", SystemClock(), SystemIds(), reserve_bytes=0)
    other.close()
    path.write_bytes((tmp_path / "other" / "keys" / "log.key").read_bytes())
    path.chmod(0o600)
    with pytest.raises(InternalError, match="not the one that signed"):
        open_log()


def test_a_key_elsewhere_is_used(tmp_path: Path) -> None:
    key = tmp_path / "secrets" / "log.key"
    log = AuditLog.create(
        tmp_path / "log", "o.example/audit", SystemClock(), SystemIds(), key_file=key, reserve_bytes=0
    )
    log.append(decision())
    log.close()
    again = AuditLog.open(tmp_path / "log", SystemClock(), SystemIds(), reserve_bytes=0)
    assert again.verifier_key == log.verifier_key
    assert key.exists()
    again.close()


def test_reading_beyond_the_log_is_refused(open_log: OpenLog) -> None:
    log = open_log()
    log.append(decision())
    log.prove(0, 10)
    for call in (lambda: log.prove(1, 0), lambda: log.entry(1), lambda: log.entry(-1), lambda: log.erase(7)):
        with pytest.raises(CallerError) as caught:
            call()
        assert caught.value.code is Code.AUDIT_NOT_FOUND
    for path in ("tile/0/000", "tile/0/000.p/2", "tile/9/000", "../log.json", "tile/0/../../log.json", "log.json", ""):
        with pytest.raises(CallerError) as caught:
            log.read_tile(path)
        assert caught.value.code is Code.AUDIT_NOT_FOUND
    assert len(log.read_tile("tile/0/000.p/1")) == 32


def test_a_proof_that_no_checkpoint_covers_in_time_is_an_error(open_log: OpenLog) -> None:
    log = open_log(checkpoint_period_s=3600)
    log.append(decision())
    with pytest.raises(InternalError, match="no checkpoint covers"):
        log.prove(0, 0)


def test_side_material_is_encrypted_and_erased_for_ever(open_log: OpenLog, tmp_path: Path) -> None:
    log = open_log(checkpoint_period_s=3600)
    text = "SELECT secret_word FROM somewhere"
    first = log.append(decision("r1"), {"sql": text}, commit={"query": text.encode()})
    second = log.append(decision("r2"), {"sql": text})
    assert log.side(0) == log.side(1) == {"sql": text}
    everything = [path for path in (tmp_path / "log").rglob("*") if path.is_file()]
    assert not any(b"secret_word" in path.read_bytes() for path in everything)
    log.erase(0)
    assert log.side(0) is None
    assert log.nonce(0) is None
    assert log.side(1) == {"sql": text}
    everything = [path for path in (tmp_path / "log").rglob("*") if path.is_file()]
    assert not any(first.nonce in path.read_bytes() for path in everything)
    assert any(second.nonce in path.read_bytes() for path in everything)  # the search above can find one
    log.close()
    log = open_log()
    assert log.side(0) is None
    assert log.entry(0) == first.entry
    assert json.loads(log.entry(2))["kind"] == "erasure"
    assert verify_log(log.published_folder, log.verifier_key).size == 3


def test_the_side_of_one_entry_cannot_be_passed_off_as_anothers(open_log: OpenLog, tmp_path: Path) -> None:
    import sqlite3

    log = open_log()
    log.append(decision("r1"), {"sql": "one"})
    log.append(decision("r2"), {"sql": "two"})
    log.close()
    for name, table in (("side.sqlite", "body"), ("side-keys.sqlite", "secret")):
        with sqlite3.connect(tmp_path / "log" / name) as connection:
            connection.execute(f"UPDATE {table} SET idx = idx + 10")
            connection.execute(f"UPDATE {table} SET idx = 11 - idx")
        connection.close()
    with pytest.raises(IntegrityError, match="does not belong"):
        open_log().side(0)


def test_a_decision_past_its_deadline_becomes_an_orphan_once(open_log: OpenLog, clock: ManualClock) -> None:
    log = open_log()
    log.append(decision("late", seconds=10))
    log.append(decision("closed", seconds=10))
    log.append(outcome("closed", 1))
    log.append(decision("young", seconds=100))
    log.append(decision("expired", seconds=10))
    log.append(entries.expired(request_id="expired", of=4))
    assert log.orphans(clock.now()) == []
    clock.move(50)
    written = [json.loads(item.entry) for item in log.orphans(clock.now())]
    assert [(item["type"], item["request_id"], item["of"]) for item in written] == [("orphan", "late", 0)]
    assert log.orphans(clock.now()) == []


def test_decisions_of_an_earlier_run_are_orphans_at_once(open_log: OpenLog, clock: ManualClock) -> None:
    log = open_log()
    log.append(decision("open"))
    log.append(decision("closed"))
    log.append(outcome("closed", 1))
    log.close()
    log = open_log()
    log.append(decision("of this run"))
    assert [json.loads(item.entry)["request_id"] for item in log.orphans(clock.now())] == ["open"]


def fill(log: AuditLog, clock: ManualClock) -> None:
    alice = caller("weather", "alice", person="p-17")
    log.append(decision("r1"))
    clock.move(60)
    log.append(
        decision("r2", who=alice, purpose="research.climate", datasets={"weather.hourly": 1, "harbour.ships": 3})
    )
    clock.move(60)
    refused = error_for(Code.POLICY_REFUSED, reasons=(Reason("class_closed", "closed"),))
    log.append(entries.refusal(request_id="r3", caller=alice, error=refused, datasets={"health.cases": 2}))
    log.append(outcome("r1", 0))
    log.append(
        entries.admin("catalogue", action="register", subject="harbour.ships", actor=caller(), content_hash="c" * 64)
    )


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, [4, 3, 2, 1, 0]),
        ({"type": "decision"}, [1, 0]),
        ({"type": "catalogue"}, [4]),
        ({"type": "admin"}, [4]),
        ({"member": "weather"}, [2, 1]),
        ({"identity": "spiffe://test.example/member/weather/person/p-17"}, [2, 1]),
        ({"identity": "spiffe://test.example/member/weather/person/alice"}, []),
        ({"dataset": "harbour.ships"}, [1, 0]),
        ({"dataset": "health.cases", "member": "weather"}, [2]),
        ({"purpose": "research.climate"}, [1]),
        ({"legal_basis": "act.12"}, [1, 0]),
        ({"reason": "class_closed"}, [2]),
        ({"reason": "TG-POLICY-001"}, [2]),
        ({"request_id": "r1"}, [3, 0]),
        ({"since": "2026-11-24T12:01:00Z"}, [4, 3, 2, 1]),
        ({"until": "2026-11-24T12:01:00Z"}, [0]),
        ({"since": "2026-11-24T13:00:30+01:00", "until": "2026-11-24T12:01:30Z"}, [1]),
        ({"dataset": "' OR 1=1 --"}, []),
    ],
)
def test_search_finds_what_matches_newest_first(
    open_log: OpenLog, clock: ManualClock, query: dict[str, str], expected: list[int]
) -> None:
    log = open_log(checkpoint_period_s=3600)
    fill(log, clock)
    found, token = log.search(AuditQuery(**query))  # type: ignore[arg-type]
    assert [item.index for item in found] == expected
    assert all(item.entry == log.entry(item.index) and item.side is None for item in found)
    assert token == ""


def test_search_pages_meet_without_gap_or_overlap(open_log: OpenLog) -> None:
    log = open_log()
    for number in range(25):
        log.append(decision(f"r{number}"))
    seen: list[int] = []
    token = ""
    while True:
        found, token = log.search(AuditQuery(page_size=10, page_token=token))
        seen += [item.index for item in found]
        if not token:
            break
    assert seen == list(range(24, -1, -1))


@pytest.mark.parametrize(
    "bad",
    [
        {"page_size": 0},
        {"page_size": 1001},
        {"page_token": "x"},
        {"page_token": "٣"},
        {"page_token": "9" * 30},
        {"since": "yesterday"},
        {"until": "2026-11-24T12:00:00"},
        {"member": "x" * 601},
    ],
)
def test_malformed_queries_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(CallerError) as caught:
        AuditQuery(**bad)  # type: ignore[arg-type]
    assert caught.value.code is Code.WIRE_INVALID


@pytest.mark.parametrize("damage", ["lost", "garbage", "ahead"])
def test_the_index_is_made_again_from_the_log(
    open_log: OpenLog, clock: ManualClock, tmp_path: Path, damage: str
) -> None:
    log = open_log()
    fill(log, clock)
    before = log.search(AuditQuery(member="weather"))
    log.close()
    path = tmp_path / "log" / "index.sqlite"
    if damage == "ahead":
        import sqlite3

        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE about SET size = 99")
        connection.close()
    else:
        path.unlink()
        path.with_name("index.sqlite-wal").unlink(missing_ok=True)
        if damage == "garbage":
            path.write_bytes(b"not a database" * 1000)
    assert open_log().search(AuditQuery(member="weather")) == before


def test_no_name_of_a_person_is_in_an_entry(open_log: OpenLog) -> None:
    log = open_log()
    alice = caller("weather", "alice", person="p-17")
    done = log.append(decision(who=alice), entries.side_of(alice, sql="SELECT 1"))
    assert b"alice" not in done.entry
    assert log.side(0) == {"identity": str(alice.identity), "sql": "SELECT 1"}


def test_orphans_that_cannot_be_written_stay_due(open_log: OpenLog, clock: ManualClock) -> None:
    log = open_log()
    log.append(decision("late", seconds=10))
    clock.move(20)
    now = clock.now()
    clock.time = NOON.replace(hour=1)
    with pytest.raises(InternalError):
        log.orphans(now)
    clock.time = now
    assert len(log.orphans(now)) == 1

"""What goes wrong under a log: full disks, failed syncs, clocks that go back, damaged files, crashes at each step."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
import threading
from pathlib import Path

import pytest
from typing_extensions import override

from audit import entries
from audit.disk import Disk
from audit.log import Appended, AuditLog
from audit.wal import Record, Wal
from audit.writer import PENDING_MAX
from tests.unit.audit.conftest import OpenLog
from tests.unit.audit.support import FaultyDisk, ManualClock, caller, decision, outcome
from tidegate.core.clock import SystemIds
from tidegate.core.errors import Code, IntegrityError, InternalError, Overloaded, TidegateError, error_for
from tidegate.tlog.verify import verify_log


def refusal(request_id: str) -> entries.Entry:
    return entries.refusal(request_id=request_id, caller=caller(), error=error_for(Code.AUDIT_UNAVAILABLE))


def refused(log: AuditLog, entry: entries.Entry) -> None:
    with pytest.raises(InternalError) as caught:
        log.append(entry)
    assert caught.value.code is Code.AUDIT_UNAVAILABLE


def test_a_full_disk_refuses_decisions_and_records_refusals_from_the_reserve(open_log: OpenLog) -> None:
    disk = FaultyDisk()
    log = open_log(disk=disk, reserve_bytes=1 << 16, checkpoint_period_s=3600)
    log.append(decision("r0"))
    disk.space, disk.free = 100, 0
    original = disk.write

    def write_until_reserve_opens(file: int, data: bytes) -> None:
        try:
            original(file, data)
        except OSError:
            disk.space = 1 << 16  # what giving the reserve back frees
            raise

    disk.write = write_until_reserve_opens  # type: ignore[method-assign]
    refused(log, decision("r1"))
    assert log.append(refusal("r1")).index == 1
    refused(log, decision("r2"))
    assert log.append(outcome("r0", 0)).index == 2
    refused(log, entries.admin("config", action="change"))
    disk.space, disk.free = None, 1 << 40
    log.close()
    log = open_log(checkpoint_period_s=3600)
    assert log.append(decision("r3")).index == 3
    log.close()
    assert verify_log(log.published_folder, log.verifier_key).size == 4


def test_a_disk_with_space_again_takes_the_reserve_and_decisions(open_log: OpenLog, tmp_path: Path) -> None:
    disk = FaultyDisk()
    log = open_log(disk=disk, reserve_bytes=1 << 16)
    reserve = tmp_path / "log" / "reserve"
    assert reserve.stat().st_size == 1 << 16
    disk.space, disk.free = 10, 0
    refused(log, decision("r0"))
    assert not reserve.exists()
    disk.space, disk.free = None, 1 << 40
    log.append(refusal("r0"))
    log.prove(0, 10)
    assert log.append(decision("r1")).index == 1
    assert reserve.stat().st_size == 1 << 16


def test_a_write_that_met_a_full_disk_leaves_nothing_behind(open_log: OpenLog, tmp_path: Path) -> None:
    disk = FaultyDisk()
    log = open_log(disk=disk, checkpoint_period_s=3600)
    log.append(decision("r0"))
    (path,) = (tmp_path / "log" / "wal").glob("*.wal")
    before = path.read_bytes()
    for space in (0, 1, 40, len(before) - 1):
        disk.space = space
        refused(log, decision("r1"))
        assert path.read_bytes() == before
    disk.space = None


@pytest.mark.parametrize("space", [0, 100, 2_000, 3_000, 4_000, 5_000, 6_000])
def test_an_integrator_that_meets_a_full_disk_goes_on_when_there_is_space(open_log: OpenLog, space: int) -> None:
    disk = FaultyDisk()
    fatal: list[str] = []
    log = open_log(disk=disk, checkpoint_period_s=3600, on_fatal=fatal.append)
    for number in range(3):
        log.append(decision(f"r{number}"))
    disk.space = space
    log._integrator.step()
    disk.space = None
    assert fatal == []
    assert log._integrator.step()
    assert verify_log(log.published_folder, log.verifier_key).size == 3


def test_a_failed_sync_ends_the_process_and_is_never_tried_again(open_log: OpenLog) -> None:
    disk = FaultyDisk()
    fatal: list[str] = []
    log = open_log(disk=disk, on_fatal=fatal.append, checkpoint_period_s=3600)
    log.append(decision("r0"))
    disk.sync_fails = True
    refused(log, decision("r1"))
    disk.sync_fails = False
    refused(log, decision("r2"))
    assert len(fatal) == 1
    assert "fdatasync" in fatal[0]


def test_a_failed_sync_of_the_integrator_ends_the_process(open_log: OpenLog) -> None:
    disk = FaultyDisk()
    fatal: list[str] = []
    log = open_log(disk=disk, on_fatal=fatal.append, checkpoint_period_s=3600)
    log.append(decision("r0"))
    disk.sync_fails = True
    assert not log._integrator.step()
    assert "fdatasync" in fatal[0]
    disk.sync_fails = False
    refused(log, decision("r1"))


def test_a_write_error_other_than_a_full_disk_ends_the_process(open_log: OpenLog) -> None:
    class BrokenDisk(FaultyDisk):
        broken = False

        @override
        def write(self, file: int, data: bytes) -> None:
            if self.broken:
                raise OSError(errno.EIO, "input/output error")
            super().write(file, data)

    disk = BrokenDisk()
    fatal: list[str] = []
    log = open_log(disk=disk, on_fatal=fatal.append, checkpoint_period_s=3600)
    disk.broken = True
    refused(log, decision("r0"))
    disk.broken = False
    assert fatal


def test_a_head_that_somebody_else_moved_ends_the_process(open_log: OpenLog, tmp_path: Path) -> None:
    fatal: list[str] = []
    log = open_log(on_fatal=fatal.append, checkpoint_period_s=3600)
    log.append(decision("r0"))
    connection = sqlite3.connect(tmp_path / "log" / "head.sqlite", isolation_level=None)
    connection.execute("UPDATE head SET body = ?", (b"another",))
    connection.close()
    assert not log._integrator.step()
    assert "HeadLost" in fatal[0]


def test_a_clock_that_goes_back_refuses_until_time_has_caught_up(open_log: OpenLog, clock: ManualClock) -> None:
    log = open_log()
    first = json.loads(log.append(decision("r0")).entry)["ts"]
    clock.move(-0.5)
    assert json.loads(log.append(decision("r1")).entry)["ts"] == first  # a small step: the log's time stands still
    clock.move(-3600)
    refused(log, decision("r2"))
    log.close()
    log = open_log()
    refused(log, decision("r2"))  # also after a restart
    clock.move(3601)
    assert log.append(decision("r2")).index == 2


def test_too_many_waiting_entries_are_turned_away(open_log: OpenLog) -> None:
    log = open_log()
    held = log._writer._commit
    with held:
        threads = [threading.Thread(target=lambda: log.append(outcome("r", 0))) for _ in range(3)]
        for thread in threads:
            thread.start()
        spin = threading.Event()
        while len(log._writer._waiting) < 3:
            spin.wait(0.001)
        log._writer._waiting.extend(log._writer._waiting[:1] * PENDING_MAX)
        with pytest.raises(Overloaded) as caught:
            log.append(decision("r1"))
        assert caught.value.code is Code.BUSY
        del log._writer._waiting[3:]
    for thread in threads:
        thread.join()
    assert log.size == 3


def test_an_entry_larger_than_the_limit_is_refused(open_log: OpenLog) -> None:
    log = open_log()
    refused(log, decision(datasets={f"harbour.{'x' * 60}{number}": 1 for number in range(100)}))
    assert log.append(decision()).index == 0


def test_a_closed_log_refuses(open_log: OpenLog) -> None:
    log = open_log()
    log.close()
    refused(log, decision())


# --- crashes: the folder as a crash at each step leaves it is opened again


def crashed_copies(tmp_path: Path, clock: ManualClock) -> list[tuple[str, Path]]:
    """Run one integration step and copy the folder before each durable action of it: what kill -9 there leaves."""
    copies: list[tuple[str, Path]] = []
    folder = tmp_path / "original"

    class CopyingDisk(FaultyDisk):
        armed = False

        @override
        def sync(self, file: int) -> None:
            self.copy("sync")
            super().sync(file)

        @override
        def sync_folder(self, folder: Path) -> None:
            super().sync_folder(folder)
            self.copy("folder")

        @override
        def remove(self, path: Path) -> None:
            self.copy(f"remove {path.name}")
            super().remove(path)
            self.copy(f"removed {path.name}")

        def copy(self, what: str) -> None:
            if self.armed:
                target = tmp_path / f"copy{len(copies)}"
                shutil.copytree(folder, target)
                copies.append((what, target))

    disk = CopyingDisk()
    log = AuditLog.create(
        folder, "o.example/audit", clock, SystemIds(), disk=disk, reserve_bytes=0, checkpoint_period_s=3600
    )
    for number in range(300):
        log.append(decision(f"r{number}"), {"n": number})
    log._integrator.step()
    for number in range(300, 600):
        log.append(decision(f"r{number}"), {"n": number})
    log._writer.rotate()
    log.append(decision("r600"), {"n": 600})
    disk.armed = True
    log._integrator.step()
    disk.armed = False
    log.close()
    return copies


def test_a_crash_at_any_step_of_the_integrator_loses_nothing(tmp_path: Path, clock: ManualClock) -> None:
    copies = crashed_copies(tmp_path, clock)
    assert len(copies) > 20
    roots = set()
    for what, folder in copies:
        log = AuditLog.open(folder, clock, SystemIds(), reserve_bytes=0, checkpoint_period_s=3600)
        assert log.size == 601, what
        assert log.side(450) == {"n": 450}, what
        log.close()
        verified = verify_log(log.published_folder, log.verifier_key)
        assert verified.size == 601, what
        roots.add(verified.root)
    assert len(roots) == 1


class PowerDisk(FaultyDisk):
    """Before each sync, keeps a copy of the folder as a power cut would leave it: unsynced bytes and names are gone.

    SQLite's files are copied as they are: they do their own syncs.
    """

    def __init__(self, folder: Path, copies: Path) -> None:
        super().__init__()
        self.folder, self.copies = folder, copies
        self.sizes: dict[int, int] = {}  # inode -> bytes that are durable
        self.names: set[Path] = set()
        self.acknowledged = 0
        self.cuts: list[tuple[int, Path]] = []
        self.armed = False

    def arm(self) -> None:
        for path in self.folder.rglob("*"):
            self.names.add(path)
            self.sizes[path.stat().st_ino] = path.stat().st_size
        self.armed = True

    @override
    def sync(self, file: int) -> None:
        self.cut()
        super().sync(file)
        self.sizes[os.fstat(file).st_ino] = os.fstat(file).st_size

    @override
    def sync_folder(self, folder: Path) -> None:
        self.cut()
        super().sync_folder(folder)
        self.names |= set(folder.iterdir())

    def cut(self) -> None:
        if not self.armed:
            return
        target = self.copies / str(len(self.cuts))
        shutil.copytree(self.folder, target)
        self.cuts.append((self.acknowledged, target))
        for path in sorted(self.folder.rglob("*"), reverse=True):
            copy = target / path.relative_to(self.folder)
            if "sqlite" in path.name or path.name == "lock":
                continue
            if path not in self.names:
                shutil.rmtree(copy) if copy.is_dir() else copy.unlink()
            elif path.is_file():
                os.truncate(copy, self.sizes.get(path.stat().st_ino, 0))


def run_with_power_cuts(tmp_path: Path, clock: ManualClock) -> tuple[PowerDisk, list[Appended]]:
    disk = PowerDisk(tmp_path / "log", tmp_path / "cuts")
    log = AuditLog.create(
        disk.folder, "o.example/audit", clock, SystemIds(), disk=disk, reserve_bytes=0, checkpoint_period_s=3600
    )
    disk.arm()
    done = []
    for number in range(12):
        done.append(log.append(decision(f"r{number}"), {"n": number}))
        disk.acknowledged = len(done)
        if number % 4 == 3:
            log._integrator.step()
        if number == 6:
            log._writer.rotate()
    disk.armed = False
    log.close()
    return disk, done


def lost_entries(disk: PowerDisk, done: list[Appended], clock: ManualClock) -> list[int]:
    """Open every copy; say at which power cuts an acknowledged entry was lost or the log did not open."""
    bad = []
    for number, (acknowledged, folder) in enumerate(disk.cuts):
        try:
            log = AuditLog.open(folder, clock, SystemIds(), reserve_bytes=0, checkpoint_period_s=3600)
        except TidegateError:
            bad.append(number)
            continue
        kept = log.size >= acknowledged and all(log.entry(item.index) == item.entry for item in done[:acknowledged])
        log.close()
        if not kept or verify_log(log.published_folder, log.verifier_key).size != log.size:
            bad.append(number)
    return bad


def test_a_power_cut_before_any_sync_loses_nothing_acknowledged(tmp_path: Path, clock: ManualClock) -> None:
    disk, done = run_with_power_cuts(tmp_path, clock)
    assert len(disk.cuts) > 40
    assert lost_entries(disk, done, clock) == []


@pytest.mark.parametrize("forgotten", ["sync", "sync_folder"])
def test_the_power_cuts_notice_a_forgotten_sync(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, forgotten: str
) -> None:
    """The mutants that the test above must catch: a write-ahead log without its sync, or without its folder's sync."""
    real = Wal.append

    def without_sync(wal: Wal, records: list[Record]) -> int:
        disk = wal._disk
        with monkeypatch.context() as patch:
            patch.setattr(disk, forgotten, lambda *_: None)
            return real(wal, records)

    monkeypatch.setattr(Wal, "append", without_sync)
    disk, done = run_with_power_cuts(tmp_path, clock)
    assert lost_entries(disk, done, clock) != []


def closed_log(open_log: OpenLog) -> AuditLog:
    log = open_log()
    for number in range(300):
        log.append(decision(f"r{number}"))
    log.close()
    return log


@pytest.mark.parametrize("path", ["tile/0/001.p/44", "tile/1/000.p/1", "checkpoint"])
def test_a_log_with_a_damaged_edge_does_not_open(open_log: OpenLog, path: str) -> None:
    file = closed_log(open_log).published_folder / path
    data = file.read_bytes()
    file.write_bytes(data[:-5] + bytes([data[-5] ^ 1]) + data[-4:])
    with pytest.raises(IntegrityError):
        open_log()


def test_an_older_published_checkpoint_does_not_open(open_log: OpenLog, tmp_path: Path) -> None:
    log = open_log(checkpoint_period_s=3600)
    old = log.checkpoint()
    log.append(decision())
    log.close()
    (log.published_folder / "checkpoint").write_bytes(old)
    with pytest.raises(IntegrityError):
        open_log()


def test_a_damaged_staging_file_does_not_open(open_log: OpenLog, tmp_path: Path) -> None:
    closed_log(open_log)
    (tmp_path / "log" / "staging").write_bytes(b"TGSTAGE1" + bytes(64))
    with pytest.raises(IntegrityError, match="staging"):
        open_log()


def test_a_write_ahead_log_of_another_history_does_not_open(open_log: OpenLog, tmp_path: Path) -> None:
    closed_log(open_log)
    wal_folder = tmp_path / "log" / "wal"
    shutil.rmtree(wal_folder)
    wal_folder.mkdir()
    wal = Wal(wal_folder, Disk(), next_index=0)
    wal.append([Record(b'{"ts":"2026-11-24T12:00:00.000000Z"}', bytes(32))] * 300)
    wal.close()
    with pytest.raises(IntegrityError, match="another history"):
        open_log()


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"v": True},
        {"type": "other"},
        {"type": None},
        {"kind": "catalogue"},
        {"request_id": ""},
        {"name": "Alice"},
        {"purpose": 3},
        {"purpose": "x" * 601},
        {"reasons": "class_closed"},
        {"reasons": [1]},
        {"datasets": [{"name": "a.b"}]},
        {"datasets": [{"name": "a.b", "version": "1", "sql": "SELECT"}]},
        {"datasets": {"a.b": 1}},
        {"rows": -1},
        {"rows": 1.5},
        {"rows": 1 << 53},
        {"leaves": {"f0": {"rows": "3"}}},
        {"details": {"a": None}},
        {"commitments": {"query": "x"}},
    ],
)
def test_an_entry_with_a_wrong_field_is_never_recorded(open_log: OpenLog, change: dict[str, object]) -> None:
    log = open_log()
    refused(log, decision() | change)
    assert log.size == 0


def test_unknown_and_too_many_commitments_are_refused(open_log: OpenLog) -> None:
    log = open_log()
    for commit in ({"name": b"x"}, {"plan": [b"x"] * 65}):
        with pytest.raises(TidegateError):
            log.append(decision(), commit=commit)
    assert log.append(decision(), commit={"plan": [b"x"] * 64, "query": b"long" * 100}).index == 0

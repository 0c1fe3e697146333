"""A log that we wrote is accepted by code that we did not write: golang.org/x/mod/sumdb."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from audit.log import AuditLog
from tests.go.verifier import go_verifier
from tests.unit.audit.support import decision
from tidegate.core.clock import SystemClock, SystemIds

pytestmark = pytest.mark.go
SIZE = 600


@pytest.fixture(scope="module")
def verifier() -> Path:
    path = go_verifier()
    if path is None:
        pytest.skip("no Go toolchain, or its modules cannot be fetched: the independent verifier is not built")
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Path, Path]:
    """A log in two checkpoints, and a proof with its entry."""
    folder = tmp_path_factory.mktemp("go")
    log = AuditLog.create(folder / "log", "o.example/audit", SystemClock(), SystemIds(), reserve_bytes=0)
    for number in range(SIZE):
        log.append(decision(f"r{number}"))
        if number == 100:
            log.prove(number, 30)
    (folder / "proof").write_bytes(log.prove(300, 30))
    (folder / "entry").write_bytes(log.entry(300))
    log.close()
    return log.published_folder, log.verifier_key, folder / "proof", folder / "entry"


def run(verifier: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([verifier, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60)


def test_go_accepts_the_log_and_a_proof(verifier: Path, made: tuple[Path, str, Path, Path]) -> None:
    done = run(verifier, *made)
    assert (done.returncode, done.stdout) == (0, f"entries verified: {SIZE}\nproof verified\n"), done.stderr


@pytest.mark.parametrize(
    "path",
    ["checkpoint", "tile/0/000", "tile/0/002.p/88", "tile/1/000.p/2", "tile/entries/000", "tile/entries/002.p/88"],
)
def test_go_refuses_the_log_with_one_byte_changed(
    verifier: Path, made: tuple[Path, str, Path, Path], tmp_path: Path, path: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(made[0], copy)
    data = (copy / path).read_bytes()
    (copy / path).write_bytes(data[:20] + bytes([data[20] ^ 1]) + data[21:])
    done = run(verifier, copy, made[1])
    assert done.returncode == 8
    assert "verification failed" in done.stderr


def test_go_refuses_a_proof_for_another_entry(
    verifier: Path, made: tuple[Path, str, Path, Path], tmp_path: Path
) -> None:
    other = tmp_path / "entry"
    other.write_bytes(made[3].read_bytes() + b" ")
    assert run(verifier, *made[:3], other).returncode == 8

"""The README's tour, run line by line: a new user can do it alone (and nothing is left running afterwards)."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
TOUR_S_MAX = 240

pytestmark = pytest.mark.xdist_group("federation-tour")


def blocks(heading: str) -> list[str]:
    """Give the shell blocks below a heading of the README."""
    text = README.read_text(encoding="utf-8")
    section = re.search(rf"^## {re.escape(heading)}$(.*?)(?=^## |\Z)", text, re.M | re.S)
    assert section, f"the README has no section {heading!r}"
    return re.findall(r"^```sh\n(.*?)^```$", section[1], re.M | re.S)


def run_tour(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run every block in one shell that stops at the first line that fails, and says which."""
    script = "\n".join(["set -euo pipefail", 'trap \'echo "FAILED: $BASH_COMMAND" >&2\' ERR', *blocks("Ten-minute tour")])
    checkout = folder / "checkout"  # the tour begins in the project's folder; all that it uses of it is .venv/bin
    binaries = checkout / ".venv" / "bin"
    binaries.mkdir(parents=True)
    tidegate = binaries / "tidegate"
    tidegate.write_text(f'#!/bin/sh\nexec {sys.executable} -m tidegate "$@"\n')
    tidegate.chmod(0o755)
    (folder / "tmp").mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
    environment |= {"TMPDIR": str(folder / "tmp"), "PYTHONPATH": str(ROOT), "GRPC_VERBOSITY": "NONE"}
    process = subprocess.Popen(
        ["bash", "-c", script],
        cwd=checkout,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=TOUR_S_MAX)
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)  # whatever a tour that failed half-way left running
        except ProcessLookupError:
            pass
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def test_a_new_user_can_do_the_tour_alone(tmp_path: Path) -> None:
    done = run_tour(tmp_path)
    logs = "\n".join(f"--- {file.name}\n{file.read_text()[-2000:]}" for file in (tmp_path / "tmp").glob("*/*.log"))
    assert done.returncode == 0, f"{done.stderr}\n{done.stdout}\n{logs}"
    out, err = done.stdout, done.stderr

    # refused before the agreement, refused for the plates, refused after the revocation: three, each with exit code 4
    assert out.count("exit code 4") == 3
    assert out.count("exit code") == 3
    assert err.count("agreement_missing") == 2
    assert "column_above_clearance" in err
    assert "the steward of parking" in err

    # what was permitted: two districts of three, and the banner says that rows were filtered
    assert re.search(r"^north\s+│\s+2 ", out, re.M)
    assert re.search(r"^south\s+│\s+3 ", out, re.M)
    assert "harbour" not in out
    assert "parking.visits: rows filtered" in err
    for plate in ("AA-101", "BB-201", "CC-301"):
        assert plate not in out + err

    # evidence: receipt, log, and the auditor's view of both
    assert "verified: entry" in err
    assert "verified: city/broker1/audit/" in err
    assert {"decision", "outcome", "refusal", "admin"} <= set(re.findall(r"│ (\w+) +│", out))
    assert "Traceback" not in out + err


def test_the_readme_is_short_and_its_picture_is_there() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    picture = ROOT / "docs" / "demo.svg"
    assert "docs/demo.svg" in text
    assert "aviation.flights" in picture.read_text(encoding="utf-8").replace("&#160;", " ")

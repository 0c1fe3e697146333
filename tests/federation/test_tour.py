"""The README's tour, run line by line: a new user can do it alone (and nothing is left running afterwards).

While the tour's exchange runs, those blocks of the guides that fit into its story run too.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
TOUR_S_MAX = 240

pytestmark = pytest.mark.xdist_group("federation-tour")


def blocks(heading: str, name: str = "README.md") -> list[str]:
    """Give the shell blocks below a heading of a document."""
    text = (ROOT / name).read_text(encoding="utf-8")
    section = re.search(rf"^## {re.escape(heading)}$(.*?)(?=^## |\Z)", text, re.M | re.S)
    assert section, f"{name} has no section {heading!r}"
    return re.findall(r"^```sh\n(.*?)^```$", section[1], re.M | re.S)


def story() -> list[str]:
    """Give the tour, with blocks of the guides before its last, in which access is taken away and everything stops."""
    analyst = [*blocks("Finding data", "docs/guides/analyst.md"), *blocks("Receipts", "docs/guides/analyst.md")]
    auditor = [
        *blocks("Searching", "docs/guides/auditor.md"),
        *blocks("Verifying, believing nobody", "docs/guides/auditor.md"),
    ]
    tour = blocks("Ten-minute tour")
    assert len(tour) > 6
    assert analyst
    assert auditor
    return [*tour[:-1], *analyst, "export TIDEGATE_CONTEXT=mo", *auditor, "unset TIDEGATE_CONTEXT", tour[-1]]


def run_tour(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run every block in one shell that stops at the first line that fails, and says which."""
    script = "\n".join(["set -euo pipefail", "trap 'echo \"FAILED: $BASH_COMMAND\" >&2' ERR", *story()])
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
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # whatever a tour that failed half-way left running
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
    assert err.count("verified: entry") == 4  # the tour's, the analyst's two, the auditor's
    assert err.count("verified: city/broker1/audit/") == 3  # over the wire twice, and the exported copy
    assert {"decision", "outcome", "refusal", "admin"} <= set(re.findall(r"│ (\w+) +│", out))
    assert "Traceback" not in out + err


def test_the_readme_is_short_and_its_picture_is_there() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    picture = ROOT / "docs" / "demo.svg"
    assert "docs/demo.svg" in text
    assert "aviation.flights" in picture.read_text(encoding="utf-8").replace("&#160;", " ")

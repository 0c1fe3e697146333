"""The guide "Connect your tool" is true: its blocks run in their order, as Lin's, against an exchange; few cannot run here.

Shell blocks run in one folder, Python blocks in one interpreter, cells in a shell of IPython in it. Go and Java are compiled
and run where their tools are.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.federation.connect_world import ConnectWorld, connect_world, local_engine
from tests.java.driver import require_java

pytestmark = pytest.mark.xdist_group("federation-guide-connect")
ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "guides" / "connect.md"
RUN_S_MAX = 240

# What is shown and not run here, by its first line, and why.
NOT_RUN = {
    "pip install tidegate                          # Python 3.11 or newer": "the wheels are installed in test_wheels.py",
    "library(adbcdrivermanager)": "R is no part of the test machine",
    "package main": "its module needs a download of its own; the options are the ones that Python's ADBC is given below",
    "from pyspark.sql import SparkSession": "PySpark is 300 MB; its reader uses the JDBC driver that Java's block uses",
    "tidegate proxy --purpose transport.planning": "serves until it is stopped; run in test_proxy_wire.py",
    "import java.sql.Connection;": "run by its own test below",
}

RUNNER = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell.instance()
with open(sys.argv[1]) as file:
    blocks = json.load(file)
for number, (kind, text) in enumerate(blocks):
    print(f"--- block {number}")
    if kind == "sh":
        import subprocess
        subprocess.run(["bash", "-euo", "pipefail", "-c", text], check=True, stdin=subprocess.DEVNULL)
        continue
    if not shell.run_cell(text).success:
        sys.exit(1)
"""


@dataclass(frozen=True)
class Block:
    kind: str
    marks: str
    text: str

    @property
    def first(self) -> str:
        return self.text.splitlines()[0]


def blocks() -> list[Block]:
    found = re.findall(r"^```(\w+)([^\n]*)\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.M | re.S)
    return [Block(kind, marks.strip(), text) for kind, marks, text in found]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConnectWorld]:
    with connect_world(tmp_path_factory.mktemp("guide")) as made:
        yield made


@pytest.fixture(scope="module")
def done(
    world: ConnectWorld, tmp_path_factory: pytest.TempPathFactory
) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Run everything that can run, in its order, in one folder."""
    folder = tmp_path_factory.mktemp("tools")
    binaries = folder / "bin"
    binaries.mkdir()
    for name, words in {"tidegate": f"{sys.executable} -m tidegate", "python": sys.executable}.items():
        (binaries / name).write_text(f'#!/bin/sh\nexec {words} "$@"\n')
        (binaries / name).chmod(0o755)
    runnable = [(block.kind, block.text) for block in blocks() if block.first not in NOT_RUN]
    (folder / "blocks.json").write_text(json.dumps(runnable))
    environment = world.environment()
    environment |= {
        "PATH": f"{binaries}:{environment['PATH']}",
        "PYTHONPATH": str(ROOT),
        "IPYTHONDIR": str(folder / "ipython"),
    }
    ran = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", RUNNER, "blocks.json"],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=RUN_S_MAX,
    )
    return ran, folder


def test_every_block_runs_or_is_listed() -> None:
    firsts = {block.first for block in blocks()}
    assert set(NOT_RUN) <= firsts, "a block is listed that the guide no longer has"
    ran = [block for block in blocks() if block.first not in NOT_RUN]
    assert {block.kind for block in ran} == {"sh", "python"}
    assert len(ran) >= 11


def test_the_blocks_run_in_their_order(done: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    ran, _ = done
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
    assert "Traceback" not in ran.stdout + ran.stderr
    said = ran.stdout
    with local_engine() as engine:
        monday = engine.sql("SELECT sum(minutes) FROM parking.visits WHERE weekday = 'Mon'").fetchall()[0][0]
        everything = engine.sql("SELECT count(*) FROM parking.visits").fetchall()[0][0]
        three = engine.sql(
            "SELECT id, minutes FROM parking.visits WHERE district = 'north' ORDER BY id LIMIT 3"
        ).fetchall()
    assert str(three) in said
    assert f"[({everything},)] {everything}" in said  # the reader's count, and what finished says
    assert f"\n({everything},)\n" in said
    assert "TG-POLICY-001 the steward of parking" in said
    assert str(monday) in said


def test_the_options_name_files_and_no_key(done: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    ran, folder = done
    assert "PRIVATE KEY" not in ran.stdout + ran.stderr
    document = json.loads((folder / "options.json").read_text())
    assert "PRIVATE KEY" in Path(document["key"]["file"]).read_text()
    assert "BEGIN CERTIFICATE" in Path(document["ca"]["file"]).read_text()
    assert "PRIVATE KEY" not in Path(document["ca"]["file"]).read_text()
    assert document["headers"] == {"x-tidegate-purpose": "transport.planning"}


def test_the_java_program_runs_with_the_url_of_the_guide(
    done: tuple[subprocess.CompletedProcess[str], Path], tmp_path: Path
) -> None:
    java = require_java()
    _, folder = done
    (source,) = [block.text for block in blocks() if block.kind == "java"]
    (tmp_path / "Visits.java").write_text(source)
    url = (folder / "url").read_text().strip()
    ran = subprocess.run(
        [java.launcher, "--add-opens=java.base/java.nio=ALL-UNNAMED", "-cp", java.jar, tmp_path / "Visits.java", url],
        capture_output=True,
        text=True,
        check=False,
        timeout=RUN_S_MAX,
    )
    with local_engine() as engine:
        expected = engine.sql(
            "SELECT district, count(*) FROM parking.visits WHERE weekday = 'Mon' GROUP BY 1 ORDER BY 1"
        ).fetchall()
    assert ran.stdout.split("\n")[:-1] == [f"{district} {visits}" for district, visits in expected], ran.stderr


def test_the_go_program_is_well_formed(tmp_path: Path) -> None:
    gofmt = shutil.which("gofmt")
    if gofmt is None:
        message = "no gofmt on PATH: the Go block is not read"
        if os.environ.get("TIDEGATE_REQUIRE_ALL") == "1":
            pytest.fail(message)
        pytest.skip(message)
    (source,) = [block.text for block in blocks() if block.kind == "go"]
    (tmp_path / "main.go").write_text(source)
    ran = subprocess.run([gofmt, "-l", "main.go"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")

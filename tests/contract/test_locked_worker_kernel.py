"""The kernel's walls stand alone too: an engine with all of its own locks open reaches nothing from inside of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from engine import landlock

ROOT = Path(__file__).resolve().parents[2]
CANARY = "CANARY-51ce"

CHILD = """
import ctypes, json, os, socket, subprocess, sys, threading
import duckdb, encodings.idna
from engine import sandbox
folder, parent = sys.argv[1], int(sys.argv[2])
walls = sandbox.enter([], file_bytes_max=0, required=True)
con = duckdb.connect(config={"threads": "2"})
out = {}
def attempt(name, call):
    try:
        out[name] = repr(call())
    except BaseException as error:
        out[name] = type(error).__name__
def sql(text):
    return lambda: con.execute(text).fetchall()
attempt("control", sql("SELECT 42"))
attempt("text", sql(f"SELECT * FROM read_text('{folder}/canary.csv')"))
attempt("csv", sql(f"SELECT * FROM read_csv('{folder}/canary.csv')"))
attempt("replacement", sql(f"SELECT * FROM '{folder}/canary.csv'"))
attempt("attach", sql(f"ATTACH '{folder}/made.duckdb' AS x"))
attempt("copy", sql(f"COPY (SELECT 1) TO '{folder}/made.csv'"))
attempt("environment", sql(f"SELECT * FROM read_blob('/proc/{parent}/environ')"))
attempt("glob", lambda: sql(f"SELECT * FROM glob('{folder}/*')")() or 1 / 0)
attempt("open", lambda: open(f"{folder}/canary.csv").read())
attempt("write", lambda: open(f"{folder}/made.txt", "w"))
attempt("tcp", lambda: socket.create_connection(("127.0.0.1", 9)))
attempt("udp", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
attempt("unix", lambda: socket.socket(socket.AF_UNIX))
attempt("pair", lambda: socket.socketpair())
attempt("run", lambda: subprocess.run(["/bin/true"]))
attempt("signal", lambda: os.kill(parent, 0))
def in_thread():
    seen = []
    def work():
        try:
            seen.append(open(f"{folder}/canary.csv").read())
        except OSError as error:
            seen.append(type(error).__name__)
    thread = threading.Thread(target=work); thread.start(); thread.join()
    return seen[0]
attempt("thread", in_thread)
libc = ctypes.CDLL(None, use_errno=True)
attempt("ptrace", lambda: libc.ptrace(16, parent, 0, 0))
attempt("unshare", lambda: libc.unshare(0x10000000))
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    if not landlock.abi():
        pytest.skip("this kernel has no Landlock")
    folder = tmp_path_factory.mktemp("kernel")
    (folder / "canary.csv").write_text(f"a\n{CANARY}\n")
    parent = subprocess.Popen(["sleep", "60"])
    try:
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(folder), str(parent.pid)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        parent.kill()
        parent.wait()
    assert done.returncode == 0, done.stderr
    assert [item.name for item in folder.iterdir()] == ["canary.csv"]
    assert CANARY not in done.stdout
    result: dict[str, str] = json.loads(done.stdout)
    return result


def test_the_engine_works_inside(outcomes: dict[str, str]) -> None:
    assert outcomes["control"] == "[(42,)]"


@pytest.mark.parametrize("name", ["text", "csv", "replacement", "attach", "copy", "environment"])
def test_an_unlocked_engine_reaches_no_file(outcomes: dict[str, str], name: str) -> None:
    assert outcomes[name].endswith("Exception")


@pytest.mark.parametrize("name", ["open", "write", "tcp", "udp", "unix", "pair", "run", "signal"])
def test_the_process_itself_reaches_nothing(outcomes: dict[str, str], name: str) -> None:
    assert outcomes[name] == "PermissionError"


def test_a_thread_that_starts_later_is_inside_too(outcomes: dict[str, str]) -> None:
    assert outcomes["thread"] == "'PermissionError'"


def test_folders_look_empty(outcomes: dict[str, str]) -> None:
    assert outcomes["glob"] == "ZeroDivisionError"


@pytest.mark.parametrize("name", ["ptrace", "unshare"])
def test_system_calls_that_reach_other_processes_are_refused(outcomes: dict[str, str], name: str) -> None:
    assert outcomes[name] == "-1"

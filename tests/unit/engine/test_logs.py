"""What a serving process's log says of an exception: its class and where, never its text, which may quote a row or SQL."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
SECRET = "rowmark7291"
CODE = f"""
import structlog
from engine.logs import configure_logs

configure_logs("info")
log = structlog.get_logger("test")


def fails():
    try:
        raise ValueError("cannot convert {SECRET}")
    except ValueError as error:
        error.add_note("{SECRET}")
        raise KeyError("{SECRET}") from error


try:
    fails()
except KeyError:
    log.exception("internal error", error_id="e1", trace_id="t1")
try:
    raise ExceptionGroup("{SECRET}", [ValueError("{SECRET}")])
except ExceptionGroup:
    log.exception("group", error_id="e2")
try:
    compile("{SECRET} {SECRET}", "x", "exec")
except SyntaxError:
    log.exception("syntax", error_id="e3")
log.info("plain", rows=3)
"""


def test_a_line_names_the_exceptions_class_and_place_and_none_of_its_text() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in lines] == ["internal error", "group", "syntax", "plain"]
    assert SECRET not in done.stderr
    assert [item["exc_type"] for item in lines[0]["exception"]] == ["KeyError", "ValueError"]
    assert any(frame["name"] == "fails" for item in lines[0]["exception"] for frame in item["frames"])
    assert (lines[0]["error_id"], lines[0]["trace_id"], lines[3]["rows"]) == ("e1", "t1", 3)

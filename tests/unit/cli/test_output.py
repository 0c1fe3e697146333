"""The formats of -o: what a program reads back is what was there; a table is for people and moves no cursor."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import subprocess
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer

from tidegate.cli import output as out
from tidegate.cli.output import Format, failing
from tidegate.core.errors import CODES, Code, Reason, error_for

ROOT = Path(__file__).resolve().parents[3]
HOSTILE = "\x1b[2J\x1b]0;owned\x07[red]:smile:\u202e\x9b"
TABLE = pa.table(
    {
        "n": pa.array([1, None, 3], pa.int64()),
        "price": pa.array([Decimal("1.10"), None, Decimal("-12345678901234567890.01")], pa.decimal128(38, 2)),
        "day": pa.array([date(2013, 1, 1), None, date(2024, 2, 29)], pa.date32()),
        "at": pa.array([datetime(2013, 1, 1, 5, tzinfo=UTC)] * 3, pa.timestamp("us", "UTC")),
        "fine": pa.array([1, None, 1_000_000_001], pa.timestamp("ns")),
        "text": ["", None, HOSTILE],
        "list": [[1, 2], None, []],
        "bytes": [b"\x00\x01", None, b""],
    }
)


class Stdout:
    """What was written to stdout, as bytes, all of it so far."""

    def __init__(self, capture: pytest.CaptureFixture[bytes]) -> None:
        self._capture = capture
        self._data = b""
        self.said = b""

    def data(self) -> bytes:
        captured = self._capture.readouterr()
        self._data += captured.out
        self.said += captured.err
        return self._data


@pytest.fixture
def stdout(capfdbinary: pytest.CaptureFixture[bytes]) -> Stdout:
    return Stdout(capfdbinary)


def test_json_keeps_numbers_decimals_and_dates(stdout: Stdout) -> None:
    out.arrow(TABLE, Format.JSON)
    rows = json.loads(stdout.data(), parse_float=Decimal)
    assert [row["n"] for row in rows] == [1, None, 3]
    assert [row["price"] for row in rows] == [Decimal("1.10"), None, Decimal("-12345678901234567890.01")]
    assert rows[2]["day"] == "2024-02-29"
    assert rows[0]["at"] == "2013-01-01T05:00:00+00:00"
    assert rows[2]["fine"] == "1970-01-01 00:00:01.000000001"
    assert [row["text"] for row in rows] == ["", None, HOSTILE]
    assert [row["list"] for row in rows] == [[1, 2], None, []]
    assert rows[0]["bytes"] == "0001"
    assert stdout.data().decode().isprintable() is False  # new lines between the rows, and nothing else:
    assert stdout.data().decode().replace("\n", "").isprintable()


def test_json_of_no_rows_and_of_two_columns_of_one_name(stdout: Stdout) -> None:
    out.arrow(TABLE.slice(0, 0), Format.JSON)
    assert json.loads(stdout.data()) == []
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    out.arrow(twice, Format.JSON)
    assert json.loads(stdout.data().split(b"\n", 1)[1]) == [{"a": 1, "a_2": 2}]


def test_csv_is_exact_in_a_pipe_and_tells_null_from_empty(stdout: Stdout) -> None:
    out.arrow(TABLE, Format.CSV)
    text = stdout.data().decode()
    rows = list(csv.reader(io.StringIO(text)))
    assert rows[0] == TABLE.schema.names
    assert rows[1][:4] == ["1", "1.10", "2013-01-01", "2013-01-01 05:00:00+00:00"]
    assert rows[3][5] == HOSTILE
    assert text.splitlines()[1].split(",")[5] == '""'
    assert text.splitlines()[2] == ",,,2013-01-01 05:00:00+00:00,,,,"


def test_arrow_and_parquet_keep_every_type(stdout: Stdout) -> None:
    out.arrow(TABLE, Format.ARROW)
    assert pa.ipc.open_stream(stdout.data()).read_all().equals(TABLE)


def test_parquet(stdout: Stdout) -> None:
    out.arrow(TABLE, Format.PARQUET)
    assert pq.read_table(io.BytesIO(stdout.data())).equals(TABLE)


def test_a_table_shows_every_value_and_no_control(stdout: Stdout) -> None:
    out.arrow(TABLE, Format.TABLE)
    text = stdout.data().decode()
    assert "[red]:smile:" in text  # neither markup nor emoji codes of a stranger mean anything
    assert "-12345678901234567890.01" in text
    assert text.replace("\n", "").isprintable()


def test_a_long_table_is_cut_and_says_so(stdout: Stdout) -> None:
    out.arrow(pa.table({"n": list(range(250)), "t": ["y" * 1000] * 250}), Format.TABLE)
    text = stdout.data().decode()
    assert "\u2026" in text
    assert text.count("y" * 20) < 2500
    assert b"100 of 250 rows shown" in stdout.said


def test_records_in_every_format(stdout: Stdout) -> None:
    rows: list[dict[str, Any]] = [{"name": "a", "roles": ["x", "y"], "more": {"k": 1}}, {"name": None, "roles": []}]
    out.records(rows, ("name", "roles"), Format.CSV)
    as_csv = stdout.data()
    assert as_csv == b'name,roles\na,"x, y"\n,\n'
    out.records(rows, ("name", "roles"), Format.JSON)
    assert json.loads(stdout.data().removeprefix(as_csv)) == rows


def test_records_as_arrow_when_there_are_none(stdout: Stdout) -> None:
    out.records([], ("a", "b"), Format.ARROW)
    assert pa.ipc.open_stream(stdout.data()).read_all().schema == pa.schema([("a", pa.string()), ("b", pa.string())])


def exits(error: BaseException) -> int:
    with pytest.raises(typer.Exit) as caught, failing():
        raise error
    return caught.value.exit_code


@pytest.mark.parametrize("code", list(Code))
def test_every_error_ends_with_its_documented_exit_code_and_next_step(
    code: Code, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exits(error_for(code, request_id="ab" * 16, retry_after_s=2.5)) == int(CODES[code].exit)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"error {code.value}: {CODES[code].title}\n")
    assert f"  next     {CODES[code].next_step}\n" in said.err
    assert f"  request  {'ab' * 16}\n" in said.err
    assert "  retry    after 2.5 s\n" in said.err


def test_reasons_say_what_to_ask_for_and_whom(capsys: pytest.CaptureFixture[str]) -> None:
    reasons = (Reason("no_agreement", "none covers it\x1b[2J", "an agreement", "registry"), Reason("x", "refused"))
    assert exits(error_for(Code.POLICY_REFUSED, "refused", reasons=reasons)) == 4
    assert capsys.readouterr().err.splitlines()[1:5] == [
        "  reason   no_agreement: none covers it␛[2J",
        "  ask for  an agreement",
        "  decided  by registry",
        "  reason   x",
    ]


def test_a_file_that_cannot_be_written_and_an_interrupt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as caught, failing():
        (tmp_path / "missing" / "file").write_bytes(b"")
    assert caught.value.exit_code == 2
    assert "No such file or directory" in capsys.readouterr().err
    assert exits(KeyboardInterrupt()) == 130


# What a terminal and a pipe see, with real ones.

SHOW = """
import sys
import pyarrow as pa
import typer
from tidegate.cli import output as out
from tidegate.cli.output import Format, err, failing, shows_progress
try:
    with failing():
        if sys.argv[1] == "progress":
            print(shows_progress(err()))
        elif sys.argv[1] == "say":
            out.say(chr(27) + "[2J said")
            out.report(out.error_for(out.Code.BUSY))
        else:
            out.arrow(pa.table({"t": [chr(27) + "[2J" + chr(0x9b)], "n": [1]}), Format(sys.argv[1]))
except typer.Exit as ended:
    sys.exit(ended.exit_code)
"""


def on_terminal(*arguments: str, **environment: str) -> tuple[int, str]:
    """Run the script with a real terminal as stdout and stderr."""
    leader, follower = pty.openpty()
    clean = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "FORCE_COLOR", "COLUMNS"}}
    with subprocess.Popen(
        [sys.executable, "-c", SHOW, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=follower,
        stderr=follower,
        cwd=ROOT,
        env={**clean, "TERM": "xterm-256color", **environment},
    ) as process:
        os.close(follower)
        data = b""
        try:
            while block := os.read(leader, 65536):
                data += block
        except OSError:  # Linux says EIO when the other end is closed
            pass
    os.close(leader)
    return process.returncode, data.decode().replace("\r\n", "\n")


def piped(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", SHOW, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        check=False,
    )


def test_a_terminal_gets_progress_a_pipe_never() -> None:
    assert on_terminal("progress")[1] == "True\n"
    assert on_terminal("progress", TERM="dumb")[1] == "False\n"
    assert piped("progress").stdout == b"False\n"
    assert piped("progress", FORCE_COLOR="1").stdout == b"False\n"


def test_colours_on_a_terminal_unless_no_color() -> None:
    assert "\x1b[31m" in on_terminal("say")[1]
    assert "\x1b[31m" not in on_terminal("say", NO_COLOR="1")[1]
    assert "\x1b[2J" not in on_terminal("say")[1]
    assert b"\x1b" not in piped("say").stderr


@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_hostile_text_cannot_move_a_terminal(form: str) -> None:
    code, text = on_terminal(form)
    assert code == 0
    assert "\x1b[2J" not in text
    assert "\x9b" not in text


@pytest.mark.parametrize("form", ["arrow", "parquet"])
def test_binary_data_is_not_written_to_a_terminal(form: str) -> None:
    code, text = on_terminal(form)
    assert code == 2
    assert f"> answer.{form}" in text
    assert piped(form).returncode == 0


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        [sys.executable, "-c", SHOW, "csv"], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, check=False, env=buffered
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")

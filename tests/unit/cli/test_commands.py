"""Every verb: help that teaches, completion, usage errors, parameters, and what works without an exchange."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from tidegate import __version__
from tidegate.cli.main import app
from tidegate.cli.query import parameters, value
from tidegate.core.errors import CallerError, Code

ROOT = Path(__file__).resolve().parents[3]
runner = CliRunner()


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TIDEGATE_CONTEXT", raising=False)
    monkeypatch.setenv("COLUMNS", "200")


def commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    """Give every command of the tree, groups too."""

    def walk(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
        yield path, command
        for name, inner in sorted(getattr(command, "commands", {}).items()):
            yield from walk(inner, (*path, name))

    yield from walk(typer.main.get_command(app), ())


ALL = list(commands())
LEAVES = [path for path, command in ALL if not hasattr(command, "commands")]


def test_the_verbs_are_those_that_are_documented() -> None:
    assert {path[0] for path in LEAVES} == {
        "access", "audit", "connection-options", "context", "dataset", "doctor", "init", "join", "member", "node", "proxy",
        "purposes", "query", "receipt", "renew", "search", "token", "up", "whoami",
    }  # fmt: skip
    assert len(LEAVES) >= 31


@pytest.mark.parametrize(("path", "command"), ALL, ids=lambda item: " ".join(item) if isinstance(item, tuple) else "")
def test_help_teaches(path: tuple[str, ...], command: Any) -> None:
    shown = runner.invoke(app, [*path, "--help"])
    assert shown.exit_code == 0, shown.output
    assert "Usage:" in shown.output
    help_text = command.help or ""
    assert re.match(r"[A-Z].{14,}", help_text), f"help of {path} says too little"
    for parameter in command.params:
        if not hasattr(command, "commands") and parameter.name != "help":
            text = getattr(parameter, "help", None) or ""
            assert len(text) >= 8, f"{' '.join(path)}: {parameter.name} has no help"


def test_root_help_tells_the_exit_codes_and_where_to_start() -> None:
    text = " ".join(runner.invoke(app, ["--help"]).output.split())
    for words in ("0 ok", "4 denied", "8 verification failed", "Start with: tidegate join TOKEN"):
        assert words in text


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["query"], ["query", "SELECT 1", "--nonsense"], ["query", "SELECT 1", "-o", "xml"],
     ["query", "SELECT 1", "--deadline", "0"], ["audit", "prove", "-1", "x"], ["audit", "search", "--limit", "0"]],
)  # fmt: skip
def test_wrong_usage_is_2(arguments: list[str]) -> None:
    assert runner.invoke(app, arguments).exit_code == 2


NEED_AN_EXCHANGE = [
    ["query", "SELECT 1"], ["whoami"], ["renew"], ["search", "x"], ["dataset", "list"], ["dataset", "show", "a.b"],
    ["dataset", "register"], ["dataset", "withdraw", "a.b", "-y"], ["purposes", "list"], ["purposes", "add", "a.b"],
    ["member", "list"], ["member", "add", "m"], ["member", "revoke", "m", "-y"], ["member", "role", "x"],
    ["access", "list"], ["access", "grant", "a.b", "c", "-p", "p"], ["access", "revoke", "x", "--reason", "y"],
    ["audit", "search"], ["audit", "verify"], ["audit", "prove", "1", "x"], ["audit", "export", "x"],
    ["receipt", "verify", "x"], ["context", "use", "x"], ["context", "purpose", "x"],
]  # fmt: skip


@pytest.mark.parametrize("arguments", NEED_AN_EXCHANGE, ids=" ".join)
def test_without_an_exchange_every_verb_says_how_to_join_one(arguments: list[str]) -> None:
    done = runner.invoke(app, arguments)
    assert done.exit_code == 2
    assert "TG-CLIENT-002" in done.stderr
    assert "tidegate join TOKEN" in done.stderr
    assert done.stdout == ""


def test_doctor_without_an_exchange() -> None:
    done = runner.invoke(app, ["doctor", "-o", "json"])
    assert done.exit_code == 2
    assert '"state": "wrong"' in done.stdout
    assert "tidegate join TOKEN" in done.stdout


def test_contexts_of_nobody_are_an_empty_list() -> None:
    done = runner.invoke(app, ["context", "list", "-o", "json"])
    assert (done.exit_code, done.stdout) == (0, "[]\n")


def test_version() -> None:
    done = runner.invoke(app, ["--version"])
    assert (done.exit_code, done.stdout) == (0, f"tidegate {__version__}\n")


def test_python_m_tidegate() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tidegate", "--version"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, f"tidegate {__version__}\n"), done.stderr


@pytest.mark.parametrize(
    ("words", "number", "offered"),
    [("tidegate da", 1, ["dataset"]), ("tidegate dataset ", 2, ["list", "register", "show", "withdraw"]),
     ("tidegate query --out", 2, ["--output"]), ("tidegate query x -o par", 4, ["parquet"])],
)  # fmt: skip
def test_shell_completion(words: str, number: int, offered: list[str]) -> None:
    environment = {**os.environ, "_TIDEGATE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(number)}
    code = "import sys; sys.argv = ['tidegate']; from tidegate.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert set(offered) <= set(done.stdout.split()), done.stderr


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("1", 1),
        ("-1.50", Decimal("-1.50")),
        ("1e3", Decimal("1e3")),
        ("true", True),
        ("null", None),
        ('"12"', "12"),
        ("JFK", "JFK"),
        ("2013-01-01", "2013-01-01"),
        ("[1, 2.5]", [1, Decimal("2.5")]),
        ('{"a": 1}', '{"a": 1}'),
        ("", ""),
        ("[" * 5000, "[" * 5000),
        ("'quoted'", "'quoted'"),
    ],
)
def test_a_parameters_value(text: str, meant: Any) -> None:
    read = value(text)
    assert read == meant
    assert type(read) is type(meant)


def test_parameters_by_name_or_by_position() -> None:
    assert parameters([]) is None
    assert parameters(["origin=JFK", "month=7", "note=a=b"]) == {"origin": "JFK", "month": 7, "note": "a=b"}
    assert parameters(["JFK", "7"]) == ["JFK", 7]
    assert parameters(['"a=b"', "=x"]) == ["a=b", "=x"]
    with pytest.raises(CallerError) as caught:
        parameters(["origin=JFK", "7"])
    assert caught.value.code is Code.CLIENT_INPUT


def test_sql_on_stdin_must_be_text() -> None:
    done = runner.invoke(app, ["query", "-"], input=b"\xff\xfe")
    assert done.exit_code == 2


@pytest.mark.parametrize("arguments", [[], ["m", "--serial", "ab"], ["--serial", "ab", "--only-identity", "x"]])
def test_revoke_names_one_thing(arguments: list[str]) -> None:
    assert runner.invoke(app, ["member", "revoke", "-y", *arguments]).exit_code == 2

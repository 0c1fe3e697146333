"""Contexts: argument, environment, file, in this order; a file that somebody broke is said to be broken."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

import tidegate
from tidegate.client.contexts import Context, Contexts, with_environment
from tidegate.core.errors import CallerError, Code


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("CONTEXT", "PURPOSE", "LEGAL_BASIS"):
        monkeypatch.delenv(f"TIDEGATE_{name}", raising=False)
    monkeypatch.setenv("TIDEGATE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def fails(contexts: Contexts, name: str | None = None) -> CallerError:
    with pytest.raises(CallerError) as caught:
        contexts.find(name)
    return caught.value


def test_nothing_is_joined_yet() -> None:
    contexts = Contexts()
    assert (contexts.names(), contexts.current) == ([], "")
    assert fails(contexts).code is Code.CLIENT_NO_CONTEXT
    with pytest.raises(CallerError, match="no exchange is configured"):
        tidegate.connect()


def test_the_first_becomes_current_and_use_changes_it(home: Path) -> None:
    contexts = Contexts()
    contexts.add("b", Path("/ids/b"), make_current=False)
    contexts.add("a", Path("/ids/a"), make_current=False)
    assert (contexts.names(), contexts.current) == (["a", "b"], "b")
    assert contexts.find() == Context("b", Path("/ids/b"))
    contexts.use("a")
    assert contexts.find().identity == Path("/ids/a")
    assert contexts.find("b").identity == Path("/ids/b")
    contexts.add("c", Path("/ids/c"), make_current=True)
    assert contexts.current == "c"
    assert tomllib.loads((home / "config.toml").read_text())["current"] == "c"
    assert not list(home.glob("*.new"))


def test_the_default_purpose_of_a_context_stays_when_it_is_joined_again() -> None:
    contexts = Contexts()
    contexts.add("a", Path("/ids/a"), make_current=True)
    contexts.set_purpose("a", "research.statistics", "act.5")
    contexts.add("a", Path("/ids/new"), make_current=True)
    assert contexts.find() == Context("a", Path("/ids/new"), "research.statistics", "act.5")


def test_the_environment_wins_over_the_file_and_the_argument_over_both(monkeypatch: pytest.MonkeyPatch) -> None:
    contexts = Contexts()
    for name in ("a", "b", "c"):
        contexts.add(name, Path("/ids") / name, make_current=name == "a")
        contexts.set_purpose(name, "of.file", "basis.file")
    monkeypatch.setenv("TIDEGATE_CONTEXT", "b")
    monkeypatch.setenv("TIDEGATE_PURPOSE", "of.environment")
    monkeypatch.setenv("TIDEGATE_LEGAL_BASIS", "basis.environment")
    assert contexts.find() == Context("b", Path("/ids/b"), "of.environment", "basis.environment")
    assert contexts.find("c").name == "c"
    bare = with_environment(Context("", Path("/somewhere")))
    assert (bare.purpose, bare.legal_basis) == ("of.environment", "basis.environment")


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    contexts = Contexts()
    contexts.add("city", Path("/ids/city"), make_current=True)
    assert "'town' is not known; known are: city" in fails(contexts, "town").message
    for change in (lambda: contexts.use("town"), lambda: contexts.set_purpose("town", "p", "")):
        with pytest.raises(CallerError) as caught:
            change()
        assert caught.value.code is Code.CLIENT_NO_CONTEXT


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "a b", "x" * 65, "a\n", "-x"])
def test_a_name_that_could_be_a_path_is_refused(name: str) -> None:
    with pytest.raises(CallerError) as caught:
        Contexts().add(name, Path("/ids"), make_current=True)
    assert caught.value.code is Code.CLIENT_INPUT


@pytest.mark.parametrize(
    "text",
    [
        "= broken",
        "contexts = 1",
        "[contexts]\na = 1",
        "[contexts.a]",
        "[contexts.a]\nidentity = 7",
        "[contexts.a]\nidentity = 'x'\npurpose = []",
        "\udcff",
    ],
)
def test_a_broken_file(home: Path, text: str) -> None:
    home.mkdir()
    (home / "config.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
    contexts = Contexts()
    assert fails(contexts, "a").code is Code.CONFIG_INVALID
    with pytest.raises(CallerError):
        contexts.names()
    with pytest.raises(CallerError):
        contexts.add("b", Path("/ids/b"), make_current=True)

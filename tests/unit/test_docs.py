"""The documents say what is true: generated pages are fresh, links lead somewhere, the real code reads every example."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from broker.config import parse_config as parse_broker_config
from catalogue.odcs import dataset_from_contract
from node.config import parse_config
from policies.bundle import load
from tests.sql_world import SCHEMA
from tidegate.cli.main import app
from tidegate.core.errors import CODES, Exit, TidegateError
from tidegate.sql.plan import plan

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [str(file.relative_to(ROOT)) for file in DOCUMENTS]
COMMENTS_OF_RICH = {"https://www.textualize.io"}
EXPECTED = {
    "docs/ARCHITECTURE.md",
    "docs/LIFE_OF_A_QUERY.md",
    "docs/TRUST.md",
    "docs/GLOSSARY.md",
    "docs/ERRORS.md",
    "docs/OPERATIONS.md",
    *(f"docs/guides/{role}.md" for role in ("department", "analyst", "steward", "auditor", "connect")),
}


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / name).read_text(encoding="utf-8"), re.M | re.S)


def all_blocks(language: str) -> list[tuple[str, str]]:
    return [(name, block) for name in NAMES for block in blocks(name, language)]


def anchors(file: Path) -> set[str]:
    """Give the anchors that headings make, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", file.read_text(encoding="utf-8"), flags=re.M | re.S)
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def test_every_document_that_readers_are_sent_to_is_there() -> None:
    assert set(NAMES) >= EXPECTED
    assert len([name for name in NAMES if name.startswith("docs/adr/0")]) >= 9


def test_generated_documents_are_fresh() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/generate_docs.py", "--check"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_error_page_has_every_code_and_every_exit() -> None:
    text = (ROOT / "docs" / "ERRORS.md").read_text(encoding="utf-8")
    missing = [info.code.value for info in CODES.values() if f"`{info.code.value}` | {info.grpc_status}" not in text]
    assert missing == []
    assert [exit_ for exit_ in Exit if f"| {int(exit_)} | {exit_.name} |" not in text] == []


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    file = ROOT / name
    text = re.sub(r"^```.*?^```$", "", file.read_text(encoding="utf-8"), flags=re.M | re.S)
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        place = (file.parent / path).resolve() if path else file
        if not place.exists() or (anchor and anchor not in anchors(place)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("name", NAMES)
def test_a_document_has_one_title_and_no_path_of_a_machine(name: str) -> None:
    text = re.sub(r"^```.*?^```$", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.M | re.S)
    assert len(re.findall(r"^# ", text, re.M)) == 1
    assert not re.search(r"/(root|home|work)/", text)


def commands(block: str) -> Iterator[list[str]]:
    """Give the words of each `tidegate` command of a shell block, here-documents and other programs left out."""
    text = re.sub(r"<<'END'\n.*?^END$", "", block, flags=re.M | re.S).replace("\\\n", " ")
    for line in text.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>()")
        lexer.whitespace_split = True
        lexer.commenters = "#"
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("|&;<>()"):
                if words and words[0] == "tidegate":
                    yield words[1:]
                words = []
            else:
                words.append(word)


def problem(words: list[str]) -> str | None:
    """Say what is wrong with a command's verb, arguments and options; parsed by the command line itself, never run."""
    command = typer.main.get_command(app)
    context = command.make_context("tidegate", [], resilient_parsing=True)
    rest = words
    while hasattr(command, "commands"):
        found = command.commands.get(rest[0]) if rest else None
        if found is None:
            return f"no such verb: {words}"
        command, rest = found, rest[1:]
    try:
        command.make_context(command.name, list(rest), parent=context)
    except Exception as error:
        return f"{words}: {error}"
    return None


def test_every_command_in_the_documents_is_one_that_exists() -> None:
    found = [(name, words) for name, block in all_blocks("sh") for words in commands(block)]
    assert len(found) > 60
    assert [f"{name}: {wrong}" for name, words in found if (wrong := problem(words))] == []


def test_the_check_of_commands_can_fail() -> None:
    assert problem(["query", "SELECT 1", "--no-such-option"])
    assert problem(["no-such-verb"])
    assert problem(["audit", "prove", "one", "file"])


@pytest.mark.parametrize("query", blocks("docs/guides/analyst.md", "sql"))
def test_sql_of_the_analysts_guide_is_allowed(query: str) -> None:
    assert plan(query, SCHEMA, []).leaves


def test_node_configurations_in_the_documents_are_valid(tmp_path: Path) -> None:
    (tmp_path / "visits").mkdir()
    (tmp_path / "visits" / "day.parquet").touch()
    (tmp_path / "visits.csv").touch()
    readme = re.findall(r"^cat > node\.toml <<'END'\n(.*?)^END$", (ROOT / "README.md").read_text("utf-8"), re.M | re.S)
    texts = [*readme, *(block for _, block in all_blocks("toml"))]
    assert len(texts) >= 2
    for text in texts:
        config = parse_config(tomllib.loads(text), tmp_path, {"PARKING_DATABASE": "postgresql://reader@host/parking"})
        assert config.datasets


def test_data_contracts_in_the_documents_are_read(tmp_path: Path) -> None:
    texts = [block for _, block in all_blocks("yaml")]
    assert texts
    for number, text in enumerate(texts):
        file = tmp_path / f"contract{number}.yaml"
        file.write_text(text, encoding="utf-8")
        dataset = dataset_from_contract(file)
        assert str(dataset.name) == "parking.visits"
        assert dataset.subject_column == "plate"
        assert dataset.extra == {"mask.plate": "pseudonym"}


def test_every_documented_variable_of_the_broker_is_heeded(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "CONFIGURATION.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w.]+)` \| (.*?) \| .* \| `(TIDEGATE_BROKER_\w+)` \|$", page, re.M)
    assert len(rows) > 20
    variables = {variable: default.strip("`") for _, default, variable in rows if default and default != "needed"}
    variables["TIDEGATE_BROKER_LIMITS_REQUESTS_MAX"] = "7"
    config = parse_broker_config({"exchange": {"name": "city"}}, tmp_path, variables)
    assert config.limits.requests_max == 7
    with pytest.raises(TidegateError):
        parse_broker_config({"exchange": {"name": "city"}}, tmp_path, {"TIDEGATE_BROKER_LIMITS_NO_SUCH": "1"})


def test_the_glossary_has_each_word_once_and_in_order() -> None:
    text = (ROOT / "docs" / "GLOSSARY.md").read_text(encoding="utf-8")
    words = [row.split("|")[1].strip() for row in text.splitlines() if row.startswith("| ")][1:]
    assert len(words) > 50
    assert words == sorted(words, key=str.casefold)
    single = [word for words_ in words for word in words_.split(", ")]
    assert len(single) == len(set(single))


def test_the_picture_calls_nobody() -> None:
    text = (ROOT / "docs" / "demo.svg").read_text(encoding="utf-8")
    assert set(re.findall(r"https?://[^\s\"']+", text)) <= {"http://www.w3.org/2000/svg"} | COMMENTS_OF_RICH
    assert "url(" not in re.sub(r"url\(#[\w-]+\)", "", text)


def test_overlays_in_the_documents_are_rules_that_the_bundle_takes(tmp_path: Path) -> None:
    texts = [block for _, block in all_blocks("rego")]
    assert texts
    for number, text in enumerate(texts):
        file = tmp_path / f"overlay{number}.rego"
        file.write_text(text, encoding="utf-8")
        assert load([file]).overlays == ("parking",)


def test_python_in_the_documents_compiles_and_names_what_exists() -> None:
    import tidegate
    from tidegate.client.catalogue import CatalogueClient
    from tidegate.client.result import Result
    from tidegate.client.session import Session

    known = {"tidegate": tidegate, "exchange": Session, "exchange.catalogue": CatalogueClient, "result": Result}
    texts = [block for _, block in all_blocks("python")]
    assert texts
    for text in texts:
        compile(text, "docs", "exec")
        for owner, attribute in re.findall(r"\b(tidegate|exchange\.catalogue|exchange|result)\.(\w+)", text):
            if f"{owner}.{attribute}" not in known:
                assert hasattr(known[owner], attribute), f"{owner}.{attribute}"


def test_refusals_of_the_documents_are_codes_that_exist() -> None:
    codes = {info.code.value for info in CODES.values()}
    for name in NAMES:
        text = (ROOT / name).read_text(encoding="utf-8")
        assert set(re.findall(r"TG-[A-Z]+-\d{3}", text)) <= codes, name


def test_an_invalid_node_configuration_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(TidegateError):
        parse_config({"node": {}, "dataset": [{"name": "x", "source": "papyrus"}]}, tmp_path, {})

"""The whole tree keeps the rules of the house, and every rule finds what it is there to find."""

from __future__ import annotations

import os

import pytest

from tests.tidy import rules
from tests.tidy.rules import Finding
from tests.tidy.tree import ROOT, is_text, paths, text_of


def read(path: str) -> str | None:
    """Give the text of a file of the project, or the empty text for one of its folders."""
    place = ROOT / path
    if not place.exists():
        return None
    return text_of(path) if place.is_file() else ""


def test_every_file_keeps_the_rules() -> None:
    findings: list[Finding] = []
    for path in paths():
        size = (ROOT / path).stat().st_size
        if size > rules.FILE_BYTES_MAX or not is_text(path):
            findings += [Finding(path, 1, f"{size} bytes")] if size > rules.FILE_BYTES_MAX else []
            continue
        text = text_of(path)
        for rule in (rules.lines_in, rules.banned_in, rules.words_in, rules.shape_of, rules.script_in):
            findings += rule(path, text)
        findings += rules.markdown_in(path, text, read)
    assert not findings, "\n" + "\n".join(map(str, findings))


def test_permissions_to_be_long_name_files_that_exist() -> None:
    names = {*rules.LONG_MODULES, *(name.split(":")[0] for name in rules.LONG_FUNCTIONS)}
    assert names <= set(paths())
    for name in rules.LONG_FUNCTIONS:
        path, function = name.split(":")
        assert f"def {function}(" in text_of(path), name


def test_scripts_can_be_run() -> None:
    scripts = [path for path in paths() if text_of(path).startswith("#!")]
    assert {"scripts/test", "scripts/demo", "scripts/build", "scripts/setup", ".ci/run"} <= set(scripts)
    assert [path for path in scripts if not os.access(ROOT / path, os.X_OK)] == []


def whats(findings: object) -> list[str]:
    return [finding.what for finding in findings]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("broker/plan.py", "from datetime import datetime\ndatetime.now()\n"),
        ("broker/plan.py", "import datetime as d\nd.datetime.utcnow()\n"),
        ("tests/unit/test_ipc.py", "from datetime import date\ndate.today()\n"),
        ("audit/log.py", "import time\ntime.time()\n"),
        ("audit/log.py", "from time import time as wall\nwall()\n"),
        ("node/link.py", "import os\nvalue = os.environ['X']\n"),
        ("node/link.py", "import os\nvalue = 'X' in os.environ\n"),
        ("node/link.py", "import os\nos.getenv('X')\n"),
        ("node/link.py", "from os import environ\n"),
        ("tidegate/client/session.py", "print('x')\n"),
        ("catalogue/store.py", "import uuid\nuuid.uuid4()\n"),
        ("catalogue/store.py", "import random\n"),
        ("catalogue/store.py", "from random import choice\nchoice([1])\n"),
        ("broker/fetch.py", "from broker.values import RecordedPlan\nRecordedPlan(1, 2, 3)\n"),
        ("broker/fetch.py", "from broker import values\nvalues.RecordedPlan(1, 2, 3)\n"),
        ("node/link.py", "import time\ntime.sleep(1)\n"),
        ("tests/unit/test_ipc.py", "from unittest.mock import Mock\n"),
        ("tests/unit/test_ipc.py", "import unittest.mock\n"),
        ("tidegate/ipc.py", "import pickle\npickle.loads(b'')\n"),
        ("scripts/docs.py", "import os\nos.system('ls')\n"),
    ],
)
def test_a_banned_call_is_found_under_any_name(path: str, code: str) -> None:
    assert whats(rules.banned_in(path, code)), code


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("tidegate/core/clock.py", "from datetime import datetime\ndatetime.now()\n"),
        ("broker/commands.py", "import os\nload(os.environ)\n"),
        ("tidegate/cli/output.py", "print('x')\n"),
        ("broker/record.py", "from broker.values import RecordedPlan\nRecordedPlan(1)\n"),
        ("broker/fetch.py", "from broker.values import RecordedPlan\ndef fetch(plan: RecordedPlan) -> None: ...\n"),
        ("broker/plan.py", "import time\ntime.monotonic()\n"),
        ("broker/plan.py", "console.print('x'); self.random(); clock.time()\n"),
        ("tests/unit/test_ipc.py", "import random\nrandom.Random(7).random()\n"),
    ],
)
def test_what_is_allowed_is_not_found(path: str, code: str) -> None:
    assert whats(rules.banned_in(path, code)) == []


def test_a_banned_call_names_its_replacement() -> None:
    (found,) = rules.banned_in("broker/plan.py", "from datetime import datetime\n\ndatetime.now()\n")
    assert str(found).startswith("broker/plan.py:3: datetime.datetime.now is not used here; use a Clock")


def test_length_is_found_and_a_permission_only_shrinks() -> None:
    function = "def f():\n" + "    a = 1\n" * rules.FUNCTION_LINES_MAX
    assert whats(rules.lines_in("broker/plan.py", function)) == ["f() has 71 lines, at most 70: split it"]
    assert whats(rules.lines_in("broker/plan.py", function.replace("    a = 1\n", "", 1))) == []
    module = "a = 1\n" * (rules.MODULE_LINES_MAX + 1)
    assert whats(rules.lines_in("broker/plan.py", module)) == ["the module has 401 lines, at most 400: split it"]
    assert whats(rules.lines_in("tests/unit/test_x.py", module)) == []
    assert whats(rules.lines_in("tidegate/v1/x.py", module)) == []
    for path in rules.LONG_MODULES:
        assert "remove it" in whats(rules.lines_in(path, "a = 1\n"))[0]


@pytest.mark.parametrize("word", ["TODO", "FIXME", "XXX", "HACK"])
def test_unfinished_work_is_found(word: str) -> None:
    assert whats(rules.words_in("broker/plan.py", f"# {word}: later\n"))
    assert not whats(rules.words_in("broker/plan.py", f"# a {word.lower()} list\n"))


@pytest.mark.parametrize("path", ["/work/main", "/root/.cache", "/home/ada/x", "/Users/Ada/x", "/tmp/x.csv"])
def test_a_path_of_one_machine_is_found(path: str) -> None:
    assert whats(rules.words_in("docs/OPERATIONS.md", f"see {path} for it\n"))
    assert whats(rules.words_in("node/config.py", f'PATH = "{path}"\n'))
    assert not whats(
        rules.words_in("docs/OPERATIONS.md", "network/work/x, /var/lib/tidegate, ~/work, https://x.org/home/a\n")
    )


def test_a_file_that_is_too_large_or_ends_badly_is_found() -> None:
    assert whats(rules.shape_of("docs/x.md", "x" * rules.FILE_BYTES_MAX + "x\n"))
    assert whats(rules.shape_of("docs/x.md", "x")) == ["no line end at the end"]
    assert whats(rules.shape_of("docs/x.md", "x\r\n")) == ["carriage returns"]
    assert whats(rules.shape_of("docs/x.md", "x\n")) == []


def test_a_shell_script_that_goes_on_after_an_error_is_found() -> None:
    assert whats(rules.script_in("scripts/x", "#!/usr/bin/env bash\nls\n"))
    assert not whats(rules.script_in("scripts/x", "#!/usr/bin/env bash\n# Why.\nset -euo pipefail\nls\n"))


PAGE = """# Title

See [the other](other.md), [its part](other.md#how-it-works), [here](#how-so), [out](https://example.org/x#y).

## How so?

```sh
# not a heading
[no link](nowhere.md)
```
"""
OTHER = "# Other\n\n## How `it` works\n"


def pages(path: str) -> str | None:
    return {"docs/other.md": OTHER, "docs": ""}.get(path)


def test_a_page_with_one_title_and_links_that_lead_somewhere_is_tidy() -> None:
    assert whats(rules.markdown_in("docs/page.md", PAGE, pages)) == []


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("(other.md)", "(missing.md)", "the link to missing.md leads nowhere"),
        ("other.md#how-it-works", "other.md#how", "docs/other.md has no heading for #how"),
        ("(#how-so)", "(#why)", "docs/page.md has no heading for #why"),
        ("# Title\n", "Title\n", "0 headings of the first level, exactly one is wanted"),
        ("## How so?", "# How so?", "2 headings of the first level, exactly one is wanted"),
    ],
)
def test_a_page_that_is_not_tidy_is_found(old: str, new: str, what: str) -> None:
    assert what in whats(rules.markdown_in("docs/page.md", PAGE.replace(old, new), pages))

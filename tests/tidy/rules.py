"""The rules of the house that no other tool checks. Each reads one file's text and says what is wrong; none reads the disk."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

PRODUCT = ("tidegate/", "broker/", "catalogue/", "policies/", "node/", "audit/", "engine/")
GENERATED = ("tidegate/v1/",)
# Hostile statements, and these rules with the examples of what they find.
QUOTES_WHAT_IS_BANNED = ("tests/data/", "tests/tidy/")

MODULE_LINES_MAX = 400
OTHER_LINES_MAX = 700  # tests, examples and scripts: a list of cases reads well at a length that logic does not
FUNCTION_LINES_MAX = 70
FILE_BYTES_MAX = 256 * 1024

# Longer than the limit today, and why that is borne. May only shrink: an entry that is no longer needed is a finding.
LONG_MODULES = {
    "tidegate/sql/expressions.py": 405,  # one small binder for each kind of expression, and their table
}
LONG_FUNCTIONS = {
    "catalogue/migrations/versions/v0001_first.py:_tables": 130,  # a migration says everything in one place, for ever
    "broker/app.py:start": 90,  # composition roots: one constructor call after the other
    "broker/app.py:_serve": 95,
    "broker/setup.py:create_exchange": 80,
    "tests/fakes/scripted_broker.py:fragment": 85,
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, at one place."""

    path: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what}"


@dataclass(frozen=True, slots=True)
class Ban:
    """A call or an attribute that is banned outside ``allowed``, and what to use instead."""

    names: tuple[str, ...]
    scope: tuple[str, ...]
    allowed: tuple[str, ...]
    instead: str


BANS = (
    Ban(
        (
            "datetime.datetime.now",
            "datetime.datetime.utcnow",
            "datetime.datetime.today",
            "datetime.date.today",
            "time.time",
            "time.time_ns",
        ),
        ("",),
        ("tidegate/core/clock.py",),
        "a Clock of tidegate.core.clock, given by the caller; for durations time.monotonic",
    ),
    Ban(
        ("os.environ", "os.getenv", "os.putenv", "os.environb"),
        PRODUCT,
        # Those that are told where they run; engine/process.py passes on where libraries lie, and nothing else.
        ("broker/commands.py", "node/commands.py", "tidegate/client/contexts.py", "engine/process.py"),
        "a value of the configuration: config.py reads the environment that commands.py hands it",
    ),
    Ban(("print",), PRODUCT, ("tidegate/cli/",), "tidegate.cli.output for people, structlog for logs"),
    Ban(
        ("uuid.uuid1", "uuid.uuid4", "random", "numpy.random"),
        PRODUCT,
        (),
        "Ids of tidegate.core.clock, given by the caller; for secrets the module secrets",
    ),
    Ban(
        ("broker.values.RecordedPlan",),
        PRODUCT,
        ("broker/record.py",),
        "broker.record: only the room that records may make what fetch takes",
    ),
    Ban(("time.sleep",), PRODUCT, (), "Event.wait or a condition, which stop when they should"),
    Ban(("unittest.mock", "mock"), ("",), (), "a working fake in tests/fakes"),
    Ban(
        ("pickle.loads", "pickle.load", "marshal.loads", "dill.loads"), PRODUCT, ("engine/",), "tidegate.core.canonical"
    ),
    Ban(("os.system", "os.popen"), ("",), (), "subprocess.run with a list of words"),
)

_UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
_MACHINE_PATH = re.compile(r"(?<![\w.~/-])/(?:work|root|home/[a-z]|Users/[A-Za-z]|tmp/[\w.])[\w./-]*")
_HEADING = re.compile(r"#{1,6}\s+(.*?)\s*#*\s*$")
_FENCE = re.compile(r"\s*(```+|~~~+)")
_LINK = re.compile(r"!?\[[^\]\n]*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)


def lines_in(path: str, text: str) -> Iterator[Finding]:
    """Find modules and functions that are too long, and permissions to be long that nobody needs any more."""
    if not path.endswith(".py") or path.startswith(GENERATED):
        return
    count = text.count("\n")
    limit = MODULE_LINES_MAX if path.startswith(PRODUCT) else OTHER_LINES_MAX
    yield from _too_long(path, 1, "the module", count, limit, LONG_MODULES.get(path))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            permitted = LONG_FUNCTIONS.get(f"{path}:{node.name}")
            yield from _too_long(path, node.lineno, f"{node.name}()", length, FUNCTION_LINES_MAX, permitted)


def _too_long(path: str, line: int, what: str, count: int, limit: int, permitted: int | None) -> Iterator[Finding]:
    if count > (permitted or limit):
        yield Finding(path, line, f"{what} has {count} lines, at most {permitted or limit}: split it")
    elif permitted is not None and count <= limit:
        yield Finding(path, line, f"{what} is within the limit again: remove it from tests/tidy/rules.py")


def banned_in(path: str, text: str) -> Iterator[Finding]:
    """Find calls that are banned where they stand, whatever name they were imported under."""
    if not path.endswith(".py") or path.startswith((*GENERATED, *QUOTES_WHAT_IS_BANNED)):
        return
    bans = [ban for ban in BANS if path.startswith(ban.scope) and not path.startswith(ban.allowed or ("\0",))]
    tree = ast.parse(text)
    origins = _origins(tree)
    for node in ast.walk(tree):
        for name in _named(node, origins):
            for ban in bans:
                if any(name == banned or name.startswith(banned + ".") for banned in ban.names):
                    yield Finding(path, getattr(node, "lineno", 1), f"{name} is not used here; use {ban.instead}")


def _origins(tree: ast.AST) -> dict[str, str]:
    """Map each imported name to what it stands for."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for item in node.names:
                found[item.asname or item.name.split(".")[0]] = item.name if item.asname else item.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for item in node.names:
                found[item.asname or item.name] = f"{node.module}.{item.name}"
    return found


def _named(node: ast.AST, origins: dict[str, str]) -> Iterator[str]:
    """Give the full name that an expression, or an import, stands for; a type annotation names a class without a call."""
    if isinstance(node, ast.Call):
        name = _dotted(node.func, origins)
        if name:
            yield name
    elif isinstance(node, ast.Attribute):
        name = _dotted(node, origins)
        if name.startswith("os.environ"):  # read by index and by membership too, not only by a call
            yield name
    elif isinstance(node, ast.Import):
        yield from (item.name for item in node.names if item.name in ("random", "mock", "unittest.mock"))
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        names = (f"{node.module}.{item.name}" for item in node.names)
        yield from (name for name in names if name.startswith(("os.environ", "os.getenv", "unittest.mock", "mock.")))


def _dotted(node: ast.expr, origins: dict[str, str]) -> str:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    known = origins.get(node.id)
    if known is None and node.id != "print":
        return ""  # a local name, whatever it is called
    return ".".join([known or node.id, *reversed(parts)])


def words_in(path: str, text: str) -> Iterator[Finding]:
    """Find marks of unfinished work, and paths of one machine."""
    if path.startswith(QUOTES_WHAT_IS_BANNED):
        return
    for number, line in enumerate(text.splitlines(), 1):
        found = _UNFINISHED.search(line)
        if found:
            yield Finding(path, number, f"{found[0]}: finish it, or say in an issue what is missing")
        found = _MACHINE_PATH.search(line)
        if found:
            yield Finding(
                path, number, f"{found[0]} is a path of one machine; give it as an argument or make a temporary one"
            )


def shape_of(path: str, text: str) -> Iterator[Finding]:
    """Find files without a last line end, with carriage returns, or too large to be read by a person."""
    if len(text.encode()) > FILE_BYTES_MAX:
        yield Finding(path, 1, f"larger than {FILE_BYTES_MAX // 1024} KiB: data is made by the tests or fetched")
    if path.startswith("tests/data/"):
        return
    if text and not text.endswith("\n"):
        yield Finding(path, text.count("\n") + 1, "no line end at the end")
    if "\r" in text:
        yield Finding(path, 1, "carriage returns")


def script_in(path: str, text: str) -> Iterator[Finding]:
    """Find shell scripts that go on after an error."""
    first = text.split("\n", 1)[0]
    if first.startswith("#!") and first.endswith(("bash", "/sh")) and "\nset -euo pipefail\n" not in text:
        yield Finding(path, 1, "a shell script starts with: set -euo pipefail")


def prose(text: str) -> Iterator[tuple[int, str]]:
    """Give the numbered lines of a Markdown text that are not code."""
    fence = ""
    for number, line in enumerate(text.splitlines(), 1):
        found = _FENCE.match(line)
        if found:
            fence = "" if fence and found[1].startswith(fence) else fence or found[1]
        elif not fence:
            yield number, re.sub(r"`[^`]*`", "``", line)


def anchors(text: str) -> set[str]:
    """Give the anchors that GitHub makes of a Markdown text's headings."""
    found: set[str] = set()
    for _, line in _headings(text):
        plain = re.sub(r"[^\w\s-]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", line).lower()).strip()
        base = re.sub(r"\s", "-", plain)
        count = 0
        while (name := base if not count else f"{base}-{count}") in found:
            count += 1
        found.add(name)
    return found


def _headings(text: str) -> Iterator[tuple[int, str]]:
    code = {number for number, _ in enumerate(text.splitlines(), 1)} - {number for number, _ in prose(text)}
    for number, line in enumerate(text.splitlines(), 1):
        match = _HEADING.match(line)
        if match and number not in code:
            yield number, match[1]


def markdown_in(path: str, text: str, read: Callable[[str], str | None]) -> Iterator[Finding]:
    """Find pages that have not exactly one title, and links that lead nowhere.

    Args:
        read: gives the text of a file, the empty text for a folder or what is no text, None when there is neither.
    """
    if not path.endswith(".md"):
        return
    titles = [number for number, line in prose(text) if re.match(r"#\s", line)]
    if len(titles) != 1:
        yield Finding(
            path, titles[1] if titles else 1, f"{len(titles)} headings of the first level, exactly one is wanted"
        )
    for number, line in prose(text):
        for link in _LINK.findall(line):
            if _ELSEWHERE.match(link):
                continue
            target, _, anchor = link.partition("#")
            place = _resolve(path, target)
            found = text if place == path else read(place)
            if found is None:
                yield Finding(path, number, f"the link to {link} leads nowhere")
            elif anchor and place.endswith(".md") and anchor not in anchors(found):
                yield Finding(path, number, f"{place} has no heading for #{anchor}")


def _resolve(path: str, target: str) -> str:
    if not target:
        return path
    base = PurePosixPath(path).parent
    parts: list[str] = [] if target.startswith("/") else list(base.parts)
    for part in PurePosixPath(target.lstrip("/")).parts:
        if part == ".." and parts:
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)

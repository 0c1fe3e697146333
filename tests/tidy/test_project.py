"""What the project's own files say about it agrees: versions, dependencies, entry points, the lock file, the public names."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib import metadata
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import tidegate
from tests.tidy.tree import ROOT, paths, text_of

CLIENT = "packaging/tidegate/pyproject.toml"
EXCHANGE = "packaging/tidegate-exchange/pyproject.toml"
EXCHANGE_PARTS = ("broker/", "catalogue/", "policies/", "node/", "audit/", "engine/")
# Loaded by name, not by an import: the database driver that a URL names.
NOT_IMPORTED = {"psycopg"}
# Brought by what is declared, and part of its interface: grpcio-status gives and takes google.rpc's messages.
BROUGHT = {"googleapis-common-protos": "grpcio-status", "adbc-driver-manager": "adbc-driver-postgresql"}
SLOW = ("pyarrow", "duckdb", "sqlglot", "grpc", "google", "cryptography", "typer", "rich", "pydantic", "sqlalchemy")


@cache
def project(path: str) -> dict[str, Any]:
    loaded: dict[str, Any] = tomllib.loads(text_of(path))
    return loaded


def declared(path: str, extra: str = "") -> dict[str, str]:
    table = project(path)["project"]
    texts = table["optional-dependencies"][extra] if extra else table["dependencies"]
    return {canonicalize_name(Requirement(text).name): text for text in texts}


def optional() -> dict[str, str]:
    """Give what may be missing where it is imported, and is looked for in words: the extras of the client's wheel."""
    return {
        name: text
        for extra in project(CLIENT)["project"]["optional-dependencies"]
        for name, text in declared(CLIENT, extra).items()
    }


def test_every_file_names_the_same_version() -> None:
    versions = {path: project(path)["project"]["version"] for path in ("pyproject.toml", CLIENT, EXCHANGE)}
    assert set(versions.values()) == {tidegate.__version__}, versions
    assert declared(EXCHANGE)["tidegate"] == f"tidegate=={tidegate.__version__}"
    assert re.search(rf"(?m)^## (Unreleased|{re.escape(tidegate.__version__)}\b)", text_of("CHANGELOG.md"))


def test_the_workspace_needs_what_the_two_wheels_need() -> None:
    wheels = {**declared(CLIENT), **declared(EXCHANGE), **declared(EXCHANGE, "postgres")}
    del wheels["tidegate"]
    assert declared("pyproject.toml") == wheels


def test_the_workspace_offers_what_the_two_wheels_offer() -> None:
    def offered(path: str, kind: str) -> dict[str, Any]:
        found: dict[str, Any] = project(path)["project"].get(kind, {})
        return found

    for kind in ("scripts", "entry-points"):
        assert offered("pyproject.toml", kind) == {**offered(CLIENT, kind), **offered(EXCHANGE, kind)}
    assert offered(EXCHANGE, "scripts") == {}, "the command comes with the client"
    pythons = {project(path)["project"]["requires-python"] for path in ("pyproject.toml", CLIENT, EXCHANGE)}
    assert pythons == {">=3.11"}


def test_the_lock_file_holds_every_dependency_with_its_digests() -> None:
    blocks = re.split(r"\n(?=\S)", text_of("requirements.lock").strip())
    locked: dict[str, str] = {}
    for block in blocks:
        match = re.match(r"([A-Za-z0-9._-]+)==([^\s;\\]+)", block)
        assert match, f"not a pin: {block[:60]}"
        assert "--hash=sha256:" in block, f"{match[1]} has no digest"
        locked[canonicalize_name(match[1])] = match[2]
    development = [Requirement(text) for text in project("pyproject.toml")["dependency-groups"]["dev"]]
    for wanted in [*map(Requirement, declared("pyproject.toml").values()), *development]:
        name = canonicalize_name(wanted.name)
        assert name in locked, f"{name} is not locked: run scripts/lock"
        assert wanted.specifier.contains(locked[name]), f"{name} {locked[name]} is locked, {wanted} is wanted"


@cache
def imported(*tops: str) -> dict[str, str]:
    """Give the distributions that the modules below these folders import, each with one place that does."""
    owners = metadata.packages_distributions()
    own = {name.rstrip("/") for name in (*EXCHANGE_PARTS, "tidegate/")}
    found: dict[str, str] = {}
    for path in paths():
        if not path.endswith(".py") or not path.startswith(tops):
            continue
        for name in _modules(ast.parse(text_of(path))):
            top = name.split(".")[0]
            if top in sys.stdlib_module_names or top in own:
                continue
            found.setdefault(_distribution(name, owners), path)
    return found


def _modules(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {item.name for item in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return names


def _distribution(name: str, owners: Any) -> str:
    if name.startswith("google."):  # one namespace, several distributions
        return "googleapis-common-protos" if name.startswith("google.rpc") else "protobuf"
    if name.startswith("opentelemetry."):
        return "opentelemetry-exporter-otlp-proto-grpc" if "exporter" in name else "opentelemetry-sdk"
    top = name.split(".")[0]
    return str(canonicalize_name(owners.get(top, [top])[0]))


def undeclared(found: dict[str, str], allowed: dict[str, str]) -> dict[str, str]:
    return {name: where for name, where in found.items() if name not in allowed and BROUGHT.get(name) not in allowed}


def test_the_client_declares_what_it_imports() -> None:
    tops = tuple(sorted({path for path in paths() if path.startswith("tidegate/")} - _sql()))
    allowed = {**declared(CLIENT), **optional()}
    assert undeclared(imported(*tops), allowed) == {}


def _sql() -> set[str]:
    """Give tidegate.sql's modules, which run in the exchange alone."""
    return {path for path in paths() if path.startswith("tidegate/sql/")}


def test_the_exchange_declares_what_it_imports() -> None:
    allowed = {**declared(CLIENT), **optional(), **declared(EXCHANGE), **declared(EXCHANGE, "postgres")}
    assert undeclared(imported(*EXCHANGE_PARTS, "tidegate/sql/"), allowed) == {}


def test_nothing_is_declared_that_nobody_imports() -> None:
    used = imported("tidegate/", *EXCHANGE_PARTS)
    used = {**used, **{BROUGHT[name]: where for name, where in used.items() if name in BROUGHT}}
    assert declared("pyproject.toml").keys() - used.keys() - NOT_IMPORTED == set()


def loaded_by(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nimport json\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_importing_tidegate_loads_nothing_but_the_standard_library() -> None:
    loaded = loaded_by("import tidegate")
    assert not loaded & set(SLOW)
    known = {*sys.stdlib_module_names, *loaded_by("pass"), "tidegate"}
    assert {name for name in loaded - known if not name.startswith("_")} == set()


@pytest.mark.parametrize("module", ["pyarrow", "duckdb", "sqlglot", "grpc", "cryptography"])
def test_the_command_line_starts_without(module: str) -> None:
    assert module not in loaded_by("import tidegate.cli.main")


def test_the_public_names_are_these() -> None:
    assert tidegate.__all__ == [
        "CallerError",
        "IntegrityError",
        "InternalError",
        "Overloaded",
        "PeerError",
        "Refused",
        "TidegateError",
        "__version__",
        "connect",
    ]
    assert all(hasattr(tidegate, name) for name in tidegate.__all__)


def test_every_package_says_what_it_is() -> None:
    packages = [path for path in paths() if path.endswith("__init__.py") and not path.startswith("tests/")]
    silent = [path for path in packages if not ast.get_docstring(ast.parse(text_of(path)))]
    assert silent == []

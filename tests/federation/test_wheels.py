"""The two wheels as a user meets them: built from this tree, installed in clean environments, and used there."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.requirements import Requirement

from tests.wheelhouse import CleanEnvironment, Wheelhouse, pack

pytestmark = pytest.mark.xdist_group("federation-wheels")

ROOT = Path(__file__).resolve().parents[2]
EXCHANGE_PARTS = ("broker", "catalogue", "policies", "node", "audit", "engine")
STOP_S_MAX = 30
# Imports every module of the packages named; says which failed and why.
IMPORT_ALL = """
import importlib, json, pkgutil, sys
failed = {}
for top in sys.argv[1].split(","):
    package = importlib.import_module(top)
    for found in pkgutil.walk_packages(package.__path__, top + ".", onerror=lambda name: None):
        if found.name.startswith(tuple(sys.argv[2].split(","))):
            continue
        try:
            importlib.import_module(found.name)
        except BaseException as error:
            failed[found.name] = repr(error)
print(json.dumps(failed))
"""


def build(out: Path) -> Path:
    done = subprocess.run(
        [sys.executable, "-P", "packaging/build.py", "--out", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def client_wheel(dist: Path) -> Path:
    (found,) = dist.glob("tidegate-*.whl")
    return found


@pytest.fixture(scope="module")
def exchange_wheel(dist: Path) -> Path:
    (found,) = dist.glob("tidegate_exchange-*.whl")
    return found


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, client_wheel: Path) -> Iterator[Wheelhouse]:
    folder = tmp_path_factory.mktemp("wheelhouse")
    with (ROOT / "pyproject.toml").open("rb") as file:
        pack(tomllib.load(file)["project"]["dependencies"], folder / "wheels")
    shutil.copy(client_wheel, folder / "wheels")
    yield Wheelhouse(folder / "wheels", folder / "cache")
    shutil.rmtree(folder)  # several hundred MB, of which pytest would keep three


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, house: Wheelhouse, client_wheel: Path) -> CleanEnvironment:
    return house.environment(tmp_path_factory.mktemp("client"), client_wheel)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, house: Wheelhouse, exchange_wheel: Path) -> CleanEnvironment:
    return house.environment(tmp_path_factory.mktemp("server"), exchange_wheel)


def members(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def tracked(*tops: str) -> set[str]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *tops]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
        return {name for name in listed if (ROOT / name).is_file()}
    return {
        str(path.relative_to(ROOT))
        for top in tops
        for path in (ROOT / top).rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }


# --- what is in them


def test_the_wheels_hold_every_file_of_their_packages_and_nothing_else(
    client_wheel: Path, exchange_wheel: Path
) -> None:
    assert members(client_wheel) == tracked("tidegate")
    found = members(exchange_wheel)
    assert found == tracked(*EXCHANGE_PARTS)
    for needed in ("catalogue/migrations/env.py", "policies/schemas/decision.schema.json"):
        assert needed in found
    assert any(name.startswith("policies/rego/") and name.endswith(".rego") for name in found)
    assert any(name.startswith("catalogue/migrations/versions/v0001") for name in found)
    assert "tidegate/py.typed" in members(client_wheel)


@pytest.mark.parametrize("which", ["tidegate-*.whl", "tidegate_exchange-*.whl"])
def test_a_wheel_carries_the_licence_and_a_readme(dist: Path, which: str) -> None:
    (wheel,) = dist.glob(which)
    with zipfile.ZipFile(wheel) as archive:
        (licence,) = [name for name in archive.namelist() if name.endswith(".dist-info/licenses/LICENSE")]
        (metadata,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        assert archive.read(licence) == (ROOT / "LICENSE").read_bytes()
        text = archive.read(metadata).decode()
    assert "License-Expression: Apache-2.0" in text
    assert "\n# tidegate" in text, "the README is the wheel's description"


def test_the_same_tree_gives_the_same_bytes(dist: Path, tmp_path: Path) -> None:
    again = build(tmp_path / "again")
    assert (again / "SHA256SUMS").read_text() == (dist / "SHA256SUMS").read_text()
    for line in (dist / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((dist / name).read_bytes()).hexdigest() == digest


# --- the bill of materials


@pytest.mark.parametrize("name", ["tidegate", "tidegate-exchange"])
def test_a_bill_of_materials_is_valid_and_names_what_is_asked_for(dist: Path, name: str) -> None:
    (path,) = dist.glob(f"{name}-[0-9]*.cdx.json")
    text = path.read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill = json.loads(text)
    with (ROOT / "packaging" / name / "pyproject.toml").open("rb") as file:
        asked = {Requirement(item).name for item in tomllib.load(file)["project"]["dependencies"]}
    components = {item["name"]: item for item in bill["components"]}
    assert asked <= components.keys()
    (subject,) = [edge for edge in bill["dependencies"] if edge["ref"] == bill["metadata"]["component"]["bom-ref"]]
    assert {ref.split("/")[1].split("@")[0] for ref in subject["dependsOn"]} >= asked
    assert all(item.get("licenses") for item in components.values()), "a licence is unknown"
    lock = (ROOT / "requirements.lock").read_text()
    for item in components.values():
        if item["name"] != "tidegate":
            assert f"{item['name']}=={item['version']}" in lock
            assert item["externalReferences"][0]["hashes"], item["name"]
    assert not components.keys() & {"pytest", "ruff", "mypy", "hypothesis", "uv", "cyclonedx-python-lib"}
    (wheel,) = dist.glob(f"{name.replace('-', '_')}-*.whl")
    assert bill["metadata"]["component"]["hashes"][0]["content"] == hashlib.sha256(wheel.read_bytes()).hexdigest()


def test_only_what_an_extra_brings_is_optional(dist: Path) -> None:
    (path,) = dist.glob("tidegate-exchange-*.cdx.json")
    scopes = {item["name"]: item.get("scope") for item in json.loads(path.read_text())["components"]}
    optional = {name for name, scope in scopes.items() if scope == "optional"}
    assert {"psycopg", "psycopg-binary", "adbc-driver-postgresql", "adbc-driver-manager"} <= optional
    assert not optional & {"typing-extensions", "sqlalchemy", "duckdb", "grpcio"}


def test_no_bill_is_written_for_an_environment_that_is_not_the_lock_files(dist: Path, tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text(re.sub(r"(?m)^grpcio==\S+", "grpcio==1.0.0", (ROOT / "requirements.lock").read_text()))
    for wheel in dist.glob("*.whl"):
        shutil.copy(wheel, tmp_path)
    command = [sys.executable, "-P", str(ROOT / "packaging" / "sbom.py"), "--epoch", "1600000000", "--lock", str(lock)]
    command += [str(path) for path in sorted(tmp_path.glob("*.whl"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "grpcio: the lock file says 1.0.0" in done.stderr


# --- the client's wheel in an analyst's environment


def test_the_client_brings_one_top_level_name_and_one_command(client: CleanEnvironment) -> None:
    (record,) = client.folder.glob("lib/python*/site-packages/tidegate-*.dist-info/RECORD")
    with record.open(newline="") as file:
        paths = [Path(row[0]) for row in csv.reader(file)]
    outside = {str(path) for path in paths if path.parts[0] == ".."}
    assert {Path(path).name for path in outside} == {"tidegate"}
    tops = {path.parts[0] for path in paths if path.parts[0] != ".."}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"tidegate"}


def test_the_client_imports_what_it_needs_and_no_more_than_that_is_installed(client: CleanEnvironment) -> None:
    # tidegate.sql runs in the exchange alone, which brings sqlglot; tidegate.otel only where the extra `otel` was asked for.
    done = client.run(client.python, "-c", IMPORT_ALL, "tidegate", "tidegate.sql,tidegate.otel")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {}
    absent = client.run(
        client.python,
        "-c",
        "from importlib.util import find_spec as f; print([f(n) for n in ('duckdb', 'sqlglot', 'broker', 'catalogue')])",
    )
    assert absent.stdout.strip() == str([None] * 4)


def test_the_command_helps_and_says_its_version(client: CleanEnvironment) -> None:
    done = client.run(client.tidegate, "--help")
    assert done.returncode == 0, done.stderr
    for verb in ("join", "query", "audit", "up"):
        assert verb in done.stdout
    version = client.run(client.python, "-m", "tidegate", "--version")
    assert (
        version.stdout.strip()
        == "tidegate "
        + client.run(
            client.python, "-c", "from importlib.metadata import version; print(version('tidegate'))"
        ).stdout.strip()
    )


@pytest.mark.parametrize(
    "words",
    [("up", "exchange"), ("init", "exchange", "--exchange", "city"), ("node", "serve", "node.toml"), ("up",)],
    ids=" ".join,
)
def test_a_verb_that_is_not_installed_says_what_to_install(client: CleanEnvironment, words: tuple[str, ...]) -> None:
    done = client.run(client.tidegate, *words)
    assert done.returncode == 2
    assert "pip install tidegate-exchange" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (client.home / "exchange").exists()


def test_the_client_without_a_context_says_how_to_join(client: CleanEnvironment) -> None:
    done = client.run(client.tidegate, "whoami")
    assert done.returncode not in (0, 1)
    assert "tidegate join" in done.stderr


def test_the_client_lives_beside_the_package_called_catalogue(
    client: CleanEnvironment, tmp_path: Path, house: Wheelhouse
) -> None:
    cache = Path(
        os.environ.get("UV_CACHE_DIR") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "uv"
    )
    index = Wheelhouse(house.folder, cache)
    words = ("pip", "install", "--python", str(client.python), "catalogue==2.0.10")
    done = index.try_uv(*words, "--offline")
    if done.returncode != 0:
        done = index.try_uv(*words)
    if done.returncode != 0:
        message = f"PyPI's package `catalogue` is neither cached nor can it be fetched: {done.stderr.strip()[-300:]}"
        if os.environ.get("TIDEGATE_REQUIRE_ALL") == "1":
            pytest.fail(message)
        pytest.skip(message)
    code = """
import catalogue, tidegate, tidegate.client.session, tidegate.cli.main
registry = catalogue.create("test", "things")
registry.register("one", func=len)
assert registry.get("one") is len
print(catalogue.__file__, tidegate.__version__)
"""
    used = client.run(client.python, "-c", code)
    assert used.returncode == 0, used.stderr
    assert "site-packages/catalogue/" in used.stdout


# --- the exchange's wheel on a server


def test_the_exchange_imports_without_any_extra(server: CleanEnvironment) -> None:
    tops = ",".join(("tidegate", *EXCHANGE_PARTS))
    # Alembic's environment and the children's mains run only as what they are.
    done = server.run(
        server.python,
        "-c",
        IMPORT_ALL,
        tops,
        "catalogue.migrations.env,tidegate.__main__,tidegate.otel,engine.worker,engine.planning_worker",
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {}
    absent = server.run(server.python, "-c", "import psycopg")
    assert "ModuleNotFoundError" in absent.stderr, "the extra `postgres` is not asked for here"


def test_a_missing_postgres_driver_is_said_in_words(server: CleanEnvironment, tmp_path: Path) -> None:
    code = """
from tidegate.core.errors import TidegateError
from catalogue.database import open_database
from node.postgres import PostgresSource
for call in (
    lambda: open_database("postgresql://nobody@127.0.0.1:1/none"),
    lambda: PostgresSource("postgresql://nobody@127.0.0.1:1/none", statement_timeout_s=1),
):
    try:
        call()
    except TidegateError as error:
        print(error.code.value, error.message)
"""
    done = server.run(server.python, "-c", code)
    assert done.stdout.count("pip install 'tidegate-exchange[postgres]'") == 2, done.stderr


@contextlib.contextmanager
def running(server: CleanEnvironment, ready: str, *words: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Run a serving verb until the block ends; enter it once the process has said ``ready``. It must drain and end with 0."""
    log = server.home / f"{'-'.join(str(word) for word in words[:2])}.log".replace("/", "_")
    process = subprocess.Popen(
        [str(server.tidegate), *map(str, words)],
        cwd=server.home,
        env=server.variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said: list[str] = []
    try:
        for line in process.stderr:
            said.append(line)
            if ready in line:
                break
        else:
            pytest.fail(f"{words[0]} ended with {process.wait()}:\n{''.join(said)}")
        with log.open("wb") as sink:  # nobody reads on; a full pipe would stop the server
            pump = subprocess.Popen(["cat"], stdin=process.stderr, stdout=sink)
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_S_MAX) == 0, log.read_text()
        pump.wait(STOP_S_MAX)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stderr.close()


def ok(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert done.returncode == 0, f"{done.args}\n{done.stdout}{done.stderr}"
    return done


def test_an_exchange_runs_from_the_wheel_alone(server: CleanEnvironment, client: CleanEnvironment) -> None:
    tidegate = server.tidegate
    folder = server.home / "exchange"
    made = ok(
        server.run(
            tidegate,
            "init",
            folder,
            "--exchange",
            "wheels.test",
            "--host",
            "127.0.0.1",
            "--listen",
            "127.0.0.1",
            "--port",
            "0",
        )
    )
    with running(server, "broker up", "up", folder):
        ok(server.run(tidegate, "join", made.stdout.strip()))
        (seen,) = json.loads(ok(server.run(tidegate, "whoami", "-o", "json")).stdout)
        assert seen["identity"].startswith("spiffe://wheels.test/member/operator/")
        assert "operator" in seen["roles"]
        ok(
            server.run(
                tidegate,
                "purposes",
                "add",
                "research.statistics",
                "--title",
                "Research",
                "--legal-basis",
                "statistics.act.5",
            )
        )

        def add(member: str, name: str, *options: str) -> str:
            return ok(server.run(tidegate, "member", "add", member, "--name", name, *options)).stdout.strip()

        steward = add("aviation", "steward", "--kind", "person", "--role", "steward")
        ok(server.run(tidegate, "join", steward, "--identity", server.home / "steward"))
        ok(
            server.run(
                tidegate, "join", add("aviation", "node1", "--kind", "node"), "--identity", server.home / "node1"
            )
        )
        # The analyst uses the other wheel, in an environment of its own.
        analyst = add("city", "planning", "--role", "analyst")
        ok(client.run(client.tidegate, "join", analyst))

        (server.home / "airlines.csv").write_text("code,name\nA1,One\nA2,Two\nA3,Three\n")
        (server.home / "node.toml").write_text(
            '[node]\nidentity = "node1"\nstate = "state"\n'
            '[[dataset]]\nname = "airlines"\ntitle = "Airlines"\nsource = "csv"\npath = "airlines.csv"\nclass = "open"\n'
        )
        with running(server, '"attached"', "node", "serve", server.home / "node.toml"):
            ok(server.run(tidegate, "dataset", "register", "--identity", server.home / "steward"))
            question = "SELECT count(*) AS n FROM aviation.airlines WHERE code > 'A1'"
            answer = ok(
                client.run(client.tidegate, "query", question, "-p", "research.statistics", "--verify", "-o", "json")
            )
            assert json.loads(answer.stdout) == [{"n": 2}]
            refused = client.run(
                client.tidegate, "query", "SELECT * FROM read_csv('airlines.csv')", "-p", "research.statistics"
            )
            assert refused.returncode not in (0, 1)
            assert "Traceback" not in refused.stderr

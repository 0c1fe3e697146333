"""The data of TPC-H: generated once by ``tpchgen-cli``, kept in the user's cache, laid into one DuckDB file per department.

``tpchgen-cli`` (a wheel from PyPI) gets a virtual environment of its own in the cache; it is no dependency of the project.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb

TPCHGEN = "tpchgen-cli==4.0.0"
TABLES = ("customer", "lineitem", "nation", "orders", "part", "partsupp", "region", "supplier")
DEPARTMENT_OF = {
    "orders": "sales",
    "customer": "sales",
    "lineitem": "shipping",
    "part": "supply",
    "partsupp": "supply",
    "supplier": "supply",
    "nation": "geo",
    "region": "geo",
}
SPLIT_BY = {"orders": "o_orderkey", "lineitem": "l_orderkey"}  # what the five-part layout spreads, and by which key
PARTS = 5
LAYOUTS = ("four", "parts5", "postgres")
_SALT = 7919  # a prime; the part of a key must not follow the remainders that TPC-H leaves out of its sparse order keys


class DataError(Exception):
    """The data could not be had; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Held:
    """One table at one department: ``table`` of TPC-H in the DuckDB file ``file``, where it is called ``table`` too."""

    member: str
    table: str
    file: Path


def cache_folder() -> Path:
    """Give the folder that keeps environments and data: ``$XDG_CACHE_HOME/tidegate``, usually ``~/.cache/tidegate``."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "tidegate"


@contextmanager
def _alone(name: str) -> Iterator[None]:
    """Let one process at a time make a thing of the cache; the others wait, and find it made."""
    folder = cache_folder() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def environment(name: str, wheels: Iterable[str]) -> Path:
    """Give the ``bin`` folder of a virtual environment in the cache that holds these wheels; made at the first call.

    Raises:
        DataError: PyPI does not give them.
    """
    with _alone(name):
        return _environment(cache_folder() / "environments" / name, sorted(wheels))


def _environment(folder: Path, wanted: list[str]) -> Path:
    stamp = folder / "installed"
    if stamp.is_file() and stamp.read_text().split() == wanted:
        return folder / "bin"
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for command in ([sys.executable, "-m", "venv", str(folder)], [*pip, "--only-binary", ":all:", *wanted]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            shutil.rmtree(folder, ignore_errors=True)
            raise DataError(f"{', '.join(wanted)} cannot be installed from PyPI:\n{done.stderr.strip()}")
    stamp.write_text("\n".join(wanted))
    return folder / "bin"


def parquet(scale: float) -> Mapping[str, Path]:
    """Give the eight tables as Parquet files, generated at the first call.

    Raises:
        DataError: the generator cannot be had, or fails.
    """
    folder = cache_folder() / "tpch" / f"scale-{scale:g}"
    files = {table: folder / f"{table}.parquet" for table in TABLES}
    with _alone(f"scale-{scale:g}"):
        if not all(path.is_file() for path in files.values()):
            _generate(scale, folder, files)
    return files


def _generate(scale: float, folder: Path, files: Mapping[str, Path]) -> None:
    binary = environment("tpchgen", [TPCHGEN]) / "tpchgen-cli"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as fresh:
        command = [str(binary), "parquet", "--quiet", "-s", f"{scale:g}", "-o", fresh]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise DataError(f"tpchgen-cli failed:\n{done.stderr.strip()}")
        folder.mkdir(exist_ok=True)
        for table, path in files.items():  # each by a rename: a crash leaves whole files or none
            (Path(fresh) / f"{table}.parquet").replace(path)


@dataclass(frozen=True, slots=True)
class Layout:
    """Which department holds what.

    Args:
        held: every table of every department.
        datasets: the eight names that queries use, each with the tables that it is made of: one, or the parts of a
            collection.
    """

    name: str
    held: tuple[Held, ...]
    datasets: Mapping[str, tuple[Held, ...]]

    @property
    def members(self) -> tuple[str, ...]:
        """The departments, sorted."""
        return tuple(sorted({item.member for item in self.held}))

    @property
    def collections(self) -> Mapping[str, tuple[Held, ...]]:
        """Those datasets that are collections of parts at several departments."""
        return {name: parts for name, parts in self.datasets.items() if len(parts) > 1}


def layout(name: str, scale: float) -> Layout:
    """Lay the tables into DuckDB files, made once per scale and layout.

    Args:
        name: one of ``LAYOUTS``; ``postgres`` is laid as ``four`` is.

    Raises:
        DataError: the generator cannot be had, or fails.
    """
    held = five_parts(scale) if name == "parts5" else four_departments(scale)
    datasets: dict[str, tuple[Held, ...]] = {}
    for item in held:
        dataset = f"{DEPARTMENT_OF[item.table]}.{item.table}"
        datasets[dataset] = (*datasets.get(dataset, ()), item)
    return Layout(name, held, datasets)


def part_of(key: str) -> str:
    """Give the SQL that says at which of the five departments (0 to 4) an order lies."""
    return f"({key} * {_SALT} // 32) % {PARTS}"


def four_departments(scale: float) -> tuple[Held, ...]:
    """Lay the tables into four DuckDB files: sales, shipping, supply, geo."""
    folder = cache_folder() / "tpch" / f"scale-{scale:g}" / "four"
    held = tuple(Held(DEPARTMENT_OF[table], table, folder / f"{DEPARTMENT_OF[table]}.duckdb") for table in TABLES)
    _lay(held, {(item.member, item.table): f"SELECT * FROM '{path}'" for item, path in _with_paths(held, scale)})
    return held


def five_parts(scale: float) -> tuple[Held, ...]:
    """Lay lineitem and orders in five parts at five departments (by a hash of the order's key), the rest as in four."""
    folder = cache_folder() / "tpch" / f"scale-{scale:g}" / "five"
    whole = [table for table in TABLES if table not in SPLIT_BY]
    held = [Held(DEPARTMENT_OF[table], table, folder / f"{DEPARTMENT_OF[table]}.duckdb") for table in whole]
    for part in range(PARTS):
        held += [Held(f"depot{part + 1}", table, folder / f"depot{part + 1}.duckdb") for table in SPLIT_BY]
    rows = {}
    for item, path in _with_paths(tuple(held), scale):
        key = SPLIT_BY.get(item.table)
        wanted = f" WHERE {part_of(key)} = {int(item.member[-1]) - 1}" if key else ""
        rows[item.member, item.table] = f"SELECT * FROM '{path}'{wanted}"
    _lay(tuple(held), rows)
    return tuple(held)


def _with_paths(held: tuple[Held, ...], scale: float) -> list[tuple[Held, Path]]:
    files = parquet(scale)
    return [(item, files[item.table]) for item in held]


def _lay(held: tuple[Held, ...], rows: Mapping[tuple[str, str], str]) -> None:
    """Make the DuckDB files that are not there yet."""
    for file in sorted({item.file for item in held}):
        if file.is_file():
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh = file.with_suffix(f".{os.getpid()}")
        fresh.unlink(missing_ok=True)
        with duckdb.connect(str(fresh)) as engine:
            for item in held:
                if item.file == file:
                    engine.execute(f"CREATE TABLE {item.table} AS {rows[item.member, item.table]}")
        fresh.replace(file)

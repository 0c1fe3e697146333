"""Where the JDBC driver is that people use: in our cache folder, or brought there with Maven. Never inside the tree.

``org.apache.arrow:flight-sql-jdbc-driver``, one jar with everything inside; its digest is held to the one below.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

from tests.opa_binary import cache_folder

VERSION = "18.3.0"
ARTIFACT = f"org.apache.arrow:flight-sql-jdbc-driver:{VERSION}"
JAR = f"flight-sql-jdbc-driver-{VERSION}.jar"
SHA256 = "3f418b46c880e263558c5de669bdbede2c5d4375527ced116fb29f795b03704c"
FETCH_S_MAX = 300


@dataclass(frozen=True)
class Java:
    """A JDK's launcher, which compiles a single file as it runs it, and the driver."""

    launcher: Path
    jar: Path


def require_java() -> Java:
    """Give both; without them skip with the reason, or fail where everything is required."""
    launcher, compiler = shutil.which("java"), shutil.which("javac")
    if launcher is None or compiler is None:
        _missing("no JDK (java and javac) on PATH: the JDBC driver is not tried")
    jar = _jar()
    if isinstance(jar, str):
        _missing(jar)
    return Java(Path(launcher), jar)


def _missing(message: str) -> NoReturn:
    if os.environ.get("TIDEGATE_REQUIRE_ALL") == "1":
        pytest.fail(message)
    pytest.skip(message)


def _jar() -> Path | str:
    """Give the driver, or say why there is none."""
    cached = cache_folder().parent / "java" / JAR
    if cached.exists() and _is_right(cached):
        return cached
    maven = shutil.which("mvn")
    if maven is None:
        return f"{JAR} is not in the cache and there is no Maven (mvn) on PATH to bring it"
    beside = cached.parent / f"fetch-{os.getpid()}"
    beside.mkdir(parents=True, exist_ok=True)
    try:
        command = [maven, "-q", "-B", "dependency:copy", f"-Dartifact={ARTIFACT}", f"-DoutputDirectory={beside}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_S_MAX, check=False, cwd=beside)
        if done.returncode:
            return f"Maven could not bring {ARTIFACT}: {done.stdout[-500:]}"
        if not _is_right(beside / JAR):
            return f"{JAR}: not the bytes that are expected"
        (beside / JAR).rename(cached)  # two test processes may fetch at once; either result is the same
    finally:
        shutil.rmtree(beside)
    return cached


def _is_right(file: Path) -> bool:
    return hashlib.sha256(file.read_bytes()).hexdigest() == SHA256

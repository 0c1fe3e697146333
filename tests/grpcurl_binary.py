"""Where grpcurl is: on PATH, in our cache folder, or built there with Go. Never inside the tree."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.opa_binary import BUILD_S_MAX, cache_folder

VERSION = "v1.9.4"


def grpcurl_binary() -> Path | None:
    """Give a binary that runs, or None when there is none and none can be built."""
    cached = cache_folder() / "grpcurl"
    for candidate in (shutil.which("grpcurl"), cached):
        if candidate is not None and _runs(Path(candidate)):
            return Path(candidate)
    if shutil.which("go") is None:
        return None
    cached.parent.mkdir(parents=True, exist_ok=True)
    command = ["go", "install", f"github.com/fullstorydev/grpcurl/cmd/grpcurl@{VERSION}"]
    environment = {**os.environ, "GOBIN": str(cached.parent)}
    built = subprocess.run(command, env=environment, capture_output=True, timeout=BUILD_S_MAX, check=False)
    return cached if built.returncode == 0 and _runs(cached) else None


def require_grpcurl() -> Path:
    """Give the binary; without one skip, or fail where everything is required."""
    binary = grpcurl_binary()
    if binary is None:
        message = "no grpcurl on PATH or in the cache, and it could not be built with Go"
        if os.environ.get("TIDEGATE_REQUIRE_ALL") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return binary


def _runs(binary: Path) -> bool:
    try:
        done = subprocess.run([str(binary), "-version"], capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0

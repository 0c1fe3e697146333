"""Where the OPA binary is: on PATH, in our cache folder, or built there with Go. Never inside the tree."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

VERSION = "v1.20.2"
VERSION_MIN = (1, 20, 1)
BUILD_S_MAX = 900


def opa_binary() -> Path | None:
    """Give a binary of at least 1.20.1, or None when there is none and none can be built."""
    cached = cache_folder() / "opa"
    for candidate in (shutil.which("opa"), cached):
        if candidate is not None and _good_version(Path(candidate)):
            return Path(candidate)
    if shutil.which("go") is None:
        return None
    cached.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "GOBIN": str(cached.parent)}
    command = ["go", "install", f"github.com/open-policy-agent/opa@{VERSION}"]
    built = subprocess.run(command, env=environment, capture_output=True, timeout=BUILD_S_MAX, check=False)
    return cached if built.returncode == 0 and _good_version(cached) else None


def cache_folder() -> Path:
    """Give the folder for tools that are built once."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "tidegate" / "bin"


def require_opa() -> Path:
    """Give the binary; without one skip, or fail where everything is required."""
    binary = opa_binary()
    if binary is None:
        message = (
            f"no OPA >= {'.'.join(map(str, VERSION_MIN))} on PATH or in the cache, and it could not be built with Go"
        )
        if os.environ.get("TIDEGATE_REQUIRE_ALL") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return binary


@contextmanager
def opa_server(binary: Path, *arguments: str) -> Iterator[str]:
    """Run a real OPA server on a free loopback port; give its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"127.0.0.1:{port}"
    command = [
        str(binary),
        "run",
        "--server",
        "--addr",
        address,
        "--log-level",
        "error",
        "--disable-telemetry",
        *arguments,
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(f"http://{address}/health", process)
        yield f"http://{address}"
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + 30
    while True:
        try:
            opener.open(url, timeout=1).close()
            return
        except (urllib.error.URLError, OSError):
            if process.poll() is not None or time.monotonic() > end:
                raise
            time.sleep(0.02)  # polling a foreign process that offers no event to wait for


def _good_version(binary: Path) -> bool:
    try:
        text = subprocess.run([str(binary), "version"], capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return False
    found = re.search(r"^Version: (\d+)\.(\d+)\.(\d+)", text, re.MULTILINE)
    return found is not None and tuple(int(part) for part in found.groups()) >= VERSION_MIN

"""Build the independent verifier (tests/go/verify) once, into a cache folder outside the tree."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

_SOURCE = Path(__file__).parent / "verify"


def go_verifier() -> Path | None:
    """Give the built verifier; None where there is no Go toolchain.

    With TIDEGATE_REQUIRE_ALL=1 a missing toolchain, or modules that cannot be fetched, is a failure.
    """
    sources = sorted(path for path in _SOURCE.iterdir() if path.is_file())
    digest = hashlib.sha256(b"\0".join(path.name.encode() + path.read_bytes() for path in sources)).hexdigest()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tidegate" / "bin"
    target = cache / f"verify-{digest[:16]}"
    if target.exists():
        return target
    required = os.environ.get("TIDEGATE_REQUIRE_ALL") == "1"
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin:/usr/lib/go/bin")
    if go is None:
        if required:
            raise RuntimeError("TIDEGATE_REQUIRE_ALL is set and there is no Go toolchain")
        return None
    cache.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f"{target.name}.{os.getpid()}")
    built = subprocess.run(
        [go, "build", "-mod=readonly", "-o", str(beside), "."], cwd=_SOURCE, capture_output=True, text=True, check=False
    )
    if built.returncode:
        if required:
            raise RuntimeError(f"the Go verifier does not build: {built.stderr}")
        return None
    beside.rename(target)  # two test processes may build at once; either result is the same
    return target

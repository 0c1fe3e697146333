"""Build the two wheels, a bill of materials for each, and their checksums. ``scripts/build`` runs this.

Nothing is downloaded: the build backend is the one in the environment. The same commit gives the same bytes: times come from
``SOURCE_DATE_EPOCH``, else from the last commit.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("tidegate", "tidegate-exchange")
EPOCH_UNKNOWN_S = 1_580_601_600  # 2020-02-02, hatchling's own; a zip file cannot hold a time before 1980


class BuildError(Exception):
    """The build cannot go on; the message says why."""


def epoch_s(environment: dict[str, str]) -> int:
    """Give the time that every file of the build carries, in seconds since 1970."""
    given = environment.get("SOURCE_DATE_EPOCH", "")
    if given:
        if not given.isdigit():
            raise BuildError(f"SOURCE_DATE_EPOCH: expected seconds since 1970, got {given!r}")
        return int(given)
    command = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return EPOCH_UNKNOWN_S  # an exported tree has no history
    return int(done.stdout)


def build(out: Path, environment: dict[str, str]) -> list[Path]:
    """Build everything into ``out`` and give the files, in the order of SHA256SUMS."""
    moment_s = epoch_s(environment)
    out.mkdir(parents=True, exist_ok=True)
    for old in [*out.glob("tidegate*.whl"), *out.glob("tidegate*.cdx.json"), *out.glob("SHA256SUMS")]:
        old.unlink()
    for part in PARTS:
        command = [sys.executable, "-P", "-m", "hatchling", "build", "-t", "wheel", "-d", str(out.resolve())]
        done = subprocess.run(  # noqa: S603
            command,
            cwd=ROOT / "packaging" / part,
            env={**environment, "SOURCE_DATE_EPOCH": str(moment_s)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise BuildError(f"{part}: the wheel was not built\n{done.stdout}{done.stderr}")
    wheels = sorted(out.glob("tidegate*.whl"))
    # After both wheels: the exchange's bill names the client's wheel.
    _bills(wheels, moment_s)
    files = sorted([*wheels, *out.glob("tidegate*.cdx.json")])
    sums = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files)
    (out / "SHA256SUMS").write_text(sums, encoding="utf-8")
    return [*files, out / "SHA256SUMS"]


def _bills(wheels: list[Path], moment_s: int) -> None:
    command = [sys.executable, "-P", str(ROOT / "packaging" / "sbom.py"), "--epoch", str(moment_s)]
    command += ["--lock", str(ROOT / "requirements.lock"), *map(str, wheels)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        raise BuildError(f"the bill of materials was not written\n{done.stdout}{done.stderr}")


def main() -> int:
    """Build and say what was built."""
    parser = argparse.ArgumentParser(description="Build the wheels, their bills of materials and checksums.")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder for the result (default: dist)")
    try:
        files = build(parser.parse_args().out, dict(os.environ))
    except BuildError as error:
        sys.stderr.write(f"build: {error}\n")
        return 1
    for path in files:
        sys.stdout.write(f"{path.stat().st_size:>10,}  {path.name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The project's files: what git tracks and what it would; without git, everything that is not made by a tool."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_MADE = {".git", ".venv", "build", "dist", "__pycache__", ".cache", ".hypothesis"}


@cache
def paths() -> tuple[str, ...]:
    """Give the paths of the project's files, relative to its root."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        listed = done.stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        found = (path.relative_to(ROOT) for path in ROOT.rglob("*"))
        listed = [
            str(path) for path in found if not any(part in _MADE or part.endswith("_cache") for part in path.parts)
        ]
    return tuple(sorted({name for name in listed if name and (ROOT / name).is_file()}))


def text_of(path: str) -> str:
    """Give a file's text; what is no text gives characters that no rule looks for."""
    return (ROOT / path).read_bytes().decode("utf-8", errors="replace")


def is_text(path: str) -> bool:
    """Say whether a file is a text."""
    with (ROOT / path).open("rb") as file:
        return b"\0" not in file.read(8192)

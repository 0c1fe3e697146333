"""What is installed here, packed as wheels again: a clean environment is then installed without the network.

The resolver reads the real metadata, so a dependency that one of our wheels forgets to declare is missing there, as it would be
for a user; and a version that its bounds forbid is refused. Only what the project needs at run time is packed.
"""

from __future__ import annotations

import csv
import io
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

INSTALL_S_MAX = 240
_NOT_PACKED = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}


def pack(requirements: Sequence[str], folder: Path) -> None:
    """Pack the distributions that these requirements lead to, as wheels, into ``folder``."""
    folder.mkdir(parents=True)
    pending = [Requirement(text) for text in requirements]
    seen: set[tuple[str, frozenset[str]]] = set()
    packed: set[str] = set()
    while pending:
        requirement = pending.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        found = metadata.distribution(requirement.name)
        if key[0] not in packed:
            packed.add(key[0])
            _pack(found, folder)
        for text in found.requires or ():
            item = Requirement(text)
            if item.marker is None or any(item.marker.evaluate({"extra": extra}) for extra in ("", *key[1])):
                pending.append(item)


def _pack(found: metadata.Distribution, folder: Path) -> None:
    name = re.sub(r"[-_.]+", "_", str(found.metadata["Name"]))
    stem = f"{name}-{found.version}"
    record = io.StringIO()
    rows = csv.writer(record, lineterminator="\n")
    path = folder / f"{stem}-{_tag(found)}.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        info = ""
        for source, target, digest, size in _members(found, stem):
            archive.write(source, target)
            rows.writerow((target, digest, size))
            if target.endswith(".dist-info/METADATA"):
                info = target.rsplit("/", 1)[0]
        rows.writerow((f"{info}/RECORD", "", ""))
        archive.writestr(f"{info}/RECORD", record.getvalue())


def _members(found: metadata.Distribution, stem: str) -> Iterator[tuple[Path, str, str, int]]:
    """Give (file, path in the wheel, digest, size) of all that a wheel of this distribution holds."""
    scripts = {entry.name for entry in found.entry_points if entry.group == "console_scripts"}
    for item in found.files or ():
        source = Path(str(found.locate_file(item)))
        if item.suffix == ".pyc" or (item.parent.name.endswith(".dist-info") and item.name in _NOT_PACKED):
            continue
        target = str(item)
        if item.parts[0] == "..":  # outside site-packages: a script; those of entry points are made anew
            if PurePosixPath(item).stem in scripts:
                continue
            target = f"{stem}.data/scripts/{item.name}"
        digest = f"{item.hash.mode}={item.hash.value}" if item.hash else ""
        yield source, target, digest, source.stat().st_size


def _tag(found: metadata.Distribution) -> str:
    lines = (found.read_text("WHEEL") or "").splitlines()
    tags = [line.removeprefix("Tag:").strip().split("-") for line in lines if line.startswith("Tag:")]
    return "-".join(".".join(sorted({tag[part] for tag in tags})) for part in range(3))


@dataclass(frozen=True, slots=True)
class CleanEnvironment:
    """A new virtual environment, used as a user would: nothing of the checkout is on its path."""

    folder: Path
    home: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def tidegate(self) -> Path:
        """Its ``tidegate`` command."""
        return self.folder / "bin" / "tidegate"

    @property
    def variables(self) -> dict[str, str]:
        """The variables of its processes: a home of its own, and nothing that names the checkout."""
        kept = {
            key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "TIDEGATE", "VIRTUAL"))
        }
        return {
            **kept,
            "HOME": str(self.home),
            "TIDEGATE_HOME": str(self.home / "tidegate"),
            "PATH": f"{self.folder / 'bin'}:{os.defpath}",
            "GRPC_VERBOSITY": "NONE",
            "NO_COLOR": "1",
        }

    def run(self, *command: str | Path, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment, in its home."""
        words = [str(word) for word in command]
        return subprocess.run(
            words, cwd=self.home, env=self.variables, capture_output=True, text=True, timeout=timeout_s, check=False
        )


@dataclass(frozen=True, slots=True)
class Wheelhouse:
    """Wheels in a folder, and a cache for their unpacked files."""

    folder: Path
    cache: Path

    def environment(self, folder: Path, *requirements: str | Path) -> CleanEnvironment:
        """Make an environment in ``folder`` and install these from the wheels, without the network."""
        home = folder / "home"
        home.mkdir(parents=True)
        made = CleanEnvironment(folder / "env", home)
        self.uv("venv", "--python", sys.executable, str(made.folder))
        self.uv("pip", "install", "--python", str(made.python), "--no-index", "--offline", *map(str, requirements))
        return made

    def uv(self, *words: str) -> str:
        """Run uv over this wheelhouse; give what it says."""
        done = self.try_uv(*words)
        assert done.returncode == 0, f"uv {' '.join(words)}\n{done.stderr}"
        return done.stderr

    def try_uv(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run uv over this wheelhouse, whatever becomes of it."""
        variables = {
            key: value for key, value in os.environ.items() if not key.startswith(("UV_", "VIRTUAL", "PYTHON"))
        }
        settings = {"UV_FIND_LINKS": str(self.folder), "UV_CACHE_DIR": str(self.cache), "UV_NO_CONFIG": "1"}
        return subprocess.run(
            [sys.executable, "-m", "uv", "--quiet", *words],
            env={**variables, **settings, "UV_PYTHON_DOWNLOADS": "never"},
            capture_output=True,
            text=True,
            timeout=INSTALL_S_MAX,
            check=False,
        )

"""The bundle: the exchange's rules, the overlays beside them and the small vocabularies, under one revision.

Shipped rules lie in ``policies/rego`` (folder = package, tests beside). An overlay is one ``.rego`` file, or a folder of
them, of the package ``tidegate.overlay.<name>``; it returns data that the exchange's rules intersect, so it can only
tighten. The revision is the SHA-256 of everything that the engines read: two processes with the same revision decide
the same question alike.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tidegate.core.canonical import canonical, parse_json, sha256_hex
from tidegate.core.errors import Code, TidegateError, error_for

RULES = Path(__file__).parent / "rego"
ENTRYPOINT = "tidegate/exchange/answer"
OVERLAY_BYTES_MAX = 1 << 20  # a department's rules are written by people
OVERLAY_FILES_MAX = 100

_OVERLAY_PACKAGE = re.compile(r"package\s+tidegate\.overlay\.([a-z][a-z0-9_]{0,62})\s*$", re.MULTILINE)
_PACKAGE = re.compile(r"^\s*package\b.*$", re.MULTILINE)
_COMMENT = re.compile(r"#[^\n]*")
# What would let a rule reach the world or answer differently the next time: then a decision could not be replayed.
_IMPURE = re.compile(
    r"\b(http|net|opa|rand|uuid|io|crypto\.x509|trace|print|time\.now_ns)\s*[.(\[]|\btime\s*\.\s*now_ns"
)


@dataclass(frozen=True, slots=True)
class Bundle:
    """What an engine is given.

    Args:
        revision: ``sha256:<hex>`` over modules and vocabulary.
        modules: Rego source by a path-like id (``tidegate/exchange/answer.rego``); tests are not among them.
        data: the documents below ``data``.
        overlays: names of the overlays, sorted.
    """

    revision: str
    modules: Mapping[str, str]
    data: Mapping[str, Any]
    overlays: tuple[str, ...]


def load(overlays: Sequence[Path] = (), *, vocabulary: Mapping[str, Any] | None = None) -> Bundle:
    """Read the shipped rules and the overlays.

    Args:
        overlays: files, or folders of ``.rego`` files (``*_test.rego`` are left out).
        vocabulary: replaces single entries of the shipped vocabulary, such as ``purposes`` or ``limits``.

    Raises:
        CallerError: CONFIG_INVALID for an overlay that cannot be read, is of another package or is not pure.
    """
    modules = {path.relative_to(RULES).as_posix(): path.read_text("utf-8") for path in _sources(RULES)}
    names = set()
    for place in overlays:
        for path in _overlay_files(place):
            name, text = _overlay(path)
            module = f"tidegate/overlay/{name}/{path.name}"
            if module in modules:
                raise _invalid(path, "a file of this name and package is there twice")
            modules[module] = text
            names.add(name)
    words = {**_shipped_vocabulary(), **(vocabulary or {})}
    order = tuple(sorted(names))
    revision = "sha256:" + sha256_hex(canonical({"modules": modules, "vocabulary": words, "overlays": list(order)}))
    data = {"tidegate": {"vocabulary": words, "bundle": {"revision": revision, "overlays": list(order)}}}
    return Bundle(revision, MappingProxyType(dict(sorted(modules.items()))), MappingProxyType(data), order)


def _sources(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*.rego")) if not path.name.endswith("_test.rego"))


def _shipped_vocabulary() -> dict[str, Any]:
    result: dict[str, Any] = json.loads((RULES / "tidegate" / "vocabulary" / "data.json").read_text("utf-8"))
    return result


def _overlay_files(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    files = list(_sources(place)) if place.is_dir() else []
    if not files or len(files) > OVERLAY_FILES_MAX:
        raise _invalid(place, f"expected a .rego file, or a folder with 1 to {OVERLAY_FILES_MAX} of them")
    return files


def _overlay(path: Path) -> tuple[str, str]:
    """Give the overlay's name and text; anything that could do more than tighten is refused."""
    try:
        data = path.read_bytes()
        text = data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _invalid(path, "cannot be read as UTF-8 text") from error
    if len(data) > OVERLAY_BYTES_MAX:
        raise _invalid(path, f"larger than {OVERLAY_BYTES_MAX} bytes")
    code = _COMMENT.sub("", text)
    packages = _PACKAGE.findall(code)
    named = _OVERLAY_PACKAGE.search(code)
    if len(packages) != 1 or named is None:
        raise _invalid(path, "expected the one line `package tidegate.overlay.<name>`")
    if _IMPURE.search(code):
        raise _invalid(path, "uses a function that reaches outside or answers differently each time")
    return named.group(1), text


def _invalid(path: Path, what: str) -> TidegateError:
    return error_for(Code.CONFIG_INVALID, f"policy overlay {path.name}: {what}", detail=str(path))


def read_schema(name: str) -> dict[str, Any]:
    """Read one of the JSON schemas that ship with the rules (``question`` or ``decision``)."""
    path = Path(__file__).parent / "schemas" / f"{name}.schema.json"
    schema = parse_json(path.read_bytes(), size_bytes_max=1 << 20)
    assert isinstance(schema, dict)
    return schema

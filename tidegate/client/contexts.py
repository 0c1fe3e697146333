"""Contexts: the exchanges that this user has joined, as kubectl has clusters.

One folder per context below the user's configuration folder (``TIDEGATE_HOME`` wins); each holds an identity folder. The
file ``config.toml`` names the current context and each one's default purpose. Order: argument, environment
(``TIDEGATE_CONTEXT``, ``TIDEGATE_PURPOSE``), the context, none.
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import platformdirs
import tomli_w

from tidegate.core.errors import Code, error_for

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_FIELDS = ("identity", "purpose", "legal_basis")


@dataclass(frozen=True, slots=True)
class Context:
    """One exchange under one identity."""

    name: str
    identity: Path
    purpose: str = ""
    legal_basis: str = ""


def with_environment(context: Context) -> Context:
    """Let the environment's default purpose win over the context's."""
    return replace(
        context,
        purpose=os.environ.get("TIDEGATE_PURPOSE", context.purpose),
        legal_basis=os.environ.get("TIDEGATE_LEGAL_BASIS", context.legal_basis),
    )


class Contexts:
    """Reads and writes the user's contexts."""

    def __init__(self, home: Path | None = None) -> None:
        configured = os.environ.get("TIDEGATE_HOME")
        self.home = home or (Path(configured) if configured else Path(platformdirs.user_config_dir("tidegate")))

    @property
    def _file(self) -> Path:
        return self.home / "config.toml"

    def _load(self) -> dict[str, Any]:
        try:
            return tomllib.loads(self._file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise error_for(Code.CONFIG_INVALID, "contexts: config.toml cannot be read", detail=repr(error)) from error

    def _save(self, document: dict[str, Any]) -> None:
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = self._file.with_suffix(".new")
        temporary.write_text(tomli_w.dumps(document), encoding="utf-8")
        temporary.replace(self._file)  # a crash before this line leaves the old file whole

    def _known(self, document: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Give the contexts of the file, which a person may have edited."""
        known = document.setdefault("contexts", {})
        if not isinstance(known, dict) or not all(
            isinstance(item, dict)
            and all(isinstance(item.get(key, ""), str) for key in _FIELDS)
            and item.get("identity")
            for item in known.values()
        ):
            raise error_for(Code.CONFIG_INVALID, "contexts: config.toml is not of the expected form; mend or remove it")
        return known

    def names(self) -> list[str]:
        """Give the names, sorted."""
        return sorted(self._known(self._load()))

    @property
    def current(self) -> str:
        """Name of the current context, or empty."""
        return str(os.environ.get("TIDEGATE_CONTEXT") or self._load().get("current", ""))

    def folder(self, name: str) -> Path:
        """Give the identity folder that a new context of this name would have."""
        if not _NAME.match(name):
            raise error_for(Code.CLIENT_INPUT, "context name: expected letters, digits, dot, dash, underscore")
        return self.home / "contexts" / name

    def add(self, name: str, identity: Path, *, make_current: bool) -> None:
        """Add or replace a context."""
        document = self._load()
        self.folder(name)
        self._known(document).setdefault(name, {})["identity"] = str(identity)
        if make_current or not document.get("current"):
            document["current"] = name
        self._save(document)

    def use(self, name: str) -> None:
        """Make a context the current one."""
        document = self._load()
        if name not in self._known(document):
            raise self._unknown(name)
        document["current"] = name
        self._save(document)

    def set_purpose(self, name: str, purpose: str, legal_basis: str) -> None:
        """Set the default purpose of a context."""
        document = self._load()
        if name not in self._known(document):
            raise self._unknown(name)
        document["contexts"][name].update({"purpose": purpose, "legal_basis": legal_basis})
        self._save(document)

    def find(self, name: str | None = None) -> Context:
        """Find a context by name, or the current one.

        Raises:
            CallerError: CLIENT_NO_CONTEXT.
        """
        wanted = name or self.current
        if not wanted:
            raise error_for(Code.CLIENT_NO_CONTEXT)
        data = self._known(self._load()).get(wanted)
        if data is None:
            raise self._unknown(wanted)
        return with_environment(
            Context(wanted, Path(data["identity"]), data.get("purpose", ""), data.get("legal_basis", ""))
        )

    def _unknown(self, name: str) -> Exception:
        known = ", ".join(self.names()) or "none"
        return error_for(Code.CLIENT_NO_CONTEXT, f"context {name!r} is not known; known are: {known}")

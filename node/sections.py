"""Reading one table of a configuration: every key is asked for, checked where it stands, and what nobody asked for is told."""

from __future__ import annotations

import re
from collections.abc import Mapping
from glob import glob, has_magic
from pathlib import Path
from types import MappingProxyType
from typing import Any

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"([1-9][0-9]{0,8})([smhd])\Z")


def duration_text(seconds: float) -> str:
    """Print a duration in the largest unit that divides it: ``15m``, ``1h``, ``90s``."""
    whole = int(seconds)
    unit = next(word for word in ("d", "h", "m", "s") if whole % _UNITS_S[word] == 0)
    return f"{whole // _UNITS_S[unit]}{unit}"


class Problems:
    """Collects what is wrong, so that one run names everything."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def add(self, where: str, what: str) -> None:
        """Note a problem."""
        self.found.append(f"{where}: {what}")


class Section:
    """Reads the keys of one table; what nobody asked for is a problem."""

    def __init__(self, data: Any, where: str, problems: Problems, base: Path, environment: Mapping[str, str]) -> None:
        self.where, self.problems, self.base, self.environment = where, problems, base, environment
        self._data: Mapping[str, Any] = data if isinstance(data, Mapping) else {}
        self._asked: set[str] = set()
        if not isinstance(data, Mapping):
            problems.add(where, "expected a table")

    def end(self) -> None:
        """Call last: keys that were never asked for are problems."""
        for key in sorted(set(self._data) - self._asked):
            self.problems.add(f"{self.where}.{key}", "unknown key")

    def bad(self, key: str, what: str) -> None:
        """Note a problem of a key."""
        self.problems.add(f"{self.where}.{key}", what)

    def take(self, key: str, default: Any, environment_name: str = "") -> Any:
        """Give a raw value; a set variable of the environment wins."""
        self._asked.add(key)
        if environment_name and self.environment.get(environment_name):
            return self.environment[environment_name]
        return self._data.get(key, default)

    def text(self, key: str, default: str = "", *, needed: bool = False, environment_name: str = "") -> str:
        """Give a text."""
        value = self.take(key, default, environment_name)
        if not isinstance(value, str) or (needed and not value):
            self.bad(key, "expected a text")
            return ""
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """Give a list of texts; one text counts as a list."""
        value = self.take(key, [])
        value = [value] if isinstance(value, str) else value
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.bad(key, "expected a list of texts")
            return ()
        return tuple(value)

    def flag(self, key: str, *, default: bool) -> bool:
        """Give true or false."""
        value = self.take(key, default)
        if not isinstance(value, bool):
            self.bad(key, "expected true or false")
            return default
        return value

    def number(self, key: str, default: int, low: int, high: int) -> int:
        """Give a whole number within bounds."""
        value = self.take(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.bad(key, f"expected a whole number from {low} to {high}")
            return default
        return value

    def duration_s(self, key: str, default_s: float, low_s: float, high_s: float) -> float:
        """Give a duration in seconds, written ``90s``, ``15m``, ``1h`` or ``2d``."""
        value = self.take(key, None)
        if value is None:
            return default_s
        match = _DURATION.match(value) if isinstance(value, str) else None
        seconds = float(int(match[1]) * _UNITS_S[match[2]]) if match else -1.0
        if not low_s <= seconds <= high_s:
            usual = f"from {duration_text(low_s)} to {duration_text(high_s)}"
            self.bad(key, f"expected a duration such as 15m or 1h, {usual}")
            return default_s
        return seconds

    def choice(self, key: str, default: str, allowed: tuple[str, ...], environment_name: str = "") -> Any:
        """Give one of the allowed words; the default where it is not."""
        value = self.take(key, default, environment_name)
        if value not in allowed:
            self.bad(key, f"expected one of {', '.join(allowed)}")
            return default
        return value

    def mapping(self, key: str) -> Mapping[str, str]:
        """Give a table of texts."""
        value = self.take(key, {})
        if not isinstance(value, Mapping) or not all(isinstance(item, str) for item in value.values()):
            self.bad(key, "expected a table of texts")
            return MappingProxyType({})
        return MappingProxyType(dict(value))

    def path(self, key: str, environment_name: str) -> Path:
        """Give a path relative to the file; it need not exist."""
        return self.base / self.text(key, key, needed=True, environment_name=environment_name)

    def files(self, key: str, *, folders: bool = False) -> tuple[Path, ...]:
        """Give the existing files that a path or a pattern names."""
        found: list[Path] = []
        for text in self.texts(key):
            place = self.base / text
            matches = sorted(Path(item) for item in glob(str(place))) if has_magic(text) else [place]
            files = [match for match in matches if match.is_file() or (folders and match.is_dir())]
            if not files:
                self.bad(key, f"no such file: {text}")
            found.extend(match.resolve() for match in files)
        return tuple(found)

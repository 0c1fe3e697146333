"""Number literals: one canonical text, proven to be a number and nothing else."""

from __future__ import annotations

import re

from tidegate.sql.scope import not_allowed

_NUMBER = re.compile(r"[0-9]{0,60}(\.[0-9]{0,60})?([eE][+-]?[0-9]{1,4})?\Z")


def number_text(text: str) -> str:
    """Check a number literal; underscores between digits are dropped."""
    plain = text.replace("_", "")
    if not _NUMBER.match(plain) or not any(char in "0123456789" for char in plain.lower().split("e")[0]):
        raise not_allowed("this form of a number")
    return plain

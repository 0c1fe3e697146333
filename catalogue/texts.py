"""What a free text in the catalogue may hold: it is shown in terminals and pages of people who did not write it."""

from __future__ import annotations

import unicodedata

from tidegate.core.errors import Code, error_for

# Zero-width joiner and non-joiner are needed to write Persian and Indic scripts; all other format characters (direction
# overrides, tags) can make a text look like another one.
_FORMAT_ALLOWED = frozenset("\u200c\u200d")


def is_plain(text: str, *, lines: bool = False) -> bool:
    """Say whether the text holds only what prints: no control, format, surrogate or unassigned private characters.

    Args:
        lines: allow line feeds and tabs.
    """
    for char in text:
        category = unicodedata.category(char)
        if category in ("Cc", "Zl", "Zp") and not (lines and char in "\n\t"):
            return False
        if category in ("Cs", "Co") or (category == "Cf" and char not in _FORMAT_ALLOWED):
            return False
    return True


def plain_text(field: str, text: str, *, chars_max: int, lines: bool = False) -> None:
    """Refuse a text that is too long or not plain.

    Raises:
        CallerError: CAT_INVALID naming the field.
    """
    if len(text) > chars_max:
        raise error_for(Code.CAT_INVALID, f"{field}: longer than {chars_max} characters")
    if not is_plain(text, lines=lines):
        raise error_for(Code.CAT_INVALID, f"{field}: holds control or invisible characters")

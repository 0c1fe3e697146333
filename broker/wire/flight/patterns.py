"""The filter patterns of Flight SQL's metadata: ``%`` is any text, ``_`` any one character, a backslash takes both literally.

A pattern is anybody's text of any length (pandas sends a whole query as one), matched against every name of a large
catalogue, so it is compiled to an expression that never goes back over what it has matched.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from tidegate.core.names import NAME_CHARS_MAX

ESCAPE = "\\"
Matches = Callable[[str], bool]


def matcher(pattern: str | None) -> Matches:
    """Give the test for a pattern; None matches every name."""
    if pattern is None or (pattern and not pattern.strip("%")):
        return _every
    pieces = _pieces(pattern)
    if pieces is None:
        return _none
    first, *middle = pieces
    text = first
    if middle:
        last = middle.pop()
        # Each piece is taken where it is found first and never given back: that is right for ``%``, and linear.
        text += "".join(f"(?>.*?{piece})" for piece in middle if piece) + f".*{last}"
    expression = re.compile(text, re.DOTALL)
    return lambda name: expression.fullmatch(name) is not None


def _pieces(pattern: str) -> list[str] | None:
    """Give what stands between the ``%`` as regular expressions; None for a pattern longer than any name."""
    pieces, chars, escaped = [""], 0, False
    for char in pattern:
        if escaped or char not in ("%", "_", ESCAPE):
            # a backslash before anything else is a backslash
            kept = ESCAPE + char if escaped and char not in ("%", "_", ESCAPE) else char
            pieces[-1] += re.escape(kept)
            chars += len(kept)
            escaped = False
        elif char == ESCAPE:
            escaped = True
        elif char == "%":
            if len(pieces) == 1 or pieces[-1]:
                pieces.append("")
        else:
            pieces[-1] += "."
            chars += 1
        if chars > NAME_CHARS_MAX:
            return None
    if escaped:
        pieces[-1] += re.escape(ESCAPE)
    return pieces


def _every(_name: str) -> bool:
    return True


def _none(_name: str) -> bool:
    return False

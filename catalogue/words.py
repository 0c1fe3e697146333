"""Words for search: one tokeniser of our own, so that SQLite and PostgreSQL find the same datasets.

Letters and digits make words, compared without case and width. Chinese, Japanese and Korean have no blanks between
words: their runs are indexed as single characters and as bigrams (both engines' own tokenisers miss a word of two
characters, design catalogue.md). A query's run must also occur as it stands, which bigrams alone do not promise.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from tidegate.core.errors import Code, error_for

WORD_CHARS_MAX = 64
QUERY_CHARS_MAX = 500
QUERY_TERMS_MAX = 16

# Blocks of Unicode 15: CJK symbols that are letters, kana, bopomofo, Hangul, Han with its extensions.
_CJK = (
    (0x1100, 0x11FF),
    (0x3005, 0x3007),
    (0x3040, 0x30FF),
    (0x3100, 0x312F),
    (0x3130, 0x318F),
    (0x31A0, 0x31BF),
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xAC00, 0xD7AF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)


@dataclass(frozen=True, slots=True)
class Run:
    """A stretch of a text: one word, or characters of Chinese, Japanese or Korean without a break."""

    text: str
    cjk: bool


def fold(text: str) -> str:
    """Give the text as it is compared: compatibility forms unified, without case."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def runs(text: str) -> Iterator[Run]:
    """Cut a text into runs."""
    current: list[str] = []
    cjk = False
    for char in fold(text):
        kind = _kind(char, bool(current))
        if current and (kind is None or kind != cjk):
            yield from _run(current, cjk)
            current = []
        if kind is not None:
            cjk = kind
            current.append(char)
    yield from _run(current, cjk)


def tokens(text: str) -> Iterator[str]:
    """Give the tokens under which a text is indexed."""
    for run in runs(text):
        if run.cjk:
            yield from run.text
            yield from (first + second for first, second in pairwise(run.text))
        else:
            yield run.text


def query_runs(text: str) -> tuple[Run, ...]:
    """Cut what somebody typed into the runs that must all be found.

    Raises:
        CallerError: CAT_INVALID; too long, or nothing in it can be searched for.
    """
    if len(text) > QUERY_CHARS_MAX:
        raise error_for(Code.CAT_INVALID, f"search words: longer than {QUERY_CHARS_MAX} characters")
    found = tuple(dict.fromkeys(runs(text)))
    if len(found) > QUERY_TERMS_MAX:
        raise error_for(Code.CAT_INVALID, f"search words: more than {QUERY_TERMS_MAX}")
    if text.strip() and not found:
        raise error_for(Code.CAT_INVALID, "search words: expected letters or digits")
    return found


def query_tokens(run: Run) -> tuple[str, ...]:
    """Give the tokens of a run that the index must hold all of."""
    if not run.cjk or len(run.text) == 1:
        return (run.text,)
    return tuple(dict.fromkeys(first + second for first, second in pairwise(run.text)))


def _run(chars: list[str], cjk: bool) -> Iterator[Run]:
    if chars:
        yield Run("".join(chars) if cjk else "".join(chars)[:WORD_CHARS_MAX], cjk)


def _kind(char: str, inside: bool) -> bool | None:
    """Say whether the character is CJK (True), part of a word (False) or a break (None)."""
    point = ord(char)
    if any(first <= point <= last for first, last in _CJK):
        return True
    category = unicodedata.category(char)[0]
    if category in "LN" or (category == "M" and inside):
        return False
    return None

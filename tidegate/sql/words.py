"""One function for the many closed lists of words in this package."""

from __future__ import annotations


def words(text: str) -> frozenset[str]:
    """Read a list of words separated by white space."""
    return frozenset(text.split())

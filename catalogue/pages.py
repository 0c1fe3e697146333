"""Page tokens: opaque to the caller, checked when they come back, and stable while entries come and go.

A token holds the place of the last entry shown, never an offset. It is no secret and gives no rights: what a page
shows is decided anew for each one.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass

from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.limits import PAGE_SIZE_MAX

PAGE_SIZE_DEFAULT = 100
TOKEN_CHARS_MAX = 2_000


def page_size_of(asked: int) -> int:
    """Give the size of a page: the default for 0, never more than PAGE_SIZE_MAX."""
    if asked < 0:
        raise error_for(Code.CAT_INVALID, "page size: expected a number that is not negative")
    return min(asked or PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX)


@dataclass(frozen=True, slots=True)
class Token:
    """The place after which the next page begins.

    Args:
        kind: of the list; a token of another list is refused.
        place: sort key of the last entry shown.
    """

    kind: str
    place: tuple[str | int, ...]

    def write(self) -> str:
        """Give the opaque text."""
        text = json.dumps([self.kind, *self.place], ensure_ascii=False, separators=(",", ":"))
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    @classmethod
    def read(cls, text: str, kind: str) -> Token:
        """Read a token that came back.

        Trust: anybody may have written it.
        """
        try:
            if len(text) > TOKEN_CHARS_MAX or not text.isascii():
                raise ValueError("form")
            data = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
            if not isinstance(data, list) or not data or data[0] != kind:
                raise ValueError("form")
            if not all(isinstance(item, str | int) for item in data):
                raise ValueError("form")
        except (ValueError, binascii.Error, RecursionError) as error:
            raise _refusal() from error
        return cls(kind, tuple(data[1:]))

    def text(self, position: int) -> str:
        """Give a part that must be a text."""
        value = self._part(position)
        if not isinstance(value, str):
            raise _refusal()
        return value

    def number(self, position: int) -> int:
        """Give a part that must be a number."""
        value = self._part(position)
        if not isinstance(value, int) or isinstance(value, bool):
            raise _refusal()
        return value

    def _part(self, position: int) -> str | int:
        if position >= len(self.place):
            raise _refusal()
        return self.place[position]


def _refusal() -> TidegateError:
    return error_for(Code.CAT_INVALID, "page token: not one that this list gave")

"""Names: members, datasets, columns, purposes, and the SPIFFE-style identities of certificates.

A name that may reach an SQL text is held to a strict class at registration: letters of any script, digits, underscore;
NFC; nothing of zero width; at most 63 characters. Names beginning with ``tg_`` are the exchange's own.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from enum import Enum
from typing import NewType

from tidegate.core.errors import Code, error_for

NAME_CHARS_MAX = 63  # PostgreSQL's identifier limit (NAMEDATALEN - 1), so that every engine can carry the name.
RESERVED_PREFIX = "tg_"

RequestId = NewType("RequestId", str)
MemberName = NewType("MemberName", str)

_MEMBER = re.compile(r"[a-z][a-z0-9_-]{0,39}\Z")
_PURPOSE = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+)*\Z")


def is_strict_name(text: str) -> bool:
    """Say whether the text may be the name of a dataset's part or of a column.

    Letters of any script (Unicode categories L*, M* after a letter), decimal digits and underscore; NFC; not empty; not
    beginning with a digit; at most 63 characters; not reserved.
    """
    if not 1 <= len(text) <= NAME_CHARS_MAX or unicodedata.normalize("NFC", text) != text:
        return False
    if text.casefold().startswith(RESERVED_PREFIX):
        return False
    for position, char in enumerate(text):
        category = unicodedata.category(char)
        letter = category[0] == "L" or char == "_"
        follower = category in ("Nd", "Mn", "Mc")
        if not (letter or (follower and position > 0)):
            return False
        if unicodedata.east_asian_width(char) == "F" or char in "\u3164\uffa0\u115f\u1160":
            return False  # full-width look-alikes and the Hangul fillers, which print as nothing
    return True


def member_name(text: str) -> MemberName:
    """Check a member's name: lower-case ASCII letter, then letters, digits, ``_`` or ``-``; at most 40 characters."""
    if not _MEMBER.match(text):
        raise error_for(Code.CAT_INVALID, "member name: expected a lower-case ASCII name of at most 40 characters")
    return MemberName(text)


def is_member_name(text: str) -> bool:
    """Say whether the text has the form of a member's name."""
    return bool(_MEMBER.match(text))


def is_purpose(text: str) -> bool:
    """Say whether the text has the form of a purpose or legal basis code: dotted lower-case words, at most 100."""
    return len(text) <= 100 and bool(_PURPOSE.match(text))


@dataclass(frozen=True, slots=True, order=True)
class DatasetName:
    """``department.dataset``: the owner's member name and the dataset's own name. Case is kept, compared exactly."""

    department: str
    name: str

    def __post_init__(self) -> None:
        """Hold both parts to the strict class."""
        if not (is_strict_name(self.department) and is_strict_name(self.name)):
            raise error_for(
                Code.CAT_INVALID, "dataset name: expected department.dataset of letters, digits, underscore"
            )

    @classmethod
    def parse(cls, text: str) -> DatasetName:
        """Read ``department.dataset``."""
        department, dot, name = text.partition(".")
        if not dot or "." in name:
            raise error_for(Code.CAT_INVALID, "dataset name: expected department.dataset")
        return cls(department, name)

    def __str__(self) -> str:
        """Give ``department.dataset``."""
        return f"{self.department}.{self.name}"


class IdentityKind(Enum):
    """What a certificate stands for."""

    SERVICE = "service"
    PERSON = "person"
    NODE = "node"
    BROKER = "broker"


_TRUST_DOMAIN = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}\Z")
_PATH_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")


@dataclass(frozen=True, slots=True, order=True)
class SpiffeId:
    """The one URI SAN of a certificate.

    ``spiffe://<exchange>/member/<member>/(service|person|node)/<name>`` or ``spiffe://<exchange>/broker/<name>``; for a
    broker ``member`` is empty. Source: SPIFFE X509-SVID; design doors.md, Identity.
    """

    exchange: str
    kind: IdentityKind
    member: str
    name: str

    def __post_init__(self) -> None:
        """Check every part."""
        good = bool(_TRUST_DOMAIN.match(self.exchange) and _PATH_NAME.match(self.name))
        if self.kind is IdentityKind.BROKER:
            good = good and self.member == ""
        else:
            good = good and bool(_MEMBER.match(self.member))
        if not good:
            raise error_for(Code.ID_CERTIFICATE_INVALID, "identity: not of the exchange's form")

    @classmethod
    def parse(cls, uri: str) -> SpiffeId:
        """Read the URI; anything but the exact forms is refused."""
        parts = uri.split("/")
        if len(parts) == 7 and parts[:2] == ["spiffe:", ""] and parts[3] == "member":
            kinds = {"service": IdentityKind.SERVICE, "person": IdentityKind.PERSON, "node": IdentityKind.NODE}
            if parts[5] in kinds:
                return cls(parts[2], kinds[parts[5]], parts[4], parts[6])
        if len(parts) == 5 and parts[:2] == ["spiffe:", ""] and parts[3] == "broker":
            return cls(parts[2], IdentityKind.BROKER, "", parts[4])
        raise error_for(Code.ID_CERTIFICATE_INVALID, "identity: not of the exchange's form")

    def __str__(self) -> str:
        """Give the URI."""
        if self.kind is IdentityKind.BROKER:
            return f"spiffe://{self.exchange}/broker/{self.name}"
        return f"spiffe://{self.exchange}/member/{self.member}/{self.kind.value}/{self.name}"

"""The secret of the proxy: whoever may connect to the loopback would else act as the certificate's holder.

Made anew at each start, or kept in a file of mode 0600, so that a tool may save it. A client gives it as ``authorization:
Bearer SECRET`` or, as tools with a user and a password do, by ``Basic`` with any user (Flight's Handshake).
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
import secrets
from collections.abc import Iterable
from pathlib import Path

from tidegate.core.errors import Code, error_for
from tidegate.identity.keys import read_private, write_private

SECRET_BYTES = 32
CREDENTIALS_CHARS_MAX = 1_000
_FORM = re.compile(r"[A-Za-z0-9_-]{32,100}\Z")
_NOBODY_ASKS = "none"  # what a Handshake answers when the proxy asks for no secret: a client expects some token


class Secret:
    """Checks what a client gives. ``value`` is empty when the proxy asks for none."""

    def __init__(self, value: str) -> None:
        self.value = value

    @property
    def bearer(self) -> str:
        """The header's value that a Handshake answers with; the client sends it with each later call."""
        return f"Bearer {self.value or _NOBODY_ASKS}"

    def check(self, headers: Iterable[tuple[str, str | bytes]]) -> None:
        """Refuse a call that does not bring the secret.

        Trust: anybody on this machine may have sent the headers. Compared without a hint of how much of it is right.

        Raises:
            CallerError: CLIENT_PROXY_SECRET.
        """
        if not self.value:
            return
        given = [_credential(value) for key, value in headers if key == "authorization"]
        # Every value is compared, in time that depends on its length alone.
        fits = [hmac.compare_digest(item.encode(), self.value.encode()) for item in given]
        if not any(fits):
            raise error_for(Code.CLIENT_PROXY_SECRET)


def _credential(header: str | bytes) -> str:
    """Give the token or the password of an ``authorization`` header; empty when it is neither."""
    if isinstance(header, bytes) or len(header) > CREDENTIALS_CHARS_MAX:
        return ""
    scheme, _, rest = header.strip().partition(" ")
    match scheme.lower():
        case "bearer":
            return rest.strip()
        case "basic":
            text = rest.strip()
            try:  # clients in Go leave the padding out
                plain = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
                return plain.decode("utf-8").partition(":")[2]
            except (binascii.Error, ValueError):
                return ""
        case _:
            return ""


def made(file: Path | None) -> Secret:
    """Make a secret; with a file, the one that it holds, or a new one that is written there for its owner alone.

    Raises:
        CallerError: CONFIG_INVALID, the file can be read by others or holds something else.
    """
    if file is None:
        return Secret(secrets.token_urlsafe(SECRET_BYTES))
    if not file.exists():
        value = secrets.token_urlsafe(SECRET_BYTES)
        write_private(file, value.encode() + b"\n")
        return Secret(value)
    held = read_private(file).decode("utf-8", "replace").strip()
    if not _FORM.match(held):
        raise error_for(
            Code.CONFIG_INVALID, "secret file: it holds no secret of a proxy; name a file that is not there"
        )
    return Secret(held)


def none() -> Secret:
    """Ask for no secret: everybody who can connect to the loopback acts as the certificate's holder."""
    return Secret("")

"""The node's keys of masks: made here, kept here, never sent to a broker.

One secret of 32 bytes; the key of a scope is HMAC-SHA256 of the scope's canonical name under it (a PRF in the sense of NIST
SP 800-108, one block). The same person has the same pseudonym in every dataset of this department for one recipient, and
another for every other recipient. Keys that departments agreed to share are files that both put there by themselves.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from pathlib import Path

from tidegate.core.canonical import canonical
from tidegate.core.decision import Mask
from tidegate.core.errors import Code, Reason, error_for
from tidegate.core.names import DatasetName
from tidegate.identity.keys import read_private, write_private

SECRET_BYTES = 32
_SHARED_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_DEFAULT_SCOPE = {"hash": "node", "pseudonym": "recipient"}


class KeyStore:
    """The folder of secrets, mode 0700: ``masks.secret`` and ``shared/<id>.secret``, 32 bytes in hexadecimal each."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._shared = folder / "shared"
        place = folder / "masks.secret"
        if not place.exists():
            # A crash before the rename leaves no secret and a new one is made; afterwards it is never replaced, since
            # every pseudonym that was handed out depends on it.
            write_private(place, secrets.token_bytes(SECRET_BYTES).hex().encode())
        self._secret = _read(place)

    def for_recipient(self, member: str) -> RecipientKeys:
        """Give the keys for one recipient's answers."""
        return RecipientKeys(self, member)

    def derive(self, scope: dict[str, str]) -> bytes:
        """Give the key of a scope."""
        return hmac.new(self._secret, b"tidegate mask key v1\x00" + canonical(scope), hashlib.sha256).digest()

    def shared(self, key_id: str) -> bytes:
        """Give a key that departments share.

        Raises:
            Refused: POLICY_REFUSED when the department has not put it there.
        """
        place = self._shared / f"{key_id}.secret"
        if not _SHARED_ID.match(key_id) or not place.is_file():
            reason = Reason(
                "shared_key_missing",
                "the policy masks a column with a shared key that this node does not hold",
                "the departments to exchange the shared key",
                "the stewards of the departments that share it",
            )
            raise error_for(Code.POLICY_REFUSED, reasons=(reason,))
        return _read(place)


class RecipientKeys:
    """``tidegate.sql.masks.MaskKeys`` for one recipient."""

    def __init__(self, store: KeyStore, member: str) -> None:
        self._store = store
        self._member = member

    def key(self, mask: Mask, dataset: DatasetName, column: str) -> bytes:
        """Give the key that the mask stands for; the same for every dataset and column, so that one node's can be joined."""
        del dataset, column
        scope = str(mask.arguments.get("key", _DEFAULT_SCOPE.get(mask.kind, "node")))
        if scope.startswith("shared:"):
            return self._store.shared(scope.removeprefix("shared:"))
        if scope == "recipient":
            return self._store.derive({"scope": "recipient", "member": self._member})
        return self._store.derive({"scope": "node"})


def _read(place: Path) -> bytes:
    try:
        secret = bytes.fromhex(read_private(place).decode("ascii").strip())
    except (ValueError, UnicodeDecodeError) as error:
        raise error_for(Code.CONFIG_INVALID, "mask key: expected 32 bytes in hexadecimal") from error
    if len(secret) != SECRET_BYTES:
        raise error_for(Code.CONFIG_INVALID, "mask key: expected 32 bytes in hexadecimal")
    return secret

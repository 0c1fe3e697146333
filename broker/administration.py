"""How changes outside of queries reach the log: catalogue, agreements, members, refused identities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from audit import entries
from audit.log import AuditLog
from tidegate.core.canonical import canonical

if TYPE_CHECKING:
    from broker.wire.guard import RefusedIdentity

_SUBJECTS = ("agreement", "dataset", "purpose", "subject")
_TAKEN = frozenset({"v", "type", "kind", "action", "member", "identity", "person", "request_id", "document_sha256"})


class Administration:
    """Writes administrative entries; each call returns when the entry is durable."""

    def __init__(self, log: AuditLog) -> None:
        self._log = log

    def record(self, entry: Mapping[str, Any]) -> None:
        """Write an entry that ``audit.entries.admin`` made.

        Raises:
            InternalError: AUDIT_UNAVAILABLE; then the change must not happen.
        """
        self._log.append(entry)

    def change(self, change: Mapping[str, Any]) -> None:
        """Write a change of the catalogue: what the room says of it, and who asked for it.

        Details that are neither short texts nor counts (reasons of people, lists) go to the side store; the entry holds
        their commitment.
        """
        subject = next((str(change[name]) for name in _SUBJECTS if change.get(name)), "")
        rest = {key: value for key, value in change.items() if key not in _TAKEN}
        entry = entries.admin(
            str(change["kind"]),
            action=str(change["action"]),
            subject=subject,
            content_hash=str(change.get("document_sha256", "")),
        )
        for name in ("member", "identity"):
            if change.get(name):
                entry[name] = change[name]
        if change.get("person"):
            entry["person"] = change["person"]
            entry["identity"] = str(change["identity"]).rpartition("/")[0] + "/" + str(change["person"])
        if change.get("dataset"):
            entry["datasets"] = [{"name": str(change["dataset"]), "version": str(change.get("version", ""))}]
        self._log.append(
            entry, {"identity": str(change.get("identity", "")), "details": rest}, commit={"details": _plain(rest)}
        )

    def refused_identity(self, refused: RefusedIdentity) -> None:
        """Write that somebody whose certificate is the exchange's was refused."""
        self._log.append(
            entries.admin(
                "certificate",
                action="refused",
                subject=refused.serial_hex,
                actor=refused.caller,
                request_id=refused.request_id,
                content_hash=refused.caller.fingerprint,
                details={"code": refused.error.code.value, "method": refused.method[:200]},
            ),
            entries.side_of(refused.caller),
        )


def _plain(details: Mapping[str, Any]) -> bytes:
    return canonical(
        {key: value if isinstance(value, str | int | list) else str(value) for key, value in details.items()}
    )

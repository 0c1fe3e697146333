"""The directory of members: who takes part, under which identities, with which roles, and who no longer may.

Roles live here and never in a certificate, so that losing one takes effect at once. ``is_denied`` and ``identity`` are
asked at every call: they answer from a snapshot in memory that is replaced after each change here, and after a change
by another broker on the same database within ``STALE_S_MAX``.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Final

import structlog
from sqlalchemy import ColumnElement, Connection, Engine, insert, select, update

from catalogue.database import CATALOGUE, MEMBERS, generation, reading, writing
from catalogue.directory import (
    Directory,
    IdentityRecord,
    MemberPage,
    MemberRecord,
    TokenRecord,
    load_directory,
    member_page,
)
from catalogue.tables import CERTIFICATES, DATASETS, IDENTITIES, TOKENS
from catalogue.tables import MEMBERS as MEMBERS_TABLE
from catalogue.texts import plain_text
from tidegate.core.clock import Clock, Ids, SystemIds, timestamp
from tidegate.core.dataset import SENSITIVITIES
from tidegate.core.errors import Code, error_for
from tidegate.core.names import IdentityKind, SpiffeId, member_name

ROLES: Final = ("analyst", "auditor", "operator", "steward")
TIERS: Final = ("government", "external")
STALE_S_MAX: Final = 0.25  # streams must end within 1 s of a revocation, wherever it was made (doors.md, Identity)
REASON_CHARS_MAX: Final = 500

_SERIAL = re.compile(r"[0-9a-f]{1,40}\Z")  # RFC 5280 4.1.2.2: at most 20 octets
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_log = structlog.get_logger(__name__)


class MemberDirectory:
    """Members, identities, certificates and join tokens of one exchange; safe for threads.

    Args:
        engine: from ``catalogue.database.open_database``.
        clock: time of day for the records, monotonic time for the snapshot.
        ids: where opaque ids of persons come from.
    """

    def __init__(self, engine: Engine, clock: Clock, *, ids: Ids | None = None) -> None:
        self._engine = engine
        self._clock = clock
        self._ids: Ids = ids or SystemIds()
        self._lock = threading.Lock()  # owns the three fields below; held while the snapshot is loaded
        self._callbacks: tuple[Callable[[], None], ...] = ()
        self._checked_s = clock.monotonic_s()
        with reading(engine) as connection:
            self._snapshot = load_directory(connection)

    # --- what every call asks -------------------------------------------------------------------------------------

    def is_denied(self, serial_hex: str, spiffe: str) -> bool:
        """Say whether the certificate, its identity or its member was revoked. Takes microseconds."""
        return self._directory().is_denied(_serial(serial_hex), spiffe)

    def identity(self, spiffe: str) -> IdentityRecord | None:
        """Give what the directory holds about the identity, or None. Takes microseconds."""
        return self._directory().identities.get(spiffe)

    def holds_role(self, spiffe: str, role: str) -> bool:
        """Say whether the identity is known, not revoked, and holds the role."""
        record = self.identity(spiffe)
        return record is not None and not record.revoked and role in record.roles

    def member(self, name: str) -> MemberRecord | None:
        """Give the member with its identities, or None."""
        return self._directory().members.get(name)

    def members(self, *, page_size: int = 100, page_token: str = "") -> MemberPage:
        """Give one page of members, by name."""
        return member_page(self._directory(), page_size, page_token)

    # --- changes --------------------------------------------------------------------------------------------------

    def add_member(self, name: str, title: str, tier: str) -> None:
        """Add a member, or give a member that is there a new title and tier.

        Raises:
            CallerError: CAT_INVALID; CAT_CONFLICT when a collection's namespace has that name already.
        """
        checked = member_name(name)
        plain_text("title", title, chars_max=200)
        if tier not in TIERS:
            raise error_for(Code.CAT_INVALID, f"tier: expected one of {', '.join(TIERS)}")
        with writing(self._engine, CATALOGUE, MEMBERS) as connection:
            taken = select(DATASETS.c.id).where(DATASETS.c.department == name, DATASETS.c.owner != name).limit(1)
            if connection.execute(taken).first():
                raise error_for(Code.CAT_CONFLICT, "member name: a collection of another member is named so")
            table = MEMBERS_TABLE
            if connection.execute(select(table.c.name).where(table.c.name == name)).first():
                connection.execute(update(table).where(table.c.name == name).values(title=title, tier=tier))
            else:
                now = timestamp(self._clock.now())
                connection.execute(
                    insert(table).values(
                        name=checked, title=title, tier=tier, joined_at=now, revoked_at=None, reason=""
                    )
                )
        self._load()

    def set_identity(self, spiffe: str, roles: Iterable[str], clearance: str) -> IdentityRecord:
        """Add an identity of a member, or change its roles and clearance.

        Raises:
            CallerError: ID_MEMBER_UNKNOWN; ID_REVOKED when it or its member was revoked (``reinstate`` it first);
                CAT_INVALID for an unknown role or clearance.
        """
        parsed = SpiffeId.parse(spiffe)
        if parsed.kind is IdentityKind.BROKER:
            raise error_for(Code.ID_WRONG_KIND, "identity: a broker is no member and has no roles")
        chosen = _checked_roles(roles, clearance)
        with writing(self._engine, MEMBERS) as connection:
            _require_live_member(connection, parsed.member)
            row = connection.execute(select(IDENTITIES).where(IDENTITIES.c.spiffe_id == spiffe)).first()
            if row is None:
                # Opaque and scoped to the member: what entries of the log hold in place of a person's name.
                person = f"p{self._ids.nonce(12).hex()}" if parsed.kind is IdentityKind.PERSON else ""
                connection.execute(
                    insert(IDENTITIES).values(
                        spiffe_id=spiffe,
                        member=parsed.member,
                        roles=json.dumps(chosen),
                        clearance=clearance,
                        person=person,
                        revoked_at=None,
                        reason="",
                    )
                )
            elif row.revoked_at is not None:
                raise error_for(Code.ID_REVOKED, "identity: it was revoked; reinstate it first")
            else:
                connection.execute(
                    update(IDENTITIES)
                    .where(IDENTITIES.c.spiffe_id == spiffe)
                    .values(roles=json.dumps(chosen), clearance=clearance)
                )
        self._load()
        record = self.identity(spiffe)
        if record is None:
            raise error_for(Code.INTERNAL, "identity: it vanished after it was written")
        return record

    def record_certificate(self, serial_hex: str, spiffe: str, fingerprint: str, not_after: datetime) -> None:
        """Remember a certificate. Call before it leaves the house: one that is not remembered cannot be revoked.

        Raises:
            CallerError: ID_REVOKED when its identity was revoked meanwhile; CAT_CONFLICT for a serial used twice.
        """
        parsed, serial = SpiffeId.parse(spiffe), _serial(serial_hex)
        with writing(self._engine, MEMBERS) as connection:
            if parsed.kind is not IdentityKind.BROKER:
                _require_live_member(connection, parsed.member)
                _require_live_identity(connection, spiffe)
            if connection.execute(select(CERTIFICATES.c.serial).where(CERTIFICATES.c.serial == serial)).first():
                raise error_for(Code.CAT_CONFLICT, "certificate: the serial number was used before")
            connection.execute(
                insert(CERTIFICATES).values(
                    serial=serial,
                    spiffe_id=spiffe,
                    fingerprint=fingerprint,
                    not_after=timestamp(not_after),
                    revoked_at=None,
                    reason="",
                )
            )
        self._load()

    def revoke(self, *, member: str = "", identity: str = "", serial: str = "", reason: str) -> None:
        """Revoke exactly one of: a whole member, one identity, one certificate. Final for all certificates under it.

        Raises:
            CallerError: ID_MEMBER_UNKNOWN; CAT_INVALID for none or several of the three, or an empty reason.
        """
        if sum(map(bool, (member, identity, serial))) != 1:
            raise error_for(Code.CAT_INVALID, "revocation: expected exactly one of member, identity, serial")
        if not reason.strip():
            raise error_for(Code.CAT_INVALID, "revocation: expected a reason")
        plain_text("reason", reason, chars_max=REASON_CHARS_MAX)
        values = {"revoked_at": timestamp(self._clock.now()), "reason": reason}
        certificates, identities, table = CERTIFICATES.c, IDENTITIES.c, MEMBERS_TABLE
        with writing(self._engine, MEMBERS) as connection:
            if member:
                found = connection.execute(update(table).where(table.c.name == member).values(values))
                owned = select(identities.spiffe_id).where(identities.member == member)
                below: ColumnElement[bool] = certificates.spiffe_id.in_(owned)
                connection.execute(update(IDENTITIES).where(identities.member == member).values(values))
                spent: ColumnElement[bool] | None = TOKENS.c.spiffe_id.in_(owned)
            elif identity:
                found = connection.execute(update(IDENTITIES).where(identities.spiffe_id == identity).values(values))
                below, spent = certificates.spiffe_id == identity, TOKENS.c.spiffe_id == identity
            else:
                below = certificates.serial == _serial(serial)
                found = connection.execute(update(CERTIFICATES).where(below).values(values))
                spent = None
            if found.rowcount == 0:
                raise error_for(Code.ID_MEMBER_UNKNOWN)
            # The certificates are revoked one by one: they stay so when the member or identity is reinstated.
            connection.execute(update(CERTIFICATES).where(below, certificates.revoked_at.is_(None)).values(values))
            if spent is not None:
                connection.execute(
                    update(TOKENS).where(spent, TOKENS.c.taken_at.is_(None)).values(taken_at=values["revoked_at"])
                )
        self._load()

    def reinstate(self, *, member: str = "", identity: str = "") -> None:
        """Let a revoked member, or one identity, join again with a new certificate; the old ones stay revoked.

        A member's identities stay revoked until each is reinstated itself.
        """
        if bool(member) == bool(identity):
            raise error_for(Code.CAT_INVALID, "reinstate: expected exactly one of member, identity")
        table, key = (MEMBERS_TABLE, MEMBERS_TABLE.c.name) if member else (IDENTITIES, IDENTITIES.c.spiffe_id)
        with writing(self._engine, MEMBERS) as connection:
            done = connection.execute(
                update(table).where(key == (member or identity)).values(revoked_at=None, reason="")
            )
            if done.rowcount == 0:
                raise error_for(Code.ID_MEMBER_UNKNOWN)
        self._load()

    # --- join tokens ----------------------------------------------------------------------------------------------

    def put_token(
        self, sha256_hex: str, spiffe: str, roles: Iterable[str], clearance: str, expires_at: datetime
    ) -> None:
        """Keep a join token's hash (never the token) until it is taken or expires."""
        if not _SHA256.match(sha256_hex):
            raise error_for(Code.CAT_INVALID, "join token: expected the SHA-256 in lower-case hexadecimal")
        parsed = SpiffeId.parse(spiffe)
        chosen = _checked_roles(roles, clearance)
        with writing(self._engine, MEMBERS) as connection:
            _require_live_member(connection, parsed.member)
            if connection.execute(select(TOKENS.c.sha256).where(TOKENS.c.sha256 == sha256_hex)).first():
                raise error_for(Code.CAT_CONFLICT, "join token: made before")
            connection.execute(
                insert(TOKENS).values(
                    sha256=sha256_hex,
                    spiffe_id=spiffe,
                    roles=json.dumps(chosen),
                    clearance=clearance,
                    expires_at=timestamp(expires_at),
                    taken_at=None,
                )
            )

    def take_token(self, sha256_hex: str) -> TokenRecord | None:
        """Use a token up: of any number of callers at any number of brokers one gets it; None for all others."""
        now = timestamp(self._clock.now())
        unused = (TOKENS.c.sha256 == sha256_hex, TOKENS.c.taken_at.is_(None), TOKENS.c.expires_at > now)
        with writing(self._engine, MEMBERS) as connection:
            taken = connection.execute(update(TOKENS).where(*unused).values(taken_at=now))
            if taken.rowcount != 1:
                return None
            row = connection.execute(select(TOKENS).where(TOKENS.c.sha256 == sha256_hex)).one()
            return TokenRecord(row.spiffe_id, tuple(json.loads(row.roles)), row.clearance, row.expires_at)

    # --- the snapshot ---------------------------------------------------------------------------------------------

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have ``callback`` called after every change of members, roles or revocations; gives a way to unsubscribe.

        It runs in the thread that made or noticed the change, without locks; what it raises is logged, not passed on.
        """
        with self._lock:
            self._callbacks = (*self._callbacks, callback)

        def unsubscribe() -> None:
            with self._lock:
                self._callbacks = tuple(item for item in self._callbacks if item is not callback)

        return unsubscribe

    def refresh(self) -> None:
        """Notice what another broker on the same database changed; call it from a timer, at least every half second."""
        self._load()

    def _directory(self) -> Directory:
        if self._clock.monotonic_s() - self._checked_s >= STALE_S_MAX:
            self._load()
        return self._snapshot

    def _load(self) -> None:
        # A database that does not answer raises here: nobody is let in on an old snapshot (fail closed).
        asked_s = self._clock.monotonic_s()
        with self._lock:
            before = self._snapshot
            with reading(self._engine) as connection:
                if generation(connection, MEMBERS) != before.generation:
                    self._snapshot = load_directory(connection)
            self._checked_s = asked_s
            after, callbacks = self._snapshot, self._callbacks
        if before is after or before.rights() == after.rights():
            return
        for callback in callbacks:
            try:
                callback()
            except Exception:  # noqa: BLE001 - one subscriber's failure must not keep the next from ending streams
                _log.exception("a subscriber of the member directory failed")


def _serial(text: str) -> str:
    serial = text.lower().lstrip("0") or "0"
    if not _SERIAL.match(serial):
        raise error_for(Code.CAT_INVALID, "certificate serial: expected at most 40 hexadecimal digits")
    return serial


def _checked_roles(roles: Iterable[str], clearance: str) -> list[str]:
    chosen = sorted(set(roles))
    if not set(chosen) <= set(ROLES):
        raise error_for(Code.CAT_INVALID, f"roles: expected some of {', '.join(ROLES)}")
    if clearance not in SENSITIVITIES:
        raise error_for(Code.CAT_INVALID, f"clearance: expected one of {', '.join(SENSITIVITIES)}")
    return chosen


def _require_live_member(connection: Connection, name: str) -> None:
    query = select(MEMBERS_TABLE.c.revoked_at).where(MEMBERS_TABLE.c.name == name)
    row = connection.execute(query).first()
    if row is None:
        raise error_for(Code.ID_MEMBER_UNKNOWN)
    if row.revoked_at is not None:
        raise error_for(Code.ID_REVOKED, "member: it was revoked; reinstate it first")


def _require_live_identity(connection: Connection, spiffe: str) -> None:
    row = connection.execute(select(IDENTITIES.c.revoked_at).where(IDENTITIES.c.spiffe_id == spiffe)).first()
    if row is None:
        raise error_for(Code.ID_MEMBER_UNKNOWN)
    if row.revoked_at is not None:
        raise error_for(Code.ID_REVOKED)

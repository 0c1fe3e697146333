"""The values of the member directory, and the snapshot of it that answers questions without the database."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from catalogue.database import MEMBERS, generation
from catalogue.pages import Token, page_size_of
from catalogue.tables import CERTIFICATES, IDENTITIES
from catalogue.tables import MEMBERS as MEMBERS_TABLE
from tidegate.core.names import SpiffeId


@dataclass(frozen=True, slots=True)
class IdentityRecord:
    """What the directory holds about one identity.

    Args:
        revoked: it, or its member, was revoked.
        person: opaque id of a person, scoped to its member; empty for services and nodes.
        tier: of its member.
        not_after: of its newest certificate that was not revoked (RFC 3339), or empty.
    """

    spiffe: str
    roles: tuple[str, ...]
    clearance: str
    revoked: bool
    person: str
    tier: str = ""
    not_after: str = ""


@dataclass(frozen=True, slots=True)
class MemberRecord:
    """One member with its identities, by SPIFFE id."""

    name: str
    title: str
    tier: str
    revoked: bool
    joined_at: str
    identities: tuple[IdentityRecord, ...]


@dataclass(frozen=True, slots=True)
class MemberPage:
    """Some members, by name; an empty token means that these were the last."""

    members: tuple[MemberRecord, ...]
    next_page_token: str


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """What a join token was made for."""

    spiffe: str
    roles: tuple[str, ...]
    clearance: str
    expires_at: str


@dataclass(frozen=True, slots=True)
class Directory:
    """The whole directory at one generation."""

    generation: int
    members: Mapping[str, MemberRecord]
    identities: Mapping[str, IdentityRecord]
    revoked_serials: frozenset[str]
    revoked_members: frozenset[str]

    def rights(self) -> object:
        """Give what open streams depend on, in a form that can be compared: roles, clearances, revocations."""
        held = {spiffe: (record.roles, record.clearance, record.revoked) for spiffe, record in self.identities.items()}
        return held, self.revoked_serials, self.revoked_members

    def is_denied(self, serial: str, spiffe: str) -> bool:
        """Say whether the serial number, the identity or its member is on the deny-list."""
        if serial in self.revoked_serials:
            return True
        record = self.identities.get(spiffe)
        if record is not None:
            return record.revoked
        # An identity that was never recorded still falls with its member.
        return SpiffeId.parse(spiffe).member in self.revoked_members


def load_directory(connection: Connection) -> Directory:
    """Read the whole directory in the connection's snapshot."""
    table, certificates = MEMBERS_TABLE, CERTIFICATES.c
    newest = (
        select(certificates.spiffe_id, func.max(certificates.not_after))
        .where(certificates.revoked_at.is_(None))
        .group_by(certificates.spiffe_id)
    )
    not_after: dict[str, str] = {row[0]: row[1] for row in connection.execute(newest)}
    rows = {row.name: row for row in connection.execute(select(table))}
    identities: dict[str, IdentityRecord] = {}
    owned: dict[str, list[IdentityRecord]] = {name: [] for name in rows}
    for row in connection.execute(select(IDENTITIES)):
        member = rows[row.member]
        record = IdentityRecord(
            spiffe=row.spiffe_id,
            roles=tuple(json.loads(row.roles)),
            clearance=row.clearance,
            revoked=row.revoked_at is not None or member.revoked_at is not None,
            person=row.person,
            tier=member.tier,
            not_after=not_after.get(row.spiffe_id, ""),
        )
        identities[record.spiffe] = record
        owned[row.member].append(record)
    revoked = select(certificates.serial).where(certificates.revoked_at.is_not(None))
    return Directory(
        generation=generation(connection, MEMBERS),
        members={
            name: MemberRecord(
                name=name,
                title=row.title,
                tier=row.tier,
                revoked=row.revoked_at is not None,
                joined_at=row.joined_at,
                identities=tuple(sorted(owned[name], key=lambda record: record.spiffe)),
            )
            for name, row in rows.items()
        },
        identities=identities,
        revoked_serials=frozenset(connection.execute(revoked).scalars()),
        revoked_members=frozenset(name for name, row in rows.items() if row.revoked_at is not None),
    )


def member_page(directory: Directory, page_size: int, page_token: str) -> MemberPage:
    """Cut one page out of the members, by name."""
    size = page_size_of(page_size)
    after = Token.read(page_token, "members").text(0) if page_token else ""
    names = sorted(name for name in directory.members if name > after)
    page = names[:size]
    token = Token("members", (page[-1],)).write() if len(names) > size else ""
    return MemberPage(tuple(directory.members[name] for name in page), token)

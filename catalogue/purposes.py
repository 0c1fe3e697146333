"""The registry of purposes and legal bases: mandatory on every query, granted by agreements, searchable in the log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Engine, delete, insert, select, update

from catalogue.database import CATALOGUE, reading, writing
from catalogue.tables import PURPOSE_BASES, PURPOSES
from catalogue.texts import plain_text
from tidegate.core.clock import Clock
from tidegate.core.errors import Code, error_for
from tidegate.core.names import is_purpose

LEGAL_BASES_MAX: Final = 50

Record = Callable[[Mapping[str, Any]], None]
"""Writes an administrative entry of the audit log, inside the transaction: what cannot be recorded is undone.

A crash between entry and commit leaves an entry for a change that did not happen; never a change without its entry.
"""


def unrecorded(_entry: Mapping[str, Any]) -> None:
    """Record nothing: for set-up and tests, where no log is running yet."""


@dataclass(frozen=True, slots=True)
class Purpose:
    """A purpose for which data may be used, and the legal bases that can carry it."""

    code: str
    title: str
    legal_bases: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check the codes."""
        if not is_purpose(self.code):
            raise error_for(Code.CAT_INVALID, "purpose code: expected dotted lower-case words")
        if not self.title.strip():
            raise error_for(Code.CAT_INVALID, "purpose title: expected one")
        plain_text("purpose title", self.title, chars_max=200)
        bases = self.legal_bases
        if not 1 <= len(bases) <= LEGAL_BASES_MAX or not all(map(is_purpose, bases)) or len(set(bases)) != len(bases):
            raise error_for(Code.CAT_INVALID, "legal bases: expected one or more codes of dotted lower-case words")


class PurposeRegister:
    """Purposes in the catalogue's database."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    def purposes(self) -> tuple[Purpose, ...]:
        """Give all purposes, by code."""
        with reading(self._engine) as connection:
            return _load(connection)

    def add_purpose(self, purpose: Purpose, *, record: Record = unrecorded) -> None:
        """Add a purpose, or give one that is there another title and other legal bases."""
        table, bases = PURPOSES, PURPOSE_BASES
        with writing(self._engine, CATALOGUE) as connection:
            same = Purpose(purpose.code, purpose.title, tuple(sorted(purpose.legal_bases)))
            if same in _load(connection):
                return
            if connection.execute(select(table.c.code).where(table.c.code == purpose.code)).first():
                connection.execute(update(table).where(table.c.code == purpose.code).values(title=purpose.title))
            else:
                connection.execute(insert(table).values(code=purpose.code, title=purpose.title))
            connection.execute(delete(bases).where(bases.c.purpose == purpose.code))
            rows = [{"purpose": purpose.code, "basis": basis} for basis in purpose.legal_bases]
            connection.execute(insert(bases), rows)
            record(
                {
                    "kind": "catalogue",
                    "action": "add_purpose",
                    "purpose": purpose.code,
                    "legal_bases": list(purpose.legal_bases),
                }
            )

    def check_purpose(self, code: str, legal_basis: str = "") -> str:
        """Give the legal basis for a purpose: the one named, or the purpose's only one when none is named.

        Raises:
            CallerError: POLICY_PURPOSE; no such purpose, a basis that cannot carry it, or a choice to be made.
        """
        with reading(self._engine) as connection:
            query = select(PURPOSE_BASES.c.basis).where(PURPOSE_BASES.c.purpose == code)
            bases = set(connection.execute(query).scalars())
        return legal_basis_for(code, legal_basis, bases)


def legal_basis_for(code: str, legal_basis: str, bases: AbstractSet[str]) -> str:
    """Give the legal basis for a purpose that these can carry: the one named, or the only one when none is named.

    Raises:
        CallerError: POLICY_PURPOSE.
    """
    if not bases:
        raise error_for(Code.POLICY_PURPOSE, "purpose: none given" if not code else "purpose: not a registered one")
    if legal_basis in bases:
        return legal_basis
    if legal_basis:
        raise error_for(Code.POLICY_PURPOSE, "legal basis: not one that is registered for this purpose")
    if len(bases) > 1:
        raise error_for(Code.POLICY_PURPOSE, "legal basis: this purpose has several; name one")
    (only,) = bases
    return str(only)


def _load(connection: Connection) -> tuple[Purpose, ...]:
    bases: dict[str, list[str]] = {}
    for row in connection.execute(select(PURPOSE_BASES)):
        bases.setdefault(row.purpose, []).append(row.basis)
    rows = connection.execute(select(PURPOSES)).all()
    found = (Purpose(row.code, row.title, tuple(sorted(bases.get(row.code, [])))) for row in rows)
    return tuple(sorted(found, key=lambda purpose: purpose.code))

"""What one request needs of the catalogue, at one moment: names, agreements, purposes; from memory while nothing changed.

Every change of these counts one number up in its own transaction (``catalogue.database``). So one small read of that number
at the beginning of a request says whether what is in memory is still true; a revoked agreement bites on the next request.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, Engine, select

from catalogue.database import CATALOGUE, SQLITE_BUSY_MS, generation, reading
from catalogue.purposes import legal_basis_for
from catalogue.tables import AGREEMENTS, COUNTERS, PURPOSE_BASES
from tidegate.core.agreement import Agreement
from tidegate.core.clock import timestamp
from tidegate.core.dataset import Dataset
from tidegate.core.errors import Code, error_for
from tidegate.core.names import DatasetName

if TYPE_CHECKING:
    from catalogue.shelf import Shelf

MEMBERS_HELD_MAX: Final = 1_000  # of whom agreements are in memory; more begin anew


@dataclass(frozen=True, slots=True)
class _Terms:
    """An agreement that was not revoked, with its times as the database compares them."""

    agreement: Agreement
    issued_at: str
    expires_at: str


@dataclass(frozen=True, slots=True)
class Glance:
    """The catalogue at one generation, for one member.

    Args:
        schema: what the member's queries may name. Do not change it.
    """

    generation: int
    schema: Mapping[DatasetName, Dataset]
    _terms: Mapping[DatasetName, tuple[_Terms, ...]]
    _bases: Mapping[str, frozenset[str]]

    def agreements_for(self, datasets: Iterable[DatasetName], at: datetime) -> tuple[Agreement, ...]:
        """Give the member's agreements about these datasets that are in force at that time, by id."""
        moment = timestamp(at)
        found = [
            terms.agreement
            for name in set(datasets)
            for terms in self._terms.get(name, ())
            if terms.issued_at <= moment < terms.expires_at
        ]
        return tuple(sorted(found, key=lambda agreement: agreement.id))

    def check_purpose(self, code: str, legal_basis: str = "") -> str:
        """Give the legal basis for a purpose, as ``PurposeRegister.check_purpose`` does."""
        return legal_basis_for(code, legal_basis, self._bases.get(code, frozenset()))


class Glances:
    """The memory of one catalogue. Thread-safe."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()  # owns the two fields below
        self._number = -1
        self._held: dict[str, Glance] = {}
        self._bases: Mapping[str, frozenset[str]] = {}
        self._counter = _SqliteCounter(engine) if engine.dialect.name == "sqlite" else None

    def of(self, member: str) -> Glance | None:
        """Give what is in memory if it is still true."""
        number = self._counter.read() if self._counter is not None else self._read()
        with self._lock:
            return self._held.get(member) if number == self._number else None

    def load(self, connection: Connection, shelf: Shelf, member: str) -> Glance:
        """Read what the member needs, in the transaction in which the shelf was found to be the newest."""
        table = AGREEMENTS.c
        query = select(AGREEMENTS).where(table.grantee == member, table.revoked_at.is_(None))
        terms: dict[DatasetName, list[_Terms]] = {}
        for row in connection.execute(query):
            agreement = Agreement.from_json(json.loads(row.document))
            terms.setdefault(agreement.dataset, []).append(_Terms(agreement, row.issued_at, row.expires_at))
        bases: dict[str, set[str]] = {}
        for row in connection.execute(select(PURPOSE_BASES)):
            bases.setdefault(row.purpose, set()).add(row.basis)
        glance = Glance(
            shelf.generation,
            shelf.schema(member),
            {name: tuple(items) for name, items in terms.items()},
            {code: frozenset(items) for code, items in bases.items()},
        )
        with self._lock:
            if shelf.generation > self._number or len(self._held) >= MEMBERS_HELD_MAX:
                self._held.clear()
                self._number = max(self._number, shelf.generation)
            if shelf.generation == self._number:
                self._held[member] = glance
        return glance

    def _read(self) -> int:
        with reading(self._engine) as connection:
            return generation(connection, CATALOGUE)


class _SqliteCounter:
    """Reads the counter over a connection of its own: microseconds, where the pooled way takes half a millisecond."""

    def __init__(self, engine: Engine) -> None:
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(str(engine.url.database), isolation_level=None, check_same_thread=False)
        self._connection.execute(f"PRAGMA busy_timeout={SQLITE_BUSY_MS}")
        self._connection.execute("PRAGMA query_only=ON")
        self._sql = f"SELECT value FROM {COUNTERS.name} WHERE name = ?"  # noqa: S608 - our own table's name

    def read(self) -> int:
        """Give the newest committed number."""
        try:
            with self._lock:
                row = self._connection.execute(self._sql, (CATALOGUE,)).fetchone()
        except sqlite3.Error as error:
            message = "the catalogue's database does not answer"
            raise error_for(Code.INTERNAL, message, detail=str(error)) from error
        return int(row[0])

"""The catalogue: register, change, withdraw, find.

Every change is one transaction: checked, versioned, indexed, recorded in the audit log, committed. A dataset that the
asker may not know about and one that does not exist look the same from outside.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy import Connection, Engine, Row, insert, select, update

from catalogue import search as search_index
from catalogue.agreements import AgreementRegister, Signers, Verify
from catalogue.database import CATALOGUE, generation, reading, writing
from catalogue.glance import Glance, Glances
from catalogue.held import already_held
from catalogue.pages import Token, page_size_of
from catalogue.purposes import PurposeRegister, Record, unrecorded
from catalogue.requests import earlier_answer, remember
from catalogue.search import Found, SearchQuery
from catalogue.shelf import Shelf, same_schema, seen_by
from catalogue.tables import DATASET_VERSIONS, DATASETS, MEMBERS
from catalogue.texts import plain_text
from catalogue.validate import validated
from tidegate.core.canonical import canonical, sha256_hex
from tidegate.core.clock import Clock, timestamp
from tidegate.core.dataset import Dataset
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.names import DatasetName

REASON_CHARS_MAX: Final = 500


@dataclass(frozen=True, slots=True)
class Registered:
    """What a registration answers; a notice says who holds the same already and how to get it."""

    dataset: Dataset
    notices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Version:
    """One version in a dataset's history."""

    number: int
    at: str
    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class DatasetPage:
    """Some datasets, by name; an empty token means that these were the last."""

    datasets: tuple[Dataset, ...]
    next_page_token: str


class Catalogue(PurposeRegister, AgreementRegister):
    """All that one exchange's catalogue holds; safe for threads, and for several brokers on one database.

    Args:
        engine: from ``catalogue.database.open_database``.
        verify, signers: see ``AgreementRegister``.
    """

    def __init__(
        self, engine: Engine, clock: Clock, *, verify: Verify | None = None, signers: Signers | None = None
    ) -> None:
        AgreementRegister.__init__(self, engine, clock, verify=verify, signers=signers)
        self._texts = search_index.Texts()
        self._shelf: Shelf | None = None
        self._glances = Glances(engine)
        self._shelf_lock = threading.Lock()  # owns _shelf; not held while the database is read

    # --- looking --------------------------------------------------------------------------------------------------

    def schema_for(self, member: str) -> tuple[int, dict[DatasetName, Dataset]]:
        """Give what the member's queries may name, with the generation that it holds for. Do not change the dict."""
        shelf = self._newest()
        return shelf.generation, shelf.schema(member)

    def glance(self, member: str) -> Glance:
        """Give what one request of the member needs, as it is now: one small read while nothing has changed."""
        held = self._glances.of(member)
        if held is not None:
            return held
        with reading(self._engine) as connection:
            return self._glances.load(connection, self._put_on_shelf(connection), member)

    def may_know(self, member: str, dataset: Dataset) -> bool:
        """Say whether the member may know that the dataset exists."""
        return self._newest().may_know(member, dataset)

    def dataset(self, member: str, name: DatasetName, version: int = 0) -> Dataset:
        """Give a dataset; version 0 is the newest. A withdrawn one is known to its owner alone.

        Raises:
            CallerError: CAT_NOT_FOUND; no such dataset or version, or the member may not know about it.
        """
        with reading(self._engine) as connection:
            newest = self._known(connection, member, name)
            if version in (0, newest.version):
                return seen_by(member, newest)
            row = connection.execute(_history(name).where(DATASET_VERSIONS.c.version == version)).first()
        if row is None:
            raise _not_found()
        return seen_by(member, Dataset.from_json(json.loads(row.document)))

    def versions(self, member: str, name: DatasetName) -> tuple[Version, ...]:
        """Give a dataset's history, oldest first. Who changed it is for the owner only."""
        with reading(self._engine) as connection:
            owner = self._known(connection, member, name).owner
            rows = connection.execute(_history(name).order_by(DATASET_VERSIONS.c.version)).all()
        return tuple(Version(row.version, row.at, row.actor if member == owner else "", row.reason) for row in rows)

    def list_datasets(self, member: str, *, owner: str = "", page_size: int = 0, page_token: str = "") -> DatasetPage:
        """Give the datasets that the member may know about, by name."""
        size = page_size_of(page_size)
        after = Token.read(page_token, "datasets").text(0) if page_token else ""
        known = (dataset for dataset in self._newest().known(member) if not owner or dataset.owner == owner)
        rest = sorted((item for item in known if str(item.name) > after), key=lambda item: str(item.name))
        token = Token("datasets", (str(rest[size - 1].name),)).write() if len(rest) > size else ""
        return DatasetPage(tuple(rest[:size]), token)

    def search(self, member: str, query: SearchQuery, *, page_size: int = 0, page_token: str = "") -> Found:
        """Find datasets by words, column, data element, class, owner; best first, with facets."""
        words = search_index.parse_query(query)
        with reading(self._engine) as connection:
            shelf = self._put_on_shelf(connection)
            ids = search_index.candidates(connection, words) if words else None
        known = shelf.known(member) if ids is None else shelf.known_of(member, ids)
        return search_index.answer(query, words, known, self._texts, page_size=page_size, page_token=page_token)

    # --- changing -------------------------------------------------------------------------------------------------

    def register(
        self, dataset: Dataset, *, actor: str = "", idempotency_key: str = "", record: Record = unrecorded
    ) -> Registered:
        """Add a dataset, or bring back one that was withdrawn. The version is counted here, whatever the dataset says.

        Args:
            actor: SPIFFE id of whoever does it; that it may act for the owner is checked in ``catalogue.wire``.

        Raises:
            CallerError: CAT_INVALID; CAT_CONFLICT when the name is taken; ID_MEMBER_UNKNOWN for an owner that is none.
        """
        dataset = replace(validated(dataset), withdrawn=False, version=1)
        request = {"register": dataset.to_json()}
        self._newest()  # so that little is left to load while other writers wait
        with writing(self._engine, CATALOGUE) as connection:
            earlier = earlier_answer(connection, dataset.owner, idempotency_key, request)
            if earlier is not None:
                return Registered(
                    self._version(connection, dataset.name, earlier["version"]), tuple(earlier["notices"])
                )
            shelf = self._shelf_of(connection)
            self._check_place(connection, shelf, dataset)
            row = _row(connection, dataset.name)
            if row is not None:
                before = Dataset.from_json(json.loads(row.document))
                if not before.withdrawn or before.owner != dataset.owner:
                    raise error_for(Code.CAT_CONFLICT, "dataset: the name is taken; use update to change it")
                dataset = replace(dataset, version=before.version + 1)
            held = already_held(dataset, shelf.known(dataset.owner))
            notices = tuple(notice.text for notice in held)
            self._write(connection, dataset, row, actor, "registered")
            answer = {"version": dataset.version, "notices": list(notices)}
            remember(connection, dataset.owner, idempotency_key, request, answer, self._clock.now())
            record(_entry("register", dataset, {"already_held": [str(notice.dataset) for notice in held]}))
        return Registered(dataset, notices)

    def update(
        self,
        dataset: Dataset,
        *,
        expected_version: int,
        actor: str = "",
        idempotency_key: str = "",
        record: Record = unrecorded,
    ) -> Dataset:
        """Change a dataset that has the expected version; the version counts up by one.

        Raises:
            CallerError: CAT_NOT_FOUND; CAT_INVALID; CAT_CONFLICT when somebody else changed it meanwhile.
        """
        dataset = validated(dataset)
        dataset = replace(dataset, withdrawn=False, version=expected_version + 1)
        request = {"update": dataset.to_json()}
        self._newest()
        with writing(self._engine, CATALOGUE) as connection:
            earlier = earlier_answer(connection, dataset.owner, idempotency_key, request)
            if earlier is not None:
                return self._version(connection, dataset.name, earlier["version"])
            row, before = self._own(connection, dataset.owner, dataset.name)
            if before.version != expected_version:
                raise error_for(Code.CAT_CONFLICT, "dataset: it was changed since it was read")
            if bool(before.parts) != bool(dataset.parts):
                raise error_for(Code.CAT_INVALID, "parts: a dataset cannot become a collection, nor a collection one")
            self._check_place(connection, self._shelf_of(connection), dataset)
            self._write(connection, dataset, row, actor, "updated")
            remember(
                connection, dataset.owner, idempotency_key, request, {"version": dataset.version}, self._clock.now()
            )
            record(_entry("update", dataset))
        return dataset

    def withdraw(
        self,
        owner: str,
        name: DatasetName,
        *,
        reason: str,
        actor: str = "",
        idempotency_key: str = "",
        record: Record = unrecorded,
    ) -> None:
        """Take a dataset out of everybody's sight; its history stays. A collection that it is a part of goes with it.

        Raises:
            CallerError: CAT_NOT_FOUND; CAT_INVALID for an empty reason.
        """
        if not reason.strip():
            raise error_for(Code.CAT_INVALID, "withdrawal: expected a reason")
        plain_text("reason", reason, chars_max=REASON_CHARS_MAX)
        request = {"withdraw": str(name), "reason": reason}
        with writing(self._engine, CATALOGUE) as connection:
            if earlier_answer(connection, owner, idempotency_key, request) is not None:
                return
            row, before = self._own(connection, owner, name)
            after = replace(before, withdrawn=True, version=before.version + 1)
            self._write(connection, after, row, actor, reason)
            remember(connection, owner, idempotency_key, request, {"version": after.version}, self._clock.now())
            record(_entry("withdraw", after, {"reason": reason}))

    # --- inside ---------------------------------------------------------------------------------------------------

    def _newest(self) -> Shelf:
        with reading(self._engine) as connection:
            return self._put_on_shelf(connection)

    def _put_on_shelf(self, connection: Connection) -> Shelf:
        """Load the shelf of a committed state, and keep it unless a newer one is there already."""
        shelf = self._shelf_of(connection)
        with self._shelf_lock:
            if self._shelf is None or self._shelf.generation < shelf.generation:
                self._shelf = shelf
        return shelf

    def _shelf_of(self, connection: Connection) -> Shelf:
        # A kept shelf that is newer than this snapshot cannot be its base: rows it holds may not exist here yet.
        kept, number = self._shelf, generation(connection, CATALOGUE)
        return Shelf.load(connection, kept if kept is not None and kept.generation <= number else None)

    def _known(self, connection: Connection, member: str, name: DatasetName) -> Dataset:
        shelf = self._put_on_shelf(connection)
        dataset = shelf.find(name)
        if dataset is None or not shelf.may_know(member, dataset):
            raise _not_found()
        return dataset

    def _own(self, connection: Connection, owner: str, name: DatasetName) -> tuple[Row[*tuple[Any, ...]], Dataset]:
        row = _row(connection, name)
        before = Dataset.from_json(json.loads(row.document)) if row is not None else None
        if row is None or before is None or before.owner != owner or before.withdrawn:
            raise _not_found()
        return row, before

    def _version(self, connection: Connection, name: DatasetName, number: int) -> Dataset:
        row = connection.execute(_history(name).where(DATASET_VERSIONS.c.version == number)).one()
        return Dataset.from_json(json.loads(row.document))

    def _check_place(self, connection: Connection, shelf: Shelf, dataset: Dataset) -> None:
        """Check what the dataset says about others: its owner, its namespace, its parts."""
        member = connection.execute(select(MEMBERS.c.revoked_at).where(MEMBERS.c.name == dataset.owner)).first()
        if member is None or member.revoked_at is not None:
            raise error_for(Code.ID_MEMBER_UNKNOWN)
        department, table = dataset.name.department, DATASETS.c
        if department != dataset.owner:
            # A collection may have a namespace of its own, which belongs to whoever used it first.
            foreign = select(table.id).where(table.department == department, table.owner != dataset.owner).limit(1)
            named = select(MEMBERS.c.name).where(MEMBERS.c.name == department)
            if connection.execute(named).first() or connection.execute(foreign).first():
                raise error_for(Code.CAT_CONFLICT, "dataset: the department in its name is another member's")
        folded = str(dataset.name).casefold()
        taken = select(table.id).where(table.folded == folded, table.name != str(dataset.name))
        if connection.execute(taken).first():
            raise error_for(Code.CAT_CONFLICT, "dataset: its name differs from another one in case only")
        for position, name in enumerate(dataset.parts, start=1):
            part = shelf.find(name)
            if part is None or part.withdrawn or part.parts or not shelf.may_know(dataset.owner, part):
                raise error_for(Code.CAT_INVALID, f"part {position}: no such dataset, or it may not be known to you")
            if not same_schema(dataset, part):
                raise error_for(Code.CAT_INVALID, f"part {position}: expected the collection's columns and types")

    def _write(
        self, connection: Connection, dataset: Dataset, row: Row[*tuple[Any, ...]] | None, actor: str, reason: str
    ) -> None:
        document = json.dumps(dataset.to_json(), ensure_ascii=False, sort_keys=True)
        values: dict[str, Any] = {
            "version": dataset.version,
            "generation": generation(connection, CATALOGUE),
            "document": document,
        }
        if row is not None:
            dataset_id = int(row.id)
            connection.execute(update(DATASETS).where(DATASETS.c.id == dataset_id).values(values))
        else:
            values |= {"name": str(dataset.name), "folded": str(dataset.name).casefold(), "owner": dataset.owner}
            values["department"] = dataset.name.department
            done = connection.execute(insert(DATASETS).values(values).returning(DATASETS.c.id))
            dataset_id = int(done.scalar_one())
        connection.execute(
            insert(DATASET_VERSIONS).values(
                dataset_id=dataset_id,
                version=dataset.version,
                document=document,
                actor=actor,
                at=timestamp(self._clock.now()),
                reason=reason,
            )
        )
        search_index.index(connection, dataset_id, dataset)


def _row(connection: Connection, name: DatasetName) -> Row[*tuple[Any, ...]] | None:
    query = select(DATASETS.c.id, DATASETS.c.document).where(DATASETS.c.name == str(name))
    return connection.execute(query).first()


def _history(name: DatasetName) -> Any:
    wanted = select(DATASETS.c.id).where(DATASETS.c.name == str(name)).scalar_subquery()
    return select(DATASET_VERSIONS).where(DATASET_VERSIONS.c.dataset_id == wanted)


def _entry(action: str, dataset: Dataset, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {
        "kind": "catalogue",
        "action": action,
        "dataset": str(dataset.name),
        "version": dataset.version,
        "document_sha256": sha256_hex(canonical(dataset.to_json())),
        **(more or {}),
    }


def _not_found() -> TidegateError:
    return error_for(Code.CAT_NOT_FOUND)

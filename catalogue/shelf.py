"""Every dataset in memory, who may know about which, and the schema that a member's queries are planned against.

A shelf is one generation of the catalogue. The next one is made from it by reading only what changed, so that looking
costs one small query however large the catalogue is.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace

from sqlalchemy import Connection, select

from catalogue.database import CATALOGUE, generation
from catalogue.tables import DATASETS
from catalogue.validate import EVERYBODY
from tidegate.core.dataset import Dataset
from tidegate.core.names import DatasetName


class Shelf:
    """All datasets at one generation; immutable save for its own cache of schemas."""

    def __init__(self, number: int, datasets: Mapping[int, Dataset]) -> None:
        self.generation = number
        self._by_id = datasets
        self._by_name = {dataset.name: dataset for dataset in datasets.values()}
        self._schemas: dict[str, dict[DatasetName, Dataset]] = {}
        self._lock = threading.Lock()  # owns _schemas

    @classmethod
    def load(cls, connection: Connection, before: Shelf | None) -> Shelf:
        """Give the newest shelf; ``before`` itself when nothing has changed."""
        number = generation(connection, CATALOGUE)
        if before is not None and before.generation == number:
            return before
        known = before.generation if before is not None else 0
        datasets = dict(before._by_id) if before is not None else {}
        changed = select(DATASETS.c.id, DATASETS.c.document).where(DATASETS.c.generation > known)
        for row in connection.execute(changed):
            datasets[row.id] = Dataset.from_json(json.loads(row.document))
        return cls(number, datasets)

    def find(self, name: DatasetName) -> Dataset | None:
        """Give the dataset whoever asks; withdrawn ones too."""
        return self._by_name.get(name)

    def may_know(self, member: str, dataset: Dataset) -> bool:
        """Say whether the member may know that the dataset exists.

        The owner always may. A collection is known to those who may know all of its parts: its parts' names are in its
        schema, and an answer without the hidden ones would be wrong without saying so.
        """
        if dataset.owner == member:
            return True
        if dataset.withdrawn or member in dataset.hidden_from or EVERYBODY in dataset.hidden_from:
            return False
        return all(self._knows_part(member, part) for part in dataset.parts)

    def known(self, member: str, *, withdrawn: bool = False) -> Iterator[Dataset]:
        """Give all that the member may know about, as the member may see it.

        Args:
            withdrawn: give the member's own withdrawn ones too.
        """
        for dataset in self._by_id.values():
            if (withdrawn or not dataset.withdrawn) and self.may_know(member, dataset):
                yield seen_by(member, dataset)

    def known_of(self, member: str, ids: set[int]) -> Iterator[Dataset]:
        """Give those of the candidates that the member may know about and that are not withdrawn."""
        for dataset_id in ids:
            dataset = self._by_id.get(dataset_id)
            if dataset is not None and not dataset.withdrawn and self.may_know(member, dataset):
                yield seen_by(member, dataset)

    def schema(self, member: str) -> dict[DatasetName, Dataset]:
        """Give what the member's queries may name: known, not withdrawn, and for a collection, whole."""
        with self._lock:
            if member not in self._schemas:
                self._schemas[member] = {
                    dataset.name: dataset for dataset in self.known(member) if self._is_whole(member, dataset)
                }
            return self._schemas[member]

    def _knows_part(self, member: str, name: DatasetName) -> bool:
        part = self._by_name.get(name)
        return part is not None and not part.parts and self.may_know(member, part)

    def _is_whole(self, member: str, dataset: Dataset) -> bool:
        """Say whether every part is live, known to the member, and has the collection's columns and types."""
        for name in dataset.parts:
            part = self._by_name.get(name)
            if part is None or part.withdrawn or not self.may_know(member, part) or not same_schema(dataset, part):
                return False
        return True


def same_schema(collection: Dataset, part: Dataset) -> bool:
    """Say whether the part has the collection's columns, by name and type; order does not matter."""
    wanted = {(column.name, column.type) for column in collection.columns}
    return wanted == {(column.name, column.type) for column in part.columns}


def seen_by(member: str, dataset: Dataset) -> Dataset:
    """Give the dataset without what only its owner may see: from whom it is hidden."""
    return dataset if dataset.owner == member or not dataset.hidden_from else replace(dataset, hidden_from=())

"""The catalogue as the client sees it: datasets as values, search, registration."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from typing import Any

from tidegate.client.wire import Transport
from tidegate.core.dataset import Dataset


class CatalogueClient:
    """Who offers which dataset under which terms."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def __iter__(self) -> Iterator[Dataset]:
        """List every dataset that the caller may know about."""
        return self.datasets()

    def __getitem__(self, name: str) -> Dataset:
        """Get one dataset by ``department.dataset``."""
        return Dataset.from_json(self._transport.dataset(name)[0])

    def datasets(self, owner: str = "") -> Iterator[Dataset]:
        """List datasets, of one owner or of all."""
        token = ""
        while True:
            page, token = self._transport.datasets(owner, token)
            yield from (Dataset.from_json(item) for item in page)
            if not token:
                return

    def search(
        self,
        words: str = "",
        *,
        column: str = "",
        element: str = "",
        dataset_class: str = "",
        owner: str = "",
        limit: int = 20,
    ) -> list[Dataset]:
        """Search by words, column name, standard data element, class or owner; best first."""
        found, _, _, _ = self._transport.search(
            words,
            column=column,
            element=element,
            dataset_class=dataset_class,
            owner=owner,
            page_size=limit,
            page_token="",
        )
        return [Dataset.from_json(item) for item in found]

    def register(self, dataset: Dataset) -> tuple[Dataset, list[str]]:
        """Register a dataset of the caller's own member; the notices say who holds the same already."""
        stored, notices = self._transport.register(dataset.to_json(), secrets.token_hex(16))
        return Dataset.from_json(stored), notices

    def update(self, dataset: Dataset) -> Dataset:
        """Register a change of a dataset whose ``version`` is the one that was read."""
        return Dataset.from_json(self._transport.update(dataset.to_json(), dataset.version, secrets.token_hex(16)))

    def withdraw(self, name: str, reason: str) -> None:
        """Withdraw a dataset; its history stays."""
        self._transport.withdraw(name, reason, secrets.token_hex(16))

    def versions(self, name: str) -> Sequence[int]:
        """Give the numbers of a dataset's versions."""
        return self._transport.dataset(name)[1]

    def held_by_node(self, node: str = "") -> Sequence[Dataset]:
        """Ask what the caller's own node says that it holds."""
        return [Dataset.from_json(item) for item in self._transport.node_description(node)]

    def purposes(self) -> Sequence[dict[str, Any]]:
        """List the registered purposes with their legal bases."""
        return self._transport.purposes()

"""The Arrow schema that a restricted fragment has in DuckDB, found by planning it over empty tables.

What a database computes must come in exactly the types that a worker would give. Only fragments that a translation has passed
come here (``node.live``): closed lists of forms, no function that runs long, and no row to run over.
"""

from __future__ import annotations

from collections.abc import Sequence

import duckdb
import pyarrow as pa

from node.postgres import quote
from tidegate.core.cache import BoundedCache
from tidegate.core.dataset import Dataset
from tidegate.core.errors import Code, error_for
from tidegate.sql.restrict import KEY, RestrictedQuery

_KEPT_MAX = 1_024
_KEPT_BYTES = 4 << 20
_KEYS = {"integer": "BIGINT", "text": "VARCHAR", "date": "DATE"}


class Shapes:
    """Finds schemas and remembers them. Thread-safe."""

    def __init__(self) -> None:
        self._known: BoundedCache[pa.Schema] = BoundedCache(entries_max=_KEPT_MAX, bytes_max=_KEPT_BYTES)

    def of(self, restricted: RestrictedQuery, datasets: Sequence[Dataset]) -> pa.Schema:
        """Give the schema.

        Raises:
            PeerError: NODE_EXECUTE, the fragment does not fit the datasets.
        """
        # of a number the engine's type depends on its size; of a text, on nothing
        kinds = tuple(
            type(value).__name__ if isinstance(value, str) else repr(value) for value in restricted.query.parameters
        )
        tables = tuple(_table(dataset) for dataset in datasets)
        key = (restricted.setup, restricted.query.text, kinds, tables, tuple(sorted(restricted.keys.items())))
        found = self._known.get(key)
        if found is None:
            found = _plan(restricted, datasets, tables)
            self._known.put(key, found, size_bytes=2 * len(restricted.query.text) + 1_000)
        return found


def _table(dataset: Dataset) -> str:
    columns = ", ".join(f"{quote(column.name)} {column.type}" for column in dataset.columns)
    return f"CREATE TABLE {quote(dataset.name.department)}.{quote(dataset.name.name)} ({columns})"


def _plan(restricted: RestrictedQuery, datasets: Sequence[Dataset], tables: Sequence[str]) -> pa.Schema:
    connection = duckdb.connect(config={"threads": 1, "memory_limit": "128MB", "enable_external_access": "false"})
    try:
        connection.execute("SET TimeZone = 'UTC'")
        for department in dict.fromkeys(dataset.name.department for dataset in datasets):
            connection.execute(f"CREATE SCHEMA {quote(department)}")
        for name, kind in restricted.keys.items():
            connection.execute(f"CREATE TABLE {quote(name)} ({quote(KEY)} {_KEYS[kind]})")
        for statement in (*tables, *restricted.setup):
            connection.execute(statement)
        relation = connection.sql(restricted.query.text, params=list(restricted.query.parameters))
        return relation.to_arrow_reader(1).schema
    except duckdb.Error as error:
        raise error_for(Code.NODE_EXECUTE, detail=f"shape: {type(error).__name__}") from error
    finally:
        connection.close()

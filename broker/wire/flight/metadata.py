"""Flight SQL's metadata: what a caller may know of the exchange, as the tables that drivers expect.

Catalog is the exchange, schema a department, table a dataset. What is shown comes from the same glance at the catalogue that
the planner resolves names with, so no tool can list what a query could not name; asking needs no purpose.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
from google.protobuf.message import Message

from broker.wire.flight import schemas, table_listing
from broker.wire.flight.column_types import ColumnTypes
from broker.wire.flight.patterns import matcher
from broker.wire.flight.sql_info import sql_info, sql_info_batch
from broker.wire.flight.table_listing import COLLECTION, TABLE, View
from broker.wire.flight.xdbc import type_info
from catalogue.glance import Glance
from catalogue.store import Catalogue
from tidegate.core.agreement import Agreement
from tidegate.core.caller import Caller
from tidegate.core.clock import Clock
from tidegate.core.dataset import Dataset, DatasetClass
from tidegate.core.errors import Code, error_for
from tidegate.core.names import DatasetName
from tidegate.v1 import flight_sql_pb2 as sql

COMMANDS = schemas.COMMANDS
"""The types of the commands that ``Metadata`` answers."""

INFOS_ASKED_MAX = 1_000


class Metadata:
    """Answers metadata commands. Thread-safe.

    Args:
        exchange: the exchange's name; the one catalog.
        statement_timeout_s: how long a prepared statement lives unused; told to clients.
    """

    def __init__(self, catalogue: Catalogue, exchange: str, *, clock: Clock, statement_timeout_s: float) -> None:
        self._catalogue = catalogue
        self._exchange = exchange
        self._clock = clock
        self._info = sql_info(statement_timeout_s=statement_timeout_s)
        self._types = ColumnTypes()

    def schema(self, command: Message) -> pa.Schema:
        """Give the schema of a command's answer; nothing is looked up for it.

        Raises:
            CallerError: WIRE_UNSUPPORTED, not a command that asks for metadata.
        """
        return schemas.schema_of(command)

    def table(self, command: Message, caller: Caller) -> pa.Table:
        """Give the answer in one piece: for whoever knows that it is small."""
        return pa.Table.from_batches(self.batches(command, caller), schema=self.schema(command))

    def batches(self, command: Message, caller: Caller) -> Iterator[pa.RecordBatch]:
        """Give the answer in batches of at most ``BATCH_BYTES_MAX``, each of ``schema(command)``; none when it is empty.

        What can be refused is refused here, before the first batch is asked for.

        Trust: anybody may have written the command.

        Raises:
            CallerError: WIRE_UNSUPPORTED, WIRE_INVALID; FETCH_LIMIT, when more is asked for than one answer may hold.
        """
        match command:
            case sql.CommandGetSqlInfo():
                if len(command.info) > INFOS_ASKED_MAX:
                    raise error_for(Code.WIRE_INVALID, f"SqlInfo: more than {INFOS_ASKED_MAX} numbers")
                return iter([sql_info_batch(self._info, command.info)])
            case sql.CommandGetXdbcTypeInfo():
                return iter([type_info(command.data_type if command.HasField("data_type") else None)])
            case sql.CommandGetCatalogs():
                return self._rows(command, [{"catalog_name": self._exchange}])
            case sql.CommandGetTableTypes():
                return self._rows(command, [{"table_type": TABLE}, {"table_type": COLLECTION}])
            case sql.CommandGetDbSchemas():
                return self._rows(command, self._departments(command, caller))
            case sql.CommandGetTables():
                return self._tables(command, caller)
            case sql.CommandGetPrimaryKeys():
                return self._rows(command, self._keys(command, caller))
        return self._rows(command, [])  # datasets declare no references to each other; another command has no schema

    def departments(self, caller: Caller) -> frozenset[str]:
        """Give the departments that the caller may know of; each owns at least one dataset that the caller may know."""
        return frozenset(name.department for name in self._catalogue.glance(caller.member).schema)

    def _rows(self, command: Message, rows: Iterable[dict[str, Any]]) -> Iterator[pa.RecordBatch]:
        return iter(pa.Table.from_pylist(list(rows), schema=self.schema(command)).to_batches())

    def _is_ours(self, command: Message) -> bool:
        """Say whether a command's catalog, if it names one, is the exchange."""
        return not command.HasField("catalog") or command.catalog == self._exchange  # type: ignore[attr-defined]

    def _departments(self, command: sql.CommandGetDbSchemas, caller: Caller) -> list[dict[str, Any]]:
        if not self._is_ours(command):
            return []
        pattern = command.db_schema_filter_pattern if command.HasField("db_schema_filter_pattern") else None
        names = sorted(filter(matcher(pattern), self.departments(caller)))
        return [{"catalog_name": self._exchange, "db_schema_name": name} for name in names]

    def _tables(self, command: sql.CommandGetTables, caller: Caller) -> Iterator[pa.RecordBatch]:
        glance = self._catalogue.glance(caller.member)
        found = table_listing.find(command, self._exchange, glance)
        view = self._view(glance, caller, found if command.include_schema else ())
        return table_listing.batches(found, view, self._types, schemas=command.include_schema)

    def _keys(self, command: sql.CommandGetPrimaryKeys, caller: Caller) -> list[dict[str, Any]]:
        """Give the declared keys of the tables of this very name; a key with a column that is not shown is none."""
        glance = self._catalogue.glance(caller.member)
        found = [
            dataset
            for name, dataset in glance.schema.items()
            if name.name == command.table
            and (not command.HasField("db_schema") or name.department == command.db_schema)
        ]
        found = sorted(found, key=lambda item: item.name.department) if self._is_ours(command) else []
        view = self._view(glance, caller, found)
        rows = []
        for dataset in found:
            shown = {column.name for column in view.columns(dataset)}
            for place, column in enumerate(dataset.keys if shown.issuperset(dataset.keys) else (), start=1):
                rows.append(
                    {
                        "catalog_name": self._exchange,
                        "db_schema_name": dataset.name.department,
                        "table_name": dataset.name.name,
                        "column_name": column,
                        "key_name": None,
                        "key_sequence": place,
                    }
                )
        return rows

    def _view(self, glance: Glance, caller: Caller, datasets: Iterable[Dataset]) -> View:
        """Gather what the listed datasets' columns depend on."""
        conditional = [
            name
            for dataset in datasets
            for name in (dataset.name, *dataset.parts)
            if glance.schema[name].dataset_class is DatasetClass.CONDITIONAL
        ]
        held: dict[DatasetName, list[Agreement]] = {}
        if conditional:
            for agreement in glance.agreements_for(conditional, self._clock.now()):
                held.setdefault(agreement.dataset, []).append(agreement)
        return View(self._exchange, caller, glance.schema, held)

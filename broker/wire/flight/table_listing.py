"""GetTables: the datasets that a caller may know, each with the columns that some query of the caller could read.

Streams: a large catalogue leaves in batches, and each table's schema is made when its batch is. What a field says beyond its
type (class, sensitivity, the purpose needed) is what ``tidegate dataset show`` says, in the words that tools show as remarks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from broker.wire.flight.column_types import ColumnTypes
from broker.wire.flight.patterns import matcher
from broker.wire.flight.schemas import TABLES, TABLES_WITH_SCHEMA
from catalogue.glance import Glance
from policies.star import listed
from tidegate.core.agreement import Agreement
from tidegate.core.caller import Caller
from tidegate.core.dataset import Column, Dataset, DatasetClass
from tidegate.core.errors import Code, error_for
from tidegate.core.limits import BATCH_BYTES_MAX
from tidegate.core.names import DatasetName
from tidegate.v1 import flight_sql_pb2 as sql

TABLE, COLLECTION = "TABLE", "VIEW"
TABLES_MAX = 100_000  # of one answer without schemas; 100,000 datasets are what the catalogue is made for (targets.md)
COLUMNS_MAX = 100_000  # of one answer with schemas: some 90 MB and 1.5 s of work, and drivers hold the whole of it
BATCH_ROWS = 4_096  # of a batch without schemas
REMARK_CHARS_MAX = 500
REMARKS_CHARS_MAX = 256 * 1024  # of one table, shared by its columns: 2,000 columns still make one message
PURPOSES_SHOWN_MAX = 5
_ROW_BYTES = 1_024  # of a row beside its schema: four names
_KEY = "ARROW:FLIGHT:SQL:"


@dataclass(frozen=True, slots=True)
class View:
    """The catalogue at one moment, as one caller sees it."""

    exchange: str
    caller: Caller
    datasets: Mapping[DatasetName, Dataset]
    agreements: Mapping[DatasetName, Sequence[Agreement]]

    def columns(self, dataset: Dataset) -> tuple[Column, ...]:
        """Give the columns of a dataset that the caller may know; of a collection, what it may know of every part."""
        shown = listed(self.caller, dataset, self.agreements.get(dataset.name, ()))
        for part in dataset.parts:
            inside = listed(self.caller, self.datasets[part], self.agreements.get(part, ()))
            names = {column.name for column in inside}
            shown = tuple(column for column in shown if column.name in names)
        return shown

    def terms(self, dataset: Dataset) -> list[Agreement]:
        """Give the caller's agreements on a dataset; those on a collection's parts count as its own."""
        names = dataset.parts or (dataset.name,)
        return [item for name in names for item in self.agreements.get(name, ())]


def type_of(dataset: Dataset) -> str:
    """Give the kind of table that a dataset is to SQL tools."""
    return COLLECTION if dataset.parts else TABLE


def find(command: sql.CommandGetTables, exchange: str, glance: Glance) -> list[Dataset]:
    """Give the datasets that a command asks for, by department and name.

    Raises:
        CallerError: FETCH_LIMIT, they are more than one answer may hold.
    """
    if command.HasField("catalog") and command.catalog != exchange:
        return []
    kinds = frozenset(command.table_types) or frozenset((TABLE, COLLECTION))
    in_schema = matcher(command.db_schema_filter_pattern if command.HasField("db_schema_filter_pattern") else None)
    by_name = matcher(command.table_name_filter_pattern if command.HasField("table_name_filter_pattern") else None)
    departments = {name for name in {key.department for key in glance.schema} if in_schema(name)}
    found = [
        dataset
        for key, dataset in glance.schema.items()
        if key.department in departments and by_name(key.name) and type_of(dataset) in kinds
    ]
    columns = sum(len(dataset.columns) for dataset in found) if command.include_schema else 0
    if len(found) > TABLES_MAX or columns > COLUMNS_MAX:
        raise error_for(
            Code.FETCH_LIMIT,
            f"tables: one answer holds {TABLES_MAX} of them, and {COLUMNS_MAX} columns where these are asked for; narrow it "
            "with a pattern for schema or table",
        )
    found.sort(key=lambda dataset: (dataset.name.department, dataset.name.name))
    return found


def batches(found: Iterable[Dataset], view: View, types: ColumnTypes, *, schemas: bool) -> Iterator[pa.RecordBatch]:
    """Give the rows of the tables that were found, in batches of at most ``BATCH_BYTES_MAX``."""
    rows: list[Dataset] = []
    described: list[bytes] = []
    size = 0
    for dataset in found:
        text = table_schema(dataset, view, types).serialize().to_pybytes() if schemas else b""
        if rows and (size + len(text) + _ROW_BYTES > BATCH_BYTES_MAX or len(rows) >= BATCH_ROWS):
            yield _batch(rows, described, view.exchange, schemas=schemas)
            rows, described, size = [], [], 0
        rows.append(dataset)
        described.append(text)
        size += len(text) + _ROW_BYTES
    if rows:
        yield _batch(rows, described, view.exchange, schemas=schemas)


def _batch(rows: Sequence[Dataset], described: Sequence[bytes], exchange: str, *, schemas: bool) -> pa.RecordBatch:
    columns = [
        pa.array([exchange] * len(rows), pa.string()),
        pa.array([dataset.name.department for dataset in rows], pa.string()),
        pa.array([dataset.name.name for dataset in rows], pa.string()),
        pa.array([type_of(dataset) for dataset in rows], pa.string()),
    ]
    if not schemas:
        return pa.RecordBatch.from_arrays(columns, schema=TABLES)
    return pa.RecordBatch.from_arrays([*columns, pa.array(described, pa.binary())], schema=TABLES_WITH_SCHEMA)


def table_schema(dataset: Dataset, view: View, types: ColumnTypes) -> pa.Schema:
    """Describe a dataset: the Arrow types of a query's stream, and what Flight SQL and the catalogue say beside them.

    Every column may be null here, whatever it is at its source: a mask may make it so.
    """
    access = _access(dataset, view.terms(dataset))
    columns = view.columns(dataset)
    chars_max = min(REMARK_CHARS_MAX, REMARKS_CHARS_MAX // max(len(columns), 1))
    place = {
        f"{_KEY}CATALOG_NAME": view.exchange,
        f"{_KEY}SCHEMA_NAME": dataset.name.department,
        f"{_KEY}TABLE_NAME": dataset.name.name,
        f"{_KEY}IS_AUTO_INCREMENT": "0",
        f"{_KEY}IS_READ_ONLY": "1",
        f"{_KEY}IS_SEARCHABLE": "1",
    }
    fields = [_field(column, place, access, types, chars_max) for column in columns]
    about = {
        f"{_KEY}REMARKS": _remark(dataset.description or dataset.title, access, REMARK_CHARS_MAX),
        "tidegate:title": dataset.title,
        "tidegate:class": dataset.dataset_class.value,
        "tidegate:owner": dataset.owner,
    }
    return pa.schema(fields, metadata=about)


def _field(column: Column, place: Mapping[str, str], access: str, types: ColumnTypes, chars_max: int) -> pa.Field:
    kind = types.of(column.type)
    about = {**place, f"{_KEY}TYPE_NAME": kind.name, "tidegate:sensitivity": column.sensitivity}
    if kind.precision is not None:
        about[f"{_KEY}PRECISION"] = str(kind.precision)
    if kind.scale is not None:
        about[f"{_KEY}SCALE"] = str(kind.scale)
    about[f"{_KEY}IS_CASE_SENSITIVE"] = "1" if kind.arrow == pa.string() else "0"
    if column.element:
        about["tidegate:element"] = column.element
    about[f"{_KEY}REMARKS"] = _remark(column.description, f"{column.sensitivity}; {access}", chars_max)
    return pa.field(column.name, kind.arrow, metadata=about)


def _remark(description: str, facts: str, chars_max: int) -> str:
    """Say what something is and under which terms; the terms stay whole when there is room for one of the two."""
    room = chars_max - len(facts) - 3
    text = " ".join(description.split())
    if len(text) > room:
        text = f"{text[: room - 3]}..." if room > 20 else ""
    return f"{text} [{facts}]" if text else f"[{facts}]"[:chars_max]


def _access(dataset: Dataset, terms: Sequence[Agreement]) -> str:
    """Say for which purpose the caller may read a dataset, or whom to ask."""
    if dataset.dataset_class is DatasetClass.OPEN:
        return "open: any registered purpose"
    if dataset.dataset_class is DatasetClass.CLOSED:
        return f"closed: {dataset.citation[:100]}"
    if not terms:
        return f"conditional: ask a steward of {dataset.owner} for an agreement"
    purposes = sorted({purpose for item in terms for purpose in item.purposes})
    more = f" and {len(purposes) - PURPOSES_SHOWN_MAX} more" if len(purposes) > PURPOSES_SHOWN_MAX else ""
    return f"conditional: purpose {', '.join(purposes[:PURPOSES_SHOWN_MAX])}{more}"

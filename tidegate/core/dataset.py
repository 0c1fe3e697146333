"""Datasets as the catalogue describes them: values only; storage is the catalogue's, data is the node's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from tidegate.core.errors import Code, error_for
from tidegate.core.frozen import frozen
from tidegate.core.names import DatasetName, is_strict_name

SENSITIVITIES = ("public", "internal", "restricted", "secret")


class DatasetClass(Enum):
    """The three classes of State Council Order 809."""

    OPEN = "open"
    CONDITIONAL = "conditional"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Args:
        type: DuckDB type text of the closed list in ``tidegate.sql.types`` (``BIGINT``, ``DECIMAL(12,2)``, ``VARCHAR[]``).
        sensitivity: one of ``SENSITIVITIES``.
        element: standard data element (``person.id``, ``geo.grid50``), or empty.
        distinct, minimum, maximum: published statistics; None when unknown, always None for restricted and secret.
    """

    name: str
    type: str
    description: str = ""
    sensitivity: str = "internal"
    element: str = ""
    nullable: bool = True
    distinct: int | None = None
    minimum: str | None = None
    maximum: str | None = None

    def __post_init__(self) -> None:
        """Hold the name to the strict class."""
        if not is_strict_name(self.name):
            raise error_for(Code.CAT_INVALID, "column name: expected letters, digits, underscore (NFC)")
        if self.sensitivity not in SENSITIVITIES:
            raise error_for(Code.CAT_INVALID, f"sensitivity: expected one of {', '.join(SENSITIVITIES)}")


@dataclass(frozen=True, slots=True)
class Dataset:
    """One dataset, or a collection (``parts`` not empty) of datasets of one schema held by several departments.

    Args:
        owner: member name; equals ``name.department`` unless the dataset is a collection.
        node: name of the node (of the owner) that holds the data; empty for a collection.
        citation: for ``closed``, the law that closes it; mandatory there.
        legal_basis: of its collection.
        version: counts up by one with every registered change.
        bearer_ok: whether a caller that shows a bearer token, in place of a certificate, may use it.
        rows: published row count, or None.
    """

    name: DatasetName
    owner: str
    node: str
    title: str
    dataset_class: DatasetClass
    columns: tuple[Column, ...]
    description: str = ""
    legal_basis: str = ""
    citation: str = ""
    subject_column: str = ""
    keys: tuple[str, ...] = ()
    freshness: str = ""
    version: int = 1
    rows: int | None = None
    parts: tuple[DatasetName, ...] = ()
    tags: tuple[str, ...] = ()
    licence: str = ""
    withdrawn: bool = False
    hidden_from: tuple[str, ...] = ()
    bearer_ok: bool = False
    extra: Mapping[str, str] = field(default_factory=lambda: frozen({}))

    def __post_init__(self) -> None:
        """Check what the fields promise each other."""
        names = [column.name.casefold() for column in self.columns]
        if len(set(names)) != len(names):
            raise error_for(Code.CAT_INVALID, "columns: two columns have names that differ in case only")
        if self.dataset_class is DatasetClass.CLOSED and not self.citation:
            raise error_for(Code.CAT_INVALID, "class closed: expected the citation of the law that closes it")
        if self.subject_column and self.subject_column not in {column.name for column in self.columns}:
            raise error_for(Code.CAT_INVALID, "subject column: not one of the columns")

    def column(self, name: str) -> Column | None:
        """Find a column by its exact name."""
        return next((column for column in self.columns if column.name == name), None)

    def to_json(self) -> dict[str, Any]:
        """Give the dataset as JSON (the wire form and the stored form)."""
        return {
            "name": str(self.name),
            "owner": self.owner,
            "node": self.node,
            "title": self.title,
            "class": self.dataset_class.value,
            "description": self.description,
            "legal_basis": self.legal_basis,
            "citation": self.citation,
            "subject_column": self.subject_column,
            "keys": list(self.keys),
            "freshness": self.freshness,
            "version": self.version,
            "rows": self.rows,
            "parts": [str(part) for part in self.parts],
            "tags": list(self.tags),
            "licence": self.licence,
            "withdrawn": self.withdrawn,
            "hidden_from": list(self.hidden_from),
            "bearer_ok": self.bearer_ok,
            "extra": dict(self.extra),
            "columns": [
                {
                    "name": column.name,
                    "type": column.type,
                    "description": column.description,
                    "sensitivity": column.sensitivity,
                    "element": column.element,
                    "nullable": column.nullable,
                    "distinct": column.distinct,
                    "minimum": column.minimum,
                    "maximum": column.maximum,
                }
                for column in self.columns
            ],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Dataset:
        """Read what ``to_json`` wrote.

        Trust: a node or a steward may have written it; every field is checked.
        """
        try:
            return cls(
                name=DatasetName.parse(str(data["name"])),
                owner=str(data["owner"]),
                node=str(data.get("node", "")),
                title=str(data.get("title", "")),
                dataset_class=DatasetClass(data.get("class", "conditional")),
                columns=tuple(_column(item) for item in data.get("columns", ())),
                description=str(data.get("description", "")),
                legal_basis=str(data.get("legal_basis", "")),
                citation=str(data.get("citation", "")),
                subject_column=str(data.get("subject_column", "")),
                keys=tuple(str(key) for key in data.get("keys", ())),
                freshness=str(data.get("freshness", "")),
                version=int(data.get("version", 1)),
                rows=_optional_int(data.get("rows")),
                parts=tuple(DatasetName.parse(str(part)) for part in data.get("parts", ())),
                tags=tuple(str(tag) for tag in data.get("tags", ())),
                licence=str(data.get("licence", "")),
                withdrawn=bool(data.get("withdrawn", False)),
                hidden_from=tuple(str(member) for member in data.get("hidden_from", ())),
                bearer_ok=_flag(data.get("bearer_ok", False)),
                extra=frozen({str(key): str(value) for key, value in dict(data.get("extra", {})).items()}),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise error_for(Code.CAT_INVALID, "dataset: a field is missing or of the wrong type") from error


def _flag(value: Any) -> bool:
    """Read a permission: a word such as "false" must not count as one."""
    if not isinstance(value, bool):
        raise TypeError("expected true or false")
    return value


def _optional_int(value: Any) -> int | None:
    return None if value is None else int(value)


def _column(data: Mapping[str, Any]) -> Column:
    def text(key: str) -> str | None:
        return None if data.get(key) is None else str(data[key])

    return Column(
        name=str(data["name"]),
        type=str(data["type"]),
        description=str(data.get("description", "")),
        sensitivity=str(data.get("sensitivity", "internal")),
        element=str(data.get("element", "")),
        nullable=bool(data.get("nullable", True)),
        distinct=_optional_int(data.get("distinct")),
        minimum=text("minimum"),
        maximum=text("maximum"),
    )

"""Datasets from data contracts: Open Data Contract Standard (ODCS) 3.0 to 3.2, one YAML file.

What the standard has no field for stands in ``customProperties``: of the table ``owner``, ``node``, ``class``,
``citation``, ``legal_basis``, ``subject_column``, ``licence``, ``hidden_from``, ``bearer_ok``, ``parts``; of a column
``element``. Any other custom property is kept in ``Dataset.extra`` as ``<name>``, or ``<name>.<column>``
(``mask.tailnum``). The department is the contract's ``domain``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import jsonschema
import yaml
from open_data_contract_standard.model import OpenDataContractStandard, SchemaObject, SchemaProperty

from tidegate.core.dataset import SENSITIVITIES, Column, Dataset, DatasetClass
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.names import DatasetName
from tidegate.sql.types import parse_type

CONTRACT_BYTES_MAX: Final = 1 << 20
PROBLEMS_SHOWN_MAX: Final = 10
TABLE_PROPERTIES: Final = frozenset(
    {
        "owner",
        "node",
        "class",
        "citation",
        "legal_basis",
        "subject_column",
        "licence",
        "hidden_from",
        "bearer_ok",
        "parts",
    }
)

# ODCS 3.2, logicalType; `number` is exact or not as physicalType says, and a double when it says nothing.
_LOGICAL: Final = MappingProxyType(
    {
        "string": "VARCHAR",
        "integer": "BIGINT",
        "number": "DOUBLE",
        "boolean": "BOOLEAN",
        "date": "DATE",
        "time": "TIME",
        "timestamp": "TIMESTAMP",
    }
)
# The standard leaves `classification` free; these words mean one of ours. Any other word is refused: a guess that is
# too low would show what must be hidden.
_CLASSIFICATION: Final = MappingProxyType(
    {**{word: word for word in SENSITIVITIES}, "confidential": "restricted", "sensitive": "restricted"}
)


class _StrictLoader(yaml.SafeLoader):
    """YAML without anchors (a few lines can grow to gigabytes) and without keys that occur twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        pairs = [self.construct_object(key, deep=True) for key, _ in node.value]
        if len(set(map(str, pairs))) != len(pairs):
            raise yaml.YAMLError("a key occurs twice")
        return super().construct_mapping(node, deep=deep)


def dataset_from_contract(path: Path) -> Dataset:
    """Read a contract that describes exactly one table.

    Raises:
        CallerError: CLIENT_INPUT when the file cannot be read; CAT_INVALID for what it says.
    """
    datasets = datasets_from_contract(path)
    if len(datasets) != 1:
        raise error_for(Code.CAT_INVALID, "data contract: expected exactly one table in `schema`")
    return datasets[0]


def datasets_from_contract(path: Path) -> tuple[Dataset, ...]:
    """Read every table that a contract describes.

    Trust: a department wrote the file; it is checked against the standard's JSON Schema and against our own rules.

    Raises:
        CallerError: CLIENT_INPUT when the file cannot be read; CAT_INVALID for what it says.
    """
    try:
        with path.open("rb") as file:
            data = file.read(CONTRACT_BYTES_MAX + 1)
    except OSError as error:
        raise error_for(Code.CLIENT_INPUT, "data contract: the file cannot be read", detail=str(error)) from error
    return datasets_from_text(data)


def datasets_from_text(data: bytes) -> tuple[Dataset, ...]:
    """Read every table of a contract's text."""
    contract = _contract(data)
    if not contract.domain:
        raise error_for(Code.CAT_INVALID, "data contract: domain: expected the department's name")
    tables = contract.schema_ or []
    if not tables:
        raise error_for(Code.CAT_INVALID, "data contract: schema: expected at least one table")
    return tuple(_dataset(contract, table) for table in tables)


def _contract(data: bytes) -> OpenDataContractStandard:
    if len(data) > CONTRACT_BYTES_MAX:
        raise error_for(Code.CAT_INVALID, f"data contract: larger than {CONTRACT_BYTES_MAX} bytes")
    try:
        # The loader is a SafeLoader: it makes plain values only.
        document = yaml.load(data, Loader=_StrictLoader)  # noqa: S506
        plain = json.loads(json.dumps(document, default=str))  # dates of YAML are texts in the standard's schema
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise error_for(Code.CAT_INVALID, "data contract: not valid YAML", detail=str(error)) from error
    schema = json.loads((files("open_data_contract_standard") / "schema.json").read_text("utf-8"))
    validator = jsonschema.Draft201909Validator(schema)
    problems = [f"{_place(problem)}: {problem.validator}" for problem in validator.iter_errors(plain)]
    if problems:
        shown = "; ".join(problems[:PROBLEMS_SHOWN_MAX])
        raise error_for(Code.CAT_INVALID, f"data contract: not of the standard's form: {shown}")
    return OpenDataContractStandard(**plain)


def _place(problem: jsonschema.ValidationError) -> str:
    return ".".join(str(part) for part in problem.absolute_path) or "contract"


def _dataset(contract: OpenDataContractStandard, table: SchemaObject) -> Dataset:
    label = f"table {table.name}" if table.name else "table"
    own = _custom(label, contract.customProperties) | _custom(label, table.customProperties)
    properties = table.properties or []
    extra = {key: _text(label, key, value) for key, value in own.items() if key not in TABLE_PROPERTIES}
    for item in properties:
        custom = _custom(f"{label}: column {item.name}", item.customProperties)
        extra |= {f"{key}.{_name(item)}": _text(label, key, value) for key, value in custom.items() if key != "element"}
    try:
        name = DatasetName(str(contract.domain), str(table.physicalName or table.name))
        dataset_class = DatasetClass(_text(label, "class", own.get("class", "conditional")))
    except ValueError as error:
        raise error_for(Code.CAT_INVALID, f"{label}: class: expected open, conditional or closed") from error
    return Dataset(
        name=name,
        owner=_text(label, "owner", own.get("owner", contract.domain)),
        node=_text(label, "node", own.get("node", "")),
        title=table.businessName or contract.name or str(table.name),
        dataset_class=dataset_class,
        columns=tuple(_column(label, item) for item in properties),
        description=table.description or (contract.description.purpose if contract.description else "") or "",
        legal_basis=_text(label, "legal_basis", own.get("legal_basis", "")),
        citation=_text(label, "citation", own.get("citation", "")),
        subject_column=_text(label, "subject_column", own.get("subject_column", "")),
        keys=_keys(properties),
        freshness=_freshness(contract),
        parts=tuple(DatasetName.parse(part) for part in _list(label, "parts", own.get("parts"))),
        tags=tuple(dict.fromkeys([*(contract.tags or []), *(table.tags or [])])),
        licence=_text(label, "licence", own.get("licence", "")),
        hidden_from=_list(label, "hidden_from", own.get("hidden_from")),
        bearer_ok=_flag(label, "bearer_ok", own.get("bearer_ok", False)),
        extra=MappingProxyType(extra),
    )


def _column(label: str, item: SchemaProperty) -> Column:
    place = f"{label}: column {item.name}"
    word = (item.classification or "internal").casefold()
    if word not in _CLASSIFICATION:
        raise error_for(Code.CAT_INVALID, f"{place}: classification: expected one of {', '.join(_CLASSIFICATION)}")
    element = _custom(place, item.customProperties).get("element", "")
    return Column(
        name=_name(item),
        type=_type(place, item),
        description=item.description or item.businessName or "",
        sensitivity=_CLASSIFICATION[word],
        element=_text(place, "element", element),
        nullable=not item.required,
    )


def _type(place: str, item: SchemaProperty) -> str:
    """Give the type: the physical one where it is one of the exchange's, else what the logical one means."""
    if item.physicalType:
        with suppress(TidegateError):  # a type of another engine's: the logical type says what is meant
            return parse_type(item.physicalType)
    if item.logicalType == "array" and item.items is not None:
        return f"{_type(place, item.items)}[]"
    found = _LOGICAL.get(item.logicalType or "")
    if found is None:
        raise error_for(
            Code.CAT_INVALID, f"{place}: expected a physicalType of the exchange's, or a logicalType that is not nested"
        )
    return found


def _keys(properties: Iterable[SchemaProperty]) -> tuple[str, ...]:
    keys = [item for item in properties if item.primaryKey]
    keys.sort(key=lambda item: item.primaryKeyPosition if item.primaryKeyPosition is not None else len(keys))
    return tuple(_name(item) for item in keys)


def _name(item: SchemaProperty) -> str:
    return str(item.physicalName or item.name)


def _freshness(contract: OpenDataContractStandard) -> str:
    for promise in contract.slaProperties or []:
        if promise.property in ("frequency", "latency"):
            return f"{promise.property} {promise.value} {promise.unit or ''}".strip()
    return ""


def _custom(label: str, properties: Iterable[Any] | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in properties or ():
        if not item.property or item.property in found:
            raise error_for(Code.CAT_INVALID, f"{label}: customProperties: a name is missing or occurs twice")
        found[item.property] = item.value
    return found


def _text(label: str, key: str, value: Any) -> str:
    if isinstance(value, Mapping | list) or value is None:
        raise error_for(Code.CAT_INVALID, f"{label}: {key}: expected a text")
    return str(value)


def _flag(label: str, key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise error_for(Code.CAT_INVALID, f"{label}: {key}: expected true or false")
    return value


def _list(label: str, key: str, value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise error_for(Code.CAT_INVALID, f"{label}: {key}: expected a list")
    return tuple(_texts(label, key, value))


def _texts(label: str, key: str, values: Iterable[Any]) -> Iterator[str]:
    for value in values:
        yield _text(label, key, value)

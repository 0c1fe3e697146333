"""Data contracts become datasets, or are refused by the name of what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from catalogue.odcs import CONTRACT_BYTES_MAX, dataset_from_contract, datasets_from_contract, datasets_from_text
from catalogue.validate import validated
from tidegate.core.dataset import DatasetClass
from tidegate.core.errors import Code, TidegateError
from tidegate.core.names import DatasetName

CONTRACT = """\
apiVersion: v3.1.0
kind: DataContract
id: 53581432-6c55-4ba2-a65f-72344a91553a
version: 1.0.0
name: Departures
status: active
domain: aviation
tags: [transport]
description:
  purpose: Every departure of a year
slaProperties:
  - property: frequency
    value: 1
    unit: d
customProperties:
  - property: legal_basis
    value: law.aviation
schema:
  - name: flights
    businessName: Flights
    physicalType: table
    description: Departures from three airports
    tags: [航班]
    customProperties:
      - {property: node, value: n1}
      - {property: class, value: conditional}
      - {property: subject_column, value: tailnum}
      - {property: hidden_from, value: [weather]}
      - {property: bearer_ok, value: true}
      - {property: steward, value: sam}
    properties:
      - name: year
        logicalType: integer
        required: true
        primaryKey: true
        primaryKeyPosition: 2
      - name: tailnum
        logicalType: string
        physicalType: VARCHAR(10)
        classification: restricted
        primaryKey: true
        primaryKeyPosition: 1
        description: Tail number
        customProperties:
          - {property: element, value: aircraft.tail_number}
          - {property: mask, value: pseudonym}
      - name: delay
        logicalType: number
        physicalType: numeric(8, 2)
      - name: time_hour
        logicalType: timestamp
        physicalType: datetime2
      - name: legs
        logicalType: array
        items: {name: leg, logicalType: string}
"""


def refused(text: str) -> TidegateError:
    with pytest.raises(TidegateError) as caught:
        datasets_from_text(text.encode())
    assert caught.value.code is Code.CAT_INVALID, caught.value
    return caught.value


def test_everything_that_a_contract_says_arrives(tmp_path: Path) -> None:
    path = tmp_path / "flights.odcs.yaml"
    path.write_text(CONTRACT, encoding="utf-8")
    dataset = validated(dataset_from_contract(path))
    assert (dataset.name, dataset.owner, dataset.node) == (DatasetName("aviation", "flights"), "aviation", "n1")
    assert (dataset.title, dataset.description) == ("Flights", "Departures from three airports")
    assert (dataset.dataset_class, dataset.legal_basis) == (DatasetClass.CONDITIONAL, "law.aviation")
    assert (dataset.subject_column, dataset.keys) == ("tailnum", ("tailnum", "year"))
    assert (dataset.tags, dataset.freshness, dataset.hidden_from) == (
        ("transport", "航班"),
        "frequency 1 d",
        ("weather",),
    )
    assert dataset.bearer_ok
    assert dict(dataset.extra) == {"steward": "sam", "mask.tailnum": "pseudonym"}
    assert [(column.name, column.type) for column in dataset.columns] == [
        ("year", "BIGINT"),
        ("tailnum", "VARCHAR"),
        ("delay", "DECIMAL(8,2)"),
        ("time_hour", "TIMESTAMP"),
        ("legs", "VARCHAR[]"),
    ]
    year, tailnum = dataset.columns[:2]
    assert (year.nullable, year.sensitivity) == (False, "internal")
    assert (tailnum.nullable, tailnum.sensitivity, tailnum.element) == (True, "restricted", "aircraft.tail_number")


def test_several_tables_are_several_datasets(tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    more = "  - name: planes\n    properties: [{name: id, logicalType: integer}]\n"
    path.write_text(CONTRACT + more, encoding="utf-8")
    assert [str(item.name) for item in datasets_from_contract(path)] == ["aviation.flights", "aviation.planes"]
    with pytest.raises(TidegateError, match="exactly one table"):
        dataset_from_contract(path)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("domain: aviation\n", "", "domain"),
        ("domain: aviation", "domain: 'a b'", "dataset name"),
        ("kind: DataContract", "kind: Something", "kind"),
        ("apiVersion: v3.1.0", "apiVersion: v9", "apiVersion"),
        ("status: active", "status: active\nunheard_of: 1", "additionalProperties"),
        ("value: conditional", "value: sometimes", "class"),
        ("value: conditional", "value: closed", "citation"),
        ("classification: restricted", "classification: '3'", "column tailnum: classification"),
        ("value: tailnum", "value: nobody", "subject column"),
        ("physicalType: VARCHAR(10)", "physicalType: geometry", None),
        ("logicalType: number\n        physicalType: numeric(8, 2)", "logicalType: object", "column delay"),
        ("value: n1", "value: [n1]", "node"),
        ("value: [weather]", "value: weather", "hidden_from"),
        ("value: true", "value: 'false'", "bearer_ok"),
        ("{property: steward, value: sam}", "{property: node, value: n2}", "occurs twice"),
        ("- name: year", "- name: tg_subject", "column name"),
        ("name: Departures", "name: a\nname: b", "not valid YAML"),
    ],
)
def test_what_is_wrong_is_named(old: str, new: str, named: str | None) -> None:
    assert CONTRACT.count(old) == 1 or old.startswith("value:") or "physicalType" in old
    text = CONTRACT.replace(old, new, 1)
    if named is None:  # a physical type of another engine, with a logical type that says what is meant
        assert datasets_from_text(text.encode())[0].columns[1].type == "VARCHAR"
    else:
        assert named in refused(text).message


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- a list",
        "just text",
        "a: [unclosed",
        "a: &x [1]\nb: *x",
        "!!python/object/apply:os.system ['true']",
        "a: !!python/name:os.system ''",
        "\x00",
        "[" * 5_000,
        "a: 2026-01-01\n? [x, y]\n: 1",
    ],
)
def test_hostile_yaml_is_refused(text: str) -> None:
    refused(text)


def test_a_file_that_is_too_large_or_absent_is_refused(tmp_path: Path) -> None:
    assert "larger" in refused("#" * (CONTRACT_BYTES_MAX + 1)).message
    with pytest.raises(TidegateError) as caught:
        dataset_from_contract(tmp_path / "none.yaml")
    assert caught.value.code is Code.CLIENT_INPUT
    assert str(tmp_path) not in caught.value.message

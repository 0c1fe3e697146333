"""What ``*`` stands for: what the caller is cleared for and one agreement gives; everything where nothing would be left."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from policies.star import listed, unlisted
from tidegate.core.agreement import Agreement
from tidegate.core.caller import Caller
from tidegate.core.dataset import Column, Dataset, DatasetClass
from tidegate.core.names import DatasetName, SpiffeId

NAME = DatasetName.parse("north.staff")
STAFF = Dataset(
    name=NAME,
    owner="north",
    node="node1",
    title="Staff",
    dataset_class=DatasetClass.CONDITIONAL,
    columns=(
        Column("id", "BIGINT", sensitivity="public"),
        Column("region", "VARCHAR"),
        Column("salary", "INTEGER", sensitivity="restricted"),
    ),
)
OPEN = replace(STAFF, dataset_class=DatasetClass.OPEN)
CALLER = Caller(SpiffeId.parse("spiffe://x/member/office/service/desk"), ("analyst",), "internal", "government", "00")
TERMS = Agreement(
    id="a1",
    dataset=NAME,
    owner="north",
    grantee="office",
    purposes=("research",),
    legal_basis="act.1",
    columns=("id", "region", "salary"),
    mode="rows",
    min_group_size=1,
    row_filter={},
    issued_at="2026-01-01T00:00:00.000000Z",
    expires_at="2027-01-01T00:00:00.000000Z",
    granted_by="spiffe://x/member/north/person/steward",
)


def left_out(dataset: Dataset, *agreements: Agreement, basis: str = "act.1", **caller: Any) -> set[str]:
    found = unlisted(replace(CALLER, **caller), "research", basis, {NAME: dataset}, agreements)
    return set(found.get(NAME, ()))


def test_an_open_dataset_shows_what_the_caller_is_cleared_for() -> None:
    assert left_out(OPEN) == {"salary"}
    assert left_out(OPEN, clearance="restricted") == set()
    assert left_out(OPEN, clearance="public") == {"region", "salary"}


def test_a_conditional_one_shows_what_the_agreement_gives_too() -> None:
    assert left_out(STAFF, TERMS) == {"salary"}
    assert left_out(STAFF, replace(TERMS, columns=("id",))) == {"region", "salary"}
    assert left_out(STAFF, replace(TERMS, columns=("id", "salary")), clearance="secret") == {"region"}


def test_of_several_agreements_the_widest_counts_and_they_are_not_added_up() -> None:
    one, two = replace(TERMS, columns=("id",)), replace(TERMS, id="a2", columns=("region", "salary"))
    assert left_out(STAFF, one, two, clearance="secret") == {"id"}


@pytest.mark.parametrize(
    "other",
    [
        {"grantee": "press"},
        {"purposes": ("planning",)},
        {"legal_basis": "act.2"},
        {"dataset": DatasetName.parse("north.other")},
    ],
    ids=lambda change: next(iter(change)),
)
def test_without_an_agreement_everything_stays_for_the_policy_to_refuse(other: dict[str, Any]) -> None:
    assert left_out(STAFF, replace(TERMS, **other)) == set()


def test_a_request_without_legal_basis_meets_any_agreement() -> None:
    assert left_out(STAFF, replace(TERMS, columns=("id",)), basis="") == {"region", "salary"}


def test_an_unknown_clearance_leaves_everything_for_the_policy_to_refuse() -> None:
    assert left_out(OPEN, clearance="unheard-of") == set()


def shown(dataset: Dataset, *agreements: Agreement, **caller: Any) -> list[str]:
    return [column.name for column in listed(replace(CALLER, **caller), dataset, agreements)]


def test_a_list_of_columns_shows_what_some_query_could_read_for_whatever_purpose() -> None:
    assert shown(OPEN) == ["id", "region"] == shown(STAFF)
    assert shown(OPEN, clearance="restricted") == ["id", "region", "salary"]
    one = replace(TERMS, columns=("id",), purposes=("planning",), legal_basis="act.2")
    two = replace(TERMS, id="a2", columns=("region", "salary"))
    assert shown(STAFF, one) == ["id"]
    assert shown(STAFF, one, two) == ["id", "region"], "several are added up here: each query names its own purpose"
    assert shown(STAFF, one, two, clearance="secret") == ["id", "region", "salary"]


def test_a_list_of_columns_heeds_nobody_elses_agreement_and_shows_nothing_rather_than_all() -> None:
    assert shown(STAFF, replace(TERMS, columns=("id",), grantee="press")) == ["id", "region"]
    assert shown(STAFF, replace(TERMS, columns=("id",), dataset=DatasetName.parse("north.other"))) == ["id", "region"]
    assert shown(STAFF, replace(TERMS, columns=("salary",))) == [] == shown(OPEN, clearance="unheard-of")

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import jsonschema
import pytest
from sqlglot import exp

from policies.bundle import read_schema
from policies.question import build, build_from_grant, column_mask
from tests.unit.policies.cases import NOW, PURPOSE, caller
from tidegate.core.agreement import Agreement
from tidegate.core.dataset import Column, Dataset, DatasetClass
from tidegate.core.errors import Code, TidegateError
from tidegate.core.grant import Grant
from tidegate.core.names import DatasetName
from tidegate.sql.model import BoundQuery, Leaf, Role

FLIGHTS = DatasetName("aviation", "flights")
SHAPE = {"aggregated": False, "group_by": [], "functions": [], "joins": [], "set_operations": [], "limit": None}


def flights(**changes: Any) -> Dataset:
    columns = (
        Column("origin", "VARCHAR"),
        Column("tailnum", "VARCHAR", sensitivity="restricted"),
        Column("day", "DATE"),
    )
    base = Dataset(
        FLIGHTS, "aviation", "hangar", "Flights", DatasetClass.CONDITIONAL, columns, extra={"mask.tailnum": "pseudonym"}
    )
    return replace(base, **changes)


def bound(*columns: str, dataset: DatasetName = FLIGHTS) -> BoundQuery:
    leaf = Leaf("r0", dataset, {name: frozenset({Role.OUTPUT, Role.JOIN}) for name in columns})
    return BoundQuery(exp.select("1"), (leaf,), ("c0",), (), SHAPE)


def terms(**changes: Any) -> Agreement:
    fields: dict[str, Any] = {
        "id": "a1",
        "dataset": FLIGHTS,
        "owner": "aviation",
        "grantee": "health",
        "purposes": (PURPOSE,),
        "legal_basis": "",
        "columns": ("origin",),
        "mode": "rows",
        "min_group_size": 1,
        "row_filter": {},
        "issued_at": "2026-01-01T00:00:00Z",
        "expires_at": "2027-01-01T01:00:00+01:00",
        "granted_by": "spiffe://x/member/aviation/person/s",
    }
    return Agreement(**{**fields, **changes})


def asked(query: BoundQuery, dataset: Dataset, *agreements: Agreement) -> dict[str, Any]:
    return build(
        caller(),
        request_id="ab",
        time=NOW,
        purpose=PURPOSE,
        legal_basis="",
        door="grpc",
        bound=query,
        datasets={dataset.name: dataset},
        agreements=agreements,
    )


def grant(**changes: Any) -> Grant:
    question = asked(bound("origin"), flights())
    fields: dict[str, Any] = {
        "id": "00",
        "broker": "b",
        "node": "n",
        "session": "s",
        "issued_at": "i",
        "expires_at": "e",
        "request": question["request"],
        "caller": question["caller"],
        "caller_fingerprint": "f",
        "query": question["query"],
        "decision": {},
        "refs": {"r0": "aviation.flights"},
        "fragment": "",
        "entry": "",
        "receipt": "",
    }
    return Grant(**{**fields, **changes})


def test_question_fits_its_schema_and_says_what_the_rules_need() -> None:
    question = asked(bound("origin", "tailnum"), flights(), terms())
    jsonschema.validate(question, read_schema("question"))
    (resource,) = question["resources"]
    assert [column["name"] for column in resource["columns"]] == ["origin", "tailnum"]
    assert resource["columns"][0]["used_as"] == ["join", "output"]
    assert resource["masks"] == {"tailnum": {"kind": "pseudonym", "key": "recipient"}}
    assert resource["fields"] == {"origin": "VARCHAR", "tailnum": "VARCHAR", "day": "DATE"}
    assert question["agreements"][0]["expires_at"] == "2027-01-01T00:00:00.000000Z"


def test_agreement_that_the_owner_did_not_grant_is_left_out() -> None:
    assert asked(bound("origin"), flights(), terms(owner="police"))["agreements"] == []


def test_agreement_about_another_dataset_is_left_out() -> None:
    assert asked(bound("origin"), flights(), terms(dataset=DatasetName("aviation", "airlines")))["agreements"] == []


@pytest.mark.parametrize("expires_at", ["", "never", "2027-01-01", "2027-01-01T00:00:00"])
def test_agreement_whose_end_cannot_be_read_is_left_out(expires_at: str) -> None:
    assert asked(bound("origin"), flights(), terms(expires_at=expires_at))["agreements"] == []


def test_reserved_columns_are_not_asked_about() -> None:
    question = asked(bound("origin", "tg_subject"), flights())
    assert [column["name"] for column in question["resources"][0]["columns"]] == ["origin"]


@pytest.mark.parametrize("query", [bound("nowhere"), bound("origin", dataset=DatasetName("tax", "payers"))])
def test_query_without_metadata_is_refused(query: BoundQuery) -> None:
    with pytest.raises(TidegateError) as caught:
        asked(query, flights())
    assert caught.value.code is Code.POLICY_UNAVAILABLE


def test_withdrawn_dataset_is_refused() -> None:
    with pytest.raises(TidegateError):
        asked(bound("origin"), flights(withdrawn=True))


@pytest.mark.parametrize(
    ("text", "mask", "guarded"),
    [
        ("null", {"kind": "null"}, False),
        ("redact;in_predicate=deny", {"kind": "redact"}, True),
        ("hash", {"kind": "hash", "key": "node"}, False),
        ("hash:shared:traffic", {"kind": "hash", "key": "shared:traffic"}, False),
        ("pseudonym:node", {"kind": "pseudonym", "key": "node"}, False),
        ("truncate_date:month", {"kind": "truncate_date", "unit": "month"}, False),
        ("bucket:10", {"kind": "bucket", "width": 10}, False),
        ("last_n:4", {"kind": "last_n", "n": 4}, False),
        ("constant:hidden", {"kind": "constant", "value": "hidden"}, False),
    ],
)
def test_declared_masks_are_read(text: str, mask: dict[str, Any], guarded: bool) -> None:
    dataset = flights(extra={"mask.tailnum": text})
    assert column_mask(dataset, "tailnum") == (mask, guarded)
    jsonschema.validate(asked(bound("tailnum"), dataset), read_schema("question"))


@pytest.mark.parametrize(
    "text", ["", "rot13", "null:x", "bucket", "bucket:ten", "bucket:-1", "last_n:", "redact;shown", "truncate_date"]
)
def test_declared_mask_that_cannot_be_read_refuses(text: str) -> None:
    with pytest.raises(TidegateError) as caught:
        asked(bound("tailnum"), flights(extra={"mask.tailnum": text}))
    assert caught.value.code is Code.POLICY_UNAVAILABLE


def test_node_asks_with_its_own_metadata_and_agreements() -> None:
    own = flights(extra={"mask.origin": "redact"})
    question = build_from_grant(grant(), bound("origin"), {FLIGHTS: own}, [terms()])
    jsonschema.validate(question, read_schema("question"))
    assert question["resources"][0]["masks"] == {"origin": {"kind": "redact"}}
    assert question["agreements"][0]["id"] == "a1"
    assert question["registered"] is True


def test_late_clock_of_the_broker_revives_nothing() -> None:
    later = NOW + timedelta(hours=1)
    question = build_from_grant(grant(), bound("origin"), {FLIGHTS: flights()}, [], now=later)
    assert question["request"]["time"] == "2026-11-21T11:00:00.000000Z"
    question = build_from_grant(grant(), bound("origin"), {FLIGHTS: flights()}, [], now=NOW - timedelta(hours=1))
    assert question["request"]["time"] == "2026-11-21T10:00:00.000000Z"


@pytest.mark.parametrize("refs", [{}, {"r0": "tax.payers"}, {"r0": "aviation.flights", "r1": "aviation.flights"}])
def test_fragment_about_other_instances_than_the_grant_is_refused(refs: dict[str, str]) -> None:
    with pytest.raises(TidegateError) as caught:
        build_from_grant(grant(refs=refs), bound("origin"), {FLIGHTS: flights()}, [])
    assert caught.value.code is Code.POLICY_UNAVAILABLE

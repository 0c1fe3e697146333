"""Datasets, agreements and grants: what was written reads back, and nothing else is read."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import pytest

from tidegate.core.agreement import Agreement
from tidegate.core.clock import parse_timestamp, timestamp
from tidegate.core.dataset import Column, Dataset, DatasetClass
from tidegate.core.errors import Code, TidegateError
from tidegate.core.grant import Grant, GrantedKeys, KeySource, KeyTerms, fragment_bytes
from tidegate.core.names import DatasetName

DATASET = Dataset(
    name=DatasetName("health", "cases"),
    owner="health",
    node="node1",
    title="Cases",
    dataset_class=DatasetClass.CONDITIONAL,
    columns=(Column("id", "VARCHAR", sensitivity="restricted"), Column("day", "DATE", minimum="2020-01-01")),
    subject_column="id",
    keys=("id",),
    rows=5,
)
AGREEMENT = Agreement(
    id="a1",
    dataset=DatasetName("health", "cases"),
    owner="health",
    grantee="city",
    purposes=("epidemic.control",),
    legal_basis="act.1",
    columns=("id", "day"),
    mode="aggregate",
    min_group_size=10,
    row_filter={},
    issued_at="2026-01-01T00:00:00.000000Z",
    expires_at="2027-01-01T00:00:00.000000Z",
    granted_by="spiffe://x/member/health/person/s",
)
GRANT = Grant(
    id="g",
    broker="b",
    node="n",
    session="s",
    issued_at="t",
    expires_at="t",
    request={"id": "1"},
    caller={},
    caller_fingerprint="f",
    query={},
    decision={},
    refs={"r0": "health.cases"},
    fragment="d",
    entry="e",
    receipt="r",
)


KEYS = GrantedKeys(KeyTerms("r0", "id", (KeySource("f0", "c0", "health"),)), (3,), 3, "ab")


def test_a_dataset_reads_back_and_survives_pickling() -> None:
    assert Dataset.from_json(DATASET.to_json()) == DATASET
    assert pickle.loads(pickle.dumps(DATASET)) == DATASET


@pytest.mark.parametrize("key", ["name", "owner"])
def test_a_dataset_without_what_it_must_have_is_refused(key: str) -> None:
    data = DATASET.to_json()
    del data[key]
    with pytest.raises(TidegateError) as caught:
        Dataset.from_json(data)
    assert caught.value.code is Code.CAT_INVALID


def test_a_mark_for_bearer_tokens_is_false_until_it_is_true() -> None:
    data = DATASET.to_json()
    assert data.pop("bearer_ok") is False
    assert Dataset.from_json(data).bearer_ok is False
    assert Dataset.from_json({**data, "bearer_ok": True}).bearer_ok is True
    for word in ("true", "false", 1, None, []):
        with pytest.raises(TidegateError):
            Dataset.from_json({**data, "bearer_ok": word})


@pytest.mark.parametrize(
    "change",
    [
        {"dataset_class": DatasetClass.CLOSED},
        {"subject_column": "nobody"},
        {"columns": (Column("id", "VARCHAR"), Column("ID", "VARCHAR"))},
    ],
)
def test_a_dataset_that_contradicts_itself_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(TidegateError):
        replace(DATASET, **change)


def test_an_agreement_reads_back_and_its_bytes_are_its_own() -> None:
    again = Agreement.from_json(AGREEMENT.to_json())
    assert again == AGREEMENT
    assert again.signed_bytes() == AGREEMENT.signed_bytes() != replace(AGREEMENT, grantee="telco").signed_bytes()
    assert pickle.loads(pickle.dumps(AGREEMENT)) == AGREEMENT


@pytest.mark.parametrize("key", sorted(AGREEMENT.to_json()))
def test_an_agreement_with_a_field_missing_or_one_too_many_is_refused(key: str) -> None:
    data = AGREEMENT.to_json()
    del data[key]
    with pytest.raises(TidegateError):
        Agreement.from_json(data)
    with pytest.raises(TidegateError):
        Agreement.from_json({**AGREEMENT.to_json(), key + "_more": 1})


@pytest.mark.parametrize("change", [{"mode": "everything"}, {"min_group_size": 0}, {"purposes": ()}, {"columns": ()}])
def test_an_agreement_of_another_form_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(TidegateError):
        replace(AGREEMENT, **change)


ROWS_AGREEMENT = replace(AGREEMENT, mode="rows", min_group_size=1)


def test_an_agreement_says_where_keys_may_go_and_one_that_does_not_is_as_it_was() -> None:
    named = replace(ROWS_AGREEMENT, keys_may_go_to=("rail", "*"))
    assert Agreement.from_json(named.to_json()) == named
    assert named.signed_bytes() != ROWS_AGREEMENT.signed_bytes()
    assert "keys_may_go_to" not in ROWS_AGREEMENT.to_json()
    assert ROWS_AGREEMENT.to_question()["keys_may_go_to"] == []
    assert named.to_question()["keys_may_go_to"] == ["rail", "*"]


@pytest.mark.parametrize("value", [[], "rail", None, ["Rail"], [""], ["a b"], [1], ["x"] * 1001])
def test_an_agreement_with_another_term_for_keys_is_refused(value: Any) -> None:
    with pytest.raises(TidegateError) as caught:
        Agreement.from_json({**ROWS_AGREEMENT.to_json(), "keys_may_go_to": value})
    assert caught.value.code is Code.CAT_AGREEMENT


def test_an_agreement_about_groups_lets_no_key_go() -> None:
    with pytest.raises(TidegateError):
        replace(AGREEMENT, keys_may_go_to=("rail",))


def test_a_grant_reads_back() -> None:
    assert Grant.parse(GRANT.signed_bytes()) == GRANT
    assert "keys" not in GRANT.to_json()
    more = replace(GRANT, keys=(KEYS.to_json(),), keys_go_to=("rail",))
    assert Grant.parse(more.signed_bytes()) == more
    assert GrantedKeys.from_json(Grant.parse(more.signed_bytes()).keys[0]) == KEYS


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"version":1}', GRANT.signed_bytes().replace(b'"version":1', b'"version":2')]
)
def test_anything_else_is_no_grant(data: bytes) -> None:
    with pytest.raises(TidegateError):
        Grant.parse(data)


def test_the_fragment_digest_covers_its_reductions() -> None:
    assert fragment_bytes("a", [], (KEYS.terms,)) != fragment_bytes("a", [])
    assert fragment_bytes("a", [], ()) == fragment_bytes("a", [])  # what has none is named as ever


def test_the_fragment_digest_depends_on_text_and_parameters() -> None:
    assert fragment_bytes("a", []) != fragment_bytes("b", []) != fragment_bytes("b", [{"t": "i", "v": "1"}])


def test_times_have_one_form() -> None:
    moment = parse_timestamp("2026-11-21T12:00:00+02:00")
    assert timestamp(moment) == "2026-11-21T10:00:00.000000Z"
    with pytest.raises(ValueError, match="zone"):
        parse_timestamp("2026-11-21T12:00:00")

"""Entries: every kind passes its own check, their bytes are canonical, and no field can carry a name or a text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit import entries
from tests.unit.audit.support import caller, decision, outcome
from tidegate.core.canonical import canonical
from tidegate.core.errors import Code, TidegateError, error_for

TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
COUNTS = st.integers(0, 2**53 - 1)
ASCII = st.text(st.characters(max_codepoint=126), min_size=1, max_size=10)


COLUMN = "rail.trips.person"
SOURCES = {"from": {"health": 3}, "sources": ["f0"]}
TO = {"fragment": "f1", "member": "rail", "column": COLUMN}


def every_kind() -> list[entries.Entry]:
    refused = error_for(Code.POLICY_REFUSED)
    return [
        decision(),
        outcome(),
        outcome() | {"keys": [SOURCES | {"to": [TO]}]},
        entries.refusal(request_id="r", caller=caller(), error=refused),
        entries.orphan(request_id="r", of=1),
        entries.expired(request_id="r", of=1),
        entries.node_execution(
            request_id="r",
            grant="g",
            member="m",
            identity="i",
            purpose="p",
            legal_basis="l",
            datasets={"a.b": 1},
            policy_revision="",
            obligations="",
            agreements=["x"],
            keys=[SOURCES | {"column": COLUMN}],
            keys_may_go_to=["rail"],
        ),
        *(
            entries.admin(kind, action="change", subject="s", actor=caller(), details={"n": 1, "s": "x"})
            for kind in sorted(entries.ADMIN_KINDS)
        ),
    ]


@pytest.mark.parametrize("entry", every_kind(), ids=lambda entry: entry.get("kind", entry["type"]))
def test_every_kind_of_entry_passes_its_check_and_is_canonical(entry: entries.Entry) -> None:
    checked = entries.check(entry)
    assert checked == entry
    assert entries.encode(checked) == canonical(entry)


@given(TEXTS, TEXTS, COUNTS, st.dictionaries(ASCII, COUNTS, max_size=5), st.lists(TEXTS, max_size=3))
def test_the_fast_encoder_is_rfc_8785(a: str, b: str, n: int, counts: dict[str, int], reasons: list[str]) -> None:
    entry: dict[str, Any] = {
        **decision(purpose=a, obligations=b),
        "rows": n,
        "leaves": {"f0": counts},
        "reasons": reasons,
        "details": dict(counts),
    }
    assert entries.encode(entries.check(entry)) == canonical(entry)


@pytest.mark.parametrize("field", ["details", "leaves"])
def test_keys_outside_ascii_are_refused(field: str) -> None:
    value = {"\ufb33": 1} if field == "details" else {"f0": {"\U00010000": 1}}
    with pytest.raises(TidegateError):
        entries.check(decision() | {field: value})


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(TidegateError):
        entries.encode(entries.check(decision(purpose="\ud800")))


def test_a_person_without_an_opaque_id_cannot_be_recorded() -> None:
    from tidegate.core.caller import Caller
    from tidegate.core.names import SpiffeId

    identity = SpiffeId.parse("spiffe://test.example/member/weather/person/alice")
    with pytest.raises(TidegateError):
        decision(who=Caller(identity, (), "internal", "government", "0" * 64))


def test_salts_differ_by_name_and_place_and_entry() -> None:
    one, two = bytes(32), bytes(31) + b"\1"
    salts = {entries.salt(nonce, name, place) for nonce in (one, two) for name in ("plan", "query") for place in (0, 1)}
    assert len(salts) == 8
    assert all(len(item) == 32 for item in salts)

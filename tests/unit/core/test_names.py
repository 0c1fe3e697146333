"""Names: the strict class, and identities that are of one of the exact forms or nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.core.errors import TidegateError
from tidegate.core.names import DatasetName, IdentityKind, SpiffeId, is_purpose, is_strict_name, member_name


@pytest.mark.parametrize("text", ["flights", "dep_delay", "居民", "Straße", "a1", "_x", "é", "x" * 63])
def test_names_of_any_script_pass(text: str) -> None:
    assert is_strict_name(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "1a", "a b", "a-b", 'a"b', "a;b", "a.b", "e\u0301", "a\u200b", "\ufeffa", "x" * 64, "tg_subject", "TG_X"),
        *("ａ", "a\u3164", "a\u00a0b", "a\n", "a\x00"),
    ],
)
def test_names_that_could_mislead_do_not(text: str) -> None:
    assert not is_strict_name(text)


@given(st.text(max_size=70))
def test_a_strict_name_never_holds_a_character_that_sql_reads(text: str) -> None:
    if is_strict_name(text):
        assert not set(text) & set(" \t\n\"'`;.,()[]{}<>=+-*/%$#@!?&|^~\\:\x00\u200b\ufeff")


def test_dataset_names_are_two_parts() -> None:
    assert str(DatasetName.parse("aviation.flights")) == "aviation.flights"
    for text in ("flights", "a.b.c", ".x", "x.", "a.b c"):
        with pytest.raises(TidegateError):
            DatasetName.parse(text)


@pytest.mark.parametrize(
    "uri",
    [
        "spiffe://nyc/member/health/service/triage",
        "spiffe://nyc/member/health/person/li.wei",
        "spiffe://nyc/member/health/node/node1",
        "spiffe://nyc/broker/broker1",
    ],
)
def test_the_four_forms_round_trip(uri: str) -> None:
    assert str(SpiffeId.parse(uri)) == uri


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "http://nyc/broker/b",
        "spiffe://nyc/broker/",
        "spiffe://nyc/broker/b/c",
        "spiffe://nyc/member/health/broker/x",
        "spiffe://nyc/member/HEALTH/node/x",
        "spiffe://nyc/member/health/node/x/",
        "spiffe://nyc/member/health/node/x?y",
        "spiffe://nyc//member/health/node/x",
        "spiffe://ny c/broker/b",
        "spiffe://nyc/member/../node/x",
    ],
)
def test_anything_else_is_refused(uri: str) -> None:
    with pytest.raises(TidegateError):
        SpiffeId.parse(uri)


@given(st.text(max_size=120))
def test_what_parses_prints_as_it_was(text: str) -> None:
    try:
        parsed = SpiffeId.parse(text)
    except TidegateError:
        return
    assert str(parsed) == text


def test_a_broker_belongs_to_no_member() -> None:
    with pytest.raises(TidegateError):
        SpiffeId("nyc", IdentityKind.BROKER, "health", "b")


def test_members_and_purposes_have_their_forms() -> None:
    assert member_name("telco_a") == "telco_a"
    assert is_purpose("epidemic.control") and not is_purpose("Epidemic Control") and not is_purpose("a" * 101)
    with pytest.raises(TidegateError):
        member_name("Health")

"""The join token, and what the member checks of a renewal. The calls themselves: tests/federation/test_identity.py."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.exchange import START, SmallExchange
from tidegate.channel import split_address
from tidegate.core.errors import Code, TidegateError
from tidegate.identity.joining import TOKEN_PREFIX, JoinToken, renew

TOKEN = JoinToken.make("broker.example:7445", "ab" * 32, b"\x07" * 32)


def test_a_token_says_where_and_whom() -> None:
    assert (TOKEN.address, TOKEN.root_fingerprint) == ("broker.example:7445", "ab" * 32)
    assert TOKEN.text.startswith(TOKEN_PREFIX)


@pytest.mark.parametrize("change", [str, lambda text: f"  {text}\n", lambda text: text[:50] + "\n  " + text[50:]])
def test_a_token_survives_copying(change: object) -> None:
    assert callable(change)
    assert JoinToken.parse(change(TOKEN.text)) == TOKEN
    assert JoinToken.parse(change(TOKEN.text)).sha256_hex == TOKEN.sha256_hex


@given(st.integers(0, len(TOKEN.text) - 1), st.sampled_from("abcXYZ019_-!é"))
def test_a_mistyped_token_is_noticed(place: int, char: str) -> None:
    text = TOKEN.text[:place] + char + TOKEN.text[place + 1 :]
    if text != TOKEN.text:
        with pytest.raises(TidegateError) as caught:
            JoinToken.parse(text)
        assert caught.value.code is Code.ID_JOIN_TOKEN


@given(st.integers(0, len(TOKEN.text) - 1))
def test_a_cut_token_is_noticed(size: int) -> None:
    with pytest.raises(TidegateError) as caught:
        JoinToken.parse(TOKEN.text[:size])
    assert caught.value.code is Code.ID_JOIN_TOKEN


@given(st.text(max_size=300))
def test_any_text_is_a_token_or_a_clean_error(text: str) -> None:
    with pytest.raises(TidegateError) as caught:
        JoinToken.parse(TOKEN_PREFIX + text)
    assert caught.value.code is Code.ID_JOIN_TOKEN


@pytest.mark.parametrize(
    ("address", "root", "secret"),
    [
        ("no-port", "ab" * 32, b"\x07" * 32),
        ("host:0", "ab" * 32, b"\x07" * 32),
        ("host:70000", "ab" * 32, b"\x07" * 32),
        ("host:7445", "ab" * 31, b"\x07" * 32),
        ("host:7445", "zz" * 32, b"\x07" * 32),
        ("host:7445", "ab" * 32, b"\x07" * 16),
    ],
)
def test_a_token_of_another_content_is_refused(address: str, root: str, secret: bytes) -> None:
    with pytest.raises(TidegateError):
        JoinToken.make(address, root, secret)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a.example:1", ("a.example", 1)), ("[::1]:65535", ("::1", 65535)), ("10.0.0.1:80", ("10.0.0.1", 80))],
)
def test_addresses_are_read(text: str, expected: tuple[str, int]) -> None:
    assert split_address(text) == expected


def test_a_renewal_brings_a_new_key_and_the_same_name(exchange: SmallExchange) -> None:
    old = exchange.member(name="renewing")

    def call(csr_pem: bytes) -> tuple[bytes, bytes]:
        issued = exchange.authority.issue(csr_pem, old.spiffe)
        return issued.certificate_pem, issued.chain_pem

    new = renew(old, call, START)
    assert new.spiffe == old.spiffe
    assert new.facts.serial_hex != old.facts.serial_hex
    assert new.key.private_numbers() != old.key.private_numbers()


def test_a_renewal_that_is_not_what_was_asked_is_refused(exchange: SmallExchange) -> None:
    old = exchange.member(name="renewing")
    other = exchange.member(name="other")

    def other_name(csr_pem: bytes) -> tuple[bytes, bytes]:
        issued = exchange.authority.issue(csr_pem, other.spiffe)
        return issued.certificate_pem, issued.chain_pem

    def other_key(csr_pem: bytes) -> tuple[bytes, bytes]:
        return old.certificate_pem, old.chain_pem

    def over_already(csr_pem: bytes) -> tuple[bytes, bytes]:
        issued = exchange.authority.issue(csr_pem, old.spiffe, lifetime=timedelta(seconds=-1))
        return issued.certificate_pem, issued.chain_pem

    for call in (other_name, other_key, over_already, lambda csr_pem: (b"", b"")):
        with pytest.raises(TidegateError):
            renew(old, call, START)
    assert replace(old).check(START)

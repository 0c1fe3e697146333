"""Canonical bytes: one form, no floats; and JSON of strangers, bounded and without duplicate keys."""

from __future__ import annotations

import json

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from tidegate.core.canonical import canonical, commitment, parse_json
from tidegate.core.errors import Code, TidegateError

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(VALUES)
def test_the_canonical_form_reads_back_and_is_stable(value: object) -> None:
    data = canonical(value)
    assert json.loads(data) == value
    assert canonical(json.loads(data)) == data


@given(VALUES)
def test_the_fast_way_gives_the_bytes_of_the_reference(value: object) -> None:
    assert canonical(value) == rfc8785.dumps(value)  # type: ignore[arg-type]


def test_keys_are_sorted_and_nothing_is_padded() -> None:
    assert canonical({"b": [1, None], "a": "é"}) == '{"a":"é","b":[1,null]}'.encode()


@pytest.mark.parametrize("value", [1.0, {"a": [0.5]}, 2**53, {"\ud800": 1}, "\ud800"])
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(TidegateError) as caught:
        canonical(value)
    assert caught.value.code is Code.AUDIT_VERIFICATION


@pytest.mark.parametrize("text", ['{"a":1,"a":2}', "[NaN]", "[Infinity]", "{", "", "[" * 100_000])
def test_json_of_a_stranger_that_is_not_json_is_refused(text: str) -> None:
    with pytest.raises(TidegateError) as caught:
        parse_json(text, size_bytes_max=1 << 20)
    assert caught.value.code is Code.WIRE_INVALID


def test_json_of_a_stranger_is_bounded() -> None:
    with pytest.raises(TidegateError):
        parse_json(b"[1,2,3]", size_bytes_max=6)
    assert parse_json(b"[1,2,3]", size_bytes_max=7) == [1, 2, 3]


def test_a_commitment_hides_and_binds() -> None:
    first, second = bytes(32), bytes(31) + b"\x01"
    assert commitment(first, b"x") != commitment(second, b"x") != commitment(second, b"y")
    with pytest.raises(TidegateError):
        commitment(b"short", b"x")

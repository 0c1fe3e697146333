"""Parameter values: exact on the wire, and nothing else is read."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.core.errors import Code, TidegateError
from tidegate.core.values import COLUMN_MIN, Value, decode, encode

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**38), 10**38)
    | st.floats(allow_nan=False)
    | st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**20), max_value=10**20)
    | st.text(max_size=50)
    | st.binary(max_size=50)
    | st.dates()
    | st.times()
    | st.datetimes()
    | st.datetimes(timezones=st.just(UTC))
)


@given(st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3), max_leaves=5))
def test_a_value_comes_back_as_it_went(value: Value) -> None:
    try:
        again = decode(encode(value))
    except TidegateError:
        return  # nested deeper than the limit
    assert again == value
    assert type(again) is type(value)


@given(st.lists(st.integers(-(10**38), 10**38), min_size=COLUMN_MIN) | st.lists(st.text(), min_size=COLUMN_MIN))
def test_a_long_list_of_one_type_goes_as_a_column_and_comes_back(values: list[Value]) -> None:
    sent = encode(values)
    assert sent["t"] in ("li", "ls")
    assert decode(json.loads(json.dumps(sent))) == values


def test_a_short_or_mixed_list_goes_as_it_always_did() -> None:
    for values in ([1] * (COLUMN_MIN - 1), [*range(COLUMN_MIN), None], [*range(COLUMN_MIN), True], [1.0] * COLUMN_MIN):
        assert encode(values)["t"] == "l"
        assert decode(encode(values)) == values


def test_not_a_number_travels() -> None:
    again = decode(encode(math.nan))
    assert isinstance(again, float) and math.isnan(again)


@pytest.mark.parametrize(
    "data",
    [
        None,
        {},
        {"t": "i"},
        {"t": "i", "v": 1},
        {"t": "i", "v": "1" * 50},
        {"t": "i", "v": "x"},
        {"t": "li", "v": ""},
        {"t": "li", "v": "1 x"},
        {"t": "li", "v": "1 " + "1" * 50},
        {"t": "li", "v": [1, 2]},
        {"t": "ls", "v": []},
        {"t": "ls", "v": "text"},
        {"t": "ls", "v": ["text", 1]},
        {"t": "ls", "v": {"text": 1}},
        {"t": "b", "v": "yes"},
        {"t": "d", "v": "1e999999999999999999"},
        {"t": "d", "v": "x"},
        {"t": "x", "v": "zz"},
        {"t": "D", "v": "2024-13-01"},
        {"t": "Z", "v": "2024-01-01T00:00:00"},
        {"t": "N", "v": "2024-01-01T00:00:00+00:00"},
        {"t": "?", "v": ""},
        {"t": "l", "v": "text"},
        {
            "t": "l",
            "v": [{"t": "l", "v": [{"t": "l", "v": [{"t": "l", "v": [{"t": "l", "v": [{"t": "l", "v": []}]}]}]}]}],
        },
        {"t": "s", "v": "x", "more": 1},
    ],
)
def test_anything_else_is_refused(data: Any) -> None:
    with pytest.raises(TidegateError) as caught:
        decode(data)
    assert caught.value.code is Code.PLAN_PARAMETERS


def test_a_type_without_a_form_is_refused() -> None:
    with pytest.raises(TidegateError):
        encode(object())  # type: ignore[arg-type]


def test_times_with_a_zone_travel_in_utc() -> None:
    moment = datetime.fromisoformat("2026-11-21T12:00:00+02:00")
    assert encode(moment) == {"t": "Z", "v": "2026-11-21T10:00:00+00:00"}
    assert encode(Decimal("1.10")) == {"t": "d", "v": "1.10"}
    assert encode(date(2024, 1, 2)) == {"t": "D", "v": "2024-01-02"}
    assert encode(time(1, 2)) == {"t": "T", "v": "01:02:00"}

"""Values as text: exact where a program reads them, harmless where a terminal shows them."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.cli.cells import csv_field, json_text, plain, shown, unique, words

BAD = [
    "\x1b[31m",
    "\x9b2J",
    "\r",
    "\n",
    "\t",
    "\x00",
    "\x7f",
    "\u202e",
    "\u2028",
    "\u200b",
    "\ufeff",
    "\ud800",
    "\u2066",
]


@pytest.mark.parametrize("text", BAD)
def test_plain_prints_only(text: str) -> None:
    made = plain(f"a{text}b")
    assert made.isprintable()
    assert made.startswith("a")
    assert made.endswith("b")


@pytest.mark.parametrize("text", ["数据", "données", "א ב", "می\u200cخواهم", "a\u3000b", "a\u00a0b", "👩\u200d🔬", ""])
def test_plain_keeps_every_script(text: str) -> None:
    assert plain(text) == text


def test_controls_are_shown_as_pictures() -> None:
    assert plain("a\nb\x1b[2J") == "a␊b␛[2J"


@settings(deadline=None)
@given(st.text())
def test_plain_of_anything_prints(text: str) -> None:
    made = plain(text)
    assert all(char.isprintable() or char in "\u200c\u200d" or char.isspace() for char in made)
    assert not set(made) & set("\n\r\t\x0b\x0c\x1b\x85\u2028\u2029")
    assert len(made) == len(text)


@pytest.mark.parametrize(
    ("value", "table", "as_json"),
    [
        (None, "", "null"),
        (True, "true", "true"),
        (False, "false", "false"),
        (2**70, str(2**70), str(2**70)),
        (0.1, "0.1", "0.1"),
        (1e300, "1e+300", "1e+300"),
        (float("nan"), "nan", '"NaN"'),
        (float("-inf"), "-inf", '"-Infinity"'),
        (Decimal("12.340"), "12.340", "12.340"),
        (Decimal("-1E+2"), "-100", "-100"),
        (
            Decimal("12345678901234567890123456789012345678"),
            "1234567890" * 3 + "12345678",
            "1234567890" * 3 + "12345678",
        ),
        (date(2013, 1, 2), "2013-01-02", '"2013-01-02"'),
        (datetime(2013, 1, 2, 3, 4, 5, 6), "2013-01-02 03:04:05.000006", '"2013-01-02T03:04:05.000006"'),
        (datetime(2013, 1, 2, 3, tzinfo=UTC), "2013-01-02 03:00:00+00:00", '"2013-01-02T03:00:00+00:00"'),
        (time(3, 4), "03:04:00", '"03:04:00"'),
        (timedelta(hours=1), "1:00:00", '"1:00:00"'),
        (b"\x00\xff", "00ff", '"00ff"'),
        ([1, None, "a"], '[1, null, "a"]', '[1, null, "a"]'),
        ({"k": Decimal("1.0")}, '{"k": 1.0}', '{"k": 1.0}'),
        ("x\ty", "x\ty", '"x\\ty"'),
        ("\x9b\u202e\ud800", "\x9b\u202e\ud800", '"\\u009b\\u202e\\ud800"'),
        ("数据", "数据", '"数据"'),
    ],
)
def test_a_value(value: Any, table: str, as_json: str) -> None:
    assert shown(value) == table
    assert json_text(value) == as_json


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10)


@settings(deadline=None)
@given(values)
def test_json_says_what_pythons_own_says_and_a_terminal_prints_it(value: Any) -> None:
    text = json_text(value)
    assert json.loads(text) == value
    assert not set(text) & set("\x1b\x9b\n\r\u202e\ud800")


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (None, ""),
        ("", '""'),
        ("a", "a"),
        ("a,b", '"a,b"'),
        ('say "x"', '"say ""x"""'),
        ("two\nlines", '"two\nlines"'),
        (" a ", '" a "'),
        (1.5, "1.5"),
        ([1, 2], '"[1, 2]"'),
    ],
)
def test_a_csv_field(value: Any, field: str) -> None:
    assert csv_field(value) == field


def test_words_of_records() -> None:
    assert words(["a", 1, None, ["b"]]) == "a, 1, , b"
    assert words(None) == ""
    assert words({"a": [1]}) == '{"a": [1]}'


@pytest.mark.parametrize(
    ("names", "keys"),
    [
        (["a", "b"], ["a", "b"]),
        (["a", "a", "a"], ["a", "a_2", "a_3"]),
        (["a", "a_2", "a"], ["a", "a_2", "a_3"]),
        ([], []),
    ],
)
def test_two_columns_of_one_name_both_get_a_key(names: list[str], keys: list[str]) -> None:
    assert unique(names) == keys

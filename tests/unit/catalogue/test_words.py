"""Words, texts and page tokens: the small readers of what strangers typed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalogue.pages import Token, page_size_of
from catalogue.texts import is_plain
from catalogue.words import QUERY_CHARS_MAX, query_runs, query_tokens, runs, tokens
from tidegate.core.errors import Code, TidegateError
from tidegate.core.limits import PAGE_SIZE_MAX


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dep_Delay, 15 min!", ["dep", "delay", "15", "min"]),
        ("Straße İstanbul", ["strasse", "i\u0307stanbul"]),
        ("人口统计", ["人", "口", "统", "计", "人口", "口统", "统计"]),
        ("A股2013年", ["a", "股", "2013", "年"]),
        ("हिन्दी", ["हिन्दी"]),
        ("x" * 100, ["x" * 64]),
        ("\u0301 -- \u200b", []),
    ],
)
def test_tokens(text: str, expected: list[str]) -> None:
    assert list(tokens(text)) == expected


@given(st.text(max_size=80))
def test_a_text_holds_every_token_of_any_run_of_itself(text: str) -> None:
    held = set(tokens(text))
    for run in runs(text):
        assert set(query_tokens(run)) <= held


@given(st.text(max_size=80))
def test_tokens_hold_nothing_that_an_engine_reads_as_an_operator(text: str) -> None:
    for token in tokens(text):
        assert token
        assert not any(char.isspace() or char in "\"'\\*:&|!()<>-^+\x00" for char in token)


def test_a_query_that_is_too_long_is_refused() -> None:
    assert query_runs("") == ()
    for text in ("a" * (QUERY_CHARS_MAX + 1), "...", " ".join(map(str, range(17)))):
        with pytest.raises(TidegateError) as caught:
            query_runs(text)
        assert caught.value.code is Code.CAT_INVALID


@pytest.mark.parametrize(
    "text", ["a\x1b[31m", "a\x00", "a\r", "\u202eabc", "\u2066x", "\ufeff", "\ue000", "a\u2028b", "a\nb"]
)
def test_what_does_not_print_is_not_plain(text: str) -> None:
    assert not is_plain(text)


def test_what_prints_is_plain() -> None:
    assert is_plain("Flüge, 航班 – नमस्ते \u200d ✈")
    assert is_plain("a\nb\tc", lines=True)
    assert not is_plain("a\rb", lines=True)


@given(st.lists(st.text(max_size=30) | st.integers(-(2**60), 2**60), max_size=4))
def test_a_page_token_comes_back_as_it_was(place: list[str | int]) -> None:
    token = Token("kind", tuple(place))
    assert Token.read(token.write(), "kind") == token
    with pytest.raises(TidegateError):
        Token.read(token.write(), "other")


@given(st.text(max_size=60))
def test_a_page_token_of_a_stranger_is_read_or_refused(text: str) -> None:
    try:
        Token.read(text, "kind")
    except TidegateError as error:
        assert error.code is Code.CAT_INVALID  # noqa: PT017 - the property: no other exception


def test_page_sizes() -> None:
    assert (page_size_of(0), page_size_of(7), page_size_of(10**9)) == (100, 7, PAGE_SIZE_MAX)

from __future__ import annotations

import time

import pytest

from tidegate.core.errors import CallerError, Code
from tidegate.sql.admit import admit


@pytest.mark.parametrize(
    "text", ["SELECT 1", "VALUES (1)", "(SELECT 1)", "FROM a.b", "SELECT 1;", "-- note\nSELECT 1", "/* a */ SELECT 1"]
)
def test_one_query_is_admitted(text: str) -> None:
    admit(text)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", Code.PLAN_SYNTAX),
        (";", Code.PLAN_SYNTAX),
        ("SELECT 1; SELECT 2", Code.PLAN_SYNTAX),
        ("DROP TABLE a.b", Code.PLAN_SYNTAX),
        ("SELECT $$", Code.PLAN_SYNTAX),
        ("SELECT '\ud800'", Code.PLAN_SYNTAX),
        ("SELECT 1 \x00", Code.PLAN_SYNTAX),
        ("SELECT read_csv('x')", Code.PLAN_NOT_ALLOWED),
        ("SELECT DUCKDB_SETTıNGS()", Code.PLAN_NOT_ALLOWED),
        ("SELECT * FROM a.b TABLESAMPLE 1%", Code.PLAN_NOT_ALLOWED),
        ("SELECT ?, $1", Code.PLAN_PARAMETERS),
        ("SELECT '" + "x" * 70_000 + "'", Code.PLAN_TOO_LARGE),
        ("SELECT " + "1," * 12_000 + "1", Code.PLAN_TOO_LARGE),
        ("SELECT " + "(" * 101 + "1" + ")" * 101, Code.PLAN_TOO_LARGE),
    ],
)
def test_refusal_names_its_code_and_nothing_of_the_text(text: str, code: Code) -> None:
    with pytest.raises(CallerError) as caught:
        admit(text)
    assert caught.value.code is code
    assert "read_csv" not in caught.value.message


@pytest.mark.parametrize(
    "word", ["DATE(", "ARRAY[", "ROW(", "[", "STRUCT(", "MAP(", "TIMESTAMP(", "LIST(", "CAST(", "abs(", "{'a': "]
)
def test_nesting_that_is_exponential_to_parse_ends_at_once(word: str) -> None:
    close = {"(": ")", "[": "]", "{": "}"}
    text = "SELECT " + word * 60 + "1" + "".join(close[char] for char in reversed(word * 60) if char in close)
    started = time.monotonic()
    with pytest.raises(CallerError):
        admit(text)
    assert time.monotonic() - started < 1.0


def test_each_question_mark_is_the_number_of_its_place() -> None:
    assert "$2" in admit("SELECT ?, ?").sql(dialect="duckdb")

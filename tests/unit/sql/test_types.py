from __future__ import annotations

import pytest

from tidegate.core.errors import CallerError
from tidegate.sql.types import parse_type


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("int", "INTEGER"),
        ("BIGINT", "BIGINT"),
        ("text", "VARCHAR"),
        ("VARCHAR(20)", "VARCHAR"),
        ("DECIMAL(12,2)", "DECIMAL(12,2)"),
        ("decimal", "DECIMAL(18,3)"),
        ("VARCHAR[]", "VARCHAR[]"),
        ("INTEGER[3]", "INTEGER[3]"),
        ("VARCHAR[][]", "VARCHAR[][]"),
        ('STRUCT(a INTEGER, "b" VARCHAR[])', 'STRUCT("a" INTEGER, "b" VARCHAR[])'),
        ("MAP(VARCHAR, INTEGER)", "MAP(VARCHAR, INTEGER)"),
        ("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ"),
        ("HUGEINT", "HUGEINT"),
    ],
)
def test_listed_types_have_one_spelling_that_reads_as_itself(text: str, canonical: str) -> None:
    assert parse_type(text) == canonical
    assert parse_type(canonical) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "",
        "foo",
        "ENUM('a')",
        "UNION(a INTEGER)",
        "VARIANT",
        "BIT",
        "DECIMAL(39,1)",
        "DECIMAL(5,9)",
        "DECIMAL(1,2,3)",
        "INTEGER[0]",
        "INTEGER[9999]",
        'STRUCT("a b" INTEGER)',
        "STRUCT(a)",
        "INTEGER; DROP TABLE x",
        "INTEGER) AS x",
        "INTEGER[][][][][][]",
        "x" * 2000,
    ],
)
def test_every_other_type_is_refused(text: str) -> None:
    with pytest.raises(CallerError):
        parse_type(text)

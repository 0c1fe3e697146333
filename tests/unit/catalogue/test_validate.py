"""What a dataset must be: one case for each rule, and all problems of one dataset at once."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest

from catalogue.validate import validated
from tests.contract.catalogue_setup import dataset
from tidegate.core.dataset import Column
from tidegate.core.errors import Code, TidegateError
from tidegate.core.names import DatasetName


def test_types_are_spelt_one_way() -> None:
    columns = (Column("a", "int8"), Column("b", "text"), Column("c", "numeric(9,1)[]"))
    assert [column.type for column in validated(dataset("a.b", columns=columns)).columns] == [
        "BIGINT",
        "VARCHAR",
        "DECIMAL(9,1)[]",
    ]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"title": " "}, "title"),
        ({"title": "x" * 201}, "title"),
        ({"title": "a\nb"}, "title"),
        ({"description": "\x1b]0;owned\x07"}, "description"),
        ({"licence": "\u202e"}, "licence"),
        ({"citation": "x" * 501}, "citation"),
        ({"columns": ()}, "columns"),
        ({"columns": (Column("a", "geometry"),)}, "column 1: type"),
        ({"columns": (Column("a", "BIGINT); DROP TABLE x"),)}, "column 1: type"),
        ({"columns": (Column("a", "BIGINT", element="Person Id"),)}, "column 1: element"),
        ({"columns": (Column("a", "BIGINT", description="\x00"),)}, "column 1: description"),
        ({"columns": (Column("a", "BIGINT", sensitivity="restricted", distinct=3),)}, "column 1: statistics"),
        ({"columns": (Column("a", "BIGINT", sensitivity="secret", minimum="1"),)}, "column 1: statistics"),
        ({"columns": (Column("a", "BIGINT", distinct=-1),)}, "column 1: distinct"),
        ({"columns": (Column("a", "BIGINT", maximum="9" * 201),)}, "column 1: statistics"),
        ({"columns": tuple(Column(f"a{number}", "BIGINT") for number in range(2_001))}, "columns: more"),
        ({"rows": -1}, "rows"),
        ({"rows": 2**53}, "rows"),
        ({"node": ""}, "node"),
        ({"node": "../x"}, "node"),
        ({"owner": "other"}, "owner"),
        ({"keys": ("none",)}, "keys"),
        ({"keys": ("id", "id")}, "keys"),
        ({"tags": ("\x07",)}, "tags"),
        ({"tags": tuple(map(str, range(51)))}, "tags: more"),
        ({"extra": MappingProxyType({"k": "\x00"})}, "extra"),
        ({"hidden_from": ("a",)}, "hidden_from"),
        ({"node": "", "parts": (DatasetName("a", "b"),)}, "parts"),
        ({"parts": (DatasetName("c", "d"),)}, "node"),
    ],
)
def test_each_rule(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(TidegateError) as caught:
        validated(dataset("a.b", **changes))
    assert caught.value.code is Code.CAT_INVALID
    assert named in caught.value.message


def test_all_problems_come_at_once_and_show_no_value() -> None:
    with pytest.raises(TidegateError) as caught:
        validated(dataset("a.b", title="", node="my secret node", rows=-4_711))
    message = caught.value.message
    assert all(word in message for word in ("title", "node", "rows"))
    assert "secret" not in message
    assert "4711" not in message

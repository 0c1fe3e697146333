"""Found in review: the catalogue told everybody the extremes of masked columns, and of data that needs an agreement."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.node.test_sources import Make, columns, make

_ = make  # the fixture of that module, used by name


@pytest.mark.parametrize("mask", ["bucket:10", "null", "bucket:10;in_predicate=deny"])
def test_nothing_is_told_of_what_a_mask_hides(make: Make, mask: str) -> None:
    found = columns(make(source="parquet", path="people.parquet", columns={"wage": {"mask": mask}}))
    assert (found["wage"].distinct, found["wage"].minimum, found["wage"].maximum) == (None, None, None)
    assert found["born"].maximum is not None


def test_extremes_of_data_that_needs_an_agreement_are_told_of_public_columns_alone(make: Make) -> None:
    fields: dict[str, Any] = {"class": "conditional", "columns": {"born": {"sensitivity": "public"}}}
    found = columns(make(source="parquet", path="people.parquet", **fields))
    assert (found["wage"].distinct, found["wage"].minimum, found["wage"].maximum) == (100, None, None)
    assert found["born"].maximum == "2020-04-09"

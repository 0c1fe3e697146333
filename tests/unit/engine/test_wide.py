"""Whole numbers that Arrow has no room for are refused wherever they stand; the widest that fit pass."""

from __future__ import annotations

import duckdb
import pytest

from engine.wide import WideNumbers
from tidegate.core.errors import Code, TidegateError

MOST = "340282366920938463463374607431768211455::UHUGEINT"  # DuckDB hands it to Arrow as -1
HALF = "170141183460469231731687303715884105728::UHUGEINT"  # the first that is negative there
NINES = "9" * 38


def checked(expression: str) -> None:
    relation = duckdb.connect().sql(f"SELECT 'HUGEINT' AS word, {expression} AS x FROM range(3)")
    reader = relation.to_arrow_reader(10)
    wide = WideNumbers(relation.types)
    for batch in reader:
        wide.check(batch)


@pytest.mark.parametrize(
    "expression",
    [
        f"{NINES}::HUGEINT",
        f"-{NINES}::HUGEINT",
        f"{NINES}::UHUGEINT",
        "NULL::UHUGEINT",
        "0::UHUGEINT",
        "[3::UHUGEINT, NULL]",
        "[NULL, 3::UHUGEINT]::UHUGEINT[2]",
        "{'a': 3::UHUGEINT, 'b': -1::HUGEINT}",
        "MAP {3::UHUGEINT: [-1::HUGEINT]}",
    ],
)
def test_what_fits_passes(expression: str) -> None:
    checked(expression)


@pytest.mark.parametrize(
    "expression",
    [
        MOST,
        HALF,
        "170141183460469231731687303715884105727::HUGEINT",
        f"-{NINES}::HUGEINT - 1",
        "'-170141183460469231731687303715884105728'::HUGEINT",
        f"[{MOST}]",
        f"[{MOST}]::UHUGEINT[1]",
        f"[[{MOST}]]",
        f"{{'a': {MOST}}}",
        f"MAP {{1: {MOST}}}",
        f"MAP {{{MOST}: 1}}",
    ],
)
def test_what_does_not_fit_is_refused(expression: str) -> None:
    with pytest.raises(TidegateError) as caught:
        checked(expression)
    assert caught.value.code is Code.JOIN_FAILED
    assert "38 digits" in caught.value.message

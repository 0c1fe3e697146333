"""Masks: each gives what Python computes, keeps its type, and never raises."""

from __future__ import annotations

import hashlib
import hmac
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlglot import exp

from tests.fakes.sql_world import KEYS
from tidegate.core.decision import MASKS, Mask
from tidegate.core.errors import Refused
from tidegate.core.names import DatasetName
from tidegate.sql import masks
from tidegate.sql.nodes import column

DATASET = DatasetName("air", "a")
DATABASE = duckdb.connect()


def apply(mask: Mask, type_text: str, values: list[Any]) -> tuple[list[Any], str]:
    """Mask values in DuckDB; give them and the type of the result."""
    made = masks.expression(mask, column("r0", "v"), type_text, DATASET, KEYS)
    cursor = DATABASE.cursor()
    cursor.execute(f"CREATE TEMP TABLE t (i INTEGER, v {type_text})")
    cursor.executemany("INSERT INTO t VALUES (?, ?)", [[i, value] for i, value in enumerate(values)])
    found = cursor.sql(f'SELECT {made.sql("duckdb", identify=True)} AS v FROM t AS "r0" ORDER BY i')
    return [row[0] for row in found.fetchall()], str(found.types[0])


def digest(mask: Mask, text: str) -> str:
    return hmac.new(KEYS.key(mask, DATASET, "v"), text.encode(), hashlib.sha256).hexdigest()


HASH, PSEUDONYM = Mask("hash", {}), Mask("pseudonym", {"key": "recipient"})
TEXTS = ["JFK", "", None, "Ö", "it's", "a\nb", "x" * 200]


def test_hash_is_the_hmac_of_the_text() -> None:
    found, kind = apply(HASH, "VARCHAR", TEXTS)
    assert found == [None if text is None else digest(HASH, text) for text in TEXTS]
    assert kind == "VARCHAR"


def test_pseudonym_is_the_first_half_of_the_hmac_under_the_recipients_key() -> None:
    found, _ = apply(PSEUDONYM, "VARCHAR", TEXTS)
    assert found == [None if text is None else digest(PSEUDONYM, text)[:32] for text in TEXTS]
    assert found != apply(Mask("pseudonym", {"key": "node"}), "VARCHAR", TEXTS)[0]


@pytest.mark.parametrize("kind", ["BIGINT", "HUGEINT"])
def test_hash_of_an_integer_is_an_integer(kind: str) -> None:
    found, made = apply(HASH, kind, [7, -1, None])
    assert found == [int(digest(HASH, "7")[:15], 16), int(digest(HASH, "-1")[:15], 16), None]
    assert made == kind


@given(key=st.binary(max_size=150), text=st.text(max_size=40).filter(lambda t: "\x00" not in t))
def test_hmac_equals_pythons_for_every_key_and_text(key: bytes, text: str) -> None:
    made = masks.hmac_hex(key, exp.Literal.string(text)).sql("duckdb")
    assert (
        DATABASE.cursor().sql(f"SELECT {made}").fetchall()[0][0]
        == hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    )


@pytest.mark.parametrize("kind", ["VARCHAR", "BIGINT", "DATE", "STRUCT(a INTEGER)", "VARCHAR[]", "DECIMAL(12,2)"])
def test_null_mask_keeps_the_type(kind: str) -> None:
    found, made = apply(Mask("null", {}), kind, [None])
    assert found == [None]
    assert made.replace('"', "") == kind


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ("gone", "VARCHAR", "gone"),
        (7, "BIGINT", 7),
        (-7, "DOUBLE", -7.0),
        (None, "DATE", None),
        ("2024-01-01", "DATE", date(2024, 1, 1)),
    ],
)
def test_constant_is_of_the_columns_type(value: Any, kind: str, expected: Any) -> None:
    assert apply(Mask("constant", {"value": value}), kind, [None]) == ([expected], kind)


def test_truncate_date_truncates_and_keeps_the_type() -> None:
    days = [date(2024, 5, 17), None, date(1960, 12, 31)]
    assert apply(Mask("truncate_date", {"unit": "month"}), "DATE", days) == (
        [date(2024, 5, 1), None, date(1960, 12, 1)],
        "DATE",
    )
    assert apply(Mask("truncate_date", {"unit": "quarter"}), "DATE", days)[0][0] == date(2024, 4, 1)
    moment = datetime(2024, 5, 17, 13, 45)
    assert apply(Mask("truncate_date", {"unit": "hour"}), "TIMESTAMP", [moment]) == (
        [datetime(2024, 5, 17, 13)],
        "TIMESTAMP",
    )


def test_bucket_is_the_lower_bound_of_its_bucket_also_below_zero_and_at_the_edge() -> None:
    lowest, highest = -(2**63), 2**63 - 1
    values = [0, 9, 10, -1, -10, -11, None, highest, lowest]
    found, kind = apply(Mask("bucket", {"width": 10}), "BIGINT", values)
    # the bucket of the lowest value begins below the type: NULL, not an error
    assert found == [None if value is None or value == lowest else value // 10 * 10 for value in values]
    assert kind == "BIGINT"
    assert apply(Mask("bucket", {"width": 5}), "DOUBLE", [7.5, -0.5, float("inf")])[0] == [5.0, -5.0, float("inf")]
    assert apply(Mask("bucket", {"width": 5}), "DECIMAL(12,2)", [Decimal("7.50"), Decimal("-0.5")])[0] == [5, -5]


def test_last_n_shows_nothing_of_a_short_value_and_hides_the_length() -> None:
    found, _ = apply(Mask("last_n", {"n": 2}), "VARCHAR", ["N12345", "ab", "a", "", None])
    assert found == ["***45", "***", "***", "***", None]


def test_redact_hides_texts_and_nulls_other_types() -> None:
    assert apply(Mask("redact", {}), "VARCHAR", ["secret", None])[0] == ["***", None]
    assert apply(Mask("redact", {}), "BIGINT", [7])[0] == [None]


@pytest.mark.parametrize(
    ("mask", "kind"),
    [
        (Mask("truncate_date", {"unit": "year"}), "VARCHAR"),
        (Mask("bucket", {"width": 5}), "VARCHAR"),
        (Mask("last_n", {"n": 4}), "BIGINT"),
        (Mask("hash", {}), "DATE"),
        (Mask("pseudonym", {}), "DOUBLE"),
        (Mask("constant", {"value": "x"}), "BIGINT"),
        (Mask("constant", {"value": 1}), "VARCHAR"),
        (Mask("constant", {"value": True}), "VARCHAR"),
    ],
)
def test_mask_that_does_not_fit_the_type_refuses(mask: Mask, kind: str) -> None:
    with pytest.raises(Refused) as caught:
        masks.expression(mask, column("r0", "v"), kind, DATASET, KEYS)
    assert caught.value.reasons[0].code == "mask_does_not_fit"


def test_every_kind_of_mask_has_an_expression() -> None:
    assert set(masks._KINDS) | {"hash", "pseudonym"} == set(MASKS)

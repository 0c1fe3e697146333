"""The policies of the benchmark: ``whole`` permits every row and column; ``restricted`` filters and masks every large table.

For ``restricted`` each rule is written down twice, on purpose in two languages: as the exchange takes it (a row filter in an
agreement, a mask in the node's configuration), and as the SQL of a plain view, which the reference computes on its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

POLICIES = ("whole", "restricted")


@dataclass(frozen=True, slots=True)
class Terms:
    """What one table's owner lets through.

    Args:
        row_filter: UCAST, as in an agreement; ``{}`` lets every row through.
        masks: column to mask, as in a node's configuration.
        condition, shown: the same two rules as SQL of a view: a WHERE condition, and an expression per masked column.
    """

    row_filter: Mapping[str, Any] = field(default_factory=dict)
    masks: Mapping[str, str] = field(default_factory=dict)
    condition: str = "true"
    shown: Mapping[str, str] = field(default_factory=dict)

    def view(self, table: str) -> str:
        """Give the SELECT of the plain view over a table that follows these rules."""
        replaced = ", ".join(f"{expression} AS {column}" for column, expression in self.shown.items())
        star = f"* REPLACE ({replaced})" if replaced else "*"
        return f"SELECT {star} FROM {table} WHERE {self.condition}"


def _test(name: str, operator: str, value: object) -> dict[str, Any]:
    return {"type": "field", "field": name, "operator": operator, "value": value}


def _steps(column: str, width: int) -> str:
    """Give SQL that rounds a price down to a multiple of a whole number; exact, in decimals."""
    return f"CAST({column} - (({column} % {width}) + {width}) % {width} AS DECIMAL(15,2))"


RESTRICTED: Mapping[str, Terms] = {
    "lineitem": Terms(
        _test("l_shipmode", "ne", "REG AIR"),
        {"l_extendedprice": "bucket:100"},
        "l_shipmode <> 'REG AIR'",
        {"l_extendedprice": _steps("l_extendedprice", 100)},
    ),
    "orders": Terms(
        _test("o_orderpriority", "ne", "4-NOT SPECIFIED"),
        {"o_totalprice": "bucket:1000"},
        "o_orderpriority <> '4-NOT SPECIFIED'",
        {"o_totalprice": _steps("o_totalprice", 1000)},
    ),
    "customer": Terms(
        _test("c_mktsegment", "ne", "MACHINERY"),
        {"c_name": "last_n:4"},
        "c_mktsegment <> 'MACHINERY'",
        {"c_name": "CASE WHEN length(c_name) > 4 THEN '***' || right(c_name, 4) ELSE '***' END"},
    ),
    "part": Terms(_test("p_size", "lte", 45), {"p_mfgr": "redact"}, "p_size <= 45", {"p_mfgr": "'***'"}),
    # Not ps_supplycost: Q11 compares its product with another column's, which policy refuses for a mask without a shared key.
    "partsupp": Terms(
        _test("ps_availqty", "gt", 100), {"ps_comment": "redact"}, "ps_availqty > 100", {"ps_comment": "'***'"}
    ),
    "supplier": Terms(
        _test("s_acctbal", "gte", -900),
        {"s_phone": "last_n:4"},
        "s_acctbal >= -900",
        {"s_phone": "CASE WHEN length(s_phone) > 4 THEN '***' || right(s_phone, 4) ELSE '***' END"},
    ),
}


def terms(policy: str, table: str) -> Terms:
    """Give the terms of one table; small tables (nation, region) are whole under either policy."""
    return RESTRICTED.get(table, Terms()) if policy == "restricted" else Terms()

"""What the exchange's SQL is, in the numbers of Flight SQL's ``SqlInfo``: drivers and BI tools shape their queries by it.

Each claim is true of the planner, and a test asks it. An answer's member of the union is what drivers read it as: JDBC's casts
fail on another. Source: Apache Arrow, FlightSql.proto, ``SqlInfo``; the members for ordinals and masks as in its Java builder.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import pyarrow as pa

from broker.wire.flight.function_groups import FUNCTION_GROUPS
from broker.wire.flight.patterns import ESCAPE
from broker.wire.flight.schemas import SQL_INFO, SQL_INFO_VALUE
from catalogue.validate import COLUMNS_MAX
from tidegate import __version__
from tidegate.core.limits import SQL_BYTES_MAX, SQL_JOINS_MAX
from tidegate.core.names import NAME_CHARS_MAX
from tidegate.sql.words import words

EXCHANGE_NAME_CHARS_MAX = 100


@dataclass(frozen=True, slots=True)
class Big:
    """A number that clients read as 64 bits; 0 as a maximum means that there is none, or none that is known."""

    value: int


InfoValue = str | bool | Big | int | tuple[str, ...] | Mapping[int, tuple[int, ...]] | None

_CASE_INSENSITIVE = 1
_NULLS_AT_END = 3
_NONE = 0

KEYWORDS = tuple(sorted(words("anti glob ilike limit offset pivot qualify rename replace semi try_cast")))
"""Words of our SQL that are no keywords of SQL:2003, where a tool must quote a name that is one."""

# Families of SqlSupportsConvert; what is in a family can be cast to all that its row names.
_BITS, _NUMBERS, _TEXTS, _BYTES = (2,), (0, 5, 6, 7, 12, 13, 14, 17), (3, 11, 19), (1, 10, 18)
_DATE, _TIME, _TIMESTAMP, _INTERVAL = (4,), (15,), (16,), (8, 9)
_EVERY = (*_BITS, *_NUMBERS, *_TEXTS, *_BYTES, *_DATE, *_TIME, *_TIMESTAMP, *_INTERVAL)
_CONVERSIONS = (
    (_BITS, (*_BITS, *_NUMBERS, *_TEXTS)),
    (_NUMBERS, (*_BITS, *_NUMBERS, *_TEXTS)),
    (_TEXTS, _EVERY),
    (_BYTES, (*_BYTES, *_TEXTS)),
    (_DATE, (*_DATE, *_TIMESTAMP, *_TEXTS)),
    (_TIME, (*_TIME, *_TEXTS)),
    (_TIMESTAMP, (*_TIMESTAMP, *_DATE, *_TIME, *_TEXTS)),
    (_INTERVAL, (*_INTERVAL, *_TEXTS)),
)
CONVERSIONS: Mapping[int, tuple[int, ...]] = MappingProxyType(
    {source: tuple(sorted(targets)) for family, targets in _CONVERSIONS for source in family}
)
"""From which of ``SqlSupportsConvert`` to which a CAST is taken."""


def _server(statement_timeout_s: float) -> dict[int, InfoValue]:
    return {
        0: "Tidegate",
        1: __version__,
        2: pa.__version__,
        3: True,  # read only
        4: True,  # SQL
        5: False,  # Substrait
        6: None,
        7: None,
        8: _NONE,  # transactions over Flight SQL
        9: True,  # cancel
        10: False,  # bulk ingestion
        11: False,  # ingestion in transactions
        100: int(statement_timeout_s * 1000),
        101: 0,  # of a transaction
    }


def _syntax() -> dict[int, InfoValue]:
    return {
        500: False,  # CREATE and DROP: of catalogs
        501: False,  # schemas
        502: False,  # tables
        503: _CASE_INSENSITIVE,  # exact spelling first, then the only one that differs in case
        504: '"',
        505: _CASE_INSENSITIVE,  # quoted ones too
        506: False,  # that a dataset may be known does not mean that its rows may be read
        507: _NULLS_AT_END,
        508: KEYWORDS,
        509: FUNCTION_GROUPS["numeric"],
        510: FUNCTION_GROUPS["string"],
        511: FUNCTION_GROUPS["system"],
        512: FUNCTION_GROUPS["datetime"],
        513: ESCAPE,
        514: "",
        515: True,  # column aliases
        516: True,  # NULL with anything is NULL
        517: CONVERSIONS,
        518: True,  # table aliases
        519: False,  # which may well be the name of a table
        520: True,  # expressions in ORDER BY
        521: True,  # ORDER BY what is not selected
        522: 0b11,  # GROUP BY what is not selected, and more than is selected
        523: True,  # LIKE with ESCAPE
        524: False,  # there is no DDL, so no NOT NULL
        525: 0b1,  # ODBC grammar: minimum; more of it would be DDL
        526: 0b1,  # SQL-92: entry level
        527: False,  # integrity enhancement
        528: 0b110,  # outer joins: limited and full
        529: "department",
        530: "",  # there are no procedures
        531: "exchange",
        532: True,  # catalog first
        533: 0,
        534: 0,
        535: 0,
        536: False,  # SELECT FOR UPDATE
        537: False,  # stored procedures
        538: 0b1111,  # sub-queries in comparisons, EXISTS, IN and quantified
        539: True,  # correlated ones
        540: 0b11,  # UNION and UNION ALL
    }


def _limits() -> dict[int, InfoValue]:
    return {
        541: Big(SQL_BYTES_MAX),  # binary literal
        542: Big(SQL_BYTES_MAX),  # text literal
        543: Big(NAME_CHARS_MAX),  # column name
        544: Big(0),
        545: Big(0),
        546: Big(0),
        547: Big(0),
        548: Big(COLUMNS_MAX),  # columns of a table
        549: Big(0),
        550: Big(0),
        551: Big(0),
        552: Big(NAME_CHARS_MAX),  # schema name
        553: Big(0),
        554: Big(EXCHANGE_NAME_CHARS_MAX),  # catalog name
        555: Big(0),
        556: False,
        557: Big(SQL_BYTES_MAX),  # statement
        558: Big(0),
        559: Big(NAME_CHARS_MAX),  # table name
        560: Big(SQL_JOINS_MAX + 1),  # tables of a SELECT
        561: Big(0),
        562: Big(_NONE),  # transaction isolation
        563: False,
        564: 0b1,  # none is the one isolation level
        565: False,
        566: False,
        567: 0b10,  # result sets: forward only
        568: 0,
        569: 0b10,  # forward only ones are read only
        570: 0,
        571: 0,
        572: False,  # batch updates
        573: False,  # savepoints
        574: False,  # named parameters of callable statements
        575: False,
        576: False,
    }


def sql_info(*, statement_timeout_s: float) -> Mapping[int, InfoValue]:
    """Give every value by its number.

    Args:
        statement_timeout_s: how long a prepared statement lives unused.
    """
    return MappingProxyType({**_server(statement_timeout_s), **_syntax(), **_limits()})


def sql_info_batch(info: Mapping[int, InfoValue], asked: Iterable[int]) -> pa.RecordBatch:
    """Give the asked values, each once, in the order of asking; nothing asked means all. Unknown numbers are left out."""
    names = [number for number in dict.fromkeys(asked) if number in info]
    if not names and not tuple(asked):
        names = list(info)
    members: list[list[object]] = [[] for _ in range(SQL_INFO_VALUE.num_fields)]
    tags, offsets = [], []
    for number in names:
        tag, value = _member(info[number])
        tags.append(tag)
        offsets.append(len(members[tag]))
        members[tag].append(value)
    children = [pa.array(values, SQL_INFO_VALUE.field(place).type) for place, values in enumerate(members)]
    value = pa.UnionArray.from_dense(
        pa.array(tags, pa.int8()),
        pa.array(offsets, pa.int32()),
        children,
        [SQL_INFO_VALUE.field(place).name for place in range(SQL_INFO_VALUE.num_fields)],
    ).cast(SQL_INFO_VALUE)
    return pa.RecordBatch.from_arrays([pa.array(names, pa.uint32()), value], schema=SQL_INFO)


def _member(value: InfoValue) -> tuple[int, object]:
    """Give the union's member that carries a value, and the value as Arrow takes it."""
    match value:
        case None | str():
            return 0, value
        case bool():
            return 1, value
        case Big():
            return 2, value.value
        case int():
            return 3, value
        case tuple():
            return 4, list(value)
        case _:
            return 5, [(key, list(targets)) for key, targets in value.items()]

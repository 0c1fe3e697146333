"""ibis expressions: tables of the catalogue without any connection, and an expression as the SQL that it means.

An expression is compiled here, by ibis, to DuckDB's dialect; what is sent is that text, which the broker admits, decides and
records like one that a person wrote. ibis is optional: a text never loads it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from functools import reduce
from typing import TYPE_CHECKING, Any

from tidegate.client.catalogue import CatalogueClient
from tidegate.client.extras import load
from tidegate.core.errors import Code, error_for
from tidegate.core.names import DatasetName

if TYPE_CHECKING:
    from ibis.expr.types import Table

EXTRA = "ibis"
_CONTROLS = re.compile(r"([\x00-\x08\x0b-\x1f\x7f])")  # all but tab and line feed


class IbisTables:
    """Tables for ibis, made from the catalogue: ``session.ibis.table("health.visits")``."""

    def __init__(self, catalogue: CatalogueClient) -> None:
        self._catalogue = catalogue

    def table(self, name: str) -> Table:
        """Give an unbound table with the columns and types that the catalogue lists; nothing but the catalogue is asked.

        Raises:
            CallerError: CLIENT_INPUT, ibis is not installed, or it has no word for a type; CAT_NOT_FOUND.
        """
        ibis = load("ibis", EXTRA)
        types = load("ibis.backends.sql.datatypes", EXTRA).DuckDBType
        dataset = self._catalogue[name]
        schema = {}
        for column in dataset.columns:
            try:
                schema[column.name] = types.from_string(column.type, nullable=column.nullable)
            except Exception as error:  # ibis and its parser raise what they like
                raise error_for(
                    Code.CLIENT_INPUT, f"{name}: ibis has no type for {column.name}, which is {column.type}"
                ) from error
        parsed: DatasetName = dataset.name
        made: Table = ibis.table(schema, name=parsed.name, database=parsed.department)
        return made


def statement(query: Any, params: Any = None) -> tuple[str, Any]:
    """Give the SQL of a query and the parameters that are still to be sent with it.

    Args:
        query: a text, given back as it is, or an unbound ibis expression.
        params: of a text as ``Session.query`` takes them; of an expression a mapping from ``ibis.param`` to its value.

    Raises:
        CallerError: CLIENT_INPUT; neither, or an expression that lives in another database or holds rows of its own.
    """
    if isinstance(query, str):
        return query, params
    ibis = sys.modules.get("ibis")  # an expression cannot exist before its module does
    if ibis is None or not isinstance(query, ibis.Expr):
        raise error_for(
            Code.CLIENT_INPUT, f"query: expected SQL or an unbound ibis expression, got a {type(query).__name__}"
        )
    _check_unbound(query)
    if params is not None and (
        not isinstance(params, Mapping) or not all(isinstance(key, ibis.Expr) for key in params)
    ):
        raise error_for(
            Code.CLIENT_INPUT, "params: an ibis expression takes a mapping from ibis.param(...) to its value"
        )
    try:
        sql = str(ibis.to_sql(query, dialect="duckdb", **({"params": params} if params else {})))
        return (_without_controls(sql) if _CONTROLS.search(sql) else sql), None
    except Exception as error:  # ibis and its parser raise what they like
        raise error_for(
            Code.CLIENT_INPUT, "query: ibis cannot write this expression in DuckDB's dialect", detail=repr(error)
        ) from error


def _without_controls(sql: str) -> str:
    """Write control characters of literals as CHR(n): the exchange takes none in a text, and ibis' strip() writes two."""
    sqlglot = load("sqlglot", EXTRA)
    exp = sqlglot.exp

    def spelled(node: Any) -> Any:
        if not isinstance(node, exp.Literal) or not node.is_string or not _CONTROLS.search(node.name):
            return node
        parts = [part for part in _CONTROLS.split(node.name) if part]
        spoken = [
            exp.Anonymous(this="CHR", expressions=[exp.Literal.number(ord(part))])
            if _CONTROLS.fullmatch(part)
            else exp.Literal.string(part)
            for part in parts
        ]
        return exp.paren(reduce(lambda left, right: exp.DPipe(this=left, expression=right, safe=True), spoken))

    return str(sqlglot.parse_one(sql, dialect="duckdb").transform(spelled).sql(dialect="duckdb"))


def _check_unbound(expression: Any) -> None:
    operations = load("ibis.expr.operations", EXTRA)
    node = expression.op()
    if node.find(operations.DatabaseTable):
        raise error_for(
            Code.CLIENT_INPUT,
            "query: the expression belongs to another database; begin with session.ibis.table(...) or ibis.table(...)",
        )
    if node.find((operations.InMemoryTable, operations.SQLQueryResult)):
        raise error_for(
            Code.CLIENT_INPUT,
            "query: the expression holds rows of its own, and only questions are sent; use parameters",
        )

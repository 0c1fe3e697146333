"""The SQL dialect that the exchange reads: DuckDB's grammar as sqlglot parses it, with every function call left as it is.

sqlglot's own dialect turns known functions into classes and prints them back in another form; each such round trip is a
place where two parsers may disagree. Here a call stays a name with arguments (``exp.Anonymous``), so that the allow-list
(``functions.FUNCTIONS``) speaks about DuckDB's names and the printed name is the one that was checked. The few forms with a
grammar of their own (CAST, EXTRACT, TRIM, SUBSTRING, POSITION) keep their parsers.
"""

from __future__ import annotations

from typing import Any, ClassVar

from sqlglot import exp
from sqlglot.dialects.duckdb import DuckDB
from sqlglot.parser import binary_range_parser
from sqlglot.parsers.duckdb import DuckDBParser
from sqlglot.tokenizer_core import TokenType

_OWN_GRAMMAR = ("CAST", "TRY_CAST", "EXTRACT", "TRIM", "SUBSTRING", "POSITION")


class ExchangeParser(DuckDBParser):
    """DuckDB's grammar; no function is known to the parser."""

    FUNCTIONS: ClassVar[dict[str, Any]] = {}
    FUNCTION_PARSERS: ClassVar[dict[str, Any]] = {
        name: parser for name, parser in DuckDBParser.FUNCTION_PARSERS.items() if name in _OWN_GRAMMAR
    }
    NO_PAREN_FUNCTION_PARSERS: ClassVar[dict[str, Any]] = {
        name: parser
        for name, parser in DuckDBParser.NO_PAREN_FUNCTION_PARSERS.items()
        if name in ("ANY", "CASE", "MAP", "IF", "@")
    }
    JSON_OPERATORS: ClassVar[dict[TokenType, Any]] = {
        TokenType.ARROW: lambda _, this, path: exp.Anonymous(this="json_extract", expressions=[this, path]),
        TokenType.DARROW: lambda _, this, path: exp.Anonymous(this="json_extract_string", expressions=[this, path]),
    }

    RANGE_PARSERS: ClassVar[dict[TokenType, Any]] = {
        **DuckDBParser.RANGE_PARSERS,
        TokenType.TILDE: binary_range_parser(exp.RegexpLike),
    }

    def _warn_unsupported(self) -> None:
        """Refuse instead of logging the caller's text and going on with an opaque command."""
        self.raise_error("not a query")


class Exchange(DuckDB):
    """The dialect; indexes of lists are left as the caller wrote them."""

    INDEX_OFFSET = 0
    Parser = ExchangeParser

"""Admit: read a caller's text as exactly one query of the exchange's SQL, or refuse it. The first of the two walls.

In order: bytes, characters and nesting are counted on the tokens before anything is parsed (the parser's time is exponential
in some nestings); the text is parsed; the tree's node types, their arguments and its functions are held to allow-lists.
Run it in a process that is killed at its deadline.
"""

from __future__ import annotations

from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.tokenizer_core import Token, TokenType

from tidegate.core.errors import Code, error_for
from tidegate.core.limits import SQL_BYTES_MAX, SQL_CTES_MAX, SQL_DEPTH_MAX, SQL_JOINS_MAX
from tidegate.sql.allowed import ALLOWED
from tidegate.sql.dialect import Exchange
from tidegate.sql.functions import function
from tidegate.sql.scope import not_allowed

TOKENS_MAX = 20_000
CONSTRUCTORS_MAX = 6  # levels of brackets that follow a type or constructor word; each may double the parser's work
CONSTRUCTORS_WORK_MAX = 100_000  # words, counted double for each such level around them; about a second of parsing
TREE_DEPTH_MAX = 300  # pickling, printing and DuckDB's own parser recurse down the tree
_FIRST = {
    TokenType.SELECT,
    TokenType.WITH,
    TokenType.FROM,
    TokenType.VALUES,
    TokenType.L_PAREN,
    TokenType.TABLE,
    TokenType.PIVOT,
}
_OPEN = {TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.L_BRACE}
_CLOSE = {TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.R_BRACE}


def admit(text: str) -> exp.Query:
    """Read one query.

    Trust: anybody may have written the text.

    Raises:
        CallerError: PLAN_SYNTAX, PLAN_NOT_ALLOWED or PLAN_TOO_LARGE; the message holds nothing of the text.
    """
    _check_characters(text)
    tokens = _tokens(text)
    if not tokens or tokens[0].token_type not in _FIRST:
        raise error_for(Code.PLAN_SYNTAX)
    _check_nesting(tokens)
    _check_placeholders(tokens)
    try:
        trees = Exchange().parser().parse(tokens, text)
    except (SqlglotError, RecursionError, ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
        raise error_for(Code.PLAN_SYNTAX, detail=f"{type(error).__name__}") from error
    if len(trees) != 1 or trees[0] is None:
        raise error_for(Code.PLAN_SYNTAX, "expected exactly one statement")
    tree = trees[0]
    if not isinstance(tree, exp.Query | exp.Values | exp.Pivot) or isinstance(tree, exp.Table):
        raise not_allowed("a statement that is not a query")
    _check_depth(tree)
    _check_nodes(tree)
    return tree  # type: ignore[return-value]


def _check_characters(text: str) -> None:
    if len(text.encode("utf-8", "surrogatepass")) > SQL_BYTES_MAX:
        raise error_for(Code.PLAN_TOO_LARGE, f"the text is longer than {SQL_BYTES_MAX} bytes")
    if any("\ud800" <= char <= "\udfff" or (char < " " and char not in "\t\n\r") for char in text):
        raise error_for(Code.PLAN_SYNTAX, "the text holds control characters")


def _tokens(text: str) -> list[Token]:
    try:
        tokens = list(Exchange().tokenize(text))
    except (SqlglotError, ValueError, IndexError) as error:
        raise error_for(Code.PLAN_SYNTAX) from error
    if len(tokens) > TOKENS_MAX:
        raise error_for(Code.PLAN_TOO_LARGE, f"the query has more than {TOKENS_MAX} words")
    return tokens


def _check_nesting(tokens: list[Token]) -> None:
    """Count brackets, CASE and prefix words before parsing; brackets after a constructor word count against a lower limit."""
    stack: list[bool] = []
    cases = work = 0
    previous: Token | None = None
    for token in tokens:
        kind = token.token_type
        if kind in _OPEN:
            stack.append(_is_constructor(previous, kind))
            if len(stack) + cases > SQL_DEPTH_MAX or sum(stack) > CONSTRUCTORS_MAX:
                raise error_for(Code.PLAN_TOO_LARGE, "the query is nested deeper than the limit")
        elif kind in _CLOSE and stack:
            stack.pop()
        elif kind is TokenType.CASE:
            cases += 1
        elif kind is TokenType.END and cases:
            cases -= 1
        work += 2 ** sum(stack) - 1
        if work > CONSTRUCTORS_WORK_MAX:
            raise error_for(Code.PLAN_TOO_LARGE, "the query holds too much in nested lists, structs or types")
        previous = token


def _is_constructor(previous: Token | None, kind: TokenType) -> bool:
    """Say whether a bracket makes the parser try twice: after a type's or constructor's word, or a bare [ or {."""
    if previous is None or kind is not TokenType.L_PAREN:
        return True
    return previous.token_type not in _PLAIN_BEFORE_PAREN


_PLAIN_BEFORE_PAREN = frozenset(
    {
        TokenType.VAR, TokenType.L_PAREN, TokenType.COMMA, TokenType.AND, TokenType.OR, TokenType.NOT, TokenType.SELECT,
        TokenType.FROM, TokenType.JOIN, TokenType.IN, TokenType.EXISTS, TokenType.ALIAS, TokenType.WHERE, TokenType.ON,
        TokenType.EQ, TokenType.NEQ, TokenType.LT, TokenType.GT, TokenType.LTE, TokenType.GTE, TokenType.PLUS, TokenType.DASH,
        TokenType.STAR, TokenType.SLASH, TokenType.UNION, TokenType.ALL, TokenType.EXCEPT, TokenType.INTERSECT, TokenType.WHEN,
        TokenType.THEN, TokenType.ELSE, TokenType.CASE,
        TokenType.GROUP_BY, TokenType.ORDER_BY, TokenType.PARTITION_BY, TokenType.HAVING, TokenType.LATERAL, TokenType.USING,
        TokenType.OVER, TokenType.FILTER, TokenType.ANY, TokenType.SOME, TokenType.DPIPE, TokenType.MOD, TokenType.LEFT,
        TokenType.RIGHT, TokenType.REPLACE, TokenType.BETWEEN, TokenType.IS, TokenType.LIMIT, TokenType.DISTINCT,
    }
)  # fmt: skip


def _check_placeholders(tokens: list[Token]) -> None:
    kinds = {token.token_type for token in tokens}
    if TokenType.PLACEHOLDER in kinds and TokenType.PARAMETER in kinds:
        raise error_for(Code.PLAN_PARAMETERS, "parameters: ? and $ cannot be mixed")


def _check_depth(tree: exp.Expr) -> None:
    level, depth = [tree], 0
    while level:
        depth += 1
        if depth > TREE_DEPTH_MAX:
            raise error_for(Code.PLAN_TOO_LARGE, "the query is nested deeper than the limit")
        level = [child for node in level for child in node.iter_expressions()]


def _check_nodes(tree: exp.Expr) -> None:
    joins = ctes = places = 0
    for node in tree.walk(bfs=False):
        arguments = ALLOWED.get(type(node))
        if arguments is None:
            raise not_allowed("this form of SQL")
        if any(value not in (None, False, []) and key not in arguments for key, value in node.args.items()):
            raise not_allowed("this form of SQL")
        joins += isinstance(node, exp.Join)
        ctes += isinstance(node, exp.CTE)
        if isinstance(node, exp.Anonymous) and function(node.name) is None and node.name.lower() != "struct_pack":
            raise error_for(
                Code.PLAN_NOT_ALLOWED, "not allowed in a query: a function that is not on the exchange's list"
            )
        if isinstance(node, exp.Placeholder) and node.args.get("this") is None:
            places += 1
            node.set("this", str(places))
    if joins > SQL_JOINS_MAX or ctes > SQL_CTES_MAX:
        raise error_for(
            Code.PLAN_TOO_LARGE, f"the query has more than {SQL_JOINS_MAX} joins or {SQL_CTES_MAX} WITH parts"
        )

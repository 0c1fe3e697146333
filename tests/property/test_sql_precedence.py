"""What sqlglot takes for the structure of an expression is what DuckDB takes it for: operators, prefixes, predicates."""

from __future__ import annotations

import json
from typing import Any

import duckdb
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sql_world import SCHEMA
from tidegate.core.errors import CallerError
from tidegate.sql.plan import plan
from tidegate.sql.render import render

_CONNECTION = duckdb.connect()
_ATOMS = st.sampled_from(["dep_delay", "distance", "flight_id", "1", "2.5", "(dep_delay)"])
_SYMBOLS = "+ - * / // % ** & | << >> || = <> < <= > >= AND OR LIKE ILIKE ~"
_BINARY = st.sampled_from([*_SYMBOLS.split(" "), "IS DISTINCT FROM", "IS NOT DISTINCT FROM"])
_PREFIX = st.sampled_from(["NOT ", "- ", "~ ", ""])
_SUFFIX = st.sampled_from(
    [" IS NULL", " IS NOT NULL", " IN (1, 2)", " NOT IN (1, 2)", " BETWEEN 1 AND 2", "::INTEGER", "", "", ""]
)


def _extend(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    joined = st.builds(lambda a, o, b: f"{a} {o} {b}", inner, _BINARY, inner)
    marked = st.builds(lambda p, a, s: f"{p}{a}{s}", _PREFIX, inner, _SUFFIX)
    wrapped = st.builds(lambda a: f"({a})", inner)
    return st.one_of(joined, joined, marked, wrapped)


EXPRESSIONS = st.recursive(_ATOMS, _extend, max_leaves=6)


def _tree(text: str) -> Any:
    row = _CONNECTION.execute("SELECT json_serialize_sql($1, skip_null := true, skip_empty := true)", [text]).fetchone()
    assert row is not None
    parsed = json.loads(row[0])
    return None if parsed["error"] else _plain(parsed["statements"][0]["node"]["select_list"][0])


_NEGATED = {"!~~": "~~", "!~~*": "~~*"}
_TURNED = {"OPERATOR_IS_NOT_NULL": "OPERATOR_IS_NULL", "COMPARE_NOT_IN": "COMPARE_IN"}


def _plain(node: Any) -> Any:
    """Drop places and names, spell a negation in one way, make chains of AND and OR flat."""
    if isinstance(node, list):
        return [_plain(item) for item in node]
    if not isinstance(node, dict):
        return node
    kind = node.get("type")
    if kind in _TURNED:
        return _not(_plain({**node, "type": _TURNED[kind]}))
    if node.get("class") == "FUNCTION" and node.get("function_name") in _NEGATED:
        positive = _NEGATED[node["function_name"]]
        return _not(_plain({**node, "function_name": positive, "qualified_name": {"path": [positive]}}))
    if node.get("class") == "CONJUNCTION":
        children: list[Any] = []
        for child in (_plain(item) for item in node["children"]):
            same = isinstance(child, dict) and child.get("type") == kind
            children += child["children"] if same else [child]
        return {"type": kind, "children": children}
    if node.get("class") == "COLUMN_REF":
        return {"column": node["column_names"][-1]}
    if node.get("class") == "TYPE":
        return {"type_name": node["type_name"]}
    if node.get("function_name") == "regexp_matches":
        return {"regexp": _plain([item["expression"] for item in node["arguments"]])}
    dropped = {"query_location", "query_location_length", "alias", "qualified_name", "is_operator"}
    return {key: _plain(value) for key, value in node.items() if key not in dropped}


def _not(node: Any) -> Any:
    return {"class": "OPERATOR", "type": "OPERATOR_NOT", "children": [node]}


@settings(max_examples=400, deadline=None)
@given(EXPRESSIONS)
def test_both_parsers_read_an_expression_alike(text: str) -> None:
    theirs = _tree(f"SELECT {text} FROM aviation.flights")
    try:
        bound = plan(f"SELECT {text} FROM aviation.flights", SCHEMA)
    except CallerError:
        return  # refusing what DuckDB would take is allowed; reading it otherwise is not
    if theirs is None:
        return
    assert _tree(render(bound.tree, bound.parameters).text) == theirs

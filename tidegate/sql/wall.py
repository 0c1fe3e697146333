"""The second wall: DuckDB's own reading of a text, walked by an allow-list that shares nothing with ``admit``'s.

sqlglot and DuckDB read some texts differently. So what was rendered is parsed once more by the engine that will run it
(``json_serialize_sql``), and its tree must consist of listed nodes with listed keys, listed functions, and base tables
that were planned. The broker checks the final SQL and each fragment, a node checks what it executes.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from typing import Any

from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.sql import walllist
from tidegate.sql.model import RenderedSql

JSON_DEPTH_MAX = (
    1_500  # DuckDB's tree has about four levels of JSON for one of the query; its own limit is 1,000 expressions
)


def check(rendered: RenderedSql, tables: frozenset[str]) -> None:
    """Check a text of ours.

    Args:
        tables: ``department.dataset`` of base datasets, or names without a dot (relations ``f0``, views): all that may be read.

    Raises:
        InternalError: INTERNAL, when the text is not what the planner meant to print. It must then not run.
    """
    try:
        count = _Walker(tables, texts=False).statement(rendered.text)
    except _Objection as objection:
        raise error_for(Code.INTERNAL, detail=f"wall: {objection}") from objection
    if count != {str(number) for number in range(1, len(rendered.parameters) + 1)}:
        raise error_for(Code.INTERNAL, detail="wall: the text does not use exactly its parameters")


def check_text(text: str, tables: frozenset[str]) -> None:
    """Check any text by this wall alone (used to show what each wall stops by itself).

    Raises:
        CallerError: PLAN_NOT_ALLOWED.
    """
    try:
        _Walker(tables, texts=True).statement(text)
    except _Objection as objection:
        raise _refused(str(objection)) from objection


def _refused(why: str) -> TidegateError:
    return error_for(
        Code.PLAN_NOT_ALLOWED,
        "not allowed in a query: the engine reads the text as something else",
        detail=f"wall: {why}",
    )


class _Objection(Exception):
    """Something that is not on the list; the text is private."""


class _Parser:
    """DuckDB's parser in this process: one locked connection that never sees data. ``_lock`` owns it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = 0
        self._connection: Any = None

    def parse(self, text: str) -> Any:
        """Give DuckDB's tree of a text as JSON, or raise ``_Objection``."""
        import duckdb

        with self._lock:
            if self._pid != os.getpid():  # a fork inherits the object, but not DuckDB's threads
                self._connection, self._pid = _locked(duckdb), os.getpid()
            try:
                row = self._connection.execute(_SERIALIZE, [text]).fetchone()
            except duckdb.Error as error:
                raise _Objection(f"the engine cannot serialise the text: {type(error).__name__}") from error
        try:
            return json.loads(row[0])
        except (RecursionError, ValueError) as error:
            raise _Objection("the engine's tree is too deep") from error


_SERIALIZE = "SELECT json_serialize_sql($1, skip_null := true, skip_empty := true, skip_default := true)"


def _locked(duckdb: Any) -> Any:
    settings = {
        "autoload_known_extensions": "false",
        "autoinstall_known_extensions": "false",
        "python_enable_replacements": "false",
        "threads": "1",
    }
    connection = duckdb.connect(":memory:", config=settings)
    for setting in (
        "SET memory_limit = '256MB'",
        "SET temp_directory = ''",
        "SET enable_external_access = false",
        "SET lock_configuration = true",
    ):
        connection.execute(setting)
    return connection


_PARSER = _Parser()


class _Walker:
    """Walks one statement."""

    def __init__(self, tables: frozenset[str], *, texts: bool) -> None:
        self._tables = tables
        self._texts = texts
        self._parameters: set[str] = set()

    def statement(self, text: str) -> set[str]:
        """Walk the one statement of a text; give the parameters that it names."""
        tree = _PARSER.parse(text)
        if not isinstance(tree, dict) or tree.get("error") is not False:
            raise _Objection("not a SELECT")
        statements = tree.get("statements")
        if not isinstance(statements, list) or len(statements) != 1:
            raise _Objection("not one statement")
        statement = statements[0]
        if set(statement) - {"node", "named_param_map"}:
            raise _Objection("unknown key of a statement")
        try:
            self._query(statement["node"], frozenset())
        except RecursionError as error:
            raise _Objection("the engine's tree is too deep") from error
        except (KeyError, TypeError, AttributeError) as error:
            raise _Objection("the engine's tree has an unknown form") from error
        return self._parameters

    # -- queries

    def _query(self, node: Mapping[str, Any], ctes: frozenset[str]) -> None:
        kind = node["type"]
        keys = walllist.QUERIES.get(kind)
        if keys is None or set(node) - keys:
            raise _Objection(f"query {kind} with {sorted(set(node) - (keys or frozenset()))}")
        for entry in node.get("cte_map", {}).get("map", []):
            ctes = self._cte(entry, ctes)
        for modifier in node.get("modifiers", []):
            self._modifier(modifier, ctes)
        if kind == "SET_OPERATION_NODE":
            if node["setop_type"] not in ("UNION", "INTERSECT", "EXCEPT"):
                raise _Objection("set operation")
            for child in node["children"]:
                self._query(child, ctes)
            return
        if node.get("aggregate_handling") not in ("STANDARD_HANDLING", "FORCE_AGGREGATES"):
            raise _Objection("aggregate handling")
        self._table(node["from_table"], ctes)
        outputs = node.get("select_list", [])
        if node["from_table"]["type"] == "EXPRESSION_LIST" and [item["class"] for item in outputs] == ["STAR"]:
            outputs = []  # DuckDB's own reading of VALUES
            if set(node["select_list"][0]) - walllist.EVERYWHERE:
                raise _Objection("star with options")
        for item in [*outputs, *node.get("group_expressions", [])]:
            self._expression(item, ctes)
        for key in ("where_clause", "having", "qualify"):
            if key in node:
                self._expression(node[key], ctes)

    def _cte(self, entry: Mapping[str, Any], ctes: frozenset[str]) -> frozenset[str]:
        value = entry["value"]
        body = value.get("query_node") or value.get("query", {}).get("node")
        if set(entry) != {"key", "value"} or set(value) - walllist.CTE_KEYS or body is None:
            raise _Objection(f"CTE with {sorted(value)}")
        self._query(body, ctes)
        return ctes | {entry["key"]}

    def _modifier(self, node: Mapping[str, Any], ctes: frozenset[str]) -> None:
        keys = walllist.MODIFIERS.get(node["type"])
        if keys is None or set(node) - keys:
            raise _Objection(f"modifier {node['type']}")
        for key in ("limit", "offset"):
            if key in node:
                self._expression(node[key], ctes)
        for item in node.get("distinct_on_targets", []):
            self._expression(item, ctes)
        self._orders(node.get("orders", []), ctes)

    def _orders(self, orders: list[Mapping[str, Any]], ctes: frozenset[str]) -> None:
        for order in orders:
            if set(order) - walllist.ORDER_KEYS:
                raise _Objection("sort key")
            self._expression(order["expression"], ctes)

    # -- tables

    def _table(self, node: Mapping[str, Any], ctes: frozenset[str]) -> None:
        kind = node["type"]
        keys = walllist.TABLES.get(kind)
        if keys is None or set(node) - keys:
            raise _Objection(f"table {kind} with {sorted(set(node) - (keys or frozenset()))}")
        if kind == "BASE_TABLE":
            self._base(node, ctes)
        elif kind == "SUBQUERY":
            self._subquery(node["subquery"], ctes)
        elif kind == "JOIN":
            if (
                node.get("ref_type", "REGULAR") not in ("REGULAR", "CROSS")
                or node.get("join_type", "INNER") not in walllist.JOINS
            ):
                raise _Objection("kind of join")
            self._table(node["left"], ctes)
            self._table(node["right"], ctes)
            if "condition" in node:
                self._expression(node["condition"], ctes)
        elif kind == "EXPRESSION_LIST":
            for row in node["values"]:
                for cell in row:
                    self._expression(cell, ctes)

    def _base(self, node: Mapping[str, Any], ctes: frozenset[str]) -> None:
        path = node["qualified_name"]["path"]
        if path != [part for part in (node.get("schema_name"), node["table_name"]) if part] or len(path) > 2:
            raise _Objection("name of a table")
        if not (len(path) == 1 and path[0] in ctes) and ".".join(path) not in self._tables:
            raise _Objection("a table that was not planned")
        if len(path) == 1 and path[0] not in ctes and "." in path[0]:
            raise _Objection("a dot in one part of a table's name")

    def _subquery(self, node: Mapping[str, Any], ctes: frozenset[str]) -> None:
        if set(node) - {"node", "named_param_map"}:
            raise _Objection("sub-query")
        self._query(node["node"], ctes)

    # -- expressions

    def _expression(self, node: Mapping[str, Any], ctes: frozenset[str]) -> None:
        kind = (node["class"], node["type"])
        keys = walllist.EXPRESSIONS.get(kind)
        if self._texts and kind == ("STAR", "STAR"):
            keys = frozenset()  # a caller's own text may have a plain star; what we print has none
        if keys is None:
            raise _Objection(f"expression {kind}")
        if set(node) - keys - walllist.EVERYWHERE:
            raise _Objection(f"expression {kind} with {sorted(set(node) - keys - walllist.EVERYWHERE)}")
        if node["class"] in ("FUNCTION", "WINDOW"):
            self._function(node, ctes)
        elif node["class"] == "CONSTANT":
            self._constant(node["literal"])
        elif node["class"] == "PARAMETER":
            self._parameters.add(node["identifier"])
        elif node["class"] == "CAST":
            self._type(node["type_expr"])
        elif node["class"] == "SUBQUERY":
            self._subquery(node["subquery"], ctes)
        elif node["class"] == "COLUMN_REF":
            names = node["column_names"]
            if not all(isinstance(name, str) for name in names) or (
                len(names) == 1 and names[0].lower() in walllist.VALUE_NAMES
            ):
                raise _Objection("name of a column")
        for key in walllist.CHILDREN:
            child = node.get(key)
            for item in child if isinstance(child, list) else [child] if child is not None else []:
                self._expression(item, ctes)
        for pair in node.get("case_checks", []):
            if set(pair) != {"when_expr", "then_expr"}:
                raise _Objection("CASE")
            self._expression(pair["when_expr"], ctes)
            self._expression(pair["then_expr"], ctes)
        self._orders(node.get("orders", []), ctes)

    def _function(self, node: Mapping[str, Any], ctes: frozenset[str]) -> None:
        name = node.get("function_name", "")
        if node.get("qualified_name", {}).get("path") not in ([name], None) or name not in walllist.FUNCTIONS:
            raise _Objection(f"function {name}")
        for argument in node.get("arguments", []):
            if set(argument) - {"expression", "name"}:
                raise _Objection("argument of a function")
            if "name" in argument and name != "struct_pack":
                raise _Objection("named argument")
            self._expression(argument["expression"], ctes)
        order_bys = node.get("order_bys")
        if order_bys is not None:
            self._modifier(order_bys, ctes)

    def _constant(self, literal: Mapping[str, Any]) -> None:
        if set(literal) - {"kind", "text", "value"} or literal["kind"] not in walllist.LITERALS:
            raise _Objection(f"literal {sorted(literal)} {literal.get('kind')}")
        if literal["kind"] == "STRING" and not self._texts:
            raise _Objection("a text that is not a parameter")

    def _type(self, node: Mapping[str, Any]) -> None:
        if node["class"] != "TYPE" or set(node) - walllist.TYPE_KEYS - walllist.EVERYWHERE:
            raise _Objection(f"type with {sorted(node)}")
        name = node.get("type_name", "")
        if name.upper() not in walllist.TYPES or node.get("qualified_name", {}).get("path") not in ([name], None):
            raise _Objection(f"type {name}")
        for child in node.get("children", []):
            if child["class"] == "TYPE":
                self._type(child)
            elif child["class"] == "CONSTANT" and child["literal"].get("kind") == "INTEGER":
                continue
            else:
                raise _Objection("argument of a type")

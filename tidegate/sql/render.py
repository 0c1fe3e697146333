"""Render: print a tree of ours as DuckDB SQL, every name quoted by us, every operator in parentheses.

The printer knows the nodes that ``bind`` (and the passes after it) make, and refuses every other; so it is an allow-list too.
A text never stands in the SQL: parameters carry it. Parameters are numbered anew; those that are not used are left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from sqlglot import exp

from tidegate.core.errors import Code, error_for
from tidegate.core.values import Value
from tidegate.sql.functions import FUNCTIONS
from tidegate.sql.model import RenderedSql
from tidegate.sql.nodes import Call, Lambda, LambdaName, parameter_number

_NUMBER = re.compile(r"([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?\Z")
_TYPE = re.compile(r"[A-Z0-9_]+(\([0-9, ]+\))?(\[[0-9]*\])*\Z")
_OPERATORS: dict[type[exp.Expr], str] = {
    exp.EQ: "=", exp.NEQ: "<>", exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">=", exp.And: "AND", exp.Or: "OR",
    exp.NullSafeEQ: "IS NOT DISTINCT FROM", exp.NullSafeNEQ: "IS DISTINCT FROM", exp.Add: "+", exp.Sub: "-", exp.Mul: "*",
    exp.Div: "/", exp.IntDiv: "//", exp.Mod: "%", exp.Pow: "**", exp.BitwiseAnd: "&", exp.BitwiseOr: "|",
    exp.BitwiseLeftShift: "<<", exp.BitwiseRightShift: ">>", exp.DPipe: "||", exp.Like: "LIKE", exp.ILike: "ILIKE",
    exp.Glob: "GLOB", exp.Is: "IS",
}  # fmt: skip
_PREFIXES: dict[type[exp.Expr], str] = {exp.Not: "NOT", exp.Neg: "-", exp.BitwiseNot: "~"}
_SET_WORDS: dict[type[exp.Expr], str] = {exp.Union: "UNION", exp.Intersect: "INTERSECT", exp.Except: "EXCEPT"}


def render(tree: exp.Expr, parameters: Sequence[Value]) -> RenderedSql:
    """Print a tree.

    Args:
        tree: a query of ours (or an expression, for EXPLAIN).
        parameters: the values that ``exp.Parameter`` nodes number from 1.

    Raises:
        InternalError: INTERNAL, for a node that is not ours: a pass made something that the printer does not know.
        CallerError: PLAN_TOO_LARGE, when the tree is too deep to print.
    """
    printer = _Printer(parameters)
    try:
        text = (
            printer.query(tree)
            if isinstance(tree, exp.Query) and not isinstance(tree, exp.Subquery)
            else printer.node(tree)
        )
    except RecursionError as error:
        raise error_for(Code.PLAN_TOO_LARGE, "the query is nested deeper than the limit") from error
    return RenderedSql(text, tuple(printer.values))


def quote(name: str) -> str:
    """Quote a name of ours."""
    if not name or "\x00" in name:
        raise error_for(Code.INTERNAL, detail="render: empty name")
    return '"' + name.replace('"', '""') + '"'


def _unknown(node: exp.Expr) -> Exception:
    return error_for(Code.INTERNAL, detail=f"render: no printer for {type(node).__name__}")


class _Printer:
    """The state of one rendering: the values used so far, in order of first use."""

    def __init__(self, parameters: Sequence[Value]) -> None:
        self._given = parameters
        self._numbers: dict[int, int] = {}
        self.values: list[Value] = []

    # -- queries

    def query(self, node: exp.Expr) -> str:
        """Print a SELECT or a set operation, without parentheses around it."""
        if isinstance(node, exp.Subquery):
            return self.query(node.this)
        with_ = self._with(node.args.get("with_"))
        if isinstance(node, exp.SetOperation):
            return with_ + self._set_operation(node) + self._modifiers(node)
        if not isinstance(node, exp.Select):
            raise _unknown(node)
        return with_ + self._select(node) + self._modifiers(node)

    def _with(self, node: exp.With | None) -> str:
        if node is None:
            return ""
        parts = []
        for cte in node.expressions:
            kept = cte.args.get("materialized")
            word = "" if kept is None else " MATERIALIZED" if kept else " NOT MATERIALIZED"
            parts.append(f"{quote(cte.alias)} AS{word} ({self.query(cte.this)})")
        return f"WITH {', '.join(parts)} "

    def _set_operation(self, node: exp.SetOperation) -> str:
        chain: list[exp.SetOperation] = [node]
        while isinstance(chain[-1].this, exp.SetOperation) and type(chain[-1].this) is type(node):
            chain.append(chain[-1].this)
        text = self._operand(chain[-1].this)
        for link in reversed(chain):
            word = _SET_WORDS[type(link)] + ("" if link.args.get("distinct") else " ALL")
            text = f"{text} {word} {self._operand(link.expression)}"
        return text

    def _operand(self, node: exp.Expr) -> str:
        return f"({self.query(node)})"

    def _select(self, node: exp.Select) -> str:
        words = ["SELECT"]
        distinct = node.args.get("distinct")
        if distinct is not None:
            on = distinct.args.get("on")
            words.append("DISTINCT" if on is None else f"DISTINCT ON ({self._list(on.expressions)})")
        words.append(self._list(node.expressions))
        if node.args.get("from_") is not None:
            words.append(f"FROM {self.table(node.args['from_'].this)}")
        words.extend(self._join(join) for join in node.args.get("joins") or [])
        for clause in ("where", "group", "having", "qualify"):
            part = node.args.get(clause)
            if part is None:
                continue
            word = "GROUP BY" if clause == "group" else clause.upper()
            words.append(f"{word} {self._list(part.expressions) if clause == 'group' else self.node(part.this)}")
        return " ".join(words)

    def _modifiers(self, node: exp.Expr) -> str:
        text = ""
        if node.args.get("order") is not None:
            text += f" ORDER BY {self._list(node.args['order'].expressions)}"
        if node.args.get("limit") is not None:
            text += f" LIMIT {self.node(node.args['limit'].expression)}"
        if node.args.get("offset") is not None:
            text += f" OFFSET {self.node(node.args['offset'].expression)}"
        return text

    def table(self, node: exp.Expr) -> str:
        """Print one thing in FROM."""
        if isinstance(node, exp.Table):
            parts = [node.args[key].name for key in ("db", "this") if node.args.get(key) is not None]
            name = ".".join(quote(part) for part in parts)
            return f"{name} AS {quote(node.alias)}" if node.alias else name
        if isinstance(node, exp.Subquery):
            word = "LATERAL " if node.args.get("lateral") else ""
            return f"{word}({self.query(node.this)}) AS {quote(node.alias)}"
        if isinstance(node, exp.Values):
            rows = ", ".join(f"({self._list(row.expressions)})" for row in node.expressions)
            columns = ", ".join(quote(column.name) for column in node.args["alias"].args["columns"])
            return f"(VALUES {rows}) AS {quote(node.alias)}({columns})"
        raise _unknown(node)

    def _join(self, node: exp.Join) -> str:
        word = str(node.args.get("side") or node.args.get("kind") or "").upper()
        if word not in ("", "INNER", "CROSS", "LEFT", "RIGHT", "FULL", "SEMI", "ANTI"):
            raise _unknown(node)
        on = node.args.get("on")
        if on is None:
            return f"CROSS JOIN {self.table(node.this)}"
        return f"{word or 'INNER'} JOIN {self.table(node.this)} ON {self.node(on)}"

    # -- expressions

    def _list(self, nodes: Sequence[exp.Expr]) -> str:
        return ", ".join(self.node(node) for node in nodes)

    def node(self, node: exp.Expr) -> str:
        """Print one expression, in parentheses where it is not atomic."""
        operator = _OPERATORS.get(type(node))
        if operator is not None:
            return self._binary(node, operator)
        prefix = _PREFIXES.get(type(node))
        if prefix is not None:
            return f"({prefix} {self.node(node.this)})"
        if isinstance(node, Call):
            return self._call(node)
        if isinstance(node, exp.Query):
            return f"({self.query(node)})"
        printer = _PRINTERS.get(type(node))
        if printer is None:
            raise _unknown(node)
        return printer(self, node)

    def _binary(self, node: exp.Expr, operator: str) -> str:
        chain = [node]
        while type(chain[-1].this) is type(node):
            chain.append(chain[-1].this)
        text = self.node(chain[-1].this)
        for link in reversed(chain):
            text = f"({text} {operator} {self.node(link.args['expression'])})"
        return text

    def _call(self, node: Call) -> str:
        if node.name not in FUNCTIONS:
            raise _unknown(node)
        # a quoted name would hide from DuckDB the words with a grammar of their own (coalesce, grouping, position)
        return f"{_SPELLING.get(node.name, node.name)}({self._list(node.expressions)})"

    def parameter(self, node: Any) -> str:
        """Number a parameter anew."""
        number = parameter_number(node)
        if number not in self._numbers:
            self.values.append(self._given[number - 1])
            self._numbers[number] = len(self.values)
        return f"${self._numbers[number]}"


_SPELLING = {"position": "strpos", "if": '"if"', "left": '"left"', "right": '"right"', "row": "row"}


def _number(printer: _Printer, node: exp.Expr) -> str:
    text = str(node.this)
    if node.args.get("is_string") or not _NUMBER.match(text):
        raise _unknown(node)
    return text


def _column(printer: _Printer, node: exp.Expr) -> str:
    name, table = node.this, node.args.get("table")
    if not isinstance(name, exp.Identifier) or node.args.get("db") is not None:
        raise _unknown(node)
    return quote(name.name) if table is None else f"{quote(table.name)}.{quote(name.name)}"


def _cast(printer: _Printer, node: exp.Expr) -> str:
    word = "TRY_CAST" if isinstance(node, exp.TryCast) else "CAST"
    return f"{word}({printer.node(node.this)} AS {_type(node.args['to'])})"


def _type(node: exp.Expr) -> str:
    """Print a type: ours is an ``exp.Var`` with the canonical text; others are brought to it first."""
    from tidegate.sql.types import parse_type, type_text

    return parse_type(node.name) if isinstance(node, exp.Var) else type_text(node)


def _case(printer: _Printer, node: exp.Expr) -> str:
    words = ["CASE"]
    if node.args.get("this") is not None:
        words.append(printer.node(node.this))
    words += [f"WHEN {printer.node(item.this)} THEN {printer.node(item.args['true'])}" for item in node.args["ifs"]]
    if node.args.get("default") is not None:
        words.append(f"ELSE {printer.node(node.args['default'])}")
    return f"({' '.join(words)} END)"


def _between(printer: _Printer, node: exp.Expr) -> str:
    this, low, high = (printer.node(node.args[key]) for key in ("this", "low", "high"))
    return f"({this} BETWEEN {low} AND {high})"


def _in(printer: _Printer, node: exp.Expr) -> str:
    query = node.args.get("query")
    inside = printer.query(query) if query is not None else printer._list(node.expressions)
    return f"({printer.node(node.this)} IN ({inside}))"


def _quantified(printer: _Printer, node: exp.Expr) -> str:
    return f"{'ANY' if isinstance(node, exp.Any) else 'ALL'} ({printer.query(node.this)})"


def _interval(printer: _Printer, node: exp.Expr) -> str:
    return f"INTERVAL ({printer.node(node.this)}) {node.args['unit'].name}"


def _struct(printer: _Printer, node: exp.Expr) -> str:
    fields = (f"{quote(item.this.name)}: {printer.node(item.args['expression'])}" for item in node.expressions)
    return "{" + ", ".join(fields) + "}"


def _slice(printer: _Printer, node: exp.Expr) -> str:
    inner = node.expressions[0]
    if not isinstance(inner, exp.Slice):
        return f"({printer.node(node.this)})[{printer.node(inner)}]"
    start, end = (
        printer.node(inner.args[key]) if inner.args.get(key) is not None else "" for key in ("this", "expression")
    )
    return f"({printer.node(node.this)})[{start}:{end}]"


def _ordered(printer: _Printer, node: exp.Expr) -> str:
    direction = "DESC" if node.args.get("desc") else "ASC"
    return f"{printer.node(node.this)} {direction} NULLS {'FIRST' if node.args.get('nulls_first') else 'LAST'}"


def _order(printer: _Printer, node: exp.Expr) -> str:
    before = f"{printer.node(node.this)} " if node.args.get("this") is not None else ""
    return f"{before}ORDER BY {printer._list(node.expressions)}"


def _window(printer: _Printer, node: exp.Expr) -> str:
    words = []
    if node.args.get("partition_by"):
        words.append(f"PARTITION BY {printer._list(node.args['partition_by'])}")
    if node.args.get("order") is not None:
        words.append(printer.node(node.args["order"]))
    spec = node.args.get("spec")
    if spec is not None:
        words.append(_frame(printer, spec))
    return f"{printer.node(node.this)} OVER ({' '.join(words)})"


def _frame(printer: _Printer, node: exp.Expr) -> str:
    def end(key: str) -> str:
        bound, side = node.args.get(key), node.args.get(f"{key}_side")
        text = bound if isinstance(bound, str) else printer.node(bound) if bound is not None else "CURRENT ROW"
        return f"{text} {side}" if side else text

    frame = f"{node.args['kind']} BETWEEN {end('start')} AND {end('end')}"
    exclude = node.args.get("exclude")
    return f"{frame} EXCLUDE {exclude.name}" if exclude is not None else frame


_PRINTERS: dict[type[exp.Expr], Callable[[_Printer, Any], str]] = {
    exp.Parameter: _Printer.parameter,
    exp.Literal: _number,
    exp.Boolean: lambda p, n: "TRUE" if n.this else "FALSE",
    exp.Null: lambda p, n: "NULL",
    exp.Star: lambda p, n: "*",
    exp.Column: _column,
    exp.Paren: lambda p, n: f"({p.node(n.this)})",
    exp.Alias: lambda p, n: f"{p.node(n.this)} AS {quote(n.alias)}",
    exp.Cast: _cast,
    exp.TryCast: _cast,
    exp.Case: _case,
    exp.Between: _between,
    exp.In: _in,
    exp.Any: _quantified,
    exp.All: _quantified,
    exp.Exists: lambda p, n: f"EXISTS ({p.query(n.this)})",
    exp.Interval: _interval,
    exp.Struct: _struct,
    exp.Bracket: _slice,
    exp.Tuple: lambda p, n: f"({p._list(n.expressions)})",
    exp.Rollup: lambda p, n: f"ROLLUP ({p._list(n.expressions)})",
    exp.Cube: lambda p, n: f"CUBE ({p._list(n.expressions)})",
    exp.GroupingSets: lambda p, n: f"GROUPING SETS ({', '.join(_set_of(p, item) for item in n.expressions)})",
    exp.Distinct: lambda p, n: f"DISTINCT {p._list(n.expressions)}",
    exp.Ordered: _ordered,
    exp.Order: _order,
    exp.Window: _window,
    exp.Filter: lambda p, n: f"{p.node(n.this)} FILTER (WHERE {p.node(n.args['expression'].this)})",
    exp.WithinGroup: lambda p, n: f"{p.node(n.this)} WITHIN GROUP ({p.node(n.args['expression'])})",
    exp.IgnoreNulls: lambda p, n: _nulls(p, n, "IGNORE NULLS"),
    exp.RespectNulls: lambda p, n: _nulls(p, n, "RESPECT NULLS"),
    Lambda: lambda p, n: f"LAMBDA {', '.join(quote(item.name) for item in n.expressions)}: {p.node(n.this)}",
    LambdaName: lambda p, n: quote(n.this.name),
}


def _nulls(printer: _Printer, node: exp.Expr, words: str) -> str:
    text = printer.node(node.this)
    # DuckDB takes the words inside the call's parentheses only
    return f"{text[:-1]} {words})" if isinstance(node.this, Call) else f"{text} {words}"


def _set_of(printer: _Printer, node: exp.Expr) -> str:
    text = printer.node(node)
    return text if isinstance(node, exp.Tuple | exp.Rollup | exp.Cube | exp.GroupingSets) else f"({text})"

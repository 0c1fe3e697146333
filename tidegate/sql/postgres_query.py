"""A restricted fragment as one PostgreSQL query: what a database may compute itself because both engines agree on it.

The tree is our own (``restrict``), and every node of it is on the lists of this module and ``postgres_expressions`` or the
translation is given up with a word on why: the node then scans and computes itself. Nothing here is a guess: each form was
executed in both engines on edge values (tests). What may not run on rows that the policy hides stays above a view WITH
(security_barrier), as it stays above a SECURE VIEW in DuckDB.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sqlglot import exp

from tidegate.core.names import DatasetName
from tidegate.core.values import Value
from tidegate.sql.model import BoundQuery, Schema
from tidegate.sql.postgres_calls import Calls
from tidegate.sql.postgres_types import Kind, NativeTable, kind_of
from tidegate.sql.postgres_values import Unsaid
from tidegate.sql.restrict import KEYS_PREFIX, VIEW_PREFIX, RestrictedQuery

Keys = Mapping[str, Callable[[], Sequence[Value]]]
"""Key relations of the fragment by name; each gives its distinct keys."""

_SET_WORDS: dict[type[exp.Expr], str] = {exp.Union: "UNION", exp.Intersect: "INTERSECT", exp.Except: "EXCEPT"}
_JOINS = ("", "INNER", "CROSS", "LEFT", "RIGHT")
Columns = dict[str, Kind]


@dataclass(frozen=True, slots=True)
class PostgresQuery:
    """What the database is asked.

    Args:
        setup: statements that come first in the transaction (barriers); they need the right to make temporary views.
        text: one SELECT, no parameters: constants are printed so that no text of anybody's is SQL.
        tables: how many tables it reads.
        ordered: its rows come in an order that was asked for.
    """

    setup: tuple[str, ...]
    text: str
    tables: int
    ordered: bool


def translate(
    restricted: RestrictedQuery,
    bound: BoundQuery,
    tables: Mapping[DatasetName, NativeTable],
    *,
    schema: Schema,
    keys: Keys,
    may_make_views: bool,
) -> PostgresQuery:
    """Translate a whole restricted fragment.

    Args:
        tables: every dataset of the fragment, all in one database.
        may_make_views: the role may make temporary views, so that a barrier can be had.

    Raises:
        Unsaid: the fragment, or a part of it, has no form that is proven to mean the same; the text says which.
    """
    if restricted.barrier and restricted.views and not may_make_views:
        raise Unsaid("a barrier, and the role may make no temporary view")
    printer = _Queries(restricted, bound, tables, schema, keys)
    try:
        text, _ = printer.query(restricted.tree)
    except RecursionError:
        raise Unsaid("a query nested this deep") from None
    ordered = restricted.tree.args.get("order") is not None
    return PostgresQuery(tuple(printer.setup), text, len(bound.leaves), ordered)


class _Queries(Calls):
    """Prints queries; ``Calls`` and ``Expressions`` print what stands in them."""

    def __init__(
        self,
        restricted: RestrictedQuery,
        bound: BoundQuery,
        tables: Mapping[DatasetName, NativeTable],
        schema: Schema,
        keys: Keys,
    ) -> None:
        super().__init__(bound.parameters)
        self._restricted = restricted
        self._tables = tables
        self._schema = schema
        self._keys = keys
        self._ctes: dict[str, Columns] = {}
        self._views: dict[str, Columns] = {}
        self.setup: list[str] = []

    # -- queries

    def query(self, node: exp.Expr) -> tuple[str, Columns]:
        """Print a query without parentheses; gives its columns too."""
        if isinstance(node, exp.Subquery) and not node.alias:
            return self.query(node.this)
        with_ = node.args.get("with_")
        head = self._with(with_) if with_ is not None else ""
        if isinstance(node, exp.Select):
            text, columns = self._select(node)
        elif type(node) in _SET_WORDS:
            text, columns = self._set_operation(node)
        else:
            raise Unsaid(f"a query of form {type(node).__name__}")
        return head + text, columns

    def _with(self, node: exp.With) -> str:
        if node.args.get("recursive"):
            raise Unsaid("a recursive query")
        parts = []
        for cte in node.expressions:
            text, columns = self.query(cte.this)
            self._ctes[cte.alias] = columns
            kept = cte.args.get("materialized")
            word = "" if kept is None else "MATERIALIZED " if kept else "NOT MATERIALIZED "
            parts.append(f"{self.quoted(cte.alias)} AS {word}({text})")
        return f"WITH {', '.join(parts)} "

    def _set_operation(self, node: exp.Expr) -> tuple[str, Columns]:
        left, names = self.query(node.this)
        right, others = self.query(node.args["expression"])
        whole = not node.args.get("distinct")
        if len(names) != len(others):
            raise Unsaid("a set operation over other columns")
        columns: Columns = {}
        for (name, first), second in zip(names.items(), others.values(), strict=True):
            if first != second or not (first.exact or (whole and isinstance(node, exp.Union))):
                raise Unsaid("a set operation over columns of other types")
            columns[name] = first
        text = f"({left}) {_SET_WORDS[type(node)]}{' ALL' if whole else ''} ({right})"
        return text + self._modifiers(node, columns, {}), columns

    def _select(self, node: exp.Select) -> tuple[str, Columns]:
        if node.args.get("qualify") is not None or node.args.get("windows"):
            raise Unsaid("a window")
        with self.scope():
            source = node.args.get("from_")
            from_ = f" FROM {self._table(source.this)}" if source is not None else ""
            from_ += "".join(self._join(join) for join in node.args.get("joins") or ())
            where = node.args.get("where")
            if where is not None:
                from_ += f" WHERE {self.condition(where.this)}"
            from_ += self._group(node)
            having = node.args.get("having")
            if having is not None:
                from_ += f" HAVING {self.condition(having.this)}"
            items: list[str] = []
            columns: Columns = {}
            printed: dict[str, str] = {}
            for number, item in enumerate(node.expressions):
                name = item.alias_or_name or f"c{number}"
                text, kind = self.value(item.unalias())
                printed[name], columns[name] = text, kind
                items.append(f"{text} AS {self.quoted(name)}")
            distinct = self._distinct(node, columns)
            tail = self._modifiers(node, columns, printed)
        return f"SELECT {distinct}{', '.join(items)}{from_}{tail}", columns

    def _distinct(self, node: exp.Select, columns: Columns) -> str:
        distinct = node.args.get("distinct")
        if distinct is None:
            return ""
        if distinct.args.get("on") is not None or not all(kind.exact for kind in columns.values()):
            raise Unsaid("DISTINCT ON, or DISTINCT over a type that compares in another way")
        return "DISTINCT "

    def _group(self, node: exp.Select) -> str:
        group = node.args.get("group")
        if group is None:
            return ""
        if any(group.args.get(key) for key in ("grouping_sets", "cube", "rollup", "all", "totals")):
            raise Unsaid("grouping sets")
        parts = []
        for item in group.expressions:
            text, kind = self.value(item)
            # A constant would be read as the number of a column; and what differs in bytes must be another group.
            if not kind.exact or item.find(exp.Column) is None:
                raise Unsaid("GROUP BY a constant, or a type that compares in another way")
            parts.append(text)
        return f" GROUP BY {', '.join(parts)}" if parts else ""

    def _modifiers(self, node: exp.Expr, columns: Columns, printed: Mapping[str, str]) -> str:
        text = ""
        order = node.args.get("order")
        if order is not None:
            text += f" ORDER BY {', '.join(self._ordered(node, item, columns, printed) for item in order.expressions)}"
        for key, word in (("limit", "LIMIT"), ("offset", "OFFSET")):
            part = node.args.get(key)
            if part is not None:
                count, kind = self.value(part.expression)
                if kind.sort != "integer" or part.expression.find(exp.Column) is not None:
                    raise Unsaid("LIMIT by something else than a number")
                text += f" {word} {count}"
        return text

    def _ordered(self, node: exp.Expr, item: exp.Expr, columns: Columns, printed: Mapping[str, str]) -> str:
        if not isinstance(item, exp.Ordered):
            raise Unsaid("ORDER BY in this form")
        key = item.this.unnest()
        if isinstance(key, exp.Column) and not key.table:
            text, kind = self.quoted(key.name), columns.get(key.name)
            if kind is not None and kind.sort == "text" and self.sorted_text(text, kind) != text:
                text = printed.get(
                    key.name, text
                )  # PostgreSQL sorts by an output's name, or by an expression over inputs
        else:
            text, kind = self.value(key)
        if kind is None or kind.sort == "other" or key.find(exp.Column) is None:
            raise Unsaid("ORDER BY a constant, or a type that sorts in another way")
        if kind.sort == "text" and self.sorted_text(text, kind) != text and (node.args.get("distinct") or not printed):
            raise Unsaid("ORDER BY a text of another collation, over DISTINCT rows")
        text = self.sorted_text(text, kind) if kind.sort == "text" else text
        direction = "DESC" if item.args.get("desc") else "ASC"
        return f"{text} {direction} NULLS {'FIRST' if item.args.get('nulls_first') else 'LAST'}"

    # -- FROM

    def _join(self, node: exp.Join) -> str:
        word = str(node.args.get("side") or node.args.get("kind") or "").upper()
        if word not in _JOINS or node.args.get("method") or node.args.get("using"):
            raise Unsaid(f"a join of kind {word or 'unknown'}")
        table = self._table(node.this)
        on = node.args.get("on")
        if on is None:
            if word not in ("", "CROSS", "INNER"):
                raise Unsaid("an outer join without condition")
            return f" CROSS JOIN {table}"
        return f" {word or 'INNER'} JOIN {table} ON {self.condition(on)}"

    def _table(self, node: exp.Expr) -> str:
        if isinstance(node, exp.Subquery):
            if node.args.get("lateral"):
                raise Unsaid("LATERAL")
            text, columns = self.query(node.this)
            self.bring(node.alias, columns)
            return f"({text}) AS {self.quoted(node.alias)}"
        if not isinstance(node, exp.Table):
            raise Unsaid(f"{type(node).__name__} in FROM")
        if node.args.get("db") is not None:
            return self._base(node)
        name, alias = node.name, node.alias or node.name
        if name in self._ctes:
            self.bring(alias, self._ctes[name])
            return f"{self.quoted(name)} AS {self.quoted(alias)}"
        if name.startswith(VIEW_PREFIX) and name.removeprefix(VIEW_PREFIX) in self._restricted.views:
            return self._restricted_leaf(name, alias)
        raise Unsaid("a relation that is not the database's")

    def _base(self, node: exp.Table) -> str:
        dataset = DatasetName(node.args["db"].name, node.name)
        native, held = self._tables[dataset], self._schema[dataset]
        known = {name: column for name, column in native.columns.items() if held.column(name) is not None}
        kinds = {column.name: kind_of(column.type, known.get(column.name)) for column in held.columns}
        self.bring(node.alias, kinds, {name: column.native for name, column in known.items()})
        return f"{self.quoted(native.schema)}.{self.quoted(native.name)} AS {self.quoted(node.alias)}"

    def _restricted_leaf(self, name: str, alias: str) -> str:
        select = self._restricted.views[name.removeprefix(VIEW_PREFIX)]
        if not self._restricted.barrier:
            text, columns = self.query(select)
            self.bring(alias, columns)
            return f"({text}) AS {self.quoted(alias)}"
        if name not in self._views:
            text, columns = self.query(select)
            self._views[name] = columns
            self.setup.append(f"CREATE TEMP VIEW {self.quoted(name)} WITH (security_barrier) AS {text}")
        self.bring(alias, self._views[name])
        return f"pg_temp.{self.quoted(name)} AS {self.quoted(alias)}"

    # -- keys

    def keys_of(self, query: exp.Expr) -> Sequence[Value] | None:
        """Give the keys when a sub-query reads a key relation and nothing else."""
        inner = query.this if isinstance(query, exp.Subquery) else query
        source = inner.args.get("from_") if isinstance(inner, exp.Select) else None
        table = source.this if source is not None else None
        if not isinstance(table, exp.Table) or table.args.get("db") is not None:
            return None
        if not table.name.startswith(KEYS_PREFIX) or table.name not in self._keys:
            return None
        return self._keys[table.name]()

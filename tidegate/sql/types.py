"""The closed list of types: read from catalogue texts and from casts, printed by our own table.

A type text of the catalogue (``Column.type``) and a type in a CAST mean the same thing when ``type_text`` says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sqlglot import exp
from sqlglot.errors import SqlglotError

from tidegate.core.errors import Code, error_for
from tidegate.core.names import is_strict_name
from tidegate.sql.dialect import Exchange

TYPE_DEPTH_MAX = 4
ARRAY_SIZE_MAX = 4_096

_SIMPLE: Mapping[str, str] = MappingProxyType(
    {
        "BOOLEAN": "BOOLEAN",
        "TINYINT": "TINYINT",
        "SMALLINT": "SMALLINT",
        "INT": "INTEGER",
        "BIGINT": "BIGINT",
        "INT128": "HUGEINT",
        "UTINYINT": "UTINYINT",
        "USMALLINT": "USMALLINT",
        "UINT": "UINTEGER",
        "UBIGINT": "UBIGINT",
        "UINT128": "UHUGEINT",
        "FLOAT": "FLOAT",
        "DOUBLE": "DOUBLE",
        "TEXT": "VARCHAR",
        "VARCHAR": "VARCHAR",
        "CHAR": "VARCHAR",
        "BPCHAR": "VARCHAR",
        "VARBINARY": "BLOB",
        "BINARY": "BLOB",
        "BLOB": "BLOB",
        "DATE": "DATE",
        "TIME": "TIME",
        "DATETIME": "TIMESTAMP",
        "TIMESTAMP": "TIMESTAMP",
        "TIMESTAMPTZ": "TIMESTAMPTZ",
        "TIMESTAMPNTZ": "TIMESTAMP",
        "TIMESTAMP_S": "TIMESTAMP_S",
        "TIMESTAMP_MS": "TIMESTAMP_MS",
        "TIMESTAMP_NS": "TIMESTAMP_NS",
        "INTERVAL": "INTERVAL",
        "UUID": "UUID",
        "JSON": "JSON",
    }
)
SIMPLE_TYPES = frozenset(_SIMPLE.values())


def type_text(data_type: exp.Expr, *, depth: int = 0) -> str:
    """Print a type of sqlglot's by our own table.

    Raises:
        CallerError: PLAN_NOT_ALLOWED for a type that is not on the list.
    """
    if not isinstance(data_type, exp.DataType) or depth > TYPE_DEPTH_MAX:
        raise _refused()
    name = data_type.this.value if isinstance(data_type.this, exp.DType) else ""
    inner = data_type.expressions
    if name == "DECIMAL":
        return _decimal(inner)
    if name in ("LIST", "ARRAY"):
        if len(inner) != 1:
            raise _refused()
        return f"{type_text(inner[0], depth=depth + 1)}[{_size(data_type.args.get('values'))}]"
    if name == "STRUCT":
        return f"STRUCT({', '.join(_field(item, depth) for item in inner)})"
    if name == "MAP" and len(inner) == 2:
        return f"MAP({type_text(inner[0], depth=depth + 1)}, {type_text(inner[1], depth=depth + 1)})"
    if name in _SIMPLE and (not inner or _SIMPLE[name] == "VARCHAR") and not data_type.args.get("values"):
        return _SIMPLE[name]  # VARCHAR(n): DuckDB ignores the length, so do we
    raise _refused()


def parse_type(text: str) -> str:
    """Read a type text (of the catalogue, of a node) and give its canonical spelling.

    Raises:
        CallerError: PLAN_NOT_ALLOWED for a type that is not on the list.
    """
    if len(text) > 1_000 or not _is_balanced(text):
        raise _refused()
    try:
        return type_text(exp.DataType.build(text, dialect=Exchange))
    except (SqlglotError, RecursionError, ValueError) as error:
        raise _refused() from error


def _is_balanced(text: str) -> bool:
    depth = 0
    for char in text:
        depth += (char == "(") - (char == ")")
        if depth < 0 or char in ";'":
            return False
    return depth == 0


def _refused() -> Exception:
    return error_for(Code.PLAN_NOT_ALLOWED, "type: not one of the types that the exchange allows")


def _integer(node: exp.Expr, low: int, high: int) -> int:
    inner = node.this if isinstance(node, exp.DataTypeParam) else node
    text = inner.this if isinstance(inner, exp.Literal) and not inner.is_string else ""
    if not (text.isascii() and text.isdigit() and len(text) < 6 and low <= int(text) <= high):
        raise _refused()
    return int(text)


def _decimal(arguments: list[exp.Expr]) -> str:
    if not arguments:
        return "DECIMAL(18,3)"
    precision = _integer(arguments[0], 1, 38)
    scale = _integer(arguments[1], 0, precision) if len(arguments) == 2 else 0
    if len(arguments) > 2:
        raise _refused()
    return f"DECIMAL({precision},{scale})"


def _size(values: list[exp.Expr] | None) -> str:
    if not values:
        return ""
    if len(values) != 1:
        raise _refused()
    return str(_integer(values[0], 1, ARRAY_SIZE_MAX))


def _field(node: exp.Expr, depth: int) -> str:
    if not isinstance(node, exp.ColumnDef) or not is_strict_name(node.name) or node.args.get("kind") is None:
        raise _refused()
    return f'"{node.name}" {type_text(node.args["kind"], depth=depth + 1)}'

"""The allow-list of parsed node types, each with the arguments that it may carry. What is not here is refused by ``admit``."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sqlglot import exp

_MODIFIERS = ("with_", "order", "limit", "offset")
_CLAUSES = ("expressions", "distinct", "from_", "joins", "where", "group", "having", "qualify", "windows")
_PAIR = ("this", "expression")

_ROWS: tuple[tuple[tuple[type[exp.Expr], ...], tuple[str, ...]], ...] = (
    # queries
    (
        (exp.Select,),
        (*_MODIFIERS, "expressions", "distinct", "from_", "joins", "where", "group", "having", "qualify", "windows"),
    ),
    ((exp.Union, exp.Intersect, exp.Except), (*_MODIFIERS, *_PAIR, "distinct", "by_name")),
    ((exp.Subquery,), (*_MODIFIERS, "this", "alias", "joins")),
    ((exp.Values,), (*_MODIFIERS, "expressions", "alias")),
    ((exp.Pivot,), ("this", "expressions", "using", "group", "with_")),
    ((exp.With,), ("expressions", "recursive")),
    ((exp.CTE,), ("this", "alias", "materialized")),
    ((exp.From, exp.Where, exp.Having, exp.Qualify), ("this",)),
    ((exp.Join,), ("this", "side", "kind", "method", "on", "using")),
    ((exp.Lateral,), ("this", "alias")),
    ((exp.Table,), ("this", "db", "catalog", "alias", "joins")),
    ((exp.TableAlias,), ("this", "columns")),
    ((exp.Group,), ("expressions", "all")),
    ((exp.Rollup, exp.Cube, exp.GroupingSets, exp.Tuple, exp.Array, exp.Struct), ("expressions", "value_constructor")),
    ((exp.Distinct,), ("expressions", "on")),
    ((exp.Order,), ("this", "expressions")),
    ((exp.Ordered,), ("this", "desc", "nulls_first")),
    ((exp.Limit,), ("expression", "limit_options")),
    ((exp.Fetch,), ("direction", "count", "limit_options")),
    ((exp.LimitOptions,), ("percent", "rows", "with_ties")),
    ((exp.Offset,), ("expression",)),
    # names and values
    ((exp.Identifier,), ("this", "quoted")),
    ((exp.Var,), ("this",)),
    ((exp.Column,), ("this", "table", "db", "catalog")),
    ((exp.Dot, *(exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE, exp.NullSafeEQ, exp.NullSafeNEQ)), _PAIR),
    ((exp.Star,), ("except_", "replace", "rename")),
    ((exp.Alias,), ("this", "alias")),
    ((exp.Literal,), ("this", "is_string")),
    ((exp.Boolean,), ("this",)),
    ((exp.Null,), ()),
    ((exp.Placeholder, exp.Parameter), ("this",)),
    # operators
    ((exp.And, exp.Or, exp.Add, exp.Sub, exp.Mul, exp.IntDiv, exp.Mod, exp.Pow, exp.Is), _PAIR),
    ((exp.Div,), (*_PAIR, "typed", "safe")),
    ((exp.DPipe,), (*_PAIR, "safe")),
    ((exp.BitwiseAnd, exp.BitwiseOr, exp.BitwiseLeftShift, exp.BitwiseRightShift), (*_PAIR, "requires_int128")),
    ((exp.Not, exp.Neg, exp.BitwiseNot, exp.Paren, exp.Abs, exp.Any, exp.All, exp.Exists), ("this",)),
    ((exp.Like, exp.ILike), (*_PAIR, "negate")),
    ((exp.Escape, exp.Glob, exp.SimilarTo, exp.RegexpLike, exp.StartsWith, exp.PropertyEQ, exp.Slice), _PAIR),
    ((exp.Between,), ("this", "low", "high")),
    ((exp.In,), ("this", "expressions", "query")),
    ((exp.Case,), ("this", "ifs", "default")),
    ((exp.If,), ("this", "true", "false")),
    ((exp.Cast, exp.TryCast), ("this", "to", "safe")),
    ((exp.DataType,), ("this", "expressions", "nested", "values")),
    ((exp.DataTypeParam,), ("this",)),
    ((exp.ColumnDef,), ("this", "kind")),
    ((exp.Interval,), ("this", "unit")),
    ((exp.Extract,), _PAIR),
    ((exp.AtTimeZone,), ("this", "zone")),
    ((exp.Trim,), (*_PAIR, "position")),
    ((exp.Substring,), ("this", "start", "length")),
    ((exp.StrPosition,), ("this", "substr")),
    ((exp.Bracket,), ("this", "expressions")),
    ((exp.ToMap,), ("this",)),
    ((exp.Map,), ("keys", "values")),
    # calls
    ((exp.Anonymous,), ("this", "expressions")),
    ((exp.Lambda,), ("this", "expressions")),
    ((exp.Filter,), _PAIR),
    ((exp.WithinGroup,), _PAIR),
    ((exp.IgnoreNulls, exp.RespectNulls), ("this",)),
    ((exp.Window,), ("this", "partition_by", "order", "spec", "alias", "over")),
    ((exp.WindowSpec,), ("kind", "start", "start_side", "end", "end_side", "exclude")),
)

ALLOWED: Mapping[type[exp.Expr], frozenset[str]] = MappingProxyType(
    {kind: frozenset(arguments) for kinds, arguments in _ROWS for kind in kinds}
)

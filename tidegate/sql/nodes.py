"""The nodes of a bound tree that sqlglot has no fitting class for, and small builders for the rest.

Every function call of a bound tree is one of three classes, by the kind that ``functions.FUNCTIONS`` gives its name:
``ScalarCall``, ``AggregateCall`` (an ``exp.AggFunc``) and ``WindowCall``. ``node.name`` is DuckDB's lower-case name. So
``isinstance(node, exp.AggFunc)`` finds the aggregates, and ``node.name`` says which.
"""

from __future__ import annotations

from typing import ClassVar

from sqlglot import exp


class Call(exp.Expression, exp.Func):
    """A call of a listed function: ``this`` is its name (a str), ``expressions`` are its arguments."""

    arg_types: ClassVar[dict[str, bool]] = {"this": True, "expressions": False}
    is_var_len_args = True

    @property
    def name(self) -> str:
        """DuckDB's lower-case name of the function."""
        return str(self.args["this"])


class ScalarCall(Call):
    """A scalar function."""


class AggregateCall(Call, exp.AggFunc):
    """An aggregate function (also when it stands in an ``exp.Window``)."""


class WindowCall(Call):
    """A function that exists in a window only (``row_number``)."""


class Lambda(exp.Expression):
    """``LAMBDA x0, x1: body``; ``expressions`` are the generated names (identifiers)."""

    arg_types: ClassVar[dict[str, bool]] = {"this": True, "expressions": True}


class LambdaName(exp.Expression, exp.Condition):
    """The use of a lambda's parameter."""

    arg_types: ClassVar[dict[str, bool]] = {"this": True}


def identifier(name: str) -> exp.Identifier:
    """Give a quoted identifier."""
    return exp.Identifier(this=name, quoted=True)


def column(alias: str, name: str) -> exp.Column:
    """Give a qualified column."""
    return exp.Column(this=identifier(name), table=identifier(alias))


def scalar(name: str, *arguments: exp.Expr) -> ScalarCall:
    """Give the call of a scalar function."""
    return ScalarCall(this=name, expressions=list(arguments))


def aliased(node: exp.Expr, name: str) -> exp.Alias:
    """Give ``node AS name``."""
    return exp.Alias(this=node, alias=identifier(name))


def table_alias(name: str) -> exp.TableAlias:
    """Give the alias of a table."""
    return exp.TableAlias(this=identifier(name))


def parameter(number: int) -> exp.Parameter:
    """Give ``$number``."""
    return exp.Parameter(this=exp.Literal.number(number))


def parameter_number(node: exp.Parameter) -> int:
    """Give the number of a parameter."""
    return int(node.this.this)


class Keys(exp.In):
    """``this IN (the keys of candidate number N)``: a join reduction on its way to a leaf; never printed.

    ``field`` is the candidate's number (a literal), so that two candidates on one column stay two.
    """


def keys(target: exp.Column, number: int) -> Keys:
    """Give the condition that a column's value is among a candidate's keys."""
    return Keys(this=target.copy(), field=exp.Literal.number(number))

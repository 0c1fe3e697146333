"""The fixed library of masks: each is one expression over one raw column, of the column's catalogue type.

A mask never raises, whatever the raw value is (an error would tell about hidden rows), never reads another column, and
keeps NULL as NULL where it keeps anything. HMAC (RFC 2104, FIPS 198-1) is built from DuckDB's sha256 with the padded
keys as constants: H((K xor opad) || H((K xor ipad) || text)).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Protocol

from sqlglot import exp

from tidegate.core.decision import Mask
from tidegate.core.errors import Code, Reason, error_for
from tidegate.core.names import DatasetName
from tidegate.sql.families import MOMENTS, NUMBERS, family

HASH_BLOCK_BYTES = 64  # SHA-256's block, FIPS 198-1 table 1
PSEUDONYM_HEX_DIGITS = 32  # 128 bits: short enough for a table on a screen, long enough never to collide
INTEGER_HEX_DIGITS = 15  # 60 bits: the longest run of hex digits that fits a BIGINT without a sign
REDACTED = "***"


class MaskKeys(Protocol):
    """The node's keys of masks. They never leave the node."""

    def key(self, mask: Mask, dataset: DatasetName, column: str) -> bytes:
        """Give the key that ``mask.arguments['key']`` (or the kind's default) stands for."""
        ...


def expression(mask: Mask, column: exp.Column, type_text: str, dataset: DatasetName, keys: MaskKeys) -> exp.Expr:
    """Give the masked value of a column, cast to its catalogue type.

    Raises:
        Refused: POLICY_REFUSED when the mask does not fit the type: fail closed.
    """
    if mask.kind in ("hash", "pseudonym"):
        value = _keyed(mask.kind, column, type_text, keys.key(mask, dataset, column.name))
    else:
        value = _KINDS[mask.kind](column, type_text, mask.arguments)
    if value is None:
        text = f"the policy masks column {dataset}.{column.name} with {mask.kind}, which does not fit its type"
        reason = Reason("mask_does_not_fit", text, "a mask that fits the column's type", f"the steward of {dataset}")
        raise error_for(Code.POLICY_REFUSED, reasons=(reason,))
    return _try_cast(value, type_text)


def hmac_hex(key: bytes, text: exp.Expr) -> exp.Expr:
    """Give hex HMAC-SHA256 of a text expression under a constant key."""
    if len(key) > HASH_BLOCK_BYTES:
        key = hashlib.sha256(key).digest()
    padded = key.ljust(HASH_BLOCK_BYTES, b"\x00")
    inner, outer = (_blob(bytes(byte ^ pad for byte in padded)) for pad in (0x36, 0x5C))
    message = exp.DPipe(this=inner, expression=_call("encode", text))
    return _call("sha256", exp.DPipe(this=outer, expression=_call("unhex", _call("sha256", message))))


def subject_pseudonym(column: exp.Column, key: bytes) -> exp.Expr:
    """Give the pseudonym of a subject for one query alone: NULL stays NULL, so that it is not counted."""
    return hmac_hex(key, _text(column))


def _blob(data: bytes) -> exp.Expr:
    return _call("unhex", exp.Literal.string(data.hex()))


def _call(name: str, *arguments: exp.Expr) -> exp.Expr:
    return exp.Anonymous(this=name, expressions=list(arguments))


def _text(column: exp.Expr) -> exp.Expr:
    return exp.Cast(this=column.copy(), to=exp.DataType.build("VARCHAR", dialect="duckdb"))


def _try_cast(value: exp.Expr, type_text: str) -> exp.Expr:
    return exp.TryCast(this=value, to=exp.DataType.build(type_text, dialect="duckdb"))


def _keyed(kind: str, column: exp.Column, type_text: str, key: bytes) -> exp.Expr | None:
    digest = hmac_hex(key, _text(column))
    if family(type_text) == "text":
        if kind == "hash":
            return digest
        return _call("left", digest, exp.Literal.number(PSEUDONYM_HEX_DIGITS))
    if type_text.upper() in ("BIGINT", "UBIGINT", "HUGEINT"):
        digits = _call("left", digest, exp.Literal.number(INTEGER_HEX_DIGITS))
        return exp.DPipe(this=exp.Literal.string("0x"), expression=digits)
    return None


def _null(column: exp.Column, type_text: str, arguments: Any) -> exp.Expr | None:
    return exp.null()


def _constant(column: exp.Column, type_text: str, arguments: Any) -> exp.Expr | None:
    value = arguments["value"]
    if value is None:
        return exp.null()
    if isinstance(value, bool):
        return exp.Boolean(this=value) if family(type_text) == "boolean" else None
    if isinstance(value, int):
        fits = family(type_text) in NUMBERS
        number = exp.Literal.number(str(abs(value)))
        return (exp.Neg(this=number) if value < 0 else number) if fits else None
    fits = family(type_text) in ("text", "date", "timestamp", "time")
    return exp.Literal.string(value) if fits and "\x00" not in value else None


def _truncate_date(column: exp.Column, type_text: str, arguments: Any) -> exp.Expr | None:
    if family(type_text) not in MOMENTS:
        return None
    return _call("date_trunc", exp.Literal.string(arguments["unit"]), column.copy())


def _bucket(column: exp.Column, type_text: str, arguments: Any) -> exp.Expr | None:
    kind, width = family(type_text), exp.Literal.number(str(arguments["width"]))
    if kind == "integer":
        # In HUGEINT, so that the lowest BIGINT has room below it; DuckDB's % keeps the dividend's sign, hence twice.
        wide = _try_cast(column.copy(), "HUGEINT")
        rest = exp.Mod(
            this=exp.Paren(this=exp.Add(this=_modulo(wide, width), expression=width.copy())), expression=width
        )
        return _call("try", exp.Sub(this=wide.copy(), expression=exp.Paren(this=rest)))
    if kind in ("decimal", "float"):
        number = _try_cast(column.copy(), "DOUBLE")
        lower = _call("floor", exp.Div(this=number, expression=width))
        return exp.Mul(this=lower, expression=width.copy())
    return None


def _modulo(value: exp.Expr, width: exp.Expr) -> exp.Expr:
    return exp.Paren(this=exp.Mod(this=value.copy(), expression=width.copy()))


def _last_n(column: exp.Column, type_text: str, arguments: Any) -> exp.Expr | None:
    if family(type_text) != "text":
        return None
    count = exp.Literal.number(str(arguments["n"]))
    # A value that is not longer than n would be shown whole: it is redacted. The prefix has one length, the value's is hidden.
    longer = exp.GT(this=_call("length", column.copy()), expression=count)
    tail = exp.DPipe(this=exp.Literal.string(REDACTED), expression=_call("right", column.copy(), count.copy()))
    return _unless_null(column, exp.Case(ifs=[exp.If(this=longer, true=tail)], default=exp.Literal.string(REDACTED)))


def _redact(column: exp.Column, type_text: str, arguments: Any) -> exp.Expr | None:
    if family(type_text) != "text":
        return exp.null()
    return _unless_null(column, exp.Literal.string(REDACTED))


def _unless_null(column: exp.Column, value: exp.Expr) -> exp.Expr:
    missing = exp.Is(this=column.copy(), expression=exp.null())
    return exp.Case(ifs=[exp.If(this=missing, true=exp.null())], default=value)


_KINDS: dict[str, Callable[[exp.Column, str, Any], exp.Expr | None]] = {
    "null": _null,
    "constant": _constant,
    "truncate_date": _truncate_date,
    "bucket": _bucket,
    "last_n": _last_n,
    "redact": _redact,
}

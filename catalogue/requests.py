"""Writes that may be sent twice: a retry with the same idempotency key gets the first answer and changes nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, delete, insert, select

from catalogue.tables import REQUESTS
from tidegate.core.canonical import canonical, sha256_hex
from tidegate.core.clock import timestamp
from tidegate.core.errors import Code, error_for

KEPT_DAYS: Final = 7  # a client that retries after a week asks anew
KEY_CHARS_MAX: Final = 100


def earlier_answer(connection: Connection, member: str, key: str, request: Mapping[str, Any]) -> dict[str, Any] | None:
    """Give the answer that the same request got before, or None when it is new or has no key.

    Raises:
        CallerError: CAT_CONFLICT; the key was used for another request. CAT_INVALID; the key is too long.
    """
    if not key:
        return None
    if len(key) > KEY_CHARS_MAX or not key.isascii() or not key.isprintable():
        raise error_for(
            Code.CAT_INVALID, f"idempotency key: expected at most {KEY_CHARS_MAX} printable ASCII characters"
        )
    query = select(REQUESTS.c.digest, REQUESTS.c.answer).where(REQUESTS.c.member == member, REQUESTS.c.key == key)
    row = connection.execute(query).first()
    if row is None:
        return None
    if row.digest != _digest(request):
        raise error_for(Code.CAT_CONFLICT, "idempotency key: used before for another request")
    answer: dict[str, Any] = json.loads(row.answer)
    return answer


def remember(
    connection: Connection, member: str, key: str, request: Mapping[str, Any], answer: Mapping[str, Any], now: datetime
) -> None:
    """Keep the answer in the transaction that made the change, and forget those that are too old."""
    connection.execute(delete(REQUESTS).where(REQUESTS.c.at < timestamp(now - timedelta(days=KEPT_DAYS))))
    if key:
        values = {"member": member, "key": key, "digest": _digest(request), "answer": json.dumps(answer)}
        connection.execute(insert(REQUESTS).values(**values, at=timestamp(now)))


def _digest(request: Mapping[str, Any]) -> str:
    return sha256_hex(canonical(request))

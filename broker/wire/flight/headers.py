"""What a call of Flight SQL says beside its message: purpose and legal basis come in, receipts and the disclosure go out.

Flight has no field for a purpose, so it travels as gRPC metadata: any client can set a header. A client that holds one on its
connection and another on its statement sends both; which was meant nobody can know, so it is refused.
"""

from __future__ import annotations

import json
from typing import Any

import grpc

from broker.disclosure import disclosure
from broker.values import ClosedRecord, RecordedPlan
from tidegate.core.errors import Code, error_for

PURPOSE, LEGAL_BASIS = "x-tidegate-purpose", "x-tidegate-legal-basis"
REQUEST_ID = "x-tidegate-request-id"
DISCLOSURE, RECEIPT, OUTCOME = "x-tidegate-disclosure-bin", "x-tidegate-receipt-bin", "x-tidegate-outcome-bin"
DISCLOSURE_BYTES_MAX = 4_096  # as base64 two thirds of the 8 KiB of metadata that every client takes
_VALUE_CHARS_MAX = 1_000

Metadata = tuple[tuple[str, "str | bytes"], ...]


def purpose(context: grpc.ServicerContext) -> str:
    """Read the one purpose of a call.

    Raises:
        CallerError: FLIGHT_PURPOSE, none or several.
    """
    found = _one(context, PURPOSE)
    if not found:
        raise error_for(
            Code.FLIGHT_PURPOSE,
            f"no purpose: send the header {PURPOSE} (ADBC: the option adbc.flight.sql.rpc.call_header.{PURPOSE}; "
            f"JDBC: {PURPOSE}=... in the URL)",
        )
    return found


def hold_purpose(context: grpc.ServicerContext, ticket: str) -> None:
    """Hold a call that redeems a ticket to the purpose that the ticket was given for; it need not name one.

    Raises:
        CallerError: FLIGHT_PURPOSE, it names another.
    """
    if _one(context, PURPOSE) not in ("", ticket):
        raise error_for(Code.FLIGHT_PURPOSE, f"{PURPOSE}: the ticket was given for another purpose")


def legal_basis(context: grpc.ServicerContext) -> str:
    """Read the one legal basis of a call; empty: none, and the purpose's only one is meant."""
    return _one(context, LEGAL_BASIS)


def _one(context: grpc.ServicerContext, name: str) -> str:
    values = {
        value if isinstance(value, str) else value.decode("utf-8", "replace")
        for key, value in context.invocation_metadata() or ()
        if key == name
    }
    values = {value.strip() for value in values}
    if len(values) > 1:
        raise error_for(
            Code.FLIGHT_PURPOSE, f"{name}: several values that differ; send one, on connection or statement"
        )
    found = next(iter(values), "")
    if len(found) > _VALUE_CHARS_MAX:
        raise error_for(Code.FLIGHT_PURPOSE, f"{name}: longer than {_VALUE_CHARS_MAX} characters")
    return found


def leading(recorded: RecordedPlan) -> Metadata:
    """Give the headers that lead an answer."""
    return ((REQUEST_ID, recorded.request.id), (DISCLOSURE, shortened(disclosure(recorded))))


def trailing(decision: ClosedRecord, outcome: ClosedRecord) -> Metadata:
    """Give the headers that end an answer: the notes of both entries."""
    return ((RECEIPT, decision.receipt), (OUTCOME, outcome.receipt))


def shortened(report: dict[str, Any]) -> bytes:
    """Print a disclosure as JSON; where it would not fit into a header, parts are left out, and it says so."""
    for left_out in ((), ("departments",), ("departments", "reasons"), ("departments", "reasons", "datasets")):
        shown = {name: value for name, value in report.items() if name not in left_out}
        if left_out:
            shown["left_out"] = list(left_out)
        text = json.dumps(shown, ensure_ascii=False, separators=(",", ":")).encode()
        if len(text) <= DISCLOSURE_BYTES_MAX:
            return text
    return b'{"left_out":["all"]}'

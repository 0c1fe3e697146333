"""The calls of Arrow Flight SQL one by one, as a driver makes them for one statement, with what each of them takes.

A part of ``benchmarks.flight``: ADBC itself says only how long all four take together. Flight's messages are pyarrow's; those
of Flight SQL are written here by hand, for each that is needed is one field (Apache Arrow, FlightSql.proto).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow.flight as flight

from benchmarks.tpch_exchange import PURPOSE
from broker.wire.flight import headers
from broker.wire.flight.messages import SERVICE
from tidegate.channel import open_channel
from tidegate.chunk_wire import varint
from tidegate.client.session import Session
from tidegate.identity.folder import LocalIdentity

CALLS = ("CreatePreparedStatement", "GetFlightInfo", "DoGet", "ClosePreparedStatement")
_WARM_UPS = 20
_COMMANDS = "type.googleapis.com/arrow.flight.protocol.sql."
_LENGTH_DELIMITED = 2


class Calls:
    """A connection of a caller's own, to be closed by ``close``."""

    def __init__(self, identity: LocalIdentity) -> None:
        self._channel = open_channel(identity.exchange.callers, identity)
        self._headers = ((headers.PURPOSE, PURPOSE[0]),)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def info(self, sql: str) -> flight.FlightInfo:
        """Ask for the ticket of a text."""
        return self._info("CommandStatementQuery", sql.encode())

    def answer(self, ticket: flight.Ticket) -> Iterator[bytes]:
        """Redeem a ticket: the messages of the answer as they came over the wire."""
        return self._call("DoGet", ticket.serialize())

    def statement(self, sql: str) -> dict[str, float]:
        """Do for a text what a driver does for it; give the milliseconds of each call."""
        spent: dict[str, float] = {}
        result = _timed(spent, CALLS[0], lambda: self._action(CALLS[0], "Request", sql.encode())[0])
        # Result.body holds an envelope (its value is field 2); what it holds begins with the handle.
        handle = _fields(_fields(_fields(result)[1])[2])[1]
        info = _timed(spent, CALLS[1], lambda: self._info("CommandPreparedStatementQuery", handle))
        _timed(spent, CALLS[2], lambda: list(self.answer(info.endpoints[0].ticket)))
        _timed(spent, CALLS[3], lambda: self._action(CALLS[3], "Request", handle))
        return spent

    def _info(self, command: str, value: bytes) -> flight.FlightInfo:
        descriptor = flight.FlightDescriptor.for_command(_envelope(command, value))
        (found,) = self._call("GetFlightInfo", descriptor.serialize())
        return flight.FlightInfo.deserialize(found)

    def _action(self, kind: str, suffix: str, value: bytes) -> list[bytes]:
        action = flight.Action(kind, _envelope(f"Action{kind}{suffix}", value))
        return list(self._call("DoAction", action.serialize()))

    def _call(self, name: str, payload: bytes) -> Iterator[bytes]:
        # A single answer is a stream of one.
        call: Any = self._channel.unary_stream(f"/{SERVICE}/{name}", None, None)
        answers: Iterator[bytes] = call(payload, metadata=self._headers)
        return answers


def _timed(spent: dict[str, float], name: str, work: Callable[[], Any]) -> Any:
    started = time.perf_counter()
    found = work()
    spent[name] = (time.perf_counter() - started) * 1000
    return found


def _envelope(kind: str, value: bytes) -> bytes:
    """Write a message whose first field is all that it has, in the envelope that Flight SQL wants."""
    return _message((_COMMANDS + kind).encode(), _message(value))


def _message(*fields: bytes) -> bytes:
    """Write length-delimited fields, the first as number 1."""
    parts = []
    for number, field in enumerate(fields, 1):
        parts += [bytes([number << 3 | _LENGTH_DELIMITED]), varint(len(field)), field]
    return b"".join(parts)


def _fields(message: bytes) -> dict[int, bytes]:
    """Read a message's length-delimited fields, up to the first that is not one."""
    found: dict[int, bytes] = {}
    place = 0
    while place < len(message) and message[place] & 7 == _LENGTH_DELIMITED:
        number, size, shift = message[place] >> 3, 0, 0
        place += 1
        while message[place] > 0x7F:
            size |= (message[place] & 0x7F) << shift
            place, shift = place + 1, shift + 7
        size |= message[place] << shift
        found[number] = message[place + 1 : place + 1 + size]
        place += 1 + size
    return found


def measure(adbc: Any, calls: Calls, session: Session, sql: str, rounds: int) -> dict[str, Any]:
    """Ask the small query in turns by ADBC, call by call, and by our own Execute; medians in milliseconds.

    Raises:
        SystemExit: the answers differ.
    """
    by_adbc: list[float] = []
    by_execute: list[float] = []
    by_call: dict[str, list[float]] = {name: [] for name in CALLS}
    for turn in range(_WARM_UPS + rounds):
        started = time.perf_counter()
        with adbc.cursor() as cursor:
            cursor.execute(sql)
            rows = cursor.fetchall()
        adbc_ms = (time.perf_counter() - started) * 1000
        spent = calls.statement(sql)
        started = time.perf_counter()
        table = session.query(sql, purpose=PURPOSE[0]).to_arrow()
        execute_ms = (time.perf_counter() - started) * 1000
        if not rows or rows != list(zip(*(column.to_pylist() for column in table.columns), strict=True)):
            raise SystemExit("the two doors gave different answers")
        if turn >= _WARM_UPS:
            by_adbc.append(adbc_ms)
            by_execute.append(execute_ms)
            for name, value in spent.items():
                by_call[name].append(value)
    return _report(by_adbc, by_execute, by_call)


def _report(by_adbc: list[float], by_execute: list[float], by_call: Mapping[str, list[float]]) -> dict[str, Any]:
    medians = {name: round(statistics.median(values), 2) for name, values in by_call.items()}
    return {
        "small_p50_ms": round(statistics.median(by_adbc), 2),
        "small_calls_p50_ms": medians,
        "small_calls_p50_ms_sum": round(sum(medians.values()), 2),
        "small_execute_p50_ms": round(statistics.median(by_execute), 2),
    }

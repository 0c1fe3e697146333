"""Flight SQL by hand, over our own channel: for what a well-behaved driver would never do. And ADBC as a user connects it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import adbc_driver_flightsql.dbapi as flight_sql
import grpc
import pyarrow as pa
from adbc_driver_flightsql import DatabaseOptions

from broker.wire.flight import headers, messages
from tidegate.channel import open_channel
from tidegate.core.errors import TidegateError
from tidegate.identity.folder import LocalIdentity
from tidegate.v1 import flight_pb2, flight_sql_pb2
from tidegate.wire import from_rpc_error

CALL_S_MAX = 60.0


def adbc(identity: LocalIdentity, purpose: str = "", **options: str) -> Any:
    """Connect ADBC as the guide shows, with the client certificate of an identity."""
    kwargs = {
        DatabaseOptions.MTLS_CERT_CHAIN.value: identity.presented_pem.decode(),
        DatabaseOptions.MTLS_PRIVATE_KEY.value: identity.key_pem.decode(),
        DatabaseOptions.TLS_ROOT_CERTS.value: identity.root_pem.decode(),
        **options,
    }
    if purpose:
        kwargs[f"{DatabaseOptions.RPC_CALL_HEADER_PREFIX.value}{headers.PURPOSE}"] = purpose
    return flight_sql.connect(f"grpc+tls://{identity.exchange.callers}", db_kwargs=kwargs, autocommit=True)


@dataclass
class Streamed:
    """An answer as it came: the schema of its first message, its rows, and the metadata around it."""

    schema: pa.Schema
    table: pa.Table
    largest_bytes: int
    leading: dict[str, Any] = field(default_factory=dict)
    trailing: dict[str, Any] = field(default_factory=dict)


class Flight:
    """Flight SQL's calls, one by one. Every error is one of ours, or the test fails."""

    def __init__(self, identity: LocalIdentity, purpose: str | Sequence[str] = ()) -> None:
        self._channel = open_channel(identity.exchange.callers, identity)
        purposes = [purpose] if isinstance(purpose, str) else list(purpose)
        self._headers = tuple((headers.PURPOSE, item) for item in purposes)

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Flight:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def stream(self, name: str, *payloads: bytes, timeout_s: float = CALL_S_MAX) -> Any:
        """Begin a call; on the wire one message and a stream of one are the same."""
        call = self._channel.stream_stream(f"/{messages.SERVICE}/{name}")
        return call(iter(payloads), timeout=timeout_s, metadata=self._headers)

    def call(self, name: str, *payloads: bytes) -> list[bytes]:
        """Make a call to its end."""
        try:
            return list(self.stream(name, *payloads))
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    def action(self, kind: str, body: bytes) -> bytes:
        """Do an action; give the body of its one result, or nothing."""
        results = self.call("DoAction", flight_pb2.FlightAction(type=kind, body=body).SerializeToString())
        return flight_pb2.FlightResult.FromString(results[0]).body if results else b""

    def prepare(self, sql: str) -> flight_sql_pb2.ActionCreatePreparedStatementResult:
        """Prepare a statement."""
        asked = flight_sql_pb2.ActionCreatePreparedStatementRequest(query=sql)
        made = messages.unpack(self.action("CreatePreparedStatement", messages.pack(asked)))
        assert isinstance(made, flight_sql_pb2.ActionCreatePreparedStatementResult)
        return made

    def bind(self, handle: bytes, row: pa.RecordBatch) -> None:
        """Bind a row of values."""
        command = messages.pack(flight_sql_pb2.CommandPreparedStatementQuery(prepared_statement_handle=handle))
        self.call("DoPut", *put(command, row))

    def info(self, command: Any) -> flight_pb2.FlightInfo:
        """Ask for the ticket of a command, or of a text."""
        return flight_pb2.FlightInfo.FromString(self.call("GetFlightInfo", descriptor(command))[0])

    def get(self, info: flight_pb2.FlightInfo) -> Streamed:
        """Redeem a ticket and read the answer to its end."""
        return self.redeem(info.endpoint[0].ticket.ticket)

    def redeem(self, ticket: bytes) -> Streamed:
        """The same, of a ticket's bytes."""
        call = self.stream("DoGet", flight_pb2.FlightTicket(ticket=ticket).SerializeToString())
        try:
            return read(call)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error


def prepared(handle: bytes) -> Any:
    """Give the command that executes a prepared statement."""
    return flight_sql_pb2.CommandPreparedStatementQuery(prepared_statement_handle=handle)


def descriptor(command: Any) -> bytes:
    """Give the descriptor of a command, or of a text."""
    command = flight_sql_pb2.CommandStatementQuery(query=command) if isinstance(command, str) else command
    cmd = command if isinstance(command, bytes) else messages.pack(command)
    return flight_pb2.FlightDescriptor(type=flight_pb2.FlightDescriptor.TYPE_CMD, cmd=cmd).SerializeToString()


def put(command: bytes, row: pa.RecordBatch) -> Iterator[bytes]:
    """Give the messages that bind a row, as another implementation frames them: by the generated code."""
    head = flight_pb2.FlightDescriptor(type=flight_pb2.FlightDescriptor.TYPE_CMD, cmd=command)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, row.schema) as writer:
        writer.write_batch(row)
    reader = pa.ipc.MessageReader.open_stream(sink.getvalue())
    for number, message in enumerate(reader):
        yield flight_pb2.FlightData(
            flight_descriptor=head if number == 0 else None,
            data_header=message.metadata.to_pybytes(),
            data_body=message.body.to_pybytes() if message.body is not None else b"",
        ).SerializeToString()


def read(call: Any) -> Streamed:
    """Read an answer with Arrow's own reader, from what the generated code takes out of the messages."""
    chunks: list[bytes] = []
    largest = 0
    for raw in call:
        largest = max(largest, len(raw))
        data = flight_pb2.FlightData.FromString(raw)
        padding = -len(data.data_header) % 8
        size = (len(data.data_header) + padding).to_bytes(4, "little")
        chunks.append(b"\xff\xff\xff\xff" + size + data.data_header + bytes(padding) + data.data_body)
    reader = pa.ipc.open_stream(b"".join(chunks))
    table = reader.read_all()
    leading, trailing = dict(call.initial_metadata()), dict(call.trailing_metadata())
    return Streamed(reader.schema, table, largest, leading, trailing)


def schema_of(data: bytes) -> pa.Schema:
    """Read an encapsulated schema."""
    return pa.ipc.read_schema(pa.py_buffer(data))


def refused(error: Any) -> TidegateError:
    """Give our error out of what ``pytest.raises`` caught."""
    assert isinstance(error.value, TidegateError)
    return error.value

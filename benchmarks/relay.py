"""The peer of ``benchmarks.stream`` and ``benchmarks.flight``: a bare grpcio relay; bytes in, bytes out, over mutual TLS.

``python -m benchmarks.relay producer FOLDER`` serves the chunks of ``FOLDER/chunks`` from memory; ``python -m benchmarks.relay
relay FOLDER ADDRESS`` passes on what the producer at that address gives. Each prints the port that it listens on, and ends
when its standard input does. The certificates in ``FOLDER/tls`` are of an exchange's authority, as anywhere else. To a Flight
client both are a server of Arrow Flight SQL with one answer: ``FOLDER/info`` describes it, and the chunks are its FlightData.
"""

from __future__ import annotations

import struct
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from broker.authority import Authority, BrokerIdentity
from tidegate.channel import channel_options
from tidegate.core.clock import SystemClock
from tidegate.core.limits import MESSAGE_BYTES_MAX
from tidegate.identity.folder import ExchangeInfo

METHOD = "/bare.Relay/Stream"
_FLIGHT_INFO = "/arrow.flight.protocol.FlightService/GetFlightInfo"
_FLIGHT_GET = "/arrow.flight.protocol.FlightService/DoGet"
_STATEMENT = b"CommandStatementQuery"
_LENGTH = struct.Struct(">I")
_TLS = ("key.pem", "chain.pem", "root.pem")


@dataclass
class Peer:
    """The two processes of the relay. Close it."""

    producer: subprocess.Popen[str]
    relay: subprocess.Popen[str]
    producer_address: str
    relay_address: str
    folder: Path

    def stream(self, *, one_hop: bool = False) -> tuple[float, int]:
        """Read the whole stream over a fresh connection: seconds, and bytes of chunks."""
        address = self.producer_address if one_hop else self.relay_address
        with _channel(address, self.folder) as channel:
            grpc.channel_ready_future(channel).result(timeout=30)
            started, size = time.perf_counter(), 0
            for chunk in channel.unary_stream(METHOD)(b""):
                size += len(chunk)
            return time.perf_counter() - started, size

    def certificate(self) -> tuple[bytes, bytes, bytes]:
        """Give what a client presents and trusts: key, chain, root, as PEM."""
        key, chain, root = ((self.folder / "tls" / name).read_bytes() for name in _TLS)
        return key, chain, root

    def close(self) -> None:
        """End both."""
        for process in (self.relay, self.producer):
            process.communicate("")


def start(folder: Path, chunks: Iterable[bytes], info: bytes = b"") -> Peer:
    """Write the chunks and the certificates below a folder, and run both processes.

    Args:
        info: the FlightInfo of the answer, for a Flight client.
    """
    (folder / "info").write_bytes(info)
    with (folder / "chunks").open("wb") as file:
        for chunk in chunks:
            file.write(_LENGTH.pack(len(chunk)))
            file.write(chunk)
    certify(folder / "tls")
    producer, producer_address = _run("producer", str(folder))
    relay, relay_address = _run("relay", str(folder), producer_address)
    return Peer(producer, relay, producer_address, relay_address, folder)


def certify(folder: Path) -> None:
    """Make a certificate that may serve and call, by an authority of our own kind."""
    clock = SystemClock()
    authority = Authority.create(folder, "relay", clock)
    info = ExchangeInfo("relay", "", "", "", "", "")
    identity = BrokerIdentity(authority, name="relay", exchange=info, clock=clock, ip_addresses=["127.0.0.1"]).current()
    for name, content in zip(_TLS, (identity.key_pem, identity.presented_pem, identity.root_pem), strict=True):
        (folder / name).write_bytes(content)


def _run(*arguments: str) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.relay", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    port = process.stdout.readline().strip()
    if not port:
        raise SystemExit(f"the relay's {arguments[0]} did not start")
    return process, f"127.0.0.1:{port}"


def _channel(address: str, folder: Path) -> Any:  # grpc's types do not know methods without serializers
    key, chain, root = ((folder / "tls" / name).read_bytes() for name in _TLS)
    credentials = grpc.ssl_channel_credentials(root, key, chain)
    return grpc.secure_channel(address, credentials, options=channel_options(address))


class _Handler(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """Answers a stream's methods: with chunks from memory, or with what the upstream gives. And what a Flight client asks."""

    def __init__(self, chunks: list[bytes] | None, upstream: Any, info: bytes) -> None:
        self._chunks = chunks
        self._upstream = None if upstream is None else upstream.unary_stream(METHOD)
        self._info = info

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        if handler_call_details.method in (METHOD, _FLIGHT_GET):
            return grpc.unary_stream_rpc_method_handler(self._stream)
        if handler_call_details.method == _FLIGHT_INFO:
            return grpc.unary_unary_rpc_method_handler(self._describe)
        return None

    def _describe(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        if _STATEMENT not in request:  # a driver asks first what the server can do, and takes no for an answer
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "not here")
        return self._info

    def _stream(self, request: bytes, _: grpc.ServicerContext) -> Iterator[bytes]:
        if self._upstream is None:
            return iter(self._chunks or ())
        relayed: Iterator[bytes] = self._upstream(request)
        return relayed


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while head := file.read(_LENGTH.size):
            yield file.read(_LENGTH.unpack(head)[0])


def main(arguments: list[str]) -> None:
    """Serve until standard input ends."""
    kind, folder = arguments[0], Path(arguments[1])
    key, chain, root = ((folder / "tls" / name).read_bytes() for name in _TLS)
    if kind == "producer":
        handler = _Handler(list(_chunks(folder / "chunks")), None, (folder / "info").read_bytes())
    else:
        handler = _Handler(None, _channel(arguments[2], folder), (folder / "info").read_bytes())
    server = grpc.server(
        ThreadPoolExecutor(4),
        handlers=[handler],
        options=[
            ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
            ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
        ],
    )
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, chain)], root, True))
    server.start()
    print(port, flush=True)
    sys.stdin.read()
    server.stop(None).wait()


if __name__ == "__main__":
    main(sys.argv[1:])

"""The peer of the look-ups: grpcio's unary echo over mutual TLS, with certificates of the same exchange, in its own process.

``python -m benchmarks.echo FOLDER`` (the broker's folder) prints its address and serves until its input ends.
"""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import grpc

from benchmarks.callers import ECHO_METHOD
from broker.authority import Authority, BrokerIdentity
from tidegate.core.clock import SystemClock
from tidegate.identity.folder import ExchangeInfo

THREADS = 32


class EchoServer:
    """The running process; ``address`` is where it listens."""

    def __init__(self, broker_folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.echo", str(broker_folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None  # it was opened as a pipe
        self.address = self._process.stdout.readline().strip()

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def __enter__(self) -> EchoServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait(30)


def _serve(folder: Path) -> None:
    clock = SystemClock()
    authority = Authority.load(folder / "authority", clock)
    exchange = ExchangeInfo(authority.exchange, "", "", "", "", "")
    identity = BrokerIdentity(authority, name="echo", exchange=exchange, clock=clock, ip_addresses=("127.0.0.1",))
    handler = grpc.unary_unary_rpc_method_handler(lambda request, _context: request)
    service, _, method = ECHO_METHOD.strip("/").partition("/")
    server = grpc.server(ThreadPoolExecutor(THREADS))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    port = server.add_secure_port("127.0.0.1:0", identity.mutual_credentials())
    server.start()
    print(f"127.0.0.1:{port}", flush=True)
    sys.stdin.read()
    server.stop(1).wait()


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))

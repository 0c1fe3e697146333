"""The slow line: nothing is lost, nothing is faster than the line."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.shim import Line, links


@contextmanager
def echo() -> Iterator[str]:
    """Serve on loopback: send back what came, for as many connections as come."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    def answer(connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(1 << 16):
                connection.sendall(data)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.getsockname()[1]}"
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def send(connection: socket.socket, data: bytes) -> None:
    connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)


def exchange(port: int, data: bytes) -> tuple[bytes, float]:
    """Send, end the sending half, and read to the end."""
    received = bytearray()
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        started = time.monotonic()
        sender = threading.Thread(target=send, args=(connection, data))
        sender.start()
        while chunk := connection.recv(1 << 16):
            received += chunk
        sender.join()
        return bytes(received), time.monotonic() - started


def test_what_comes_out_is_what_went_in_and_later() -> None:
    data = bytes(range(256)) * 4096  # 1 MiB: 84 ms at 100 Mbit/s
    with echo() as target, links(target, 2, delay_ms=20, mbit=100) as ports:
        assert len(set(ports)) == 2
        for port in ports:
            received, elapsed = exchange(port, data)
            assert received == data
            assert elapsed >= 0.020 + len(data) * 8 / 100e6


def test_a_line_without_limits_loses_nothing() -> None:
    data = b"x" * (8 << 20)
    with echo() as target, links(target, 1, delay_ms=0, mbit=0) as ports:
        assert exchange(ports[0], data)[0] == data


def test_a_target_that_is_not_there_ends_the_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = f"127.0.0.1:{taken.getsockname()[1]}"
    with links(nobody, 1, delay_ms=0, mbit=0) as ports:
        assert exchange(ports[0], b"")[0] == b""


def test_a_line_sends_in_order_at_its_rate() -> None:
    line = Line(0.010, 1_000_000)
    assert line.due(100_000, now=5.0) == 5.0 + 0.1 + 0.010
    assert abs(line.due(100_000, now=5.0) - 5.210) < 1e-9  # waits for the first
    assert abs(line.due(100_000, now=9.0) - 9.110) < 1e-9  # the line was idle
    assert Line(0.010, 0).due(1 << 30, now=5.0) == 5.010

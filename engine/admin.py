"""The admin port of a serving process: ``/metrics`` for Prometheus, ``/healthz`` and ``/readyz`` for whoever restarts it.

Plain HTTP, GET alone, one request a connection; everything about it is bounded, since it asks nobody who he is. It is off by
default and belongs on loopback or in a network of the operator's own. What it tells is counts: no row, SQL or person.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from tidegate.channel import split_address
from tidegate.core.errors import Code, error_for

REQUEST_BYTES_MAX = 8 << 10
CONNECTIONS_MAX = 8
CONNECTION_S_MAX = 5.0  # from the first byte to the last one of the answer, each way
BACKLOG = 16
_TEXT = "text/plain; charset=utf-8"


class AdminServer:
    """A listener and its thread.

    Args:
        address: ``host:port``; port 0 takes a free one.
        registry: what ``/metrics`` shows.
        ready: says whether the process takes work now.

    Raises:
        CallerError: CONFIG_INVALID, the address cannot be used.
    """

    def __init__(
        self,
        address: str,
        registry: CollectorRegistry,
        ready: Callable[[], bool],
        log: structlog.stdlib.BoundLogger | None = None,
    ) -> None:
        self._registry = registry
        self._ready = ready
        self._log: structlog.stdlib.BoundLogger = log or structlog.get_logger(__name__)
        self._page = threading.Lock()  # one page at a time: making one costs milliseconds of the process's time
        self._places = threading.BoundedSemaphore(CONNECTIONS_MAX)
        try:
            host, port = split_address(address) if not address.endswith(":0") else (address.rpartition(":")[0], 0)
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._socket = socket.create_server((host.strip("[]"), port), family=family, backlog=BACKLOG)
        except (OSError, ValueError, OverflowError) as error:
            raise error_for(
                Code.CONFIG_INVALID, "listen.admin: its address cannot be used", detail=str(error)
            ) from error
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, name="admin", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take no more; a connection that is open ends by itself within its seconds."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread, which closing alone does not
        self._socket.close()
        self._thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return  # closed
            if not self._places.acquire(blocking=False):
                connection.close()
                continue
            threading.Thread(target=self._serve, args=(connection,), name="admin-request", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                asked = _request(connection)
                status, kind, body = self._answer(asked)
                head = (
                    f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
                    "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
                )
                connection.settimeout(CONNECTION_S_MAX)
                connection.sendall(head.encode() + body)
        except OSError:
            pass  # the peer went, or was too slow
        except Exception as error:  # noqa: BLE001 - a page that cannot be made must not end in silence
            self._log.error("the admin page could not be made", error=type(error).__name__)
        finally:
            self._places.release()

    def _answer(self, asked: tuple[str, str]) -> tuple[str, str, bytes]:
        method, target = asked
        if not method:
            return "400 Bad Request", _TEXT, b"not a request\n"
        if method != "GET":
            return "405 Method Not Allowed", _TEXT, b"GET alone\n"
        match target.partition("?")[0]:
            case "/metrics":
                with self._page:
                    return "200 OK", CONTENT_TYPE_LATEST, generate_latest(self._registry)
            case "/healthz":
                return "200 OK", _TEXT, b"ok\n"
            case "/readyz":
                ready = self._ready()
                return ("200 OK", _TEXT, b"ready\n") if ready else ("503 Service Unavailable", _TEXT, b"not ready\n")
            case _:
                return "404 Not Found", _TEXT, b"/metrics, /healthz, /readyz\n"


def _request(connection: socket.socket) -> tuple[str, str]:
    """Read the head of a request within its bytes and seconds; gives method and target, empty for what is none."""
    until_s = time.monotonic() + CONNECTION_S_MAX
    data = b""
    while b"\r\n\r\n" not in data:
        left_s = until_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        connection.settimeout(left_s)
        more = connection.recv(4_096)
        data += more
        if not more or len(data) > REQUEST_BYTES_MAX:
            return "", ""
    words = data.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
    return (words[0], words[1]) if len(words) == 3 and words[2].startswith("HTTP/1.") else ("", "")

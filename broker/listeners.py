"""The listeners: callers, nodes, enrolment, bearer where it is wanted: each a server with threads and limits of its own.

They share nothing that one of them could fill: when callers take every thread of theirs, attachment, renewal and
joining still answer (design doors.md). Within a listener the guard keeps threads free of long calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc

from tidegate.core.errors import Code, error_for
from tidegate.core.limits import CONTROL_MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX, METADATA_BYTES_MAX

CALLERS_THREADS = 64
CALLERS_LONG_MAX = 48  # leaves 16 threads for look-ups, health and renewal by callers, whatever the queries do
CALLERS_PER_CALLER_MAX = 24
ATTACHMENTS_MAX = 1_000
NODES_SPARE_THREADS = 160  # answers and renewals beside the attachments
NODES_SILENT_MAX = 120  # all of a city's nodes may attach at one moment, after a broker's start
NODES_PER_CALLER_MAX = 48  # two attachments during a change of certificate, the rest answers; below the spare threads
BEARER_THREADS = 48
BEARER_LONG_MAX = 32
ENROLMENT_THREADS = 32  # of which strangers who say nothing keep at most 24 (broker.wire.doorstep)

STREAMS_PER_CONNECTION_MAX = 128  # an HTTP/2 connection may not open more at once (rapid reset)
CONNECTION_AGE_MS_MAX = 3_600_000  # callers only: a node's attachment is meant to last
CONNECTION_GRACE_MS = 600_000  # the longest query's deadline
CONNECTION_IDLE_MS_MAX = 600_000
PING_INTERVAL_MS_MIN = 10_000  # clients ping each 30 s (tidegate.channel)
KEEPALIVE_MS = 30_000
KEEPALIVE_TIMEOUT_MS = 10_000


@dataclass(frozen=True, slots=True)
class ListenerSpec:
    """One listener.

    Args:
        address: ``host:port``; port 0 takes a free one.
        threads: of its pool; also the most calls at once, so that none waits in a queue that nobody sees.
        ages: connections end after ``CONNECTION_AGE_MS_MAX``, so that certificates are looked at again.
    """

    name: str
    address: str
    credentials: grpc.ServerCredentials
    threads: int
    message_bytes_max: int
    interceptors: tuple[Any, ...] = ()
    ages: bool = False


def callers_listener(
    address: str, credentials: grpc.ServerCredentials, guard: Any, *, threads: int = CALLERS_THREADS
) -> ListenerSpec:
    """Describe the listener of callers: our own services, Flight SQL, health."""
    return ListenerSpec("callers", address, credentials, threads, CONTROL_MESSAGE_BYTES_MAX, (guard,), ages=True)


def bearer_listener(
    address: str, credentials: grpc.ServerCredentials, guard: Any, *, threads: int = BEARER_THREADS
) -> ListenerSpec:
    """Describe the listener of callers that show a token: Flight SQL and health."""
    return ListenerSpec("bearer", address, credentials, threads, CONTROL_MESSAGE_BYTES_MAX, (guard,), ages=True)


def nodes_listener(
    address: str, credentials: grpc.ServerCredentials, guard: Any, *, attachments_max: int = ATTACHMENTS_MAX
) -> ListenerSpec:
    """Describe the listener of nodes: attachments, answers, renewal."""
    threads = attachments_max + NODES_SPARE_THREADS
    return ListenerSpec("nodes", address, credentials, threads, MESSAGE_BYTES_MAX, (guard,))


def enrolment_listener(address: str, credentials: grpc.ServerCredentials, guard: Any) -> ListenerSpec:
    """Describe the listener of enrolment: joining, and renewal of what has expired."""
    return ListenerSpec(
        "enrolment", address, credentials, ENROLMENT_THREADS, CONTROL_MESSAGE_BYTES_MAX, (guard,), ages=True
    )


class _Named:
    """A server that is being given its services; remembers their names. It has the two methods that giving needs."""

    def __init__(self, server: grpc.Server) -> None:
        self._server = server
        self.names: list[str] = []

    def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
        """Pass services on."""
        self.names += [handler.service_name() for handler in handlers if isinstance(handler, grpc.ServiceRpcHandler)]
        self._server.add_generic_rpc_handlers(tuple(handlers))

    def add_registered_method_handlers(self, service_name: str, method_handlers: Any) -> None:
        """Pass a service's methods on."""
        self._server.add_registered_method_handlers(service_name, method_handlers)  # type: ignore[attr-defined]


class Listener:
    """A running listener."""

    def __init__(
        self,
        spec: ListenerSpec,
        register: Sequence[Callable[[Any], object]],
        last: Callable[[Sequence[str], grpc.Server], None] | None = None,
    ) -> None:
        """Start it with its services.

        Args:
            last: is given the names of the services, and adds what speaks of them: health, reflection.

        Raises:
            CallerError: CONFIG_INVALID, the address cannot be used.
        """
        self.name = spec.name
        self._pool = ThreadPoolExecutor(max_workers=spec.threads, thread_name_prefix=spec.name)
        self._server = grpc.server(
            self._pool,
            interceptors=list(spec.interceptors),
            options=_options(spec),
            maximum_concurrent_rpcs=spec.threads,
        )
        named = _Named(self._server)
        for service in register:
            service(named)
        if last is not None:
            last(tuple(dict.fromkeys(named.names)), self._server)
        try:
            self.port = self._server.add_secure_port(spec.address, spec.credentials)
        except RuntimeError as error:
            self._pool.shutdown(wait=False)
            raise error_for(
                Code.CONFIG_INVALID, f"listener {spec.name}: its address cannot be used", detail=str(error)
            ) from error
        self.address = f"{spec.address.rpartition(':')[0]}:{self.port}"
        self._server.start()

    def stop(self, grace_s: float) -> None:
        """Take no new call, give the open ones ``grace_s``, then end them; returns when all have ended."""
        self._server.stop(grace_s).wait()
        self._pool.shutdown(wait=True)


def _options(spec: ListenerSpec) -> list[tuple[str, int]]:
    options = [
        ("grpc.max_receive_message_length", spec.message_bytes_max),
        ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
        # Both: between the soft and the hard limit gRPC refuses at random.
        ("grpc.max_metadata_size", METADATA_BYTES_MAX),
        ("grpc.absolute_max_metadata_size", METADATA_BYTES_MAX),
        ("grpc.max_concurrent_streams", STREAMS_PER_CONNECTION_MAX),
        ("grpc.so_reuseport", 0),  # two brokers on one port by mistake must be an error
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", PING_INTERVAL_MS_MIN),
        ("grpc.http2.max_ping_strikes", 2),
    ]
    if spec.ages:
        options += [
            ("grpc.max_connection_age_ms", CONNECTION_AGE_MS_MAX),
            ("grpc.max_connection_age_grace_ms", CONNECTION_GRACE_MS),
            ("grpc.max_connection_idle_ms", CONNECTION_IDLE_MS_MAX),
        ]
    return options

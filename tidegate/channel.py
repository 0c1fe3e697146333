"""The one way to open a channel to a broker: mutual TLS, limits, keepalive, and the own certificate checked first.

A refused handshake carries no status, only "Socket closed"; so the client says itself what is wrong with its
certificate before it dials (design doors.md, Identity). Only a broker's certificate carries DNS and IP SANs, so the
hostname check that gRPC makes is also the check that the server is a broker.
"""

from __future__ import annotations

import ipaddress

import grpc

from tidegate.core.clock import Clock, SystemClock
from tidegate.core.limits import CONTROL_MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX, METADATA_BYTES_MAX
from tidegate.identity.folder import LocalIdentity

KEEPALIVE_MS = 30_000  # finds a dead path in under a minute; the server permits one ping each 10 s (broker.listeners)
KEEPALIVE_TIMEOUT_MS = 10_000
RECONNECT_MS_MAX = 10_000

Options = list[tuple[str, int]]


def channel_options(address: str, *, message_bytes_max: int = MESSAGE_BYTES_MAX) -> Options:
    """Give the options of every channel that a party opens."""
    options: Options = [
        ("grpc.max_receive_message_length", message_bytes_max),
        ("grpc.max_send_message_length", message_bytes_max),
        ("grpc.max_metadata_size", METADATA_BYTES_MAX),
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.max_reconnect_backoff_ms", RECONNECT_MS_MAX),
        # Channels of one process must not share a connection: after a renewal the new certificate has to be shown.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if _is_loopback(address):
        options.append(("grpc.enable_http_proxy", 0))  # a proxy of the environment cannot reach this machine's loopback
    return options


def open_channel(
    address: str,
    identity: LocalIdentity,
    *,
    clock: Clock | None = None,
    message_bytes_max: int = MESSAGE_BYTES_MAX,
) -> grpc.Channel:
    """Open a channel to a broker's listener of callers or nodes.

    The channel shows the certificate that it was opened with for as long as it lives: open a new one after a renewal.

    Args:
        address: ``host:port``; the host must be a SAN of the broker's certificate.
        identity: the own one.

    Raises:
        CallerError: ID_CERTIFICATE_EXPIRED or ID_CERTIFICATE_INVALID, the own certificate would be refused.
    """
    identity.check((clock or SystemClock()).now())
    credentials = grpc.ssl_channel_credentials(
        root_certificates=identity.root_pem, private_key=identity.key_pem, certificate_chain=identity.presented_pem
    )
    return grpc.secure_channel(
        address, credentials, options=channel_options(address, message_bytes_max=message_bytes_max)
    )


def open_enrolment_channel(address: str, root_pem: bytes) -> grpc.Channel:
    """Open a channel to the enrolment listener: the server proves itself under the root, the client does not (yet)."""
    credentials = grpc.ssl_channel_credentials(root_certificates=root_pem)
    options = channel_options(address, message_bytes_max=CONTROL_MESSAGE_BYTES_MAX)
    return grpc.secure_channel(address, credentials, options=options)


def split_address(address: str) -> tuple[str, int]:
    """Read ``host:port`` (an IPv6 host in brackets); ValueError when it is not of that form."""
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65_536:
        raise ValueError("address: expected host:port")
    return host, int(port)


def _is_loopback(address: str) -> bool:
    try:
        host, _ = split_address(address)
    except ValueError:
        return False
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

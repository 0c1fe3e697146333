"""The proxy as a process: a listener on loopback, the identity behind it, and one thread that keeps house."""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from tidegate.client.proxy.forward import Defaults, Forward
from tidegate.client.proxy.secret import Secret
from tidegate.client.proxy.upstream import Upstream
from tidegate.core.clock import Clock, SystemClock
from tidegate.core.errors import Code, error_for
from tidegate.core.limits import CONTROL_MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX, METADATA_BYTES_MAX
from tidegate.identity import keys
from tidegate.identity.folder import IdentityFolder

STREAMS_MAX = 64  # calls at once; the broker allows one identity fewer
STREAMS_PER_CONNECTION_MAX = 64
CONNECTION_IDLE_MS_MAX = 600_000
TICK_S = 1.0
REFUSED_TOLD_S = 60.0
STOP_GRACE_S = 5.0
CERTIFICATE_DAYS = 365  # of the loopback's own certificate; its key is made at each start and never leaves the process


@dataclass(frozen=True, slots=True)
class Settings:
    """What ``tidegate proxy`` was told.

    Args:
        listen: ``host:port`` of the loopback; port 0 takes a free one.
        certificate: where to write the certificate that clients are to trust; None serves without TLS.
    """

    listen: str
    folder: Path
    secret: Secret
    defaults: Defaults
    certificate: Path | None = None


def loopback(listen: str) -> tuple[str, int]:
    """Read an address of the loopback: other machines must never reach what acts under this identity.

    Raises:
        CallerError: CLIENT_INPUT.
    """
    host, colon, port = listen.rpartition(":")
    host = "127.0.0.1" if host == "localhost" else host.removeprefix("[").removesuffix("]")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65_535 or address is None:
        raise error_for(Code.CLIENT_INPUT, "listen: expected an address of the loopback, such as 127.0.0.1:7446")
    if not address.is_loopback:
        raise error_for(
            Code.CLIENT_INPUT,
            "listen: the proxy listens on the loopback alone (127.0.0.1 or [::1]); other machines run their own",
        )
    return str(address), int(port)


class Proxy:
    """A running proxy; ``stop`` ends it.

    Args:
        say: told, in a line for a person, what the proxy cannot mend by itself.
    """

    def __init__(self, settings: Settings, say: Callable[[str], None], *, clock: Clock | None = None) -> None:
        """Open the channel and listen.

        Raises:
            CallerError: CLIENT_INPUT, the address is none of the loopback or is taken; what ``Upstream`` raises.
        """
        clock = clock or SystemClock()
        host, port = loopback(settings.listen)
        self._say = say
        self._upstream = Upstream(IdentityFolder(settings.folder), clock)
        self.identity = self._upstream.identity
        self._forward = Forward(
            upstream=self._upstream, secret=settings.secret, defaults=settings.defaults, clock=clock
        )
        self._server = grpc.server(
            ThreadPoolExecutor(max_workers=STREAMS_MAX, thread_name_prefix="proxy"),
            handlers=[self._forward],
            options=_options(),
            maximum_concurrent_rpcs=STREAMS_MAX,
        )
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            bound = self._bind(address, settings.certificate, clock)
        except RuntimeError as error:
            self._upstream.close()
            raise error_for(Code.CLIENT_INPUT, f"listen: {address} cannot be used", detail=str(error)) from error
        self.address = f"{address.rpartition(':')[0]}:{bound}"
        self.uri = f"{'grpc' if settings.certificate is None else 'grpc+tls'}://{self.address}"
        self._stopping = threading.Event()
        self._server.start()
        self._house = threading.Thread(target=self._keep_house, name="proxy-house", daemon=True)
        self._house.start()

    def stop(self) -> None:
        """Take no new call, give the open ones ``STOP_GRACE_S``, then end them."""
        self._stopping.set()
        self._server.stop(STOP_GRACE_S).wait()
        self._house.join()
        self._upstream.close()

    def _bind(self, address: str, certificate: Path | None, clock: Clock) -> int:
        if certificate is None:
            return self._server.add_insecure_port(address)
        key = keys.new_key()
        pem = _own_certificate(key, clock)
        certificate.write_bytes(pem)
        credentials = grpc.ssl_server_credentials([(keys.key_to_pem(key), pem)])
        return self._server.add_secure_port(address, credentials)

    def _keep_house(self) -> None:
        """End what is overdue, renew in time, and say what a person should know."""
        told_s, told = 0.0, 0
        waited_s = 0.0
        while not self._stopping.wait(TICK_S):
            waited_s += TICK_S
            self._forward.end_overdue()
            problem = self._upstream.look()
            if problem is not None:
                self._say(f"the certificate could not be renewed: {problem}")
            if self._forward.refused > told and waited_s - told_s >= REFUSED_TOLD_S:
                self._say(f"{self._forward.refused - told} calls came without the secret, or with a wrong one")
                told_s, told = waited_s, self._forward.refused


def _options() -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", CONTROL_MESSAGE_BYTES_MAX),
        ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
        ("grpc.max_metadata_size", METADATA_BYTES_MAX),
        ("grpc.absolute_max_metadata_size", METADATA_BYTES_MAX),
        ("grpc.max_concurrent_streams", STREAMS_PER_CONNECTION_MAX),
        ("grpc.max_connection_idle_ms", CONNECTION_IDLE_MS_MAX),
        ("grpc.so_reuseport", 0),  # another program must not be able to share the port and be given the secret
    ]


def _own_certificate(key: keys.PrivateKey, clock: Clock) -> bytes:
    """Make the certificate of the loopback: nobody's CA signs it, clients are told to trust this very one."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tidegate proxy")])
    start = clock.now().replace(microsecond=0) - timedelta(minutes=5)
    names: list[x509.GeneralName] = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.IPAddress(ipaddress.ip_address("::1")),
    ]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=CERTIFICATE_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)

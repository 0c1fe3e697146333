"""A small exchange for tests of identity: real CA, directory in SQLite, listeners; and a forge for bad certificates."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from broker.authority import Authority, BrokerIdentity
from broker.enrolment import Enrolment
from broker.identify import Identify
from broker.listeners import Listener, callers_listener, enrolment_listener, nodes_listener
from broker.open_calls import OpenCalls
from broker.wire.guard import CallLimits, Guard, Porch, RefusedIdentity
from broker.wire.member import EnrolmentServicer, MemberServicer
from catalogue.database import open_database
from catalogue.members import MemberDirectory
from tidegate.core.clock import Clock, SystemClock, SystemIds
from tidegate.core.names import IdentityKind, SpiffeId
from tidegate.identity import keys
from tidegate.identity.certificates import load_certificate, make_csr
from tidegate.identity.folder import ExchangeInfo, LocalIdentity
from tidegate.v1 import member_service_pb2_grpc

EXCHANGE = "city.example"
START = datetime(2026, 5, 4, 12, 0, 0, tzinfo=UTC)


class ManualClock:
    """A clock that stands still until it is moved."""

    def __init__(self, start: datetime = START) -> None:
        self.moment = start
        self.elapsed_s = 1000.0

    def now(self) -> datetime:
        return self.moment

    def monotonic_s(self) -> float:
        return self.elapsed_s

    def move(self, **by: float) -> None:
        step = timedelta(**by)
        self.moment += step
        self.elapsed_s += step.total_seconds()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class SmallExchange:
    """Everything but the listeners. ``entries`` is the log: what was recorded, in order."""

    folder: Path
    clock: Clock
    callers: str = "127.0.0.1:1"
    nodes: str = "127.0.0.1:2"
    enrolment_address: str = "127.0.0.1:3"
    entries: list[Mapping[str, Any]] = field(default_factory=list)
    refused: list[RefusedIdentity] = field(default_factory=list)
    logged: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ids = SystemIds()
        self.info = ExchangeInfo(EXCHANGE, self.callers, self.nodes, self.enrolment_address, "log.example", "key")
        made = ManualClock(
            self.clock.now() - timedelta(days=40)
        )  # so that leafs of the past have an issuer of their time
        Authority.create(self.folder / "ca", EXCHANGE, made)
        self.authority = Authority.load(self.folder / "ca", self.clock)
        self.members = MemberDirectory(open_database(f"sqlite:///{self.folder / 'members.db'}"), self.clock)
        self.identify = Identify(exchange=EXCHANGE, directory=self.members, clock=self.clock)
        self.open_calls = OpenCalls(identify=self.identify, directory=self.members, clock=self.clock)
        self.enrolment = Enrolment(
            authority=self.authority,
            members=self.members,
            clock=self.clock,
            ids=self.ids,
            record=self.record,
            exchange=self.info,
        )

    def log(self) -> Any:
        """Give a logger that keeps its lines in ``logged``, whatever the process has configured."""

        def keep(logger: Any, method: str, event: Any) -> Any:
            self.logged.append(repr(event))
            raise structlog.DropEvent

        return structlog.wrap_logger(None, processors=[structlog.processors.format_exc_info, keep])

    def record(self, entry: Mapping[str, Any]) -> None:
        self.entries.append(entry)

    def guard(self, *kinds: IdentityKind, limits: CallLimits | None = None) -> Guard:
        return Guard(
            identify=self.identify,
            open_calls=self.open_calls,
            clock=self.clock,
            ids=self.ids,
            kinds=frozenset(kinds),
            limits=limits,
            refused=self.refused.append,
            log=self.log(),
        )

    def member(
        self,
        kind: IdentityKind = IdentityKind.SERVICE,
        member: str = "health",
        name: str = "desk",
        roles: Sequence[str] = (),
        clearance: str = "internal",
        lifetime: timedelta = timedelta(hours=24),
    ) -> LocalIdentity:
        """Give an identity that has joined, without the wire between."""
        if self.members.member(member) is None:
            self.members.add_member(member, member.title(), "government")
        spiffe = SpiffeId(EXCHANGE, kind, member, name)
        self.members.set_identity(str(spiffe), roles, clearance)
        key = keys.new_key()
        issued = self.authority.issue(make_csr(key), spiffe, lifetime=lifetime)
        shown = issued.facts
        self.members.record_certificate(shown.serial_hex, str(spiffe), shown.fingerprint, shown.not_after)
        return LocalIdentity(key, issued.certificate_pem, issued.chain_pem, self.authority.root_pem, self.info)

    def forge(self, uris: Sequence[str], **choices: Any) -> LocalIdentity:
        """Give an identity of any shape under the true issuing CA: what a faulty or robbed CA could issue."""
        key = choices.pop("key", None) or keys.new_key()
        pem = forged_leaf(self.authority, key, uris, now=self.clock.now(), **choices)
        return LocalIdentity(key, pem, self.authority.issuing_pem, self.authority.root_pem, self.info)


def forged_leaf(
    authority: Authority,
    key: Any,
    uris: Sequence[str],
    *,
    now: datetime,
    dns: Sequence[str] = (),
    others: Sequence[x509.GeneralName] = (),
    ca: bool = False,
    sign_usage: bool = False,
    digital_signature: bool = True,
    usage_critical: bool = True,
    extended: Sequence[x509.ObjectIdentifier] = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH),
    leave_out: Sequence[str] = (),
    algorithm: Any = None,
    start: timedelta = timedelta(minutes=-5),
    end: timedelta = timedelta(hours=24),
) -> bytes:
    issuer_key = authority._key
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
    names += [x509.DNSName(name) for name in dns] + list(others)
    usage = x509.KeyUsage(digital_signature, False, False, False, False, sign_usage, sign_usage, False, False)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(load_certificate(authority.issuing_pem).subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now.replace(microsecond=0) + start)
        .not_valid_after(now.replace(microsecond=0) + end)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    extensions: dict[str, tuple[x509.ExtensionType, bool]] = {
        "san": (x509.SubjectAlternativeName(names), True),
        "constraints": (x509.BasicConstraints(ca, None), True),
        "usage": (usage, usage_critical),
        "extended": (x509.ExtendedKeyUsage(list(extended)), False),
    }
    for name, (extension, critical) in extensions.items():
        if name not in leave_out and not (name == "san" and not names):
            builder = builder.add_extension(extension, critical=critical)
    signed = builder.sign(issuer_key, algorithm or hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM)


@dataclass(frozen=True)
class RunningExchange:
    """A small exchange with its three listeners on loopback."""

    exchange: SmallExchange
    broker: BrokerIdentity
    callers_guard: Guard
    nodes_guard: Guard
    callers: Listener
    nodes: Listener
    enrolment: Listener


Register = Callable[[grpc.Server, Guard], object]


@contextmanager
def running_exchange(
    folder: Path,
    *,
    clock: Clock | None = None,
    callers: Sequence[Register] = (),
    nodes: Sequence[Register] = (),
    limits: CallLimits | None = None,
    callers_threads: int = 16,
    broker_lifetime: timedelta = timedelta(hours=24),
) -> Iterator[RunningExchange]:
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(3)]
    exchange = SmallExchange(folder, clock or SystemClock(), *addresses)
    broker = BrokerIdentity(
        exchange.authority,
        name="main",
        exchange=exchange.info,
        clock=exchange.clock,
        ip_addresses=("127.0.0.1",),
        dns_names=("localhost",),
        lifetime=broker_lifetime,
    )
    guard = exchange.guard(IdentityKind.SERVICE, IdentityKind.PERSON, limits=limits)
    nodes_guard = exchange.guard(IdentityKind.NODE)
    member_service = MemberServicer(
        guard=guard,
        enrolment=exchange.enrolment,
        members=exchange.members,
        record=exchange.record,
        attached=lambda name: name == "attached",
    )
    enrolment_service = EnrolmentServicer(enrolment=exchange.enrolment)
    add_members = member_service_pb2_grpc.add_MemberServiceServicer_to_server
    add_enrolment = member_service_pb2_grpc.add_EnrolmentServiceServicer_to_server
    running = RunningExchange(
        exchange,
        broker,
        guard,
        nodes_guard,
        Listener(
            callers_listener(addresses[0], broker.mutual_credentials(), guard, threads=callers_threads),
            [lambda server: add_members(member_service, server), *(_bound(item, guard) for item in callers)],
        ),
        Listener(
            nodes_listener(addresses[1], broker.mutual_credentials(), nodes_guard, attachments_max=100),
            [_bound(item, nodes_guard) for item in nodes],
        ),
        Listener(
            enrolment_listener(
                addresses[2], broker.enrolment_credentials(), Porch(ids=exchange.ids, log=exchange.log())
            ),
            [lambda server: add_enrolment(enrolment_service, server)],
        ),
    )
    try:
        yield running
    finally:
        for listener in (running.callers, running.nodes, running.enrolment):
            listener.stop(0)
        exchange.open_calls.close()


def _bound(register: Register, guard: Guard) -> Callable[[grpc.Server], object]:
    return lambda server: register(server, guard)

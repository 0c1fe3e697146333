"""The exchange's certificate authority: an offline root, an issuing CA that the broker holds, leaf certificates of a
day.

The root's key lies in ``offline/`` and is needed only to make a new issuing CA; the operator moves that folder away
from the broker. The profile of every leaf is that of ``tidegate.identity.certificates``, which reads each one back
before it is handed out. Source: design doors.md, Identity; RFC 5280; SPIFFE X509-SVID.
"""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tidegate.core.clock import Clock
from tidegate.core.errors import Code, error_for
from tidegate.core.limits import LEAF_CERTIFICATE_HOURS
from tidegate.core.names import IdentityKind, SpiffeId
from tidegate.identity import keys
from tidegate.identity.certificates import (
    CertificateFacts,
    csr_public_key,
    facts,
    load_certificate,
    make_csr,
    root_exchange,
    split_pem,
)
from tidegate.identity.folder import ExchangeInfo, LocalIdentity

ROOT_DAYS = 3650
ISSUING_DAYS = 730
LEAF_LIFETIME = timedelta(hours=LEAF_CERTIFICATE_HOURS)
BACKDATE = timedelta(minutes=5)  # a department's clock may be behind the broker's
ISSUERS_KEPT = 2  # a certificate of the last issuing CA may still ask for its renewal

_KEY_NAME = "issuing-key.pem"


@dataclass(frozen=True, slots=True)
class Issued:
    """A new leaf certificate: itself, the issuing CA's, and what it says."""

    certificate_pem: bytes
    chain_pem: bytes
    facts: CertificateFacts

    @property
    def pem(self) -> bytes:
        """The leaf alone; another word for ``certificate_pem``."""
        return self.certificate_pem


class Authority:
    """Issues leaf certificates under the issuing CA. Thread-safe: it holds no state that changes.

    Trust: whoever reads the folder ``keys`` can make any identity of the exchange until the root retires the issuing
    CA.
    """

    def __init__(self, *, root_pem: bytes, issuing_pem: bytes, issuing_key: keys.PrivateKey, clock: Clock) -> None:
        self.root_pem = root_pem
        self.issuers_pem = issuing_pem
        self.issuing_pem = split_pem(issuing_pem)[0]
        self.exchange = root_exchange(root_pem)
        self._issuing = load_certificate(self.issuing_pem)
        self._key = issuing_key
        self._clock = clock

    @property
    def root_fingerprint(self) -> str:
        """Lower-case hex SHA-256 of the root's DER form: what a join token carries."""
        return load_certificate(self.root_pem).fingerprint(hashes.SHA256()).hex()

    @classmethod
    def create(cls, folder: Path, exchange: str, clock: Clock, *, root_passphrase: bytes | None = None) -> Authority:
        """Make root and issuing CA in a new folder.

        Raises:
            CallerError: CONFIG_INVALID when the folder already holds an authority; none is ever overwritten.
        """
        if (folder / "root.pem").exists() or (folder / "keys" / _KEY_NAME).exists():
            raise error_for(Code.CONFIG_INVALID, "authority: the folder already holds one", detail=str(folder))
        SpiffeId(exchange, IdentityKind.BROKER, "", "probe")  # holds the exchange's name to its form
        root_key, now = keys.new_key(), clock.now()
        root = _ca(f"{exchange} root", exchange, root_key, None, now, ROOT_DAYS, path_length=1)
        keys.save_key(folder / "offline" / "root-key.pem", root_key, root_passphrase)
        _renew_issuing(folder, root, root_key, now)
        # root.pem comes last: a crash before it leaves a folder that `load` refuses, not half an authority.
        keys.write_private(folder / "root.pem", _pem(root))
        return cls.load(folder, clock)

    @classmethod
    def load(cls, folder: Path, clock: Clock) -> Authority:
        """Open an authority; the root's key is not needed.

        Raises:
            CallerError: CONFIG_INVALID, something is missing, damaged, does not fit together or has expired.
        """
        try:
            root_pem, issuing_pem = (folder / "root.pem").read_bytes(), (folder / "issuing.pem").read_bytes()
        except OSError as error:
            raise error_for(
                Code.CONFIG_INVALID, "authority: it cannot be read; make one with `tidegate init`", detail=str(error)
            ) from error
        authority = cls(
            root_pem=root_pem,
            issuing_pem=issuing_pem,
            issuing_key=keys.load_key(folder / "keys" / _KEY_NAME),
            clock=clock,
        )
        authority._check()
        return authority

    @classmethod
    def renew_issuing(cls, folder: Path, clock: Clock, *, root_passphrase: bytes | None = None) -> Authority:
        """Make a new issuing CA with the root's key (brought back to ``offline/``); leafs of the old one stay valid."""
        root = load_certificate((folder / "root.pem").read_bytes())
        _renew_issuing(folder, root, keys.load_key(folder / "offline" / "root-key.pem", root_passphrase), clock.now())
        return cls.load(folder, clock)

    def _check(self) -> None:
        key, issuing, root = self._key.public_key(), self._issuing, load_certificate(self.root_pem)
        if issuing.public_key() != key:
            raise error_for(Code.CONFIG_INVALID, "authority: the issuing key is not that of the issuing certificate")
        try:
            issuing.verify_directly_issued_by(root)
        except Exception as error:
            raise error_for(Code.CONFIG_INVALID, "authority: the issuing CA is not one of the root") from error
        if self._clock.now() >= issuing.not_valid_after_utc:
            raise error_for(Code.CONFIG_INVALID, "authority: the issuing CA has expired; make a new one with the root")

    def issue(
        self,
        csr_pem: bytes,
        identity: SpiffeId,
        *,
        dns_names: Sequence[str] = (),
        ip_addresses: Sequence[str] = (),
        lifetime: timedelta = LEAF_LIFETIME,
    ) -> Issued:
        """Certify the key of a signing request under an identity that the broker chose; nothing else of it counts.

        Raises:
            CallerError: WIRE_INVALID (the request), ID_CERTIFICATE_INVALID (a name that is not of this exchange).
        """
        if identity.exchange != self.exchange:
            raise error_for(Code.ID_CERTIFICATE_INVALID, "issue: the identity is of another exchange")
        if (dns_names or ip_addresses) and identity.kind is not IdentityKind.BROKER:
            raise error_for(Code.ID_CERTIFICATE_INVALID, "issue: only a broker's certificate carries host names")
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(identity))]
        names += [x509.DNSName(name) for name in dns_names]
        names += [x509.IPAddress(ipaddress.ip_address(address)) for address in ip_addresses]
        now = self._clock.now().replace(microsecond=0)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self._issuing.subject)
            .public_key(csr_public_key(csr_pem))
            .serial_number(x509.random_serial_number())
            .not_valid_before(max(now - BACKDATE, self._issuing.not_valid_before_utc))
            .not_valid_after(min(now + lifetime, self._issuing.not_valid_after_utc))
            # RFC 5280 4.2.1.6: with an empty subject the SAN must be critical.
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(ca=False), critical=True)
            .add_extension(_EXTENDED, critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        certificate_pem = _pem(builder.sign(self._key, hashes.SHA256()))
        return Issued(certificate_pem, self.issuing_pem, facts(certificate_pem))


_EXTENDED = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH])


class BrokerIdentity:
    """The broker's own certificate with its host names: renewed by itself, shown at each handshake, signs the grants.

    Thread-safe. The lock is held while a certificate is issued (under a millisecond), so nobody sees key and
    certificate of two different renewals.
    """

    def __init__(
        self,
        authority: Authority,
        *,
        name: str,
        exchange: ExchangeInfo,
        clock: Clock,
        dns_names: Sequence[str] = (),
        ip_addresses: Sequence[str] = (),
        lifetime: timedelta = LEAF_LIFETIME,
    ) -> None:
        self.spiffe = SpiffeId(authority.exchange, IdentityKind.BROKER, "", name)
        self.handshakes = 0
        self.swaps = 0  # of credentials, under handshakes to come
        self._authority = authority
        self._exchange = exchange
        self._clock = clock
        self._dns_names = tuple(dns_names)
        self._ip_addresses = tuple(ip_addresses)
        self._lifetime = lifetime
        self._lock = threading.Lock()
        self._current = self._issue()

    def current(self) -> LocalIdentity:
        """Give the identity, with a new key and certificate once half of the old one's life has passed."""
        with self._lock:
            if self._current.facts.renewal_due(self._clock.now()):
                self._current = self._issue()
            return self._current

    def sign(self, data: bytes) -> tuple[bytes, bytes]:
        """Sign as the broker; give signature and chain (leaf first)."""
        current = self.current()
        return keys.sign(current.key, data), current.presented_pem

    def mutual_credentials(self) -> grpc.ServerCredentials:
        """Server credentials for one listener that demand a client certificate under the root; renewed without a restart."""
        return self._credentials(mutual=True)

    def enrolment_credentials(self) -> grpc.ServerCredentials:
        """Server credentials for one listener, without client certificates; the root is shown, whose digest a joiner knows."""
        return self._credentials(mutual=False)

    def _credentials(self, *, mutual: bool) -> grpc.ServerCredentials:
        given = self.current()

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            # gRPC asks at every handshake, from threads of its own, and swaps in whatever it is given. It frees the old
            # one under handshakes that still use it (seen with grpcio 1.85: a crash when a hundred nodes dial at once), so
            # it is given a new one only when there is one.
            nonlocal given
            current = self.current()
            with self._lock:
                self.handshakes += 1
                if current is given:
                    return None
                given = current
                self.swaps += 1
            return _configuration(current, mutual=mutual)

        first = _configuration(given, mutual=mutual)
        return grpc.dynamic_ssl_server_credentials(first, fetch, mutual)  # type: ignore[arg-type]  # None: as it was

    def _issue(self) -> LocalIdentity:
        key = keys.new_key()
        issued = self._authority.issue(
            make_csr(key),
            self.spiffe,
            dns_names=self._dns_names,
            ip_addresses=self._ip_addresses,
            lifetime=self._lifetime,
        )
        return LocalIdentity(key, issued.certificate_pem, issued.chain_pem, self._authority.root_pem, self._exchange)


def _renew_issuing(folder: Path, root: x509.Certificate, root_key: keys.PrivateKey, now: datetime) -> None:
    exchange = root_exchange(_pem(root))
    key = keys.new_key()
    issuing = _ca(f"{exchange} issuing", exchange, key, (root, root_key), now, ISSUING_DAYS, path_length=0)
    try:
        previous = split_pem((folder / "issuing.pem").read_bytes())
    except FileNotFoundError:
        previous = ()
    # A crash between the two writes leaves a key that is not the certificate's: `load` says so, and running this again
    # mends it.
    keys.save_key(folder / "keys" / _KEY_NAME, key)
    keys.write_private(folder / "issuing.pem", _pem(issuing) + b"".join(previous[: ISSUERS_KEPT - 1]))


def _ca(
    title: str,
    exchange: str,
    key: keys.PrivateKey,
    parent: tuple[x509.Certificate, keys.PrivateKey] | None,
    now: datetime,
    days: int,
    *,
    path_length: int,
) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, title)])
    issuer, signer = (parent[0].subject, parent[1]) if parent else (name, key)
    start = now.replace(microsecond=0) - BACKDATE
    end = start + timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(min(end, parent[0].not_valid_after_utc) if parent else end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_usage(ca=True), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{exchange}")]), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _configuration(identity: LocalIdentity, *, mutual: bool) -> grpc.ServerCertificateConfiguration:
    if mutual:
        return grpc.ssl_server_certificate_configuration(
            [(identity.key_pem, identity.presented_pem)], root_certificates=identity.root_pem
        )
    shown = identity.presented_pem + identity.root_pem
    return grpc.ssl_server_certificate_configuration([(identity.key_pem, shown)])

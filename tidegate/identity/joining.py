"""Joining and renewal, the member's side: the token, the CA's fingerprint, the key made here, the certificate checked
here.

A join token names the enrolment address and the SHA-256 of the exchange's root certificate, and holds a secret that
works once. The first handshake only fetches the root; it is believed when its fingerprint is the token's. The second
one is verified under that root before the token leaves this machine.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import grpc

from tidegate.channel import open_channel, open_enrolment_channel, split_address
from tidegate.core.canonical import canonical, parse_json, sha256_hex
from tidegate.core.clock import Clock, SystemClock, timestamp
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.names import IdentityKind
from tidegate.identity import keys, wire
from tidegate.identity.certificates import CHAIN_LENGTH_MAX, make_csr, root_exchange, split_pem
from tidegate.identity.folder import ExchangeInfo, IdentityFolder, LocalIdentity

TOKEN_PREFIX = "tgjoin1_"  # noqa: S105 - a format's name, not a secret
TOKEN_CHARS_MAX = 1_000
SECRET_BYTES = 32
FETCH_DEADLINE_S = 10.0
_CHECK_BYTES = 4

RenewalCall = Callable[[bytes], tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class JoinToken:
    """What a join token says. ``text`` is the whole of it: the broker keeps only its SHA-256."""

    address: str
    root_fingerprint: str
    text: str

    @classmethod
    def make(cls, address: str, root_fingerprint: str, secret: bytes) -> JoinToken:
        """Make a token: canonical JSON and a checksum, in URL-safe base64, so that a cut or mistyped one is noticed."""
        body = canonical({"address": address, "root": root_fingerprint, "secret": secret.hex()})
        return cls.parse(TOKEN_PREFIX + _encoded(body + _check(body)))

    @classmethod
    def parse(cls, text: str) -> JoinToken:
        """Read a token as a person pasted it; white space within is taken out.

        Raises:
            CallerError: ID_JOIN_TOKEN.
        """
        text = "".join(text.split())
        if not text.startswith(TOKEN_PREFIX) or len(text) > TOKEN_CHARS_MAX:
            raise error_for(Code.ID_JOIN_TOKEN, f"join token: expected a text that begins with {TOKEN_PREFIX}")
        encoded = text[len(TOKEN_PREFIX) :]
        try:
            raw = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
            body, check = raw[:-_CHECK_BYTES], raw[-_CHECK_BYTES:]
            if check != _check(body) or _encoded(raw) != encoded:
                raise ValueError("checksum, or base64 with loose bits: two texts must not be one token")
            data = parse_json(body, size_bytes_max=TOKEN_CHARS_MAX)
            if not isinstance(data, dict) or set(data) != {"address", "root", "secret"}:
                raise ValueError("fields")
            address, root, secret = str(data["address"]), str(data["root"]), str(data["secret"])
            split_address(address)
            if len(bytes.fromhex(root)) != hashlib.sha256().digest_size or len(bytes.fromhex(secret)) != SECRET_BYTES:
                raise ValueError("sizes")
        except (ValueError, binascii.Error, TidegateError) as error:
            raise error_for(
                Code.ID_JOIN_TOKEN, "join token: it is incomplete or mistyped; copy the whole of it"
            ) from error
        return cls(address, root.lower(), text)

    @property
    def sha256_hex(self) -> str:
        """The digest under which the broker keeps it."""
        return sha256_hex(self.text.encode())


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _check(body: bytes) -> bytes:
    return hashlib.sha256(TOKEN_PREFIX.encode() + body).digest()[:_CHECK_BYTES]


def fetch_root(address: str, fingerprint: str, *, deadline_s: float = FETCH_DEADLINE_S) -> bytes:
    """Fetch the exchange's root certificate from the enrolment listener and hold it to the fingerprint.

    The handshake is not verified, nothing is sent over it, and the only thing believed of it is what has the
    fingerprint.

    Raises:
        PeerError: CLIENT_UNREACHABLE. IntegrityError: AUDIT_VERIFICATION, the server shows another root.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the fingerprint below is the check
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    host, port = split_address(address)
    try:
        with (
            socket.create_connection((host, port), timeout=deadline_s) as plain,
            context.wrap_socket(plain, server_hostname=host) as link,
        ):
            chain = _shown_chain(link)
    except OSError as error:
        raise error_for(
            Code.CLIENT_UNREACHABLE, "the enrolment address cannot be reached", detail=str(error)
        ) from error
    for der in chain[:CHAIN_LENGTH_MAX]:
        if secrets.compare_digest(sha256_hex(der), fingerprint):
            return ssl.DER_cert_to_PEM_cert(der).encode()
    raise error_for(
        Code.AUDIT_VERIFICATION,
        "the server at the enrolment address is not the exchange of this token: it shows no CA of that fingerprint",
    )


def _shown_chain(link: ssl.SSLSocket) -> list[bytes]:
    """Give the chain as the server sent it, DER. Public since Python 3.13; before, it is on the inner object."""
    public: Callable[[], list[bytes]] | None = getattr(link, "get_unverified_chain", None)
    if public is not None:
        return list(public())
    inner: Any = link._sslobj  # type: ignore[attr-defined]
    return [ssl.PEM_cert_to_DER_cert(certificate.public_bytes()) for certificate in inner.get_unverified_chain() or ()]


def join(
    token_text: str, folder: IdentityFolder, *, clock: Clock | None = None, replace: bool = False
) -> LocalIdentity:
    """Join an exchange: make a key here, have it certified with the token, save the identity in the folder.

    Args:
        replace: overwrite an identity that the folder already holds.

    Raises:
        CallerError: ID_JOIN_TOKEN (mistyped, unknown, used, expired), CONFIG_INVALID (the folder).
        PeerError: CLIENT_UNREACHABLE. IntegrityError: the server is not the token's exchange.
    """
    clock = clock or SystemClock()
    token = JoinToken.parse(token_text)
    if folder.exists and not replace:
        raise error_for(Code.CONFIG_INVALID, "identity folder: it already holds an identity; choose another folder")
    folder.prepare()
    root_pem = fetch_root(token.address, token.root_fingerprint)
    key = keys.new_key()
    with open_enrolment_channel(token.address, root_pem) as channel:
        certificate_pem, chain_pem, exchange_json = wire.join(channel, token.text, make_csr(key))
    exchange = ExchangeInfo.from_text(exchange_json)
    if exchange.exchange != root_exchange(root_pem):
        raise error_for(Code.WIRE_INVALID, "join: the exchange describes itself under another name")
    identity = LocalIdentity(key, certificate_pem, split_pem(chain_pem)[0], root_pem, exchange)
    identity.check(clock.now())
    folder.save(identity)
    return identity


def renew(identity: LocalIdentity, call: RenewalCall, at: datetime) -> LocalIdentity:
    """Renew with a new key over a link that the old certificate opened; ``call`` makes the call of the right service.

    The new identity is checked before it is given: same name, our key, valid now. Saving it is the caller's business.
    """
    key = keys.new_key()
    certificate_pem, chain_pem = call(make_csr(key))
    return _accept(identity, key, certificate_pem, chain_pem, at)


def renew_over_link(identity: LocalIdentity, channel: grpc.Channel, at: datetime) -> LocalIdentity:
    """Renew over an open channel: to the nodes' listener for a node, to the callers' for everybody else."""
    node = identity.spiffe.kind is IdentityKind.NODE
    return renew(identity, lambda csr: (wire.renew_as_node if node else wire.renew_as_caller)(channel, csr), at)


def renew_expired(identity: LocalIdentity, at: datetime) -> LocalIdentity:
    """Renew at the enrolment listener with a request signed by the old key; also for a certificate that has ended.

    Raises:
        CallerError: ID_RENEWAL (ended too long ago), ID_REVOKED. PeerError: CLIENT_UNREACHABLE.
    """
    with open_enrolment_channel(identity.exchange.enrolment, identity.root_pem) as channel:

        def call(csr_pem: bytes) -> tuple[bytes, bytes]:
            time = timestamp(at)
            signature = keys.sign(identity.key, renewal_bytes(csr_pem, time))
            return wire.renew_expired(channel, identity.certificate_pem, csr_pem, time, signature)

        return renew(identity, call, at)


def renew_if_due(folder: IdentityFolder, *, clock: Clock | None = None) -> LocalIdentity:
    """Load the identity and renew it when half of its life has passed: over the link while it lives, else at enrolment.

    A renewal that fails while the certificate still lives is no reason to stop: the old identity is given back.
    """
    at = (clock or SystemClock()).now()
    identity = folder.load()
    if not identity.facts.renewal_due(at):
        return identity
    alive = at <= identity.facts.not_after
    try:
        if alive:
            node = identity.spiffe.kind is IdentityKind.NODE
            with open_channel(
                identity.exchange.nodes if node else identity.exchange.callers, identity, clock=clock
            ) as channel:
                identity = renew_over_link(identity, channel, at)
        else:
            identity = renew_expired(identity, at)
    except TidegateError as error:
        if alive and error.code is Code.CLIENT_UNREACHABLE:
            return identity
        raise
    folder.save(identity)
    return identity


def renewal_bytes(csr_pem: bytes, time: str) -> bytes:
    """Give the bytes under the old key's signature: canonical ``{csr_sha256, time}``."""
    return canonical({"csr_sha256": sha256_hex(csr_pem), "time": time})


def _accept(
    old: LocalIdentity, key: keys.PrivateKey, certificate_pem: bytes, chain_pem: bytes, at: datetime
) -> LocalIdentity:
    identity = old.renewed(key, certificate_pem, split_pem(chain_pem)[0])
    if identity.check(at).identity != old.spiffe:
        raise error_for(Code.ID_CERTIFICATE_INVALID, "renewal: the new certificate names another identity")
    return identity

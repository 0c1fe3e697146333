"""The identity folder: a party's key, certificate and chain in one private file, and what it knows of its exchange.

``identity.pem`` (mode 0600) holds the key, the certificate, the issuing CA's certificate and the root, in this order
and in one file, so that a renewal replaces all of it or nothing: a key never meets another key's certificate, whenever
the machine stops. ``exchange.json`` holds addresses and the log's verifier key; it is public.
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from tidegate.core.canonical import canonical, parse_json
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.names import SpiffeId
from tidegate.identity.certificates import CertificateFacts, facts, split_pem, verify_chain
from tidegate.identity.keys import PrivateKey, key_from_pem, key_to_pem, read_private, sync_folder, write_private

EXCHANGE_JSON_BYTES_MAX = 16 << 10
_IDENTITY_FILE = "identity.pem"
_EXCHANGE_FILE = "exchange.json"
_KEY_END = b"-----END PRIVATE KEY-----\n"


@dataclass(frozen=True, slots=True)
class ExchangeInfo:
    """What a member knows of its exchange; the broker sends it at joining.

    Args:
        exchange: the exchange's name, the trust domain of every identity.
        callers, nodes, enrolment: addresses ``host:port`` of the three listeners.
        log_origin, log_verifier_key: of the broker's transparency log (C2SP signed-note verifier key).
    """

    exchange: str
    callers: str
    nodes: str
    enrolment: str
    log_origin: str
    log_verifier_key: str

    def to_json(self) -> dict[str, str]:
        """Give the document."""
        return {name: getattr(self, name) for name in self.__slots__}

    def to_text(self) -> str:
        """Give the document's canonical text."""
        return canonical(self.to_json()).decode()

    @classmethod
    def from_text(cls, text: str | bytes) -> ExchangeInfo:
        """Read the document; a missing, unknown or empty field is refused.

        Trust: the broker wrote it, over a link that was verified.
        """
        data = parse_json(text, size_bytes_max=EXCHANGE_JSON_BYTES_MAX)
        if not isinstance(data, dict) or set(data) != set(cls.__slots__):
            raise error_for(Code.WIRE_INVALID, "exchange description: a field is missing or unknown")
        fields = {
            name: value for name, value in data.items() if isinstance(value, str) and value and value.isprintable()
        }
        if len(fields) != len(data):
            raise error_for(Code.WIRE_INVALID, "exchange description: expected texts that are not empty")
        return cls(**fields)


@dataclass(frozen=True, slots=True)
class LocalIdentity:
    """A party's own identity: everything that it needs to prove who it is and to check the others.

    Args:
        certificate_pem: the leaf alone.
        chain_pem: the issuing CA's certificate.
        root_pem: the exchange's root.
    """

    key: PrivateKey
    certificate_pem: bytes
    chain_pem: bytes
    root_pem: bytes
    exchange: ExchangeInfo

    @property
    def facts(self) -> CertificateFacts:
        """What the own certificate says."""
        return facts(self.certificate_pem)

    @property
    def spiffe(self) -> SpiffeId:
        """The own identity."""
        return self.facts.identity

    @property
    def presented_pem(self) -> bytes:
        """The chain as it is shown to a peer: leaf first, then the issuing CA; never the root."""
        return self.certificate_pem + self.chain_pem

    @property
    def key_pem(self) -> bytes:
        """The private key, PKCS#8 PEM. For a TLS library; never for a log."""
        return key_to_pem(self.key)

    def check(self, at: datetime) -> CertificateFacts:
        """Say what is wrong with the own certificate before a server does: a refused handshake carries no reason.

        Raises:
            CallerError: ID_CERTIFICATE_EXPIRED or ID_CERTIFICATE_INVALID, in words for the person at the terminal.
        """
        result = verify_chain(self.certificate_pem, self.chain_pem, self.root_pem, at)
        if result.public_key.public_numbers() != self.key.public_key().public_numbers():
            raise error_for(Code.ID_CERTIFICATE_INVALID, "certificate: it does not belong to the private key beside it")
        if result.identity.exchange != self.exchange.exchange:
            raise error_for(Code.ID_CERTIFICATE_INVALID, "certificate: it names another exchange")
        return result

    def renewed(self, key: PrivateKey, certificate_pem: bytes, chain_pem: bytes) -> LocalIdentity:
        """Give the identity with a new key and certificate."""
        return replace(self, key=key, certificate_pem=certificate_pem, chain_pem=chain_pem)


class IdentityFolder:
    """The folder on disk. One process writes it; others may read it at any time.

    Trust: the owner of the files and root can write it; whoever reads ``identity.pem`` is this party.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def exists(self) -> bool:
        """Say whether an identity lies here."""
        return (self.path / _IDENTITY_FILE).exists()

    def prepare(self) -> None:
        """Make the folder and show that it can be written, before anything irreversible (a join token is used once)."""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            probe = self.path / f".probe.{secrets.token_hex(8)}"
            os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            probe.unlink()
        except OSError as error:
            raise error_for(Code.CONFIG_INVALID, "identity folder: it cannot be written", detail=str(error)) from error

    def save(self, identity: LocalIdentity) -> None:
        """Write the identity. Each file changes atomically; the private one, which makes it count, comes last."""
        try:
            _write_public(self.path / _EXCHANGE_FILE, identity.exchange.to_text().encode() + b"\n")
            pem = b"".join((identity.key_pem, identity.certificate_pem, identity.chain_pem, identity.root_pem))
            write_private(self.path / _IDENTITY_FILE, pem)
        except OSError as error:
            raise error_for(Code.CONFIG_INVALID, "identity folder: it cannot be written", detail=str(error)) from error

    def load(self) -> LocalIdentity:
        """Read the identity. Whether its certificate is still good is ``LocalIdentity.check``'s business.

        Raises:
            CallerError: CLIENT_NO_CONTEXT when there is none, CONFIG_INVALID when it is damaged or open to others.
        """
        if not self.exists:
            raise error_for(
                Code.CLIENT_NO_CONTEXT, "identity folder: no identity here; join with `tidegate join TOKEN`"
            )
        pem = read_private(self.path / _IDENTITY_FILE)
        try:
            exchange = ExchangeInfo.from_text((self.path / _EXCHANGE_FILE).read_bytes())
        except (OSError, TidegateError) as error:
            raise error_for(
                Code.CONFIG_INVALID, "identity folder: exchange.json is missing or damaged", detail=str(error)
            ) from error
        key_pem, end, certificates_pem = pem.partition(_KEY_END)
        try:
            blocks = split_pem(certificates_pem)
            key = key_from_pem(key_pem + end)
            facts(blocks[0])
        except TidegateError as error:
            raise error_for(
                Code.CONFIG_INVALID, "identity folder: identity.pem is damaged", detail=str(error)
            ) from error
        if len(blocks) != 3:
            raise error_for(Code.CONFIG_INVALID, "identity folder: identity.pem is damaged")
        return LocalIdentity(key, blocks[0], blocks[1], blocks[2], exchange)

    def check(self, at: datetime) -> TidegateError | None:
        """Give what is wrong with the identity here, or None: for ``tidegate doctor`` and before each connection."""
        try:
            self.load().check(at)
        except TidegateError as error:
            return error
        return None


def _write_public(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def exchange_from_mapping(data: dict[str, str]) -> ExchangeInfo:
    """Make the description from separate fields, held to the same form as one from the wire."""
    return ExchangeInfo.from_text(json.dumps(data))

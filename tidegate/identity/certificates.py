"""Certificates: read one into facts, hold it to the exchange's profile, verify its chain, ask for one.

The profile (design doors.md, Identity; SPIFFE X509-SVID; RFC 5280): P-256, ECDSA with SHA-256, exactly one URI SAN
which is the identity; DNS and IP SANs on a broker's certificate alone, so that no other passes a hostname check; no CA;
key usage critical with digitalSignature and without certificate signing; both client and server authentication. The
root carries ``spiffe://<exchange>``, which every leaf below it must share.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, SignatureAlgorithmOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from tidegate.core.cache import BoundedCache
from tidegate.core.caller import BY_CERTIFICATE
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.names import IdentityKind, SpiffeId
from tidegate.identity.keys import PrivateKey, PublicKey

PEM_BYTES_MAX = 16 << 10  # one certificate is under 1 KB, a chain under 3 KB
CHAIN_LENGTH_MAX = 4
CHAINS_CACHED_MAX = 1024
FACTS_CACHED_MAX = 4096  # the same certificate comes with every call; parsing takes some 100 µs

# What cryptography raises on hostile bytes; most of it is no ValueError.
UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)

_CHAINS: BoundedCache[tuple[datetime, datetime]] = BoundedCache(entries_max=CHAINS_CACHED_MAX, bytes_max=16 << 20)
"""Chains that were verified, by their exact bytes, with the time within which they hold; who was revoked is not asked here."""

_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----\r?\n[A-Za-z0-9+/=\r\n]+-----END CERTIFICATE-----\r?\n?")


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """What a leaf certificate says, once it fits the profile. Nothing here says that it is genuine or fresh.

    Args:
        serial_hex: lower-case hexadecimal, without leading zeros.
        fingerprint: lower-case hexadecimal SHA-256 of the DER form.
        not_before, not_after: UTC, aware.
        pem: the leaf alone.
        bound: how its holder showed it: in the handshake, or by a bearer token that it was issued for; ``fingerprint`` and
            ``not_after`` are then the token's.
    """

    identity: SpiffeId
    serial_hex: str
    fingerprint: str
    not_before: datetime
    not_after: datetime
    pem: bytes
    bound: str = BY_CERTIFICATE

    @property
    def public_key(self) -> PublicKey:
        """The certificate's key."""
        return _public_key(self.pem)

    def check_time(self, at: datetime) -> None:
        """Refuse a time outside the validity.

        Raises:
            CallerError: ID_CERTIFICATE_EXPIRED.
        """
        if at > self.not_after:
            raise error_for(
                Code.ID_CERTIFICATE_EXPIRED, f"the certificate ended at {self.not_after:%Y-%m-%dT%H:%M:%SZ}"
            )
        if at < self.not_before:
            raise error_for(
                Code.ID_CERTIFICATE_EXPIRED,
                f"the certificate is valid from {self.not_before:%Y-%m-%dT%H:%M:%SZ} only; check the clock",
            )

    def renewal_due(self, at: datetime) -> bool:
        """Say whether half of the validity has passed."""
        return at >= self.not_before + (self.not_after - self.not_before) / 2


@lru_cache(maxsize=FACTS_CACHED_MAX)
def _public_key(pem: bytes) -> PublicKey:
    key = x509.load_pem_x509_certificate(pem).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)  # the profile was checked when the facts were made
    return key


def invalid(what: str, detail: str = "") -> TidegateError:
    """Give the error for a certificate that is not one of the exchange."""
    return error_for(Code.ID_CERTIFICATE_INVALID, f"certificate: {what}", detail=detail)


def split_pem(pem: bytes) -> tuple[bytes, ...]:
    """Give the certificates of a PEM text, each a PEM text of its own, in their order.

    Trust: anybody may have written it; it is bounded, and text outside the blocks is refused.
    """
    if len(pem) > PEM_BYTES_MAX:
        raise invalid("the PEM text is too large")
    blocks = _BLOCK.findall(pem)
    if not blocks or _BLOCK.sub(b"", pem).strip() or len(blocks) > CHAIN_LENGTH_MAX:
        raise invalid(f"expected 1 to {CHAIN_LENGTH_MAX} PEM certificates and nothing else")
    return tuple(block.replace(b"\r", b"").rstrip(b"\n") + b"\n" for block in blocks)


def load_certificate(pem: bytes) -> x509.Certificate:
    """Read exactly one PEM certificate."""
    blocks = split_pem(pem)
    if len(blocks) != 1:
        raise invalid("expected exactly one")
    try:
        certificate = x509.load_pem_x509_certificate(blocks[0])
        der = certificate.public_bytes(serialization.Encoding.DER)
        # The BIT STRING of the signature says how many of its last bits do not count; nobody signs that number. Anything
        # but 0 would give one certificate a second fingerprint.
        whole = der[-len(certificate.signature) - 1] == 0
    except UNREADABLE as error:
        raise invalid("it cannot be read") from error
    if not whole:
        raise invalid("its signature is not in the one form")
    return certificate


@lru_cache(maxsize=FACTS_CACHED_MAX)
def facts(pem: bytes) -> CertificateFacts:
    """Read a leaf certificate and hold it to the profile.

    Raises:
        CallerError: ID_CERTIFICATE_INVALID, with the point that does not fit.
    """
    certificate = load_certificate(pem)
    try:
        _check_profile(certificate)
        identity = _identity(certificate)
        validity = (certificate.not_valid_before_utc, certificate.not_valid_after_utc)
    except UNREADABLE as error:
        raise invalid("an extension cannot be read") from error
    return CertificateFacts(
        identity=identity,
        serial_hex=format(certificate.serial_number, "x"),
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
        not_before=validity[0],
        not_after=validity[1],
        pem=certificate.public_bytes(serialization.Encoding.PEM),
    )


def _check_profile(certificate: x509.Certificate) -> None:
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise invalid("expected a P-256 key")
    if certificate.serial_number <= 0:
        raise invalid("expected a positive serial number")  # RFC 5280 4.1.2.2; the deny-list goes by it
    if certificate.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA256:
        raise invalid("expected a signature of ECDSA with SHA-256")
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
        extended = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound as error:
        raise invalid("an extension of the profile is missing") from error
    if constraints.ca or not usage.critical or usage.value.key_cert_sign or usage.value.crl_sign:
        raise invalid("it may not be a CA's")
    if not usage.value.digital_signature:
        raise invalid("its key usage lacks digitalSignature")
    if not {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH} <= set(extended):
        raise invalid("expected client and server authentication")


def _identity(certificate: x509.Certificate) -> SpiffeId:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound as error:
        raise invalid("it names no identity") from error
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise invalid(f"expected exactly one URI SAN, got {len(uris)}")
    identity = SpiffeId.parse(uris[0])
    others = [name for name in names if not isinstance(name, x509.UniformResourceIdentifier)]
    broker = identity.kind is IdentityKind.BROKER
    if others and not (broker and all(isinstance(name, x509.DNSName | x509.IPAddress) for name in others)):
        raise invalid("it carries a SAN that its kind may not carry")
    return identity


def root_exchange(root_pem: bytes) -> str:
    """Give the exchange's name out of its root certificate (``spiffe://<exchange>``, no path)."""
    try:
        names = load_certificate(root_pem).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, *UNREADABLE) as error:
        raise invalid("the root does not name its exchange") from error
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1 or not uris[0].startswith("spiffe://") or "/" in uris[0][len("spiffe://") :]:
        raise invalid("the root does not name its exchange")
    return uris[0][len("spiffe://") :]


def verify_chain(leaf_pem: bytes, chain_pem: bytes, root_pem: bytes, at: datetime) -> CertificateFacts:
    """Verify that the leaf was issued under the root and was valid at ``at``.

    Args:
        chain_pem: the intermediates, in any order; the root or the leaf among them does no harm. May be empty.

    Raises:
        CallerError: ID_CERTIFICATE_INVALID, or ID_CERTIFICATE_EXPIRED when ``at`` lies outside the leaf's validity.

    Trust: leaf and chain may be anybody's; the root is ours.
    """
    result = facts(leaf_pem)
    result.check_time(at)
    key = (leaf_pem, chain_pem, root_pem)
    window = _CHAINS.get(key)
    if window is None or not window[0] <= at <= window[1]:
        _CHAINS.put(key, _verify(result, chain_pem, root_pem, at), size_bytes=sum(map(len, key)))
    return result


def _verify(result: CertificateFacts, chain_pem: bytes, root_pem: bytes, at: datetime) -> tuple[datetime, datetime]:
    """Verify a chain; give the time within which every certificate of it is valid: until then it holds as it is."""
    try:
        intermediates = [x509.load_pem_x509_certificate(block) for block in (split_pem(chain_pem) if chain_pem else ())]
        root = load_certificate(root_pem)
        # One issuing CA below the root: the depth counts the intermediates between root and leaf.
        verifier = PolicyBuilder().store(Store([root])).time(at).max_chain_depth(1).build_client_verifier()
        leaf = x509.load_pem_x509_certificate(result.pem)
        verifier.verify(leaf, intermediates)
        every = [leaf, root, *intermediates]
        window = max(item.not_valid_before_utc for item in every), min(item.not_valid_after_utc for item in every)
    except (VerificationError, *UNREADABLE) as error:
        raise invalid("it was not issued by this exchange", detail=str(error)) from error
    if result.identity.exchange != root_exchange(root_pem):
        raise invalid("it names another exchange")
    return window


def make_csr(key: PrivateKey) -> bytes:
    """Ask for a certificate: proves possession of the key and names nothing; the broker alone decides the identity."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)


def csr_public_key(csr_pem: bytes) -> PublicKey:
    """Read a request: the proof of possession must hold and the key must be P-256. Whatever else it asks is ignored.

    Raises:
        CallerError: WIRE_INVALID.

    Trust: anybody may have written it.
    """
    if len(csr_pem) > PEM_BYTES_MAX:
        raise error_for(Code.WIRE_INVALID, "signing request: it is too large")
    try:
        request = x509.load_pem_x509_csr(csr_pem)
        proven = request.is_signature_valid
        key = request.public_key()
    except UNREADABLE as error:
        raise error_for(Code.WIRE_INVALID, "signing request: it cannot be read") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise error_for(Code.WIRE_INVALID, "signing request: expected a P-256 key")
    if not proven:
        raise error_for(Code.WIRE_INVALID, "signing request: it is not signed by its key")
    return key

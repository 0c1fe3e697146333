"""Certificates: the profile point by point, the chain, signing requests."""

from __future__ import annotations

import ipaddress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.authority import Authority
from tests.fakes.exchange import EXCHANGE, START, ManualClock, SmallExchange
from tidegate.core.errors import Code, TidegateError
from tidegate.core.names import IdentityKind
from tidegate.identity import keys
from tidegate.identity.certificates import csr_public_key, facts, make_csr, root_exchange, split_pem, verify_chain

SERVICE = f"spiffe://{EXCHANGE}/member/health/service/desk"
BROKER = f"spiffe://{EXCHANGE}/broker/main"


def refused(code: Code, function: Any, *arguments: Any) -> TidegateError:
    with pytest.raises(TidegateError) as caught:
        function(*arguments)
    assert caught.value.code is code
    return caught.value


def test_facts_say_what_the_certificate_says(exchange: SmallExchange) -> None:
    identity = exchange.member(IdentityKind.NODE, "health", "n1")
    shown = facts(identity.certificate_pem)
    certificate = x509.load_pem_x509_certificate(identity.certificate_pem)
    assert str(shown.identity) == f"spiffe://{EXCHANGE}/member/health/node/n1"
    assert int(shown.serial_hex, 16) == certificate.serial_number
    assert shown.fingerprint == certificate.fingerprint(hashes.SHA256()).hex()
    assert (shown.not_before, shown.not_after) == (START - timedelta(minutes=5), START + timedelta(hours=24))
    assert shown.public_key.public_numbers() == identity.key.public_key().public_numbers()


def test_every_kind_is_read(exchange: SmallExchange) -> None:
    for kind in ("service", "person", "node"):
        identity = exchange.forge([f"spiffe://{EXCHANGE}/member/health/{kind}/x"])
        assert identity.facts.identity.kind.value == kind
    broker = exchange.forge([BROKER], dns=["a.example"], others=[x509.IPAddress(ipaddress.ip_address("::1"))])
    assert broker.facts.identity.kind is IdentityKind.BROKER


BAD: dict[str, dict[str, Any]] = {
    "no SAN": {"uris": []},
    "two URIs": {"uris": [SERVICE, BROKER]},
    "the same URI twice": {"uris": [SERVICE, SERVICE]},
    "not of our form": {"uris": ["https://city.example/member/health/service/desk"]},
    "a path too long": {"uris": [SERVICE + "/more"]},
    "no path": {"uris": [f"spiffe://{EXCHANGE}"]},
    "an upper-case member": {"uris": [f"spiffe://{EXCHANGE}/member/Health/service/desk"]},
    "an unknown kind": {"uris": [f"spiffe://{EXCHANGE}/member/health/robot/desk"]},
    "a host name on a service": {"uris": [SERVICE], "dns": ["broker.example"]},
    "an IP address on a service": {"uris": [SERVICE], "others": [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]},
    "an e-mail address on a service": {"uris": [SERVICE], "others": [x509.RFC822Name("a@b.example")]},
    "an e-mail address on a broker": {"uris": [BROKER], "others": [x509.RFC822Name("a@b.example")]},
    "a CA": {"uris": [SERVICE], "ca": True},
    "certificate signing": {"uris": [SERVICE], "sign_usage": True},
    "no digital signature": {"uris": [SERVICE], "digital_signature": False},
    "key usage not critical": {"uris": [SERVICE], "usage_critical": False},
    "no client authentication": {"uris": [SERVICE], "extended": [ExtendedKeyUsageOID.SERVER_AUTH]},
    "no server authentication": {"uris": [SERVICE], "extended": [ExtendedKeyUsageOID.CLIENT_AUTH]},
    "no constraints": {"uris": [SERVICE], "leave_out": ["constraints"]},
    "no key usage": {"uris": [SERVICE], "leave_out": ["usage"]},
    "no extended usage": {"uris": [SERVICE], "leave_out": ["extended"]},
    "another hash": {"uris": [SERVICE], "algorithm": hashes.SHA512()},
    "an RSA key": {"uris": [SERVICE], "key": rsa.generate_private_key(public_exponent=65537, key_size=2048)},
    "a P-384 key": {"uris": [SERVICE], "key": ec.generate_private_key(ec.SECP384R1())},
}


@pytest.mark.parametrize("name", BAD)
def test_a_certificate_outside_the_profile_is_refused(exchange: SmallExchange, name: str) -> None:
    choices = dict(BAD[name])
    identity = exchange.forge(choices.pop("uris"), **choices)
    refused(Code.ID_CERTIFICATE_INVALID, facts, identity.certificate_pem)


def test_the_profile_test_itself_starts_from_a_good_certificate(exchange: SmallExchange) -> None:
    assert str(exchange.forge([SERVICE]).facts.identity) == SERVICE


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"\xff\xfe",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n",
        b"x" * 20_000,
    ],
)
def test_what_is_no_certificate_is_refused(pem: bytes) -> None:
    refused(Code.ID_CERTIFICATE_INVALID, facts, pem)


def test_two_certificates_are_not_one(exchange: SmallExchange) -> None:
    identity = exchange.member()
    refused(Code.ID_CERTIFICATE_INVALID, facts, identity.presented_pem)
    refused(Code.ID_CERTIFICATE_INVALID, facts, identity.certificate_pem + b"trailing words")
    assert len(split_pem(identity.presented_pem.replace(b"\n", b"\r\n"))) == 2


@pytest.mark.filterwarnings("ignore:Parsed a serial number:cryptography.utils.CryptographyDeprecationWarning")
@settings(max_examples=60)
@given(st.integers(0, 2**31), st.integers(1, 255))
def test_a_changed_byte_never_verifies(exchange: SmallExchange, place: int, change: int) -> None:
    identity = exchange.member(name="fixed")
    der = bytearray(x509.load_pem_x509_certificate(identity.certificate_pem).public_bytes(serialization.Encoding.DER))
    der[place % len(der)] ^= change
    import ssl

    pem = ssl.DER_cert_to_PEM_cert(bytes(der)).encode()
    with pytest.raises(TidegateError):
        verify_chain(pem, identity.chain_pem, identity.root_pem, START)


def test_bytes_that_nobody_signed_cannot_give_a_certificate_a_second_form(exchange: SmallExchange) -> None:
    """Header, algorithm and bit count of the signature lie outside of what is signed."""
    import ssl

    for _ in range(8):  # a signature whose last bit is 0 leaves room for another bit count; every second one is
        identity = exchange.member(name="fixed")
        certificate = x509.load_pem_x509_certificate(identity.certificate_pem)
        der = certificate.public_bytes(serialization.Encoding.DER)
        end = der.index(certificate.tbs_certificate_bytes) + len(certificate.tbs_certificate_bytes)
        for place in range(end, len(der) - len(certificate.signature)):
            for bit in range(8):
                changed = bytearray(der)
                changed[place] ^= 1 << bit
                pem = ssl.DER_cert_to_PEM_cert(bytes(changed)).encode()
                with pytest.raises(TidegateError):
                    verify_chain(pem, identity.chain_pem, identity.root_pem, START)


def test_a_chain_verifies_with_the_chain_in_any_order(exchange: SmallExchange) -> None:
    identity = exchange.member()
    leaf, issuing, root = identity.certificate_pem, identity.chain_pem, identity.root_pem
    for chain in (issuing, issuing + root, root + issuing, leaf + issuing):
        assert verify_chain(leaf, chain, root, START).identity == identity.spiffe


def test_a_chain_without_its_issuer_or_under_another_root_is_refused(exchange: SmallExchange, tmp_path: Path) -> None:
    identity = exchange.member()
    other = Authority.create(tmp_path / "ca", EXCHANGE, ManualClock())
    leaf = identity.certificate_pem
    refused(Code.ID_CERTIFICATE_INVALID, verify_chain, leaf, b"", identity.root_pem, START)
    refused(Code.ID_CERTIFICATE_INVALID, verify_chain, leaf, other.issuing_pem, other.root_pem, START)
    refused(Code.ID_CERTIFICATE_INVALID, verify_chain, leaf, identity.chain_pem, other.root_pem, START)
    stranger = other.issue(make_csr(keys.new_key()), identity.spiffe)
    chain = stranger.chain_pem + other.root_pem
    refused(Code.ID_CERTIFICATE_INVALID, verify_chain, stranger.pem, chain, identity.root_pem, START)


def test_a_leaf_cannot_issue(exchange: SmallExchange) -> None:
    """A member that signs a certificate with its own key makes nothing that anybody believes."""
    member = exchange.member()
    clock = ManualClock()
    rogue = Authority(
        root_pem=member.root_pem, issuing_pem=exchange.authority.issuing_pem, issuing_key=member.key, clock=clock
    )
    forged = rogue.issue(make_csr(keys.new_key()), exchange.forge([BROKER]).spiffe)
    chain = member.presented_pem
    refused(Code.ID_CERTIFICATE_INVALID, verify_chain, forged.pem, chain, member.root_pem, START)


def test_a_certificate_that_names_another_exchange_is_refused_below_the_true_root(exchange: SmallExchange) -> None:
    stranger = exchange.forge(["spiffe://other.example/member/health/service/desk"])
    error = refused(
        Code.ID_CERTIFICATE_INVALID,
        verify_chain,
        stranger.certificate_pem,
        stranger.chain_pem,
        stranger.root_pem,
        START,
    )
    assert "another exchange" in str(error)


@pytest.mark.parametrize("moment", [START - timedelta(minutes=6), START + timedelta(hours=24, seconds=1)])
def test_a_certificate_outside_its_time_is_refused_and_says_so(exchange: SmallExchange, moment: Any) -> None:
    identity = exchange.member()
    arguments = (identity.certificate_pem, identity.chain_pem, identity.root_pem, moment)
    refused(Code.ID_CERTIFICATE_EXPIRED, verify_chain, *arguments)


def test_renewal_is_due_from_half_the_life(exchange: SmallExchange) -> None:
    shown = exchange.member().facts
    half = shown.not_before + (shown.not_after - shown.not_before) / 2
    assert not shown.renewal_due(half - timedelta(seconds=1))
    assert shown.renewal_due(half)


def test_the_root_names_its_exchange_and_a_leaf_does_not(exchange: SmallExchange) -> None:
    assert root_exchange(exchange.authority.root_pem) == EXCHANGE
    refused(Code.ID_CERTIFICATE_INVALID, root_exchange, exchange.member().certificate_pem)


def test_a_signing_request_proves_its_key() -> None:
    key = keys.new_key()
    request = make_csr(key)
    assert csr_public_key(request).public_numbers() == key.public_key().public_numbers()


def _csr(key: Any) -> bytes:
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)


def test_a_signing_request_that_is_not_ours_is_refused() -> None:
    der = bytearray(x509.load_pem_x509_csr(make_csr(keys.new_key())).public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1  # in the signature
    unsigned = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM)
    p384, rsa_key = ec.generate_private_key(ec.SECP384R1()), BAD["an RSA key"]["key"]
    for bad in (b"", b"nonsense", b"x" * 20_000, unsigned, _csr(p384), _csr(rsa_key)):
        refused(Code.WIRE_INVALID, csr_public_key, bad)

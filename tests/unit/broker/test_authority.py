"""The authority: what it makes, what it refuses, what it survives."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from broker.authority import Authority, BrokerIdentity
from tests.fakes.exchange import EXCHANGE, START, ManualClock, SmallExchange
from tidegate.core.errors import Code, TidegateError
from tidegate.core.names import IdentityKind, SpiffeId
from tidegate.identity import keys
from tidegate.identity.certificates import make_csr, verify_chain
from tidegate.identity.documents import verify_document

SERVICE = SpiffeId(EXCHANGE, IdentityKind.SERVICE, "health", "desk")
BROKER = SpiffeId(EXCHANGE, IdentityKind.BROKER, "", "main")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ca") / "authority"
    Authority.create(folder, EXCHANGE, ManualClock())
    return folder


def _copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy"))


def test_every_private_file_is_the_owners_alone(made: Path) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in made.rglob("*key.pem")}
    assert modes == {"root-key.pem": 0o600, "issuing-key.pem": 0o600}


def test_the_broker_needs_no_root_key(made: Path, tmp_path: Path) -> None:
    folder = _copy(made, tmp_path)
    shutil.rmtree(folder / "offline")
    issued = Authority.load(folder, ManualClock()).issue(make_csr(keys.new_key()), SERVICE)
    assert verify_chain(issued.pem, issued.chain_pem, (folder / "root.pem").read_bytes(), START).identity == SERVICE


def test_an_authority_is_never_overwritten(made: Path) -> None:
    before = (made / "root.pem").read_bytes()
    with pytest.raises(TidegateError, match="already"):
        Authority.create(made, EXCHANGE, ManualClock())
    assert (made / "root.pem").read_bytes() == before


@pytest.mark.parametrize("name", ["City", "", "a/b", "spiffe://x", "a b"])
def test_an_exchange_needs_a_proper_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(TidegateError):
        Authority.create(tmp_path / "ca", name, ManualClock())
    assert not (tmp_path / "ca" / "root.pem").exists()


def test_the_roots_key_may_have_a_passphrase(tmp_path: Path) -> None:
    Authority.create(tmp_path, EXCHANGE, ManualClock(), root_passphrase=b"deep")
    with pytest.raises(TidegateError, match="passphrase"):
        Authority.renew_issuing(tmp_path, ManualClock())
    Authority.renew_issuing(tmp_path, ManualClock(), root_passphrase=b"deep")


def test_a_leaf_lives_a_day_and_never_longer_than_its_issuer(made: Path) -> None:
    clock = ManualClock()
    authority = Authority.load(made, clock)
    shown = authority.issue(make_csr(keys.new_key()), SERVICE).facts
    assert shown.not_after - START == timedelta(hours=24)
    clock.move(days=729.5)
    late = Authority.load(made, clock).issue(make_csr(keys.new_key()), SERVICE).facts
    assert late.not_after < clock.now() + timedelta(hours=13)


def test_an_expired_issuing_ca_is_named(made: Path) -> None:
    clock = ManualClock()
    clock.move(days=731)
    with pytest.raises(TidegateError, match="expired") as caught:
        Authority.load(made, clock)
    assert caught.value.code is Code.CONFIG_INVALID


def test_a_new_issuing_ca_leaves_the_old_leafs_valid(made: Path, tmp_path: Path) -> None:
    folder = _copy(made, tmp_path)
    old = Authority.load(folder, ManualClock())
    leaf = old.issue(make_csr(keys.new_key()), SERVICE)
    new = Authority.renew_issuing(folder, ManualClock())
    assert new.issuing_pem != old.issuing_pem
    assert verify_chain(leaf.pem, new.issuers_pem, new.root_pem, START)
    fresh = new.issue(make_csr(keys.new_key()), SERVICE)
    assert verify_chain(fresh.pem, fresh.chain_pem, old.root_pem, START)


@pytest.mark.parametrize("lost", ["root.pem", "issuing.pem", "keys/issuing-key.pem"])
def test_a_missing_file_is_a_clear_error(made: Path, tmp_path: Path, lost: str) -> None:
    folder = _copy(made, tmp_path)
    (folder / lost).unlink()
    with pytest.raises(TidegateError) as caught:
        Authority.load(folder, ManualClock())
    assert caught.value.code is Code.CONFIG_INVALID


def test_parts_that_do_not_fit_together_are_refused(made: Path, tmp_path: Path) -> None:
    folder = _copy(made, tmp_path)
    other = Authority.create(tmp_path / "other", EXCHANGE, ManualClock())
    keys.save_key(folder / "keys" / "issuing-key.pem", keys.new_key())
    with pytest.raises(TidegateError, match="issuing key"):
        Authority.load(folder, ManualClock())
    folder = _copy(made, tmp_path / "again")
    (folder / "root.pem").write_bytes(other.root_pem)
    with pytest.raises(TidegateError, match="not one of the root"):
        Authority.load(folder, ManualClock())


def test_only_a_broker_gets_host_names(made: Path) -> None:
    authority = Authority.load(made, ManualClock())
    request = make_csr(keys.new_key())
    for choice in ({"dns_names": ["a.example"]}, {"ip_addresses": ["127.0.0.1"]}):
        with pytest.raises(TidegateError, match="host names"):
            authority.issue(request, SERVICE, **choice)  # type: ignore[arg-type]
    broker = authority.issue(request, BROKER, dns_names=["a.example"], ip_addresses=["127.0.0.1", "::1"])
    names = x509.load_pem_x509_certificate(broker.pem).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.value.get_values_for_type(x509.DNSName) == ["a.example"]


def test_an_identity_of_another_exchange_is_not_issued(made: Path) -> None:
    stranger = SpiffeId("other.example", IdentityKind.SERVICE, "health", "desk")
    with pytest.raises(TidegateError, match="another exchange"):
        Authority.load(made, ManualClock()).issue(make_csr(keys.new_key()), stranger)


def test_what_a_request_asks_for_counts_for_nothing(made: Path) -> None:
    key = keys.new_key()
    from cryptography.hazmat.primitives import hashes, serialization

    greedy = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "broker.example")]))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(BROKER))]), critical=False)
        .add_extension(x509.BasicConstraints(True, None), critical=True)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    assert Authority.load(made, ManualClock()).issue(greedy, SERVICE).facts.identity == SERVICE


def test_the_brokers_certificate_renews_itself_with_a_new_key(tmp_path: Path) -> None:
    clock = ManualClock()
    exchange = SmallExchange(tmp_path, clock)
    broker = BrokerIdentity(exchange.authority, name="main", exchange=exchange.info, clock=clock)
    first = broker.current()
    clock.move(hours=11)
    assert broker.current() == first
    clock.move(hours=1.1)
    second = broker.current()
    assert second.facts.serial_hex != first.facts.serial_hex
    assert second.key.private_numbers() != first.key.private_numbers()
    second.check(clock.now())
    signature, chain = broker.sign(b"grant")
    assert verify_document(b"grant", signature, chain, exchange.authority.root_pem, clock.now()).identity == BROKER

"""Room 1: what a certificate becomes, and everything that keeps it from becoming a caller."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.identify import Credentials
from tests.fakes.exchange import EXCHANGE, ManualClock, SmallExchange
from tidegate.core.errors import Code, TidegateError
from tidegate.core.names import IdentityKind
from tidegate.identity.folder import LocalIdentity


@pytest.fixture
def exchange(tmp_path: Path) -> SmallExchange:
    return SmallExchange(tmp_path, ManualClock())


def shown(identity: LocalIdentity, tls: str = "TLSv1.3") -> Credentials:
    return Credentials(identity.certificate_pem, tls)


def refused(exchange: SmallExchange, credentials: Credentials) -> Code:
    with pytest.raises(TidegateError) as caught:
        exchange.identify.identify(credentials)
    return caught.value.code


def test_a_person_becomes_a_caller_with_what_the_directory_holds(exchange: SmallExchange) -> None:
    ann = exchange.member(IdentityKind.PERSON, "health", "ann", ["steward", "analyst"], "restricted")
    caller = exchange.identify.identify(shown(ann))
    assert caller.identity == ann.spiffe
    assert caller.roles == ("analyst", "steward")
    assert (caller.clearance, caller.tier) == ("restricted", "government")
    assert caller.fingerprint == ann.facts.fingerprint
    assert caller.person
    assert "ann" not in caller.person


def test_roles_are_read_at_each_call(exchange: SmallExchange) -> None:
    ann = exchange.member(roles=["operator"])
    assert exchange.identify.identify(shown(ann)).roles == ("operator",)
    exchange.members.set_identity(str(ann.spiffe), [], "public")
    assert exchange.identify.identify(shown(ann)).roles == ()


def test_no_certificate_and_old_tls_are_refused(exchange: SmallExchange) -> None:
    assert refused(exchange, Credentials(b"", "TLSv1.3")) is Code.ID_NO_CERTIFICATE
    for version in ("TLSv1.2", "", "TLSv1.3 ", "tlsv1.3"):
        assert refused(exchange, shown(exchange.member(), version)) is Code.ID_TLS_VERSION


def test_a_certificate_is_held_to_its_time(exchange: SmallExchange) -> None:
    identity, clock = exchange.member(), exchange.clock
    assert isinstance(clock, ManualClock)
    clock.move(hours=24)
    assert exchange.identify.identify(shown(identity))
    clock.move(seconds=1)
    assert refused(exchange, shown(identity)) is Code.ID_CERTIFICATE_EXPIRED
    clock.move(hours=-25)
    assert refused(exchange, shown(identity)) is Code.ID_CERTIFICATE_EXPIRED


@pytest.mark.parametrize("what", ["member", "identity", "serial"])
def test_a_revocation_of_any_reach_counts_at_once(exchange: SmallExchange, what: str) -> None:
    identity = exchange.member()
    other = exchange.member(member="water")
    targets = {"member": "health", "identity": str(identity.spiffe), "serial": identity.facts.serial_hex}
    exchange.members.revoke(**{what: targets[what]}, reason="lost")  # type: ignore[arg-type]
    assert refused(exchange, shown(identity)) is Code.ID_REVOKED
    assert exchange.identify.identify(shown(other))


def test_a_revoked_serial_leaves_the_identitys_other_certificate(exchange: SmallExchange) -> None:
    old, new = exchange.member(), exchange.member()
    exchange.members.revoke(serial=old.facts.serial_hex, reason="lost")
    assert refused(exchange, shown(old)) is Code.ID_REVOKED
    assert exchange.identify.identify(shown(new))


def test_identities_that_are_nobodys_are_refused(exchange: SmallExchange) -> None:
    stranger = exchange.forge([f"spiffe://{EXCHANGE}/member/health/service/never-joined"])
    assert refused(exchange, shown(stranger)) is Code.ID_MEMBER_UNKNOWN
    broker = exchange.forge([f"spiffe://{EXCHANGE}/broker/main"])
    assert refused(exchange, shown(broker)) is Code.ID_WRONG_KIND
    foreign = exchange.forge(["spiffe://other.example/member/health/service/desk"])
    assert refused(exchange, shown(foreign)) is Code.ID_CERTIFICATE_INVALID
    twice = exchange.forge([str(exchange.member().spiffe), f"spiffe://{EXCHANGE}/broker/main"])
    assert refused(exchange, shown(twice)) is Code.ID_CERTIFICATE_INVALID


def test_a_directory_that_fails_lets_nobody_in(exchange: SmallExchange, tmp_path: Path) -> None:
    identity = exchange.member()
    exchange.members._engine.dispose()
    for path in tmp_path.glob("members.db*"):
        path.unlink()
    (tmp_path / "members.db").mkdir()
    clock = exchange.clock
    assert isinstance(clock, ManualClock)
    clock.move(seconds=10)  # past the directory's snapshot
    with pytest.raises(TidegateError):
        exchange.identify.identify(shown(identity))


def test_a_stranger_is_named_without_its_login(exchange: SmallExchange) -> None:
    ann = exchange.member(IdentityKind.PERSON, "health", "ann")
    unknown = exchange.forge([f"spiffe://{EXCHANGE}/member/health/person/bob"])
    for identity in (ann, unknown):
        caller = exchange.identify.stranger(identity.facts)
        assert caller.person
        assert caller.identity.name not in caller.person
        assert (caller.roles, caller.clearance) == ((), "public")

"""Enrolment: tokens work once, renewal needs the old key, nothing leaves unrecorded."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from broker.enrolment import Enrolment, Invitation
from tests.fakes.exchange import EXCHANGE, ManualClock, SmallExchange
from tidegate.core.clock import timestamp
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.names import IdentityKind
from tidegate.identity import keys
from tidegate.identity.certificates import make_csr
from tidegate.identity.folder import LocalIdentity
from tidegate.identity.joining import JoinToken, renewal_bytes


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def exchange(tmp_path: Path, clock: ManualClock) -> SmallExchange:
    return SmallExchange(tmp_path, clock)


def invite(exchange: SmallExchange, kind: IdentityKind = IdentityKind.SERVICE, name: str = "desk") -> Invitation:
    return exchange.enrolment.invite(
        member="health",
        kind=kind,
        name=name,
        roles=["analyst"],
        clearance="internal",
        title="Health",
        tier="government",
    )


def refusal(function: Any, *arguments: Any) -> Code:
    with pytest.raises(TidegateError) as caught:
        function(*arguments)
    return caught.value.code


def test_a_token_brings_one_certificate_with_the_roles_it_was_made_for(exchange: SmallExchange) -> None:
    invitation = invite(exchange)
    issued = exchange.enrolment.join(invitation.token, make_csr(keys.new_key()))
    assert issued.facts.identity == invitation.identity
    record = exchange.members.identity(str(invitation.identity))
    assert record is not None
    assert (record.roles, record.clearance) == (("analyst",), "internal")
    assert refusal(exchange.enrolment.join, invitation.token, make_csr(keys.new_key())) is Code.ID_JOIN_TOKEN


def test_a_token_carries_the_address_and_the_roots_fingerprint(exchange: SmallExchange) -> None:
    token = JoinToken.parse(invite(exchange).token)
    assert token.address == exchange.info.enrolment
    assert token.root_fingerprint == exchange.authority.root_fingerprint


def test_of_many_that_hurry_one_joins(exchange: SmallExchange) -> None:
    token, start = invite(exchange).token, threading.Barrier(8)
    outcomes: list[str] = []

    def hurry() -> None:
        request = make_csr(keys.new_key())
        start.wait()
        try:
            outcomes.append(exchange.enrolment.join(token, request).facts.serial_hex)
        except TidegateError as error:
            outcomes.append(error.code.value)

    threads = [threading.Thread(target=hurry) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(item == "TG-ID-007" for item in outcomes) == [False] + [True] * 7


def test_a_token_expires(exchange: SmallExchange, clock: ManualClock) -> None:
    invitation = invite(exchange)
    clock.moment = invitation.expires_at
    assert refusal(exchange.enrolment.join, invitation.token, make_csr(keys.new_key())) is Code.ID_JOIN_TOKEN


def test_a_token_of_somebody_elses_making_is_unknown(exchange: SmallExchange) -> None:
    forged = JoinToken.make(exchange.info.enrolment, exchange.authority.root_fingerprint, b"\1" * 32)
    assert refusal(exchange.enrolment.join, forged.text, make_csr(keys.new_key())) is Code.ID_JOIN_TOKEN


def test_a_bad_request_does_not_cost_the_token(exchange: SmallExchange) -> None:
    invitation = invite(exchange)
    assert refusal(exchange.enrolment.join, invitation.token, b"garbage") is Code.WIRE_INVALID
    assert exchange.enrolment.join(invitation.token, make_csr(keys.new_key()))


def test_a_revoked_identity_cannot_be_invited_and_its_token_is_dead(exchange: SmallExchange) -> None:
    invitation = invite(exchange)
    exchange.enrolment.join(invitation.token, make_csr(keys.new_key()))
    second = invite(exchange)
    exchange.members.revoke(identity=str(invitation.identity), reason="left")
    assert refusal(exchange.enrolment.join, second.token, make_csr(keys.new_key())) is Code.ID_JOIN_TOKEN
    assert refusal(invite, exchange) is Code.ID_REVOKED


@pytest.mark.parametrize(
    "choices",
    [
        {"kind": IdentityKind.BROKER},
        {"roles": ["emperor"]},
        {"clearance": "cosmic"},
        {"member": "Health!"},
        {"name": "a/b"},
        {"tier": "royal"},
    ],
)
def test_an_invitation_outside_the_rules_is_refused(exchange: SmallExchange, choices: dict[str, Any]) -> None:
    good: dict[str, Any] = {
        "member": "health",
        "kind": IdentityKind.SERVICE,
        "name": "desk",
        "roles": ["analyst"],
        "clearance": "internal",
        "tier": "government",
    }
    with pytest.raises(TidegateError):
        exchange.enrolment.invite(**{**good, **choices})
    assert exchange.enrolment.invite(**good)


def test_the_log_hears_of_everything_and_holds_no_name(exchange: SmallExchange) -> None:
    invitation = invite(exchange, IdentityKind.PERSON, "ann-smith")
    issued = exchange.enrolment.join(invitation.token, make_csr(keys.new_key()))
    assert [(entry["kind"], entry["action"]) for entry in exchange.entries] == [
        ("enrolment", "invited"),
        ("certificate", "joined"),
    ]
    assert exchange.entries[1]["subject"] == issued.facts.serial_hex
    assert "ann-smith" not in repr(exchange.entries)
    assert invitation.token not in repr(exchange.entries)


def silent(exchange: SmallExchange) -> Enrolment:
    """Give the same enrolment with a log that accepts nothing."""

    def record(entry: Mapping[str, Any]) -> None:
        raise error_for(Code.AUDIT_UNAVAILABLE)

    return Enrolment(
        authority=exchange.authority,
        members=exchange.members,
        clock=exchange.clock,
        ids=exchange.ids,
        record=record,
        exchange=exchange.info,
    )


def test_without_the_log_nothing_is_issued(exchange: SmallExchange) -> None:
    invitation = invite(exchange)
    unheard = silent(exchange)
    request = make_csr(keys.new_key())
    assert refusal(unheard.join, invitation.token, request) is Code.AUDIT_UNAVAILABLE
    identity = exchange.member()
    caller = exchange.identify.examine(identity.facts)
    assert refusal(unheard.renew_over_link, caller, request) is Code.AUDIT_UNAVAILABLE


def ask(identity: LocalIdentity, clock: ManualClock, **changes: Any) -> tuple[bytes, bytes, str, bytes]:
    request = make_csr(keys.new_key())
    time = timestamp(changes.get("at", clock.now()))
    signature = keys.sign(changes.get("key", identity.key), renewal_bytes(request, time))
    return changes.get("certificate", identity.certificate_pem), request, time, signature


def test_a_certificate_renews_after_two_days_and_up_to_thirty(exchange: SmallExchange, clock: ManualClock) -> None:
    node = exchange.member(IdentityKind.NODE, name="n1")
    clock.move(days=3)
    issued = exchange.enrolment.renew_expired(*ask(node, clock))
    assert issued.facts.identity == node.spiffe
    issued.facts.check_time(clock.now())
    clock.moment = node.facts.not_after
    clock.move(days=30)
    assert exchange.enrolment.renew_expired(*ask(node, clock))
    clock.move(seconds=1)
    assert refusal(exchange.enrolment.renew_expired, *ask(node, clock)) is Code.ID_RENEWAL


def test_a_renewal_needs_the_certificates_own_key_now(exchange: SmallExchange, clock: ManualClock) -> None:
    node = exchange.member(IdentityKind.NODE, name="n1")
    other = exchange.member(IdentityKind.NODE, name="n2")
    renew = exchange.enrolment.renew_expired
    assert refusal(renew, *ask(node, clock, key=other.key)) is Code.ID_RENEWAL
    assert refusal(renew, *ask(node, clock, certificate=other.certificate_pem)) is Code.ID_RENEWAL
    certificate, request, time, signature = ask(node, clock)
    assert refusal(renew, certificate, make_csr(keys.new_key()), time, signature) is Code.ID_RENEWAL
    assert (
        refusal(renew, certificate, request, timestamp(clock.now().replace(microsecond=7)), signature)
        is Code.ID_RENEWAL
    )
    assert refusal(renew, certificate, request, "yesterday", signature) is Code.ID_RENEWAL
    assert refusal(renew, certificate, request, time, b"") is Code.ID_RENEWAL
    old = ask(node, clock)
    clock.move(minutes=5, seconds=1)
    assert refusal(renew, *old) is Code.ID_RENEWAL
    ahead = ask(node, clock)
    clock.move(minutes=-5, seconds=-1)
    assert refusal(renew, *ahead) is Code.ID_RENEWAL
    assert renew(certificate, request, time, signature)
    assert refusal(renew, certificate, request, time, signature) is Code.ID_RENEWAL


@pytest.mark.parametrize("what", ["member", "identity", "serial"])
def test_who_was_revoked_does_not_renew(exchange: SmallExchange, clock: ManualClock, what: str) -> None:
    node = exchange.member(IdentityKind.NODE, name="n1")
    targets = {"member": "health", "identity": str(node.spiffe), "serial": node.facts.serial_hex}
    exchange.members.revoke(**{what: targets[what]}, reason="gone")  # type: ignore[arg-type]
    clock.move(days=2)
    assert refusal(exchange.enrolment.renew_expired, *ask(node, clock)) is Code.ID_REVOKED


def test_strangers_do_not_renew(exchange: SmallExchange, clock: ManualClock, tmp_path: Path) -> None:
    other = SmallExchange(tmp_path / "other", clock).member(IdentityKind.NODE, name="n1")
    assert refusal(exchange.enrolment.renew_expired, *ask(other, clock)) is Code.ID_CERTIFICATE_INVALID
    unknown = exchange.forge([f"spiffe://{EXCHANGE}/member/health/node/never"])
    assert refusal(exchange.enrolment.renew_expired, *ask(unknown, clock)) is Code.ID_MEMBER_UNKNOWN
    broker = exchange.forge([f"spiffe://{EXCHANGE}/broker/main"])
    assert refusal(exchange.enrolment.renew_expired, *ask(broker, clock)) is Code.ID_MEMBER_UNKNOWN

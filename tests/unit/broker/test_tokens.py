"""Bearer tokens: for one person, bounded in number and time, known by their hash alone."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from broker.tokens import LIFETIME_S_MAX, PER_PERSON_MAX, PREFIX, Failures, IssuedToken, Tokens
from tests.fakes.exchange import ManualClock, SmallExchange
from tidegate.core.caller import BY_BEARER
from tidegate.core.clock import SystemIds
from tidegate.core.errors import Code, TidegateError
from tidegate.core.names import IdentityKind
from tidegate.identity.certificates import CertificateFacts


class House:
    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.exchange = SmallExchange(folder, self.clock)
        self.tokens = Tokens(clock=self.clock, ids=SystemIds())
        self.recorded: list[IssuedToken] = []

    def person(self, name: str = "lin", lifetime: timedelta = timedelta(hours=24)) -> CertificateFacts:
        return self.exchange.member(IdentityKind.PERSON, "health", name, lifetime=lifetime).facts

    def issue(self, shown: CertificateFacts, lifetime_s: int = LIFETIME_S_MAX) -> str:
        return self.tokens.issue(shown, lifetime_s, self.recorded.append).text


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_a_token_stands_for_its_certificate_under_a_name_of_its_own(house: House) -> None:
    shown = house.person()
    text = house.issue(shown)
    found = house.tokens.find(text)
    assert found is not None
    assert text.startswith(PREFIX)
    assert len(text) == len(PREFIX) + 43
    assert (found.identity, found.serial_hex, found.bound) == (shown.identity, shown.serial_hex, BY_BEARER)
    assert found.fingerprint != shown.fingerprint
    assert found.not_after == house.clock.now() + timedelta(seconds=LIFETIME_S_MAX)
    other = house.tokens.find(house.issue(shown))
    assert other is not None
    assert other.fingerprint != found.fingerprint
    assert text not in repr(vars(house.tokens))
    caller = house.exchange.identify.examine(found)
    assert (caller.bound, caller.fingerprint) == (BY_BEARER, found.fingerprint)


def test_what_is_not_a_token_is_not_found(house: House) -> None:
    text = house.issue(house.person())
    for other in ("", PREFIX, text[:-1], text + "A", text.upper(), "é" * 50, "A" * 5_000):
        assert house.tokens.find(other) is None


def test_a_token_ends_by_either_clock(house: House) -> None:
    text = house.issue(house.person(), 60)
    house.clock.move(seconds=59)
    assert house.tokens.find(text) is not None
    house.clock.elapsed_s += 1.0  # the clock of the day was set back
    assert house.tokens.find(text) is None
    later = house.issue(house.person(), 60)
    found = house.tokens.find(later)
    assert found is not None
    house.clock.moment += timedelta(seconds=61)
    assert house.tokens.find(later) is None
    with pytest.raises(TidegateError) as caught:
        house.exchange.identify.examine(found)
    assert caught.value.code is Code.ID_BEARER


def test_a_token_ends_with_its_certificate(house: House) -> None:
    shown = house.person(lifetime=timedelta(minutes=5))
    found = house.tokens.find(house.issue(shown))
    assert found is not None
    assert found.not_after == shown.not_after


@pytest.mark.parametrize("whom", ["member", "identity", "serial"])
def test_a_revocation_ends_it(house: House, whom: str) -> None:
    shown = house.person()
    found = house.tokens.find(house.issue(shown))
    assert found is not None
    values = {"member": "health", "identity": str(shown.identity), "serial": shown.serial_hex}
    named = {name: value if name == whom else "" for name, value in values.items()}
    house.exchange.members.revoke(**named, reason="test")
    with pytest.raises(TidegateError) as caught:
        house.exchange.identify.examine(found)
    assert caught.value.code is Code.ID_REVOKED


def test_a_token_that_could_not_be_recorded_does_not_count(house: House) -> None:
    made: list[str] = []

    def fail(issued: IssuedToken) -> None:
        made.append(issued.text)
        assert house.tokens.find(issued.text) is None  # not before it is recorded either
        raise RuntimeError

    shown = house.person()
    for _ in range(PER_PERSON_MAX + 1):
        with pytest.raises(RuntimeError):
            house.tokens.issue(shown, 60, fail)
    assert all(house.tokens.find(text) is None for text in made)


def test_a_person_has_only_so_many_until_one_ends(house: House) -> None:
    shown = house.person()
    for _ in range(PER_PERSON_MAX):
        house.issue(shown, 60)
    with pytest.raises(TidegateError) as caught:
        house.issue(shown)
    assert caught.value.code is Code.BUSY
    assert caught.value.retry_after_s == 60.0
    house.issue(house.person("wu"))
    house.clock.move(seconds=60)
    house.issue(shown)


@pytest.mark.parametrize("lifetime_s", [-1, 0, 59, 901])
def test_a_lifetime_has_bounds(house: House, lifetime_s: int) -> None:
    with pytest.raises(TidegateError) as caught:
        house.issue(house.person(), lifetime_s)
    assert caught.value.code is Code.WIRE_INVALID
    assert house.recorded == []


@pytest.mark.parametrize("kind", [IdentityKind.SERVICE, IdentityKind.NODE])
def test_only_a_person_gets_one(house: House, kind: IdentityKind) -> None:
    with pytest.raises(TidegateError) as caught:
        house.issue(house.exchange.member(kind).facts)
    assert caught.value.code is Code.ID_WRONG_KIND


def test_failures_are_counted_by_address_and_forgotten_with_the_window() -> None:
    clock = ManualClock()
    failures = Failures(clock)
    assert [failures.count("a")[0] for _ in range(3)] == [1, 2, 3]
    assert failures.count("b") == (1, 60.0)
    clock.move(seconds=60)
    assert failures.count("a")[0] == 1
    assert failures.total == 5

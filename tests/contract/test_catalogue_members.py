"""The member directory behaves the same on SQLite and PostgreSQL."""

from __future__ import annotations

import hashlib
import threading
import timeit
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from catalogue.database import writing
from catalogue.members import MemberDirectory
from tests.contract.catalogue_setup import DATABASES, EXCHANGE, HeldClock, opened
from tidegate.core.errors import Code, TidegateError

ANALYST = f"{EXCHANGE}/health/person/ana"
NODE = f"{EXCHANGE}/health/node/n1"
BROKER = "spiffe://city.example/broker/b1"


@pytest.fixture(params=DATABASES)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    with opened(request.param, tmp_path) as engine:
        yield engine


@pytest.fixture
def clock() -> HeldClock:
    return HeldClock()


@pytest.fixture
def directory(engine: Engine, clock: HeldClock) -> MemberDirectory:
    directory = MemberDirectory(engine, clock)
    directory.add_member("health", "Health office", "government")
    directory.set_identity(ANALYST, ("steward", "analyst", "analyst"), "restricted")
    directory.set_identity(NODE, (), "internal")
    return directory


def refused(code: Code, call: Any, *args: Any, **kwargs: Any) -> None:
    with pytest.raises(TidegateError) as caught:
        call(*args, **kwargs)
    assert caught.value.code is code, caught.value


def token_of(directory: MemberDirectory, clock: HeldClock, secret: str, hours: float = 24) -> str:
    digest = hashlib.sha256(secret.encode()).hexdigest()
    directory.put_token(digest, NODE, ("steward",), "internal", clock.now() + timedelta(hours=hours))
    return digest


def certify(directory: MemberDirectory, clock: HeldClock, serial: str, spiffe: str = ANALYST) -> None:
    directory.record_certificate(serial, spiffe, "ab" * 32, clock.now() + timedelta(hours=24))


def test_members_and_identities_come_back(directory: MemberDirectory, engine: Engine, clock: HeldClock) -> None:
    certify(directory, clock, "0a")
    clock.advance(hours=1)
    certify(directory, clock, "0b")
    for reader in (directory, MemberDirectory(engine, clock)):
        record = reader.identity(ANALYST)
        assert record is not None
        assert (record.roles, record.clearance, record.revoked, record.tier) == (
            ("analyst", "steward"),
            "restricted",
            False,
            "government",
        )
        assert record.not_after == "2026-11-22T11:00:00.000000Z"
        member = reader.member("health")
        assert member is not None
        assert (member.title, member.revoked, len(member.identities)) == ("Health office", False, 2)
    assert directory.identity(f"{EXCHANGE}/health/person/bob") is None
    assert directory.member("nobody") is None


def test_a_person_has_an_opaque_id_that_stays(directory: MemberDirectory) -> None:
    first, node = directory.identity(ANALYST), directory.identity(NODE)
    assert first is not None
    assert node is not None
    assert len(first.person) == 25
    assert "ana" not in first.person
    assert node.person == ""
    assert directory.set_identity(ANALYST, ("analyst",), "internal").person == first.person


def test_names_roles_and_clearances_of_no_list_are_refused(directory: MemberDirectory) -> None:
    refused(Code.CAT_INVALID, directory.add_member, "Health", "x", "government")
    refused(Code.CAT_INVALID, directory.add_member, "other", "x", "royal")
    refused(Code.CAT_INVALID, directory.add_member, "other", "a\x1b[2J", "government")
    refused(Code.CAT_INVALID, directory.set_identity, ANALYST, ("root",), "internal")
    refused(Code.CAT_INVALID, directory.set_identity, ANALYST, (), "cosmic")
    refused(Code.ID_MEMBER_UNKNOWN, directory.set_identity, f"{EXCHANGE}/nobody/person/a", (), "internal")
    refused(Code.ID_CERTIFICATE_INVALID, directory.set_identity, "https://x", (), "internal")
    refused(Code.ID_WRONG_KIND, directory.set_identity, BROKER, ("operator",), "internal")


class TestRevocation:
    """Certificate, identity, member."""

    def test_of_one_certificate_leaves_the_others(self, directory: MemberDirectory, clock: HeldClock) -> None:
        certify(directory, clock, "a1")
        certify(directory, clock, "a2")
        directory.revoke(serial="00A1", reason="key lost")
        assert directory.is_denied("a1", ANALYST)
        assert directory.is_denied("00a1", ANALYST)
        assert not directory.is_denied("a2", ANALYST)

    def test_of_an_identity_takes_its_certificates_and_tokens(
        self, directory: MemberDirectory, clock: HeldClock
    ) -> None:
        certify(directory, clock, "a1", NODE)
        digest = token_of(directory, clock, "t")
        directory.revoke(identity=NODE, reason="stolen")
        assert directory.is_denied("a1", NODE)
        assert directory.is_denied(b"never-seen".hex()[:20], NODE)
        assert not directory.is_denied("a2", ANALYST)
        assert directory.take_token(digest) is None
        refused(Code.ID_REVOKED, certify, directory, clock, "a3", NODE)
        refused(Code.ID_REVOKED, directory.set_identity, NODE, (), "internal")

    def test_of_a_member_takes_everything(self, directory: MemberDirectory, clock: HeldClock) -> None:
        certify(directory, clock, "a1")
        digest = token_of(directory, clock, "t")
        directory.revoke(member="health", reason="left")
        assert directory.is_denied("a1", ANALYST)
        assert directory.is_denied("ff", f"{EXCHANGE}/health/service/never_recorded")
        assert not directory.is_denied("ff", f"{EXCHANGE}/east/service/s")
        record, member = directory.identity(ANALYST), directory.member("health")
        assert record is not None
        assert record.revoked
        assert member is not None
        assert member.revoked
        assert directory.take_token(digest) is None
        refused(Code.ID_REVOKED, token_of, directory, clock, "t2")
        refused(Code.ID_REVOKED, certify, directory, clock, "a3")

    def test_of_a_broker_certificate_works_by_serial(self, directory: MemberDirectory, clock: HeldClock) -> None:
        certify(directory, clock, "b1", BROKER)
        assert not directory.is_denied("b1", BROKER)
        directory.revoke(serial="b1", reason="host lost")
        assert directory.is_denied("b1", BROKER)

    def test_reinstated_means_a_new_certificate(self, directory: MemberDirectory, clock: HeldClock) -> None:
        certify(directory, clock, "a1")
        directory.revoke(member="health", reason="mistake")
        directory.reinstate(member="health")
        assert directory.is_denied("a1", ANALYST)
        refused(Code.ID_REVOKED, directory.set_identity, ANALYST, (), "internal")
        directory.reinstate(identity=ANALYST)
        directory.set_identity(ANALYST, ("analyst",), "internal")
        certify(directory, clock, "a2")
        assert not directory.is_denied("a2", ANALYST)
        assert directory.is_denied("a1", ANALYST)

    def test_names_one_thing_and_a_reason(self, directory: MemberDirectory) -> None:
        refused(Code.CAT_INVALID, directory.revoke, reason="x")
        refused(Code.CAT_INVALID, directory.revoke, member="health", identity=ANALYST, reason="x")
        refused(Code.CAT_INVALID, directory.revoke, member="health", reason=" ")
        refused(Code.CAT_INVALID, directory.revoke, serial="not hex", reason="x")
        refused(Code.ID_MEMBER_UNKNOWN, directory.revoke, member="nobody", reason="x")
        refused(Code.ID_MEMBER_UNKNOWN, directory.revoke, identity=f"{EXCHANGE}/a/node/b", reason="x")
        refused(Code.ID_MEMBER_UNKNOWN, directory.revoke, serial="ee", reason="x")
        refused(Code.CAT_INVALID, directory.reinstate)
        refused(Code.ID_MEMBER_UNKNOWN, directory.reinstate, member="nobody")

    def test_survives_a_restart(self, directory: MemberDirectory, engine: Engine, clock: HeldClock) -> None:
        certify(directory, clock, "a1")
        directory.revoke(serial="a1", reason="key lost")
        assert MemberDirectory(engine, clock).is_denied("a1", ANALYST)


def test_a_serial_is_used_once(directory: MemberDirectory, clock: HeldClock) -> None:
    certify(directory, clock, "a1")
    refused(Code.CAT_CONFLICT, certify, directory, clock, "A1")
    refused(Code.ID_MEMBER_UNKNOWN, certify, directory, clock, "a2", f"{EXCHANGE}/health/person/nobody")


class TestTokens:
    """Each is good once, and for its time."""

    def test_gives_what_it_was_made_for(self, directory: MemberDirectory, clock: HeldClock) -> None:
        digest = token_of(directory, clock, "t")
        taken = directory.take_token(digest)
        assert taken is not None
        assert (taken.spiffe, taken.roles, taken.clearance) == (NODE, ("steward",), "internal")
        assert directory.take_token(digest) is None
        assert directory.take_token("00" * 32) is None

    def test_of_many_takers_at_two_brokers_one_gets_it(
        self, directory: MemberDirectory, engine: Engine, clock: HeldClock
    ) -> None:
        digest = token_of(directory, clock, "t")
        brokers = (directory, MemberDirectory(engine, clock))
        start = threading.Barrier(8)

        def take(number: int) -> bool:
            start.wait()
            return brokers[number % 2].take_token(digest) is not None

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(take, range(8))) == 1

    def test_expires(self, directory: MemberDirectory, clock: HeldClock) -> None:
        early, late = token_of(directory, clock, "a", hours=1), token_of(directory, clock, "b", hours=2)
        clock.advance(hours=1)
        assert directory.take_token(early) is None
        assert directory.take_token(late) is not None

    def test_is_kept_as_a_hash_and_made_once(self, directory: MemberDirectory, clock: HeldClock) -> None:
        token_of(directory, clock, "t")
        refused(Code.CAT_CONFLICT, token_of, directory, clock, "t")
        refused(Code.CAT_INVALID, directory.put_token, "t", NODE, (), "internal", clock.now())


class TestSnapshot:
    """What is asked at every call comes from memory, and is never old."""

    def test_takes_microseconds(self, directory: MemberDirectory, clock: HeldClock) -> None:
        for number in range(200):
            certify(directory, clock, f"{number + 1:x}")
        directory.revoke(serial="5", reason="x")
        best = min(timeit.repeat(lambda: directory.is_denied("7", ANALYST), number=1_000, repeat=5)) / 1_000
        assert best < 50e-6, f"{best * 1e6:.1f} us"

    def test_another_brokers_revocation_is_seen_within_the_limit(
        self, directory: MemberDirectory, engine: Engine, clock: HeldClock
    ) -> None:
        certify(directory, clock, "a1")
        other = MemberDirectory(engine, clock)
        told: list[str] = []
        other.subscribe(lambda: told.append("changed"))
        directory.revoke(serial="a1", reason="x")
        clock.advance(seconds=0.25)
        assert other.is_denied("a1", ANALYST)
        assert told == ["changed"]

    def test_subscribers_hear_of_rights_and_of_nothing_else(self, directory: MemberDirectory, clock: HeldClock) -> None:
        told: list[str] = []

        def broken() -> None:
            told.append("broken")
            raise RuntimeError

        directory.subscribe(broken)
        stop = directory.subscribe(lambda: told.append(str(directory.is_denied("a1", ANALYST))))
        certify(directory, clock, "a1")
        directory.add_member("health", "New title", "government")
        directory.refresh()
        assert told == []
        directory.set_identity(ANALYST, (), "internal")
        assert told == ["broken", "False"]
        directory.revoke(serial="a1", reason="x")
        assert told == ["broken", "False", "broken", "True"]
        stop()
        directory.revoke(identity=ANALYST, reason="x")
        assert told[4:] == ["broken"]

    def test_a_database_that_is_away_lets_nobody_in(
        self, directory: MemberDirectory, engine: Engine, clock: HeldClock
    ) -> None:
        assert not directory.is_denied("a1", ANALYST)
        with writing(engine) as connection:
            connection.execute(text("ALTER TABLE counters RENAME TO gone"))
        clock.advance(seconds=1)
        refused(Code.INTERNAL, directory.is_denied, "a1", ANALYST)
        refused(Code.INTERNAL, directory.identity, ANALYST)


def test_holds_role(directory: MemberDirectory) -> None:
    assert directory.holds_role(ANALYST, "steward")
    assert not directory.holds_role(ANALYST, "operator")
    assert not directory.holds_role(f"{EXCHANGE}/health/person/bob", "steward")
    directory.revoke(identity=ANALYST, reason="x")
    assert not directory.holds_role(ANALYST, "steward")


def test_members_come_in_pages(directory: MemberDirectory) -> None:
    for name in ("b", "a", "z", "c-1"):
        directory.add_member(name, name, "external")
    seen, token = [], ""
    while True:
        page = directory.members(page_size=2, page_token=token)
        seen += [member.name for member in page.members]
        token = page.next_page_token
        if not token:
            break
    assert seen == ["a", "b", "c-1", "health", "z"]
    refused(Code.CAT_INVALID, directory.members, page_token="nonsense")
    refused(Code.CAT_INVALID, directory.members, page_size=-1)

"""The node's own agreements: what a listed steward signed is kept, over restarts too; nothing else ever is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog

from node.agreements import AgreementStore, read_agreement
from tests.fakes.exchange import ManualClock, SmallExchange
from tidegate.core.agreement import Agreement, SignedAgreement
from tidegate.core.canonical import canonical
from tidegate.core.clock import timestamp
from tidegate.core.errors import CallerError, Code
from tidegate.core.names import DatasetName, IdentityKind
from tidegate.identity.documents import sign_document
from tidegate.identity.folder import LocalIdentity

FLIGHTS = DatasetName("aviation", "flights")


class Place:
    """A folder of agreements, with the people around it."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.exchange = SmallExchange(folder / "exchange", self.clock)
        self.steward = self.exchange.member(IdentityKind.PERSON, "aviation", "ann")
        self.stranger = self.exchange.member(IdentityKind.PERSON, "aviation", "eve")
        self.folder = folder / "agreements"
        self.recorded: list[tuple[str, str, str]] = []
        self.stewards = [self.steward.spiffe]
        self.store = self.open()

    def open(self) -> AgreementStore:
        return AgreementStore(
            self.folder,
            member="aviation",
            stewards=self.stewards,
            root_pem=lambda: self.exchange.authority.root_pem,
            recorded=lambda *what: self.recorded.append(what),
            clock=self.clock,
            log=structlog.get_logger(),
        )

    def agreement(self, **changes: Any) -> Agreement:
        now = self.clock.now()
        fields: dict[str, Any] = {
            "id": "a1",
            "dataset": FLIGHTS,
            "owner": "aviation",
            "grantee": "weather",
            "purposes": ("operations.planning",),
            "legal_basis": "",
            "columns": ("id",),
            "mode": "rows",
            "min_group_size": 1,
            "row_filter": {},
            "issued_at": timestamp(now),
            "expires_at": timestamp(now + timedelta(days=30)),
            "granted_by": str(self.steward.spiffe),
        }
        return Agreement(**{**fields, **changes})

    def found(self, store: AgreementStore | None = None, grantee: str = "weather") -> list[str]:
        return [item.id for item in (store or self.store).for_request([FLIGHTS], grantee, self.clock.now())]

    def revoke(self, agreement_id: str, signer: LocalIdentity) -> str:
        document = canonical({"revoke": agreement_id, "at": timestamp(self.clock.now()), "reason": "a test"})
        signature, chain = sign_document(signer, document)
        return self.store.revoke(document.decode(), signature, chain)


def signed(agreement: Agreement, signer: LocalIdentity) -> SignedAgreement:
    signature, chain = sign_document(signer, agreement.signed_bytes())
    return SignedAgreement(agreement, signature, chain)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "exchange").mkdir()
    return Place(tmp_path)


def test_keeps_what_a_steward_signed_and_finds_it_after_a_restart(place: Place) -> None:
    place.store.store(signed(place.agreement(), place.steward))
    assert place.found() == ["a1"]
    assert place.found(place.open()) == ["a1"]
    assert place.found(grantee="health") == []
    assert [what[:2] for what in place.recorded] == [("agreement_stored", "a1")]


def test_storing_it_twice_records_it_once(place: Place) -> None:
    for _ in range(2):
        place.store.store(signed(place.agreement(), place.steward))
    assert len(place.recorded) == 1


def test_another_document_under_the_same_id_is_a_conflict(place: Place) -> None:
    place.store.store(signed(place.agreement(), place.steward))
    with pytest.raises(CallerError) as caught:
        place.store.store(signed(place.agreement(columns=("id", "name")), place.steward))
    assert caught.value.code is Code.CAT_CONFLICT


def test_holds_after_the_stewards_certificate_has_ended_and_until_its_own_end(place: Place) -> None:
    place.store.store(signed(place.agreement(), place.steward))
    place.clock.move(days=29)
    assert place.found(place.open()) == ["a1"]
    place.clock.move(days=1)
    assert place.found() == []


WRONG: dict[str, Callable[[Place], SignedAgreement]] = {
    "another signer": lambda place: signed(place.agreement(granted_by=str(place.stranger.spiffe)), place.stranger),
    "another's name": lambda place: signed(place.agreement(), place.stranger),
    "another department's data": lambda place: signed(
        place.agreement(dataset=DatasetName("weather", "wind")), place.steward
    ),
    "another owner": lambda place: signed(place.agreement(owner="weather"), place.steward),
    "a changed document": lambda place: replace(
        signed(place.agreement(), place.steward), agreement=place.agreement(columns=("id", "name"))
    ),
    "no signature": lambda place: replace(signed(place.agreement(), place.steward), signature=b""),
    "no chain": lambda place: replace(signed(place.agreement(), place.steward), chain_pem=b""),
    "issued in the future": lambda place: signed(
        place.agreement(issued_at=timestamp(place.clock.now() + timedelta(hours=1))), place.steward
    ),
    "issued before the signer's certificate": lambda place: signed(
        place.agreement(issued_at=timestamp(place.clock.now() - timedelta(days=1))), place.steward
    ),
    "ends before it begins": lambda place: signed(
        place.agreement(expires_at=timestamp(place.clock.now() - timedelta(days=1))), place.steward
    ),
    "times of no form": lambda place: signed(place.agreement(issued_at="today"), place.steward),
    "an endless id": lambda place: signed(place.agreement(id="x" * 1000), place.steward),
}


@pytest.mark.parametrize("what", WRONG)
def test_does_not_keep(place: Place, what: str) -> None:
    document = WRONG[what](place)
    with pytest.raises(CallerError) as caught:
        place.store.store(document)
    assert caught.value.code is Code.CAT_AGREEMENT
    assert place.recorded == []
    assert place.store.counts == (0, 0)


def test_another_exchanges_steward_counts_for_nothing(place: Place, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = SmallExchange(tmp_path / "other", place.clock)
    with pytest.raises(CallerError):
        place.store.store(signed(place.agreement(), other.member(IdentityKind.PERSON, "aviation", "ann")))


def test_a_revocation_holds_for_ever_also_when_it_came_first(place: Place) -> None:
    place.revoke("a1", place.steward)
    place.store.store(signed(place.agreement(), place.steward))
    assert place.found() == []
    assert place.found(place.open()) == []
    assert [what[0] for what in place.recorded] == ["agreement_revoked", "agreement_stored"]


def test_a_stranger_cannot_revoke(place: Place) -> None:
    place.store.store(signed(place.agreement(), place.steward))
    with pytest.raises(CallerError):
        place.revoke("a1", place.stranger)
    assert place.found() == ["a1"]


def test_a_failing_log_stores_nothing_but_still_revokes(place: Place) -> None:
    def fail(*_: str) -> None:
        raise OSError("disk")

    place.store.store(signed(place.agreement(), place.steward))
    place.store._recorded = fail
    with pytest.raises(OSError, match="disk"):
        place.store.store(signed(place.agreement(id="a2"), place.steward))
    with pytest.raises(OSError, match="disk"):
        place.revoke("a1", place.steward)
    assert place.found() == []
    assert place.found(place.open()) == []


def test_a_file_that_was_changed_or_whose_steward_was_struck_off_is_left_out(place: Place) -> None:
    place.store.store(signed(place.agreement(), place.steward))
    (file,) = place.folder.glob("*.json")
    good = file.read_bytes()
    document = json.loads(good)
    document["agreement"]["columns"] = ["id", "name"]
    for bad in (json.dumps(document).encode(), good[:100], b"[]", b"{}", b"\xff"):
        file.write_bytes(bad)
        assert place.found(place.open()) == []
    file.write_bytes(good)
    assert place.found(place.open()) == ["a1"]
    place.stewards = []
    assert place.found(place.open()) == []


@pytest.mark.parametrize("text", ["", "[]", "{", '{"version": 1}', '{"a": 1, "a": 2}', "\x00"])
def test_a_pushed_document_of_no_form_is_refused(text: str) -> None:
    with pytest.raises(CallerError) as caught:
        read_agreement(text, b"", b"")
    assert caught.value.code is Code.CAT_AGREEMENT


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", "{}", '{"revoke": "a1"}', '{"revoke": "a1", "at": "now"}', '{"revoke": 1, "at": "2026-01-01T00:00:00Z"}',
     '{"revoke": "", "at": "2026-01-01T00:00:00Z"}', '{"revoke": "a1", "at": "2026-01-01T00:00:00Z", "more": "x"}'],
)  # fmt: skip
def test_a_revocation_of_no_form_is_refused(place: Place, text: str) -> None:
    with pytest.raises(CallerError) as caught:
        place.store.revoke(text, b"", b"")
    assert caught.value.code is Code.CAT_AGREEMENT

"""Purposes and agreements behave the same on SQLite and PostgreSQL; signatures are real, under a real authority."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from broker.authority import Authority
from catalogue.agreements import AgreementRegister
from catalogue.members import MemberDirectory
from catalogue.purposes import Purpose
from catalogue.store import Catalogue
from tests.contract.catalogue_setup import DATABASES, HeldClock, city, dataset, opened
from tidegate.core.agreement import Agreement, SignedAgreement
from tidegate.core.clock import timestamp
from tidegate.core.dataset import DatasetClass
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.names import DatasetName, SpiffeId
from tidegate.identity import keys
from tidegate.identity.certificates import CertificateFacts, make_csr
from tidegate.identity.documents import verify_document

FLIGHTS = DatasetName("aviation", "flights")
STEWARD = "spiffe://city.example/member/aviation/person/sam"
ANALYST = "spiffe://city.example/member/aviation/person/ana"
STRANGER = "spiffe://city.example/member/weather/person/wu"
NODE = "spiffe://city.example/member/aviation/node/n1"


@dataclass
class Town:
    """A catalogue with an authority whose certificates it believes."""

    catalogue: Catalogue
    directory: MemberDirectory
    authority: Authority
    clock: HeldClock
    last_serial: str = ""

    def sign(self, spiffe: str, data: bytes, authority: Authority | None = None) -> tuple[bytes, bytes]:
        key = keys.new_key()
        issued = (authority or self.authority).issue(make_csr(key), SpiffeId.parse(spiffe))
        serial = issued.facts.serial_hex
        if authority is None:
            self.directory.record_certificate(serial, spiffe, issued.facts.fingerprint, issued.facts.not_after)
        self.last_serial = serial
        return keys.sign(key, data), issued.certificate_pem + issued.chain_pem

    def terms(self, **changes: Any) -> Agreement:
        now = self.clock.now()
        values: dict[str, Any] = {
            "id": "agreement-17",
            "dataset": FLIGHTS,
            "owner": "aviation",
            "grantee": "health",
            "purposes": ("epidemic.control",),
            "legal_basis": "law.health",
            "columns": ("id",),
            "mode": "rows",
            "min_group_size": 1,
            "row_filter": {"type": "field", "field": "id", "operator": "in", "value": [1, 2]},
            "issued_at": timestamp(now),
            "expires_at": timestamp(now + timedelta(days=30)),
            "granted_by": STEWARD,
        }
        return Agreement(**(values | changes))

    def signed(self, signer: str = STEWARD, **changes: Any) -> SignedAgreement:
        agreement = self.terms(**changes)
        signature, chain = self.sign(signer, agreement.signed_bytes())
        return SignedAgreement(agreement, signature, chain)

    def revocation(self, signer: str = STEWARD, **changes: Any) -> tuple[bytes, bytes, bytes]:
        values = {"revoke": "agreement-17", "at": timestamp(self.clock.now()), "reason": "no longer needed"}
        document = json.dumps(values | changes).encode()
        return document, *self.sign(signer, document)


@pytest.fixture(params=DATABASES)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    with opened(request.param, tmp_path) as engine:
        yield engine


@pytest.fixture
def town(engine: Engine, tmp_path: Path) -> Town:
    clock = HeldClock()
    authority = Authority.create(tmp_path / "authority", "city.example", clock)

    def verify(data: bytes, signature: bytes, chain_pem: bytes, at: datetime) -> CertificateFacts:
        return verify_document(data, signature, chain_pem, authority.root_pem, at)

    catalogue, directory = city(engine, clock, verify=verify)
    directory.set_identity(STEWARD, ("steward",), "internal")
    directory.set_identity(ANALYST, ("analyst",), "internal")
    directory.set_identity(STRANGER, ("steward",), "internal")
    directory.set_identity(NODE, ("steward",), "internal")
    catalogue.register(dataset("aviation.flights"))
    return Town(catalogue, directory, authority, clock)


def refused(code: Code, call: Any, *args: Any, **kwargs: Any) -> None:
    with pytest.raises(TidegateError) as caught:
        call(*args, **kwargs)
    assert caught.value.code is code, caught.value


class TestPurposes:
    """The registry."""

    def test_is_sorted_and_changes_by_adding_again(self, town: Town) -> None:
        catalogue, entries = town.catalogue, list[Mapping[str, Any]]()
        catalogue.add_purpose(Purpose("traffic.planning", "Roads", ("order.809", "law.roads")), record=entries.append)
        catalogue.add_purpose(Purpose("traffic.planning", "Roads", ("law.roads", "order.809")), record=entries.append)
        assert catalogue.purposes() == (
            Purpose("epidemic.control", "Epidemic control", ("law.health", "order.809")),
            Purpose("traffic.planning", "Roads", ("law.roads", "order.809")),
        )
        assert [entry["action"] for entry in entries] == ["add_purpose"]

    def test_check_names_the_basis_or_says_what_is_missing(self, town: Town) -> None:
        check = town.catalogue.check_purpose
        assert check("traffic.planning") == "law.roads"
        assert check("epidemic.control", "order.809") == "order.809"
        refused(Code.POLICY_PURPOSE, check, "epidemic.control")
        refused(Code.POLICY_PURPOSE, check, "epidemic.control", "law.roads")
        refused(Code.POLICY_PURPOSE, check, "")
        refused(Code.POLICY_PURPOSE, check, "nosuch.purpose", "law.roads")

    @pytest.mark.parametrize(
        "bad",
        [
            ("Bad", "t", ("a",)),
            ("a", "", ("a",)),
            ("a", "t", ()),
            ("a", "t", ("B",)),
            ("a", "t\x07", ("a",)),
            ("a", "t", ("a", "a")),
        ],
    )
    def test_of_wrong_form_is_refused(self, bad: tuple[str, str, tuple[str, ...]]) -> None:
        refused(Code.CAT_INVALID, Purpose, *bad)

    def test_that_cannot_be_recorded_is_not_added(self, town: Town) -> None:
        def fail(_entry: Mapping[str, Any]) -> None:
            raise error_for(Code.AUDIT_UNAVAILABLE)

        refused(Code.AUDIT_UNAVAILABLE, town.catalogue.add_purpose, Purpose("a", "t", ("b",)), record=fail)
        refused(Code.POLICY_PURPOSE, town.catalogue.check_purpose, "a")


def test_an_agreement_is_in_force_for_its_dataset_grantee_and_time(town: Town) -> None:
    catalogue, now = town.catalogue, town.clock.now()
    signed = town.signed()
    assert catalogue.put_agreement(signed).state == "granted"
    assert catalogue.agreements_for([FLIGHTS], "health", now) == (signed.agreement,)
    assert catalogue.agreements_for([FLIGHTS], "weather", now) == ()
    assert catalogue.agreements_for([DatasetName("aviation", "other")], "health", now) == ()
    assert catalogue.agreements_for([], "health", now) == ()
    assert catalogue.agreements_for([FLIGHTS], "health", now - timedelta(seconds=1)) == ()
    assert catalogue.agreements_for([FLIGHTS], "health", now + timedelta(days=29, hours=23)) == (signed.agreement,)
    assert catalogue.agreements_for([FLIGHTS], "health", now + timedelta(days=30)) == ()
    (stored,) = catalogue.agreements_of_owner("aviation")
    assert stored.signed == signed
    verify_document(
        stored.signed.agreement.signed_bytes(),
        stored.signed.signature,
        stored.signed.chain_pem,
        town.authority.root_pem,
        now,
    )
    town.clock.advance(days=31)
    assert catalogue.agreement("agreement-17").state == "expired"


def test_the_same_document_again_changes_nothing_and_another_one_is_a_conflict(town: Town) -> None:
    entries: list[Mapping[str, Any]] = []
    town.catalogue.put_agreement(town.signed(), record=entries.append)
    town.catalogue.put_agreement(town.signed(), record=entries.append)
    assert [(entry["action"], entry["grantee"]) for entry in entries] == [("grant", "health")]
    refused(Code.CAT_CONFLICT, town.catalogue.put_agreement, town.signed(columns=("id", "value")))


class TestSigners:
    """Only a live steward of the owner, with a certificate of this exchange."""

    @pytest.mark.parametrize("signer", [ANALYST, STRANGER, NODE])
    def test_others_are_refused(self, town: Town, signer: str) -> None:
        refused(Code.CAT_AGREEMENT, town.catalogue.put_agreement, town.signed(signer, granted_by=signer))

    def test_the_document_names_who_signed_it(self, town: Town) -> None:
        town.directory.set_identity(ANALYST, ("steward",), "internal")
        refused(Code.CAT_AGREEMENT, town.catalogue.put_agreement, town.signed(STEWARD, granted_by=ANALYST))

    def test_a_changed_document_does_not_verify(self, town: Town) -> None:
        signed = town.signed()
        wider = replace(signed, agreement=town.terms(columns=("id", "value")))
        refused(Code.AUDIT_VERIFICATION, town.catalogue.put_agreement, wider)

    def test_a_certificate_of_another_authority_is_refused(self, town: Town, tmp_path: Path) -> None:
        foreign = Authority.create(tmp_path / "foreign", "city.example", town.clock)
        agreement = town.terms()
        signature, chain = town.sign(STEWARD, agreement.signed_bytes(), foreign)
        refused(Code.ID_CERTIFICATE_INVALID, town.catalogue.put_agreement, SignedAgreement(agreement, signature, chain))

    def test_a_revoked_certificate_or_steward_is_refused(self, town: Town) -> None:
        signed = town.signed()
        town.directory.revoke(serial=town.last_serial, reason="key lost")
        refused(Code.CAT_AGREEMENT, town.catalogue.put_agreement, signed)
        town.directory.set_identity(STEWARD, (), "internal")
        refused(Code.CAT_AGREEMENT, town.catalogue.put_agreement, town.signed())

    def test_the_certificate_was_valid_when_the_document_says_it_was_signed(self, town: Town) -> None:
        early = timestamp(town.clock.now() - timedelta(days=3))
        refused(Code.ID_CERTIFICATE_EXPIRED, town.catalogue.put_agreement, town.signed(issued_at=early))

    def test_without_a_verifier_nothing_is_taken(self, town: Town, engine: Engine) -> None:
        register = AgreementRegister(engine, town.clock)
        refused(Code.CAT_AGREEMENT, register.put_agreement, town.signed())


class TestTerms:
    """What no node would accept is refused here already."""

    @pytest.mark.parametrize(
        "changes",
        [
            {"columns": ("id", "secret")},
            {"grantee": "nobody"},
            {"purposes": ("traffic.planning",)},
            {"purposes": ("nosuch.purpose",)},
            {"legal_basis": "law.roads"},
            {"expires_at": "2026-11-21T09:00:00Z"},
            {"expires_at": "next year"},
            {"issued_at": "2026-11-21T11:00:00Z"},
            {"issued_at": "2026-11-21T10:00:00"},
        ],
    )
    def test_that_cannot_hold_are_refused(self, town: Town, changes: dict[str, Any]) -> None:
        refused(Code.CAT_AGREEMENT, town.catalogue.put_agreement, town.signed(**changes))
        assert town.catalogue.agreements_of_owner("aviation") == ()

    def test_about_a_dataset_that_is_not_the_owners_are_refused(self, town: Town) -> None:
        town.catalogue.register(dataset("weather.hours"))
        for name in ("weather.hours", "aviation.none"):
            refused(Code.CAT_NOT_FOUND, town.catalogue.put_agreement, town.signed(dataset=DatasetName.parse(name)))
        town.catalogue.withdraw("aviation", FLIGHTS, reason="old")
        refused(Code.CAT_NOT_FOUND, town.catalogue.put_agreement, town.signed())

    def test_about_a_closed_dataset_are_refused(self, town: Town) -> None:
        flights = town.catalogue.dataset("aviation", FLIGHTS)
        closed = replace(flights, dataset_class=DatasetClass.CLOSED, citation="Air Act 7")
        town.catalogue.update(closed, expected_version=1)
        refused(Code.CAT_AGREEMENT, town.catalogue.put_agreement, town.signed())


class TestRevocation:
    """A steward's signed word, final."""

    def test_ends_the_agreement_at_once(self, town: Town) -> None:
        entries: list[Mapping[str, Any]] = []
        town.catalogue.put_agreement(town.signed())
        document, signature, chain = town.revocation()
        stored = town.catalogue.revoke_agreement(document, signature, chain, record=entries.append)
        assert stored.state == "revoked"
        assert town.catalogue.agreements_for([FLIGHTS], "health", town.clock.now()) == ()
        (kept,) = town.catalogue.agreements_of_owner("aviation")
        assert kept.revocation is not None
        assert (kept.revocation.document, kept.revocation.signature) == (document, signature)
        town.catalogue.revoke_agreement(*town.revocation(), record=entries.append)
        assert [entry["reason"] for entry in entries] == ["no longer needed"]
        assert town.catalogue.put_agreement(town.signed()).state == "revoked"
        assert town.catalogue.agreements_for([FLIGHTS], "health", town.clock.now()) == ()

    def test_by_others_is_refused(self, town: Town) -> None:
        town.catalogue.put_agreement(town.signed())
        refused(Code.CAT_AGREEMENT, town.catalogue.revoke_agreement, *town.revocation(STRANGER))
        document, signature, chain = town.revocation()
        refused(Code.AUDIT_VERIFICATION, town.catalogue.revoke_agreement, document + b" ", signature, chain)
        assert town.catalogue.agreement("agreement-17").state == "granted"

    @pytest.mark.parametrize(
        "changes",
        [
            {"reason": " "},
            {"reason": "\x1b[0m"},
            {"at": "today"},
            {"at": "2026-11-21T12:00:00Z"},
            {"more": 1},
            {"reason": 3},
        ],
    )
    def test_of_wrong_form_is_refused(self, town: Town, changes: dict[str, Any]) -> None:
        town.catalogue.put_agreement(town.signed())
        with pytest.raises(TidegateError) as caught:
            town.catalogue.revoke_agreement(*town.revocation(**changes))
        assert caught.value.code in (Code.CAT_AGREEMENT, Code.CAT_INVALID)
        assert town.catalogue.agreement("agreement-17").state == "granted"

    def test_of_an_unknown_one_is_not_found(self, town: Town) -> None:
        refused(Code.CAT_NOT_FOUND, town.catalogue.revoke_agreement, *town.revocation(revoke="agreement-18"))


def test_what_the_node_has_acknowledged_is_not_pending(town: Town) -> None:
    catalogue = town.catalogue
    catalogue.put_agreement(town.signed())
    assert len(catalogue.agreements_of_owner("aviation", pending=True)) == 1
    catalogue.acknowledge("agreement-17", revoked=False)
    assert catalogue.agreements_of_owner("aviation", pending=True) == ()
    catalogue.revoke_agreement(*town.revocation())
    (pending,) = catalogue.agreements_of_owner("aviation", pending=True)
    assert pending.state == "revoked"
    catalogue.acknowledge("agreement-17", revoked=False)  # late word about the state before
    assert len(catalogue.agreements_of_owner("aviation", pending=True)) == 1
    catalogue.acknowledge("agreement-17", revoked=True)
    assert catalogue.agreements_of_owner("aviation", pending=True) == ()


def test_agreements_are_listed_to_both_sides_in_pages(town: Town) -> None:
    for number, grantee in enumerate(("health", "weather", "health")):
        town.catalogue.put_agreement(town.signed(id=f"a{number}", grantee=grantee))

    def ids(member: str, **filters: Any) -> list[str]:
        page = town.catalogue.list_agreements(member, **filters)
        return [item.signed.agreement.id for item in page.agreements]

    assert ids("aviation") == ids("") == ["a0", "a1", "a2"]
    assert ids("health") == ["a0", "a2"]
    assert ids("east") == []
    assert ids("aviation", grantee="weather") == ["a1"]
    assert ids("aviation", dataset="aviation.other") == []
    first = town.catalogue.list_agreements("aviation", page_size=2)
    assert ids("aviation", page_size=2, page_token=first.next_page_token) == ["a2"]

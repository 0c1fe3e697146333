"""A glance says what the registers say, and every change is seen by the very next one, also one that another broker made."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, insert, update

from catalogue.database import CATALOGUE, writing
from catalogue.glance import Glance
from catalogue.purposes import Purpose
from catalogue.store import Catalogue
from catalogue.tables import AGREEMENTS
from tests.contract.catalogue_setup import DATABASES, HeldClock, city, dataset, opened
from tidegate.core.agreement import Agreement
from tidegate.core.clock import timestamp
from tidegate.core.errors import Code, TidegateError
from tidegate.core.names import DatasetName

FLIGHTS = DatasetName.parse("aviation.flights")


@pytest.fixture(params=DATABASES)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    with opened(request.param, tmp_path) as found:
        yield found


def _grant(engine: Engine, clock: HeldClock, identifier: str) -> None:
    """Put an agreement's row in place, as the register does once the signature was checked."""
    now = clock.now()
    terms = Agreement.from_json(
        {
            "version": 1,
            "id": identifier,
            "dataset": str(FLIGHTS),
            "owner": "aviation",
            "grantee": "health",
            "purposes": ["traffic.planning"],
            "legal_basis": "law.roads",
            "columns": ["id"],
            "mode": "rows",
            "min_group_size": 1,
            "row_filter": {},
            "issued_at": timestamp(now),
            "expires_at": timestamp(now + timedelta(days=1)),
            "granted_by": "spiffe://city.example/member/aviation/person/sam",
        }
    )
    row = {"id": identifier, "dataset": str(FLIGHTS), "owner": "aviation", "grantee": "health", "at_node": False}
    row |= {"document": terms.signed_bytes().decode(), "signature": b"s", "chain_pem": b"c"}
    with writing(engine, CATALOGUE) as connection:
        connection.execute(insert(AGREEMENTS).values(**row, issued_at=terms.issued_at, expires_at=terms.expires_at))


def _ids(glance: Glance, clock: HeldClock) -> list[str]:
    return [item.id for item in glance.agreements_for([FLIGHTS], clock.now())]


def test_nothing_is_read_again_while_nothing_changes(engine: Engine) -> None:
    catalogue, _ = city(engine, HeldClock())
    assert catalogue.glance("health") is catalogue.glance("health")


def test_agreements_are_those_of_the_register_and_a_revocation_bites_at_once(engine: Engine) -> None:
    clock = HeldClock()
    catalogue, _ = city(engine, clock)
    other = Catalogue(engine, clock)
    catalogue.register(dataset(str(FLIGHTS)))
    assert _ids(catalogue.glance("health"), clock) == []
    for identifier in ("a2", "a1"):
        _grant(engine, clock, identifier)
        held = catalogue.glance("health")
        assert held.agreements_for([FLIGHTS], clock.now()) == catalogue.agreements_for([FLIGHTS], "health", clock.now())
    assert _ids(catalogue.glance("health"), clock) == ["a1", "a2"]
    assert _ids(catalogue.glance("weather"), clock) == []
    assert _ids(other.glance("health"), clock) == ["a1", "a2"]
    with writing(engine, CATALOGUE) as connection:
        connection.execute(update(AGREEMENTS).where(AGREEMENTS.c.id == "a1").values(revoked_at=timestamp(clock.now())))
    assert _ids(catalogue.glance("health"), clock) == ["a2"]
    assert _ids(other.glance("health"), clock) == ["a2"]
    clock.advance(days=1)
    assert _ids(catalogue.glance("health"), clock) == []  # ended by itself; no generation says so


def test_names_and_purposes_are_seen_at_once(engine: Engine) -> None:
    catalogue, _ = city(engine, HeldClock())
    assert FLIGHTS not in catalogue.glance("health").schema
    catalogue.register(dataset(str(FLIGHTS)))
    assert FLIGHTS in catalogue.glance("health").schema
    catalogue.withdraw("aviation", FLIGHTS, reason="wrong")
    assert FLIGHTS not in catalogue.glance("health").schema
    assert catalogue.glance("health").check_purpose("traffic.planning") == "law.roads"
    for code, basis in (
        ("", ""),
        ("unknown.purpose", ""),
        ("traffic.planning", "law.health"),
        ("epidemic.control", ""),
    ):
        with pytest.raises(TidegateError) as ours:
            catalogue.glance("health").check_purpose(code, basis)
        with pytest.raises(TidegateError) as theirs:
            catalogue.check_purpose(code, basis)
        assert ours.value.code is Code.POLICY_PURPOSE
        assert ours.value.message == theirs.value.message
    catalogue.add_purpose(Purpose("traffic.planning", "Traffic planning", ("law.health",)))
    assert catalogue.glance("health").check_purpose("traffic.planning") == "law.health"

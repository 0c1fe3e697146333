"""Found in review: an invitation changed a tier, which policies read, before anything was recorded and without saying so."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from broker.enrolment import Enrolment
from tests.fakes.exchange import ManualClock, SmallExchange
from tidegate.core.errors import Code, InternalError, error_for
from tidegate.core.names import IdentityKind


def test_a_tier_is_recorded_before_it_holds(tmp_path: Path) -> None:
    exchange = SmallExchange(tmp_path, ManualClock())
    exchange.members.add_member("contractor", "Contractor", "external")

    def full(_entry: Mapping[str, Any]) -> None:
        raise error_for(Code.AUDIT_UNAVAILABLE)

    enrolment = Enrolment(
        authority=exchange.authority,
        members=exchange.members,
        clock=exchange.clock,
        ids=exchange.ids,
        record=full,
        exchange=exchange.info,
    )
    with pytest.raises(InternalError):
        enrolment.invite(member="contractor", kind=IdentityKind.SERVICE, name="s", tier="government")
    held = exchange.members.member("contractor")
    assert held is not None and held.tier == "external"

    exchange.enrolment.invite(member="contractor", kind=IdentityKind.SERVICE, name="s", tier="government")
    held = exchange.members.member("contractor")
    assert held is not None and held.tier == "government"
    assert exchange.entries[-1]["details"]["tier"] == "government"

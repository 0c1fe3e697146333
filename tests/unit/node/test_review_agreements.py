"""Found in review: a revocation that could not be recorded at once was acknowledged at the second try, and never recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.node.test_agreements import Place, signed
from tidegate.core.errors import Code, InternalError, error_for


def test_a_revocation_is_acknowledged_only_once_it_is_written_and_recorded(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.store.store(signed(place.agreement(), place.steward))
    failing = [True]

    class Log(list[tuple[str, str, str]]):
        def append(self, what: tuple[str, str, str]) -> None:
            if failing[0]:
                raise error_for(Code.AUDIT_UNAVAILABLE)
            super().append(what)

    place.recorded = Log()
    for _ in range(2):
        with pytest.raises(InternalError):
            place.revoke("a1", place.steward)
        assert place.found() == [], "in force at once, whatever the log says"
    failing[0] = False
    place.revoke("a1", place.steward)
    place.revoke("a1", place.steward)
    assert [what[:2] for what in place.recorded] == [("agreement_revoked", "a1")]
    assert place.found(place.open()) == []

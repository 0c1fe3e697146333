"""EXPLAIN at the front of a statement goes to the Explain call; the word anywhere else does not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.fakes.scripted_query import ScriptedExchange
from tidegate.client.explained import Explained, explained
from tidegate.client.session import Session
from tidegate.core.errors import CallerError


@pytest.mark.parametrize(
    ("sql", "rest", "analyze"),
    [
        ("EXPLAIN SELECT 1", " SELECT 1", False),
        ("explain\nselect 1", "\nselect 1", False),
        ("  -- why\n/* a\nb */EXPLAIN(SELECT 1)", "(SELECT 1)", False),
        ("EXPLAIN ANALYZE SELECT 1", " SELECT 1", True),
        ("Explain /* x */ Analyze SELECT 1", " SELECT 1", True),
        ("EXPLAIN analyzed", "analyzed", False),
    ],
)
def test_it_is_cut_off_the_front(sql: str, rest: str, analyze: bool) -> None:
    found = explained(sql)
    assert found is not None
    assert (found.sql.strip(), found.analyze) == (rest.strip(), analyze)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1",
        "SELECT 'EXPLAIN SELECT 1'",
        "EXPLAINED",
        "explain_me",
        "-- EXPLAIN SELECT 1",
        "/* EXPLAIN */ SELECT 1",
        "",
    ],
)
def test_elsewhere_it_means_nothing(sql: str) -> None:
    assert explained(sql) is None


def session(exchange: ScriptedExchange) -> Session:
    known: Any = SimpleNamespace(exchange=SimpleNamespace(log_verifier_key=exchange.log.verifier_key))
    return Session(known, exchange.transport, purpose="of.session", legal_basis="act.1")


def test_a_session_sends_it_to_explain(exchange: ScriptedExchange) -> None:
    asked = session(exchange)
    for sql in ("EXPLAIN SELECT 1", "SELECT 1"):
        assert asked.explain(sql).picture == "picture"
        sent = exchange.asked[-1]
        assert (sent.sql.strip(), sent.analyze, sent.purpose, sent.legal_basis) == (
            "SELECT 1",
            False,
            "of.session",
            "act.1",
        )
    asked.explain("EXPLAIN ANALYZE SELECT 1", purpose="other")
    assert (exchange.asked[-1].analyze, exchange.asked[-1].purpose) == (True, "other")


def test_query_points_to_explain(exchange: ScriptedExchange) -> None:
    before = len(exchange.asked)
    with pytest.raises(CallerError, match="explain\\(\\)"):
        session(exchange).query("EXPLAIN SELECT 1")
    assert len(exchange.asked) == before
    assert Explained("x", analyze=True) != Explained("x", analyze=False)


def test_half_a_character_is_refused_before_it_is_sent(exchange: ScriptedExchange) -> None:
    with pytest.raises(CallerError, match="Unicode"):
        session(exchange).query("SELECT '\udcff'")

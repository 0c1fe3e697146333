"""Hostile and ordinary SQL through the real door of a real exchange: two departments, real nodes, real policy.

What must be refused is refused before any node hears of it; what is answered shows nothing hidden, and the very same on data
that differs in hidden rows alone; what is costly costs its caller alone; and what analysts write every day works.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeVar

import duckdb
import pyarrow as pa
import pytest

from tests.escape_world import (
    CANARIES,
    FILE_CANARY,
    PURPOSE,
    EscapeExchange,
    Statement,
    benign_cases,
    escape_exchange,
    own,
    shared,
)
from tests.inference_statements import TELLING, sample, statements
from tests.sql_world import world
from tidegate import ipc
from tidegate.client.session import Session
from tidegate.core.errors import Code, Family, TidegateError

pytestmark = pytest.mark.xdist_group("federation-escapes")

Item = TypeVar("Item")
Done = TypeVar("Done")
DEADLINE_S = 20.0
MARKER = "SELECT count(*) FROM south.claims AS c JOIN north.flights AS f ON c.id = f.flight_id"
LIMITED = {Code.QUERY_DEADLINE, Code.JOIN_LIMIT, Code.FETCH_LIMIT, Code.NODE_EXECUTE, Code.JOIN_FAILED}
PLANNERS_WORK = "SELECT " + ", ".join(["*"] * 5500) + " FROM north.flights"  # well-formed, and seconds of binding


@pytest.fixture(scope="module")
def exchange(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EscapeExchange]:
    with escape_exchange(tmp_path_factory.mktemp("escapes")) as running:
        yield running


@pytest.fixture(scope="module")
def local() -> Iterator[duckdb.DuckDBPyConnection]:
    with world() as connection:
        yield connection


def ask(session: Session, sql: str, params: Any = None, *, deadline_s: float = DEADLINE_S) -> pa.Table | TidegateError:
    """Ask over the wire, past whatever the client itself would refuse: an attacker brings a client of its own."""
    try:
        stream = session.transport.execute(
            sql, purpose=PURPOSE, legal_basis="", parameters=params or None, deadline_s=deadline_s
        )
        schema, batches = ipc.read(stream.chunks())
        return pa.Table.from_batches(list(batches), schema)
    except TidegateError as error:
        return error


def said(outcome: pa.Table | TidegateError) -> str:
    """Give everything that a caller sees of an outcome but the names of columns, which repeat the caller's own words."""
    if isinstance(outcome, TidegateError):
        reasons = [reason.to_json() for reason in outcome.reasons]
        return f"{outcome.code.value} {outcome.message} {reasons}"
    rows = sorted(
        repr(tuple(row.values()))
        for row in outcome.rename_columns(list(map(str, range(outcome.num_columns)))).to_pylist()
    )
    return f"{[str(field.type) for field in outcome.schema]} {rows}"


def _numbered(table: pa.Table) -> pa.Table:
    return table.rename_columns([f"c{number}" for number in range(table.num_columns)])


def each(work: Callable[[Item], Done], items: Iterable[Item]) -> list[Done]:
    """Do it for each, a few at a time: as several callers would."""
    with ThreadPoolExecutor(3) as pool:
        return list(pool.map(work, items))


@dataclass(frozen=True)
class Mark:
    """How far the broker's log and each node's own had come."""

    broker: int
    nodes: dict[str, int]


def mark(exchange: EscapeExchange) -> Mark:
    """Ask both nodes for something: their answers name their newest entries."""
    result = exchange.office().query(MARKER, purpose=PURPOSE)
    assert result.to_arrow().num_rows == 1
    return Mark(result.receipt.index, {item["member"]: item["node_entry"] for item in result.report})


def entries(exchange: EscapeExchange, kind: str, *, since: int, until: int) -> list[dict[str, Any]]:
    """Read the broker's entries of a kind about the caller, between two of its entries."""
    found: list[dict[str, Any]] = []
    token = ""
    while True:
        page, token = exchange.auditor().transport.audit_search(
            {"member": "office", "type": kind, "page_size": 500, "page_token": token}
        )
        found += [item for item in page if since < item["index"] < until]
        if not token or page[-1]["index"] <= since:
            return found


def refused_before_any_node(exchange: EscapeExchange, hostile: list[Statement]) -> None:
    before = mark(exchange)
    answered = []
    for statement in hostile:
        outcome = ask(exchange.office(), statement.on("a"))
        if not isinstance(outcome, TidegateError):
            answered.append(statement.id)
            continue
        assert outcome.info.family in (Family.CALLER, Family.REFUSED), (statement.id, str(outcome))
        assert outcome.receipt, statement.id
        shown = said(outcome)
        assert not any(canary in shown for canary in (*CANARIES, FILE_CANARY)), statement.id
    after = mark(exchange)
    assert answered == []
    assert after.nodes == {member: index + 1 for member, index in before.nodes.items()}, "a node was asked"
    assert entries(exchange, "decision", since=before.broker, until=after.broker) == []
    assert len(entries(exchange, "refusal", since=before.broker, until=after.broker)) == len(hostile)


def test_hostile_statements_are_refused_and_no_node_is_asked(exchange: EscapeExchange) -> None:
    hostile = own("escapes", "refuse")
    assert len(hostile) >= 250
    refused_before_any_node(exchange, hostile)


def test_hostile_statements_of_the_shared_sample_are_refused_and_no_node_is_asked(exchange: EscapeExchange) -> None:
    refused_before_any_node(exchange, [item for item in _sample("escapes.jsonl", "refuse") if item.id not in _COSTLY])


_COSTLY = {"R042"}  # nothing in its form is forbidden; the engine's limits stop it


def _sample(name: str, expect: str) -> list[Statement]:
    found = [item for item in shared(name) if item.expect == expect]
    if not found:
        pytest.skip("the shared SQL sample is not on this machine")
    return found


def shows_nothing_hidden(exchange: EscapeExchange, name: str, sql: str) -> str:
    """Ask on both states; the outcome is the same and holds no canary. Give what was said."""
    first, second = (said(ask(exchange.office(), sql.replace("@state", state))) for state in ("a", "b"))
    assert not [canary for canary in CANARIES if canary in first + second], name
    assert first == second.replace("staff_b", "staff_a").replace("vault_b", "vault_a"), name
    return first


def test_what_is_answered_of_the_shared_sample_shows_nothing_hidden(exchange: EscapeExchange) -> None:
    each(lambda item: shows_nothing_hidden(exchange, item.id, item.sql), _sample("escapes.jsonl", "no_leak"))


def test_answers_over_filtered_rows_say_nothing_of_hidden_ones(exchange: EscapeExchange) -> None:
    outcomes = each(lambda sql: shows_nothing_hidden(exchange, sql, sql), TELLING)
    answered = [outcome for outcome in outcomes if outcome.startswith("[")]
    assert len(answered) >= len(TELLING) * 3 // 4, "nearly all of these are ordinary questions"


@pytest.mark.parametrize("form", ["sample", pytest.param("everything", marks=pytest.mark.long)])
def test_errors_say_nothing_of_hidden_rows(exchange: EscapeExchange, form: str) -> None:
    chosen = sample() if form == "sample" else statements()
    outcomes = each(lambda named: shows_nothing_hidden(exchange, *named), chosen.items())
    answered = [outcome for outcome in outcomes if outcome.startswith("[")]
    assert len(answered) >= len(chosen) // 2, "an exchange that refuses them all proves little"


def test_the_hidden_rows_would_break_these_statements(exchange: EscapeExchange) -> None:
    """The statements have teeth: over the raw data, without policy, most of them fail or tell the two states apart."""
    folder = exchange.local.folder.parent / "data"
    with duckdb.connect() as engine:
        engine.execute("CREATE SCHEMA north; CREATE SCHEMA south")
        for state in ("a", "b"):
            engine.execute(f"CREATE TABLE north.staff_{state} AS FROM '{folder}/staff_{state}.parquet'")
        engine.execute(f"CREATE TABLE south.claims AS FROM '{folder}/claims.parquet'")

        def raw(sql: str) -> str:
            try:
                return str(sorted(map(repr, engine.execute(sql).fetchall())))
            except duckdb.Error as error:
                return f"failed {error}"

        def tells(sql: str) -> bool:
            first, second = (raw(sql.replace("@state", state)) for state in ("a", "b"))
            return first.startswith("failed") or first != second

        raising, telling = [tells(sql) for sql in sample().values()], [tells(sql) for sql in TELLING]
    assert sum(raising) >= len(raising) * 3 // 4
    assert sum(telling) >= len(telling) * 3 // 4


def test_ordinary_statements_of_the_shared_sample_are_answered(exchange: EscapeExchange) -> None:
    items = _sample("benign.jsonl", "ok")
    outcomes = each(lambda item: ask(exchange.office(), item.on("a"), item.params), items)
    for item, outcome in zip(items, outcomes, strict=True):
        assert isinstance(outcome, pa.Table), (item.id, str(outcome))
        assert not [canary for canary in CANARIES if canary in said(outcome)], item.id


def test_ordinary_statements_are_answered_as_one_local_engine_answers_them(
    exchange: EscapeExchange, local: duckdb.DuckDBPyConnection
) -> None:
    ordinary = benign_cases()
    assert len(ordinary) >= 100
    outcomes = each(lambda pair: ask(exchange.office(), pair[1], pair[0].params), ordinary)
    for (case, _), outcome in zip(ordinary, outcomes, strict=True):
        assert isinstance(outcome, pa.Table), (case.id, str(outcome))
        expected = local.execute(case.sql, case.params).fetchall()
        local.register("answer", _numbered(outcome))  # DuckDB makes Python values of the answer as it does of its own
        answer = local.execute("FROM answer").fetchall()
        local.unregister("answer")
        assert _rows(answer) == _rows(expected), case.id


def _rows(rows: list[tuple[Any, ...]]) -> list[str]:
    return sorted(repr(_comparable(row)) for row in rows)


def _comparable(value: Any) -> Any:
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return float(f"{value:.9g}")  # DuckDB hands a HUGEINT (the sum of integers) to Arrow as a double
    if isinstance(value, dict):
        return {key: _comparable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_comparable(item) for item in value]
    return value


def test_a_star_is_what_one_may_see_and_a_named_column_is_refused(exchange: EscapeExchange) -> None:
    office = exchange.office()
    seen = office.query("SELECT * FROM north.staff_a", purpose=PURPOSE)
    assert seen.to_arrow().schema.names == ["region", "amount", "person", "id"]
    assert [item["not_shown"] for item in seen.disclosure["datasets"]] == [["salary"]]
    excluded = ask(office, "SELECT * EXCLUDE (salary) FROM north.staff_a")
    assert isinstance(excluded, pa.Table)
    assert excluded.num_columns == 4
    for sql in (
        "SELECT salary FROM north.staff_a",
        "SELECT t.SALARY FROM north.staff_a AS t",
        "SELECT *, salary FROM north.staff_a",
    ):
        refused = ask(office, sql)
        assert isinstance(refused, TidegateError)
        assert refused.code is Code.POLICY_REFUSED
        assert any("salary" in reason.text for reason in refused.reasons)


def test_what_may_not_be_known_looks_as_what_does_not_exist(exchange: EscapeExchange) -> None:
    for form in ("SELECT * FROM {}", "SELECT count(*) FROM north.flights AS f JOIN {} AS v ON true", "TABLE {}"):
        hidden, absent = (ask(exchange.office(), form.format(name)) for name in ("north.vault_a", "north.nothing"))
        assert said(hidden) == said(absent)
    assert isinstance(ask(exchange.local.session("north", "desk"), "SELECT * FROM north.vault_a"), pa.Table)


# -- what is costly -------------------------------------------------------------------------------------------------


def _chain(relations: list[str]) -> str:
    """Join by inequalities: nothing in the form says how large it grows."""
    text = f"SELECT count(*), max(t0.amount + t5.amount) FROM {relations[0]} AS t0"
    for number, relation in enumerate(relations[1:], 1):
        text += f" JOIN {relation} AS t{number} ON t{number}.amount <> t{number - 1}.id"
    return text


COSTLY = {
    "at the broker": _chain(["north.staff_a", "south.claims"] * 3),
    "at a node": _chain(["north.staff_a"] * 6),
    "memory at the broker": "SELECT count(DISTINCT a.person || b.person || c.person || d.region) FROM north.staff_a AS a, "
    "south.claims AS b, north.staff_a AS c, south.claims AS d",
    "memory at a node": "SELECT count(DISTINCT a.person || b.person || c.person || d.person) FROM north.staff_a AS a, "
    "north.staff_a AS b, north.staff_a AS c, north.staff_a AS d",
    "sort": "SELECT max(r) FROM (SELECT row_number() OVER (ORDER BY hash(a.person || b.person || c.person || d.person)) AS r "
    "FROM north.staff_a AS a, north.staff_a AS b, north.staff_a AS c, south.claims AS d) AS q",
    "lists": "SELECT len(list(a.person || b.person || c.person || d.person)) FROM south.claims AS a, south.claims AS b, "
    "south.claims AS c, south.claims AS d",
}


@pytest.mark.parametrize("where", COSTLY)
def test_what_is_costly_is_stopped_by_a_limit_and_costs_nobody_else(exchange: EscapeExchange, where: str) -> None:
    office, press = exchange.office(), exchange.press()
    with ThreadPoolExecutor(1) as pool:
        started = time.monotonic()
        costly = pool.submit(ask, office, COSTLY[where], deadline_s=1.2)
        meanwhile = ask(press, MARKER)
        outcome = costly.result()
        elapsed = time.monotonic() - started
    assert isinstance(meanwhile, pa.Table), str(meanwhile)
    assert isinstance(outcome, TidegateError)
    assert outcome.code in LIMITED, str(outcome)
    assert elapsed < 3.0
    after = ask(office, MARKER)
    assert isinstance(after, pa.Table), str(after)


def test_costly_statements_of_the_shared_sample_are_stopped_by_a_limit(exchange: EscapeExchange) -> None:
    for item in _sample("escapes.jsonl", "refuse"):
        if item.id in _COSTLY:
            outcome = ask(exchange.office(), item.on("a"), deadline_s=1.5)
            assert isinstance(outcome, TidegateError)
            assert outcome.code in LIMITED, str(outcome)
    assert isinstance(ask(exchange.press(), MARKER), pa.Table)


def test_texts_that_take_long_to_plan_cost_their_caller_clear_errors_and_nobody_else(exchange: EscapeExchange) -> None:
    office, press = exchange.office(), exchange.press()
    with ThreadPoolExecutor(4) as pool:
        started = time.monotonic()
        bombs = [pool.submit(_timed, office, PLANNERS_WORK, 3.0) for _ in range(4)]
        answers = []
        while not answers or not all(bomb.done() for bomb in bombs):
            answers.append(ask(press, MARKER, deadline_s=2.5))  # would be over, were both planners taken
        outcomes = [bomb.result() for bomb in bombs]
        elapsed = time.monotonic() - started
    for outcome, took in outcomes:
        assert isinstance(outcome, TidegateError)
        assert outcome.code in (Code.PLAN_DEADLINE, Code.QUERY_DEADLINE, Code.BUSY), str(outcome)
        assert took < 4.5
    assert Code.PLAN_DEADLINE in {outcome.code for outcome, _ in outcomes if isinstance(outcome, TidegateError)}
    assert [str(answer) for answer in answers if not isinstance(answer, pa.Table)] == []
    assert elapsed < 10


def test_several_costly_joins_of_one_member_leave_a_worker_to_the_others(exchange: EscapeExchange) -> None:
    office, press = exchange.office(), exchange.press()
    with ThreadPoolExecutor(4) as pool:
        costly = [pool.submit(ask, office, COSTLY["at the broker"], deadline_s=3.0) for _ in range(4)]
        answers = []
        while not answers or not all(item.done() for item in costly):
            answers.append(ask(press, MARKER, deadline_s=2.5))  # would be over, were both workers taken
        outcomes = [item.result() for item in costly]
    assert [str(answer) for answer in answers if not isinstance(answer, pa.Table)] == []
    for outcome in outcomes:
        assert isinstance(outcome, TidegateError)
        assert outcome.code in (*LIMITED, Code.BUSY), str(outcome)


def _timed(session: Session, sql: str, deadline_s: float) -> tuple[pa.Table | TidegateError, float]:
    started = time.monotonic()
    outcome = ask(session, sql, deadline_s=deadline_s)
    return outcome, time.monotonic() - started

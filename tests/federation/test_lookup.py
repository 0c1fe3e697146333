"""Look-ups over real processes: cached plans and kept decisions answer alike, nothing goes unrecorded, and what was taken away
bites on the next request."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.lookup import BATCH, benchmark, count_when_written
from benchmarks.registers import ASKING, DATASET, LOOK_UP, OWNER, PURPOSES, grant, keeper_of, open_register
from examples.local import LocalExchange
from tidegate.channel import open_channel
from tidegate.client.session import Session
from tidegate.core.canonical import canonical
from tidegate.core.clock import SystemClock, SystemIds, timestamp
from tidegate.core.errors import Code, TidegateError
from tidegate.core.limits import FEATURE_WHOLE, PROTOCOL_VERSION
from tidegate.core.values import Value, encode
from tidegate.identity.documents import sign_document
from tidegate.tlog.verify import verify_log
from tidegate.v1 import common_pb2, query_service_pb2, query_service_pb2_grpc

pytestmark = pytest.mark.xdist_group("federation-lookup")
ROWS = 5_000


@pytest.fixture(scope="module")
def exchange(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalExchange]:
    with open_register(tmp_path_factory.mktemp("register"), rows=ROWS) as found:
        yield found


def keeper(session: Session, key: int, purpose: str = PURPOSES[0]) -> list[str]:
    found: list[str] = session.query(LOOK_UP, purpose=purpose, params=[key]).to_arrow().column("keeper").to_pylist()
    return found


def refused(session: Session, key: int = 1) -> TidegateError:
    with pytest.raises(TidegateError) as caught:
        keeper(session, key)
    return caught.value


def node_entries(exchange: LocalExchange) -> Counter[str]:
    """Count what the node's own log says, which is open in another process: its write-ahead log is not read here."""
    counts: Counter[str] = Counter()
    folder = exchange.folder / "members" / OWNER / "node1-state" / "log"
    key = json.loads((folder / "log.json").read_text())["verifier_key"]
    verify_log(folder / "published", key, on_entry=lambda _index, entry: counts.update([_kind(entry)]))
    return counts


def _kind(entry: bytes) -> str:
    said = json.loads(entry)
    return f"{said['kind']}/{said['action']}"


def test_sixteen_callers_at_once_get_their_own_rows_and_each_is_recorded_at_both_ends(exchange: LocalExchange) -> None:
    sessions = [exchange.session(member, "app") for member in ASKING]
    wrong: list[object] = []
    each = 20

    def ask(place: int) -> None:
        for number in range(each):
            key = (place * 313 + number * 17) % ROWS
            try:
                found = keeper(sessions[place % 4], key, PURPOSES[place % 3])
            except TidegateError as error:
                wrong.append(error)
                return
            if found != [keeper_of(key)]:
                wrong.append((key, found))

    before = count_when_written(exchange, 0)
    threads = [threading.Thread(target=ask, args=(place,)) for place in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    counts = count_when_written(exchange, before["outcome"] + 16 * each)
    assert counts["decision"] - before["decision"] == counts["outcome"] - before["outcome"] == 16 * each
    assert counts["open"] == 0
    exchange.stop(f"{OWNER}-node1")  # so that all of its log is under a checkpoint
    entries = node_entries(exchange)
    exchange.run_node(OWNER)
    exchange.wait_attached([OWNER])
    assert sum(count for kind, count in entries.items() if kind.startswith("node_execution/")) >= counts["decision"]


def test_values_of_other_classes_and_absent_keys_are_answered_as_the_engine_would(exchange: LocalExchange) -> None:
    session = exchange.session(ASKING[0], "app")
    assert keeper(session, 7) == [keeper_of(7)]
    assert keeper(session, ROWS + 5) == []
    assert session.query(LOOK_UP, purpose=PURPOSES[0], params=[None]).to_arrow().num_rows == 0
    assert session.query(LOOK_UP, purpose=PURPOSES[0], params=["7"]).to_arrow().column("keeper").to_pylist() == [
        keeper_of(7)
    ]
    assert keeper(session, 8) == [keeper_of(8)]


def test_a_batch_of_keys_is_one_request(exchange: LocalExchange) -> None:
    session = exchange.session(ASKING[1], "app")
    for first in (0, 1_000):
        keys: list[Value] = list(range(first, first + 1_000))
        answer = session.query(BATCH, purpose=PURPOSES[1], params=[keys]).to_arrow()
        assert dict(zip(answer["id"].to_pylist(), answer["keeper"].to_pylist(), strict=True)) == {
            key: keeper_of(key) for key in range(first, first + 1_000)
        }


def test_a_role_that_was_taken_away_bites_on_the_next_request(exchange: LocalExchange) -> None:
    session = exchange.session(ASKING[2], "app")
    assert keeper(session, 3) == [keeper_of(3)]
    identity = str(session.identity.spiffe)
    operator = exchange.operator().transport
    operator.set_roles(identity, [], "internal", SystemIds().request_id())
    assert refused(session, 4).code is Code.POLICY_REFUSED
    operator.set_roles(identity, ["analyst"], "internal", SystemIds().request_id())
    assert keeper(session, 5) == [keeper_of(5)]


def test_a_revoked_agreement_bites_on_the_next_request_and_a_new_one_too(exchange: LocalExchange) -> None:
    session, steward = exchange.session(ASKING[3], "app"), exchange.session(OWNER, "steward")
    assert keeper(session, 3) == [keeper_of(3)]
    (held,) = [item for item in steward.transport.agreements(DATASET, ASKING[3]) if item["state"] == "granted"]
    document = canonical({"revoke": held["id"], "at": timestamp(SystemClock().now()), "reason": "the test says so"})
    signature, chain = sign_document(steward.identity, document)
    assert steward.transport.revoke_agreement(document, signature, chain, SystemIds().request_id())
    error = refused(session, 4)
    assert error.code is Code.POLICY_REFUSED
    assert [reason.code for reason in error.reasons] == ["agreement_missing"]
    assert error.receipt
    grant(exchange, ASKING[3])
    assert keeper(session, 5) == [keeper_of(5)]


def test_the_benchmark_runs_and_counts_the_log(tmp_path: Path) -> None:
    found = benchmark(tmp_path, rows=2_000, rounds=1, seconds=0.5, keys=500, alone=True)
    assert found["answered"] > 0
    assert found["log"]["decision"] >= found["answered"]
    assert found["log"]["open"] == 0
    assert {"ratio_echo", "lookups_per_s", "p99_ms", "batch_keys_per_s", "without_coalescing"} <= set(found)


def test_a_caller_that_does_not_know_whole_answers_is_given_its_parts(exchange: LocalExchange) -> None:
    session = exchange.session(ASKING[0], "app")
    with open_channel(session.identity.exchange.callers, session.identity) as channel:
        ask = query_service_pb2_grpc.QueryServiceStub(channel).Execute
        parameters = json.dumps([encode(7)])
        for features, kinds in ((), ["started", "batch", "finished"]), ((FEATURE_WHOLE,), ["whole"]):
            version = common_pb2.Version(protocol=PROTOCOL_VERSION, features=features)
            request = query_service_pb2.ExecuteRequest(
                sql=LOOK_UP, purpose=PURPOSES[0], parameters_json=parameters, version=version
            )
            assert [item.WhichOneof("kind") for item in ask(request, timeout=30)] == kinds

"""Found in review: what one hostile node, or a caller who does not read, could do to everybody else through the nodes' door."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
import structlog

from broker.attachments import (
    COUNT_MAX,
    QUEUE_CHUNKS_MAX,
    AgreementOrder,
    Attachment,
    Attachments,
    PendingFragment,
)
from broker.listeners import NODES_PER_CALLER_MAX, NODES_SPARE_THREADS
from broker.values import FragmentReport
from broker.wire.node import NodeServicer, _named
from tests.fakes.exchange import ManualClock
from tests.unit.broker.test_attachments import CLOCK, attachment, order, read, sent, trailer
from tidegate.core.caller import Caller
from tidegate.core.dataset import Column, Dataset, DatasetClass
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.names import DatasetName
from tidegate.v1 import common_pb2, node_service_pb2
from tidegate.wire import from_detail


def test_what_comes_after_the_trailer_takes_no_memory() -> None:
    """The Attach stream never waits: answer after answer to one fragment would all be kept, up to its limit of gigabytes."""
    _, pending = sent()
    pending.put(b"schema")
    pending.finish(trailer(b"schema"))
    for _ in range(100):
        pending.put(b"x" * 1000)
    pending.finish(trailer(b"schema"))
    assert len(pending._items) == 2
    assert read(pending) == [b"schema"]


def test_a_failure_stays_the_first_one_and_nothing_follows_it() -> None:
    _, pending = sent()
    pending.fail(error_for(Code.FETCH_NODE_FAILED, "first"))
    pending.fail(error_for(Code.FETCH_NODE_AWAY, "second"))
    pending.put(b"schema")
    with pytest.raises(TidegateError) as caught:
        read(pending)
    assert caught.value.message == "first"
    assert len(pending._items) == 0


def test_an_answer_that_came_whole_is_not_lost_when_its_node_leaves() -> None:
    home, pending = sent()
    pending.put(b"schema")
    pending.finish(trailer(b"schema"))
    home.leave()
    assert read(pending) == [b"schema"]


def test_a_caller_who_never_reads_holds_a_thread_of_the_nodes_until_the_deadline_and_no_longer() -> None:
    clock = ManualClock()
    pending = PendingFragment(order(), FragmentReport("f0", "health", "n"), lambda _data, _signature: True, clock)
    for _ in range(QUEUE_CHUNKS_MAX):
        pending.put(b"c")
    clock.move(seconds=pending.order.deadline_s)
    stuck = threading.Thread(target=pending.put, args=(b"last",), daemon=True)
    stuck.start()
    stuck.join(5)
    assert not stuck.is_alive()
    with pytest.raises(TidegateError) as caught:
        list(pending.chunks(clock.monotonic_s() + 1, threading.Event()))
    assert caught.value.code is Code.QUERY_DEADLINE


@pytest.mark.parametrize("field", ["rows", "suppressed_groups", "entry_index"])
@pytest.mark.parametrize("count", [-1, COUNT_MAX + 1, (1 << 63) - 1])
def test_counts_that_no_entry_of_the_log_could_hold_end_the_part_by_name(field: str, count: int) -> None:
    _, pending = sent()
    pending.put(b"schema")
    changes: dict[str, Any] = {field: count}
    pending.finish(replace(trailer(b"schema"), **changes))
    with pytest.raises(TidegateError) as caught:
        read(pending)
    assert caught.value.code is Code.FETCH_INVALID_DATA and "health" in caught.value.message


def test_acknowledgements_that_nobody_waits_for_are_not_kept() -> None:
    home = attachment()
    for number in range(100):
        home.acknowledged(f"invented-{number}", stored=True)
    assert home._stored == set()


def test_an_agreements_acknowledgement_is_not_taken_for_its_revocations() -> None:
    home = attachment()
    outcome: list[bool] = []
    agreement = AgreementOrder("a1", "{}", b"", b"")
    pushing = threading.Thread(target=lambda: outcome.append(home.push_agreement(agreement, 10.0)))
    pushing.start()
    assert home.orders.get(timeout=10) == agreement
    # The revocation waits for its turn, so the one acknowledgement that is under way cannot be meant for it.
    assert home.push_agreement(replace(agreement, revocation_json="{}"), 0.0) is False
    home.acknowledged("a1", stored=True)
    pushing.join(10)
    assert outcome == [True]


def test_a_node_speaks_neither_with_the_brokers_receipt_nor_with_its_request_id() -> None:
    said = common_pb2.ErrorDetail(code=Code.NODE_EXECUTE.value, message="no", request_id="f" * 32, receipt=b"forged")
    error = _named(from_detail(said), "health")
    assert (error.receipt, error.request_id) == (b"", "")
    assert error.message == "health: no"


def test_one_node_cannot_take_every_spare_thread() -> None:
    assert NODES_PER_CALLER_MAX < NODES_SPARE_THREADS


# --- the servicer ---------------------------------------------------------------------------------------------------------


class Door:
    """The part of the guard that the servicer asks, with one node that is always welcome."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.hooks: list[Callable[[], None]] = []

    @contextmanager
    def stream(self, _context: object) -> Iterator[Caller]:
        yield self.caller

    def on_end(self, _context: object, hook: Callable[[], None]) -> None:
        self.hooks.append(hook)


def served() -> tuple[NodeServicer, Attachment, PendingFragment, Door]:
    registry = Attachments(attachments_max=4)
    home = attachment()
    registry.enter(home)
    pending = home.send(order(), FragmentReport("f0", "health", "node1"), CLOCK)
    door: Any = Door(Caller(home.identity, (), "public", "government", "00"))
    unused: Any = None
    servicer = NodeServicer(
        guard=door,
        attachments=registry,
        enrolment=unused,
        broker="spiffe://x/broker/b",
        attached=lambda _: None,
        log=structlog.get_logger(),
    )
    return servicer, home, pending, door


def start(pending: PendingFragment) -> node_service_pb2.DeliverRequest:
    begun = node_service_pb2.DeliverStart(
        fragment_id=pending.order.id, grant_id=pending.order.grant_id, schema=b"schema"
    )
    return node_service_pb2.DeliverRequest(start=begun)


def broken_off() -> Iterator[node_service_pb2.DeliverRequest]:
    yield node_service_pb2.DeliverRequest(message=b"c")
    raise ConnectionError("the node cancelled its call")


def unexpected() -> Iterator[node_service_pb2.DeliverRequest]:
    yield node_service_pb2.DeliverRequest()


@pytest.mark.parametrize("rest", [broken_off, unexpected, lambda: iter(())])
def test_a_delivery_that_ends_in_any_way_does_not_keep_its_reader_waiting(
    rest: Callable[[], Iterator[node_service_pb2.DeliverRequest]],
) -> None:
    servicer, _, pending, _ = served()

    def messages() -> Iterator[node_service_pb2.DeliverRequest]:
        yield start(pending)
        yield from rest()

    context: Any = None
    with suppress(ConnectionError, TidegateError):
        servicer.Deliver(messages(), context)
    with pytest.raises(TidegateError) as caught:
        read(pending, deadline_s=5.0)
    assert caught.value.code is Code.FETCH_NODE_FAILED and "health" in caught.value.message


def test_a_node_that_is_revoked_while_its_reader_is_slow_frees_its_thread() -> None:
    servicer, _, pending, door = served()

    def messages() -> Iterator[node_service_pb2.DeliverRequest]:
        yield start(pending)
        for _ in range(QUEUE_CHUNKS_MAX + 5):
            yield node_service_pb2.DeliverRequest(message=b"c")

    context: Any = None
    delivering = threading.Thread(target=servicer.Deliver, args=(messages(), context), daemon=True)
    delivering.start()
    with pending._changed:
        assert pending._changed.wait_for(lambda: len(pending._items) >= QUEUE_CHUNKS_MAX, 10)
    for hook in door.hooks:
        hook()
    delivering.join(5)
    assert not delivering.is_alive()


def test_a_node_describes_only_what_its_member_owns_also_when_asked_again() -> None:
    servicer, home, _, _ = served()

    def described(owner: str) -> str:
        return json.dumps(
            Dataset(DatasetName(owner, "d"), owner, "n", "title", DatasetClass.OPEN, (Column("a", "BIGINT"),)).to_json()
        )

    said = node_service_pb2.Description(dataset_json=[described("health"), described("police")])
    servicer._hear(node_service_pb2.AttachUp(description=said), home)
    assert [str(item.name) for item in home.described] == ["health.d"]

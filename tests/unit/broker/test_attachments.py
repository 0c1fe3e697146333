"""Attachments: a fragment's stream is bounded, checked against the node's signature, and ends with the department's name."""

from __future__ import annotations

import threading
from itertools import count

import pytest

from broker.attachments import (
    QUEUE_CHUNKS_MAX,
    AgreementOrder,
    Attachment,
    Attachments,
    CancelOrder,
    FragmentOrder,
    PendingFragment,
    TrailerFacts,
)
from broker.values import FragmentReport
from tidegate import ipc
from tidegate.core.canonical import canonical
from tidegate.core.clock import SystemClock
from tidegate.core.errors import Code, TidegateError
from tidegate.core.names import SpiffeId

CLOCK = SystemClock()
_numbers = count()


def order(bytes_max: int = 1 << 20) -> FragmentOrder:
    return FragmentOrder(f"q-f{next(_numbers)}", "grant", b"", b"", b"", "SELECT 1", "[]", 10.0, 100, bytes_max)


def attachment(name: str = "node1", signature: bytes = b"good") -> Attachment:
    def verify(data: bytes, shown: bytes) -> bool:
        assert data.startswith(b"{")
        return shown == signature

    return Attachment(SpiffeId.parse(f"spiffe://x/member/health/node/{name}"), "session", (), verify)


def sent(bytes_max: int = 1 << 20) -> tuple[Attachment, PendingFragment]:
    home = attachment()
    return home, home.send(order(bytes_max), FragmentReport("f0", "health", "node1"), CLOCK)


def trailer(*chunks: bytes, rows: int = 1, signature: bytes = b"good") -> TrailerFacts:
    return TrailerFacts(rows, 0, ipc.digest(chunks), signature, 2, 7, 0.1)


def read(pending: PendingFragment, deadline_s: float = 10.0) -> list[bytes]:
    return list(pending.chunks(CLOCK.monotonic_s() + deadline_s, threading.Event()))


def test_an_answer_that_is_what_the_node_signed_comes_whole() -> None:
    _, pending = sent()
    for chunk in (b"schema", b"batch"):
        pending.put(chunk)
    pending.finish(trailer(b"schema", b"batch", rows=5))
    assert read(pending) == [b"schema", b"batch"]
    assert (pending.report.rows, pending.report.suppressed, pending.report.entry_index) == (5, 2, 7)
    assert pending.report.bytes == len(b"batch")


@pytest.mark.parametrize("wrong", [trailer(b"schema", b"other"), trailer(b"schema", b"batch", signature=b"bad")])
def test_another_digest_or_signature_is_no_answer(wrong: TrailerFacts) -> None:
    _, pending = sent()
    for chunk in (b"schema", b"batch"):
        pending.put(chunk)
    pending.finish(wrong)
    with pytest.raises(TidegateError) as caught:
        read(pending)
    assert caught.value.code is Code.FETCH_INVALID_DATA
    assert "health" in caught.value.message


def test_a_part_that_is_too_large_ends_with_the_departments_name() -> None:
    _, pending = sent(bytes_max=10)
    pending.put(b"schema")
    pending.put(b"x" * 11)
    with pytest.raises(TidegateError) as caught:
        read(pending)
    assert caught.value.code is Code.FETCH_LIMIT and "health" in caught.value.message


def test_a_slow_reader_makes_its_own_node_wait_and_nobody_else() -> None:
    home, pending = sent()
    for _ in range(QUEUE_CHUNKS_MAX):
        pending.put(b"c")
    over = threading.Thread(target=pending.put, args=(b"last",))
    over.start()
    other = home.send(order(), FragmentReport("f1", "health", "node1"), CLOCK)
    small = (b"schema", *[b"batch"] * (QUEUE_CHUNKS_MAX + 1))
    other.take(small, trailer(*small))  # a small answer rides the stream that all others share, so it never waits
    assert read(other) == list(small)
    chunks = pending.chunks(CLOCK.monotonic_s() + 10, threading.Event())
    got = [next(chunks) for _ in range(QUEUE_CHUNKS_MAX + 1)]
    over.join(10)
    assert not over.is_alive()
    assert got == [b"c"] * QUEUE_CHUNKS_MAX + [b"last"]


def test_a_small_answer_is_whole_when_its_reader_wakes() -> None:
    _, pending = sent()
    assert not pending.report.is_whole
    pending.take((b"schema", b"batch"), trailer(b"schema", b"batch", rows=5))
    assert pending.report.is_whole and pending.report.rows == 5
    assert read(pending) == [b"schema", b"batch"]
    pending.take((b"schema", b"again"), trailer(b"schema", b"again"))  # what is over takes no more
    assert pending.report.bytes == len(b"batch")


@pytest.mark.parametrize(
    ("bytes_max", "said", "code"),
    [
        (10, trailer(b"schema", b"x" * 11), Code.FETCH_LIMIT),
        (100, trailer(b"schema", b"other"), Code.FETCH_INVALID_DATA),
        (100, trailer(b"schema", b"x" * 11, signature=b"bad"), Code.FETCH_INVALID_DATA),
    ],
)
def test_a_small_answer_is_held_to_limit_and_signature(bytes_max: int, said: TrailerFacts, code: Code) -> None:
    _, pending = sent(bytes_max)
    pending.take((b"schema", b"x" * 11), said)
    with pytest.raises(TidegateError) as caught:
        read(pending)
    assert caught.value.code is code and not pending.report.is_whole


def test_whoever_waits_for_a_reader_that_left_goes_on() -> None:
    home, pending = sent()
    for _ in range(QUEUE_CHUNKS_MAX):
        pending.put(b"c")
    over = threading.Thread(target=pending.put, args=(b"last",))
    over.start()
    home.done(pending.order.id, cancel=True)
    over.join(10)
    assert not over.is_alive()
    assert isinstance(home.orders.get_nowait(), FragmentOrder)
    assert home.orders.get_nowait() == CancelOrder(pending.order.id)
    assert home.pending(pending.order.id) is None


def test_deadline_and_cancel_end_the_reading() -> None:
    _, pending = sent()
    with pytest.raises(TidegateError) as caught:
        read(pending, deadline_s=0.0)
    assert caught.value.code is Code.QUERY_DEADLINE
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(TidegateError) as caught:
        list(pending.chunks(CLOCK.monotonic_s() + 10, cancel))
    assert caught.value.code is Code.QUERY_CANCELLED


def test_a_node_that_leaves_fails_what_is_pending_by_name() -> None:
    home, pending = sent()
    pending.put(b"schema")
    home.leave()
    with pytest.raises(TidegateError) as caught:
        read(pending)
    assert caught.value.code is Code.FETCH_NODE_AWAY and "health" in caught.value.message
    with pytest.raises(TidegateError):
        home.send(order(), FragmentReport("f0", "health", "node1"), CLOCK)
    assert home.push_agreement(AgreementOrder("a", "{}", b"", b""), 0.0) is False


def test_an_agreement_counts_once_the_node_says_that_it_is_stored() -> None:
    home = attachment()
    order_ = AgreementOrder("a1", "{}", b"", b"")
    for stored in (True, False):
        answers = threading.Thread(
            target=lambda said: (home.orders.get(), home.acknowledged("a1", stored=said)), args=(stored,)
        )
        answers.start()
        assert home.push_agreement(order_, 10.0) is stored
        answers.join()
    assert home.push_agreement(order_, 0.0) is False


def test_the_newest_attachment_of_a_node_replaces_the_older() -> None:
    registry = Attachments(attachments_max=1)
    old, new = attachment(), attachment()
    registry.enter(old)
    pending = old.send(order(), FragmentReport("f0", "health", "node1"), CLOCK)
    registry.enter(new)
    assert registry.find("health", "node1") is new
    with pytest.raises(TidegateError):
        read(pending)
    registry.leave(old)
    assert registry.find("health", "node1") is new
    registry.leave(new)
    with pytest.raises(TidegateError) as caught:
        registry.find("health", "node1")
    assert caught.value.code is Code.FETCH_NODE_AWAY


def test_attachments_are_limited() -> None:
    registry = Attachments(attachments_max=1)
    registry.enter(attachment("node1"))
    with pytest.raises(TidegateError) as caught:
        registry.enter(attachment("node2"))
    assert caught.value.code is Code.BUSY and caught.value.retry_after_s > 0
    assert len(registry.of_member("health")) == len(registry.all()) == 1


def test_what_is_signed_names_fragment_grant_rows_and_digest() -> None:
    seen: list[bytes] = []
    home = Attachment(
        SpiffeId.parse("spiffe://x/member/health/node/n"), "s", (), lambda data, _: bool(seen.append(data)) or True
    )
    pending = home.send(order(), FragmentReport("f0", "health", "n"), CLOCK)
    pending.put(b"s")
    facts = trailer(b"s", rows=3)
    pending.finish(facts)
    assert seen == [
        canonical({"digest": facts.digest, "fragment_id": pending.order.id, "grant_id": "grant", "rows": 3})
    ]

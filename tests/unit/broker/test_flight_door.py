"""The parts of the second door by themselves: framing, handles, refusals, headers, parameters, casting."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.conform import conformed
from broker.wire.flight import framing, headers, messages, parameters, refusals
from broker.wire.flight.handles import HANDLE_BYTES, Handles, Limits
from broker.wire.flight.running import Running
from tests.fakes.exchange import ManualClock
from tidegate import ipc
from tidegate.core.clock import SystemIds
from tidegate.core.errors import Code, TidegateError
from tidegate.v1 import flight_pb2, flight_sql_pb2

TABLE = pa.table({"n": [1, 2, 3], "w": ["a", None, "c"]})
ENUMS = pa.table({"e": pa.array(["a", "b", "a"]).dictionary_encode()})
EMPTY = TABLE.slice(0, 0)


def code_of(call: Any, *arguments: Any) -> Code:
    with pytest.raises(TidegateError) as caught:
        call(*arguments)
    return caught.value.code


def refusal_of(call: Any, *arguments: Any) -> Code | None:
    """Give the code of our error, or None when there was none; any other exception is a failure."""
    try:
        call(*arguments)
    except TidegateError as error:
        return error.code
    return None


# --- framing ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", [TABLE, ENUMS, EMPTY, pa.table({})], ids=["plain", "dictionary", "empty", "nothing"])
def test_what_is_framed_by_hand_is_what_the_generated_code_reads(table: pa.Table) -> None:
    raw = list(framing.framed_batches(table.schema, iter(table.to_batches())))
    read = [flight_pb2.FlightData.FromString(item) for item in raw]
    again = [item.SerializeToString() for item in read]
    assert again == raw, "byte for byte what anybody would write"
    whole = b"".join(framing.unframed(item) for item in read)
    assert pa.ipc.open_stream(whole).read_all().equals(table)


@given(header=st.binary(max_size=400), body=st.binary(max_size=400))
def test_any_header_and_body_are_framed_as_protobuf_frames_them(header: bytes, body: bytes) -> None:
    made = framing.flight_data(header, body)
    assert flight_pb2.FlightData.FromString(made) == flight_pb2.FlightData(data_header=header, data_body=body)


def test_data_without_a_header_is_refused() -> None:
    assert code_of(framing.unframed, flight_pb2.FlightData(data_body=b"x")) is Code.WIRE_INVALID


# --- the envelope -------------------------------------------------------------------------------------------------------------


def test_an_envelope_is_opened_as_it_was_packed() -> None:
    message = flight_sql_pb2.CommandStatementQuery(query="SELECT 1")
    assert messages.unpack(messages.pack(message)) == message


@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_command_or_refused(data: bytes) -> None:
    assert refusal_of(messages.unpack, data) in (None, Code.WIRE_INVALID, Code.WIRE_UNSUPPORTED)


# --- handles ------------------------------------------------------------------------------------------------------------------

LIMITS = Limits(lifetime_s=10.0, each_max=3, all_max=5, bytes_max=1_000)


def handles(clock: ManualClock, limits: Limits = LIMITS) -> Handles[str]:
    return Handles(limits, what="ticket", clock=clock, ids=SystemIds())


def test_a_handle_is_taken_once_and_found_often() -> None:
    kept = handles(ManualClock())
    handle = kept.give("x", "me", 1)
    assert len(handle) == HANDLE_BYTES
    assert [kept.find(handle, "me"), kept.find(handle, "me"), kept.take(handle, "me")] == ["x"] * 3
    assert code_of(kept.take, handle, "me") is Code.FLIGHT_HANDLE
    assert len(kept) == 0


def test_another_owner_finds_nothing_takes_nothing_and_is_told_the_same() -> None:
    kept = handles(ManualClock())
    handle = kept.give("x", "me", 1)
    with pytest.raises(TidegateError) as other:
        kept.take(handle, "you")
    with pytest.raises(TidegateError) as unknown:
        kept.take(b"\x00" * HANDLE_BYTES, "you")
    assert str(other.value) == str(unknown.value)
    assert code_of(kept.change, handle, "y", "you", 1) is Code.FLIGHT_HANDLE
    assert kept.take(handle, "me") == "x"


def test_a_handle_ends_when_it_was_not_used_for_its_time() -> None:
    clock = ManualClock()
    kept = handles(clock)
    used, unused = kept.give("used", "me", 1), kept.give("unused", "me", 1)
    clock.move(seconds=9)
    kept.find(used, "me")
    clock.move(seconds=1)
    assert code_of(kept.find, unused, "me") is Code.FLIGHT_HANDLE
    assert kept.find(used, "me") == "used"
    clock.move(seconds=10)
    assert code_of(kept.find, used, "me") is Code.FLIGHT_HANDLE


def test_whoever_takes_much_pushes_out_its_own() -> None:
    kept = handles(ManualClock())
    mine = kept.give("mine", "me", 1)
    greedy = [kept.give(str(number), "you", 1) for number in range(10)]
    assert [kept.find(handle, "you") for handle in greedy[-3:]] == ["7", "8", "9"]
    assert code_of(kept.find, greedy[0], "you") is Code.FLIGHT_HANDLE
    others = [kept.give("o", f"other{number}", 1) for number in range(2)]
    assert len(kept) <= 5 and kept.find(mine, "me") == "mine" and kept.find(others[-1], "other1") == "o"
    kept.give("large", "you", 2_000)
    assert kept.find(mine, "me") == "mine"


def test_only_one_of_many_takes_a_ticket() -> None:
    kept = handles(ManualClock())
    handle, got = kept.give("x", "me", 1), []

    def take() -> None:
        with suppress(TidegateError):
            got.append(kept.take(handle, "me"))

    threads = [threading.Thread(target=take) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == ["x"]


# --- cancelling, refusals -----------------------------------------------------------------------------------------------------


class Context:
    """A call's context as far as the door reads it."""

    def __init__(self, *pairs: tuple[str, str]) -> None:
        self.pairs = pairs
        self.cancelled = threading.Event()

    def invocation_metadata(self) -> Sequence[tuple[str, str]]:
        return self.pairs

    def cancel(self) -> None:
        self.cancelled.set()


def test_an_answer_is_cancelled_by_its_owner_and_cut_when_it_does_not_heed() -> None:
    running, cancel, context = Running(), threading.Event(), Context()
    with running.enter(b"h", "me", cancel, context):
        assert not running.cancel(b"h", "you") and not cancel.is_set()
        assert not running.cancel(b"g", "me")
        assert running.cancel(b"h", "me")
        assert cancel.is_set() and context.cancelled.is_set()
    assert not running.cancel(b"h", "me")


def test_refusals_are_recorded_so_many_in_a_time_for_each() -> None:
    clock = ManualClock()
    seen = refusals.Refusals(clock)
    assert [seen.is_recorded("a") for _ in range(refusals.EACH_MAX + 2)] == [True] * refusals.EACH_MAX + [False] * 2
    assert seen.is_recorded("b")
    clock.move(seconds=refusals.PERIOD_S)
    assert seen.is_recorded("a")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (["a"], "a"),
        (["a", "a"], "a"),
        ([" a "], "a"),
        ([], None),
        (["a", "b"], None),
        ([""], None),
        (["x" * 1001], None),
    ],
)
def test_exactly_one_purpose_is_read(values: list[str], said: str | None) -> None:
    context: Any = Context(*((headers.PURPOSE, value) for value in values))
    if said is None:
        assert code_of(headers.purpose, context) is Code.FLIGHT_PURPOSE
    else:
        assert headers.purpose(context) == said


def test_a_disclosure_that_is_too_long_says_what_it_leaves_out() -> None:
    report = {"purpose": "p", "departments": ["x" * headers.DISCLOSURE_BYTES_MAX], "datasets": [], "reasons": []}
    short = headers.shortened(report)
    assert len(short) <= headers.DISCLOSURE_BYTES_MAX
    assert json.loads(short) == {"purpose": "p", "datasets": [], "reasons": [], "left_out": ["departments"]}
    assert json.loads(headers.shortened({"purpose": "p" * 9_000})) == {"left_out": ["all"]}


# --- parameters ---------------------------------------------------------------------------------------------------------------


def sent(row: pa.RecordBatch) -> Iterator[flight_pb2.FlightData]:
    for raw in framing.framed_batches(row.schema, iter([row])):
        yield flight_pb2.FlightData.FromString(raw)


def test_values_come_in_as_they_were_meant() -> None:
    row = pa.record_batch(
        [
            pa.array([5], pa.int8()),
            pa.array(["x"]).dictionary_encode(),
            pa.array([None], pa.string()),
            pa.array([[1, None]]),
            pa.array([1_000], pa.timestamp("ns", "UTC")),
        ],
        names=[str(number) for number in range(5)],
    )
    values, size = parameters.read(sent(row), ["1", "2", "3", "4", "5"])
    assert isinstance(values, tuple) and size > 0
    assert values[:4] == (5, "x", None, [1, None])
    assert values[4].microsecond == 1  # type: ignore[union-attr]


def test_named_parameters_go_by_the_names_of_the_columns() -> None:
    row = pa.record_batch({"b": [1], "a": [2]})
    assert parameters.read(sent(row), ["a", "b"])[0] == {"b": 1, "a": 2}
    assert code_of(parameters.read, sent(row), ["a", "c"]) is Code.PLAN_PARAMETERS
    assert code_of(parameters.read, sent(row), ["a"]) is Code.PLAN_PARAMETERS


@given(header=st.binary(min_size=1, max_size=200), body=st.binary(max_size=200))
def test_any_bytes_as_parameters_are_refused(header: bytes, body: bytes) -> None:
    schema = next(sent(pa.record_batch({"0": ["x"]})))
    wild = flight_pb2.FlightData(data_header=header, data_body=body)
    for items in ([wild], [schema, wild]):
        assert code_of(parameters.read, iter(items), ["1"]) in (Code.WIRE_INVALID, Code.PLAN_PARAMETERS)


@given(place=st.integers(0, 10_000), value=st.integers(0, 255))
def test_a_changed_byte_is_read_as_a_value_or_refused(place: int, value: int) -> None:
    schema, batch = sent(pa.record_batch({"0": ["x"]}))
    data = bytearray(batch.data_header)
    data[place % len(data)] = value
    changed = flight_pb2.FlightData(data_header=bytes(data), data_body=batch.data_body)
    code = refusal_of(parameters.read, iter([schema, changed]), ["1"])
    assert code in (None, Code.WIRE_INVALID, Code.PLAN_PARAMETERS)


# --- casting to what was announced --------------------------------------------------------------------------------------------


def counted(table: pa.Table) -> Iterator[tuple[bytes, int]]:
    rows = [0, *(batch.num_rows for batch in table.to_batches())]
    yield from zip(ipc.cut(table.schema, table.to_batches()), rows, strict=True)


def test_a_stream_of_the_announced_schema_passes_untouched() -> None:
    before = list(counted(TABLE))
    after, is_cast = conformed(iter(before), ipc.schema_chunk(TABLE.schema))
    assert not is_cast and list(after) == before


@pytest.mark.parametrize("table", [ENUMS, ENUMS.slice(0, 0)], ids=["rows", "none"])
def test_a_stream_of_other_types_is_cast_and_counted(table: pa.Table) -> None:
    target = pa.schema([("e", pa.string())])
    after, is_cast = conformed(counted(table), ipc.schema_chunk(target))
    chunks = list(after)
    schema, batches = ipc.read(chunk for chunk, _ in chunks)
    assert is_cast and schema == target
    assert pa.Table.from_batches(batches, schema).to_pydict() == table.to_pydict()
    assert sum(rows for _, rows in chunks) == table.num_rows


@pytest.mark.parametrize(
    "target",
    [
        pa.schema([("n", pa.int64())]),
        pa.schema([("n", pa.int64()), ("w", pa.int64())]),
        pa.schema([("n", pa.int64()), pa.field("w", pa.string(), nullable=False)]),
        pa.schema([("n", pa.null()), ("w", pa.string())]),
    ],
    ids=["columns", "text", "null", "nothing"],
)
def test_a_stream_that_cannot_be_what_was_announced_ends(target: pa.Schema) -> None:
    def read() -> None:
        list(conformed(counted(TABLE), ipc.schema_chunk(target))[0])

    assert code_of(read) is Code.FETCH_INVALID_DATA

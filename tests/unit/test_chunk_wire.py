"""What is written without a message object is what the generated code writes, and is read as it reads it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tidegate import chunk_wire
from tidegate.v1 import node_service_pb2, query_service_pb2

CHUNKS = st.one_of(st.binary(min_size=1, max_size=300), st.integers(1, 70_000).map(lambda size: b"\x7f" * size))


@given(CHUNKS)
def test_a_chunk_travels_as_the_generated_code_says(chunk: bytes) -> None:
    delivered = node_service_pb2.DeliverRequest(message=chunk).SerializeToString()
    assert chunk_wire.deliver_request(chunk) == delivered
    assert chunk_wire.delivered(delivered) == chunk
    answered = query_service_pb2.ExecuteResponse(batch=query_service_pb2.Batch(ipc=chunk)).SerializeToString()
    assert chunk_wire.execute_response(chunk) == answered
    assert chunk_wire.answered(answered) == chunk


@given(st.binary(max_size=60))
def test_what_is_read_from_noise_is_what_the_generated_code_reads(raw: bytes) -> None:
    chunk = chunk_wire.delivered(raw)
    if chunk is not None:
        assert node_service_pb2.DeliverRequest.FromString(raw).message == chunk
    chunk = chunk_wire.answered(raw)
    if chunk is not None:
        assert query_service_pb2.ExecuteResponse.FromString(raw).batch.ipc == chunk


def test_every_other_message_is_left_to_the_generated_code() -> None:
    start = node_service_pb2.DeliverRequest(start=node_service_pb2.DeliverStart(fragment_id="f0"))
    trailer = node_service_pb2.DeliverRequest(trailer=node_service_pb2.Trailer(rows=1))
    assert chunk_wire.delivered(start.SerializeToString()) is None
    assert chunk_wire.delivered(trailer.SerializeToString()) is None
    finished = query_service_pb2.ExecuteResponse(finished=query_service_pb2.Finished(rows=1))
    assert chunk_wire.answered(finished.SerializeToString()) is None
    cut = node_service_pb2.DeliverRequest(message=b"abc").SerializeToString()[:-1]
    assert chunk_wire.delivered(cut) is None
    assert chunk_wire.delivered(b"") is None

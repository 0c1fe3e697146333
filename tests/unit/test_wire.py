"""Errors over gRPC: whole in both directions, the private part never, a peer's texts made harmless."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent import futures

import grpc
import pytest

from tidegate.core.errors import Code, Reason, TidegateError, error_for
from tidegate.v1 import common_pb2
from tidegate.wire import abort, from_detail, from_rpc_error, to_detail

ERROR = error_for(
    Code.POLICY_REFUSED,
    "no agreement covers this",
    detail="private: SELECT secret",
    reasons=(Reason("agreement_missing", "none", "an agreement", "the steward"),),
    request_id="ab" * 16,
    retry_after_s=1.5,
)
Answer = Callable[[grpc.ServicerContext], bytes]


@pytest.fixture
def called() -> Iterator[Callable[[Answer], TidegateError]]:
    """A server whose one method does what the test says; gives the error that its client sees."""
    behaviour: list[Answer] = []
    handler = grpc.unary_unary_rpc_method_handler(lambda _, context: behaviour[0](context))
    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", {"Call": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:

        def call(answer: Answer) -> TidegateError:
            behaviour[:] = [answer]
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary("/t.T/Call")(b"", timeout=20)
            return from_rpc_error(caught.value)

        yield call
    server.stop(0).wait()


def test_an_error_arrives_whole_but_for_its_private_part(called: Callable[[Answer], TidegateError]) -> None:
    error = called(lambda context: abort(context, ERROR))
    assert (error.code, error.message, error.reasons) == (ERROR.code, ERROR.message, ERROR.reasons)
    assert (error.request_id, error.retry_after_s, error.detail) == (ERROR.request_id, 1.5, "")
    assert b"private" not in to_detail(ERROR).SerializeToString()


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (grpc.StatusCode.DEADLINE_EXCEEDED, Code.QUERY_DEADLINE),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Code.BUSY),
        (grpc.StatusCode.UNIMPLEMENTED, Code.WIRE_VERSION),
        (grpc.StatusCode.UNKNOWN, Code.INTERNAL),
    ],
)
def test_a_bare_status_becomes_the_nearest_error(
    called: Callable[[Answer], TidegateError], status: grpc.StatusCode, code: Code
) -> None:
    error = called(lambda context: context.abort(status, "a peer's own words"))
    assert error.code is code
    assert "own words" not in error.message


def test_who_cannot_be_reached_is_named() -> None:
    with grpc.insecure_channel("127.0.0.1:1") as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/t.T/Call")(b"", timeout=20)
    error = from_rpc_error(caught.value)
    assert error.code is Code.CLIENT_UNREACHABLE
    assert error.message == "the exchange cannot be reached at 127.0.0.1:1"


def test_a_peers_texts_cannot_move_the_terminal_and_are_bounded() -> None:
    hostile = "\x1b[2J\u202eevil\n" + "x" * 100_000
    detail = common_pb2.ErrorDetail(
        code="TG-PLAN-001", message=hostile, reasons=[common_pb2.Reason(code=hostile, text=hostile)] * 1000
    )
    error = from_detail(detail)
    texts = [error.message, *(text for reason in error.reasons for text in (reason.code, reason.text))]
    assert all(text.isprintable() for text in texts)
    assert max(map(len, texts)) <= 1000
    assert len(error.reasons) <= 50


def test_an_unknown_code_is_an_internal_error() -> None:
    assert from_detail(common_pb2.ErrorDetail(code="TG-NEW-999", message="m")).code is Code.INTERNAL

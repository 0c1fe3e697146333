"""Found in review: a caller who asks and does not read held a thread of each listener and the department's worker for ever."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pyarrow as pa
import pytest

from tests.robust import (
    BASIS,
    CALL_S_MAX,
    PURPOSE,
    LightNode,
    Seen,
    World,
    broker_world,
    described,
    drained,
)
from tidegate import ipc
from tidegate.channel import open_channel
from tidegate.core.errors import Code
from tidegate.core.names import IdentityKind
from tidegate.v1 import node_service_pb2, query_service_pb2, query_service_pb2_grpc

pytestmark = pytest.mark.xdist_group("federation-review")

ROWS = 60_000
TABLE = pa.table({"c0": range(ROWS), "c1": ["x" * 40] * ROWS})
SQL = "SELECT id, word FROM north.tides"


@pytest.fixture(scope="module")
def coast(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with broker_world(tmp_path_factory.mktemp("review") / "broker") as world:
        steward = world.session("north", "steward", kind=IdentityKind.PERSON, roles=["steward"])
        steward.catalogue.register(described("north", "tides"))
        yield world


def flood(node: LightNode, fragment: node_service_pb2.Fragment, over: queue.SimpleQueue[bool]) -> None:
    """Deliver without end, as long as the broker takes it."""
    schema, *batches = ipc.cut(TABLE.schema, TABLE.to_batches())

    def messages() -> Iterator[bytes]:
        start = node_service_pb2.DeliverStart(fragment_id=fragment.id, grant_id=node.grant_id(fragment), schema=schema)
        yield node_service_pb2.DeliverRequest(start=start).SerializeToString()
        while True:
            yield node_service_pb2.DeliverRequest(message=batches[0]).SerializeToString()

    deliver: Any = node.channel.stream_unary(  # type: ignore[call-arg]
        "/tidegate.v1.NodeService/Deliver", response_deserializer=node_service_pb2.DeliverResponse.FromString
    )
    try:
        over.put(bool(deliver(messages()).accepted))
    except grpc.RpcError:
        over.put(False)


def node_of(coast: World, over: queue.SimpleQueue[bool]) -> LightNode:
    def on_fragment(node: LightNode, fragment: node_service_pb2.Fragment) -> None:
        threading.Thread(target=flood, args=(node, fragment, over), daemon=True).start()

    identity = coast.issuer.identity("north", "node1", kind=IdentityKind.NODE, roles=())
    return LightNode(identity, datasets=[described("north", "tides")], on_fragment=on_fragment).wait()


def test_a_caller_who_does_not_read_is_ended_at_the_deadline_and_everybody_is_free_again(coast: World) -> None:
    over: queue.SimpleQueue[bool] = queue.SimpleQueue()
    node = node_of(coast, over)
    identity = coast.issuer.identity("office", "sleeper")
    channel = open_channel(identity.exchange.callers, identity)
    try:
        request = query_service_pb2.ExecuteRequest(sql=SQL, purpose=PURPOSE, legal_basis=BASIS, deadline_s=2.0)
        call: Any = query_service_pb2_grpc.QueryServiceStub(channel).Execute(request)  # no deadline of the call's own
        assert next(call).WhichOneof("kind") == "started"
        assert over.get(timeout=CALL_S_MAX) is False
        assert coast.broker.admission.drain(CALL_S_MAX), "the request still holds its place"
        with pytest.raises(grpc.RpcError):
            for _ in call:
                pass
    finally:
        coast.broker.admission._draining = False
        channel.close()
        node.close()


def test_an_id_that_is_under_way_cannot_be_brought_again(coast: World) -> None:
    """The node would have seen a fragment's name twice, ended its link, and failed everybody else's fragments with it."""
    over: queue.SimpleQueue[bool] = queue.SimpleQueue()
    node = node_of(coast, over)
    identity = coast.issuer.identity("office", "again")
    channel = open_channel(identity.exchange.callers, identity)
    try:
        stub = query_service_pb2_grpc.QueryServiceStub(channel)
        request = query_service_pb2.ExecuteRequest(sql=SQL, purpose=PURPOSE, legal_basis=BASIS, deadline_s=20.0)
        first: Any = stub.Execute(request)
        started = next(first).started
        with pytest.raises(grpc.RpcError) as caught:
            again: Any = stub.Execute(query_service_pb2.ExecuteRequest(sql=SQL, request_id=started.request_id))
            next(again)
        assert Seen.take(caught.value, 0).code is Code.CAT_CONFLICT
        assert len(drained(node.fragments)) <= 1
        first.cancel()
        assert over.get(timeout=CALL_S_MAX) is False
    finally:
        channel.close()
        node.close()

"""Through the second door too, who cancels, runs out of time or goes away ends the work everywhere within a second."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import adbc_driver_manager
import grpc
import pytest
from adbc_driver_flightsql import DatabaseOptions

from broker.wire.flight import messages
from tests.federation.flight_calls import Flight, adbc
from tests.federation.streaming_world import PURPOSE, World, until, world
from tests.federation.test_cancel import (
    AT_A_NODE,
    AT_THE_BROKER,
    BUSY_S,
    MANY_ROWS,
    STOPPED_S,
    ended,
    is_idle,
    wait_busy,
)
from tidegate.core.errors import Code, TidegateError
from tidegate.identity.folder import IdentityFolder, LocalIdentity
from tidegate.v1 import flight_pb2, flight_sql_pb2
from tidegate.wire import from_rpc_error

pytestmark = pytest.mark.xdist_group("federation-flight-cancel")

SMALL_JOIN = "SELECT a.x FROM alpha.numbers AS a JOIN beta.numbers AS b ON a.x = b.x WHERE a.x < 10"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("flight-cancel")) as made:
        with made.session() as session:  # everything was used once
            for sql in ("SELECT count(*) FROM alpha.numbers", MANY_ROWS):
                assert sum(batch.num_rows for batch in session.query(sql).reader())
        yield made


@pytest.fixture
def flight(running: World) -> Iterator[Flight]:
    with Flight(identity(running), PURPOSE) as opened:
        yield opened


def identity(running: World) -> LocalIdentity:
    return IdentityFolder(running.exchange.identity("city", "analyst")).load()


class Fetching:
    """A DoGet that a thread waits for."""

    def __init__(self, flight: Flight, sql: str, timeout_s: float = 60.0) -> None:
        self.info = flight.info(sql)
        ticket = self.info.endpoint[0].ticket.SerializeToString()
        self.call = flight.stream("DoGet", ticket, timeout_s=timeout_s)
        self.error: TidegateError | None = None
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        try:
            for _ in self.call:
                pass
        except grpc.RpcError as error:
            self.error = from_rpc_error(error)

    def join(self) -> TidegateError | None:
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self.error


def by_flight_info(flight: Flight, info: flight_pb2.FlightInfo) -> bool:
    body = flight_pb2.FlightCancelInfoRequest(info=info).SerializeToString()
    said = flight_pb2.FlightCancelInfoResult.FromString(flight.action("CancelFlightInfo", body))
    return said.status == flight_pb2.FlightCancelInfoResult.STATUS_CANCELLED


def by_query(flight: Flight, info: flight_pb2.FlightInfo) -> bool:
    asked = flight_sql_pb2.ActionCancelQueryRequest(info=info.SerializeToString())
    said = messages.unpack(flight.action("CancelQuery", messages.pack(asked)))
    return bool(said.result == flight_sql_pb2.ActionCancelQueryResult.RESULT_CANCELLED)


def test_a_client_cancel_stops_a_node(running: World, flight: Flight) -> None:
    count, before = ended(running), running.cpu_s("alpha-node1")
    fetching = Fetching(flight, AT_A_NODE)
    wait_busy(running, "alpha-node1", before)
    fetching.call.cancel()
    until(lambda: ended(running) > count, STOPPED_S)
    assert is_idle(running, "alpha-node1")
    fetching.join()


@pytest.mark.parametrize("cancel", [by_flight_info, by_query])
def test_a_call_that_cancels_stops_a_node(running: World, flight: Flight, cancel: Any) -> None:
    count, before = ended(running), running.cpu_s("alpha-node1")
    fetching = Fetching(flight, AT_A_NODE)
    wait_busy(running, "alpha-node1", before)
    started = time.monotonic()
    assert cancel(flight, fetching.info)
    until(lambda: ended(running) > count, STOPPED_S - (time.monotonic() - started))
    error = fetching.join()
    assert error is not None and error.code is Code.QUERY_CANCELLED
    assert is_idle(running, "alpha-node1")
    assert not cancel(flight, fetching.info), "it is over"


def test_a_deadline_stops_a_node(running: World, flight: Flight) -> None:
    count = ended(running)
    error = Fetching(flight, AT_A_NODE, timeout_s=1.5).join()
    until(lambda: ended(running) > count, STOPPED_S)
    assert error is not None and error.code is Code.QUERY_DEADLINE
    assert is_idle(running, "alpha-node1")


@pytest.mark.parametrize("how", ["client", "call"])
def test_cancelling_stops_a_join_at_the_broker(running: World, flight: Flight, how: str) -> None:
    before = running.cpu_s("broker")
    fetching = Fetching(flight, AT_THE_BROKER)
    wait_busy(running, "broker", before)
    started = time.monotonic()
    if how == "client":
        fetching.call.cancel()
    else:
        assert by_flight_info(flight, fetching.info)
    until(lambda: is_idle(running, "broker"), STOPPED_S - (time.monotonic() - started) + 0.1)
    assert is_idle(running, "alpha-node1") and is_idle(running, "beta-node1")
    fetching.join()


def test_a_deadline_stops_a_join_at_the_broker(running: World, flight: Flight) -> None:
    before = running.cpu_s("broker")
    fetching = Fetching(flight, AT_THE_BROKER, timeout_s=2.5)
    wait_busy(running, "broker", before)
    error = fetching.join()
    until(lambda: is_idle(running, "broker"), STOPPED_S + 0.1)
    assert error is not None and error.code is Code.QUERY_DEADLINE
    assert is_idle(running, "alpha-node1") and is_idle(running, "beta-node1")
    assert flight.get(flight.info(SMALL_JOIN)).table.num_rows == 9, "its worker has gone on to the next"


def test_an_answer_that_nobody_reads_is_ended_by_a_call_too(running: World, flight: Flight) -> None:
    info = flight.info(MANY_ROWS)
    call = flight.stream("DoGet", info.endpoint[0].ticket.SerializeToString())
    next(call)
    request_id = dict(call.initial_metadata())["x-tidegate-request-id"]
    assert not running.ended("alpha-node1", f"{request_id}-f0")
    assert by_flight_info(flight, info)
    until(lambda: running.ended("alpha-node1", f"{request_id}-f0"), STOPPED_S)
    assert is_idle(running, "alpha-node1")


@pytest.mark.parametrize(("sql", "works"), [(AT_A_NODE, "alpha-node1"), (AT_THE_BROKER, "broker")])
def test_adbc_cancel_stops_the_work(running: World, sql: str, works: str) -> None:
    before = running.cpu_s(works)
    failure: list[BaseException] = []
    with adbc(identity(running), PURPOSE) as connection, connection.cursor() as cursor:

        def ask() -> None:
            try:
                cursor.execute(sql)
                cursor.fetch_arrow_table()
            except Exception as error:
                failure.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        wait_busy(running, works, before)
        cursor.adbc_cancel()
        until(lambda: is_idle(running, works), STOPPED_S + 0.1)
        thread.join(60)
    assert failure
    assert is_idle(running, "alpha-node1")


@pytest.mark.parametrize(("sql", "works"), [(AT_A_NODE, "alpha-node1"), (AT_THE_BROKER, "broker")])
def test_the_timeout_that_a_user_sets_in_adbc_stops_the_work(running: World, sql: str, works: str) -> None:
    before = running.cpu_s(works)
    options = {DatabaseOptions.TIMEOUT_FETCH.value: "2.5"}
    with adbc(identity(running), PURPOSE, **options) as connection, connection.cursor() as cursor:
        with pytest.raises(adbc_driver_manager.Error):
            cursor.execute(sql)
            cursor.fetch_arrow_table()
        until(lambda: is_idle(running, works), STOPPED_S + 0.1)
    assert running.cpu_s(works) >= before + BUSY_S

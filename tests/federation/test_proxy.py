"""`tidegate proxy` as people run it: its own process, a real exchange behind it, real ADBC clients before it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import adbc_driver_flightsql.dbapi as flight_sql
import adbc_driver_manager
import pytest
from adbc_driver_flightsql import DatabaseOptions

from tests.federation.streaming_world import until
from tests.federation.unbound_world import (
    HEADER,
    MARKED,
    PURPOSE,
    ROWS,
    WAIT_S,
    RunningProxy,
    World,
    abandon,
    answer,
    world,
)

pytestmark = pytest.mark.xdist_group("federation-proxy")

FEW = f"SELECT count(*) AS n FROM {MARKED}"
MANY = f"SELECT id, words FROM {MARKED}"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("proxy")) as made:
        yield made


@pytest.fixture(scope="module")
def proxy(running: World) -> Iterator[RunningProxy]:
    with running.proxy("--purpose", PURPOSE) as started:
        yield started


def connect(proxy: RunningProxy, secret: str | None = None, **more: str) -> Any:
    options = {
        DatabaseOptions.AUTHORIZATION_HEADER.value: f"Bearer {proxy.secret if secret is None else secret}",
        **more,
    }
    return flight_sql.connect(proxy.uri, db_kwargs=options, autocommit=True)


def said(proxy: RunningProxy, **more: Any) -> str:
    with pytest.raises(adbc_driver_manager.Error) as caught, connect(proxy, **more) as connection:
        answer(connection, FEW)
    return str(caught.value)


def test_a_client_without_a_certificate_asks_under_the_proxys(running: World, proxy: RunningProxy) -> None:
    assert proxy.uri.startswith("grpc://127.0.0.1:")
    with connect(proxy) as connection:
        assert answer(connection, FEW)["n"].to_pylist() == [ROWS]
        assert answer(connection, f"SELECT id FROM {MARKED} WHERE id = ?", (7,))["id"].to_pylist() == [7]
    entry = running.entries("decision")[0]
    assert (entry["member"], entry["purpose"]) == ("city", PURPOSE)
    assert "bound" not in entry, "it is bound by the proxy's certificate"


def test_a_user_and_a_password_do_as_well(proxy: RunningProxy) -> None:
    options = {"username": "anybody", "password": proxy.secret}
    with flight_sql.connect(proxy.uri, db_kwargs=options, autocommit=True) as connection:
        assert answer(connection, FEW)["n"].to_pylist() == [ROWS]
    with pytest.raises(adbc_driver_manager.Error) as caught:
        flight_sql.connect(proxy.uri, db_kwargs={**options, "password": "wrong"}, autocommit=True)
    assert "TG-CLIENT-004" in str(caught.value)


def test_a_wrong_secret_is_refused(running: World, proxy: RunningProxy) -> None:
    before = len(running.entries("decision")), len(running.entries("refusal"))
    assert "TG-CLIENT-004" in said(proxy, secret="x" * 43)
    assert (len(running.entries("decision")), len(running.entries("refusal"))) == before


def test_a_purpose_of_the_client_wins(proxy: RunningProxy) -> None:
    assert "purpose" in said(proxy, **{f"{HEADER}x-tidegate-purpose": "nobody.knows"})


def test_without_a_default_a_client_must_name_a_purpose(running: World) -> None:
    with running.proxy() as bare:
        assert "TG-FLIGHT-004" in said(bare)
        with connect(bare, **{f"{HEADER}x-tidegate-purpose": PURPOSE}) as connection:
            assert answer(connection, FEW)["n"].to_pylist() == [ROWS]


def test_a_large_answer_comes_whole(proxy: RunningProxy) -> None:
    with connect(proxy) as connection:
        table = answer(connection, MANY)
    assert table.num_rows == ROWS
    assert table["id"].to_numpy().sum() == ROWS * (ROWS - 1) // 2


def test_a_client_that_goes_away_ends_the_query_at_the_broker(running: World, proxy: RunningProxy) -> None:
    count = len(running.entries("outcome"))
    connection = connect(proxy)
    cursor = connection.cursor()
    cursor.execute(MANY)
    reader = cursor.fetch_record_batch()
    next(reader)
    cursor.adbc_cancel()
    until(lambda: len(running.entries("outcome")) > count, WAIT_S)
    assert running.entries("outcome")[0]["error"] == "TG-QUERY-002"
    del reader
    cursor.close()
    connection.close()


def test_a_secret_file_is_kept_for_the_next_start(running: World, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    for _ in range(2):
        with running.proxy("--purpose", PURPOSE, "--secret-file", str(file)) as kept:
            assert file.stat().st_mode & 0o777 == 0o600
            with connect(kept, file.read_text().strip()) as connection:
                assert answer(connection, FEW)["n"].to_pylist() == [ROWS]


def test_no_secret_is_a_choice(running: World) -> None:
    with (
        running.proxy("--purpose", PURPOSE, "--no-secret") as bare,
        flight_sql.connect(bare.uri, autocommit=True) as connection,
    ):
        assert answer(connection, FEW)["n"].to_pylist() == [ROWS]
    assert bare.process.returncode == 0


def test_another_address_than_the_loopback_is_refused(running: World) -> None:
    with pytest.raises(AssertionError, match="TG-CLIENT-003"), running.proxy("--listen", "0.0.0.0:0"):
        pass


def test_a_killed_proxy_leaves_nothing_at_the_broker(running: World) -> None:
    with running.proxy("--purpose", PURPOSE) as doomed:
        count = len(running.entries("outcome"))
        connection = connect(doomed)
        cursor = connection.cursor()
        cursor.execute(MANY)
        reader = cursor.fetch_record_batch()
        next(reader)
        os.kill(doomed.process.pid, signal.SIGKILL)
        with pytest.raises((adbc_driver_manager.Error, OSError)):
            for _ in reader:
                pass
        until(lambda: len(running.entries("outcome")) > count, WAIT_S)
        assert running.entries("outcome")[0]["error"] == "TG-QUERY-002"
        doomed.process.wait(WAIT_S)
        del reader
        abandon(cursor, connection)


def test_a_restarted_broker_is_found_again(running: World, proxy: RunningProxy) -> None:
    """Last of all: the broker and its attachments begin anew."""
    with connect(proxy) as connection:
        assert answer(connection, FEW)["n"].to_pylist() == [ROWS]
        running.exchange.stop("broker", kill=True)
        with pytest.raises(adbc_driver_manager.Error):
            answer(connection, FEW)
        running.exchange.start_broker()
        running.exchange.wait_attached(("alpha",))
        assert answer(connection, FEW)["n"].to_pylist() == [ROWS]

"""The second door over real processes: what is announced is what comes, and partitions are read once and by their owner."""

from __future__ import annotations

from collections.abc import Iterator

import adbc_driver_manager
import pyarrow as pa
import pytest

from tests.federation.flight_calls import Flight, adbc, prepared, schema_of
from tests.federation.streaming_world import LINES, NUMBERS, PURPOSE, World, world
from tidegate.core.limits import BATCH_BYTES_MAX
from tidegate.identity.folder import IdentityFolder, LocalIdentity
from tidegate.v1 import flight_pb2

pytestmark = pytest.mark.xdist_group("federation-flight")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("flight")) as made:
        made.exchange.join("city", "colleague", roles=["analyst"])
        yield made


def identity(running: World, name: str = "analyst") -> LocalIdentity:
    return IdentityFolder(running.exchange.identity("city", name)).load()


@pytest.fixture(scope="module")
def flight(running: World) -> Iterator[Flight]:
    with Flight(identity(running), PURPOSE) as opened:
        yield opened


ANSWERS = [
    "SELECT id, words, price FROM alpha.lines WHERE id < 10",
    "SELECT id, id, words AS id, 1 AS id FROM alpha.lines WHERE id < 3",
    "SELECT count(*) AS n, sum(x) AS s, avg(x) AS a FROM alpha.numbers",
    "SELECT a.x, b.x, a.x + b.x AS x FROM alpha.numbers AS a JOIN beta.numbers AS b ON a.x = b.x WHERE a.x < 5",
    "SELECT x FROM alpha.numbers WHERE x < 0",
    "SELECT sum(a.x) AS s, max(b.words) AS w FROM alpha.numbers AS a JOIN beta.lines AS b ON a.x = b.id WHERE a.x < 0",
    "SELECT 1 AS one, 'x' AS x, NULL AS nothing, [1, 2] AS list, {'a': 1} AS s, TIMESTAMPTZ '2026-01-01' AS t",
    "SELECT price * 2 AS p, price / 3 AS q, id % 2 = 0 AS even, DATE '2026-01-01' AS d FROM beta.lines WHERE id < 2",
    "SELECT id, INTERVAL 3 DAY AS i FROM beta.lines WHERE id < 2",
    "SELECT x FROM alpha.numbers WHERE x < 3 UNION ALL SELECT price FROM beta.lines WHERE id < 2",
]


@pytest.mark.parametrize("sql", ANSWERS)
def test_the_stream_has_exactly_the_schema_that_was_announced(flight: Flight, running: World, sql: str) -> None:
    made = flight.prepare(sql)
    info = flight.info(prepared(made.prepared_statement_handle))
    streamed = flight.get(info)
    assert schema_of(info.schema).equals(streamed.schema, check_metadata=True)
    assert made.dataset_schema == info.schema
    assert made.is_update is False and made.HasField("is_update")
    asked = flight.call("GetSchema", info.flight_descriptor.SerializeToString())[0]
    assert flight_pb2.FlightSchemaResult.FromString(asked).schema == info.schema
    with running.session() as session:
        table = session.query(sql).to_arrow()
    assert streamed.table.schema.types == table.schema.types, "both doors carry the same types"
    assert sorted(map(str, streamed.table.to_pylist())) == sorted(map(str, table.to_pylist()))


def test_batches_stay_small_and_every_row_arrives(flight: Flight) -> None:
    streamed = flight.get(flight.info("SELECT id, words, price FROM alpha.lines"))
    assert streamed.table.num_rows == LINES
    assert streamed.largest_bytes <= BATCH_BYTES_MAX * 5 // 4


def test_adbc_asks_prepares_binds_and_reads_partitions(running: World) -> None:
    with adbc(identity(running), PURPOSE) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT id, price FROM alpha.lines WHERE id = ?", [7])
        assert cursor.fetch_arrow_table().to_pydict()["id"] == [7]
        cursor.execute("SELECT id FROM alpha.lines WHERE id > $1 AND id < $2 ORDER BY id LIMIT $3", [3, 9, 2])
        assert cursor.fetchall() == [(4,), (5,)]
        assert cursor.adbc_execute_schema("SELECT words FROM alpha.lines") == pa.schema([("words", pa.string())])
        partitions, schema = cursor.adbc_execute_partitions("SELECT count(*) AS n FROM alpha.numbers")
    assert schema == pa.schema([("n", pa.int64())]) and len(partitions) == 1
    with adbc(identity(running), PURPOSE) as later, later.cursor() as cursor:
        cursor.adbc_read_partition(partitions[0])
        assert cursor.fetchall() == [(NUMBERS,)]
        with pytest.raises(adbc_driver_manager.Error, match="TG-FLIGHT-001"):
            cursor.adbc_read_partition(partitions[0])
            cursor.fetchall()
    with (
        adbc(identity(running, "colleague"), PURPOSE) as other,
        other.cursor() as cursor,
        pytest.raises(adbc_driver_manager.Error, match="TG-FLIGHT-001"),
    ):
        cursor.adbc_read_partition(partitions[0])
        cursor.fetchall()

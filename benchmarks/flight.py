"""``python -m benchmarks.flight``: a large answer, node -> broker -> ADBC, beside a bare grpcio Flight relay of the same bytes.

Ours is a whole exchange: real processes, mutual TLS, policy, both logs, DuckDB that scans the rows, every batch validated and
every chunk under a signed digest. The relay's producer holds the very messages that ours made in memory, ready to be sent, and
nobody looks at them. The same ADBC driver reads both, in turns. ``ratio_relay`` is our throughput over the relay's,
``ratio_one_hop`` over the producer's alone. And the small query: ``small_p50_ms``, of its four calls by ADBC, with what each
call takes, and our own Execute beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import adbc_driver_flightsql.dbapi as flight_sql
import duckdb
import pyarrow as pa
import pyarrow.flight as flight

from benchmarks import flight_calls, relay
from benchmarks.machine import machine, versions
from benchmarks.stream import Timed
from benchmarks.tpch_data import DataError, Held, four_departments
from benchmarks.tpch_exchange import ANALYST, PURPOSE, Exchange, local_exchange
from broker.wire.flight import headers
from tidegate.client.tools import ADBC_CA, ADBC_CERTIFICATE, ADBC_HEADER, ADBC_KEY
from tidegate.identity.folder import IdentityFolder

ROWS = 6_000_000
RUNS = 5
SMALL_ROUNDS = 200
SMALL = "SELECT n_name FROM geo.nation WHERE n_nationkey = 7"
_TABLE = "shipping.lineitem"
_STREAMED = ("lineitem", "nation")


class Reader:
    """One side as ADBC reads it. Close it."""

    def __init__(self, address: str, certificate: tuple[bytes, bytes, bytes], sql: str) -> None:
        key, chain, root = (item.decode() for item in certificate)
        options = {ADBC_KEY: key, ADBC_CERTIFICATE: chain, ADBC_CA: root}
        options[f"{ADBC_HEADER}{headers.PURPOSE}"] = PURPOSE[0]
        self.connection: Any = flight_sql.connect(f"grpc+tls://{address}", options, autocommit=True)
        self._sql = sql

    def run(self) -> tuple[float, int]:
        """Read the whole answer batch by batch: seconds, and bytes of Arrow."""
        started = time.perf_counter()
        with self.connection.cursor() as cursor:
            cursor.execute(self._sql)
            size = sum(batch.nbytes for batch in cursor.fetch_record_batch())
        return time.perf_counter() - started, size

    def facts(self) -> dict[str, str]:
        """Read it once more, untimed: rows, the sum of each column of numbers, and a digest of each column."""
        with self.connection.cursor() as cursor:
            cursor.execute(self._sql)
            return facts(cursor.fetch_record_batch())

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()


def facts(answer: pa.RecordBatchReader) -> dict[str, str]:
    """Say what an answer holds, whatever the order of its rows."""
    wanted = ["count(*) AS rows"]
    for field in answer.schema:
        wanted.append(f'sum(hash("{field.name}"::VARCHAR)) AS "digest {field.name}"')
        if pa.types.is_integer(field.type) or pa.types.is_decimal(field.type):
            wanted.append(f'sum("{field.name}") AS "sum {field.name}"')
    with duckdb.connect() as engine:
        found = engine.from_arrow(answer).aggregate(", ".join(wanted))
        return {name: str(value) for name, value in zip(found.columns, found.fetchall()[0], strict=True)}


def file_facts(held: Held, where: str) -> dict[str, str]:
    """Say the same of the department's own file."""
    with duckdb.connect(str(held.file), read_only=True) as engine:
        return facts(engine.sql(f"SELECT * FROM {held.table}{where}").to_arrow_reader(65_536))


def compare(folder: Path, *, rows: int = ROWS, runs: int = RUNS, scale: float = 1, rounds: int = SMALL_ROUNDS) -> Any:
    """Run all sides in turns and give the figures.

    Raises:
        DataError: TPC-H cannot be had. SystemExit: an answer is wrong.
    """
    held = [item for item in four_departments(scale) if item.table in _STREAMED]
    # At scale 1 the sparse keys of orders reach as far as there are lines.
    where = f" WHERE l_orderkey <= {rows}" if rows < ROWS else ""
    sql = f"SELECT * FROM {_TABLE}{where}"
    with local_exchange(folder / "exchange") as local:
        exchange = Exchange(local)
        exchange.open(held)
        identity = IdentityFolder(local.identity(*ANALYST)).load()
        certificate = (identity.key_pem, identity.presented_pem, identity.root_pem)
        calls = flight_calls.Calls(identity)
        ours = Reader(identity.exchange.callers, certificate, sql)
        try:
            info = calls.info(sql)
            peer = relay.start(folder, calls.answer(info.endpoints[0].ticket), _bare(info))
            try:
                streamed = _stream(peer, ours, exchange.processes, runs, file_facts(held[0], where))
            finally:
                peer.close()
            small = flight_calls.measure(ours.connection, calls, local.session(*ANALYST), SMALL, rounds)
        finally:
            ours.close()
            calls.close()
    return {**streamed, **small}


def _bare(info: flight.FlightInfo) -> bytes:
    """Describe the same answer, behind a ticket that can be redeemed again and again."""
    described: bytes = flight.FlightInfo(
        info.schema, info.descriptor, [flight.FlightEndpoint(b"bare", [])], -1, -1
    ).serialize()
    return described


def _stream(
    peer: relay.Peer, ours: Reader, processes: Mapping[str, int], runs: int, right: dict[str, str]
) -> dict[str, Any]:
    certificate = peer.certificate()
    readers = {
        "tidegate": ours,
        "relay": Reader(peer.relay_address, certificate, "bare"),
        "one_hop": Reader(peer.producer_address, certificate, "bare"),
    }
    bare = {"relay": peer.relay.pid, "producer": peer.producer.pid, "caller": os.getpid()}
    sides = {
        name: Timed(reader.run, {**processes, "caller": os.getpid()} if reader is ours else bare)
        for name, reader in readers.items()
    }
    try:
        for name, reader in readers.items():
            if reader.facts() != right:
                raise SystemExit(f"{name}: the answer is not what the department's file holds")
        for turn in range(runs + 1):
            for side in sides.values():
                side.once(keep=turn > 0)
    finally:
        for reader in (readers["relay"], readers["one_hop"]):
            reader.close()
    if len({side.size for side in sides.values()}) != 1:
        raise SystemExit("the sides gave answers of different sizes")
    rates = {name: side.bytes_per_s for name, side in sides.items()}
    return {
        "rows": int(right["rows"]),
        "ratio_relay": round(rates["tidegate"] / rates["relay"], 3),
        "ratio_one_hop": round(rates["tidegate"] / rates["one_hop"], 3),
        "ratio_relay_one_hop": round(rates["relay"] / rates["one_hop"], 3),
        "answers_equal": True,
        "sides": {name: side.to_json() for name, side in sides.items()},
    }


def main(arguments: list[str]) -> None:
    """Run, print, and write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flight", description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS, help="about how many rows of lineitem, at most 6 million")
    parser.add_argument("--runs", type=int, default=RUNS, help="timed turns of each side")
    parser.add_argument("--small", type=int, default=SMALL_ROUNDS, help="timed turns of the small query")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = compare(Path(folder), rows=options.rows, runs=options.runs, rounds=options.small)
        except DataError as error:
            raise SystemExit(str(error)) from error
    document = {"benchmark": "flight", "machine": machine(), "versions": versions(), **found}
    text = json.dumps(document, indent=2)
    if options.json:
        options.json.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main(sys.argv[1:])

"""An exchange for the tests of both doors: our own service, and Arrow Flight SQL as other people's clients speak it.

Two departments hold one column of each type, with the same rows, so that a join pairs each value with itself; tables without
rows; towns and rivers to ask simple things of; numbers to keep a node busy with; and accounts that nobody agreed to share. One
local DuckDB over the same files says what is right.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import adbc_driver_flightsql.dbapi as flightsql
import duckdb
import pyarrow as pa
from adbc_driver_flightsql import DatabaseOptions

from benchmarks.machine import tree
from engine import landlock
from examples.local import LocalExchange
from tidegate.client.session import Session, open_session
from tidegate.identity.folder import IdentityFolder, LocalIdentity

EXCHANGE = "doors"
PURPOSE = "research.statistics"
OTHER_PURPOSE = "operations.planning"
MEMBERS = ("alpha", "beta")
NUMBERS = 100_000
PURPOSE_HEADER = "x-tidegate-purpose"
HEADER = DatabaseOptions.RPC_CALL_HEADER_PREFIX.value
KEEPS_A_NODE_BUSY = "SELECT sum(a.x * b.x % 7) AS s FROM alpha.numbers AS a, alpha.numbers AS b"

TOWNS = (
    "CREATE TABLE towns AS SELECT * FROM (VALUES (1, 'Ulm', 126000, DATE '0854-07-22'), (2, 'Köln', 1087000, NULL), "
    "(3, NULL, 500, DATE '1999-01-01'), (4, '深圳', 17560000, DATE '1979-03-05')) AS t(id, name, people, founded)"
)
RIVERS = "CREATE TABLE rivers AS SELECT * FROM (VALUES (1, 'Donau'), (2, 'Rhein'), (9, 'Spree')) AS t(town, river)"
ACCOUNTS = "CREATE TABLE accounts AS SELECT range AS id, 'person ' || range AS owner, 100.25 AS balance FROM range(20)"


@dataclass(frozen=True)
class Kind:
    """A column: its type, its values as DuckDB literals (one of the rows is always NULL)."""

    name: str
    type: str
    values: tuple[str, ...]


def _integers(name: str, bits: int, *, signed: bool) -> Kind:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return Kind(name.lower(), name, (str(low), str(high), "0", "7"))


def _decimal(precision: int, scale: int) -> Kind:
    nines = "9" * precision
    most = f"{nines[: precision - scale] or '0'}.{nines[precision - scale :]}" if scale else nines
    values = (f"'{most}'", f"'-{most}'", "'0'")
    return Kind(f"decimal_{precision}_{scale}", f"DECIMAL({precision},{scale})", values)


_FLOATS = ("'nan'", "'inf'", "'-inf'", "'-0.0'", "0.1", "-1.5", "1e-30")
_HUGE = "'99999999999999999999999999999999999999'"  # 38 digits, the most that Arrow's decimal128 holds

KINDS: tuple[Kind, ...] = (
    Kind("boolean", "BOOLEAN", ("true", "false")),
    _integers("TINYINT", 8, signed=True),
    _integers("SMALLINT", 16, signed=True),
    _integers("INTEGER", 32, signed=True),
    _integers("BIGINT", 64, signed=True),
    _integers("UTINYINT", 8, signed=False),
    _integers("USMALLINT", 16, signed=False),
    _integers("UINTEGER", 32, signed=False),
    _integers("UBIGINT", 64, signed=False),
    Kind("hugeint", "HUGEINT", ("0", "7", _HUGE, "'-" + _HUGE[1:])),
    Kind("uhugeint", "UHUGEINT", ("0", "7", _HUGE)),
    Kind("float", "FLOAT", (*_FLOATS, "3.4028235e38")),
    Kind("double", "DOUBLE", (*_FLOATS, "1.7976931348623157e308", "5e-324")),
    *(_decimal(*widths) for widths in ((1, 0), (4, 1), (9, 9), (15, 2), (18, 3), (20, 0), (38, 0), (38, 37))),
    Kind(
        "varchar",
        "VARCHAR",
        ("''", "'plain'", "'Zürich 深圳 🦆'", "'O''Neil \"q\" \\ '", "'a' || chr(10) || 'b'", "repeat('x', 5000)"),
    ),
    Kind("blob", "BLOB", ("''::BLOB", r"'\x00\xFF\x0A'::BLOB", "'text'::BLOB")),
    Kind("date", "DATE", ("'1970-01-01'", "'2024-02-29'", "'0001-01-01'", "'9999-12-31'")),
    Kind("time", "TIME", ("'00:00:00'", "'01:02:03.000004'", "'23:59:59.999999'")),
    Kind(
        "timestamp",
        "TIMESTAMP",
        ("'1970-01-01 00:00:00'", "'2024-02-29 23:59:59.999999'", "'0001-01-01 00:00:00'", "'1969-12-31 23:59:59.5'"),
    ),
    Kind("timestamp_s", "TIMESTAMP_S", ("'2024-02-29 23:59:59'", "'1969-12-31 23:59:59'")),
    Kind("timestamp_ms", "TIMESTAMP_MS", ("'2024-02-29 23:59:59.999'", "'1969-12-31 23:59:59.5'")),
    Kind("timestamp_ns", "TIMESTAMP_NS", ("'2024-02-29 23:59:59.123456789'", "'1969-12-31 23:59:59.5'")),
    Kind(
        "timestamptz",
        "TIMESTAMPTZ",
        ("'2024-03-31 02:30:00+02'", "'1970-01-01 00:00:00+00'", "'2024-01-01 00:00:00.000001-11'"),
    ),
    Kind(
        "interval",
        "INTERVAL",
        (
            "INTERVAL '1 year 2 months 3 days 4.5 seconds'",
            "INTERVAL '-1 month'",
            "INTERVAL '0 days'",
            "INTERVAL '25 hours'",
        ),
    ),
    Kind(
        "uuid",
        "UUID",
        (
            "'00000000-0000-0000-0000-000000000000'",
            "'ffffffff-ffff-ffff-ffff-ffffffffffff'",
            "'1b4e28ba-2fa1-11d2-883f-0016d3cca427'",
        ),
    ),
    Kind("json", "JSON", ("""'{"a": [1, null, "ü"], "b":{}}'""", "'null'", "'[]'", "'1.50'")),
    Kind("integers", "INTEGER[]", ("[1, NULL, 3]", "[]", "[NULL]")),
    Kind("texts", "VARCHAR[]", ("['a', NULL, '']", "[]")),
    Kind("nested_list", "INTEGER[][]", ("[[1, 2], [], NULL, [NULL]]", "[]", "[[]]")),
    Kind("hugeints", "HUGEINT[]", (f"[1, NULL, {_HUGE}::HUGEINT]", "[]")),
    Kind("uuids", "UUID[]", ("['1b4e28ba-2fa1-11d2-883f-0016d3cca427', NULL]", "[]")),
    Kind("array_of_three", "INTEGER[3]", ("[1, NULL, 3]", "[0, 0, 0]")),
    Kind("array_of_doubles", "DOUBLE[2]", ("['nan', '-0.0']", "[1.5, NULL]")),
    Kind("struct_flat", 'STRUCT("a" INTEGER, "b" VARCHAR)', ("{'a': 1, 'b': 'x'}", "{'a': NULL, 'b': NULL}")),
    Kind(
        "struct_deep",
        'STRUCT("at" TIMESTAMPTZ, "list" DECIMAL(9,2)[], "inner" STRUCT("id" UUID, "doc" JSON))',
        (
            "{'at': '2024-03-31 02:30:00+02', 'list': [1.25, NULL], "
            "'inner': {'id': '1b4e28ba-2fa1-11d2-883f-0016d3cca427', 'doc': '{}'}}",
            "{'at': NULL, 'list': NULL, 'inner': NULL}",
        ),
    ),
    Kind("structs", 'STRUCT("a" INTEGER)[]', ("[{'a': 1}, NULL, {'a': NULL}]", "[]")),
    Kind("map_of_integers", "MAP(VARCHAR, INTEGER)", ("MAP {'a': 1, 'b': NULL}", "MAP {}")),
    Kind("map_of_lists", "MAP(INTEGER, DATE[])", ("MAP {1: ['2024-02-29', NULL], 2: NULL}", "MAP {}")),
)
"""What the planner admits, at its edges."""

OTHERS: tuple[Kind, ...] = (
    Kind("bit", "BIT", ("'0101'",)),
    Kind("bignum", "BIGNUM", ("'123'",)),
    Kind("either", "UNION(number INTEGER, word VARCHAR)", ("1", "'x'")),
    Kind("time_ns", "TIME_NS", ("'01:02:03.123456789'",)),
    Kind("timetz", "TIMETZ", ("'01:02:03+02'",)),
    Kind("colours", "ENUM('red', 'green')[]", ("['red', NULL]",)),
)
"""What it does not admit: such a column is left out of the catalogue, and a cast to it is refused."""


def create(path: Path) -> None:
    """Write a department's file."""
    with duckdb.connect(str(path)) as engine:
        engine.execute("SET TimeZone = 'UTC'")
        for statement in (
            TOWNS,
            RIVERS,
            ACCOUNTS,
            f"CREATE TABLE numbers AS SELECT range + 1 AS x FROM range({NUMBERS})",
        ):
            engine.execute(statement)
        columns = ", ".join(f'"{kind.name}" {kind.type}' for kind in (*KINDS, *OTHERS))
        for table in ("kinds", "empty"):
            engine.execute(f"CREATE TABLE {table} (id INTEGER, colour ENUM('red', 'green', 'blue'), {columns})")
        rows = 1 + max(len(kind.values) for kind in (*KINDS, *OTHERS))
        colours = ("'green'", "'blue'", "'red'")
        for row in range(rows):
            values = [
                f"({values[row]})::{type_}" if row < len(values) else "NULL"
                for values, type_ in ((kind.values, kind.type) for kind in (*KINDS, *OTHERS))
            ]
            colour = colours[row] if row < len(colours) else "NULL"
            engine.execute(f"INSERT INTO kinds VALUES ({row}, {colour}, {', '.join(values)})")


@dataclass
class DoorsWorld:
    """The exchange that is up, and the one local DuckDB."""

    exchange: LocalExchange
    local: duckdb.DuckDBPyConnection
    columns: dict[str, list[str]] = field(default_factory=dict)

    def identity(self, member: str = "city", name: str = "analyst") -> LocalIdentity:
        """Give the identity of somebody who has joined."""
        return IdentityFolder(self.exchange.identity(member, name)).load()

    @property
    def address(self) -> str:
        """``host:port`` of the callers' listener."""
        return self.identity().exchange.callers

    def session(self, purpose: str = PURPOSE) -> Session:
        """Open the first door: a session of our own client."""
        return open_session(None, identity=str(self.exchange.identity("city", "analyst")), purpose=purpose)

    def adbc(
        self,
        *,
        purpose: str | None = PURPOSE,
        options: Mapping[str, str] | None = None,
        who: tuple[str, str] = ("city", "analyst"),
        autocommit: bool = True,
    ) -> flightsql.Connection:
        """Open the second door with the ADBC driver."""
        identity = self.identity(*who)
        headers = {} if purpose is None else {HEADER + PURPOSE_HEADER: purpose}
        return flightsql.connect(
            f"grpc+tls://{self.address}",
            db_kwargs={
                DatabaseOptions.TLS_ROOT_CERTS.value: identity.root_pem.decode(),
                DatabaseOptions.MTLS_CERT_CHAIN.value: identity.presented_pem.decode(),
                DatabaseOptions.MTLS_PRIVATE_KEY.value: identity.key_pem.decode(),
                **headers,
                **(options or {}),
            },
            autocommit=autocommit,
        )

    def pem_files(self, folder: Path) -> dict[str, str]:
        """Write certificate, key and root of the analyst as the JDBC driver wants them; give its properties."""
        identity = self.identity()
        written = {
            "clientCertificate": identity.presented_pem,
            "clientKey": identity.key_pem,
            "tlsRootCerts": identity.root_pem,
        }
        for name, data in written.items():
            path = folder / f"{name}.pem"
            path.touch(0o600)
            path.write_bytes(data)
        return {name: str(folder / f"{name}.pem") for name in written}

    def expected(self, sql: str) -> pa.Table:
        """Give what one local DuckDB says."""
        return self.local.cursor().sql(sql).to_arrow_table()

    def log(self, name: str) -> str:
        """Read the log of a process."""
        return self.exchange.running[name].log.read_text(errors="replace")

    def cpu_s(self, name: str) -> float:
        """Give what a process and all below it have used; of those that are alive."""
        ticks = 0
        for pid in tree(self.exchange.running[name].process.pid):
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def answered(self, name: str = "alpha-node1") -> int:
        """Count the fragments that a node has ended, well or not."""
        return self.log(name).count("answered")


def until(true: Callable[[], bool], within_s: float) -> None:
    """Wait for something that no event tells."""
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, f"not within {within_s} s"
        time.sleep(0.01)


@contextmanager
def doors_world(folder: Path) -> Iterator[DoorsWorld]:
    """Run it."""
    sandbox = "required" if landlock.abi() else "available"
    settings: dict[str, Any] = {"limits": {"sandbox": sandbox, "join_workers": 1, "planning_workers": 1}}
    local = duckdb.connect()
    local.execute("SET GLOBAL TimeZone = 'UTC'")
    with LocalExchange(folder, name=EXCHANGE, broker_settings=settings) as exchange:
        exchange.start()
        operator = exchange.operator().transport
        for purpose in (PURPOSE, OTHER_PURPOSE):
            operator.add_purpose(purpose, purpose, ["statistics.act.5"], os.urandom(16).hex())
        columns = {}
        for member in MEMBERS:
            database = folder / f"{member}.duckdb"
            create(database)
            local.execute(f"ATTACH '{database}' AS file_{member} (READ_ONLY)")
            local.execute(f"CREATE SCHEMA {member}")
            for table in _TABLES:
                served = "SELECT * REPLACE (colour::VARCHAR AS colour)" if table in ("kinds", "empty") else "SELECT *"
                local.execute(f"CREATE VIEW {member}.{table} AS {served} FROM file_{member}.{table}")
            exchange.join(member, "node1", kind="node")
            exchange.join(member, "steward", kind="person", roles=["steward"])
            datasets = [_dataset(database, table, dataset_class) for table, dataset_class in _TABLES.items()]
            limits = {"planners": 1, "workers": 1, "sandbox": sandbox}
            exchange.start_node(member, datasets, settings={"limits": limits})
        exchange.join("city", "analyst", roles=["analyst"])
        exchange.join("city", "colleague", roles=["analyst"])
        exchange.wait_attached(MEMBERS)
        for member in MEMBERS:
            steward = exchange.session(member, "steward")
            for dataset in steward.catalogue.held_by_node():
                steward.catalogue.register(dataset)
                columns[f"{member}.{dataset.name.name}"] = [column.name for column in dataset.columns]
        try:
            yield DoorsWorld(exchange, local, columns)
        finally:
            local.close()


_TABLES = {
    "kinds": "open",
    "empty": "open",
    "towns": "open",
    "rivers": "open",
    "numbers": "open",
    "accounts": "conditional",
}


def _dataset(database: Path, table: str, dataset_class: str) -> dict[str, Any]:
    return {
        "name": table,
        "source": "duckdb",
        "path": str(database),
        "table": table,
        "title": table,
        "class": dataset_class,
        "keys": ["id"] if table == "towns" else [],
        **({"licence": "CC0-1.0"} if dataset_class == "open" else {}),
    }

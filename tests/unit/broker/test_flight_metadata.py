"""Flight SQL's metadata against a real catalogue, as two callers see it; the door's own test is in tests/federation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from broker.authority import Authority
from broker.wire.flight import schemas, table_listing
from broker.wire.flight.column_types import SIMPLE, ColumnTypes
from broker.wire.flight.metadata import COMMANDS, INFOS_ASKED_MAX, Metadata
from broker.wire.flight.patterns import matcher
from catalogue.members import MemberDirectory
from catalogue.purposes import Purpose
from catalogue.store import Catalogue
from tests.contract.catalogue_setup import HeldClock, city, dataset, opened
from tidegate.core.agreement import Agreement, SignedAgreement
from tidegate.core.caller import Caller
from tidegate.core.dataset import Column, DatasetClass
from tidegate.core.errors import Code, TidegateError
from tidegate.core.limits import BATCH_BYTES_MAX
from tidegate.core.names import DatasetName, SpiffeId
from tidegate.identity import keys
from tidegate.identity.certificates import CertificateFacts, make_csr
from tidegate.identity.documents import verify_document
from tidegate.sql.plan import plan
from tidegate.sql.types import SIMPLE_TYPES
from tidegate.v1 import flight_sql_pb2 as sql

EXCHANGE = "city.example"
STEWARD = f"spiffe://{EXCHANGE}/member/health/person/sam"
FLIGHTS = (
    Column("id", "BIGINT", sensitivity="public", nullable=False),
    Column("delay", "DECIMAL(12,2)", "Minutes that it left\nlate", element="time.delay"),
    Column("pilot", "VARCHAR", "Who flew", sensitivity="restricted"),
)


def caller(member: str, clearance: str = "internal") -> Caller:
    spiffe = SpiffeId.parse(f"spiffe://{EXCHANGE}/member/{member}/service/desk")
    return Caller(spiffe, ("analyst",), clearance, "government", f"{member}-{clearance}")


@pytest.fixture
def clock() -> HeldClock:
    return HeldClock()


class Stewards:
    """An authority, and the stewards who sign under it."""

    def __init__(self, folder: Path, clock: HeldClock) -> None:
        self.authority = Authority.create(folder, EXCHANGE, clock)
        self.directory: MemberDirectory

    def verify(self, data: bytes, signature: bytes, chain_pem: bytes, at: datetime) -> CertificateFacts:
        return verify_document(data, signature, chain_pem, self.authority.root_pem, at)

    def sign(self, terms: Agreement) -> SignedAgreement:
        key = keys.new_key()
        issued = self.authority.issue(make_csr(key), SpiffeId.parse(terms.granted_by))
        facts = issued.facts
        self.directory.record_certificate(facts.serial_hex, terms.granted_by, facts.fingerprint, facts.not_after)
        return SignedAgreement(terms, keys.sign(key, terms.signed_bytes()), issued.certificate_pem + issued.chain_pem)


@pytest.fixture
def stewards(tmp_path: Path, clock: HeldClock) -> Stewards:
    return Stewards(tmp_path / "authority", clock)


@pytest.fixture
def catalogue(tmp_path: Path, clock: HeldClock, stewards: Stewards) -> Iterator[Catalogue]:
    with opened("sqlite", tmp_path) as engine:
        found, stewards.directory = city(engine, clock, verify=stewards.verify)
        found.add_purpose(Purpose("traffic.safety", "Traffic safety", ("law.roads",)))
        stewards.directory.set_identity(STEWARD, ("steward",), "secret")
        open_class = {"dataset_class": DatasetClass.OPEN}
        found.register(dataset("aviation.flights", columns=FLIGHTS, keys=("id",), **open_class))
        found.register(dataset("aviation.crew", columns=FLIGHTS, keys=("id", "pilot"), **open_class))
        found.register(dataset("weather.hours_2024", columns=FLIGHTS[:2], **open_class))
        found.register(dataset("weather.hoursX2024", columns=FLIGHTS[:2], **open_class))
        found.register(dataset("health.cases", columns=FLIGHTS))
        found.register(dataset("health.secrets", columns=FLIGHTS, hidden_from=("east", "aviation")))
        found.register(dataset("east.hidden", columns=FLIGHTS, hidden_from=("*",)))
        whole = dataset("weather.both", node="", columns=FLIGHTS[:2], **open_class)
        found.register(replace(whole, parts=(_name("weather.hours_2024"), _name("weather.hoursX2024"))))
        closed = {"dataset_class": DatasetClass.CLOSED, "citation": "Act 7, article 3"}
        found.register(dataset("east.closed", columns=FLIGHTS[:1], **closed))
        yield found


@pytest.fixture
def metadata(catalogue: Catalogue, clock: HeldClock) -> Metadata:
    return Metadata(catalogue, EXCHANGE, clock=clock, statement_timeout_s=900.0)


def _name(text: str) -> DatasetName:
    return DatasetName.parse(text)


def names(metadata: Metadata, who: Caller, **filters: Any) -> list[str]:
    rows = metadata.table(sql.CommandGetTables(**filters), who).to_pylist()
    return [f"{row['db_schema_name']}.{row['table_name']}" for row in rows]


def columns(metadata: Metadata, who: Caller, name: str) -> pa.Schema:
    department, _, table = name.partition(".")
    command = sql.CommandGetTables(
        db_schema_filter_pattern=department, table_name_filter_pattern=table, include_schema=True
    )
    (row,) = metadata.table(command, who).to_pylist()
    return pa.ipc.read_schema(pa.py_buffer(row["table_schema"]))


def agree(
    catalogue: Catalogue, stewards: Stewards, *given: str, purposes: tuple[str, ...] = ("traffic.planning",)
) -> None:
    grantee = "east"
    terms = Agreement(
        id=f"{grantee}-{len(given)}-{len(purposes)}",
        dataset=_name("health.cases"),
        owner="health",
        grantee=grantee,
        purposes=purposes,
        legal_basis="law.roads",
        columns=given,
        mode="rows",
        min_group_size=1,
        row_filter={},
        issued_at="2026-11-21T10:00:00.000000Z",
        expires_at="2026-12-01T00:00:00.000000Z",
        granted_by=STEWARD,
    )
    catalogue.put_agreement(stewards.sign(terms))


# --- what is listed, and to whom ---------------------------------------------------------------------------------------


def test_the_catalog_is_the_exchange_and_a_schema_is_a_department_with_something_to_know(metadata: Metadata) -> None:
    assert metadata.table(sql.CommandGetCatalogs(), caller("east")).to_pylist() == [{"catalog_name": EXCHANGE}]
    rows = metadata.table(sql.CommandGetDbSchemas(), caller("aviation")).to_pylist()
    assert rows == [
        {"catalog_name": EXCHANGE, "db_schema_name": name} for name in ("aviation", "east", "health", "weather")
    ]


def test_two_callers_see_what_each_may_know_and_no_more(metadata: Metadata) -> None:
    both = {"aviation.crew", "aviation.flights", "east.closed", "health.cases"}
    both |= {"weather.both", "weather.hours_2024", "weather.hoursX2024"}
    assert set(names(metadata, caller("weather"))) == both | {"health.secrets"}
    assert set(names(metadata, caller("aviation"))) == both
    assert set(names(metadata, caller("east"))) == both | {"east.hidden"}
    assert set(names(metadata, caller("health"))) == both | {"health.secrets"}


def test_a_department_whose_datasets_are_all_hidden_is_not_a_schema(catalogue: Catalogue, metadata: Metadata) -> None:
    catalogue.withdraw("east", _name("east.closed"), reason="gone")
    command = sql.CommandGetDbSchemas(db_schema_filter_pattern="east")
    assert metadata.table(command, caller("weather")).num_rows == 0
    assert metadata.table(command, caller("east")).num_rows == 1


@pytest.mark.parametrize("name", ["health.secrets", "health.nothing"])
def test_asking_by_name_for_what_is_hidden_looks_like_asking_for_nothing(metadata: Metadata, name: str) -> None:
    department, _, table = name.partition(".")
    for include in (False, True):
        command = sql.CommandGetTables(
            catalog=EXCHANGE,
            db_schema_filter_pattern=department,
            table_name_filter_pattern=table,
            include_schema=include,
        )
        assert list(metadata.batches(command, caller("aviation"))) == []
    keys = sql.CommandGetPrimaryKeys(catalog=EXCHANGE, db_schema=department, table=table)
    assert metadata.table(keys, caller("aviation")).num_rows == 0


def test_rows_are_ordered_by_department_and_name(metadata: Metadata) -> None:
    listed = names(metadata, caller("weather"))
    assert listed == sorted(listed, key=lambda name: name.split(".")) and len(listed) == 8


def test_a_collection_is_a_view_and_table_types_filter(metadata: Metadata) -> None:
    assert metadata.table(sql.CommandGetTableTypes(), caller("east")).column(0).to_pylist() == ["TABLE", "VIEW"]
    assert names(metadata, caller("east"), table_types=["VIEW"]) == ["weather.both"]
    assert "weather.both" not in names(metadata, caller("east"), table_types=["TABLE"])
    assert names(metadata, caller("east"), table_types=["SYSTEM TABLE"]) == []
    assert len(names(metadata, caller("east"), table_types=["TABLE", "VIEW"])) == len(names(metadata, caller("east")))


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({"catalog": EXCHANGE, "table_name_filter_pattern": "flights"}, ["aviation.flights"]),
        ({"catalog": "other"}, []),
        ({"catalog": ""}, []),
        ({"db_schema_filter_pattern": "w%", "table_name_filter_pattern": "hours_2024"}, ["hours_2024", "hoursX2024"]),
        ({"table_name_filter_pattern": "hours\\_2024"}, ["hours_2024"]),
        ({"table_name_filter_pattern": "%ours%4"}, ["hours_2024", "hoursX2024"]),
        ({"table_name_filter_pattern": "FLIGHTS"}, []),
        ({"table_name_filter_pattern": ""}, []),
        ({"db_schema_filter_pattern": "aviation", "table_name_filter_pattern": "%"}, ["crew", "flights"]),
        ({"table_name_filter_pattern": "SELECT * FROM aviation.flights " * 100}, []),
    ],
)
def test_filters(metadata: Metadata, filters: dict[str, Any], found: list[str]) -> None:
    listed = names(metadata, caller("aviation"), **filters)
    assert sorted(name.split(".")[1] for name in listed) == sorted(name.split(".")[-1] for name in found)


def test_schemas_have_filters_too(metadata: Metadata) -> None:
    def listed(**filters: str) -> list[str]:
        rows = metadata.table(sql.CommandGetDbSchemas(**filters), caller("aviation")).to_pylist()
        return [row["db_schema_name"] for row in rows]

    assert listed(db_schema_filter_pattern="%_ea%") == ["health", "weather"]
    assert listed(db_schema_filter_pattern="_ast", catalog=EXCHANGE) == ["east"]
    assert listed(catalog="other") == [] == listed(catalog="")


# --- columns -------------------------------------------------------------------------------------------------------------


def test_a_column_above_the_callers_clearance_is_not_listed(metadata: Metadata) -> None:
    assert columns(metadata, caller("east"), "aviation.flights").names == ["id", "delay"]
    assert columns(metadata, caller("east", "public"), "aviation.flights").names == ["id"]
    assert columns(metadata, caller("east", "restricted"), "aviation.flights").names == ["id", "delay", "pilot"]
    assert columns(metadata, caller("east", "unheard-of"), "aviation.flights").names == []


def test_of_a_conditional_dataset_the_agreements_in_force_say_what_is_listed(
    catalogue: Catalogue, stewards: Stewards, metadata: Metadata, clock: HeldClock
) -> None:
    assert columns(metadata, caller("east"), "health.cases").names == ["id", "delay"]
    agree(catalogue, stewards, "id")
    assert columns(metadata, caller("east"), "health.cases").names == ["id"]
    assert columns(metadata, caller("weather"), "health.cases").names == ["id", "delay"]
    agree(catalogue, stewards, "delay", "pilot")
    assert columns(metadata, caller("east"), "health.cases").names == ["id", "delay"]
    assert columns(metadata, caller("east", "secret"), "health.cases").names == ["id", "delay", "pilot"]
    clock.advance(days=60)
    assert columns(metadata, caller("east", "secret"), "health.cases").names == ["id", "delay", "pilot"]


def test_a_field_says_what_flight_sql_and_the_catalogue_know(
    catalogue: Catalogue, stewards: Stewards, metadata: Metadata
) -> None:
    agree(catalogue, stewards, "id", "delay", purposes=("traffic.safety", "traffic.planning"))
    field = columns(metadata, caller("east"), "health.cases").field("delay")
    assert field.type == pa.decimal128(12, 2) and field.nullable
    about = {key.decode().removeprefix("ARROW:FLIGHT:SQL:"): text.decode() for key, text in field.metadata.items()}
    assert about == {
        "CATALOG_NAME": EXCHANGE,
        "SCHEMA_NAME": "health",
        "TABLE_NAME": "cases",
        "TYPE_NAME": "DECIMAL(12,2)",
        "PRECISION": "12",
        "SCALE": "2",
        "IS_AUTO_INCREMENT": "0",
        "IS_CASE_SENSITIVE": "0",
        "IS_READ_ONLY": "1",
        "IS_SEARCHABLE": "1",
        "REMARKS": "Minutes that it left late [internal; conditional: purpose traffic.planning, traffic.safety]",
        "tidegate:sensitivity": "internal",
        "tidegate:element": "time.delay",
    }


def test_remarks_say_whom_to_ask(metadata: Metadata) -> None:
    def remark(name: str) -> str:
        about = columns(metadata, caller("aviation"), name).field("id").metadata
        return bytes(about[b"ARROW:FLIGHT:SQL:REMARKS"]).decode()

    assert remark("aviation.flights") == "[public; open: any registered purpose]"
    assert remark("health.cases") == "[public; conditional: ask a steward of health for an agreement]"
    assert remark("east.closed") == "[public; closed: Act 7, article 3]"


def test_the_most_columns_with_the_longest_texts_make_one_batch(catalogue: Catalogue, metadata: Metadata) -> None:
    long = tuple(Column("c" * 55 + f"{n:05}", "VARCHAR", "\u6f2b" * 600) for n in range(2_000))
    catalogue.register(dataset("east.wide", columns=long, description="\u6f2b" * 20_000))
    (batch,) = metadata.batches(
        sql.CommandGetTables(table_name_filter_pattern="wide", include_schema=True), caller("east")
    )
    assert batch.get_total_buffer_size() <= BATCH_BYTES_MAX
    assert len(columns(metadata, caller("east"), "east.wide")) == 2_000


def test_every_type_of_the_planner_is_described_as_the_engine_sends_it() -> None:
    assert frozenset(SIMPLE) == SIMPLE_TYPES
    nested = [
        "DECIMAL(4,1)",
        "DECIMAL(38,10)",
        "INTEGER[]",
        "INTEGER[3]",
        "VARCHAR[][]",
        "HUGEINT[]",
        "UUID[]",
        "JSON[]",
    ]
    nested += [
        'STRUCT("a" INTEGER, "b" VARCHAR[])',
        "MAP(VARCHAR, INTEGER)",
        "MAP(VARCHAR, DECIMAL(4,1)[])",
        "DATE[2][]",
    ]
    types, engine = ColumnTypes(), duckdb.connect()
    engine.execute("SET TimeZone = 'UTC'")
    for text in [*sorted(SIMPLE_TYPES), *nested]:
        (sent,) = engine.sql(f"SELECT CAST(NULL AS {text}) AS x").to_arrow_reader().schema
        found = types.of(text)
        assert (found.name, str(found.arrow), found.arrow) == (text, str(sent.type), sent.type), text
    assert types.of("BIT").arrow == pa.null() and types.of("BIT").name == "BIT"


# --- keys ----------------------------------------------------------------------------------------------------------------


def test_declared_keys_are_primary_keys_unless_a_part_is_not_shown(metadata: Metadata) -> None:
    def keys(who: Caller, **command: str) -> list[tuple[Any, ...]]:
        rows = metadata.table(sql.CommandGetPrimaryKeys(**command), who).to_pylist()
        return [tuple(row.values()) for row in rows]

    assert keys(caller("east"), table="flights") == [(EXCHANGE, "aviation", "flights", "id", None, 1)]
    crew = [(EXCHANGE, "aviation", "crew", "id", None, 1), (EXCHANGE, "aviation", "crew", "pilot", None, 2)]
    assert keys(caller("east", "restricted"), table="crew", db_schema="aviation") == crew
    assert keys(caller("east"), table="crew") == []
    assert keys(caller("east"), table="flights", db_schema="weather") == []
    assert keys(caller("east"), table="flights", catalog="other") == []
    assert keys(caller("east"), table="fl%") == []


@pytest.mark.parametrize(
    "command",
    [
        sql.CommandGetExportedKeys(table="flights"),
        sql.CommandGetImportedKeys(table="flights"),
        sql.CommandGetCrossReference(pk_table="flights", fk_table="crew"),
    ],
)
def test_no_dataset_declares_references(metadata: Metadata, command: Any) -> None:
    answer = metadata.table(command, caller("aviation"))
    assert answer.num_rows == 0 and answer.schema == schemas.FOREIGN_KEYS


# --- form, bounds --------------------------------------------------------------------------------------------------------


def test_every_answer_has_the_schema_that_was_announced(metadata: Metadata) -> None:
    commands = [made() for made in COMMANDS] + [sql.CommandGetTables(include_schema=True)]
    assert len(commands) == 11
    for command in commands:
        announced = metadata.schema(command)
        for batch in metadata.batches(command, caller("aviation")):
            assert batch.schema.equals(announced, check_metadata=True) and batch.validate(full=True) is None
    assert [len(metadata.schema(sql.CommandGetTables(include_schema=flag))) for flag in (False, True)] == [4, 5]


def test_another_command_is_not_metadata(metadata: Metadata) -> None:
    for command in (sql.CommandStatementQuery(query="SELECT 1"), sql.CommandPreparedStatementQuery()):
        with pytest.raises(TidegateError) as caught:
            metadata.batches(command, caller("east"))
        assert caught.value.code is Code.WIRE_UNSUPPORTED


def test_many_tables_come_in_batches_and_too_many_are_refused(
    catalogue: Catalogue, metadata: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tuple(Column(f"c{n:03}", "VARCHAR", "x" * 400) for n in range(400))
    for number in range(20):
        catalogue.register(dataset(f"east.t{number:02}", columns=long))
    command = sql.CommandGetTables(table_name_filter_pattern="t__", include_schema=True)
    batches = list(metadata.batches(command, caller("east")))
    assert len(batches) > 2 and sum(batch.num_rows for batch in batches) == 20
    assert all(batch.get_total_buffer_size() <= BATCH_BYTES_MAX for batch in batches)
    assert [row["table_name"] for batch in batches for row in batch.to_pylist()] == [f"t{n:02}" for n in range(20)]
    monkeypatch.setattr(table_listing, "COLUMNS_MAX", 7_999)
    with pytest.raises(TidegateError) as caught:
        metadata.batches(command, caller("east"))
    assert caught.value.code is Code.FETCH_LIMIT and "pattern" in caught.value.message
    without = sql.CommandGetTables(table_name_filter_pattern="t__")
    assert metadata.table(without, caller("east")).num_rows == 20
    monkeypatch.setattr(table_listing, "TABLES_MAX", 19)
    with pytest.raises(TidegateError):
        metadata.batches(without, caller("east"))


def test_a_hostile_list_of_infos_is_refused(metadata: Metadata) -> None:
    with pytest.raises(TidegateError) as caught:
        metadata.batches(sql.CommandGetSqlInfo(info=range(INFOS_ASKED_MAX + 1)), caller("east"))
    assert caught.value.code is Code.WIRE_INVALID


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        (None, "a", True),
        ("%", "a", True),
        ("%%", "", True),
        ("", "", True),
        ("", "a", False),
        ("a%", "abc", True),
        ("%b%", "abc", True),
        ("a_c", "abc", True),
        ("a_c", "abbc", False),
        ("_", "", False),
        ("a.c", "abc", False),
        ("a\\_c", "a_c", True),
        ("a\\_c", "abc", False),
        ("\\%", "%", True),
        ("\\\\", "\\", True),
        ("a\\x", "a\\x", True),
        ("a\\", "a\\", True),
        ("%ab%ab", "aabab", True),
        ("%ab%ab", "ab", False),
        ("a%b%c", "acb", False),
        ("a%b%c", "a\nb\nc", True),
        ("x" * 64, "x" * 64, False),
        ("%" + "x" * 63 + "%", "x" * 63, True),
    ],
)
def test_patterns(pattern: str | None, name: str, fits: bool) -> None:
    assert matcher(pattern)(name) is fits


def test_patterns_mean_what_like_means_to_the_engine() -> None:
    engine = duckdb.connect()
    letters = ["", "a", "b", "aa", "ab", "ba", "aba", "bab", "abab", "aabb"]
    pieces = ["", "a", "b", "_", "%"]
    patterns = [x + y + z + w for x in pieces for y in pieces for z in pieces for w in pieces]
    engine.execute("CREATE TABLE n AS SELECT unnest($1) AS n", [letters])
    engine.execute("CREATE TABLE p AS SELECT unnest($1) AS p", [patterns])
    for pattern, name, fits in engine.execute("SELECT p, n, n LIKE p FROM n, p").fetchall():
        assert matcher(pattern)(name) is fits, (pattern, name)


# --- what the SQL is said to be --------------------------------------------------------------------------------------------


def test_every_literal_form_is_one_that_the_planner_takes(metadata: Metadata) -> None:
    values = {"VARCHAR": "x", "JSON": "[1]", "UUID": "0" * 32, "BLOB": "ab", "DATE": "2024-01-01", "INTERVAL": "1 day"}
    for row in metadata.table(sql.CommandGetXdbcTypeInfo(), caller("east")).to_pylist():
        name, prefix, suffix = row["type_name"], row["literal_prefix"], row["literal_suffix"]
        value = values.get(name, "10:00:00" if name == "TIME" else "2024-01-01 10:00:00")
        if prefix is not None:
            assert plan(f"SELECT {prefix}{value}{suffix} AS x", {}).output_names == ("x",)


def test_every_type_is_listed_by_code_and_name(metadata: Metadata) -> None:
    rows = metadata.table(sql.CommandGetXdbcTypeInfo(), caller("east")).to_pylist()
    listed = [(row["data_type"], row["type_name"]) for row in rows]
    assert listed == sorted(listed)
    assert {name for _, name in listed} == SIMPLE_TYPES | {"DECIMAL", "LIST", "ARRAY", "STRUCT", "MAP"}
    some = metadata.table(sql.CommandGetXdbcTypeInfo(data_type=93), caller("east")).to_pylist()
    assert [row["type_name"] for row in some] == [name for code, name in listed if code == 93] != []
    assert metadata.table(sql.CommandGetXdbcTypeInfo(data_type=1), caller("east")).num_rows == 0

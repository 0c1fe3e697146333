"""Workers that read files: exactly the data sets of the spec, exactly their columns, and what happens when files change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.pool import WorkerPool
from engine.spec import FileTable, WorkerSpec
from tests.unit.engine.running import failure, job, rows
from tidegate.core.errors import CallerError, Code

CSV = 'id;name;secret;"day"\n1;"a;b";s1;2026-01-02\n2;NA;s2;NA\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("data")
    (place / "people.csv").write_text(CSV)
    (place / "other.csv").write_text("x\n1\n")
    pq.write_table(pa.table({"id": [1, 2, 3], "secret": ["s"] * 3, "größe": [1.5, 2.5, None]}), place / "part1.parquet")
    pq.write_table(pa.table({"id": [4], "secret": ["s"], "größe": [4.5]}), place / "part2.parquet")
    with duckdb.connect(str(place / "data.duckdb")) as connection:
        connection.execute(
            "CREATE SCHEMA s; CREATE TABLE s.planes AS SELECT i AS id, 'tail' || i AS tail, 'k' AS secret FROM range(5) AS r(i)"
        )
    return place


def spec(folder: Path, *names: str) -> WorkerSpec:
    tables = {
        "csv": FileTable(
            "reg",
            "people",
            (str(folder / "people.csv"),),
            "csv",
            (("id", "INTEGER"), ("name", "VARCHAR"), ("day", "DATE")),
            options={"delim": ";", "nullstr": ("NA",)},
        ),
        "parquet": FileTable(
            "health",
            "cases",
            (str(folder / "part1.parquet"), str(folder / "part2.parquet")),
            "parquet",
            (("größe", ""), ("id", "BIGINT")),
        ),
        "duckdb": FileTable(
            "air", "planes", (), "duckdb", (("id", "BIGINT"), ("tail", "")), database="src0", relation=("s", "planes")
        ),
    }
    databases = ((str(folder / "data.duckdb"), "src0"),) if "duckdb" in names else ()
    return WorkerSpec(kind="files", databases=databases, files=tuple(tables[name] for name in names))


@pytest.fixture(scope="module")
def pool(folder: Path) -> Iterator[WorkerPool]:
    made = WorkerPool(spec(folder, "csv", "parquet", "duckdb"), 1)
    yield made
    made.close()


@pytest.fixture(scope="module")
def attached(folder: Path) -> Iterator[WorkerPool]:
    made = WorkerPool(spec(folder, "duckdb"), 1)
    yield made
    made.close()


def test_reads_csv_with_the_types_and_the_reader_options_of_the_spec(pool: WorkerPool) -> None:
    assert rows(pool, "SELECT id AS c0, name AS c1, CAST(day AS VARCHAR) AS c2 FROM reg.people ORDER BY id") == [
        (1, "a;b", "2026-01-02"),
        (2, None, None),
    ]


def test_reads_a_data_set_in_several_parquet_files(pool: WorkerPool) -> None:
    assert rows(pool, 'SELECT count(*) AS c0, sum(id) AS c1, max("größe") AS c2 FROM health.cases') == [(4, 10, 4.5)]


def test_reads_a_table_of_an_attached_database(attached: WorkerPool) -> None:
    assert rows(attached, "SELECT max(tail) AS c0, count(*) AS c1 FROM air.planes") == [("tail4", 5)]


def test_joins_files_databases_and_inputs(pool: WorkerPool) -> None:
    query = job(
        "SELECT count(*) AS c0 FROM reg.people AS r0 JOIN health.cases AS r1 USING (id) "
        "JOIN air.planes AS r2 USING (id) JOIN reg.extra AS r3 USING (id)",
        inputs={"reg.extra": pa.table({"id": [1, 2, 9]})},
    )
    assert rows(pool, query) == [(2,)]
    assert rows(pool, "SELECT count(*) AS c0 FROM reg.people") == [(2,)]  # the schema that was shared is still there


def test_no_column_exists_that_the_spec_does_not_name(pool: WorkerPool) -> None:
    for table in ("reg.people", "health.cases", "air.planes"):
        assert failure(pool, f"SELECT secret FROM {table}").code is Code.JOIN_FAILED
        assert "secret" not in [
            name
            for row in rows(pool, f"SELECT column_name AS c0 FROM (DESCRIBE SELECT * FROM {table})")
            for name in row
        ]


def test_files_beside_those_of_the_spec_cannot_be_read(pool: WorkerPool, attached: WorkerPool, folder: Path) -> None:
    for worker in (pool, attached):
        for sql in (
            f"SELECT * FROM read_csv('{folder / 'other.csv'}')",
            f"SELECT * FROM '{folder / 'other.csv'}'",
            f"SELECT * FROM read_text('{folder / 'other.csv'}')",
        ):
            assert failure(worker, sql).code is Code.JOIN_FAILED


def test_the_file_of_an_attached_database_cannot_be_read_as_bytes(attached: WorkerPool, folder: Path) -> None:
    assert (
        failure(attached, f"SELECT octet_length(content) AS c0 FROM read_blob('{folder / 'data.duckdb'}')").code
        is Code.JOIN_FAILED
    )


def test_a_file_that_is_replaced_is_read_anew(tmp_path: Path) -> None:
    place = tmp_path / "d.csv"
    place.write_text("id\n1\n")
    made = WorkerPool(
        WorkerSpec(kind="files", files=(FileTable("d", "t", (str(place),), "csv", (("id", "INTEGER"),)),)), 1
    )
    try:
        assert rows(made, "SELECT id AS c0 FROM d.t") == [(1,)]
        fresh = tmp_path / "new.csv"
        fresh.write_text("id\n22\n")
        fresh.replace(place)
        assert rows(made, "SELECT id AS c0 FROM d.t") == [(22,)]
    finally:
        made.close()


@pytest.mark.parametrize(
    ("content", "columns"),
    [
        ("id\n1\n", (("id", "INTEGER"), ("absent", "VARCHAR"))),
        ("id\n1\n", (("id", ""),)),
        ("id\n1\n", (("id", "INTEGER; DROP"),)),
        (None, (("id", "INTEGER"),)),
    ],
)
def test_a_table_that_cannot_be_made_fails_the_start_with_a_word(
    tmp_path: Path, content: str | None, columns: tuple[tuple[str, str], ...]
) -> None:
    place = tmp_path / "d.csv"
    if content is not None:
        place.write_text(content)
    with pytest.raises(CallerError) as caught:
        WorkerPool(WorkerSpec(kind="files", files=(FileTable("d", "t", (str(place),), "csv", columns),)), 1)
    assert caught.value.code is Code.CONFIG_INVALID
    assert str(tmp_path) not in caught.value.message


def test_without_spill_a_query_that_needs_it_fails_and_with_spill_it_succeeds_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    query = job(
        "SELECT count(*) AS c0 FROM (SELECT i, md5(CAST(i AS VARCHAR)) AS h "
        "FROM range(1500000) AS r(i) ORDER BY h, i DESC LIMIT 1400000)"
    )
    (tmp_path / "worker-1").mkdir()
    (tmp_path / "worker-1" / "left").write_text("rows of a worker that was killed")
    small = {"memory_limit_bytes": 48 << 20, "address_space_bytes": 1 << 30}
    spilling = WorkerPool(WorkerSpec(temp_directory=str(tmp_path), **small), 1)  # type: ignore[arg-type]
    plain = WorkerPool(WorkerSpec(**small), 1)  # type: ignore[arg-type]
    try:
        assert not (tmp_path / "worker-1").exists()
        assert failure(plain, job(query.sql.text)).code is Code.JOIN_LIMIT
        assert rows(spilling, query) == [(1_400_000,)]
        assert failure(spilling, f"SELECT * FROM glob('{tmp_path}/../*')").code is Code.JOIN_FAILED
    finally:
        plain.close()
        spilling.close()
    assert list(tmp_path.iterdir()) == []

"""Each hostile statement against each wall alone: no wall is trusted to be the only one, and each can be shown to stand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.walls_matrix import (
    OUTSIDE,
    RESOURCES_CLASS,
    Around,
    Row,
    Walls,
    hostile,
    leaks,
    matrix,
    surroundings,
    table,
    walls,
)

_ANSWERED = {
    "E044": "the WITH part that names the file is never read",
    "F083": "registers names in a session that ends with the job",
}
pytestmark = pytest.mark.xdist_group("walls")


@dataclass(frozen=True)
class Tried:
    rows: list[Row]
    around: Around
    built: Walls


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tried]:
    folder = tmp_path_factory.mktemp("walls")
    with surroundings(folder / "around") as around, walls(folder / "data") as built:
        yield Tried(matrix(built, hostile(around)), around, built)


def _names(rows: list[Row]) -> list[str]:
    return [row.statement.id for row in rows]


def test_the_matrix_is_printed(tried: Tried, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print("\n" + table(tried.rows))
    assert len(tried.rows) >= 351 + 130  # with the shared sample, where it is there, 184 more


def test_everything_that_must_be_refused_is_stopped_by_at_least_one_wall(tried: Tried) -> None:
    refused = [row for row in tried.rows if row.statement.expect == "refuse"]
    assert _names([row for row in refused if row.stopped_by == 0]) == []


@pytest.mark.parametrize("kind", OUTSIDE)
def test_reads_of_files_network_settings_and_dynamic_sql_are_stopped_by_two(tried: Tried, kind: str) -> None:
    rows = [row for row in tried.rows if row.kind == kind and row.statement.expect == "refuse"]
    assert len(rows) >= 80
    assert _names([row for row in rows if row.stopped_by < 2]) == []


def test_each_parser_alone_stops_every_read_of_files_and_network(tried: Tried) -> None:
    rows = [row for row in tried.rows if row.kind == OUTSIDE[0] and row.statement.expect == "refuse"]
    assert len(rows) >= 150
    assert _names([row for row in rows if not (row.said[0] and row.said[1])]) == []


def test_the_worker_alone_gives_nothing_away_and_serves_on(tried: Tried) -> None:
    assert [(row.statement.id, leaks(row)) for row in tried.rows if leaks(row)] == []
    assert tried.around.untouched()
    assert tried.built.serve()


def test_the_worker_alone_reads_no_file_and_reaches_no_network(tried: Tried) -> None:
    rows = [row for row in tried.rows if row.kind == OUTSIDE[0] and row.statement.id not in _ANSWERED]
    assert _names([row for row in rows if not row.said[2] and row.answer != "[]"]) == [], "rows for a read of a file"


def test_the_worker_alone_stops_what_would_exhaust_it(tried: Tried) -> None:
    rows = [row for row in tried.rows if row.kind == RESOURCES_CLASS and row.statement.expect == "refuse"]
    stopped = [row for row in rows if row.said[2]]
    assert len(stopped) >= len(rows) * 4 // 5, "the others are small enough for it, or only their parsing is costly"

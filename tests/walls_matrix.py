"""Every hostile statement against each of the three walls alone; ``python -m tests.walls_matrix`` prints the whole matrix.

The walls: sqlglot with our allow-lists and binder; DuckDB's own tree of the raw text with the second allow-list; the locked
worker, which holds what a join worker would hold (the restricted rows, no more) and knows no allow-list at all.
"""

from __future__ import annotations

import os
import socket
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from engine.planning import PlanningPool
from engine.pool import WorkerPool
from engine.spec import WorkerSpec
from tests.contract.hostile_worker_sql import FORBIDDEN, RESOURCES, TOLERATED
from tests.escape_world import CANARIES, FILE_CANARY, ROW_FILTER, VISIBLE, Statement, make_data, own, shared
from tests.unit.engine.running import ask, job
from tests.walls import parser_alone, tree_alone
from tidegate.core.errors import TidegateError

WALLS = ("sqlglot", "duckdb tree", "worker")
OUTSIDE = ("files, network, host", "settings, catalogue", "dynamic SQL, parsers")
RESOURCES_CLASS = "resources"
_CLASSES = {
    "file": OUTSIDE[0],
    "1_file_network": OUTSIDE[0],
    "worker, forbidden": OUTSIDE[0],
    "catalogue": OUTSIDE[1],
    "2_settings_catalog": OUTSIDE[1],
    "worker, tolerated": OUTSIDE[1],
    "dynamic": OUTSIDE[2],
    "3_dynamic_sql_parser": OUTSIDE[2],
    "form": "forms of SQL",
    "4_policy_avoidance": "avoiding the policy",
    "5_inference": "inference",
    "resources": RESOURCES_CLASS,
    "6_resources": RESOURCES_CLASS,
    "worker, resources": RESOURCES_CLASS,
    "7_side_effects": "side effects",
}
DEADLINE_S, RESOURCES_DEADLINE_S = 5.0, 0.25


@dataclass(frozen=True)
class Row:
    """One statement, and what each wall said to it: empty where it let the statement pass."""

    statement: Statement
    kind: str
    said: tuple[str, str, str]
    answer: str

    @property
    def stopped_by(self) -> int:
        """How many of the walls stop it, each alone."""
        return sum(bool(word) for word in self.said)


@dataclass(frozen=True)
class Around:
    """The machine around the worker: a folder with files to read, and a port at which somebody would listen."""

    folder: Path
    files: frozenset[str]
    listener: socket.socket

    def untouched(self) -> bool:
        """Say whether no file was made and nobody called."""
        self.listener.setblocking(False)
        try:
            self.listener.accept()[0].close()
        except BlockingIOError:
            return {item.name for item in self.folder.iterdir()} == self.files
        return False


def hostile(around: Around) -> list[Statement]:
    """Give every hostile statement of every corpus; the last ones were written against the worker alone."""
    found = own("escapes", "refuse") + [
        Statement(item.id, item.kind, item.on("a"), item.expect) for item in shared("escapes.jsonl")
    ]
    port = around.listener.getsockname()[1]
    for kind, statements in (("forbidden", FORBIDDEN), ("resources", RESOURCES), ("tolerated", TOLERATED)):
        for name, sql in statements.items():
            text = sql.format(f=around.folder, port=port, ppid=os.getpid())
            found.append(Statement(f"W {name}", f"worker, {kind}", text, "refuse"))
    return found


@contextmanager
def surroundings(folder: Path) -> Iterator[Around]:
    """Make the files and the port."""
    folder.mkdir()
    (folder / "canary.csv").write_text(f"a\n{FILE_CANARY}\n", encoding="utf-8")
    (folder / "canary.json").write_text(f'{{"a": "{FILE_CANARY}"}}\n', encoding="utf-8")
    pq.write_table(pa.table({"a": [FILE_CANARY]}), folder / "canary.parquet")
    with duckdb.connect(str(folder / "canary.duckdb")) as engine:
        engine.execute(f"CREATE TABLE t AS SELECT '{FILE_CANARY}' AS a")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield Around(folder, frozenset(item.name for item in folder.iterdir()), listener)


def restricted(folder: Path) -> dict[str, pa.Table]:
    """Give what departments would have sent: permitted rows and columns, the masked one replaced."""
    make_data(folder)
    columns = ", ".join("md5(person) AS person" if name == "person" else name for name in VISIBLE)
    regions = ", ".join(f"'{item}'" for item in ROW_FILTER["value"])
    files = {
        "south.claims": "claims",
        "north.flights": "flights",
        "south.hours": "hours",
        "north.permits": "north_permits",
        "south.permits": "south_permits",
    }
    with duckdb.connect() as engine:
        found = {name: engine.sql(f"FROM '{folder}/{file}.parquet'").to_arrow_table() for name, file in files.items()}
        staff = f"SELECT {columns} FROM '{folder}/staff_a.parquet' WHERE region IN ({regions})"
        found["north.staff_a"] = engine.sql(staff).to_arrow_table()
    found["city.permits"] = pa.concat_tables([found["north.permits"], found["south.permits"]])
    found["f0"] = pa.table({"a": [1, 2, 3]})
    return found


class Walls:
    """The three walls, ready to be tried."""

    def __init__(self, planning: PlanningPool, workers: WorkerPool, held: dict[str, pa.Table]) -> None:
        self._planning, self._workers, self._held = planning, workers, held

    def row(self, statement: Statement) -> Row:
        """Try one statement on each wall."""
        kind = _CLASSES[statement.kind]
        first = self._plan(parser_alone, statement.sql)
        second = self._plan(tree_alone, statement.sql)
        third, answer = self._work(
            statement.sql, RESOURCES_DEADLINE_S if kind == RESOURCES_CLASS or statement.id == "R042" else DEADLINE_S
        )
        return Row(statement, kind, (first, second, third), answer)

    def _plan(self, wall: object, sql: str) -> str:
        try:
            return str(self._planning.run(wall, sql, deadline_s=DEADLINE_S))  # type: ignore[arg-type]
        except TidegateError as error:
            return error.code.value

    def _work(self, sql: str, deadline_s: float) -> tuple[str, str]:
        try:
            answer = ask(self._workers, job(sql, inputs=self._held, rows_max=100_000), deadline_s=deadline_s)
        except TidegateError as error:
            return error.code.value, f"{error.message} {error.detail}"
        return "", str(answer.to_pylist())

    def serve(self) -> bool:
        """Say whether all of them still work."""
        good = "SELECT count(*) AS c0 FROM north.staff_a"
        return self._plan(parser_alone, good) == self._plan(tree_alone, good) == "" and self._work(good, 60.0)[0] == ""


@contextmanager
def walls(folder: Path) -> Iterator[Walls]:
    """Build the walls."""
    planning = PlanningPool(2, preload=("tests.walls",))
    workers = WorkerPool(WorkerSpec(memory_limit_bytes=128 << 20, address_space_bytes=512 << 20), 2)
    try:
        yield Walls(planning, workers, restricted(folder))
    finally:
        workers.close()
        planning.close()


def matrix(built: Walls, statements: Iterable[Statement]) -> list[Row]:
    """Try every statement."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(built.row, statements))


def leaks(row: Row) -> list[str]:
    """Give the canaries that the worker alone gave away, if any."""
    shown = row.answer.replace(row.statement.sql, "")
    return [canary for canary in (*CANARIES, FILE_CANARY) if canary in shown and canary not in row.statement.sql]


def table(rows: list[Row]) -> str:
    """Print the matrix, summed up by class."""
    by_kind: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_kind[row.kind].append(row)
    head = f"{'class':24}{'statements':>12}{WALLS[0]:>10}{WALLS[1]:>13}{WALLS[2]:>8}{'by >= 2':>9}{'by none':>9}"
    lines = ["stopped by each wall alone:", head]
    for kind, found in [*sorted(by_kind.items()), ("all", rows)]:
        alone = [sum(bool(row.said[number]) for row in found) for number in range(3)]
        two, none = sum(row.stopped_by >= 2 for row in found), sum(row.stopped_by == 0 for row in found)
        lines.append(f"{kind:24}{len(found):12}{alone[0]:10}{alone[1]:13}{alone[2]:8}{two:9}{none:9}")
    lines.append("(by none: statements that may be answered, from restricted data alone)")
    return "\n".join(lines)


def main() -> None:
    """Print every row, then the sums."""
    with (
        TemporaryDirectory() as folder,
        surroundings(Path(folder) / "around") as around,
        walls(Path(folder) / "data") as built,
    ):
        rows = matrix(built, hostile(around))
    for row in rows:
        words = "".join(f"{word or '-':18}" for word in row.said)
        print(f"{row.statement.id:28}{row.kind:24}{words}{' '.join(row.statement.sql.split())[:90]}")
    print(table(rows))


if __name__ == "__main__":
    main()

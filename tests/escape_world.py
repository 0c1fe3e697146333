"""An exchange to break out of: hidden rows, a denied column, a masked one, a dataset that the caller may not know about.

Two departments, each with a node of its own. ``north`` holds T twice, in two states that differ in nothing but hidden rows and
denied values, and so D; ``south`` holds T2. Beside them lie the datasets of ``tests.sql_world``, under the names that they have
here, so that both corpora of statements meet real data. ``office`` asks, ``press`` is another caller.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb

from examples.local import LocalExchange
from tests.shared_data import shared_dir
from tests.sql_world import DATASETS, Case, cases, world
from tidegate.client.session import Session
from tidegate.core.agreement import Agreement
from tidegate.core.clock import SystemClock, SystemIds, timestamp
from tidegate.core.names import DatasetName
from tidegate.identity.documents import sign_document

PURPOSE = "research.statistics"
BASIS = "statistics.act.5"
CANARIES = ("HIDDEN_CANARY", "MASK_CANARY", "DENIED_CANARY", "FORBIDDEN_CANARY", "424242")
FILE_CANARY = "CANARY_FILE"  # in the files of the shared sample, and of tests.walls_matrix
STATES = ("a", "b")
T_ROWS = 300
T2_ROWS = 200
COLUMNS = {"{c}": "region", "{n}": "amount", "{d}": "salary", "{m}": "person", "{k}": "id"}
VISIBLE = ("region", "amount", "person", "id")
ROW_FILTER = {"type": "field", "field": "region", "operator": "in", "value": ["north", "south", "east"]}
HERE = {"aviation": "north", "weather": "south"}  # the departments of tests.sql_world, and who holds their data here


@dataclass(frozen=True)
class Statement:
    """A statement of any corpus. ``expect`` is refuse, no_leak, limit or ok."""

    id: str
    kind: str
    sql: str
    expect: str
    params: Any = ()

    def on(self, state: str) -> str:
        """Give the text as it is asked of one of the two states."""
        return self.sql.replace("@state", state)


def shared(name: str) -> list[Statement]:
    """Read the team's shared sample, with this world's names; empty when it is not on this machine."""
    folder = shared_dir()
    if folder is None:
        return []
    folder = folder / "sql-sample"
    places = {"{T2}": "south.claims", "{T}": "north.staff_@state", "{D}": "north.vault_@state", **COLUMNS}
    places["{F}"] = str(folder / "fixtures")
    found = []
    for line in (folder / name).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        sql = row["sql"]
        for place, value in places.items():
            sql = sql.replace(place, value)
        found.append(Statement(row["id"], row["class"], sql, row["expect"], row.get("params", ())))
    return found


def own(name: str, expect: str) -> list[Statement]:
    """Read a corpus of this project, with this world's names."""
    return [Statement(case.id, case.kind, _here(case.sql), expect, case.params) for case in cases(name)]


def _here(sql: str) -> str:
    for there, here in HERE.items():
        sql = sql.replace(there, here)
    return sql


def benign_cases() -> list[tuple[Case, str]]:
    """Give the ordinary statements with their text in this world."""
    return [(case, _here(case.sql)) for case in cases("benign")]


def make_data(folder: Path) -> None:
    """Write the files of both departments."""
    folder.mkdir(parents=True, exist_ok=True)
    with duckdb.connect() as engine:
        for state in STATES:
            engine.execute(_staff(state))
            engine.execute(f"COPY staff TO '{folder}/staff_{state}.parquet'")
            engine.execute(
                f"CREATE OR REPLACE TABLE vault AS SELECT i AS id, i + {len(state)} AS amount, 'east' AS region, "
                f"'FORBIDDEN_CANARY_{state}' || i AS salary FROM range({3 if state == 'a' else 5}) AS r(i)"
            )
            engine.execute(f"COPY vault TO '{folder}/vault_{state}.parquet'")
        engine.execute(
            "COPY (SELECT (i * 3)::INTEGER AS id, ['north', 'west', 'south'][1 + i % 3] AS region, "
            "(i % 50)::INTEGER AS amount, 'P' || i AS person, 'x' || i AS salary "
            f"FROM range({T2_ROWS}) AS r(i)) TO '{folder}/claims.parquet'"
        )
    with world() as engine:
        for name, relation in (
            ("flights", "aviation.flights"),
            ("hours", "weather.hours"),
            ("north_permits", "north.permits"),
            ("south_permits", "south.permits"),
            ("old", "north.permits"),
        ):
            engine.execute(f"COPY (FROM {relation}) TO '{folder}/{name}.parquet'")


def _staff(state: str) -> str:
    """Make T. Hidden rows stand between the others, share keys with T2, and would break much of what runs over them."""
    hidden = f"i % 7 = 3 AND {'true' if state == 'a' else 'i % 2 = 0'}"
    return f"""
    CREATE OR REPLACE TABLE staff AS
    SELECT CASE WHEN hidden THEN 'HIDDEN_CANARY' ELSE ['north', 'south', 'east'][1 + i % 3] END AS region,
        (CASE WHEN hidden THEN 424242 ELSE 1 + i * 13 % 97 END)::INTEGER AS amount,
        'DENIED_CANARY_{state}' || (i * {31 if state == "a" else 17} % 1000) AS salary,
        CASE WHEN hidden THEN 'MASK_CANARY_HIDDEN' || i ELSE 'MASK_CANARY' || (i % 40) END AS person, i::INTEGER AS id
    FROM (SELECT i, {hidden} AS hidden, i % 7 = 3 AS any_hidden FROM range({T_ROWS}) AS r(i)) WHERE hidden OR NOT any_hidden"""


def _held(folder: Path, name: str, **more: object) -> dict[str, object]:
    return {
        "name": name,
        "source": "parquet",
        "path": str(folder / f"{more.pop('file', name)}.parquet"),
        "class": "open",
        **more,
    }


def _north(folder: Path) -> list[dict[str, object]]:
    found = [_held(folder, "flights"), _held(folder, "permits", file="north_permits"), _held(folder, "old")]
    for state in STATES:
        found.append(
            _held(
                folder,
                f"staff_{state}",
                **{"class": "conditional", "legal_basis": "staff.act.1"},
                extra={"mask.person": "pseudonym"},
                columns={"salary": {"sensitivity": "restricted"}},
                statistics=False,
            )
        )
        found.append(_held(folder, f"vault_{state}", hidden_from=["office", "press"]))
    return found


def _south(folder: Path) -> list[dict[str, object]]:
    return [_held(folder, "claims"), _held(folder, "hours"), _held(folder, "permits", file="south_permits")]


@dataclass
class EscapeExchange:
    """A running exchange and its callers."""

    local: LocalExchange

    def office(self) -> Session:
        return self.local.session("office", "desk")

    def press(self) -> Session:
        return self.local.session("press", "desk")

    def auditor(self) -> Session:
        return self.local.session("court", "auditor")


@contextmanager
def escape_exchange(folder: Path) -> Iterator[EscapeExchange]:
    """Run the exchange of this module."""
    data = folder / "data"
    make_data(data)
    with LocalExchange(folder / "exchange", name="escapes") as local:
        local.start()
        local.operator().transport.add_purpose(PURPOSE, "Statistics", [BASIS], SystemIds().request_id())
        for member, datasets in (("north", _north(data)), ("south", _south(data))):
            local.join(member, "node1", kind="node")
            local.join(member, "steward", kind="person", roles=["steward"])
            local.start_node(member, datasets)
        local.join("north", "desk", roles=["analyst"])
        local.join("city", "steward", kind="person", roles=["steward"])
        local.join("office", "desk", roles=["analyst"])
        local.join("press", "desk", roles=["analyst"])
        local.join("court", "auditor", kind="person", roles=["auditor"])
        local.wait_attached(["north", "south"])
        _register(local)
        yield EscapeExchange(local)


def _register(local: LocalExchange) -> None:
    for member in ("north", "south"):
        catalogue = local.session(member, "steward").catalogue
        for dataset in catalogue.held_by_node():
            catalogue.register(dataset)
    local.session("north", "steward").catalogue.withdraw("north.old", "replaced")
    (collection,) = (item for item in DATASETS if str(item.name) == "city.permits")
    local.session("city", "steward").catalogue.register(replace(collection, owner="city"))
    for state in STATES:
        for grantee in ("office", "press"):
            _agree(local, f"north.staff_{state}", grantee)


def _agree(local: LocalExchange, name: str, grantee: str) -> None:
    steward = local.session("north", "steward")
    now = SystemClock().now()
    agreement = Agreement(
        id=SystemIds().request_id(),
        dataset=DatasetName.parse(name),
        owner="north",
        grantee=grantee,
        purposes=(PURPOSE,),
        legal_basis=BASIS,
        columns=VISIBLE,
        mode="rows",
        min_group_size=1,
        row_filter=ROW_FILTER,
        issued_at=timestamp(now),
        expires_at=timestamp(now.replace(year=now.year + 1)),
        granted_by=str(steward.identity.spiffe),
    )
    document = agreement.signed_bytes()
    assert steward.transport.grant_agreement(
        document, *sign_document(steward.identity, document), SystemIds().request_id()
    )

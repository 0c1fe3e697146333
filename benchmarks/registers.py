"""A small city for the benchmarks of small queries: a register of vehicles at one node, members that ask about single keys.

Everything is as in a real exchange: broker and node are processes of their own, members join by token, the dataset is
conditional, each member holds a signed agreement, and the log is on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb

from examples.local import LocalExchange
from tidegate.core.agreement import Agreement
from tidegate.core.clock import SystemClock, SystemIds, timestamp
from tidegate.identity.documents import sign_document

OWNER = "registry"
DATASET = f"{OWNER}.vehicles"
ASKING = ("police", "health", "housing", "transport")
PURPOSES = ("traffic.enforcement", "public.health", "city.planning")
LEGAL_BASIS = "register.act.3"
ROWS = 1_000_000
LOOK_UP = f"SELECT plate, model, keeper FROM {DATASET} WHERE id = $1"
LIMITS = {"requests_max": 64, "requests_per_member_max": 64}


def keeper_of(key: int) -> str:
    """Give the value that the register holds for a key: what a right answer says."""
    return f"keeper-{key * 7919 % 1_000_003}"


def write_register(path: Path, rows: int = ROWS) -> None:
    """Write the department's own DuckDB file, with a primary key as such registers have."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with duckdb.connect(str(path)) as engine:
        engine.execute("CREATE TABLE vehicles (id BIGINT PRIMARY KEY, plate VARCHAR, model VARCHAR, keeper VARCHAR)")
        engine.execute(
            "INSERT INTO vehicles SELECT i, 'P' || lpad(i::VARCHAR, 8, '0'), 'model-' || (i % 97)::VARCHAR,"
            " 'keeper-' || (i * 7919 % 1000003)::VARCHAR FROM range(?) AS t(i)",
            [rows],
        )


def open_register(
    folder: Path,
    *,
    rows: int = ROWS,
    asking: Sequence[str] = ASKING,
    workers: int = 1,
    broker: Mapping[str, Mapping[str, object]] | None = None,
    kind: type[LocalExchange] = LocalExchange,
) -> LocalExchange:
    """Start the exchange with its node, and let the asking members join with their agreements; close it afterwards."""
    exchange = kind(folder, broker_settings={"limits": LIMITS, **(broker or {})})
    try:
        exchange.start()
        operator = exchange.operator()
        for purpose in PURPOSES:
            operator.transport.add_purpose(purpose, purpose, [LEGAL_BASIS], SystemIds().request_id())
        file = folder / "data" / "vehicles.duckdb"
        write_register(file, rows)
        exchange.join(OWNER, "node1", kind="node", title="Register of vehicles")
        exchange.join(OWNER, "steward", kind="person", roles=["steward"])
        exchange.start_node(
            OWNER,
            [
                {
                    "name": "vehicles",
                    "source": "duckdb",
                    "path": str(file),
                    "table": "vehicles",
                    "title": "Vehicles and their keepers",
                    "class": "conditional",
                    "legal_basis": LEGAL_BASIS,
                    "keys": ["id"],
                }
            ],
            settings={"limits": {"planners": 1, "workers": workers, "sandbox": "available"}},
        )
        exchange.wait_attached([OWNER])
        steward = exchange.session(OWNER, "steward")
        for dataset in steward.catalogue.held_by_node():
            steward.catalogue.register(dataset)
        for member in asking:
            exchange.join(member, "app", roles=["analyst"], title=member)
            grant(exchange, member)
    except BaseException:
        exchange.close()
        raise
    return exchange


def grant(exchange: LocalExchange, member: str) -> None:
    """Let the register's steward sign an agreement with a member, for all three purposes."""
    steward = exchange.session(OWNER, "steward")
    described = steward.catalogue[DATASET]
    now = SystemClock().now()
    agreement = Agreement(
        id=SystemIds().request_id(),
        dataset=described.name,
        owner=OWNER,
        grantee=member,
        purposes=PURPOSES,
        legal_basis=LEGAL_BASIS,
        columns=tuple(column.name for column in described.columns),
        mode="rows",
        min_group_size=1,
        row_filter={},
        issued_at=timestamp(now),
        expires_at=timestamp(now.replace(year=now.year + 1)),
        granted_by=str(steward.identity.spiffe),
    )
    document = agreement.signed_bytes()
    steward.transport.grant_agreement(document, *sign_document(steward.identity, document), SystemIds().request_id())

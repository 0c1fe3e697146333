"""Our side of TPC-H: a whole exchange on loopback, one node per department; every request is decided and recorded."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import Answer
from benchmarks.tpch_data import Held
from benchmarks.tpch_policy import terms
from examples.local import LocalExchange, StartError
from tidegate.client.session import Session
from tidegate.core.agreement import Agreement
from tidegate.core.clock import SystemClock, SystemIds, timestamp
from tidegate.core.dataset import Column, Dataset, DatasetClass
from tidegate.core.names import DatasetName
from tidegate.identity.documents import sign_document

PURPOSE = ("research.statistics", "Statistics and research in the public interest", "statistics.act.5")
ANALYST = ("analytics", "analyst")
DATABASE = "BENCHMARK_DATABASE"  # the variable that holds the URL of a department's database
DATES = {"lineitem": ("l_shipdate", "l_commitdate", "l_receiptdate"), "orders": ("o_orderdate",)}
ATTACH_S_MAX = 600.0  # a node that copies 6 million rows of a database, or counts them, at its start
DEADLINE_S = 120.0
NODE_LIMITS = {"planners": 1, "workers": 2, "threads": 2, "memory_mib": 2048, "address_space_mib": 16384}
BROKER_LIMITS = {
    "join_workers": 2,
    "worker_threads": 2,
    "worker_memory_mib": 6144,
    "worker_address_space_mib": 24576,
}


class Exchange:
    """The exchange as a side of the benchmark. Owns nothing: ``exchange`` must outlive it."""

    name = "tidegate"
    budget_s = float("inf")

    def __init__(self, exchange: LocalExchange) -> None:
        self.exchange = exchange
        self.verified = 0  # answers whose receipts of decision and outcome were found in the log
        self._policy = "whole"
        self._members: tuple[str, ...] = ()

    def open(
        self,
        held: Sequence[Held],
        *,
        policy: str = "whole",
        collections: Mapping[str, Sequence[Held]] | None = None,
        slow: Mapping[str, int] | None = None,
        databases: Mapping[str, str] | None = None,
        serve: str = "live",
    ) -> None:
        """Start what does not run yet: broker, nodes; members join, stewards register and sign.

        Args:
            collections: names of collections, with their parts.
            slow: for each department, the port of a shim on loopback that its node dials instead of the broker's.
            databases: for each department, the URL of the PostgreSQL database that its node serves instead of its file.
            serve: how: ``live`` asks the database for each fragment, ``snapshot`` a copy that the node makes at its start.
        """
        exchange = self.exchange
        self._policy, self._members = policy, tuple(sorted({item.member for item in held}))
        if not exchange.running:
            exchange.start()
        operator = exchange.operator()
        operator.transport.add_purpose(PURPOSE[0], PURPOSE[1], [PURPOSE[2]], SystemIds().request_id())
        for member in self._members:
            exchange.join(member, "node1", kind="node", title=member.capitalize())
            exchange.join(member, "steward", kind="person", roles=["steward"])
            datasets = [self._dataset(item, serve if databases else "") for item in held if item.member == member]
            environment = {"TIDEGATE_NODE_BROKERS": f"127.0.0.1:{slow[member]}"} if slow else {}
            if databases:
                environment[DATABASE] = databases[member]
            exchange.start_node(member, datasets, settings={"limits": dict(NODE_LIMITS)}, environment=environment)
        exchange.join(*ANALYST, roles=["analyst"], title="Analytics")
        exchange.wait_attached(self._members, ATTACH_S_MAX)
        for member in self._members:
            steward = exchange.session(member, "steward")
            for item in steward.catalogue.held_by_node():
                stored, _ = steward.catalogue.register(item)
                self._agree(steward, stored)
        for name, parts in (collections or {}).items():
            self._collect(name, parts)

    def _dataset(self, held: Held, serve: str) -> dict[str, Any]:
        """Describe one table as its node's configuration lists it: conditional, so that an agreement must permit it."""
        masks = terms(self._policy, held.table).masks
        file = {"source": "duckdb", "path": str(held.file), "table": held.table}
        database = {"source": "postgres", "url_env": DATABASE, "table": f"public.{held.table}", "mode": serve}
        return {
            "name": held.table,
            **(database if serve else file),
            "title": f"TPC-H {held.table}",
            "class": "conditional",
            "legal_basis": PURPOSE[2],
            # Dates of orders and deliveries say nothing of anybody: their least and greatest may stand in the catalogue.
            "columns": {column: {"sensitivity": "public"} for column in DATES.get(held.table, ())}
            | {column: {"mask": mask} for column, mask in masks.items()},
        }

    def _agree(self, steward: Session, stored: Dataset) -> None:
        now = SystemClock().now()
        agreement = Agreement(
            id=SystemIds().request_id(),
            dataset=stored.name,
            owner=stored.owner,
            grantee=ANALYST[0],
            purposes=(PURPOSE[0],),
            legal_basis=PURPOSE[2],
            columns=tuple(column.name for column in stored.columns),
            mode="rows",
            min_group_size=1,
            row_filter=terms(self._policy, stored.name.name).row_filter,
            issued_at=timestamp(now),
            expires_at=timestamp(now.replace(year=now.year + 1)),
            granted_by=str(steward.identity.spiffe),
            keys_may_go_to=self._members,
        )
        document = agreement.signed_bytes()
        signature = sign_document(steward.identity, document)
        if not steward.transport.grant_agreement(document, *signature, SystemIds().request_id()):
            raise StartError(f"the agreement about {stored.name} did not reach its node")

    def _collect(self, name: str, parts: Sequence[Held]) -> None:
        """Register a collection; its namespace's member owns it, or the first part's where there is no such member."""
        full = DatasetName.parse(name)
        owner = full.department if full.department in self._members else parts[0].member
        steward = self.exchange.session(owner, "steward")
        part = steward.catalogue[f"{parts[0].member}.{parts[0].table}"]
        named = tuple(DatasetName.parse(f"{item.member}.{item.table}") for item in parts)
        columns = tuple(Column(column.name, column.type) for column in part.columns)
        collection = Dataset(full, owner, "", f"TPC-H {full.name}", DatasetClass.CONDITIONAL, columns, parts=named)
        steward.catalogue.register(collection)

    def run(self, name: str, sql: str) -> Answer:
        """Ask as any member asks: SQL, purpose, client certificate; the answer's bytes are held to the broker's digest."""
        session = self.exchange.session(*ANALYST)
        started = time.perf_counter()
        result = session.query(sql, purpose=PURPOSE[0], deadline_s=DEADLINE_S)
        table = result.to_arrow()
        elapsed = time.perf_counter() - started
        result.verify()  # decided, recorded, and of these very bytes; outside the time
        self.verified += 1
        rows = list(zip(*(column.to_pylist() for column in table.columns), strict=True))
        return Answer(rows, elapsed, {"fragments": result.report})

    def fragments(self, sql: str) -> list[dict[str, Any]]:
        """Ask once more and tell of each fragment: member, the SQL it was asked, rows, bytes, milliseconds."""
        result = self.exchange.session(*ANALYST).query(sql, purpose=PURPOSE[0], deadline_s=DEADLINE_S)
        result.to_arrow()
        asked = {item["fragment"]: item["asked"] for item in result.disclosure["departments"]}
        return [{**item, "asked": asked.get(item["fragment"], "")} for item in result.report]

    @property
    def processes(self) -> Mapping[str, int]:
        """The root process of the broker and of each node, by name."""
        return {name: item.process.pid for name, item in self.exchange.running.items()}


def local_exchange(folder: Path) -> LocalExchange:
    """Give an exchange whose workers have what a scale of one needs."""
    from engine import landlock

    limits = {**BROKER_LIMITS, "sandbox": "required" if landlock.abi() else "available"}
    return LocalExchange(folder, name="tpch", broker_settings={"limits": limits})

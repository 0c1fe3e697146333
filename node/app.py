"""A node's composition root: constructors wired by hand, started in order, stopped in the reverse one."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import structlog

from audit import entries
from engine.memory import keep_buffers
from engine.planning import PlanningPool
from engine.pool import WorkerPool
from node.admit import Admit, Trust, UsedGrants
from node.agreements import AgreementStore
from node.binding import PooledBinder
from node.config import NodeConfig
from node.decide import Decide
from node.execute import Execute
from node.gate import Gate
from node.keys import KeyStore
from node.link import Link, LinkState
from node.prepared import Prepared
from node.record import Record, open_log
from node.snapshots import Snapshots
from node.sources import Databases, Sources, open_sources
from node.status import StatusFile
from node.telemetry import NodeSources, Observability
from node.wire import GrpcDialler
from policies.bundle import load as load_bundle
from policies.engines import EmbeddedEngine, OpaEngine
from policies.point import DecisionPoint
from tidegate.core.clock import Clock, Ids, SystemClock, SystemIds
from tidegate.core.errors import Code, error_for
from tidegate.core.names import IdentityKind
from tidegate.identity import keys
from tidegate.identity.folder import IdentityFolder, LocalIdentity

SWITCH_INTERVAL_S = 0.0005  # appends beside busy threads: p99 15 ms instead of 145 ms (design house.md, Processes)


class CurrentIdentity:
    """The identity that the folder holds now, read again only when the file has changed. Thread-safe."""

    def __init__(self, folder: IdentityFolder) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._stamp: tuple[int, int] | None = None
        self._identity: LocalIdentity | None = None

    def __call__(self) -> LocalIdentity:
        """Give it."""
        found = (self._folder.path / "identity.pem").stat()
        stamp = (found.st_ino, found.st_mtime_ns)  # a renewal replaces the file, so its inode changes
        with self._lock:
            if self._identity is None or stamp != self._stamp:
                self._identity, self._stamp = self._folder.load(), stamp
            return self._identity


class Node:
    """A running node. ``start`` returns when its links dial; ``stop`` drains."""

    def __init__(self, config: NodeConfig, *, clock: Clock | None = None, ids: Ids | None = None) -> None:
        self.config = config
        self._clock = clock or SystemClock()
        self._ids = ids or SystemIds()
        self._folder = IdentityFolder(config.identity)
        self._identity = CurrentIdentity(self._folder)
        self._links: list[Link] = []
        self._threads: list[threading.Thread] = []
        self._stopped = False
        self._structured: structlog.stdlib.BoundLogger = structlog.get_logger("tidegate.node")

    def start(self) -> None:
        """Open everything and dial.

        Raises:
            TidegateError: what is wrong with configuration, identity, sources or log.
        """
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        keep_buffers()
        identity = self._folder.load()
        spiffe = identity.spiffe
        if spiffe.kind is not IdentityKind.NODE:
            raise error_for(Code.ID_WRONG_KIND, "node: the identity folder does not hold a node's certificate")
        self._log = self._structured.bind(node=str(spiffe))
        config, clock = self.config, self._clock
        self._observe = Observability(config, instance=str(spiffe), clock=clock, log=self._log)
        config.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._databases = Databases(config.limits)
        self._snapshots = Snapshots(config.state / "snapshots", clock=clock, log=self._log)
        self._sources = self._open_sources(identity)
        self.audit = open_log(config.state / "log", spiffe, clock, self._ids)
        record = Record(log=self.audit, broker_log=self._log)
        self.agreements = AgreementStore(
            config.state / "agreements",
            member=spiffe.member,
            stewards=config.stewards,
            root_pem=lambda: self._identity().root_pem,
            recorded=record.agreement,
            clock=clock,
            log=self._log,
        )
        self._engine = self._policy_engine()
        self._point = DecisionPoint(self._engine, clock)
        self._planning = PlanningPool(
            config.limits.planners, preload=("node.binding",), sandbox_required=config.limits.sandbox == "required"
        )
        self._workers = WorkerPool(self._sources.worker_spec(config.limits), config.limits.workers)
        self._gate = self._make_gate(record)
        self._status = StatusFile(config.state, clock)
        self._describe_status()
        self.audit.append(
            entries.admin(
                "config", action="start", subject=str(spiffe), details={"policy_revision": self._point.revision}
            )
        )
        self._snapshots.start()
        self._dial(config.brokers or (identity.exchange.nodes,))
        self._observe.serve(self._told(), self.audit, lambda: any(state.attached for state in self.link_states))

    def _open_sources(self, identity: LocalIdentity) -> Sources:
        return open_sources(
            self.config.datasets,
            member=identity.spiffe.member,
            node=identity.spiffe.name,
            limits=self.config.limits,
            log=self._log,
            databases=self._databases,
            snapshots=self._snapshots,
        )

    def _describe(self) -> Sources:
        """Describe the sources again. What a worker may read was fixed at start: a new type or column needs a restart."""
        found = self._open_sources(self._identity())
        changed = [
            str(name)
            for name, dataset in found.datasets.items()
            if [(column.name, column.type) for column in dataset.columns]
            != [(column.name, column.type) for column in self._sources.datasets[name].columns]
        ]
        if changed:
            self._log.error("datasets changed their columns; restart the node to serve them", datasets=changed)
            return self._sources
        self._sources = found
        return found

    def _policy_engine(self) -> EmbeddedEngine | OpaEngine:
        bundle = load_bundle(self.config.overlays)
        return OpaEngine(self.config.opa_url, bundle) if self.config.opa_url else EmbeddedEngine(bundle)

    def _make_gate(self, record: Record) -> Gate:
        clock, prepared = self._clock, Prepared()
        admit = Admit(
            trust=self._trust,
            schema=lambda: self._sources.datasets,
            binder=PooledBinder(self._planning, prepared),
            used=UsedGrants(clock),
            clock=clock,
        )
        decide = Decide(
            point=self._point, agreements=self.agreements, datasets=lambda: self._sources.datasets, clock=clock
        )
        self._execute = Execute(
            pool=self._workers,
            sources=lambda: self._sources,
            keys=KeyStore(self.config.state / "keys"),
            clock=clock,
            prepared=prepared,
        )
        return Gate(
            admit=admit,
            decide=decide,
            record=record,
            execute=self._execute,
            agreements=self.agreements,
            sources=lambda: self._sources,
            describe=self._describe,
            sign=self._sign,
            deadline_s_max=self.config.limits.fragment_deadline_s_max,
            clock=clock,
            ids=self._ids,
            log=self._log,
            telemetry=self._observe.telemetry,
        )

    def _told(self) -> NodeSources:
        """Name whom the page of metrics asks."""
        return NodeSources(
            links=lambda: self.link_states,
            facts=lambda: self._identity().facts,
            ages=self._snapshots.ages,
            lookups=self._execute.lookups,
            slots=lambda: sum(link.open_fragments for link in self._links),
            slots_max=self.config.limits.fragments_max,
            planning=self._planning,
            workers=self._workers,
            clock=self._clock,
        )

    def _trust(self) -> Trust:
        identity = self._identity()
        return Trust(identity.spiffe, identity.root_pem, identity.exchange.log_verifier_key)

    def _sign(self, data: bytes) -> bytes:
        return keys.sign(self._identity().key, data)

    def _describe_status(self) -> None:
        identity = self._identity()
        self._status.describe(
            {
                "node": str(identity.spiffe),
                "exchange": identity.exchange.exchange,
                "certificate_not_after": identity.facts.not_after.isoformat(timespec="seconds"),
                "policy_revision": self._point.revision,
                "log_origin": self.audit.origin,
                "log_entries": self.audit.size,
                "agreements": self.agreements.counts[0],
                "datasets": [
                    {
                        "name": str(name),
                        "rows": dataset.rows,
                        "class": dataset.dataset_class.value,
                        **self._snapshots.facts(name),
                    }
                    for name, dataset in self._sources.datasets.items()
                ],
            }
        )

    def _changed(self, state: LinkState) -> None:
        self._describe_status()
        self._status.link(state)

    def _dial(self, addresses: tuple[str, ...]) -> None:
        limits = self.config.limits
        self._work_threads = ThreadPoolExecutor(limits.fragments_max, thread_name_prefix="node-fragment")
        slots = threading.Semaphore(limits.fragments_max)
        for address in addresses:
            link = Link(
                GrpcDialler(address, folder=self._folder, clock=self._clock, log=self._log),
                work=self._gate,
                threads=self._work_threads,
                slots=slots,
                drain_s=limits.drain_s,
                clock=self._clock,
                ids=self._ids,
                changed=self._changed,
                log=self._log,
            )
            self._links.append(link)
            thread = threading.Thread(target=link.run, name=f"node-link-{address}", daemon=True)
            self._threads.append(thread)
            thread.start()

    @property
    def link_states(self) -> tuple[LinkState, ...]:
        """What each link is doing."""
        return tuple(link.state for link in self._links)

    def stop(self) -> None:
        """Let the answers under way end, then close everything."""
        if self._stopped or not self._links:
            return
        self._stopped = True
        self._log.info("draining")
        stoppers = [threading.Thread(target=link.stop, daemon=True) for link in self._links]
        for stopper in stoppers:
            stopper.start()
        for thread in (*stoppers, *self._threads):
            thread.join()
        self._work_threads.shutdown(wait=True, cancel_futures=True)
        self._snapshots.close()
        self._workers.close()
        self._databases.close()
        self._planning.close()
        self._engine.close()
        self.audit.close()
        self._status.remove()
        self._observe.close()
        self._log.info("node down")

"""The broker's composition root: constructors wired by hand, started in order, stopped in the reverse one."""

from __future__ import annotations

import sys
import threading
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import structlog

from audit.log import AuditLog
from audit.wire import AuditServicer
from broker.administration import Administration
from broker.admission import Admission
from broker.announce import Announce
from broker.attachments import Attachment, Attachments
from broker.authority import Authority, BrokerIdentity
from broker.config import BrokerConfig
from broker.decide import Decide
from broker.deliver import Deliver
from broker.enrolment import Enrolment
from broker.fetch import Fetch
from broker.identify import Identify
from broker.join import Join
from broker.listeners import (
    NODES_PER_CALLER_MAX,
    NODES_SILENT_MAX,
    Listener,
    ListenerSpec,
    bearer_listener,
    callers_listener,
    enrolment_listener,
    nodes_listener,
)
from broker.metrics import Sources
from broker.nodes import AttachedNodes, PendingAgreements
from broker.observe import Observability
from broker.open_calls import OpenCalls
from broker.pipeline import Pipeline
from broker.plan import Plan
from broker.plan_cache import PlanCache
from broker.record import Record
from broker.replay import UsedIds
from broker.rewrite import Rewrite
from broker.warm import warm_arrow
from broker.wire.asking import Asking
from broker.wire.bearer import bearer_door
from broker.wire.flight.handles import STATEMENTS
from broker.wire.flight.metadata import Metadata
from broker.wire.flight.service import LONG_METHODS as FLIGHT_LONG_METHODS
from broker.wire.flight.service import FlightServicer
from broker.wire.flight.sessions import Sessions
from broker.wire.flight.statements import Statements
from broker.wire.guard import CallLimits, Guard, Porch
from broker.wire.member import EnrolmentServicer, MemberServicer
from broker.wire.node import NodeServicer
from broker.wire.query import QueryServicer
from broker.wire.reflection import METHOD as REFLECTION
from broker.wire.services import add_services
from catalogue.database import open_database
from catalogue.members import MemberDirectory
from catalogue.store import Catalogue
from catalogue.wire import CatalogueServicer
from engine.memory import keep_buffers
from engine.planning import PlanningPool
from engine.pool import WorkerPool
from engine.spec import WorkerSpec
from policies.bundle import load as load_bundle
from policies.engines import EmbeddedEngine, OpaEngine
from policies.point import DecisionPoint
from tidegate.core.clock import Clock, Ids, SystemClock, SystemIds
from tidegate.core.names import IdentityKind
from tidegate.identity.certificates import CertificateFacts
from tidegate.identity.documents import verify_document
from tidegate.identity.folder import ExchangeInfo

SWITCH_INTERVAL_S = 0.0005  # appends beside busy threads: p99 15 ms instead of 145 ms (design house.md, Processes)
ORPHAN_PERIOD_S = 2.0
DIRECTORY_PERIOD_S = 0.4
_PRELOAD = ("tidegate.sql.plan", "broker.rewrite", "engine.announced")
_LONG_CALLS = (
    frozenset({"/tidegate.v1.QueryService/Execute", "/tidegate.v1.QueryService/Explain", REFLECTION})
    | FLIGHT_LONG_METHODS
)


class Broker:
    """A running broker. ``start`` returns when all listeners answer; ``stop`` drains."""

    def __init__(self, config: BrokerConfig, *, clock: Clock | None = None, ids: Ids | None = None) -> None:
        self.config = config
        self._clock: Clock = clock or SystemClock()
        self._ids: Ids = ids or SystemIds()
        self._log = structlog.get_logger("tidegate.broker")
        self._stopping = threading.Event()
        self._listeners: list[Listener] = []
        self._warmed = warm_arrow()

    def start(self) -> ExchangeInfo:
        """Open everything and listen.

        Raises:
            CallerError: CONFIG_INVALID ...: something of the configuration cannot be used.
            InternalError, IntegrityError: the log is not there, locked, or damaged.
        """
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        keep_buffers()
        config, clock, ids = self.config, self._clock, self._ids
        addresses = _addresses(config)
        self.log = AuditLog.open(config.log_folder, clock, ids)
        administration = Administration(self.log)
        authority = Authority.load(config.authority_folder, clock)
        database = open_database(config.database_url)
        self.members = MemberDirectory(database, clock, ids=ids)

        def verify(data: bytes, signature: bytes, chain_pem: bytes, at: datetime) -> CertificateFacts:
            return verify_document(data, signature, chain_pem, authority.root_pem, at)

        self.catalogue = Catalogue(database, clock, verify=verify, signers=self.members)
        self.exchange = ExchangeInfo(
            exchange=config.exchange.name,
            callers=addresses["callers"],
            nodes=addresses["nodes"],
            enrolment=addresses["enrolment"],
            log_origin=self.log.origin,
            log_verifier_key=self.log.verifier_key,
        )
        dns, ips = _host_names(config.exchange.host)
        identity = BrokerIdentity(
            authority,
            name=config.exchange.broker,
            exchange=self.exchange,
            clock=clock,
            dns_names=dns,
            ip_addresses=ips,
        )
        self._observe = Observability(config, instance=str(identity.spiffe), clock=clock, log=self._log)
        self._engine = _policy_engine(config)
        self._planning = PlanningPool(
            config.limits.planning_workers, preload=_PRELOAD, sandbox_required=config.limits.sandbox == "required"
        )
        self._workers = WorkerPool(_worker_spec(config), config.limits.join_workers)
        self.attachments = Attachments(attachments_max=config.limits.attachments_max)
        self.admission = Admission(
            requests_max=config.limits.requests_max, requests_per_member_max=config.limits.requests_per_member_max
        )
        record = Record(log=self.log, clock=clock)
        plans, point, telemetry = PlanCache(), DecisionPoint(self._engine, clock), self._observe.telemetry
        self.pipeline = Pipeline(
            plan=Plan(catalogue=self.catalogue, pool=self._planning, clock=clock, cache=plans),
            decide=Decide(point=point, catalogue=self.catalogue, clock=clock, cache=plans),
            rewrite=Rewrite(pool=self._planning, clock=clock, cache=plans),
            record=record,
            fetch=Fetch(
                attachments=self.attachments,
                signer=identity.sign,
                broker=str(identity.spiffe),
                clock=clock,
                ids=ids,
            ),
            join=Join(pool=self._workers, clock=clock),
            deliver=Deliver(outcome=telemetry.observed(record.outcome), clock=clock),
            announce=Announce(pool=self._planning, clock=clock, cache=plans),
            telemetry=telemetry,
        )
        enrolment = Enrolment(
            authority=authority,
            members=self.members,
            clock=clock,
            ids=ids,
            record=administration.record,
            exchange=self.exchange,
        )
        self._serve(identity, administration, enrolment)
        self._observe.serve(self._sources(plans, point, identity), self.log)
        administration.record(
            _started(config.exchange.broker, self._engine.revision),
        )
        for name, work in (("orphans", self._sweep), ("directory", self._refresh)):
            threading.Thread(target=work, name=name, daemon=True).start()
        self._log.info(
            "broker up",
            exchange=config.exchange.name,
            **addresses,
            policy=self._engine.revision,
            walls=self._workers.walls,
        )
        return self.exchange

    def _serve(self, identity: BrokerIdentity, administration: Administration, enrolment: Enrolment) -> None:
        clock, ids, config = self._clock, self._ids, self.config
        identify = Identify(exchange=config.exchange.name, directory=self.members, clock=clock)
        self._open_calls = OpenCalls(identify=identify, directory=self.members, clock=clock)
        people = frozenset({IdentityKind.SERVICE, IdentityKind.PERSON})

        shared: dict[str, Any] = {
            "identify": identify,
            "open_calls": self._open_calls,
            "clock": clock,
            "ids": ids,
            "refused": administration.refused_identity,
            "telemetry": self._observe.telemetry,
        }
        limits = config.limits
        callers = Guard(
            **shared,
            kinds=people,
            silent_max=limits.callers_threads * 3 // 4,
            # A node registers what it holds and asks who it is; it never asks questions.
            kinds_for={
                "/tidegate.v1.CatalogueService/": people | {IdentityKind.NODE},
                "/tidegate.v1.MemberService/": people | {IdentityKind.NODE},
                "/grpc.health.v1.Health/": people | {IdentityKind.NODE},
            },
            limits=CallLimits(
                long_methods=_LONG_CALLS,
                long_max=limits.requests_max,
                per_caller_max=max(limits.requests_per_member_max * 2, 8),
            ),
        )
        # One node, whatever it does, leaves threads for the answers and renewals of the others.
        nodes = Guard(
            **shared,
            kinds=frozenset({IdentityKind.NODE}),
            silent_max=NODES_SILENT_MAX,
            limits=CallLimits(per_caller_max=NODES_PER_CALLER_MAX),
        )
        pending = PendingAgreements(self.catalogue, self._log)

        def attached(attachment: Attachment) -> None:
            threading.Thread(target=pending.send, args=(attachment,), name="agreements", daemon=True).start()

        tokens, bearer = bearer_door(config, long_methods=_LONG_CALLS, **shared)
        asking = self._asking(callers)
        services = add_services(
            query=QueryServicer(guard=callers, pipeline=self.pipeline, admission=self.admission, asking=asking),
            flight=self._flight(callers, asking),
            catalogue=CatalogueServicer(
                self.catalogue, callers.caller, administration.change, AttachedNodes(self.attachments)
            ),
            audit=AuditServicer(self.log, callers.caller),
            members=MemberServicer(
                guard=callers,
                enrolment=enrolment,
                members=self.members,
                record=administration.record,
                attached=lambda member: bool(self.attachments.of_member(member)),
                tokens=tokens,
                bearer_address=_public(config, config.listen.bearer),
            ),
            nodes=NodeServicer(
                guard=nodes,
                attachments=self.attachments,
                enrolment=enrolment,
                broker=str(identity.spiffe),
                attached=attached,
                log=self._log,
            ),
            enrolment=EnrolmentServicer(enrolment=enrolment),
            bearer_flight=None if bearer is None else self._flight(bearer, self._asking(bearer)),
        )
        specs = self._specs(identity, callers, nodes, bearer)
        served = (services.callers, services.nodes, services.enrolment, services.bearer)
        self._warmed()
        for spec, added in zip(specs, served, strict=False):  # without a bearer listener its services are nobody's
            guarded = callers if spec.name == "callers" else None
            self._listeners.append(Listener(spec, added, self._observe.last(guarded)))

    def _specs(
        self, identity: BrokerIdentity, callers: Guard, nodes: Guard, bearer: Guard | None
    ) -> list[ListenerSpec]:
        """Describe the listeners. Each has credentials of its own: gRPC asks for the first ones once for each object."""
        listen, limits = self.config.listen, self.config.limits
        porch = Porch(ids=self._ids, log=self._log)
        mutual, open_ = identity.mutual_credentials, identity.enrolment_credentials
        specs = [
            callers_listener(listen.callers, mutual(), callers, threads=limits.callers_threads),
            nodes_listener(listen.nodes, mutual(), nodes, attachments_max=limits.attachments_max),
            enrolment_listener(listen.enrolment, open_(), porch),
        ]
        return specs if bearer is None else [*specs, bearer_listener(listen.bearer, open_(), bearer)]

    def _asking(self, guard: Guard) -> Asking:
        return Asking(guard=guard, used=UsedIds(clock=self._clock), clock=self._clock, ids=self._ids)

    def _sources(self, plans: PlanCache, point: DecisionPoint, identity: BrokerIdentity) -> Sources:
        """Name whom the page of metrics asks."""
        return Sources(
            admission=self.admission,
            attachments=self.attachments,
            attachments_max=self.config.limits.attachments_max,
            open_calls=self._open_calls,
            plans=plans,
            point=point,
            planning=self._planning,
            workers=self._workers,
            identity=identity,
            clock=self._clock,
        )

    def _flight(self, guard: Guard, asking: Asking) -> FlightServicer:
        """Make the second door, into the same hall."""
        clock, ids, exchange = self._clock, self._ids, self.config.exchange.name
        return FlightServicer(
            guard=guard,
            admission=self.admission,
            statements=Statements(pipeline=self.pipeline, asking=asking, clock=clock, ids=ids),
            metadata=Metadata(self.catalogue, exchange, clock=clock, statement_timeout_s=STATEMENTS.lifetime_s),
            sessions=Sessions(self.catalogue, exchange, clock=clock, ids=ids),
        )

    def _sweep(self) -> None:
        """Name the decisions whose outcome never came."""
        while not self._stopping.wait(ORPHAN_PERIOD_S):
            try:
                for found in self.log.orphans(self._clock.now()):
                    self._log.warning("orphan", entry=found.index)
            except Exception as error:  # noqa: BLE001 - the sweep goes on; what it could not record it finds again
                self._log.error("orphans could not be recorded", error=repr(error))

    def _refresh(self) -> None:
        """See what another broker changed in the directory, in time to end streams within a second."""
        while not self._stopping.wait(DIRECTORY_PERIOD_S):
            try:
                self.members.refresh()
            except Exception as error:  # noqa: BLE001 - calls see it themselves; the watch tries again
                self._log.error("directory could not be read", error=repr(error))

    def stop(self) -> None:
        """Stop taking requests, let those under way end, then close everything."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        if not self._listeners:
            return
        self._log.info("draining")
        self._observe.drain()
        finished = self.admission.drain(self.config.limits.drain_s)
        self.attachments.drain(1.0)
        for listener in self._listeners:
            listener.stop(1.0)
        self._open_calls.close()
        self._workers.close()
        self._planning.close()
        self._engine.close()
        self.log.close()
        self._observe.close()
        self._log.info("broker down", drained=finished)


def _started(broker: str, revision: str) -> dict[str, object]:
    from audit import entries

    return entries.admin("config", action="start", subject=broker, details={"policy_revision": revision})


def _addresses(config: BrokerConfig) -> dict[str, str]:
    """Give the addresses that others are told: the exchange's host with the listeners' ports."""
    listen = config.listen
    bound = {"callers": listen.callers, "nodes": listen.nodes, "enrolment": listen.enrolment}
    return {name: _public(config, address) for name, address in bound.items()}


def _public(config: BrokerConfig, address: str) -> str:
    """Give the address under which others reach a listener; empty for one that is off."""
    return f"{config.exchange.host}:{address.rpartition(':')[2]}" if address else ""


def _host_names(host: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split the names under which the broker is reached into DNS names and IP addresses for its certificate."""
    try:
        return (), (str(ip_address(host.strip("[]"))),)
    except ValueError:
        return (host,), ("127.0.0.1",) if host == "localhost" else ()


def _policy_engine(config: BrokerConfig) -> EmbeddedEngine | OpaEngine:
    bundle = load_bundle(config.overlays)
    if config.policy.opa_url:
        return OpaEngine(config.policy.opa_url, bundle, timeout_s=config.policy.opa_timeout_s)
    return EmbeddedEngine(bundle)


def _worker_spec(config: BrokerConfig) -> WorkerSpec:
    limits = config.limits
    return WorkerSpec(
        kind="join",
        memory_limit_bytes=limits.worker_memory_bytes,
        address_space_bytes=limits.worker_address_space_bytes,
        threads=limits.worker_threads,
        sandbox_required=limits.sandbox == "required",
        temp_directory=str(Path(limits.spill).absolute()) if limits.spill else None,
    )

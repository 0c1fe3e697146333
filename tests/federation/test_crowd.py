"""A crowd at every door: 85 attached nodes, every place for queries taken, and the short calls of others still answer.

The broker is a process of its own. The nodes are light (tests.robust) and silent: whoever asks one waits until the deadline.
Every call that must answer carries a deadline of a few seconds, so that one that does not is an error.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
import pytest

from broker.authority import Authority
from broker.config import load_config
from broker.listeners import ENROLMENT_THREADS, NODES_PER_CALLER_MAX
from broker.wire.doorstep import SILENT_MAX
from catalogue.database import open_database
from catalogue.members import MemberDirectory
from examples.local import LocalExchange
from tests.robust import BASIS, CALL_S_MAX, PURPOSE, Issuer, LightNode, Seen, ask, call_raw, described, drained, open_as
from tidegate.channel import open_channel, open_enrolment_channel
from tidegate.client.session import Session
from tidegate.core.clock import SystemClock, SystemIds
from tidegate.core.errors import Code
from tidegate.core.names import IdentityKind
from tidegate.identity import keys
from tidegate.identity.certificates import make_csr
from tidegate.identity.folder import ExchangeInfo, IdentityFolder, LocalIdentity
from tidegate.identity.joining import join
from tidegate.v1 import member_service_pb2, node_service_pb2

pytestmark = pytest.mark.xdist_group("federation-crowd")

NODES = 85
ASKING = ("health", "police", "treasury")
ANSWER_S_MAX = 5.0
CALLERS_KEPT = 32  # calls of one identity (broker.app)
HEALTH = "/grpc.health.v1.Health/Check"
WHO = "/tidegate.v1.MemberService/WhoAmI"
LIST = "/tidegate.v1.CatalogueService/List"
SEARCH = "/tidegate.v1.CatalogueService/Search"
SQL = "SELECT id, word FROM dept0.tides"
SILENT_WAITS_MAX = 300  # of 50 ms: a node gives a silent broker up after three heartbeats; this one is less patient


@dataclass
class Crowd:
    """The exchange with its nodes, and everybody who will call. Their identities are made before the broker hears of them."""

    local: LocalExchange
    people: dict[str, LocalIdentity]
    nodes: list[LightNode] = field(default_factory=list)

    def __post_init__(self) -> None:
        limits = load_config(self.local.broker_folder, {}).limits
        self.requests_max, self.requests_per_member_max = limits.requests_max, limits.requests_per_member_max

    @property
    def info(self) -> ExchangeInfo:
        return self.local.operator().identity.exchange

    def attach(self, number: int) -> LightNode:
        member = f"dept{number}"
        return LightNode(self.people[member], datasets=[described(member, "tides")])

    def session(self, name: str) -> Session:
        return open_as(self.people[name])

    def still_attached(self) -> int:
        return sum(node.attached.is_set() and node.ended.empty() for node in self.nodes)


def issue_everybody(local: LocalExchange) -> dict[str, LocalIdentity]:
    """Make the identities with the exchange's own authority, from this process; return once the broker knows the last."""
    config = load_config(local.broker_folder, {})
    database = open_database(config.database_url)
    try:
        members = MemberDirectory(database, SystemClock())
        info = local.operator().identity.exchange
        issuer = Issuer(Authority.load(config.authority_folder, SystemClock()), members, info)
        people = {name: issuer.identity(name, "desk") for name in (*ASKING, "mute")}
        people["steward"] = issuer.identity("dept0", "steward", kind=IdentityKind.PERSON, roles=("steward",))
        for member in ["mute", *(f"dept{number}" for number in range(NODES + 1))]:
            name = "mute node" if member == "mute" else member
            people[name] = issuer.identity(member, "node1", kind=IdentityKind.NODE, roles=())
        people["library"] = issuer.identity("library", "desk")
    finally:
        database.dispose()
    with open_channel(info.callers, people["library"]) as channel:
        while call_raw(channel, WHO, b"").code is Code.ID_MEMBER_UNKNOWN:
            threading.Event().wait(0.05)
    return people


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crowd]:
    with LocalExchange(tmp_path_factory.mktemp("crowd") / "exchange", name="crowd") as local:
        local.start()
        local.operator().transport.add_purpose(PURPOSE, "Planning", [BASIS], SystemIds().request_id())
        found = Crowd(local, issue_everybody(local))
        found.nodes += [found.attach(number) for number in range(NODES)]
        try:
            for number, node in enumerate(found.nodes):
                # As nodes do: a connection that the machine cut in the rush, or that stays silent, is dialled again.
                waits = 0
                while not node.attached.wait(0.05):
                    waits += 1
                    if not node.ended.empty() or waits > SILENT_WAITS_MAX:
                        node.close()
                        node, waits = found.attach(number), 0
                        found.nodes[number] = node
            with found.session("steward") as session:
                session.catalogue.register(described("dept0", "tides"))
            yield found
        finally:
            for node in found.nodes:
                node.close()


@contextmanager
def full_of_slow_queries(crowd: Crowd) -> Iterator[queue.SimpleQueue[Seen]]:
    """Take every place for queries, by several members up to the limit of each; what is over it hears so at once."""
    ended: queue.SimpleQueue[Seen] = queue.SimpleQueue()
    sessions = [crowd.session(name) for name in ASKING]
    per_member = crowd.requests_per_member_max
    assert per_member * len(ASKING) >= crowd.requests_max, "more members are needed to fill the pool"
    over = threading.Event()

    def keep_asking(session: Session) -> None:
        seen = ask(session, SQL)
        while seen.code in (Code.BUSY, Code.PLAN_DEADLINE) and not over.wait(0.1):
            seen = ask(session, SQL)  # all plan at once on two cores: some are told to come back
        ended.put(seen)

    started = [threading.Thread(target=keep_asking, args=(session,)) for session in sessions for _ in range(per_member)]
    for thread in started:
        thread.start()
    try:
        for number in range(crowd.requests_max):
            try:
                crowd.nodes[0].fragments.get(timeout=CALL_S_MAX)
            except queue.Empty:
                raise AssertionError(f"{number} queries are under way; ended: {drained(ended)}") from None
        yield ended
    finally:
        over.set()
        for session in sessions:
            session.close()
        for thread in started:
            thread.join(CALL_S_MAX)
        assert not any(thread.is_alive() for thread in started)


def answers(channel: grpc.Channel, path: str, payload: bytes = b"") -> None:
    seen = call_raw(channel, path, payload, timeout_s=ANSWER_S_MAX)
    assert (seen.status, seen.answers) == (grpc.StatusCode.OK, 1), f"{path}: {seen}"


def short_calls_answer(crowd: Crowd) -> None:
    """Look-ups by a member who asks nothing, attachment, renewals, joining, and health at every listener."""
    visitor = crowd.people["library"]
    with open_channel(visitor.exchange.callers, visitor) as channel:
        for path in (WHO, LIST, SEARCH, HEALTH):
            answers(channel, path)
        request = member_service_pb2.RenewCertificateRequest(csr_pem=make_csr(keys.new_key()))
        answers(channel, "/tidegate.v1.MemberService/RenewCertificate", request.SerializeToString())
    node = crowd.nodes[1]
    answers(node.channel, HEALTH)
    renewal = node_service_pb2.RenewLinkRequest(csr_pem=make_csr(keys.new_key()))
    answers(node.channel, "/tidegate.v1.NodeService/RenewLink", renewal.SerializeToString())
    late = crowd.attach(NODES)
    assert late.attached.wait(ANSWER_S_MAX), "a node cannot attach"
    late.close()
    with open_enrolment_channel(visitor.exchange.enrolment, visitor.root_pem) as channel:
        answers(channel, HEALTH)


def test_with_every_place_for_queries_taken_all_short_calls_answer(crowd: Crowd, tmp_path: Path) -> None:
    with full_of_slow_queries(crowd) as ended:
        short_calls_answer(crowd)
        # One query more is told to come back, at once, whoever asks it.
        with crowd.session("library") as reader:
            seen = ask(reader, SQL, deadline_s=ANSWER_S_MAX)
            assert seen.code is Code.BUSY, seen
        # Somebody joins: the operator's call, then enrolment.
        fields = {
            "member": "museum",
            "name": "desk",
            "kind": "service",
            "roles": ["analyst"],
            "clearance": "internal",
            "title": "Museum",
            "tier": "government",
        }
        token, _, _ = crowd.local.operator().transport.add_member(fields, SystemIds().request_id())
        join(token, IdentityFolder(tmp_path / "museum"))
        assert crowd.still_attached() == NODES
        assert ended.empty(), "a query that waits for its department was ended"
    with crowd.session("library") as reader:
        answer_from(crowd.nodes[0], reader)


def answer_from(node: LightNode, session: Session) -> None:
    """Afterwards the department is asked and answers as if nothing had been."""
    table = pa.table({"c0": [1], "c1": ["a"]})
    node.on_fragment = lambda own, fragment: own.answer(fragment, table)
    try:
        seen = ask(session, SQL)
        while seen.code is Code.BUSY:  # until the broker has noticed that the others went away
            seen = ask(session, SQL)
    finally:
        node.on_fragment = None
    assert seen.status is grpc.StatusCode.OK, seen


@contextmanager
def silent_calls(channel: Callable[[], grpc.Channel], paths: list[str], count: int, kept: int) -> Iterator[None]:
    """Open calls, and say nothing on them; goes on once the broker has ended all but those that it keeps."""
    hold: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    channels = [channel() for _ in range(1 + count // 100)]
    calls: list[Any] = [
        channels[number // 100].stream_stream(paths[number % len(paths)])(iter(hold.get, None), timeout=60)
        for number in range(count)
    ]
    try:
        while sum(call.is_active() for call in calls) > kept:
            threading.Event().wait(0.02)
        yield
    finally:
        for call in calls:
            call.cancel()
        for _ in calls:
            hold.put(None)
        for item in channels:
            item.close()


def opened(identity: LocalIdentity) -> Callable[[], grpc.Channel]:
    node = identity.spiffe.kind is IdentityKind.NODE
    return lambda: open_channel(identity.exchange.nodes if node else identity.exchange.callers, identity)


def test_a_caller_who_opens_calls_and_says_nothing_keeps_nobody_out(crowd: Crowd) -> None:
    mute = crowd.people["mute"]
    paths = ["/tidegate.v1.QueryService/Execute", WHO, LIST, HEALTH]
    with silent_calls(opened(mute), paths, 300, kept=CALLERS_KEPT):
        short_calls_answer(crowd)


def test_a_node_that_opens_calls_and_says_nothing_keeps_nobody_out(crowd: Crowd) -> None:
    mute = crowd.people["mute node"]
    paths = [f"/tidegate.v1.NodeService/{name}" for name in ("Attach", "Deliver", "RenewLink")]
    with silent_calls(opened(mute), [*paths, HEALTH], 600, kept=NODES_PER_CALLER_MAX):
        short_calls_answer(crowd)


def test_strangers_at_enrolment_who_say_nothing_keep_nobody_from_joining(crowd: Crowd, tmp_path: Path) -> None:
    info = crowd.info
    paths = [f"/tidegate.v1.EnrolmentService/{name}" for name in ("Join", "Renew")]
    fields = {
        "member": "archive",
        "name": "desk",
        "kind": "service",
        "roles": ["analyst"],
        "clearance": "internal",
        "title": "Archive",
        "tier": "government",
    }
    token, _, _ = crowd.local.operator().transport.add_member(fields, SystemIds().request_id())
    root = crowd.people["library"].root_pem
    count = 3 * ENROLMENT_THREADS
    with silent_calls(lambda: open_enrolment_channel(info.enrolment, root), [*paths, HEALTH], count, kept=SILENT_MAX):
        join(token, IdentityFolder(tmp_path / "archive"))

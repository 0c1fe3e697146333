"""Questions and what the rules must say about them; both engines are held to the same cases."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tidegate.core.caller import Caller
from tidegate.core.names import IdentityKind, SpiffeId

NOW = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
PURPOSE = "operations.planning"


class FixedClock:
    """A clock that stands still."""

    def __init__(self, moment: datetime = NOW) -> None:
        self.moment = moment

    def now(self) -> datetime:
        return self.moment

    def monotonic_s(self) -> float:
        return self.moment.timestamp()


def caller(**changes: Any) -> Caller:
    identity = SpiffeId("city.example", IdentityKind.SERVICE, "health", "triage")
    fields: dict[str, Any] = {"roles": ("analyst",), "clearance": "internal", "tier": "government", "fingerprint": "ab"}
    return Caller(identity=identity, **{**fields, **changes})


def column(name: str, type_text: str = "VARCHAR", sensitivity: str = "internal", element: str = "") -> dict[str, Any]:
    return {"name": name, "type": type_text, "sensitivity": sensitivity, "element": element, "used_as": ["output"]}


def resource(ref: str = "r0", **changes: Any) -> dict[str, Any]:
    fields = {
        "ref": ref,
        "dataset": "aviation.flights",
        "owner": "aviation",
        "class": "conditional",
        "citation": "",
        "subject_column": "tailnum",
        "bearer_ok": False,
        "columns": [column("dep_delay", "INTEGER"), column("origin"), column("tailnum")],
        "masks": {},
        "predicate_deny": [],
        "fields": {"dep_delay": "INTEGER", "origin": "VARCHAR", "tailnum": "VARCHAR", "day": "DATE"},
    }
    return {**fields, **changes}


def agreement(identifier: str = "a1", **changes: Any) -> dict[str, Any]:
    fields = {
        "id": identifier,
        "dataset": "aviation.flights",
        "grantee": "health",
        "purposes": [PURPOSE],
        "legal_basis": "",
        "columns": ["dep_delay", "origin", "tailnum"],
        "mode": "rows",
        "min_group_size": 1,
        "row_filter": {},
        "expires_at": "2027-01-01T00:00:00.000000Z",
    }
    return {**fields, **changes}


def question(**changes: Any) -> dict[str, Any]:
    """Give a question that is allowed; ``caller`` and ``request`` are merged, the rest replaced."""
    base: dict[str, Any] = {
        "version": 1,
        "caller": caller().to_question(),
        "request": {
            "id": "00" * 16,
            "time": "2026-11-21T10:00:00.000000Z",
            "purpose": PURPOSE,
            "legal_basis": "",
            "door": "grpc",
            "emergency": None,
        },
        "registered": None,
        "resources": [resource()],
        "agreements": [agreement()],
        "query": {
            "aggregated": False,
            "group_by": [],
            "functions": [],
            "joins": [],
            "set_operations": [],
            "limit": None,
        },
    }
    for key, value in changes.items():
        base[key] = {**base[key], **value} if key in ("caller", "request") else value
    return copy.deepcopy(base)


@dataclass(frozen=True)
class Case:
    """A question, and the codes of the reasons that must come back (in order); ``shows`` are paths into the answer."""

    name: str
    question: dict[str, Any]
    allow: bool
    codes: tuple[str, ...]
    shows: tuple[tuple[str, Any], ...] = ()


ORIGIN = {"type": "field", "field": "origin", "operator": "in", "value": ["JFK", "LGA"]}
LATE = {"type": "field", "field": "dep_delay", "operator": "gt", "value": 15}
GRANTED = ("purpose_registered", "agreement")
OPEN = resource(**{"class": "open"})
AWKWARD = {
    "type": "field",
    "field": "origin",
    "operator": "eq",
    "value": 'a"b\\c\n\u2028\u00e9\u4e2d\U0001f600 {{ ' + "'; --",
}
BIG = {"type": "field", "field": "dep_delay", "operator": "in", "value": [9007199254740993, -1, 0, 10**6, None]}

CASES = (
    Case(
        "agreement opens rows",
        question(),
        True,
        GRANTED,
        (("resources.r0.row_filter", {}), ("resources.r0.constraints.mode", "rows")),
    ),
    Case(
        "obligation ends with the agreement",
        question(),
        True,
        GRANTED,
        (("obligations.expires_at", "2027-01-01T00:00:00.000000Z"),),
    ),
    Case(
        "open needs no agreement",
        question(resources=[OPEN], agreements=[]),
        True,
        ("purpose_registered", "class_open"),
        (("obligations.expires_at", None),),
    ),
    Case(
        "a query without datasets",
        question(resources=[], agreements=[]),
        True,
        ("purpose_registered",),
        (("resources", {}),),
    ),
    Case(
        "no agreement",
        question(agreements=[]),
        False,
        ("agreement_missing",),
        (("resources.r0.columns", {}), ("resources.r0.constraints.mode", "closed")),
    ),
    Case(
        "agreement of another dataset",
        question(agreements=[agreement(dataset="aviation.airlines")]),
        False,
        ("agreement_missing",),
    ),
    Case(
        "agreement of another grantee",
        question(agreements=[agreement(grantee="police")]),
        False,
        ("agreement_missing",),
    ),
    Case(
        "agreement for another purpose",
        question(agreements=[agreement(purposes=["epidemic.control"])]),
        False,
        ("agreement_missing",),
    ),
    Case(
        "agreement ends at this moment",
        question(agreements=[agreement(expires_at="2026-11-21T10:00:00.000000Z")]),
        False,
        ("agreement_expired",),
    ),
    Case(
        "agreement ends a microsecond later",
        question(agreements=[agreement(expires_at="2026-11-21T10:00:00.000001Z")]),
        True,
        GRANTED,
    ),
    Case(
        "agreement with other columns",
        question(agreements=[agreement(columns=["origin"])]),
        False,
        ("column_not_in_agreement",) * 2,
    ),
    Case(
        "agreement's filter",
        question(agreements=[agreement(row_filter=ORIGIN)]),
        True,
        GRANTED,
        (("resources.r0.row_filter", ORIGIN),),
    ),
    Case(
        "texts pass unchanged",
        question(agreements=[agreement(row_filter=AWKWARD)]),
        True,
        GRANTED,
        (("resources.r0.row_filter", AWKWARD),),
    ),
    Case(
        "numbers pass unchanged",
        question(agreements=[agreement(row_filter=BIG)]),
        True,
        GRANTED,
        (("resources.r0.row_filter", BIG),),
    ),
    Case(
        "agreement for groups",
        question(agreements=[agreement(mode="aggregate", min_group_size=10)]),
        True,
        GRANTED,
        (
            ("resources.r0.constraints.mode", "aggregate"),
            ("resources.r0.constraints.min_group_size", 10),
            ("resources.r0.constraints.count_entity", "tailnum"),
            ("resources.r0.constraints.allowed_aggregates", ["count", "sum", "avg"]),
        ),
    ),
    Case(
        "groups are never of one",
        question(agreements=[agreement(mode="aggregate", min_group_size=1)]),
        True,
        GRANTED,
        (("resources.r0.constraints.min_group_size", 2),),
    ),
    Case(
        "groups of nobody",
        question(resources=[resource(subject_column="")], agreements=[agreement(mode="aggregate")]),
        False,
        ("subject_unknown",),
    ),
    Case(
        "of two agreements the one that covers the columns",
        question(agreements=[agreement("a1", columns=["origin"]), agreement("a2", mode="aggregate", min_group_size=5)]),
        True,
        GRANTED,
        (("resources.r0.constraints.mode", "aggregate"),),
    ),
    Case(
        "of two that cover the wider one",
        question(agreements=[agreement("a1", mode="aggregate", min_group_size=5), agreement("a2")]),
        True,
        GRANTED,
        (("resources.r0.constraints.mode", "rows"),),
    ),
    Case(
        "agreements are never mixed",
        question(
            agreements=[
                agreement("a1", columns=["origin", "dep_delay"], row_filter=ORIGIN),
                agreement("a2", columns=["tailnum"]),
            ]
        ),
        False,
        ("column_not_in_agreement",),
    ),
    Case(
        "closed",
        question(resources=[resource(**{"class": "closed", "citation": "Secrets Act 9"})]),
        False,
        ("class_closed",),
    ),
    Case(
        "clearance",
        question(resources=[resource(columns=[column("origin", sensitivity="restricted")])]),
        False,
        ("column_above_clearance",),
    ),
    Case(
        "cleared",
        question(
            caller={"clearance": "secret"}, resources=[resource(columns=[column("origin", sensitivity="secret")])]
        ),
        True,
        GRANTED,
        (("resources.r0.columns.origin", {"access": "plain"}),),
    ),
    Case(
        "declared mask",
        question(
            resources=[
                resource(masks={"tailnum": {"kind": "pseudonym", "key": "recipient"}}, predicate_deny=["tailnum"])
            ]
        ),
        True,
        GRANTED,
        (
            (
                "resources.r0.columns.tailnum",
                {"access": "masked", "mask": {"kind": "pseudonym", "key": "recipient"}, "in_predicate": "deny"},
            ),
            ("resources.r0.columns.origin", {"access": "plain"}),
        ),
    ),
    Case(
        "unregistered purpose",
        question(request={"purpose": "curiosity"}, agreements=[agreement(purposes=["curiosity"])]),
        False,
        ("purpose_unknown", "legal_basis_unknown"),
    ),
    Case(
        "empty purpose",
        question(request={"purpose": ""}, resources=[OPEN]),
        False,
        ("purpose_unknown", "legal_basis_unknown"),
    ),
    Case("registry says no", question(registered=False), False, ("purpose_unknown", "legal_basis_unknown")),
    Case(
        "registry knows a purpose that the bundle does not",
        question(registered=True, request={"purpose": "new.one"}, agreements=[agreement(purposes=["new.one"])]),
        True,
        GRANTED,
    ),
    Case(
        "another legal basis",
        question(registered=True, request={"legal_basis": "law.b"}, agreements=[agreement(legal_basis="law.a")]),
        False,
        ("agreement_missing",),
    ),
    Case(
        "the same legal basis",
        question(registered=True, request={"legal_basis": "law.a"}, agreements=[agreement(legal_basis="law.a")]),
        True,
        GRANTED,
    ),
    Case(
        "keys of open data may go to every member",
        question(resources=[OPEN], agreements=[]),
        True,
        ("purpose_registered", "class_open"),
        (("resources.r0.constraints.keys_may_go_to", ["*"]),),
    ),
    Case(
        "keys stay where the agreement says nothing",
        question(),
        True,
        GRANTED,
        (("resources.r0.constraints.keys_may_go_to", []),),
    ),
    Case(
        "keys go where the agreement says",
        question(agreements=[agreement(keys_may_go_to=["weather", "rail"])]),
        True,
        GRANTED,
        (("resources.r0.constraints.keys_may_go_to", ["weather", "rail"]),),
    ),
    Case(
        "keys of an agreement for every member",
        question(agreements=[agreement(keys_may_go_to=["rail", "*"])]),
        True,
        GRANTED,
        (("resources.r0.constraints.keys_may_go_to", ["*"]),),
    ),
    Case(
        "keys of groups are persons",
        question(agreements=[agreement(mode="aggregate", keys_may_go_to=["rail"])]),
        True,
        GRANTED,
        (("resources.r0.constraints.keys_may_go_to", []),),
    ),
    Case("a bearer", question(caller={"bound": "bearer"}), False, ("bearer_not_permitted",)),
    Case(
        "a bearer, and open data that is not marked",
        question(caller={"bound": "bearer"}, resources=[OPEN], agreements=[]),
        False,
        ("bearer_not_permitted",),
    ),
    Case(
        "a bearer, and what is marked",
        question(caller={"bound": "bearer"}, resources=[resource(bearer_ok=True)]),
        True,
        GRANTED,
    ),
    Case(
        "a bearer needs an agreement too",
        question(caller={"bound": "bearer"}, resources=[resource(bearer_ok=True)], agreements=[]),
        False,
        ("agreement_missing",),
    ),
    Case(
        "a bearer, and one of two is not marked",
        question(caller={"bound": "bearer"}, resources=[resource(bearer_ok=True), resource("r1")]),
        False,
        ("bearer_not_permitted",),
        (("resources.r0.allow", True), ("resources.r1.allow", False)),
    ),
    Case(
        "a certificate needs no mark",
        question(resources=[resource(bearer_ok=False)]),
        True,
        GRANTED,
    ),
    Case("no role", question(caller={"roles": ["steward", "auditor"]}), False, ("role_missing",)),
    Case("a node asks", question(caller={"kind": "node"}), False, ("caller_kind",)),
    Case("a broker asks", question(caller={"kind": "broker"}), False, ("caller_kind",)),
    Case("emergency", question(request={"emergency": "flood"}), False, ("emergency_unavailable",)),
    Case(
        "two instances, one refused",
        question(resources=[resource(), resource("r1", dataset="tax.payers", owner="tax")]),
        False,
        ("agreement_missing",),
        (("resources.r0.allow", True), ("resources.r1.allow", False)),
    ),
    Case(
        "self join",
        question(resources=[resource(), resource("r1")]),
        True,
        ("purpose_registered", "agreement", "agreement"),
    ),
)


def at(document: Any, path: str) -> Any:
    """Walk a dotted path."""
    for key in path.split("."):
        document = document[key]
    return document

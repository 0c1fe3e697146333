"""The stable codes of errors, and the table that says what each means to every door.

A line for each code: who must act, gRPC status, exit code of the command line, what it says, what to do next. docs/ERRORS.md
is made from it. A code's number is never reused.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum


class Family(Enum):
    """Who must act."""

    CALLER = "caller"
    REFUSED = "refused"
    OVERLOAD = "overload"
    PEER = "peer"
    INTEGRITY = "integrity"
    INTERNAL = "internal"


class Exit(IntEnum):
    """Exit codes of the command line. Stable; documented in docs/ERRORS.md."""

    OK = 0
    ERROR = 1
    USAGE = 2
    UNAUTHENTICATED = 3
    DENIED = 4
    NOT_FOUND = 5
    NEEDS_APPROVAL = 6
    UNAVAILABLE = 7
    VERIFICATION_FAILED = 8


class Code(Enum):
    """Stable codes, ``TG-<room>-<number>``. A number is never reused."""

    # identity and joining
    ID_NO_CERTIFICATE = "TG-ID-001"
    ID_CERTIFICATE_INVALID = "TG-ID-002"
    ID_CERTIFICATE_EXPIRED = "TG-ID-003"
    ID_REVOKED = "TG-ID-004"
    ID_WRONG_KIND = "TG-ID-005"
    ID_ROLE_MISSING = "TG-ID-006"
    ID_JOIN_TOKEN = "TG-ID-007"
    ID_RENEWAL = "TG-ID-008"
    ID_MEMBER_UNKNOWN = "TG-ID-009"
    ID_TLS_VERSION = "TG-ID-010"
    ID_BEARER = "TG-ID-011"
    # admission and planning
    PLAN_SYNTAX = "TG-PLAN-001"
    PLAN_NOT_ALLOWED = "TG-PLAN-002"
    PLAN_UNKNOWN_DATASET = "TG-PLAN-003"
    PLAN_UNKNOWN_COLUMN = "TG-PLAN-004"
    PLAN_TOO_LARGE = "TG-PLAN-005"
    PLAN_PARAMETERS = "TG-PLAN-006"
    PLAN_DEADLINE = "TG-PLAN-007"
    PLAN_AMBIGUOUS = "TG-PLAN-008"
    PLAN_TYPE = "TG-PLAN-009"
    # policy
    POLICY_REFUSED = "TG-POLICY-001"
    POLICY_UNAVAILABLE = "TG-POLICY-002"
    POLICY_STRUCTURE = "TG-POLICY-003"
    POLICY_PURPOSE = "TG-POLICY-004"
    # record
    AUDIT_UNAVAILABLE = "TG-AUDIT-001"
    AUDIT_VERIFICATION = "TG-AUDIT-002"
    AUDIT_NOT_FOUND = "TG-AUDIT-003"
    # fetch, join, deliver
    FETCH_NODE_AWAY = "TG-FETCH-001"
    FETCH_NODE_REFUSED = "TG-FETCH-002"
    FETCH_NODE_FAILED = "TG-FETCH-003"
    FETCH_LIMIT = "TG-FETCH-004"
    FETCH_INVALID_DATA = "TG-FETCH-005"
    JOIN_FAILED = "TG-JOIN-001"
    JOIN_LIMIT = "TG-JOIN-002"
    QUERY_DEADLINE = "TG-QUERY-001"
    QUERY_CANCELLED = "TG-QUERY-002"
    BUSY = "TG-QUERY-003"
    # node
    NODE_GRANT = "TG-NODE-001"
    NODE_REPLAY = "TG-NODE-002"
    NODE_RECEIPT = "TG-NODE-003"
    NODE_FRAGMENT = "TG-NODE-004"
    NODE_EXECUTE = "TG-NODE-005"
    NODE_STALE = "TG-NODE-006"
    NODE_SOURCE_AWAY = "TG-NODE-007"
    # catalogue
    CAT_INVALID = "TG-CAT-001"
    CAT_NOT_FOUND = "TG-CAT-002"
    CAT_CONFLICT = "TG-CAT-003"
    CAT_AGREEMENT = "TG-CAT-004"
    # wire, the second door, configuration, client
    WIRE_INVALID = "TG-WIRE-001"
    WIRE_VERSION = "TG-WIRE-002"
    WIRE_UNSUPPORTED = "TG-WIRE-003"
    FLIGHT_HANDLE = "TG-FLIGHT-001"
    FLIGHT_STALE = "TG-FLIGHT-002"
    FLIGHT_READ_ONLY = "TG-FLIGHT-003"
    FLIGHT_PURPOSE = "TG-FLIGHT-004"
    CONFIG_INVALID = "TG-CONFIG-001"
    CLIENT_UNREACHABLE = "TG-CLIENT-001"
    CLIENT_NO_CONTEXT = "TG-CLIENT-002"
    CLIENT_INPUT = "TG-CLIENT-003"
    CLIENT_PROXY_SECRET = "TG-CLIENT-004"
    INTERNAL = "TG-INTERNAL-001"


@dataclass(frozen=True, slots=True)
class CodeInfo:
    """What a code means to every door: family, gRPC status name, exit code, and the sentence for docs/ERRORS.md."""

    code: Code
    family: Family
    grpc_status: str
    exit: Exit
    title: str
    next_step: str


# fmt: off
_ROWS = (  # a table reads best as one: a line for each code
    (Code.ID_NO_CERTIFICATE, Family.CALLER, "UNAUTHENTICATED", Exit.UNAUTHENTICATED, "no client certificate was presented", "join the exchange with `tidegate join TOKEN`"),
    (Code.ID_CERTIFICATE_INVALID, Family.CALLER, "UNAUTHENTICATED", Exit.UNAUTHENTICATED, "the certificate is not one of this exchange", "ask the operator for a new join token"),
    (Code.ID_CERTIFICATE_EXPIRED, Family.CALLER, "UNAUTHENTICATED", Exit.UNAUTHENTICATED, "the certificate is outside its validity", "renew it with `tidegate renew`"),
    (Code.ID_REVOKED, Family.CALLER, "UNAUTHENTICATED", Exit.UNAUTHENTICATED, "the certificate or its member was revoked", "ask the operator why, then join again"),
    (Code.ID_WRONG_KIND, Family.CALLER, "PERMISSION_DENIED", Exit.DENIED, "this kind of identity may not use this service", "use the certificate of the right kind (service, person, node, broker)"),
    (Code.ID_ROLE_MISSING, Family.REFUSED, "PERMISSION_DENIED", Exit.DENIED, "the identity lacks the role that this call needs", "ask the operator to grant the role with `tidegate member role`"),
    (Code.ID_JOIN_TOKEN, Family.CALLER, "UNAUTHENTICATED", Exit.UNAUTHENTICATED, "the join token is unknown, used or expired", "ask the operator for a new one with `tidegate member add`"),
    (Code.ID_RENEWAL, Family.CALLER, "UNAUTHENTICATED", Exit.UNAUTHENTICATED, "the certificate cannot be renewed", "join again with a new token"),
    (Code.ID_MEMBER_UNKNOWN, Family.CALLER, "NOT_FOUND", Exit.NOT_FOUND, "no such member or identity", "list them with `tidegate member list`"),
    (Code.ID_TLS_VERSION, Family.CALLER, "UNAUTHENTICATED", Exit.UNAUTHENTICATED, "the connection does not use TLS 1.3", "use a client that speaks TLS 1.3"),
    (Code.ID_BEARER, Family.CALLER, "UNAUTHENTICATED", Exit.UNAUTHENTICATED, "the bearer token is missing, unknown or has ended", "get one with `tidegate token`, where your certificate is, and send it as `authorization: Bearer TOKEN`"),
    (Code.PLAN_SYNTAX, Family.CALLER, "INVALID_ARGUMENT", Exit.USAGE, "the text is not one SQL query", "send exactly one SELECT statement"),
    (Code.PLAN_NOT_ALLOWED, Family.CALLER, "INVALID_ARGUMENT", Exit.USAGE, "the query uses something that the exchange does not allow", "see docs/guides/analyst.md for the SQL that is allowed"),
    (Code.PLAN_UNKNOWN_DATASET, Family.CALLER, "NOT_FOUND", Exit.NOT_FOUND, "no such dataset, or it may not be known to you", "search with `tidegate search`"),
    (Code.PLAN_UNKNOWN_COLUMN, Family.CALLER, "INVALID_ARGUMENT", Exit.USAGE, "no such column, or it may not be known to you", "see the columns with `tidegate dataset show`"),
    (Code.PLAN_TOO_LARGE, Family.CALLER, "INVALID_ARGUMENT", Exit.USAGE, "the query is larger or deeper than the limit", "split the query"),
    (Code.PLAN_PARAMETERS, Family.CALLER, "INVALID_ARGUMENT", Exit.USAGE, "the parameters do not fit the query", "give one value for each parameter"),
    (Code.PLAN_DEADLINE, Family.CALLER, "DEADLINE_EXCEEDED", Exit.UNAVAILABLE, "planning the query took longer than its limit", "simplify the query"),
    (Code.PLAN_AMBIGUOUS, Family.CALLER, "INVALID_ARGUMENT", Exit.USAGE, "a name in the query has more than one meaning", "qualify the column with its table alias"),
    (Code.PLAN_TYPE, Family.CALLER, "INVALID_ARGUMENT", Exit.USAGE, "the types in the query do not fit", "add a CAST, or compare values of one type"),
    (Code.POLICY_REFUSED, Family.REFUSED, "PERMISSION_DENIED", Exit.DENIED, "the policy refused the request", "the reasons say what to ask for and who decides it"),
    (Code.POLICY_UNAVAILABLE, Family.INTERNAL, "UNAVAILABLE", Exit.UNAVAILABLE, "no valid policy decision could be made, so the request is refused", "try again; tell the operator if it stays"),
    (Code.POLICY_STRUCTURE, Family.REFUSED, "PERMISSION_DENIED", Exit.DENIED, "the policy permits the data, but not in a query of this form", "change the query as the reason says"),
    (Code.POLICY_PURPOSE, Family.CALLER, "INVALID_ARGUMENT", Exit.USAGE, "a registered purpose is needed", "list purposes with `tidegate purposes list` and pass --purpose"),
    (Code.AUDIT_UNAVAILABLE, Family.INTERNAL, "UNAVAILABLE", Exit.UNAVAILABLE, "the request could not be recorded, so it is refused", "tell the operator: the audit log does not accept entries"),
    (Code.AUDIT_VERIFICATION, Family.INTEGRITY, "DATA_LOSS", Exit.VERIFICATION_FAILED, "a proof, a signature or a digest did not verify", "keep the files and tell the auditor"),
    (Code.AUDIT_NOT_FOUND, Family.CALLER, "NOT_FOUND", Exit.NOT_FOUND, "the log has no such entry", "check the index against the log's size"),
    (Code.FETCH_NODE_AWAY, Family.PEER, "UNAVAILABLE", Exit.UNAVAILABLE, "a department's node is not attached", "try again later, or ask that department"),
    (Code.FETCH_NODE_REFUSED, Family.REFUSED, "PERMISSION_DENIED", Exit.DENIED, "a department's own gate refused", "the reasons say what to ask for and who decides it"),
    (Code.FETCH_NODE_FAILED, Family.PEER, "UNAVAILABLE", Exit.UNAVAILABLE, "a department's node failed to answer", "try again; tell that department if it stays"),
    (Code.FETCH_LIMIT, Family.CALLER, "RESOURCE_EXHAUSTED", Exit.ERROR, "a department's part of the answer is larger than the limit", "filter or aggregate more"),
    (Code.FETCH_INVALID_DATA, Family.INTEGRITY, "DATA_LOSS", Exit.VERIFICATION_FAILED, "a department sent data that does not validate", "tell that department"),
    (Code.JOIN_FAILED, Family.CALLER, "INVALID_ARGUMENT", Exit.ERROR, "the query failed while it was computed", "check casts, arithmetic and date formats in the query"),
    (Code.JOIN_LIMIT, Family.CALLER, "RESOURCE_EXHAUSTED", Exit.ERROR, "the query needs more memory or rows than the limit", "filter or aggregate more"),
    (Code.QUERY_DEADLINE, Family.CALLER, "DEADLINE_EXCEEDED", Exit.UNAVAILABLE, "the query did not end before its deadline", "filter or aggregate more, or ask for a longer deadline"),
    (Code.QUERY_CANCELLED, Family.CALLER, "CANCELLED", Exit.ERROR, "the query was cancelled", "run it again"),
    (Code.BUSY, Family.OVERLOAD, "RESOURCE_EXHAUSTED", Exit.UNAVAILABLE, "too many requests at once", "try again after the time that the answer names"),
    (Code.NODE_GRANT, Family.REFUSED, "PERMISSION_DENIED", Exit.DENIED, "the grant is not genuine, not fresh or not for this node", "send the query again"),
    (Code.NODE_REPLAY, Family.REFUSED, "PERMISSION_DENIED", Exit.DENIED, "the grant was used before", "send the query again"),
    (Code.NODE_RECEIPT, Family.INTEGRITY, "DATA_LOSS", Exit.VERIFICATION_FAILED, "the receipt in the grant does not verify", "keep the files and tell the auditor"),
    (Code.NODE_FRAGMENT, Family.PEER, "INVALID_ARGUMENT", Exit.ERROR, "the fragment is not one that this node accepts", "tell the operator: broker and node disagree"),
    (Code.NODE_EXECUTE, Family.PEER, "ABORTED", Exit.ERROR, "the department's engine could not compute its part", "check casts, arithmetic and date formats in the query"),
    (Code.NODE_STALE, Family.PEER, "UNAVAILABLE", Exit.UNAVAILABLE, "the department's copy of its data is older than it promised", "try again later; tell that department if it stays"),
    (Code.NODE_SOURCE_AWAY, Family.PEER, "UNAVAILABLE", Exit.UNAVAILABLE, "the department's own database cannot be reached by its node", "try again; tell that department if it stays"),
    (Code.CAT_INVALID, Family.CALLER, "INVALID_ARGUMENT", Exit.USAGE, "the catalogue entry is not valid", "mend the fields that the message names"),
    (Code.CAT_NOT_FOUND, Family.CALLER, "NOT_FOUND", Exit.NOT_FOUND, "the catalogue has no such entry, or it may not be known to you", "search with `tidegate search`"),
    (Code.CAT_CONFLICT, Family.CALLER, "ALREADY_EXISTS", Exit.ERROR, "the catalogue holds another state than the request expects", "read the entry again and repeat the change"),
    (Code.CAT_AGREEMENT, Family.CALLER, "FAILED_PRECONDITION", Exit.NEEDS_APPROVAL, "the agreement is not valid", "have a steward of the owner sign it"),
    (Code.WIRE_INVALID, Family.CALLER, "INVALID_ARGUMENT", Exit.USAGE, "the message is not valid", "use a client of this version"),
    (Code.WIRE_VERSION, Family.CALLER, "FAILED_PRECONDITION", Exit.ERROR, "the two sides speak no common protocol version", "update the older side"),
    (Code.WIRE_UNSUPPORTED, Family.CALLER, "UNIMPLEMENTED", Exit.ERROR, "this broker does not offer what was asked for", "see the guide \"Connect your tool\" for what it offers"),
    (Code.FLIGHT_HANDLE, Family.CALLER, "NOT_FOUND", Exit.NOT_FOUND, "the ticket or prepared statement is not known: it was used, has expired, or is another caller's", "ask the query again"),
    (Code.FLIGHT_STALE, Family.CALLER, "FAILED_PRECONDITION", Exit.ERROR, "policy or catalogue changed since the ticket was given", "ask the query again"),
    (Code.FLIGHT_READ_ONLY, Family.REFUSED, "PERMISSION_DENIED", Exit.DENIED, "the exchange answers questions and changes nobody's data", "have the department change its own data"),
    (Code.FLIGHT_PURPOSE, Family.CALLER, "INVALID_ARGUMENT", Exit.USAGE, "the purpose is missing, or named twice with different values", "send one purpose as the header x-tidegate-purpose"),
    (Code.CONFIG_INVALID, Family.CALLER, "FAILED_PRECONDITION", Exit.USAGE, "the configuration is not valid", "mend every problem that the message lists"),
    (Code.CLIENT_UNREACHABLE, Family.PEER, "UNAVAILABLE", Exit.UNAVAILABLE, "the exchange cannot be reached", "check the address, the network and `tidegate doctor`"),
    (Code.CLIENT_NO_CONTEXT, Family.CALLER, "FAILED_PRECONDITION", Exit.USAGE, "no exchange is configured", "join one with `tidegate join TOKEN`"),
    (Code.CLIENT_INPUT, Family.CALLER, "INVALID_ARGUMENT", Exit.USAGE, "the input is not valid", "mend what the message names"),
    (Code.CLIENT_PROXY_SECRET, Family.CALLER, "UNAUTHENTICATED", Exit.UNAUTHENTICATED, "the secret of the proxy is missing or wrong", "give the secret that `tidegate proxy` printed, as the password or as `authorization: Bearer SECRET`"),
    (Code.INTERNAL, Family.INTERNAL, "INTERNAL", Exit.ERROR, "an internal error", "give the error id to the operator"),
)
# fmt: on

CODES: dict[Code, CodeInfo] = {row[0]: CodeInfo(*row) for row in _ROWS}

"""The one family of errors, branched by who must act, and the table of stable codes.

``TidegateError`` is the root; its six branches say who must act:

* ``CallerError``     the caller: the request is wrong and will stay wrong.
* ``Refused``         the caller or the owner: policy said no; the answer is final until the policy changes.
* ``Overloaded``      nobody yet: come back after ``retry_after_s``.
* ``PeerError``       another party (a department that is away, a broker that cannot be reached).
* ``IntegrityError``  an auditor: a proof, a signature or a digest did not hold. Keep the evidence.
* ``InternalError``   us.

Every error carries a ``Code``. A code's number is never reused. The public message holds no data value, no SQL text of
anybody's, no path; what an operator needs is in ``detail``, which goes to the structured log only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, IntEnum

__all__ = [
    "CODES",
    "CallerError",
    "Code",
    "CodeInfo",
    "Exit",
    "Family",
    "IntegrityError",
    "InternalError",
    "Overloaded",
    "PeerError",
    "Reason",
    "Refused",
    "TidegateError",
    "error_for",
]


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
    # wire, configuration, client
    WIRE_INVALID = "TG-WIRE-001"
    WIRE_VERSION = "TG-WIRE-002"
    CONFIG_INVALID = "TG-CONFIG-001"
    CLIENT_UNREACHABLE = "TG-CLIENT-001"
    CLIENT_NO_CONTEXT = "TG-CLIENT-002"
    CLIENT_INPUT = "TG-CLIENT-003"
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


def _table() -> dict[Code, CodeInfo]:
    caller, refused, overload = Family.CALLER, Family.REFUSED, Family.OVERLOAD
    peer, integrity, internal = Family.PEER, Family.INTEGRITY, Family.INTERNAL
    rows = (
        (
            Code.ID_NO_CERTIFICATE,
            caller,
            "UNAUTHENTICATED",
            Exit.UNAUTHENTICATED,
            "no client certificate was presented",
            "join the exchange with `tidegate join TOKEN`",
        ),
        (
            Code.ID_CERTIFICATE_INVALID,
            caller,
            "UNAUTHENTICATED",
            Exit.UNAUTHENTICATED,
            "the certificate is not one of this exchange",
            "ask the operator for a new join token",
        ),
        (
            Code.ID_CERTIFICATE_EXPIRED,
            caller,
            "UNAUTHENTICATED",
            Exit.UNAUTHENTICATED,
            "the certificate is outside its validity",
            "renew it with `tidegate renew`",
        ),
        (
            Code.ID_REVOKED,
            caller,
            "UNAUTHENTICATED",
            Exit.UNAUTHENTICATED,
            "the certificate or its member was revoked",
            "ask the operator why, then join again",
        ),
        (
            Code.ID_WRONG_KIND,
            caller,
            "PERMISSION_DENIED",
            Exit.DENIED,
            "this kind of identity may not use this service",
            "use the certificate of the right kind (service, person, node, broker)",
        ),
        (
            Code.ID_ROLE_MISSING,
            refused,
            "PERMISSION_DENIED",
            Exit.DENIED,
            "the identity lacks the role that this call needs",
            "ask the operator to grant the role with `tidegate member role`",
        ),
        (
            Code.ID_JOIN_TOKEN,
            caller,
            "UNAUTHENTICATED",
            Exit.UNAUTHENTICATED,
            "the join token is unknown, used or expired",
            "ask the operator for a new one with `tidegate member add`",
        ),
        (
            Code.ID_RENEWAL,
            caller,
            "UNAUTHENTICATED",
            Exit.UNAUTHENTICATED,
            "the certificate cannot be renewed",
            "join again with a new token",
        ),
        (
            Code.ID_MEMBER_UNKNOWN,
            caller,
            "NOT_FOUND",
            Exit.NOT_FOUND,
            "no such member or identity",
            "list them with `tidegate member list`",
        ),
        (
            Code.ID_TLS_VERSION,
            caller,
            "UNAUTHENTICATED",
            Exit.UNAUTHENTICATED,
            "the connection does not use TLS 1.3",
            "use a client that speaks TLS 1.3",
        ),
        (
            Code.PLAN_SYNTAX,
            caller,
            "INVALID_ARGUMENT",
            Exit.USAGE,
            "the text is not one SQL query",
            "send exactly one SELECT statement",
        ),
        (
            Code.PLAN_NOT_ALLOWED,
            caller,
            "INVALID_ARGUMENT",
            Exit.USAGE,
            "the query uses something that the exchange does not allow",
            "see docs/guides/analyst.md for the SQL that is allowed",
        ),
        (
            Code.PLAN_UNKNOWN_DATASET,
            caller,
            "NOT_FOUND",
            Exit.NOT_FOUND,
            "no such dataset, or it may not be known to you",
            "search with `tidegate search`",
        ),
        (
            Code.PLAN_UNKNOWN_COLUMN,
            caller,
            "INVALID_ARGUMENT",
            Exit.USAGE,
            "no such column, or it may not be known to you",
            "see the columns with `tidegate dataset show`",
        ),
        (
            Code.PLAN_TOO_LARGE,
            caller,
            "INVALID_ARGUMENT",
            Exit.USAGE,
            "the query is larger or deeper than the limit",
            "split the query",
        ),
        (
            Code.PLAN_PARAMETERS,
            caller,
            "INVALID_ARGUMENT",
            Exit.USAGE,
            "the parameters do not fit the query",
            "give one value for each parameter",
        ),
        (
            Code.PLAN_DEADLINE,
            caller,
            "DEADLINE_EXCEEDED",
            Exit.UNAVAILABLE,
            "planning the query took longer than its limit",
            "simplify the query",
        ),
        (
            Code.PLAN_AMBIGUOUS,
            caller,
            "INVALID_ARGUMENT",
            Exit.USAGE,
            "a name in the query has more than one meaning",
            "qualify the column with its table alias",
        ),
        (
            Code.PLAN_TYPE,
            caller,
            "INVALID_ARGUMENT",
            Exit.USAGE,
            "the types in the query do not fit",
            "add a CAST, or compare values of one type",
        ),
        (
            Code.POLICY_REFUSED,
            refused,
            "PERMISSION_DENIED",
            Exit.DENIED,
            "the policy refused the request",
            "the reasons say what to ask for and who decides it",
        ),
        (
            Code.POLICY_UNAVAILABLE,
            internal,
            "UNAVAILABLE",
            Exit.UNAVAILABLE,
            "no valid policy decision could be made, so the request is refused",
            "try again; tell the operator if it stays",
        ),
        (
            Code.POLICY_STRUCTURE,
            refused,
            "PERMISSION_DENIED",
            Exit.DENIED,
            "the policy permits the data, but not in a query of this form",
            "change the query as the reason says",
        ),
        (
            Code.POLICY_PURPOSE,
            caller,
            "INVALID_ARGUMENT",
            Exit.USAGE,
            "a registered purpose is needed",
            "list purposes with `tidegate purposes list` and pass --purpose",
        ),
        (
            Code.AUDIT_UNAVAILABLE,
            internal,
            "UNAVAILABLE",
            Exit.UNAVAILABLE,
            "the request could not be recorded, so it is refused",
            "tell the operator: the audit log does not accept entries",
        ),
        (
            Code.AUDIT_VERIFICATION,
            integrity,
            "DATA_LOSS",
            Exit.VERIFICATION_FAILED,
            "a proof, a signature or a digest did not verify",
            "keep the files and tell the auditor",
        ),
        (
            Code.AUDIT_NOT_FOUND,
            caller,
            "NOT_FOUND",
            Exit.NOT_FOUND,
            "the log has no such entry",
            "check the index against the log's size",
        ),
        (
            Code.FETCH_NODE_AWAY,
            peer,
            "UNAVAILABLE",
            Exit.UNAVAILABLE,
            "a department's node is not attached",
            "try again later, or ask that department",
        ),
        (
            Code.FETCH_NODE_REFUSED,
            refused,
            "PERMISSION_DENIED",
            Exit.DENIED,
            "a department's own gate refused",
            "the reasons say what to ask for and who decides it",
        ),
        (
            Code.FETCH_NODE_FAILED,
            peer,
            "UNAVAILABLE",
            Exit.UNAVAILABLE,
            "a department's node failed to answer",
            "try again; tell that department if it stays",
        ),
        (
            Code.FETCH_LIMIT,
            caller,
            "RESOURCE_EXHAUSTED",
            Exit.ERROR,
            "a department's part of the answer is larger than the limit",
            "filter or aggregate more",
        ),
        (
            Code.FETCH_INVALID_DATA,
            integrity,
            "DATA_LOSS",
            Exit.VERIFICATION_FAILED,
            "a department sent data that does not validate",
            "tell that department",
        ),
        (
            Code.JOIN_FAILED,
            caller,
            "INVALID_ARGUMENT",
            Exit.ERROR,
            "the query failed while it was computed",
            "check casts, arithmetic and date formats in the query",
        ),
        (
            Code.JOIN_LIMIT,
            caller,
            "RESOURCE_EXHAUSTED",
            Exit.ERROR,
            "the query needs more memory or rows than the limit",
            "filter or aggregate more",
        ),
        (
            Code.QUERY_DEADLINE,
            caller,
            "DEADLINE_EXCEEDED",
            Exit.UNAVAILABLE,
            "the query did not end before its deadline",
            "filter or aggregate more, or ask for a longer deadline",
        ),
        (Code.QUERY_CANCELLED, caller, "CANCELLED", Exit.ERROR, "the query was cancelled", "run it again"),
        (
            Code.BUSY,
            overload,
            "RESOURCE_EXHAUSTED",
            Exit.UNAVAILABLE,
            "too many requests at once",
            "try again after the time that the answer names",
        ),
        (
            Code.NODE_GRANT,
            refused,
            "PERMISSION_DENIED",
            Exit.DENIED,
            "the grant is not genuine, not fresh or not for this node",
            "send the query again",
        ),
        (
            Code.NODE_REPLAY,
            refused,
            "PERMISSION_DENIED",
            Exit.DENIED,
            "the grant was used before",
            "send the query again",
        ),
        (
            Code.NODE_RECEIPT,
            integrity,
            "DATA_LOSS",
            Exit.VERIFICATION_FAILED,
            "the receipt in the grant does not verify",
            "keep the files and tell the auditor",
        ),
        (
            Code.NODE_FRAGMENT,
            peer,
            "INVALID_ARGUMENT",
            Exit.ERROR,
            "the fragment is not one that this node accepts",
            "tell the operator: broker and node disagree",
        ),
        (
            Code.NODE_EXECUTE,
            peer,
            "ABORTED",
            Exit.ERROR,
            "the department's engine could not compute its part",
            "check casts, arithmetic and date formats in the query",
        ),
        (
            Code.NODE_STALE,
            peer,
            "UNAVAILABLE",
            Exit.UNAVAILABLE,
            "the department's copy of its data is older than it promised",
            "try again later; tell that department if it stays",
        ),
        (
            Code.NODE_SOURCE_AWAY,
            peer,
            "UNAVAILABLE",
            Exit.UNAVAILABLE,
            "the department's own database cannot be reached by its node",
            "try again; tell that department if it stays",
        ),
        (
            Code.CAT_INVALID,
            caller,
            "INVALID_ARGUMENT",
            Exit.USAGE,
            "the catalogue entry is not valid",
            "mend the fields that the message names",
        ),
        (
            Code.CAT_NOT_FOUND,
            caller,
            "NOT_FOUND",
            Exit.NOT_FOUND,
            "the catalogue has no such entry, or it may not be known to you",
            "search with `tidegate search`",
        ),
        (
            Code.CAT_CONFLICT,
            caller,
            "ALREADY_EXISTS",
            Exit.ERROR,
            "the catalogue holds another state than the request expects",
            "read the entry again and repeat the change",
        ),
        (
            Code.CAT_AGREEMENT,
            caller,
            "FAILED_PRECONDITION",
            Exit.NEEDS_APPROVAL,
            "the agreement is not valid",
            "have a steward of the owner sign it",
        ),
        (
            Code.WIRE_INVALID,
            caller,
            "INVALID_ARGUMENT",
            Exit.USAGE,
            "the message is not valid",
            "use a client of this version",
        ),
        (
            Code.WIRE_VERSION,
            caller,
            "FAILED_PRECONDITION",
            Exit.ERROR,
            "the two sides speak no common protocol version",
            "update the older side",
        ),
        (
            Code.CONFIG_INVALID,
            caller,
            "FAILED_PRECONDITION",
            Exit.USAGE,
            "the configuration is not valid",
            "mend every problem that the message lists",
        ),
        (
            Code.CLIENT_UNREACHABLE,
            peer,
            "UNAVAILABLE",
            Exit.UNAVAILABLE,
            "the exchange cannot be reached",
            "check the address, the network and `tidegate doctor`",
        ),
        (
            Code.CLIENT_NO_CONTEXT,
            caller,
            "FAILED_PRECONDITION",
            Exit.USAGE,
            "no exchange is configured",
            "join one with `tidegate join TOKEN`",
        ),
        (
            Code.CLIENT_INPUT,
            caller,
            "INVALID_ARGUMENT",
            Exit.USAGE,
            "the input is not valid",
            "mend what the message names",
        ),
        (Code.INTERNAL, internal, "INTERNAL", Exit.ERROR, "an internal error", "give the error id to the operator"),
    )
    return {row[0]: CodeInfo(*row) for row in rows}


CODES: dict[Code, CodeInfo] = _table()


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a policy said what it said: a machine code, a plain sentence, what to ask for, and who decides it."""

    code: str
    text: str
    ask_for: str = ""
    decided_by: str = ""

    def to_json(self) -> dict[str, str]:
        """Give the reason as a JSON object; empty fields are left out."""
        pairs = (("code", self.code), ("text", self.text), ("ask_for", self.ask_for), ("decided_by", self.decided_by))
        return {key: value for key, value in pairs if value}


@dataclass(eq=False)
class TidegateError(Exception):
    """Root of the family.

    Args:
        code: the stable code.
        message: public; no data value, no path, nobody's SQL.
        detail: private; for the structured log only.
        reasons: for refusals, why.
        request_id: empty until the request has one.
        retry_after_s: for ``Overloaded``; seconds.
    """

    code: Code
    message: str
    detail: str = ""
    reasons: tuple[Reason, ...] = ()
    request_id: str = ""
    retry_after_s: float = 0.0
    receipt: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        """Make ``str(error)`` the public message."""
        Exception.__init__(self, self.message)

    @property
    def info(self) -> CodeInfo:
        """What the code means to every door."""
        return CODES[self.code]

    def __str__(self) -> str:
        """Give the public form: code, message."""
        return f"{self.code.value}: {self.message}"

    def __reduce__(self) -> tuple[object, ...]:
        """Survive pickling between our own processes (the planning pool)."""
        state = (self.code, self.message, self.detail, self.reasons, self.request_id, self.retry_after_s, self.receipt)
        return (type(self), state)


class CallerError(TidegateError):
    """The request is wrong and will stay wrong."""


class Refused(TidegateError):
    """Policy said no."""


class Overloaded(TidegateError):
    """Come back after ``retry_after_s``."""


class PeerError(TidegateError):
    """Another party failed; the message names it."""


class IntegrityError(TidegateError):
    """A proof, a signature or a digest did not hold."""


class InternalError(TidegateError):
    """Our own fault; the public message carries an error id only."""


_BRANCH: dict[Family, type[TidegateError]] = {
    Family.CALLER: CallerError,
    Family.REFUSED: Refused,
    Family.OVERLOAD: Overloaded,
    Family.PEER: PeerError,
    Family.INTEGRITY: IntegrityError,
    Family.INTERNAL: InternalError,
}


def error_for(
    code: Code,
    message: str = "",
    *,
    detail: str = "",
    reasons: tuple[Reason, ...] = (),
    request_id: str = "",
    retry_after_s: float = 0.0,
) -> TidegateError:
    """Make the error of the branch that the code belongs to; an empty message becomes the code's title."""
    info = CODES[code]
    return _BRANCH[info.family](code, message or info.title, detail, reasons, request_id, retry_after_s)

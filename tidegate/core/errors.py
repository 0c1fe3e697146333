"""The one family of errors, branched by who must act. The codes and their table: ``tidegate.core.codes``.

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

from tidegate.core.codes import CODES, Code, CodeInfo, Exit, Family

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

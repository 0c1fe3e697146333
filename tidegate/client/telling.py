"""An error in plain lines, for every place where the client shows one to a person: terminal, notebook, log."""

from __future__ import annotations

from tidegate.core.errors import TidegateError
from tidegate.wire import plain_text

LINE_CHARS_MAX = 1_000


def error_lines(error: TidegateError) -> list[str]:
    """Say what, why, what to ask for, who decides, and what to do next: one line each, the first without indent."""
    return [plain_text(line, LINE_CHARS_MAX) for line in raw_error_lines(error)]


def raw_error_lines(error: TidegateError) -> list[str]:
    """Give the same lines as they came, for a terminal that shows in its own way what it will not print."""
    pairs = []
    for reason in error.reasons:
        pairs.append(("reason", f"{reason.code}: {reason.text}" if reason.text != error.message else reason.code))
        pairs.append(("ask for", reason.ask_for))
        pairs.append(("decided", f"by {reason.decided_by}" if reason.decided_by else ""))
    pairs.append(("request", error.request_id))
    pairs.append(("retry", f"after {error.retry_after_s:g} s" if error.retry_after_s else ""))
    pairs.append(("next", error.info.next_step))
    return [f"error {error.code.value}: {error.message}", *(f"  {name:8} {text}" for name, text in pairs if text)]

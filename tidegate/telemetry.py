"""Traces: what a request spent its time on, from its caller through the broker's rooms to the nodes, as one trace.

This module knows no OpenTelemetry: ``Trace`` and ``Tracing`` are the forms that trace nothing, and cost next to nothing. The
ones that do (``tidegate.otel``, ``tidegate.otel_export``) are imported where an endpoint is configured, or where the client's
own process traces already. What a span may say is a closed set of words: ids, codes, members, counts that the caller is told
too. Never SQL, a value, a person, or the text of an exception.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from urllib.parse import urlsplit

from tidegate.core.errors import Code, TidegateError, error_for

TRACEPARENT = "traceparent"
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}\Z")
_NO_IDS: Mapping[str, str] = MappingProxyType({})


class Trace:
    """One span, which was begun and will be ended once; this one is none. Thread-safe."""

    __slots__ = ()

    @property
    def traceparent(self) -> str:
        """What to pass on, so that others go on under this span; empty: nothing."""
        return ""

    @property
    def ids(self) -> Mapping[str, str]:
        """``trace_id`` and ``span_id``, for lines of the structured log."""
        return _NO_IDS

    def child(self, name: str, **facts: str | int) -> Trace:
        """Begin a span under this one."""
        return self

    def note(self, **facts: str | int) -> None:
        """Add facts. Names and values: only words of the closed set that the module speaks of."""

    def end(self, code: str = "", *, after_s: float = 0.0) -> None:
        """End the span; ending it twice is ending it once.

        Args:
            code: of the error that ended it; empty: none.
            after_s: seconds from its beginning to its end; 0: it ends now.
        """


NO_TRACE = Trace()


class Tracing:
    """Where a process's traces begin; this one traces nothing."""

    def begin(self, name: str, traceparent: str = "", **facts: str | int) -> Trace:
        """Begin the span of a call that came from outside.

        Args:
            traceparent: as ``read_traceparent`` gave it. Trust: a stranger's; it names a trace and decides nothing.
        """
        return NO_TRACE

    def close(self) -> None:
        """Send what is waiting, for a bounded time."""


NO_TRACING = Tracing()


@contextmanager
def spanning(trace: Trace, name: str, **facts: str | int) -> Iterator[Trace]:
    """Hold a span under another for as long as the body runs; an error of ours ends it with its code."""
    span = trace.child(name, **facts)
    if span is trace:
        yield span
        return
    code = Code.INTERNAL.value
    try:
        yield span
        code = ""
    except TidegateError as error:
        code = error.code.value
        raise
    except GeneratorExit:
        code = Code.QUERY_CANCELLED.value  # whoever read the answer went away
        raise
    finally:
        span.end(code)


def read_traceparent(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    """Find the ``traceparent`` in a call's metadata; empty when there is none, or none that counts.

    Only W3C's form of version 00 counts, and only one: with two that differ nobody can say which is meant. ``tracestate`` and
    ``baggage`` are never read: they would carry a stranger's bytes through the exchange. Source: W3C Trace Context, 3.2.
    """
    found = {value for name, value in metadata or () if name == TRACEPARENT}
    only = found.pop() if len(found) == 1 else ""
    return valid_traceparent(only) if isinstance(only, str) else ""


def valid_traceparent(text: str) -> str:
    """Give the text if it is a valid ``traceparent`` of version 00, else the empty text."""
    return text if _TRACEPARENT.match(text) else ""


@dataclass(frozen=True, slots=True)
class TelemetrySettings:
    """Where traces go, and how many.

    Args:
        endpoint: of an OTLP collector over gRPC: ``http://host:4317`` (plain, for a collector on this machine) or
            ``https://host:4317``; empty: nothing is traced.
        ca: certificates that the collector's must be under; none: the system's.
        ratio: of requests that are traced, 0 to 1. A caller who asks not to be traced is not; one who asks to be is with
            this probability, whatever trace id it chose.

    Raises:
        CallerError: CONFIG_INVALID.
    """

    endpoint: str = ""
    ca: Path | None = None
    ratio: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what the exporter would misread."""
        if problem := endpoint_problem(self.endpoint):
            raise error_for(Code.CONFIG_INVALID, f"telemetry.endpoint: {problem}")
        if not 0.0 <= self.ratio <= 1.0:
            raise error_for(Code.CONFIG_INVALID, "telemetry.ratio: expected a number from 0 to 1")


def endpoint_problem(endpoint: str) -> str:
    """Say what is wrong with the text of an endpoint; empty: nothing."""
    if not endpoint:
        return ""
    try:
        parts = urlsplit(endpoint)
        good = parts.scheme in ("http", "https") and bool(parts.hostname and parts.port)
    except ValueError:
        return "expected http://host:port or https://host:port"
    bare = good and not (parts.path.strip("/") or parts.query or parts.fragment or parts.username)
    return "" if bare else "expected http://host:port or https://host:port"


def open_tracing(service: str, instance: str, settings: TelemetrySettings, problem: Callable[[str], None]) -> Tracing:
    """Begin to trace a serving process.

    Args:
        service: the kind of process, as collectors show it; instance: which of them, a SPIFFE id of a broker or node.
        problem: told, not more than once a minute, that spans could not be sent.

    Raises:
        CallerError: CONFIG_INVALID: the extra is not installed, or ``ca`` cannot be read.
    """
    if not settings.endpoint:
        return NO_TRACING
    try:
        from tidegate.otel_export import export_to
    except ModuleNotFoundError as error:
        raise error_for(
            Code.CONFIG_INVALID, "telemetry.endpoint: traces need the extra; install tidegate-exchange[otel]"
        ) from error
    return export_to(service, instance, settings, problem)


def client_trace(name: str) -> Trace:
    """Begin the span of a call that this process makes: only where the process itself traces with OpenTelemetry."""
    if "opentelemetry.trace" not in sys.modules:
        return NO_TRACE
    from tidegate.otel import begin_client

    return begin_client(name)


def metadata_of(trace: Trace) -> tuple[tuple[str, str], ...] | None:
    """Give the metadata of a gRPC call that goes on under a span."""
    traceparent = trace.traceparent
    return ((TRACEPARENT, traceparent),) if traceparent else None

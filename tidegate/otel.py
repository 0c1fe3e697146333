"""Spans of OpenTelemetry's API: for a client whose process traces, and under ``tidegate.otel_export`` for the exchange."""

from __future__ import annotations

from collections.abc import Mapping

import opentelemetry.trace as api
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags, Tracer

from tidegate.telemetry import NO_TRACE, Trace, Tracing

TRACER = "tidegate"
FACT_CHARS_MAX = 200
_KINDS = {"server": SpanKind.SERVER, "client": SpanKind.CLIENT, "internal": SpanKind.INTERNAL}


class OtelTrace(Trace):
    """A span. What is not recorded has no children: it only passes its ids on."""

    __slots__ = ("_span", "_tracer")

    def __init__(self, tracer: Tracer, span: Span) -> None:
        self._tracer = tracer
        self._span = span

    @property
    def traceparent(self) -> str:
        """What to pass on."""
        context = self._span.get_span_context()
        if not context.is_valid:
            return ""
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags & TraceFlags.SAMPLED:02x}"

    @property
    def ids(self) -> Mapping[str, str]:
        """``trace_id`` and ``span_id``."""
        context = self._span.get_span_context()
        return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}

    def child(self, name: str, **facts: str | int) -> Trace:
        """Begin a span under this one."""
        if not self._span.is_recording():
            return self
        return _begin(self._tracer, self._span, name, "internal", facts)

    def note(self, **facts: str | int) -> None:
        """Add facts."""
        self._span.set_attributes(_attributes(facts))

    def end(self, code: str = "", *, after_s: float = 0.0) -> None:
        """End the span. Never with an exception's text: it may quote a row."""
        if not self._span.is_recording():
            return
        if code:
            self._span.set_attribute("tidegate.code", code)
            self._span.set_status(Status(StatusCode.ERROR))
        begun_ns = getattr(self._span, "start_time", None)
        self._span.end(begun_ns + round(after_s * 1e9) if after_s > 0 and begun_ns is not None else None)


class OtelTracing(Tracing):
    """Begins spans with one tracer."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def begin(self, name: str, traceparent: str = "", **facts: str | int) -> Trace:
        """Begin the span of a call that came from outside."""
        return _begin(self._tracer, _remote(traceparent), name, "server", facts)


def begin_client(name: str) -> Trace:
    """Begin a span of the process's own tracer, under whatever span is current there."""
    tracer = api.get_tracer(TRACER)
    span = _begin(tracer, api.get_current_span(), name, "client", {})
    return span if span.traceparent else NO_TRACE


def _begin(tracer: Tracer, parent: Span | None, name: str, kind: str, facts: Mapping[str, str | int]) -> OtelTrace:
    span = tracer.start_span(
        name,
        context=api.set_span_in_context(parent) if parent is not None else Context(),
        kind=_KINDS[kind],
        attributes=_attributes(facts),
        record_exception=False,
        set_status_on_exception=False,
    )
    return OtelTrace(tracer, span)


def _attributes(facts: Mapping[str, str | int]) -> dict[str, str | int]:
    return {
        f"tidegate.{name}": value[:FACT_CHARS_MAX] if isinstance(value, str) else value for name, value in facts.items()
    }


def _remote(traceparent: str) -> Span | None:
    if not traceparent:
        return None
    _, trace_id, span_id, flags = traceparent.split("-")
    sampled = TraceFlags(int(flags, 16) & TraceFlags.SAMPLED)
    return api.NonRecordingSpan(SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=sampled))

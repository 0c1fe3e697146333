"""Trace contexts from outside, sampling that nobody outside can steer, and a process that traces nothing and loads nothing."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from broker.analysis import Stopwatch
from tidegate.core.clock import SystemClock
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.otel import OtelTracing
from tidegate.otel_export import BoundedSampler
from tidegate.telemetry import (
    NO_TRACE,
    NO_TRACING,
    TelemetrySettings,
    Tracing,
    open_tracing,
    read_traceparent,
    spanning,
    valid_traceparent,
)

ROOT = Path(__file__).resolve().parents[2]
GOOD = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def tracing(ratio: float = 1.0) -> tuple[Tracing, InMemorySpanExporter]:
    provider = TracerProvider(sampler=BoundedSampler(ratio), shutdown_on_exit=False)
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return OtelTracing(provider.get_tracer("test")), exporter


def test_one_valid_traceparent_counts_and_two_that_differ_do_not() -> None:
    assert read_traceparent([("x", "y"), ("traceparent", GOOD)]) == GOOD
    assert read_traceparent([("traceparent", GOOD), ("traceparent", GOOD)]) == GOOD
    assert read_traceparent([("traceparent", GOOD), ("traceparent", GOOD[:-2] + "00")]) == ""
    assert read_traceparent([("traceparent", GOOD.encode())]) == ""
    assert read_traceparent(None) == ""


@pytest.mark.parametrize(
    "text",
    [
        "",
        GOOD.upper(),
        GOOD + "-more",
        GOOD + "\n",
        " " + GOOD,
        "01" + GOOD[2:],
        "ff" + GOOD[2:],
        GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0" * 32),
        GOOD.replace("00f067aa0ba902b7", "0" * 16),
        GOOD[:-1] + "g",
        GOOD.replace("-", "_"),
    ],
)
def test_what_is_not_of_the_form_is_nothing(text: str) -> None:
    assert valid_traceparent(text) == ""


@given(st.text(max_size=80))
def test_no_text_of_a_stranger_breaks_the_reader(text: str) -> None:
    assert valid_traceparent(text) in ("", text)
    begun, _ = tracing()
    begun.begin("call", valid_traceparent(text)).end()


def test_a_span_goes_on_under_the_callers_and_passes_its_own_id_on() -> None:
    begun, exporter = tracing()
    call = begun.begin("call", GOOD)
    with spanning(call, "room", member="alpha") as room:
        assert valid_traceparent(room.traceparent) == room.traceparent
        assert room.traceparent[3:35] == GOOD[3:35]
    call.end()
    inner, outer = exporter.get_finished_spans()
    assert f"{outer.parent.span_id:016x}" == "00f067aa0ba902b7"
    assert inner.parent.span_id == outer.context.span_id
    assert dict(inner.attributes or {}) == {"tidegate.member": "alpha"}


def test_an_error_ends_a_span_with_its_code_and_never_with_its_text() -> None:
    begun, exporter = tracing()
    call = begun.begin("call")
    with pytest.raises(TidegateError), spanning(call, "room"):
        raise error_for(Code.JOIN_FAILED, "public", detail="a row's value")
    with pytest.raises(ValueError, match="value"), spanning(call, "other"):
        raise ValueError("a row's value")
    call.end()
    told = [
        (dict(span.attributes or {}), span.events, span.status.description) for span in exporter.get_finished_spans()
    ]
    assert told[0] == ({"tidegate.code": Code.JOIN_FAILED.value}, (), None)
    assert told[1] == ({"tidegate.code": Code.INTERNAL.value}, (), None)


def test_who_asks_not_to_be_traced_is_not_and_passes_that_on() -> None:
    begun, exporter = tracing()
    call = begun.begin("call", GOOD[:-2] + "00")
    assert call.child("room") is call
    assert call.traceparent[:35] == GOOD[:35]
    assert call.traceparent.endswith("-00")
    call.end("TG-X")
    assert exporter.get_finished_spans() == ()


def test_a_chosen_trace_id_gains_nothing_on_the_ratio() -> None:
    one, other = BoundedSampler(0.25), BoundedSampler(0.25)
    low = range(1, 2_001)  # OpenTelemetry's own sampler takes every one of these: it compares the id itself
    chosen = [
        {number for number in low if one.should_sample(None, number, "x").decision.is_sampled()} for one in (one, other)
    ]
    assert all(350 < len(found) < 650 for found in chosen)
    assert chosen[0] != chosen[1]  # a key of its own in each process: nothing can be learnt for the next one
    assert not any(BoundedSampler(0.0).should_sample(None, number, "x").decision.is_sampled() for number in low)
    assert all(BoundedSampler(1.0).should_sample(None, number, "x").decision.is_sampled() for number in low)


def test_ending_twice_is_ending_once_and_an_end_can_be_said_afterwards() -> None:
    begun, exporter = tracing()
    call = begun.begin("call")
    part = call.child("fragment")
    part.end(after_s=0.5)
    part.end("TG-X")
    (span,) = exporter.get_finished_spans()
    assert span.end_time is not None
    assert span.start_time is not None
    assert span.end_time - span.start_time == 500_000_000
    assert dict(span.attributes or {}) == {}


@pytest.mark.parametrize(
    "endpoint", ["collector", "ftp://a:1", "http://a", "http://a:4317/v1", "https://u@a:1", "http://a:b"]
)
def test_an_endpoint_that_is_none_is_refused_at_start(endpoint: str) -> None:
    with pytest.raises(TidegateError) as caught:
        TelemetrySettings(endpoint)
    assert caught.value.code is Code.CONFIG_INVALID
    assert TelemetrySettings("https://collector:4317").endpoint


def test_without_an_endpoint_nothing_is_imported() -> None:
    assert open_tracing("a", "b", TelemetrySettings(), print) is NO_TRACING
    code = (
        "import sys, broker.app, node.app, tidegate.client.session\n"
        "from tidegate.telemetry import TelemetrySettings, client_trace, open_tracing\n"
        "open_tracing('a', 'b', TelemetrySettings(), print); client_trace('x')\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_is_off_traces_nothing() -> None:
    assert NO_TRACING.begin("call", GOOD) is NO_TRACE
    with spanning(NO_TRACE, "room") as span:
        assert span is NO_TRACE
    assert (NO_TRACE.traceparent, dict(NO_TRACE.ids)) == ("", {})


def test_a_room_that_is_left_elsewhere_is_timed_once() -> None:
    left: list[tuple[str, float]] = []
    watch = Stopwatch(SystemClock(), seen=lambda room, seconds: left.append((room, seconds)))
    leave = watch.enter("deliver")
    begun = time.monotonic()
    while time.monotonic() == begun:
        pass
    leave()
    leave()
    assert [room for room, _ in left] == ["deliver"]
    assert watch.rooms["deliver"] > 0
    Stopwatch().enter("deliver")()

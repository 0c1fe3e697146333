"""Send spans to an OTLP collector, in the background and bounded: a collector that is away costs spans, never a request.

Which requests are traced is this process's to say. A caller's flag can only say no: a "yes" counts with the configured
probability, by a hash of the trace id under a key that nobody else knows, so that chosen trace ids gain nothing.
"""

from __future__ import annotations

import ipaddress
import logging
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any
from urllib.parse import urlsplit

import grpc
import opentelemetry.trace as api
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult

import tidegate
from tidegate.core.errors import Code, error_for
from tidegate.otel import TRACER, OtelTracing
from tidegate.telemetry import TelemetrySettings

QUEUE_SPANS_MAX = 8_192  # about 1 KiB each; what is over is dropped
BATCH_SPANS_MAX = 512
DELAY_MS = 1_000
EXPORT_S_MAX = 5.0
CLOSE_S_MAX = 3.0
PROBLEM_PERIOD_S = 60.0
_LIMITS = SpanLimits(max_events=0, max_links=0, max_span_attributes=32, max_attribute_length=200)


class BoundedSampler(Sampler):
    """See the module.

    Args:
        ratio: the probability, 0 to 1.
    """

    def __init__(self, ratio: float, key: bytes | None = None) -> None:
        self._below = round(ratio * 2**64)
        self._key = key or secrets.token_bytes(16)

    def should_sample(
        self,
        parent_context: Any,
        trace_id: int,
        name: str,
        kind: Any = None,
        attributes: Any = None,
        links: Sequence[Any] | None = None,
        trace_state: Any = None,
    ) -> SamplingResult:
        """Decide for one span: as its own parent here, or anew where a trace enters this process."""
        parent = api.get_current_span(parent_context).get_span_context()
        if parent.is_valid and not (parent.is_remote and parent.trace_flags.sampled):
            chosen = parent.trace_flags.sampled
        else:
            digest = blake2b(trace_id.to_bytes(16, "big"), digest_size=8, key=self._key).digest()
            chosen = int.from_bytes(digest, "big") < self._below
        # Without the trace state: it is a stranger's bytes.
        return SamplingResult(Decision.RECORD_AND_SAMPLE if chosen else Decision.DROP, attributes=attributes)

    def get_description(self) -> str:
        """Name it."""
        return "BoundedSampler"


class _Problems(logging.Handler):
    """What the exporter logs, told in our own words and seldom: its texts name errors of a peer."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__(logging.ERROR)
        self._tell = tell
        self._told_s = float("-inf")

    def emit(self, record: logging.LogRecord) -> None:
        """Tell of it."""
        now_s = time.monotonic()
        if now_s - self._told_s >= PROBLEM_PERIOD_S:
            self._told_s = now_s
            self._tell("traces could not be sent to their collector")


class _Exporting(OtelTracing):
    def __init__(self, provider: TracerProvider, problems: logging.Handler) -> None:
        super().__init__(provider.get_tracer(TRACER, tidegate.__version__))
        self._provider = provider
        self._problems = problems

    def close(self) -> None:
        """Send what is waiting; a collector that is away must not hold up a stop."""
        closing = threading.Thread(target=self._provider.shutdown, name="telemetry-close", daemon=True)
        closing.start()
        closing.join(CLOSE_S_MAX)
        logging.getLogger("opentelemetry").removeHandler(self._problems)


def export_to(service: str, instance: str, settings: TelemetrySettings, problem: Callable[[str], None]) -> OtelTracing:
    """Begin to send; see ``tidegate.telemetry.open_tracing``."""
    problems = _Problems(problem)
    logger = logging.getLogger("opentelemetry")
    logger.addHandler(problems)
    logger.propagate = False  # the log of a serving process is JSON lines of our own
    resource = Resource(
        {"service.name": service, "service.instance.id": instance, "service.version": tidegate.__version__}
    )
    provider = TracerProvider(
        sampler=BoundedSampler(settings.ratio), resource=resource, shutdown_on_exit=False, span_limits=_LIMITS
    )
    provider.add_span_processor(
        BatchSpanProcessor(
            _exporter(settings),
            max_queue_size=QUEUE_SPANS_MAX,
            schedule_delay_millis=DELAY_MS,
            max_export_batch_size=BATCH_SPANS_MAX,
            export_timeout_millis=EXPORT_S_MAX * 1000,
        )
    )
    return _Exporting(provider, problems)


def _exporter(settings: TelemetrySettings) -> OTLPSpanExporter:
    parts = urlsplit(settings.endpoint)
    roots = None
    if settings.ca is not None:
        try:
            roots = settings.ca.read_bytes()
        except OSError as error:
            raise error_for(Code.CONFIG_INVALID, "telemetry.ca: cannot be read", detail=repr(error)) from error
    plain = parts.scheme == "http"
    options: Any = (("grpc.enable_http_proxy", 0),) if _is_loopback(parts.hostname or "") else None
    return OTLPSpanExporter(
        endpoint=settings.endpoint,
        insecure=plain,
        credentials=None if plain else grpc.ssl_channel_credentials(root_certificates=roots),
        timeout=EXPORT_S_MAX,
        channel_options=options,
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

"""What operators see of real processes: one trace from client to node, metrics, logs that join; never a row or a person."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from engine.admin import REQUEST_BYTES_MAX
from tests.federation.observed_world import (
    JOIN,
    MARKS,
    PERSON_MARK,
    PURPOSE,
    VALUE_MARK,
    Span,
    World,
    get,
    until,
    world,
)
from tidegate.channel import open_channel
from tidegate.client.session import Session, open_session
from tidegate.core.errors import Code, TidegateError

pytestmark = pytest.mark.xdist_group("federation-observability")
ROOT = Path(__file__).resolve().parents[2]
ROOMS = {"identify", "plan", "decide", "rewrite", "record", "fetch", "join", "deliver"}
BUSY_TRIES = 4
STEPS = {"admit", "decide", "restrict", "record", "execute", "stream"}
EXECUTE = "tidegate.v1.QueryService/Execute"

# A process of a user's own, which traces with OpenTelemetry: its span is the one that all others hang from.
TRACED = """
import json, sys
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

asked = json.load(sys.stdin)
provider = TracerProvider(resource=Resource({"service.name": "app"}))
exporter = OTLPSpanExporter(endpoint=asked["collector"], insecure=True, channel_options=(("grpc.enable_http_proxy", 0),))
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
with trace.get_tracer("app").start_as_current_span("work") as span:
    context = span.get_span_context()
    rows = ask(asked, f"00-{context.trace_id:032x}-{context.span_id:016x}-01")
provider.shutdown()
print(json.dumps({"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}", "rows": rows}))
"""
OWN_CLIENT = """
def ask(asked, traceparent):
    import tidegate

    with tidegate.connect(identity=asked["identity"], purpose=asked["purpose"]) as session:
        return session.query(asked["sql"]).to_arrow().num_rows
"""
ADBC = """
def ask(asked, traceparent):
    import adbc_driver_flightsql.dbapi as flightsql
    from adbc_driver_flightsql import DatabaseOptions

    header = DatabaseOptions.RPC_CALL_HEADER_PREFIX.value
    options = {
        DatabaseOptions.TLS_ROOT_CERTS.value: asked["root"],
        DatabaseOptions.MTLS_CERT_CHAIN.value: asked["chain"],
        DatabaseOptions.MTLS_PRIVATE_KEY.value: asked["key"],
        header + "x-tidegate-purpose": asked["purpose"],
        header + "traceparent": traceparent,
    }
    with flightsql.connect("grpc+tls://" + asked["address"], db_kwargs=options, autocommit=True) as connection:
        connection.adbc_connection.set_options(**{"adbc.telemetry.trace_parent": traceparent})
        with connection.cursor() as cursor:
            cursor.execute(asked["sql"])
            return cursor.fetch_arrow_table().num_rows
"""


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("observed")) as made:
        yield made


def person(observed: World) -> Session:
    return open_session(None, identity=str(observed.exchange.identity("city", PERSON_MARK)), purpose=PURPOSE)


def traced(observed: World, ask: str) -> dict[str, str]:
    """Ask in a process that traces; give its trace."""
    session = observed.exchange.session("city", PERSON_MARK)
    asked = {
        "collector": observed.client.endpoint,
        "identity": str(observed.exchange.identity("city", PERSON_MARK)),
        "address": session.identity.exchange.callers,
        "root": session.identity.root_pem.decode(),
        "chain": session.identity.presented_pem.decode(),
        "key": session.identity.key_pem.decode(),
        "purpose": PURPOSE,
        "sql": JOIN,
    }
    loopback = dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost")
    # What the ADBC driver's own tracing listens to.
    exporter = {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": observed.client.endpoint}
    environment = {**os.environ, **loopback, **exporter, "PYTHONPATH": str(ROOT)}
    for _ in range(BUSY_TRIES):
        done = subprocess.run(
            [sys.executable, "-c", ask + TRACED],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env=environment,
        )
        if Code.PLAN_DEADLINE.value not in done.stderr:  # the first plan, on a machine that others use too
            break
    assert done.returncode == 0, done.stderr[-3000:]
    said: dict[str, str] = json.loads(done.stdout)
    assert said["rows"] == 50
    return said


def rooted(spans: list[Span], top: str) -> None:
    """Every span leads up to the one that the trace began with."""
    parents = {span.span_id: span.parent_id for span in spans}
    for span in spans:
        place = span.span_id
        for _ in range(20):
            if place == top:
                break
            place = parents[place]
        assert place == top, span


def test_a_query_of_our_client_is_one_trace_from_client_to_nodes(observed: World) -> None:
    said = traced(observed, OWN_CLIENT)
    client = observed.client.spans(said["trace_id"], {"work", "tidegate.query"})
    broker = observed.broker.spans(said["trace_id"], {*ROOMS, "fragment", EXECUTE})
    nodes = observed.nodes.spans(said["trace_id"], {*STEPS, "tidegate.node/fragment"}, each=2)
    rooted([*client, *broker, *nodes], said["span_id"])
    query = next(span for span in client if span.name == "tidegate.query")
    call = next(span for span in broker if span.name == EXECUTE)
    assert (query.parent_id, call.parent_id) == (said["span_id"], query.span_id)
    assert {span.parent_id for span in broker if span.name in ROOMS} == {call.span_id}
    fragments = {span.span_id: span.facts["tidegate.member"] for span in broker if span.name == "fragment"}
    at_nodes = [span.parent_id for span in nodes if span.name == "tidegate.node/fragment"]
    assert sorted(fragments[parent] for parent in at_nodes) == ["alpha", "beta"]
    assert {span.service for span in [*broker, *nodes]} == {"tidegate-broker", "tidegate-node"}
    assert call.facts["tidegate.door"] == "grpc"
    assert call.facts["tidegate.member"] == "city"


def test_a_query_of_adbc_is_one_trace_from_client_to_nodes(observed: World) -> None:
    said = traced(observed, ADBC)
    client = observed.client.spans(said["trace_id"], {"work", "FlightSQL.Statement.Prepare"})
    get_data = "arrow.flight.protocol.FlightService/DoGet"
    broker = observed.broker.spans(said["trace_id"], {*ROOMS, "fragment", get_data})
    nodes = observed.nodes.spans(said["trace_id"], {*STEPS, "tidegate.node/fragment"}, each=2)
    rooted([*client, *broker, *nodes], said["span_id"])
    call = next(span for span in broker if span.name == get_data and "tidegate.request_id" in span.facts)
    assert {span.name for span in broker if span.parent_id == call.span_id} >= {*ROOMS, "fragment"}


def test_what_a_stranger_sends_as_trace_context_is_taken_only_if_it_is_one(observed: World) -> None:
    transport = observed.exchange.session("city", "app").transport
    good = f"00-{os.urandom(16).hex()}-{os.urandom(8).hex()}-01"
    unsampled = f"00-{os.urandom(16).hex()}-{os.urandom(8).hex()}-00"
    bad = [VALUE_MARK, "00-" + "0" * 32 + "-" + "1" * 16 + "-01", good.upper(), "ff" + good[2:], good + "-more"]
    call = transport._channel.unary_unary("/tidegate.v1.MemberService/WhoAmI")
    before = len(observed.broker.all)
    for text in bad:
        call(b"", metadata=[("traceparent", text), ("tracestate", f"x={VALUE_MARK}"), ("baggage", f"y={VALUE_MARK}")])
    call(b"", metadata=[("traceparent", unsampled)])
    call(b"", metadata=[("traceparent", good), ("tracestate", f"x={VALUE_MARK}")])
    name = "tidegate.v1.MemberService/WhoAmI"
    (taken,) = (span for span in observed.broker.spans(good[3:35], {name}) if span.name == name)
    assert taken.parent_id == good[36:52]
    new = [span for span in observed.broker.all[before:] if span.name == name]
    assert len(new) == len(bad) + 1, new  # a trace of its own for each that was not one, none for who asked for none
    assert sum(span.parent_id == "" for span in new) == len(bad)
    assert not any(VALUE_MARK.encode() in raw for raw in observed.broker.raw)


def families(page: str) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Read a page as Prometheus does: samples by name and labels."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def value(page: str, name: str, **labels: str) -> float:
    return families(page).get(name, {}).get(tuple(sorted(labels.items())), 0.0)


def test_the_pages_of_broker_and_node_count_what_happened(observed: World) -> None:
    session = observed.exchange.session("city", "app")
    before, node_before = observed.page("broker"), observed.page("alpha")
    for _ in range(3):
        assert session.query(JOIN, purpose=PURPOSE).to_arrow().num_rows == 50
    with pytest.raises(TidegateError):
        session.query("SELECT 1 FROM alpha.nothing", purpose=PURPOSE)
    until(
        lambda: (
            value(observed.page("broker"), "tidegate_broker_calls_total", method=EXECUTE, outcome="ok")
            >= value(before, "tidegate_broker_calls_total", method=EXECUTE, outcome="ok") + 3
        )
    )
    page, node = observed.page("broker"), observed.page("alpha")

    def grown(name: str, **labels: str) -> float:
        return value(page, name, **labels) - value(before, name, **labels)

    assert grown("tidegate_broker_requests_total", door="grpc", outcome="ok") == 3
    assert grown("tidegate_broker_requests_total", door="grpc", outcome="caller") == 1
    assert grown("tidegate_broker_errors_total", code=Code.PLAN_UNKNOWN_DATASET.value) == 1
    assert grown("tidegate_broker_rows_total", door="grpc") == 150
    assert grown("tidegate_broker_bytes_total", door="grpc") > 0
    assert grown("tidegate_broker_request_seconds_count", door="grpc") == 4
    for room in ROOMS - {"identify", "plan"}:
        assert grown("tidegate_broker_room_seconds_count", room=room) == 3, room
    assert grown("tidegate_broker_room_seconds_count", room="plan") == 4
    assert grown("tidegate_audit_append_seconds_count", type="decision") == 3
    assert grown("tidegate_audit_append_seconds_count", type="refusal") == 1
    assert grown("tidegate_audit_entries") >= 7
    assert grown("tidegate_broker_cache_total", cache="plans", result="hit") >= 2
    assert value(page, "tidegate_broker_attachments", member="alpha") == 1
    assert value(page, "tidegate_broker_calls_open") >= 2
    assert value(page, "tidegate_broker_requests_max") == 48
    assert 0 < value(page, "tidegate_broker_certificate_expiry_seconds") < 2 * 86_400
    assert 0 < value(page, "tidegate_broker_node_certificate_expiry_seconds", member="beta") < 2 * 86_400
    assert value(node, "tidegate_node_fragments_total", outcome="ok") == (
        value(node_before, "tidegate_node_fragments_total", outcome="ok") + 3
    )
    assert value(node, "tidegate_node_rows_total") - value(node_before, "tidegate_node_rows_total") == 150
    assert 0 < value(node, "tidegate_node_certificate_expiry_seconds") < 2 * 86_400
    assert value(node, "tidegate_node_links_attached") == 1
    assert {dict(labels)["step"] for labels in families(node)["tidegate_node_step_seconds_count"]} == STEPS


def test_neither_spans_nor_metrics_nor_logs_hold_a_row_sql_or_a_person(observed: World) -> None:
    with person(observed) as session:
        assert session.query(JOIN).to_arrow().num_rows == 50
        assert session.query("SELECT count(*) AS n FROM alpha.people WHERE name = $1", params=[VALUE_MARK]).to_arrow()
        asked = [
            "SELECT CAST(name AS INTEGER) AS n FROM alpha.people",  # the engine's own text quotes a row
            f"SELECT {VALUE_MARK} FROM alpha.people",
            f"SELECT id FROM alpha.{VALUE_MARK}",
            f"SELEKT '{VALUE_MARK}'",
            f"SELECT read_text('{VALUE_MARK}') AS x",
            f"SELECT id FROM alpha.people WHERE id = CAST('{VALUE_MARK}' AS INTEGER)",
        ]
        for sql in asked:
            with pytest.raises(TidegateError):
                session.query(sql).to_arrow()
        with pytest.raises(TidegateError):
            session.query("SELECT id FROM alpha.people", purpose=VALUE_MARK).to_arrow()
        session.explain(JOIN, analyze=True)
    said = traced(observed, OWN_CLIENT)
    observed.broker.spans(said["trace_id"], {EXECUTE})
    observed.nodes.spans(said["trace_id"], {"tidegate.node/fragment"})
    shown = {
        "broker's page": observed.page("broker"),
        "node's page": observed.page("alpha"),
        "logs": observed.logs(),
        "broker's spans": "\n".join(raw.decode("latin-1") for raw in observed.broker.raw),
        "nodes' spans": "\n".join(raw.decode("latin-1") for raw in observed.nodes.raw),
        "client's spans": "\n".join(raw.decode("latin-1") for raw in observed.client.raw),
    }
    held = {(where, mark) for where, text in shown.items() for mark in MARKS if mark in text}
    assert not held, held


def test_lines_of_the_log_name_the_trace_and_the_request(observed: World) -> None:
    said = traced(observed, OWN_CLIENT)

    def lines() -> list[dict[str, object]]:
        texts = observed.exchange.running["alpha-node1"].log.read_text().splitlines()
        return [found for text in texts if text.startswith("{") and (found := json.loads(text)).get("trace_id")]

    until(lambda: any(line["trace_id"] == said["trace_id"] for line in lines()))
    line = next(line for line in lines() if line["trace_id"] == said["trace_id"])
    call = next(s for s in observed.broker.spans(said["trace_id"], {EXECUTE}) if s.name == EXECUTE)
    assert line["event"] == "fragment answered"
    assert line["request"] == call.facts["tidegate.request_id"]
    nodes = observed.nodes.spans(said["trace_id"], {"tidegate.node/fragment"})
    assert line["span_id"] in {span.span_id for span in nodes}


def test_the_admin_port_answers_what_it_offers_and_nothing_else(observed: World) -> None:
    port = observed.admin["broker"]
    assert get(port, "/healthz") == (200, "ok\n")
    assert get(port, "/readyz") == (200, "ready\n")
    assert get(observed.admin["alpha"], "/readyz") == (200, "ready\n")
    assert get(port, "/debug")[0] == 404
    assert get(port, "/metrics", method="POST")[0] == 405
    assert _raw(port, b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400")
    too_long = b"GET /" + b"x" * (REQUEST_BYTES_MAX - 4)  # by one byte, so that nothing of it is left unread
    assert _raw(port, too_long).startswith(b"HTTP/1.1 400")
    silent = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(12)]
    try:
        ended = silent[-1].recv(10)  # over the limit: ended at once, not kept waiting
        assert ended == b""
        until(lambda: _answers(port))  # and whoever says nothing is let go of after its seconds
    finally:
        for item in silent:
            item.close()


def _raw(port: int, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
        raw.sendall(data)
        return raw.recv(100)


def _answers(port: int) -> bool:
    try:
        return get(port, "/healthz")[0] == 200
    except OSError:
        return False


LARGE = (
    "SELECT a.id FROM alpha.people AS a, alpha.people AS b, alpha.people AS c, alpha.people AS d"  # 6.25 million rows
)


def test_a_broker_that_drains_says_so_of_each_service_and_a_collector_that_is_away_costs_no_request(
    tmp_path: Path,
) -> None:
    with world(tmp_path) as alone:
        session = alone.exchange.session("city", "app")
        alone.broker.close()
        alone.nodes.close()
        for _ in range(3):
            assert session.query(JOIN, purpose=PURPOSE).to_arrow().num_rows == 50
        reader = person(alone)
        large = reader.query(LARGE)  # started, and not read: it holds the drain up
        channel = open_channel(session.identity.exchange.callers, session.identity)
        assert health(channel, "tidegate.v1.QueryService") == "SERVING"
        alone.exchange.running["broker"].process.terminate()
        until(lambda: health(channel, "") == "NOT_SERVING")
        for name in ("tidegate.v1.QueryService", "arrow.flight.protocol.FlightService"):
            assert health(channel, name) == "NOT_SERVING"
        assert get(alone.admin["broker"], "/readyz")[0] == 503
        assert get(alone.admin["broker"], "/healthz")[0] == 200
        with pytest.raises(TidegateError) as caught:
            session.query(JOIN, purpose=PURPOSE).to_arrow()
        assert caught.value.code is Code.BUSY
        channel.close()
        assert large.request_id
        reader.close()
        assert alone.exchange.stop("broker") == 0
        until(lambda: get(alone.admin["alpha"], "/readyz")[0] == 503)  # no broker, no work
        assert get(alone.admin["alpha"], "/healthz")[0] == 200
        assert "traces could not be sent" in alone.logs()
        assert "Traceback" not in alone.logs()


def health(channel: grpc.Channel, service: str) -> str:
    asked = health_pb2.HealthCheckRequest(service=service)
    answer = health_pb2_grpc.HealthStub(channel).Check(asked, timeout=10)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))

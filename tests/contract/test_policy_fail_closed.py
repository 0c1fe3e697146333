"""Whatever is wrong with the engine or its answer: POLICY_UNAVAILABLE, never an allow, and in time."""

from __future__ import annotations

import copy
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from policies.bundle import load
from policies.engines import EmbeddedEngine, EngineError, OpaEngine
from policies.point import DecisionPoint
from tests.unit.policies.cases import ORIGIN, FixedClock, agreement, question, resource
from tidegate.core.errors import Code, TidegateError

REVISION = "sha256:test"


class AnsweringEngine:
    """An engine that gives a prepared answer, or raises a prepared error."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer
        self.revision = REVISION

    def ask(self, question: Mapping[str, Any]) -> Any:
        if isinstance(self._answer, BaseException):
            raise self._answer
        return self._answer


def good_answer() -> dict[str, Any]:
    constraints = {
        "mode": "rows",
        "min_group_size": 1,
        "count_entity": "tailnum",
        "allowed_aggregates": ["count"],
        "max_rows": 10,
        "key_lookup_only": False,
        "keys_max": 0,
        "keys_may_go_to": [],
    }
    columns = {name: {"access": "plain"} for name in ("dep_delay", "origin", "tailnum")}
    return {
        "revision": REVISION,
        "decision": {
            "version": 1,
            "allow": True,
            "reasons": [{"code": "agreement", "text": "an agreement covers it"}],
            "resources": {"r0": {"allow": True, "row_filter": {}, "columns": columns, "constraints": constraints}},
            "obligations": {"expires_at": None, "cache_until": None, "watermark": False, "notify_owner": False},
        },
    }


def refuses(answer: Any, asked: dict[str, Any] | None = None) -> str:
    with pytest.raises(TidegateError) as caught:
        DecisionPoint(AnsweringEngine(answer), FixedClock()).decide(asked or question())
    assert caught.value.code is Code.POLICY_UNAVAILABLE
    assert caught.value.message == caught.value.info.title, "the public message says nothing of the engine"
    assert caught.value.detail
    return caught.value.detail


def test_the_good_answer_is_accepted() -> None:
    assert DecisionPoint(AnsweringEngine(good_answer()), FixedClock()).decide(question()).allow


@pytest.mark.parametrize(
    "error",
    [EngineError("away"), TimeoutError(), OSError("down"), RuntimeError("x"), RecursionError(), MemoryError()],
    ids=repr,
)
def test_engine_that_raises_is_refused(error: Exception) -> None:
    refuses(error)


@pytest.mark.parametrize(
    "answer",
    [None, {}, [], "", "allow", True, 1, {"decision": {}}, {"revision": REVISION}, {"result": True}, [good_answer()]],
    ids=repr,
)
def test_answer_of_another_form_is_refused(answer: Any) -> None:
    refuses(answer)


def _paths(document: Any, prefix: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(document, dict):
        for key, value in document.items():
            yield (*prefix, key)
            yield from _paths(value, (*prefix, key))
    elif isinstance(document, list):
        for index, value in enumerate(document):
            yield from _paths(value, (*prefix, index))


def _walk(document: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        document = document[key]
    return document


ALL_PATHS = list(_paths(good_answer()))
OBJECT_PATHS = [(), *(path for path in ALL_PATHS if isinstance(_walk(good_answer(), path), dict))]
OPTIONAL = {("decision", "resources", "r0", "columns", name) for name in ("dep_delay", "origin", "tailnum")}


@pytest.mark.parametrize(
    "path", [path for path in ALL_PATHS if path not in OPTIONAL], ids=lambda path: "/".join(map(str, path))
)
def test_missing_key_is_refused(path: tuple[Any, ...]) -> None:
    answer = good_answer()
    del _walk(answer, path[:-1])[path[-1]]
    refuses(answer)


@pytest.mark.parametrize("path", sorted(OPTIONAL))
def test_column_that_the_answer_does_not_name_is_denied(path: tuple[str, ...]) -> None:
    answer = good_answer()
    del _walk(answer, path[:-1])[path[-1]]
    decision = DecisionPoint(AnsweringEngine(answer), FixedClock()).decide(question())
    assert decision.resources["r0"].rule(path[-1]).access == "deny"


@pytest.mark.parametrize("path", OBJECT_PATHS, ids=lambda path: "/".join(map(str, path)))
def test_unknown_key_is_refused(path: tuple[Any, ...]) -> None:
    answer = good_answer()
    _walk(answer, path)["surprise"] = True
    refuses(answer)


PROPER = {
    "code": (str,),
    "text": (str,),
    "allowed_aggregates": (list,),
    "keys_may_go_to": (list,),
    "expires_at": (type(None),),
    "cache_until": (type(None),),
}
WRONG = [
    (path, value)
    for path in ALL_PATHS
    for value in (None, [], "x", -1, 1.5, {"a": 1})
    if type(value) not in PROPER.get(path[-1], ()) and not (path[-2:] == ("allowed_aggregates", 0) and value == "x")
]


@pytest.mark.parametrize(
    ("path", "value"), WRONG, ids=lambda part: "/".join(map(str, part)) if isinstance(part, tuple) else repr(part)
)
def test_value_of_another_type_is_refused(path: tuple[Any, ...], value: Any) -> None:
    answer = good_answer()
    assert _walk(answer, path) != value
    _walk(answer, path[:-1])[path[-1]] = value
    refuses(answer)


def _with(path: str, value: Any) -> dict[str, Any]:
    answer = good_answer()
    *parents, last = path.split(".")
    _walk(answer["decision"], tuple(parents))[last] = value
    return answer


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("resources.r0.columns.origin", {"access": "masked", "mask": {"kind": "rot13"}}),
        ("resources.r0.columns.origin", {"access": "masked", "mask": {"kind": "bucket"}}),
        ("resources.r0.columns.origin", {"access": "masked", "mask": {"kind": "bucket", "width": 0}}),
        ("resources.r0.columns.origin", {"access": "masked", "mask": {"kind": "last_n", "n": 17}}),
        ("resources.r0.columns.origin", {"access": "masked", "mask": {"kind": "redact", "why": 1}}),
        ("resources.r0.columns.origin", {"access": "masked", "mask": {"kind": "hash", "key": "broker"}}),
        ("resources.r0.columns.origin", {"access": "masked", "mask": {"kind": "truncate_date", "unit": "second"}}),
        ("resources.r0.columns.origin", {"access": "masked", "mask": None}),
        ("resources.r0.columns.origin", {"access": "masked"}),
        ("resources.r0.columns.origin", {"access": "plain", "mask": {"kind": "redact"}}),
        ("resources.r0.columns.origin", {"access": "show"}),
        ("resources.r0.columns.origin", {"access": "plain", "in_predicate": "allow"}),
        ("resources.r0.columns.salary", {"access": "plain"}),
        ("resources.r0.constraints.mode", "everything"),
        ("resources.r0.constraints.mode", "closed"),
        ("resources.r0.constraints.min_group_size", 0),
        ("resources.r0.constraints.count_entity", "person"),
        ("resources.r0.allow", False),
        ("reasons", []),
        ("obligations.expires_at", "2026-11-21T10:00:00.000000Z"),
        ("obligations.expires_at", "tomorrow"),
        ("version", 2),
        ("version", True),
        ("resources", {}),
    ],
    ids=str,
)
def test_word_or_combination_that_is_not_known_is_refused(path: str, value: Any) -> None:
    refuses(_with(path, value))


@pytest.mark.parametrize(
    "row_filter",
    [
        None,
        {"type": "all"},
        {"type": "field", "field": "secret", "operator": "eq", "value": 1},
        {"type": "field", "field": "origin", "operator": "eq", "value": 7},
        {"type": "field", "field": "dep_delay", "operator": "eq", "value": "7"},
        {"type": "field", "field": "dep_delay", "operator": "eq", "value": 1.5},
        {"type": "field", "field": "dep_delay", "operator": "eq", "value": True},
        {"type": "field", "field": "day", "operator": "lt", "value": "soon"},
        {"type": "field", "field": "origin", "operator": "like", "value": "%"},
        {"type": "field", "field": "origin", "operator": "in", "value": "JFK"},
        {"type": "field", "field": "origin", "operator": "eq"},
        {"type": "field", "field": "origin", "operator": "eq", "value": "x", "sql": "1=1"},
        {"type": "compound", "operator": "and", "value": []},
        {"type": "compound", "operator": "xor", "value": [ORIGIN]},
        {"type": "compound", "operator": "not", "value": [ORIGIN, ORIGIN]},
        {"type": "compound", "operator": "or", "value": [ORIGIN, {}]},
        "origin = 'JFK'",
    ],
    ids=str,
)
def test_filter_that_cannot_be_applied_is_refused(row_filter: Any) -> None:
    refuses(_with("resources.r0.row_filter", row_filter))


def test_filter_that_nests_without_end_is_refused() -> None:
    tree: dict[str, Any] = ORIGIN
    for _ in range(3000):
        tree = {"type": "compound", "operator": "not", "value": [tree]}
    refuses(_with("resources.r0.row_filter", tree))


def test_answer_about_another_dataset_is_refused() -> None:
    answer = good_answer()
    answer["decision"]["resources"]["r1"] = answer["decision"]["resources"].pop("r0")
    assert "other instances" in refuses(answer)


def test_answer_about_one_dataset_more_is_refused() -> None:
    answer = good_answer()
    answer["decision"]["resources"]["r1"] = copy.deepcopy(answer["decision"]["resources"]["r0"])
    assert "other instances" in refuses(answer)


def test_answer_about_one_dataset_less_is_refused() -> None:
    assert "other instances" in refuses(good_answer(), question(resources=[resource(), resource("r1")]))


@pytest.mark.parametrize("revision", ["sha256:older", "", None, 1])
def test_stale_revision_is_refused(revision: Any) -> None:
    assert "revision" in refuses({**good_answer(), "revision": revision})


@pytest.mark.parametrize(
    ("asked", "what"),
    [
        (question(agreements=[]), "agreement"),
        (question(agreements=[agreement(grantee="police")]), "agreement"),
        (question(agreements=[agreement(purposes=["epidemic.control"])]), "agreement"),
        (question(agreements=[agreement(expires_at="2026-11-21T10:00:00.000000Z")]), "agreement"),
        (question(agreements=[agreement(columns=["origin"])]), "agreement"),
        (question(agreements=[agreement(mode="aggregate")]), "agreement"),
        (question(agreements=[agreement(min_group_size=5)]), "agreement"),
        (question(agreements=[agreement(row_filter=ORIGIN)]), "agreement"),
        (question(caller={"clearance": "public"}), "clearance"),
        (question(resources=[resource(masks={"origin": {"kind": "redact"}})]), "mask"),
        (question(resources=[resource(predicate_deny=["origin"])]), "predicate"),
        (question(resources=[resource(**{"class": "closed", "citation": "an act"})]), "closed"),
        (question(caller={"kind": "broker"}), "identity"),
        (question(registered=False), "purpose"),
        (question(caller={"bound": "bearer"}), "bearer"),
    ],
)
def test_answer_looser_than_the_question_justifies_is_refused(asked: dict[str, Any], what: str) -> None:
    assert what in refuses(good_answer(), asked)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"resources": None},
        {"extra": 1},
        {"request": {"time": "now"}},
        {"resources": [resource(), resource()]},
        {"resources": [resource(bearer_ok="true")]},
        {"caller": {"bound": "cookie"}},
        {"caller": {"bound": None}},
    ],
    ids=str,
)
def test_question_that_is_not_valid_is_refused(change: dict[str, Any]) -> None:
    refuses(good_answer(), question(**change))


# --- overlays that say nothing -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        "unrelated := 1",
        "restrictions := []",
        "restrictions := {}",
        "restrictions := null",
        'restrictions := {"r1": {}}',
        'restrictions := {"r0": null}',
        'restrictions := {"r0": {"filter": {}}}',
        'restrictions := {"r0": {"filters": {}}}',
        'restrictions := {"r0": {"filters": ["origin"]}}',
        'restrictions := {"r0": {"filters": [null]}}',
        'restrictions := {"r0": {"deny": "origin"}}',
        'restrictions := {"r0": {"deny": [1]}}',
        'restrictions := {"r0": {"masks": ["origin"]}}',
        'restrictions := {"r0": {"masks": {"origin": "redact"}}}',
        'restrictions := {"r0": {"masks": {"origin": {"kind": "rot13"}}}}',
        'restrictions := {"r0": {"mode": "open"}}',
        'restrictions := {"r0": {"min_group_size": "20"}}',
        'restrictions := {"r0": {"min_group_size": 0}}',
        'restrictions := {"r0": {"max_rows": -1}}',
        'restrictions := {"r0": {"max_rows": 1.5}}',
        'restrictions := {"r0": {"refuse": ["no"]}}',
        'restrictions := {"r0": {"filters": [{"type": "field", "field": "nowhere", "operator": "eq", "value": 1}]}}',
        'restrictions := {"r0": {}} if input.nothing',
        'restrictions := {"r0": {"max_rows": to_number("x")}}',
    ],
)
def test_overlay_that_is_not_well_formed_refuses(tmp_path: Path, body: str) -> None:
    with pytest.raises(TidegateError) as caught:
        _overlay_point(tmp_path, body).decide(question())
    assert caught.value.code is Code.POLICY_UNAVAILABLE


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (
            'restrictions := {"r0": {"refuse": [{"code": "not_today", "text": "the register is being rebuilt"}]}}',
            "not_today",
        ),
        ('restrictions := {"r0": {"deny": ["origin"]}}', "column_denied_by_overlay"),
        ('restrictions := {"r0": {"mode": "closed"}}', "closed_by_overlay"),
    ],
)
def test_overlay_that_refuses_is_heard(tmp_path: Path, body: str, code: str) -> None:
    decision = _overlay_point(tmp_path, body).decide(question())
    assert not decision.allow
    assert [reason.code for reason in decision.reasons] == [code]


def test_empty_restriction_adds_nothing(tmp_path: Path) -> None:
    assert _overlay_point(tmp_path, 'restrictions := {"r0": {}}').decide(question()).allow


def _overlay_point(folder: Path, body: str) -> DecisionPoint:
    path = folder / "one.rego"
    path.write_text(f"package tidegate.overlay.one\n\nimport rego.v1\n\n{body}\n", "utf-8")
    return DecisionPoint(EmbeddedEngine(load([path]), threads=1), FixedClock())


def test_embedded_engine_that_is_busy_refuses_in_time() -> None:
    engine = EmbeddedEngine(load(), timeout_s=0.2, threads=1)
    release = threading.Event()
    blocker = threading.Thread(target=lambda: engine._pool.run(lambda _: release.wait(30), 30.0))
    blocker.start()
    begin = time.monotonic()
    with pytest.raises(TidegateError) as caught:
        DecisionPoint(engine, FixedClock()).decide(question())
    assert time.monotonic() - begin < 5
    assert caught.value.code is Code.POLICY_UNAVAILABLE
    release.set()
    blocker.join(30)
    engine.close()


# --- a server that misbehaves ------------------------------------------------------------------------------------


class _Server(BaseHTTPRequestHandler):
    """OPA's REST calls over two dictionaries; how a decision is answered is the test's business."""

    policies: dict[str, str]
    data: dict[str, Any]
    decide: Callable[[Any], None]
    version = "1.20.2"

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        kind, _, name = self.path.removeprefix("/v1/").partition("/")
        if kind == "policies":
            self.policies[name] = body.decode()
            self.reply(200, {})
        else:
            self.data[name] = json.loads(body)
            self.reply(204, None)

    def do_GET(self) -> None:
        kind, _, name = self.path.removeprefix("/v1/").partition("/")
        if kind == "policies":
            listed = [{"id": key} for key in self.policies]
            self.reply(200, {"result": {"raw": self.policies[name]} if name else listed})
        else:
            self.reply(200, {"result": self.data[name]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/v1/query":
            self.reply(200, {"result": [{"v": self.version}]})
        else:
            type(self).decide(self)

    def reply(self, status: int, document: Any) -> None:
        self.raw(status, b"" if document is None else json.dumps(document).encode())

    def raw(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        return


@contextmanager
def _server(decide: Callable[[Any], None], **attributes: Any) -> Iterator[str]:
    handler = type("Handler", (_Server,), {"policies": {}, "data": {}, "decide": staticmethod(decide), **attributes})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _refused_over(decide: Callable[[Any], None], timeout_s: float = 5.0) -> str:
    with _server(decide) as url:
        engine = OpaEngine(url, load(), timeout_s)
        with pytest.raises(TidegateError) as caught:
            DecisionPoint(engine, FixedClock()).decide(question())
        engine.close()
    assert caught.value.code is Code.POLICY_UNAVAILABLE
    return caught.value.detail


def _answer(revision: str) -> dict[str, Any]:
    return {"result": {**good_answer(), "revision": revision}}


def test_server_that_answers_well_is_accepted() -> None:
    bundle = load()
    with _server(lambda handler: handler.reply(200, _answer(bundle.revision))) as url:
        engine = OpaEngine(url, bundle, 5.0)
        assert DecisionPoint(engine, FixedClock()).decide(question()).allow
        engine.close()


@pytest.mark.parametrize("status", [400, 401, 404, 500, 502, 503])
def test_server_error_is_refused(status: int) -> None:
    # The body would be an allow: the status alone must refuse it.
    _refused_over(lambda handler: handler.reply(status, _answer(load().revision)))


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"null", b"[]", b'{"result": null}', b'{"result": true}', b"<html>", b'{"result": ', b"\xff\xfe"],
    ids=repr,
)
def test_server_that_answers_nothing_useful_is_refused(body: bytes) -> None:
    _refused_over(lambda handler: handler.raw(200, body))


def test_server_of_a_stale_revision_is_refused() -> None:
    assert "revision" in _refused_over(lambda handler: handler.reply(200, _answer("sha256:older")))


def test_silent_server_is_refused_in_time() -> None:
    release = threading.Event()
    begin = time.monotonic()
    _refused_over(lambda handler: (release.wait(20), None)[1], timeout_s=0.5)
    assert time.monotonic() - begin < 10
    release.set()


def test_server_that_trickles_is_refused_in_time() -> None:
    release = threading.Event()

    def trickle(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        while not release.wait(0.05):
            try:
                handler.wfile.write(b" ")
                handler.wfile.flush()
            except OSError:
                return

    begin = time.monotonic()
    _refused_over(trickle, timeout_s=0.5)
    assert time.monotonic() - begin < 10
    release.set()


def test_server_that_went_away_is_refused() -> None:
    with _server(lambda handler: handler.reply(200, _answer(load().revision))) as url:
        engine = OpaEngine(url, load(), 2.0)
    with pytest.raises(TidegateError) as caught:
        DecisionPoint(engine, FixedClock()).decide(question())
    assert caught.value.code is Code.POLICY_UNAVAILABLE
    engine.close()


@pytest.mark.parametrize("version", ["1.20.0", "1.19.9", "0.70.0", "", "unknown"])
def test_server_of_an_old_version_is_not_used(version: str) -> None:
    with _server(lambda handler: None, version=version) as url, pytest.raises(TidegateError) as caught:
        OpaEngine(url, load(), 5.0)
    assert caught.value.code is Code.POLICY_UNAVAILABLE
    assert "version" in caught.value.detail


def test_server_that_keeps_another_text_is_not_used() -> None:
    class Forgetful(dict[str, str]):
        def __setitem__(self, key: str, value: str) -> None:
            super().__setitem__(key, value + "\n# changed")

    with _server(lambda handler: None, policies=Forgetful()) as url, pytest.raises(TidegateError) as caught:
        OpaEngine(url, load(), 5.0)
    assert "read back" in caught.value.detail


@pytest.mark.parametrize(
    "url",
    [
        "http://opa.example:8181",
        "http://10.0.0.1:8181",
        "ftp://localhost",
        "localhost:8181",
        "http://",
        "https://h/path",
        "https://h?x=1",
    ],
)
def test_url_that_could_be_forged_or_is_not_one_is_refused(url: str) -> None:
    with pytest.raises(TidegateError) as caught:
        OpaEngine(url, load(), 1.0)
    assert caught.value.code is Code.CONFIG_INVALID

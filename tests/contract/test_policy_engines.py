"""Both engines, the same rules, the same cases: what one says the other says.

The Rego tests run in OPA alone: rego-cpp 1.5.2 ends the process when a rule that calls a function is asked `with input`.
What they check is among the cases here, which both engines answer.
"""

from __future__ import annotations

import random
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import policies
from policies.bundle import ENTRYPOINT, RULES, load
from policies.engines import EmbeddedEngine, OpaEngine
from policies.point import DecisionPoint
from tests.opa_binary import opa_server, require_opa
from tests.unit.policies.cases import (
    CASES,
    LATE,
    ORIGIN,
    PURPOSE,
    Case,
    FixedClock,
    agreement,
    at,
    column,
    question,
    resource,
)
from tidegate.core.errors import Code, TidegateError

OVERLAYS = Path(policies.__file__).parent / "overlays"
PSEUDONYM = {"kind": "pseudonym", "key": "recipient"}
STATISTICS = {
    "request": {"purpose": "research.statistics"},
    "agreements": [agreement(purposes=["research.statistics"])],
}
GRANTED = ("purpose_registered", "agreement", "overlay", "overlay")

OVERLAY_CASES = (
    Case(
        "filter, mask and limit",
        question(),
        True,
        GRANTED,
        (
            ("resources.r0.row_filter", ORIGIN),
            ("resources.r0.columns.tailnum", {"access": "masked", "mask": PSEUDONYM}),
            ("resources.r0.columns.origin", {"access": "plain"}),
            ("resources.r0.constraints.max_rows", 1000000),
        ),
    ),
    Case(
        "two filters are a conjunction",
        question(agreements=[agreement(row_filter=LATE)]),
        True,
        GRANTED,
        (("resources.r0.row_filter", {"type": "compound", "operator": "and", "value": [LATE, ORIGIN]}),),
    ),
    Case(
        "the same filter is applied once",
        question(agreements=[agreement(row_filter=ORIGIN)]),
        True,
        GRANTED,
        (("resources.r0.row_filter", ORIGIN),),
    ),
    Case(
        "mask without filter",
        question(**STATISTICS),
        True,
        GRANTED,
        (("resources.r0.row_filter", {}), ("resources.r0.columns.tailnum", {"access": "masked", "mask": PSEUDONYM})),
    ),
    Case(
        "the same mask from two sides",
        question(resources=[resource(masks={"tailnum": PSEUDONYM})]),
        True,
        GRANTED,
        (("resources.r0.columns.tailnum", {"access": "masked", "mask": PSEUDONYM}),),
    ),
    Case(
        "two masks are a conflict",
        question(resources=[resource(masks={"tailnum": {"kind": "redact"}})]),
        False,
        ("column_mask_conflict",),
    ),
    Case("an overlay opens nothing", question(agreements=[]), False, ("agreement_missing",)),
    Case(
        "groups for those outside",
        question(caller={"tier": "external"}),
        True,
        GRANTED,
        (("resources.r0.constraints.mode", "aggregate"), ("resources.r0.constraints.min_group_size", 20)),
    ),
    Case(
        "the greater group wins",
        question(caller={"tier": "external"}, agreements=[agreement(mode="aggregate", min_group_size=100)]),
        True,
        GRANTED,
        (("resources.r0.constraints.min_group_size", 100),),
    ),
    Case(
        "an element that no predicate may read",
        question(resources=[resource(columns=[column("origin", element="person.id")])]),
        True,
        GRANTED,
        (("resources.r0.columns.origin", {"access": "plain", "in_predicate": "deny"}),),
    ),
    Case(
        "an element that no predicate may read, masked",
        question(resources=[resource(columns=[column("tailnum", element="person.id")])]),
        True,
        GRANTED,
        (("resources.r0.columns.tailnum", {"access": "masked", "mask": PSEUDONYM, "in_predicate": "deny"}),),
    ),
    Case(
        "another dataset is left alone",
        question(resources=[resource(dataset="weather.hourly", owner="weather", **{"class": "open"})], agreements=[]),
        True,
        ("purpose_registered", "class_open", "overlay"),
        (("resources.r0.row_filter", {}), ("resources.r0.constraints.max_rows", 10000000)),
    ),
)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with opa_server(require_opa()) as url:
        yield url


@pytest.mark.parametrize("case", OVERLAY_CASES, ids=lambda case: case.name)
def test_example_overlays_tighten_as_they_say(case: Case) -> None:
    engine = _embedded("overlays")
    decision = DecisionPoint(engine, FixedClock()).decide(case.question)
    assert tuple(reason.code for reason in decision.reasons) == case.codes
    assert decision.allow is case.allow
    for path, value in case.shows:
        assert at(decision.to_json(), path) == value


@pytest.mark.opa
@pytest.mark.parametrize("overlays", [(), (OVERLAYS / "aviation", OVERLAYS / "city")], ids=["exchange", "overlays"])
def test_engines_agree_on_every_case(server: str, overlays: tuple[Path, ...]) -> None:
    bundle = load(overlays)
    embedded, opa = EmbeddedEngine(bundle), OpaEngine(server, bundle, 10.0)
    for case in (*CASES, *OVERLAY_CASES):
        first, second = embedded.ask(case.question), opa.ask(case.question)
        assert first == second, case.name
        assert first["revision"] == bundle.revision
    embedded.close()
    opa.close()


@pytest.mark.opa
def test_engines_agree_on_generated_questions(server: str) -> None:
    bundle = load((OVERLAYS / "aviation", OVERLAYS / "city"))
    embedded, opa = EmbeddedEngine(bundle), OpaEngine(server, bundle, 10.0)
    chance = random.Random(20261121)  # fixed: a failure can be repeated
    seen = set()
    for _ in range(60):
        asked = _generated(chance)
        first, second = embedded.ask(asked), opa.ask(asked)
        assert first == second, asked
        decision = DecisionPoint(embedded, FixedClock()).decide(asked)
        seen |= {reason.code for reason in decision.reasons}
    assert {
        "agreement",
        "agreement_missing",
        "column_above_clearance",
        "column_not_in_agreement",
        "class_closed",
    } <= seen
    embedded.close()
    opa.close()


KEYS_OVERLAY = """package tidegate.overlay.{name}

import rego.v1

restrictions := {{r.ref: {entry} | some r in input.resources}}
"""
NAMED = ["health", "rail"]


@pytest.mark.opa
@pytest.mark.parametrize(
    ("entries", "agreed", "left"),
    [
        (['{"keys_may_go_to": ["rail", "health"]}'], ["*"], NAMED),
        (['{"keys_may_go_to": []}'], ["*"], []),
        (['{"keys_may_go_to": ["*"]}'], ["health", "rail"], NAMED),
        (['{"keys_may_go_to": ["*"]}'], ["*"], ["*"]),
        (['{"keys_may_go_to": ["rail", "health"]}', '{"keys_may_go_to": ["police", "rail"]}'], ["*"], ["rail"]),
        (['{"keys_may_go_to": ["rail"]}'], [], []),
        (["{}"], ["rail"], ["rail"]),
        (['{"mode": "aggregate"}'], ["rail"], []),
    ],
)
def test_overlays_only_tighten_where_keys_may_go(
    server: str, tmp_path: Path, entries: list[str], agreed: list[str], left: list[str]
) -> None:
    folders = []
    for number, entry in enumerate(entries):
        folder = tmp_path / f"o{number}"
        folder.mkdir()
        (folder / f"o{number}.rego").write_text(KEYS_OVERLAY.format(name=f"o{number}", entry=entry))
        folders.append(folder)
    bundle = load(tuple(folders))
    embedded, opa = EmbeddedEngine(bundle), OpaEngine(server, bundle, 10.0)
    asked = question(agreements=[agreement(keys_may_go_to=agreed)])
    assert embedded.ask(asked) == opa.ask(asked)
    decision = DecisionPoint(embedded, FixedClock()).decide(asked)
    assert decision.allow
    assert sorted(decision.resources["r0"].constraints.keys_may_go_to) == left
    embedded.close()
    opa.close()


@pytest.mark.opa
def test_stale_revision_at_the_server_is_refused(server: str) -> None:
    first = OpaEngine(server, load(), 10.0)
    point = DecisionPoint(first, FixedClock())
    assert point.decide(question()).allow
    second = OpaEngine(server, load((OVERLAYS / "aviation",)), 10.0)
    with pytest.raises(TidegateError) as caught:
        point.decide(question())
    assert caught.value.code is Code.POLICY_UNAVAILABLE
    assert "revision" in caught.value.detail
    assert DecisionPoint(second, FixedClock()).decide(question()).allow
    first.push()
    assert point.decide(question()).allow
    first.close()
    second.close()


@pytest.mark.opa
def test_push_removes_what_an_earlier_bundle_left(server: str) -> None:
    OpaEngine(server, load((OVERLAYS / "city",)), 10.0).close()
    engine = OpaEngine(server, load(), 10.0)
    names = engine._pool.run(lambda client: client.get_policies_list(), 10.0)
    assert sorted(names) == ["tidegate/tidegate/exchange.rego"]
    engine.close()


@pytest.mark.opa
def test_rego_tests_pass_in_opa() -> None:
    command = [str(require_opa()), "test", "--verbose", str(RULES), str(OVERLAYS)]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert outcome.returncode == 0, outcome.stdout[-3000:] + outcome.stderr[-3000:]
    assert f"PASS: {len(_rego_tests())}/{len(_rego_tests())}" in outcome.stdout


def test_entrypoint_is_where_the_rules_are() -> None:
    assert (RULES / ENTRYPOINT).with_suffix(".rego").is_file()


def _embedded(kind: str) -> EmbeddedEngine:
    if kind not in _ENGINES:
        _ENGINES[kind] = EmbeddedEngine(load((OVERLAYS / "aviation", OVERLAYS / "city")))
    return _ENGINES[kind]


_ENGINES: dict[str, EmbeddedEngine] = {}


def _test_files() -> list[Path]:
    return [*sorted(RULES.rglob("*_test.rego")), *sorted(OVERLAYS.rglob("*_test.rego"))]


def _rego_tests() -> list[str]:
    result = []
    for path in _test_files():
        text = path.read_text("utf-8")
        package = re.search(r"^package (\S+)$", text, re.MULTILINE)
        assert package is not None
        names = re.findall(r"^(test_\w+) ", text, re.MULTILINE)
        result += [f"{package.group(1).replace('.', '/')}/{name}" for name in names]
    return result


def _generated(chance: random.Random) -> dict[str, Any]:
    """Give a question in which everything that the rules look at varies."""
    names = ("dep_delay", "origin", "tailnum")
    levels = ("public", "internal", "restricted", "secret")
    resources = []
    for number in range(chance.randint(1, 3)):
        columns = [
            column(
                name,
                "INTEGER" if name == "dep_delay" else "VARCHAR",
                chance.choice(levels[: chance.randint(1, 4)]),
                chance.choice(("", "", "person.id")),
            )
            for name in names[: chance.randint(1, 3)]
        ]
        kind = chance.choice(("open", "conditional", "conditional", "conditional", "closed"))
        masks = {"tailnum": chance.choice((PSEUDONYM, {"kind": "redact"}))} if chance.random() < 0.3 else {}
        dataset = chance.choice(("aviation.flights", "weather.hourly"))
        resources.append(
            resource(
                f"r{number}",
                columns=columns,
                masks=masks,
                dataset=dataset,
                subject_column=chance.choice(("", "tailnum")),
                citation="an act",
                predicate_deny=["origin"] if chance.random() < 0.2 else [],
                bearer_ok=chance.random() < 0.7,
                **{"class": kind},
            )
        )
    agreements = [
        agreement(
            f"a{number}",
            dataset=chance.choice(("aviation.flights", "aviation.flights", "weather.hourly")),
            grantee=chance.choice(("health", "health", "health", "police")),
            purposes=chance.sample((PURPOSE, "research.statistics", "epidemic.control"), 2),
            columns=list(names[: chance.randint(1, 3)]),
            mode=chance.choice(("rows", "aggregate")),
            min_group_size=chance.choice((1, 2, 9, 10, 11, 100, 1000)),
            row_filter=chance.choice(({}, ORIGIN, LATE)),
            keys_may_go_to=chance.choice(([], ["weather"], ["*"], ["rail", "weather"], ["weather", "*", "weather"])),
            expires_at=chance.choice(
                ("2026-11-21T09:59:59.999999Z", "2026-11-21T10:00:01.000000Z", "2027-02-01T00:00:00.000000Z")
            ),
        )
        for number in range(chance.randint(0, 6))
    ]
    who = {
        "clearance": chance.choice(levels[1:]),
        "tier": chance.choice(("government", "government", "external")),
        "bound": chance.choice(("certificate", "certificate", "certificate", "bearer")),
    }
    return question(
        caller=who,
        request={"purpose": chance.choice((PURPOSE, "research.statistics"))},
        resources=resources,
        agreements=agreements,
    )

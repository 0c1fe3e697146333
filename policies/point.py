"""The decision point: asks an engine one question and trusts no part of the answer.

Everything that is not a valid answer to exactly this question, made by exactly the asked revision, is POLICY_UNAVAILABLE:
engine away, slow, broken, empty, an unknown or a missing key, an unknown mask, another dataset, a stale revision. Nobody
who calls ``decide`` can get an allow by mistake.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import jsonschema

from policies.bundle import read_schema
from policies.engines import Engine, EngineError
from policies.floor import beneath
from policies.memory import DecisionMemory, question_key
from tidegate.core.clock import Clock, parse_timestamp
from tidegate.core.dataset import Column, Dataset, DatasetClass
from tidegate.core.decision import Decision, ResourceDecision
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.names import DatasetName
from tidegate.sql.filters import predicate


class DecisionPoint:
    """Decides questions with one engine; thread-safe when the engine is."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self._memory = DecisionMemory(clock)
        # A server's rules can be changed under us, and its own log of decisions must be whole: it is asked each time.
        self._may_keep = bool(getattr(engine, "may_be_kept", False))
        self._questions = _validator("question")
        self._answers = _validator("decision")

    @property
    def kept(self) -> tuple[int, int]:
        """How often a kept decision served, and how often the engine was asked."""
        return self._memory.counts

    @property
    def revision(self) -> str:
        """The revision under which decisions are made; entries and receipts name it."""
        return self._engine.revision

    def decide(self, question: Mapping[str, Any]) -> Decision:
        """Decide a question.

        Returns:
            A decision; whether it allows is in it.

        Raises:
            InternalError: POLICY_UNAVAILABLE; the caller must refuse.
        """
        try:
            return self._decide(question)
        except TidegateError as error:
            if error.code is Code.POLICY_UNAVAILABLE:
                raise
            raise _unavailable(f"{error.code.value}: {error.message}: {error.detail}") from error
        except EngineError as error:
            raise _unavailable(str(error)) from error
        except Exception as error:
            # Whatever it was: no decision is a refusal, never an allow and never a crash of the caller's stream.
            raise _unavailable(f"unexpected: {error!r}"[:2000]) from error

    def _decide(self, question: Mapping[str, Any]) -> Decision:
        if not self._may_keep:
            return self._ask(question)
        key = question_key(self._engine.revision, question)
        kept = self._memory.find(key, question)
        if kept is not None:
            return kept
        decision = self._ask(question)
        self._memory.keep(key, question, decision)
        return decision

    def _ask(self, question: Mapping[str, Any]) -> Decision:
        _validate(self._questions, question, "question")
        resources = {resource["ref"]: resource for resource in question["resources"]}
        if len(resources) != len(question["resources"]):
            raise _unavailable("question: a ref is there twice")
        revision = self._engine.revision
        answer = self._engine.ask(question)
        if not isinstance(answer, dict) or set(answer) != {"revision", "decision"}:
            raise _unavailable("answer: expected revision and decision")
        if answer["revision"] != revision or self._engine.revision != revision:
            raise _unavailable(f"answer: of revision {answer['revision']!r}, expected {revision!r}"[:500])
        _validate(self._answers, answer["decision"], "decision")
        decision = Decision.from_json(answer["decision"])
        _check(decision, resources)
        _check_floor(decision, question, resources)
        self._check_obligations(decision)
        return decision

    def _check_obligations(self, decision: Decision) -> None:
        for text in (decision.obligations.expires_at, decision.obligations.cache_until):
            moment = None if text is None else parse_timestamp(text)
            if decision.allow and text is decision.obligations.expires_at and moment and moment <= self._clock.now():
                raise _unavailable("answer: allows beyond its own end")


@cache
def _validator(name: str) -> Any:
    schema = read_schema(name)
    kind = jsonschema.Draft202012Validator
    kind.check_schema(schema)
    return kind(schema)


def _validate(validator: Any, document: object, what: str) -> None:
    error = next(iter(validator.iter_errors(document)), None)
    if error is not None:
        place = "/".join(str(part) for part in error.absolute_path)
        raise _unavailable(f"{what}: {place or 'top'}: {error.validator}")


def _check(decision: Decision, resources: Mapping[str, Mapping[str, Any]]) -> None:
    """Hold the answer against the question."""
    if set(decision.resources) != set(resources):
        raise _unavailable("answer: about other instances than the question")
    if not decision.reasons:
        raise _unavailable("answer: without a reason")
    if decision.allow and not all(resource.allow for resource in decision.resources.values()):
        raise _unavailable("answer: allows the whole but not every part")
    for ref, answer in decision.resources.items():
        _check_resource(answer, resources[ref])


def _check_resource(answer: ResourceDecision, asked: Mapping[str, Any]) -> None:
    fields: Mapping[str, str] = asked["fields"]
    read = {column["name"] for column in asked["columns"]}
    if not set(answer.columns) <= read:
        raise _unavailable("answer: names a column that the query does not read")
    entity = answer.constraints.count_entity
    if entity and entity not in fields:
        raise _unavailable("answer: counts a column that the dataset does not have")
    if not answer.allow:
        return
    if answer.constraints.mode == "closed":
        raise _unavailable("answer: allows a closed dataset")
    if answer.constraints.mode in ("aggregate", "aggregate_at_home") and not entity:
        raise _unavailable("answer: groups without a subject to count")
    if answer.row_filter:
        # The one reader of filters says whether fields exist and values are of their types.
        predicate(answer.row_filter, _stand_in(asked, answer.row_filter), "r")


def _check_floor(decision: Decision, question: Mapping[str, Any], resources: Mapping[str, Mapping[str, Any]]) -> None:
    for ref, answer in decision.resources.items():
        fault = beneath(question, resources[ref], answer) if answer.allow else ""
        if fault:
            raise _unavailable(f"answer: gives {fault}")


def _stand_in(asked: Mapping[str, Any], row_filter: Mapping[str, Any]) -> Dataset:
    """Give a dataset with those of the question's fields that the filter names."""
    fields = asked["fields"]
    columns = tuple(Column(name, fields[name]) for name in sorted(_named(row_filter)) if name in fields)
    return Dataset(DatasetName.parse(asked["dataset"]), asked["owner"], "", "", DatasetClass.CONDITIONAL, columns)


def _named(node: Any) -> set[str]:
    """Give the field names of a filter that has passed the schema."""
    if node["type"] == "field":
        return {node["field"]}
    children = node["value"] if isinstance(node["value"], list) else [node["value"]]
    return {name for child in children for name in _named(child)}


def _unavailable(detail: str) -> TidegateError:
    return error_for(Code.POLICY_UNAVAILABLE, detail=detail)

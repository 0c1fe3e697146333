"""The floor: what no engine's answer may go beneath, said a second time and in another language.

The rules are Rego, and the two engines do not always agree (rego-cpp 1.5.2 takes 2 for the greater of 2 and 10). So an
answer that allows is held against the plainest reading of the question: class, agreement, clearance, declared masks,
how the caller is bound. An answer may be stricter in everything; one that is looser is no answer. Overlays are not
known here: they only tighten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tidegate.core.agreement import ANY_MEMBER
from tidegate.core.caller import BY_CERTIFICATE
from tidegate.core.dataset import SENSITIVITIES
from tidegate.core.decision import MODES, ResourceDecision

Agreement = Mapping[str, Any]


def beneath(question: Mapping[str, Any], asked: Mapping[str, Any], answer: ResourceDecision) -> str:
    """Say what the answer about one resource gives that the question does not justify; empty when nothing.

    Args:
        asked: the resource of the question.
        answer: an answer that allows it.
    """
    if question["caller"]["kind"] not in ("service", "person"):
        return "an identity that may not query"
    if question["caller"]["bound"] != BY_CERTIFICATE and asked["bearer_ok"] is not True:
        return "a dataset that a bearer token may not use"
    if question["registered"] is False:
        return "a purpose or legal basis that is not registered"
    if answer.constraints.keys_may_go_to and answer.constraints.mode != "rows":
        return "keys of data that is not shared row by row"
    fault = _columns(question, asked, answer)
    if fault or asked["class"] == "open":
        return fault
    if asked["class"] != "conditional":
        return "a closed dataset"
    covering = [terms for terms in question["agreements"] if _covers(terms, question, asked)]
    return "" if any(_within(answer, terms) for terms in covering) else "more than any agreement"


def _columns(question: Mapping[str, Any], asked: Mapping[str, Any], answer: ResourceDecision) -> str:
    clearance = SENSITIVITIES.index(question["caller"]["clearance"])
    for column in asked["columns"]:
        rule = answer.rule(column["name"])
        if rule.access == "deny":
            continue
        if SENSITIVITIES.index(column["sensitivity"]) > clearance:
            return "a column above the caller's clearance"
        mask = asked["masks"].get(column["name"])
        if mask is not None and (rule.mask is None or rule.mask.to_json() != mask):
            return "a column without its declared mask"
        if column["name"] in asked["predicate_deny"] and not rule.in_predicate_denied:
            return "a predicate on a column that is closed to predicates"
    return ""


def _covers(terms: Agreement, question: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    request = question["request"]
    return bool(
        terms["dataset"] == asked["dataset"]
        and terms["grantee"] == question["caller"]["member"]
        and request["purpose"] in terms["purposes"]
        and request["legal_basis"] in ("", terms["legal_basis"])
        and terms["expires_at"] > request["time"]
    )


def _within(answer: ResourceDecision, terms: Agreement) -> bool:
    shown = {name for name, rule in answer.columns.items() if rule.access != "deny"}
    return (
        shown <= set(terms["columns"])
        and MODES.index(answer.constraints.mode) <= MODES.index(terms["mode"])
        and answer.constraints.min_group_size >= terms["min_group_size"]
        and _narrows(answer.row_filter, terms["row_filter"])
        and _keys_within(answer.constraints.keys_may_go_to, terms.get("keys_may_go_to", ()))
    )


def _keys_within(given: Sequence[str], agreed: Sequence[str]) -> bool:
    return ANY_MEMBER in agreed or (ANY_MEMBER not in given and set(given) <= set(agreed))


def _narrows(row_filter: Mapping[str, Any], agreed: Mapping[str, Any]) -> bool:
    """Say whether the filter is the agreed one, or a conjunction that holds it."""
    if not agreed or row_filter == agreed:
        return True
    conjunction = row_filter.get("type") == "compound" and row_filter.get("operator") == "and"
    return conjunction and any(part == agreed for part in row_filter["value"])

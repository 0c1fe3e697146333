"""What an answer says about itself: who is asked what, what was filtered, masked or held back, and by which rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from broker.values import RecordedPlan
from tidegate.core.decision import ResourceDecision


def disclosure(recorded: RecordedPlan) -> dict[str, Any]:
    """Give the disclosure report that leads every answer. Holds rules, never a data value of a department."""
    decided = recorded.restricted.decided
    bound = decided.plan.bound
    decision = decided.decision
    return {
        "purpose": recorded.request.purpose,
        "policy_revision": decided.policy_revision,
        "reasons": [reason.to_json() for reason in decision.reasons],
        "datasets": [
            {
                "ref": leaf.ref,
                "dataset": str(leaf.dataset),
                "not_shown": sorted(decided.plan.left_out.get(leaf.dataset, ())),
                **_rules(decision.resources[leaf.ref], sorted(leaf.columns)),
            }
            for leaf in bound.leaves
        ],
        "departments": [
            {
                "fragment": fragment.id,
                "member": fragment.member,
                "node": fragment.node,
                "asked": fragment.sql.text,
                "whole_query": fragment.whole,
            }
            for fragment in recorded.restricted.federated.fragments
        ],
        "obligations": decision.obligations.to_json(),
    }


def _rules(resource: ResourceDecision, columns: list[str]) -> dict[str, Any]:
    masked = {name: rule.mask.kind for name in columns if (rule := resource.rule(name)).mask is not None}
    constraints = resource.constraints
    return {
        "mode": constraints.mode,
        "row_filter": sorted(_fields(resource.row_filter)),
        "masked": masked,
        "min_group_size": constraints.min_group_size if constraints.mode != "rows" else None,
        "max_rows": constraints.max_rows,
    }


def _fields(node: Mapping[str, Any]) -> set[str]:
    """Give the columns that a row filter reads. Not its values: a rule may name what it hides."""
    value = node.get("value")
    if node.get("type") == "compound" and isinstance(value, Sequence):
        return set().union(*(_fields(item) for item in value if isinstance(item, Mapping)))
    return {str(node["field"])} if "field" in node else set()

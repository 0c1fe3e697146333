"""EXPLAIN: what will be asked of whom, what was pushed and kept, which rule changed what. Users trust what they can see.

Shows SQL of our own making only: the caller's texts are parameters and stay unshown; no value of a policy's filter is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tidegate.core.decision import Decision, ResourceDecision
from tidegate.core.names import DatasetName
from tidegate.sql.model import BoundQuery, FederatedPlan, Floor, Fragment


def explain(plan: FederatedPlan, decision: Decision, bound: BoundQuery) -> dict[str, Any]:
    """Give the plan as data: fragments with their rules, the joining query, floors, the limit of rows."""
    return {
        "columns": list(plan.output_names),
        "fragments": [_fragment(item, decision, bound) for item in plan.fragments],
        "final": plan.final.text if plan.final is not None else None,
        "floors": [_floor(item, bound) for item in plan.floors],
        "rows_max": plan.rows_max,
        "reasons": [reason.to_json() for reason in decision.reasons],
    }


def _fragment(fragment: Fragment, decision: Decision, bound: BoundQuery) -> dict[str, Any]:
    return {
        "id": fragment.id,
        "department": fragment.member,
        "node": fragment.node,
        "datasets": {ref: str(name) for ref, name in fragment.refs.items()},
        "sql": fragment.sql.text,
        "parameters": len(fragment.sql.parameters),
        "whole": fragment.whole,
        "pushed": list(fragment.pushed),
        "kept": [{"condition": text, "why": why} for text, why in fragment.kept],
        "rules": {ref: rules(decision.resources[ref], bound, ref) for ref in fragment.refs},
        "floors": [_floor(item, bound) for item in fragment.floors],
        "scans": fragment.scans,
    }


def rules(resource: ResourceDecision, bound: BoundQuery, ref: str) -> list[str]:
    """Say in words what the policy does to one instance; fields of a filter are named, values are not."""
    found = []
    if resource.row_filter:
        found.append(f"only rows that pass the filter on {', '.join(sorted(filter_fields(resource.row_filter)))}")
    for name in sorted(bound.leaf(ref).columns):
        mask = resource.rule(name).mask
        if mask is not None:
            found.append(f"{name} is masked ({mask.kind})")
    rule = resource.constraints
    if rule.mode == "aggregate":
        found.append(f"groups of at least {rule.min_group_size} different {rule.count_entity}")
    return found or ["as it is"]


def filter_fields(node: Mapping[str, Any]) -> set[str]:
    """Give the fields that a UCAST tree reads."""
    if node.get("type") == "field":
        return {str(node.get("field"))}
    value = node.get("value")
    children = value if isinstance(value, list | tuple) else [value]
    return {name for child in children if isinstance(child, Mapping) for name in filter_fields(child)}


def _floor(floor: Floor, bound: BoundQuery) -> dict[str, Any]:
    leaf = bound.leaf(floor.ref)
    name: DatasetName = leaf.collection or leaf.dataset
    return {"dataset": str(name), "minimum": floor.minimum}


def picture(plan: FederatedPlan, decision: Decision, bound: BoundQuery) -> str:
    """Draw the plan as plain text."""
    data = explain(plan, decision, bound)
    lines = [f"answer: {', '.join(data['columns'])} (at most {data['rows_max']:,} rows)"]
    lines += [
        f"  hide groups with fewer than {item['minimum']} subjects of {item['dataset']}" for item in data["floors"]
    ]
    if data["final"] is not None:
        lines += ["join at the broker", f"  {data['final']}"]
    elif data["fragments"]:
        lines.append("relay the department's answer")
    for position, item in enumerate(data["fragments"]):
        last = position == len(data["fragments"]) - 1
        lines += _draw(item, "└─" if last else "├─", "  " if last else "│ ")
    return "\n".join(lines)


def _draw(item: Mapping[str, Any], branch: str, rail: str) -> list[str]:
    what = "whole query" if item["whole"] else "rows"
    read = f", read {item['scans']} times" if item["scans"] > 1 else ""
    lines = [
        f"{branch} {item['id']}: {what} from {item['department']} (node {item['node']}){read}",
        f"{rail}   {item['sql']}",
    ]
    for ref, name in item["datasets"].items():
        lines.append(f"{rail}   {ref} = {name}: {'; '.join(item['rules'][ref])}")
    lines += [f"{rail}   pushed: {text}" for text in item["pushed"]]
    lines += [f"{rail}   kept: {entry['condition']} ({entry['why']})" for entry in item["kept"]]
    lines += [f"{rail}   hide groups with fewer than {f['minimum']} subjects of {f['dataset']}" for f in item["floors"]]
    return lines

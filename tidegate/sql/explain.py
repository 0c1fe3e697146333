"""EXPLAIN: what is asked of whom, what was pushed and kept, which rule changed what; ANALYZE: and what it cost.

Shows SQL of our own making only: the caller's texts are parameters and stay unshown; no value of a policy's filter is shown.
Counts are shown where they were handed in; the broker hands in those alone that the caller may be told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tidegate.core.decision import Decision, ResourceDecision
from tidegate.core.names import DatasetName
from tidegate.sql.barriers import Barrier
from tidegate.sql.model import BoundQuery, FederatedPlan, Floor, Fragment

CAUSES_DRAWN_MAX = 3  # of a barrier, in a picture; JSON holds all that are known


@dataclass(frozen=True, slots=True)
class FragmentCost:
    """What one department's part cost in truth.

    Args:
        rows, bytes: of its answer; None when the caller may not be told.
        first_row_ms: until its first bytes were there, since it was asked; None when none came. ``elapsed_ms``: until all were.
        rules: what its node did, in the node's words.
        keys: (member whose rows they disclose, ``department.dataset.column``, how many or None) that made it smaller.
    """

    rows: int | None
    bytes: int | None
    first_row_ms: float | None
    elapsed_ms: float
    rules: tuple[str, ...] = ()
    keys: tuple[tuple[str, str, int | None], ...] = ()


@dataclass(frozen=True, slots=True)
class Cost:
    """What a query cost in truth.

    Args:
        fragments: by fragment's id.
        rows, bytes: of the answer, after small groups were dropped: what the caller would have been given.
        elapsed_ms: from the request to the answer's end, at the broker.
        rooms_ms: milliseconds in each room of the broker, in their order.
    """

    fragments: Mapping[str, FragmentCost]
    rows: int
    bytes: int
    elapsed_ms: float
    rooms_ms: Mapping[str, float]


def explain(
    plan: FederatedPlan,
    decision: Decision,
    bound: BoundQuery,
    *,
    barriers: Mapping[str, Barrier] | None = None,
    cost: Cost | None = None,
) -> dict[str, Any]:
    """Give the plan as data: fragments with their rules, the joining query, floors, the limit of rows.

    Args:
        barriers: by fragment (``tidegate.sql.barriers``); without them nothing is said of barriers.
        cost: of a run; ``analyzed`` says whether there was one.
    """
    return {
        "columns": list(plan.output_names),
        "fragments": [
            _fragment(item, decision, bound, plan)
            | {"barrier": _barrier((barriers or {}).get(item.id))}
            | ({} if cost is None else {"measured": _fragment_cost(cost.fragments[item.id])})
            for item in plan.fragments
        ],
        "final": plan.final.text if plan.final is not None else None,
        "floors": [_floor(item, bound) for item in plan.floors],
        "rows_max": plan.rows_max,
        "withheld": list(plan.withheld),
        "reasons": [reason.to_json() for reason in decision.reasons],
        "analyzed": cost is not None,
        **({} if cost is None else {"measured": _cost(cost)}),
    }


def _fragment(fragment: Fragment, decision: Decision, bound: BoundQuery, plan: FederatedPlan) -> dict[str, Any]:
    members = {item.id: item.member for item in plan.fragments}
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
        "rows_estimated": fragment.rows_estimated,
        "reduced_by": [
            {
                "column": f"{fragment.refs[item.ref]}.{item.column}",
                "keys_of": [
                    {"fragment": source, "column": name, "department": members[source]} for source, name in item.sources
                ],
            }
            for item in fragment.reductions
        ],
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


def _barrier(barrier: Barrier | None) -> dict[str, Any] | None:
    """Give a fragment's barrier; null when every leaf passes whole, or nothing is known."""
    if barrier is None or not barrier.refs:
        return None
    return {
        "refs": list(barrier.refs),
        "secure": bool(barrier.causes),
        "causes": [{"expression": item.expression, "why": item.why} for item in barrier.causes],
        "more": barrier.more,
    }


def _fragment_cost(cost: FragmentCost) -> dict[str, Any]:
    return {
        "rows": cost.rows,
        "bytes": cost.bytes,
        "first_row_ms": cost.first_row_ms,
        "elapsed_ms": cost.elapsed_ms,
        "rules": list(cost.rules),
        "keys_received": [{"from": member, "column": column, "count": count} for member, column, count in cost.keys],
    }


def _cost(cost: Cost) -> dict[str, Any]:
    return {
        "rows": cost.rows,
        "bytes": cost.bytes,
        "elapsed_ms": cost.elapsed_ms,
        "rooms_ms": dict(cost.rooms_ms),
    }


def picture(
    plan: FederatedPlan,
    decision: Decision,
    bound: BoundQuery,
    *,
    barriers: Mapping[str, Barrier] | None = None,
    cost: Cost | None = None,
) -> str:
    """Draw the plan as plain text; arguments as of ``explain``."""
    data = explain(plan, decision, bound, barriers=barriers, cost=cost)
    lines = [f"answer: {', '.join(data['columns'])} (at most {data['rows_max']:,} rows)"]
    if cost is not None:
        lines += _draw_cost(data["measured"])
    lines += [
        f"  hide groups with fewer than {item['minimum']} subjects of {item['dataset']}" for item in data["floors"]
    ]
    if data["final"] is not None:
        lines += ["join at the broker", f"  {data['final']}"]
    elif data["fragments"]:
        lines.append("relay the department's answer")
    lines += [f"  withheld: {text}" for text in data["withheld"]]
    for position, item in enumerate(data["fragments"]):
        last = position == len(data["fragments"]) - 1
        lines += _draw(item, "└─" if last else "├─", "  " if last else "│ ")
    return "\n".join(lines)


def _draw_cost(measured: Mapping[str, Any]) -> list[str]:
    rooms = ", ".join(f"{name} {spent:,.1f} ms" for name, spent in measured["rooms_ms"].items())
    return [
        f"  came: {measured['rows']:,} rows, {measured['bytes']:,} bytes, in {measured['elapsed_ms']:,.1f} ms",
        f"  time at the broker: {rooms}",
    ]


def _draw(item: Mapping[str, Any], branch: str, rail: str) -> list[str]:
    what = "whole query" if item["whole"] else "rows"
    read = f", read {item['scans']} times" if item["scans"] > 1 else ""
    about = f", about {item['rows_estimated']:,} rows" if item["rows_estimated"] is not None else ""
    lines = [f"{branch} {item['id']}: {what} from {item['department']} (node {item['node']}){about}{read}"]
    body = _draw_measured(item["measured"]) if "measured" in item else []
    body.append(item["sql"])
    body += [f"{ref} = {name}: {'; '.join(item['rules'][ref])}" for ref, name in item["datasets"].items()]
    body += _draw_barrier(item["barrier"])
    for reduced in item["reduced_by"]:
        keys = ", ".join(f"{key['fragment']}.{key['column']} of {key['department']}" for key in reduced["keys_of"])
        body.append(f"only rows whose {reduced['column']} is among the keys {keys}")
    body += [f"pushed: {text}" for text in item["pushed"]]
    body += [f"kept: {entry['condition']} ({entry['why']})" for entry in item["kept"]]
    body += [f"hide groups with fewer than {f['minimum']} subjects of {f['dataset']}" for f in item["floors"]]
    return lines + [f"{rail}   {line}" for line in body]


def _draw_barrier(barrier: Mapping[str, Any] | None) -> list[str]:
    if barrier is None:
        return []
    refs = ", ".join(barrier["refs"])
    if not barrier["secure"]:
        return [f"no barrier at {refs}: nothing asked can fail on, or tell of, rows that are held back"]
    causes: Sequence[Mapping[str, str]] = barrier["causes"]
    lines = [f"barrier at {refs}: {item['expression']} ({item['why']})" for item in causes[:CAUSES_DRAWN_MAX]]
    left = len(causes) - len(lines) + barrier["more"]
    return lines + ([f"barrier at {refs}: and {left} more such expressions"] if left else [])


def _draw_measured(measured: Mapping[str, Any]) -> list[str]:
    first = measured["first_row_ms"]
    came = "counts are not told"
    if measured["rows"] is not None:
        came = f"{measured['rows']:,} rows, {measured['bytes']:,} bytes"
    begun = f", first after {first:,.1f} ms" if first is not None else ""
    lines = [f"came: {came}{begun}, all after {measured['elapsed_ms']:,.1f} ms"]
    lines += [f"done by its node: {'; '.join(measured['rules'])}"] if measured["rules"] else []
    for item in measured["keys_received"]:
        count = "not told how many" if item["count"] is None else f"{item['count']:,}"
        lines.append(f"received keys of {item['from']} for {item['column']}: {count}")
    return lines

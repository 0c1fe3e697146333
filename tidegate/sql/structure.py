"""Check the form of a query against its decision: what the data's owner permits, but not in every query.

First the plain refusals (a dataset, a column), then the modes. A mode that is not built refuses: fail closed. In mode
``aggregate`` (``aggregates.check``) only a narrow form of query is admitted. Broker and node call the same function.
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlglot import exp

from tidegate.core.decision import ColumnRule, Decision
from tidegate.core.errors import Code, Reason, TidegateError, error_for
from tidegate.sql import aggregates
from tidegate.sql.leakproof import Leakproof
from tidegate.sql.lineage import Base, Lineage, unwrap
from tidegate.sql.model import BoundQuery, Leaf, Role, Schema
from tidegate.sql.scope import SUBJECT_COLUMN

_COMPARISONS = (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.NullSafeEQ, exp.NullSafeNEQ)
_COMPUTED = (exp.Add, exp.Sub, exp.Mul, exp.Div, exp.IntDiv, exp.Mod, exp.Neg)
_PREDICATE_ROLES = frozenset({Role.PREDICATE, Role.JOIN, Role.ORDER})


def check(bound: BoundQuery, decision: Decision, *, schema: Schema) -> None:
    """Refuse a query that the decision does not permit.

    Raises:
        Refused: POLICY_REFUSED (a dataset or column is denied) or POLICY_STRUCTURE (the form is), with reasons.
    """
    covered(bound, decision)
    try:
        _forms(bound, decision, schema)
    except RecursionError as error:
        raise error_for(Code.PLAN_TOO_LARGE, "the query is nested deeper than the limit") from error


def _forms(bound: BoundQuery, decision: Decision, schema: Schema) -> None:
    lineage = Lineage.of(bound)
    for leaf in bound.leaves:
        _columns(leaf, decision)
        _mode(leaf, decision)
    _masked_joins(bound, decision, lineage)
    aggregates.check(bound, decision, lineage, Leakproof(bound, schema, lineage))


def covered(bound: BoundQuery, decision: Decision) -> None:
    """Refuse unless the decision allows, and names every leaf and allows it."""
    missing = [leaf for leaf in bound.leaves if leaf.ref not in decision.resources]
    if not decision.allow or missing or not all(decision.resources[leaf.ref].allow for leaf in bound.leaves):
        raise error_for(Code.POLICY_REFUSED, reasons=decision.reasons)


def structure_error(code: str, text: str, ask_for: str, owner: str) -> TidegateError:
    """Make a POLICY_STRUCTURE refusal with its one reason."""
    return error_for(Code.POLICY_STRUCTURE, text, reasons=(Reason(code, text, ask_for, owner),))


def _columns(leaf: Leaf, decision: Decision) -> None:
    resource = decision.resources[leaf.ref]
    steward = f"the steward of {leaf.dataset}"
    for name, roles in leaf.columns.items():
        if name == SUBJECT_COLUMN:
            if resource.constraints.mode != "aggregate" or not resource.constraints.count_entity:
                raise structure_error("subject", "subjects are pseudonymised in mode aggregate only", "", steward)
            continue
        rule = resource.rule(name)
        if rule.access == "deny":
            text = f"column {leaf.dataset}.{name} is denied"
            reason = Reason("column_denied", text, "an agreement that covers the column", steward)
            raise error_for(Code.POLICY_REFUSED, text, reasons=(*decision.reasons, reason))
        if rule.in_predicate_denied and roles & _PREDICATE_ROLES:
            text = f"column {leaf.dataset}.{name} is masked and may not be used in a condition, a join or a sort"
            raise structure_error("masked_in_predicate", text, "the plain column", steward)


def _mode(leaf: Leaf, decision: Decision) -> None:
    rules = decision.resources[leaf.ref].constraints
    steward = f"the steward of {leaf.dataset}"
    if rules.mode == "closed":
        text = f"dataset {leaf.dataset} is closed"
        raise error_for(Code.POLICY_REFUSED, text, reasons=(*decision.reasons, Reason("closed", text, "", steward)))
    if rules.mode not in ("rows", "aggregate") or rules.key_lookup_only:
        text = f"dataset {leaf.dataset} is shared in a mode that this exchange does not offer yet"
        raise structure_error("mode_not_offered", text, "an agreement in mode rows or aggregate", steward)
    if rules.mode == "aggregate" and not rules.count_entity:
        text = f"dataset {leaf.dataset} is shared as aggregates, but names no subject to count"
        raise structure_error("no_subject", text, "a subject column in the catalogue", steward)


def _masked_joins(bound: BoundQuery, decision: Decision, lineage: Lineage) -> None:
    """Refuse to compare masked values that were made with different keys: the answer would be silently empty."""
    leaves = {leaf.ref: leaf for leaf in bound.leaves}
    for first, second in _compared(bound.tree, lineage):
        if first[0] == second[0] or SUBJECT_COLUMN in (first[1], second[1]):
            continue
        ours, theirs = (decision.resources[ref].rule(name) for ref, name in (first, second))
        if "masked" not in (ours.access, theirs.access):
            continue
        same = leaves[first[0]].dataset == leaves[second[0]].dataset and first[1] == second[1]
        if not (_same_mask(ours, theirs) and (same or _shared(ours))):
            names = " and ".join(f"{leaves[ref].dataset}.{name}" for ref, name in (first, second))
            text = f"{names} cannot be joined or compared: they are masked, and not with one shared key"
            owners = " and ".join(sorted({f"the steward of {leaves[ref].dataset}" for ref, _ in (first, second)}))
            raise structure_error("masked_join", text, "an agreement of both departments on a shared key", owners)


def _same_mask(ours: ColumnRule, theirs: ColumnRule) -> bool:
    return ours.mask is not None and theirs.mask is not None and ours.mask.to_json() == theirs.mask.to_json()


def _shared(rule: ColumnRule) -> bool:
    mask = rule.mask
    keyed = mask is not None and mask.kind in ("hash", "pseudonym")
    return keyed and str(mask.arguments.get("key", "")).startswith("shared:") if mask is not None else False


def _compared(tree: exp.Expr, lineage: Lineage) -> Iterator[tuple[Base, Base]]:
    """Give every pair of base columns that the query compares with each other."""
    for node in tree.walk():
        sides: list[tuple[list[exp.Expr], list[exp.Expr]]] = []
        if isinstance(node, _COMPARISONS):
            sides.append(([node.this], [node.expression]))
        elif isinstance(node, exp.In):
            query = node.args.get("query")
            sides.append(([node.this], list(node.expressions) + ([query] if query is not None else [])))
        elif isinstance(node, exp.Between):
            sides.append(([node.this], [node.args["low"], node.args["high"]]))
        elif isinstance(node, exp.Intersect | exp.Except):
            sides += [([a], [b]) for a, b in zip(_projections(node.left), _projections(node.right), strict=False)]
        for left, right in sides:
            ours, theirs = _reads(left, lineage), _reads(right, lineage)
            yield from ((a, b) for a in sorted(ours) for b in sorted(theirs))


def _projections(query: exp.Expr) -> list[exp.Expr]:
    query = unwrap(query)
    if isinstance(query, exp.SetOperation):
        return _projections(query.left)
    return [item.unalias() for item in query.expressions] if isinstance(query, exp.Select) else []


def _reads(nodes: list[exp.Expr], lineage: Lineage) -> set[Base]:
    """Give the base columns whose values are compared; of a sub-query only what it selects counts."""
    found: set[Base] = set()
    for node in nodes:
        inner = unwrap(node)
        while isinstance(inner, exp.Any | exp.All):
            inner = unwrap(inner.this)
        if isinstance(inner, exp.SetOperation):
            found |= _reads([inner.left, inner.right], lineage)
        elif isinstance(inner, exp.Select):
            found |= _reads(_projections(inner), lineage)
        else:
            found |= _handed_on(inner, lineage)
    return found


def _handed_on(node: exp.Expr, lineage: Lineage) -> set[Base]:
    """Give the base columns whose own values an expression may hand on.

    What arithmetic computes is a number or a moment of its own, whatever was masked on the way: it is compared as such. A
    value that a key made is a text, on which no arithmetic works.
    """
    found: set[Base] = set()
    done: set[Base] = set()
    waiting = [node]
    while waiting:
        for item in waiting.pop().walk(prune=lambda item: isinstance(item, _COMPUTED)):
            key = (item.table, item.name) if isinstance(item, exp.Column) else None
            if key is None or not isinstance(item, exp.Column) or key in done:
                continue
            done.add(key)
            if item.table in lineage.leaves:
                found.add(key)
            waiting += lineage.definitions(item)
    return found

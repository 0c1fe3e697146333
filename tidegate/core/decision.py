"""The policy's answer as a value: version 1 of policies/schemas/decision.schema.json, and how two answers compose.

A decision is data. ``Decision.from_json`` trusts nothing: a missing key, an unknown key, an unknown mask or mode raises,
and whoever called must then refuse. ``intersect`` composes by taking the stricter of both in every field; it can only
tighten (property-tested).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from tidegate.core.agreement import ANY_MEMBER
from tidegate.core.errors import Code, Reason, error_for
from tidegate.core.frozen import frozen

Access = Literal["plain", "masked", "deny"]
Mode = Literal["closed", "aggregate_at_home", "aggregate", "match", "rows"]
MODES: tuple[Mode, ...] = ("closed", "match", "aggregate_at_home", "aggregate", "rows")  # strictest first
MASKS = ("null", "constant", "hash", "pseudonym", "truncate_date", "bucket", "last_n", "redact")
MASK_ARGUMENTS: Mapping[str, frozenset[str]] = frozen(
    {
        "null": frozenset(),
        "constant": frozenset({"value"}),
        "hash": frozenset({"key"}),
        "pseudonym": frozenset({"key"}),
        "truncate_date": frozenset({"unit"}),
        "bucket": frozenset({"width"}),
        "last_n": frozenset({"n"}),
        "redact": frozenset(),
    }
)


@dataclass(frozen=True, slots=True)
class Mask:
    """A mask of the fixed library with its arguments.

    Arguments by kind: constant ``value`` (string, integer or null); hash and pseudonym ``key`` (``node``, ``recipient``
    or ``shared:<id>``; optional, default ``node`` for hash, ``recipient`` for pseudonym); truncate_date ``unit`` (``year``,
    ``quarter``, ``month``, ``week``, ``day``, ``hour``); bucket ``width`` (positive integer); last_n ``n`` (1 to 16).
    """

    kind: str
    arguments: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Give the mask object."""
        return {"kind": self.kind, **self.arguments}


@dataclass(frozen=True, slots=True)
class ColumnRule:
    """What may be seen of one column. ``in_predicate_denied``: a masked column that no predicate, join or sort may read."""

    access: Access
    mask: Mask | None = None
    in_predicate_denied: bool = False

    def to_json(self) -> dict[str, Any]:
        """Give the rule object."""
        result: dict[str, Any] = {"access": self.access}
        if self.mask is not None:
            result["mask"] = self.mask.to_json()
        if self.in_predicate_denied:
            result["in_predicate"] = "deny"
        return result


DENY_COLUMN = ColumnRule("deny")


@dataclass(frozen=True, slots=True)
class Constraints:
    """What holds for the dataset as a whole. ``allowed_aggregates`` None: no restriction (mode rows only).

    ``keys_may_go_to``: members whose nodes may be given values of the dataset's columns that the caller may see, so that
    they need not send what joins with none of them; ``*`` for every member. Empty in every mode but ``rows``.
    """

    mode: Mode
    min_group_size: int
    count_entity: str
    allowed_aggregates: tuple[str, ...]
    max_rows: int
    key_lookup_only: bool
    keys_max: int
    keys_may_go_to: tuple[str, ...]

    def keys_may_go(self, member: str) -> bool:
        """Say whether keys of the dataset may go to a member's node."""
        return self.mode == "rows" and bool({member, ANY_MEMBER} & set(self.keys_may_go_to))

    def to_json(self) -> dict[str, Any]:
        """Give the constraints object."""
        return {
            "mode": self.mode,
            "min_group_size": self.min_group_size,
            "count_entity": self.count_entity,
            "allowed_aggregates": list(self.allowed_aggregates),
            "max_rows": self.max_rows,
            "key_lookup_only": self.key_lookup_only,
            "keys_max": self.keys_max,
            "keys_may_go_to": list(self.keys_may_go_to),
        }


@dataclass(frozen=True, slots=True)
class ResourceDecision:
    """The answer for one resource (one instance of a dataset).

    ``row_filter`` is a UCAST tree; ``{}`` means every row. Columns that are not named are denied.
    """

    allow: bool
    row_filter: Mapping[str, Any]
    columns: Mapping[str, ColumnRule]
    constraints: Constraints

    def rule(self, column: str) -> ColumnRule:
        """Give the rule of a column; a column that the answer does not name is denied."""
        return self.columns.get(column, DENY_COLUMN)

    @property
    def is_whole(self) -> bool:
        """True when every row and every named column passes unchanged, so that no barrier is needed."""
        return not self.row_filter and all(rule.access != "masked" for rule in self.columns.values())

    def to_json(self) -> dict[str, Any]:
        """Give the resource object."""
        return {
            "allow": self.allow,
            "row_filter": dict(self.row_filter),
            "columns": {name: rule.to_json() for name, rule in sorted(self.columns.items())},
            "constraints": self.constraints.to_json(),
        }


@dataclass(frozen=True, slots=True)
class Obligations:
    """What must happen beside the answer. Times are RFC 3339 or None."""

    expires_at: str | None = None
    cache_until: str | None = None
    watermark: bool = False
    notify_owner: bool = False

    def to_json(self) -> dict[str, Any]:
        """Give the obligations object."""
        return {
            "expires_at": self.expires_at,
            "cache_until": self.cache_until,
            "watermark": self.watermark,
            "notify_owner": self.notify_owner,
        }


@dataclass(frozen=True, slots=True)
class Decision:
    """The whole answer."""

    allow: bool
    reasons: tuple[Reason, ...]
    resources: Mapping[str, ResourceDecision]
    obligations: Obligations = Obligations()

    def to_json(self) -> dict[str, Any]:
        """Give the answer, version 1."""
        return {
            "version": 1,
            "allow": self.allow,
            "reasons": [reason.to_json() for reason in self.reasons],
            "resources": {ref: self.resources[ref].to_json() for ref in sorted(self.resources)},
            "obligations": self.obligations.to_json(),
        }

    def only(self, refs: tuple[str, ...]) -> Decision:
        """Give the part of the answer that concerns these resources."""
        return replace(self, resources=frozen({ref: self.resources[ref] for ref in refs}))

    def keys_may_go(self, refs: Iterable[str], member: str) -> bool:
        """Say whether keys of an answer over these resources may go to a member's node: every one of them permits it."""
        return self.allow and all(
            self.resources[ref].allow and self.resources[ref].constraints.keys_may_go(member) for ref in refs
        )

    @classmethod
    def from_json(cls, data: Any) -> Decision:
        """Read an answer, trusting nothing.

        Raises:
            InternalError: POLICY_UNAVAILABLE, whatever is wrong with it: the caller then refuses.
        """
        try:
            return _decision(data)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise error_for(Code.POLICY_UNAVAILABLE, detail=f"decision: not valid: {error!r}") from error


def _exact(data: Any, required: set[str], optional: frozenset[str] | set[str] = frozenset()) -> Mapping[str, Any]:
    if not isinstance(data, Mapping):
        raise TypeError("expected an object")
    keys = set(data)
    if required - keys or keys - required - optional:
        raise ValueError(f"missing {sorted(required - keys)} unknown {sorted(keys - required - set(optional))}")
    return data


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("expected true or false")
    return value


def _int(value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"expected an integer from {low} to {high}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("expected a string")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError("expected a list")
    return tuple(_text(item) for item in value)


def _decision(data: Any) -> Decision:
    data = _exact(data, {"version", "allow", "reasons", "resources", "obligations"})
    if data["version"] != 1 or isinstance(data["version"], bool):
        raise ValueError("version")
    duty = _exact(data["obligations"], {"expires_at", "cache_until", "watermark", "notify_owner"})
    times = [None if duty[key] is None else _text(duty[key]) for key in ("expires_at", "cache_until")]
    return Decision(
        allow=_bool(data["allow"]),
        reasons=tuple(_reason(item) for item in data["reasons"]),
        resources=frozen({_text(ref): _resource(item) for ref, item in data["resources"].items()}),
        obligations=Obligations(times[0], times[1], _bool(duty["watermark"]), _bool(duty["notify_owner"])),
    )


def _reason(data: Any) -> Reason:
    data = _exact(data, {"code", "text"}, {"ask_for", "decided_by"})
    return Reason(*(_text(data.get(key, "")) for key in ("code", "text", "ask_for", "decided_by")))


def _resource(data: Any) -> ResourceDecision:
    data = _exact(data, {"allow", "row_filter", "columns", "constraints"})
    if not isinstance(data["row_filter"], Mapping):
        raise TypeError("row_filter: expected an object; null means deny")
    return ResourceDecision(
        allow=_bool(data["allow"]),
        row_filter=frozen(dict(data["row_filter"])),
        columns=frozen({_text(name): _rule(item) for name, item in data["columns"].items()}),
        constraints=_constraints(data["constraints"]),
    )


def _rule(data: Any) -> ColumnRule:
    data = _exact(data, {"access"}, {"mask", "in_predicate"})
    access = data["access"]
    if access not in ("plain", "masked", "deny"):
        raise ValueError("access")
    if (access == "masked") != ("mask" in data):
        raise ValueError("a mask belongs to access masked, and only there")
    if data.get("in_predicate", "deny") != "deny":
        raise ValueError("in_predicate")
    mask = _mask(data["mask"]) if "mask" in data else None
    return ColumnRule(access, mask, "in_predicate" in data)


def _mask(data: Any) -> Mask:
    kind = data["kind"]
    if kind not in MASKS:
        raise ValueError("unknown mask")
    needed = MASK_ARGUMENTS[kind]
    optional = needed if kind in ("hash", "pseudonym") else frozenset()
    data = _exact(data, {"kind"} | set(needed - optional), set(optional))
    arguments = {key: value for key, value in data.items() if key != "kind"}
    if kind == "truncate_date" and arguments["unit"] not in ("year", "quarter", "month", "week", "day", "hour"):
        raise ValueError("unit")
    if kind == "bucket":
        _int(arguments["width"], 1, 10**12)
    if kind == "last_n":
        _int(arguments["n"], 1, 16)
    if kind == "constant" and not isinstance(arguments["value"], str | int | None):
        raise ValueError("value")
    if "key" in arguments:
        key = _text(arguments["key"])
        if key not in ("node", "recipient") and not key.startswith("shared:"):
            raise ValueError("key")
    return Mask(kind, frozen(arguments))


def _constraints(data: Any) -> Constraints:
    data = _exact(data, {item.name for item in fields(Constraints)})
    if data["mode"] not in MODES:
        raise ValueError("mode")
    return Constraints(
        mode=data["mode"],
        min_group_size=_int(data["min_group_size"], 1, 10**9),
        count_entity=_text(data["count_entity"]),
        allowed_aggregates=_texts(data["allowed_aggregates"]),
        max_rows=_int(data["max_rows"], 0, 10**12),
        key_lookup_only=_bool(data["key_lookup_only"]),
        keys_max=_int(data["keys_max"], 0, 10**9),
        keys_may_go_to=_texts(data["keys_may_go_to"]),
    )


def intersect(first: Decision, second: Decision) -> Decision:
    """Compose two answers; the result permits only what both permit.

    A resource that one of them does not name is denied. Two different masks on one column are a conflict: denied.
    """
    refs = sorted(set(first.resources) & set(second.resources))
    missing = set(first.resources) ^ set(second.resources)
    resources = {ref: _intersect_resource(first.resources[ref], second.resources[ref]) for ref in refs}
    reasons = first.reasons + tuple(reason for reason in second.reasons if reason not in first.reasons)
    expiries = [time for time in (first.obligations.expires_at, second.obligations.expires_at) if time is not None]
    caches = (first.obligations.cache_until, second.obligations.cache_until)
    return Decision(
        allow=first.allow and second.allow and not missing and all(item.allow for item in resources.values()),
        reasons=reasons,
        resources=frozen(resources),
        obligations=Obligations(
            expires_at=min(expiries) if expiries else None,
            cache_until=None if None in caches else min(time for time in caches if time is not None),
            watermark=first.obligations.watermark or second.obligations.watermark,
            notify_owner=first.obligations.notify_owner or second.obligations.notify_owner,
        ),
    )


def _intersect_resource(first: ResourceDecision, second: ResourceDecision) -> ResourceDecision:
    names = sorted(set(first.columns) & set(second.columns))
    return ResourceDecision(
        allow=first.allow and second.allow,
        row_filter=_and_filters(first.row_filter, second.row_filter),
        columns=frozen({name: _intersect_rule(first.columns[name], second.columns[name]) for name in names}),
        constraints=_intersect_constraints(first.constraints, second.constraints),
    )


def _and_filters(first: Mapping[str, Any], second: Mapping[str, Any]) -> Mapping[str, Any]:
    filters = [dict(item) for item in (first, second) if item]
    if len(filters) == 2 and filters[0] != filters[1]:
        return frozen({"type": "compound", "operator": "and", "value": filters})
    return frozen(filters[0] if filters else {})


def _intersect_rule(first: ColumnRule, second: ColumnRule) -> ColumnRule:
    denied = first.in_predicate_denied or second.in_predicate_denied
    if "deny" in (first.access, second.access):
        return DENY_COLUMN
    masks = [mask for mask in (first.mask, second.mask) if mask is not None]
    if not masks:
        return ColumnRule("plain", None, denied)
    if len(masks) == 2 and masks[0].to_json() != masks[1].to_json():
        return DENY_COLUMN
    return ColumnRule("masked", masks[0], denied)


def _intersect_constraints(first: Constraints, second: Constraints) -> Constraints:
    if first.count_entity != second.count_entity and first.mode != "rows" and second.mode != "rows":
        mode: Mode = "closed"  # two different units of protection cannot both be counted: refuse
    else:
        mode = MODES[min(MODES.index(first.mode), MODES.index(second.mode))]
    entity = first.count_entity if first.mode != "rows" else second.count_entity
    if first.mode == "rows" and second.mode != "rows":
        allowed = second.allowed_aggregates
    elif second.mode == "rows" and first.mode != "rows":
        allowed = first.allowed_aggregates
    else:
        allowed = tuple(name for name in first.allowed_aggregates if name in second.allowed_aggregates)
    return Constraints(
        mode=mode,
        min_group_size=max(first.min_group_size, second.min_group_size),
        count_entity=entity,
        allowed_aggregates=allowed,
        max_rows=min(first.max_rows, second.max_rows),
        key_lookup_only=first.key_lookup_only or second.key_lookup_only,
        keys_max=min(first.keys_max, second.keys_max),
        keys_may_go_to=_intersect_keys(first.keys_may_go_to, second.keys_may_go_to) if mode == "rows" else (),
    )


def _intersect_keys(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
    """Give the members that both name; ``*`` stands for all of them."""
    if ANY_MEMBER in first:
        return (ANY_MEMBER,) if ANY_MEMBER in second else second
    return first if ANY_MEMBER in second else tuple(name for name in first if name in second)

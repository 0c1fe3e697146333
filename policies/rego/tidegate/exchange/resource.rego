# One resource: base and overlays intersected into filter, columns and constraints, or refusals that explain themselves.
package tidegate.exchange

import rego.v1

assessment(r) := assessed(r, base(r, {c.name | some c in r.columns}), tightened(r), bearer_refusals(r))

assessed(r, b, _, unbound) := {"ref": r.ref, "refusals": refusals, "grounds": [], "expires_at": null, "resource": null} if {
	count(b.refusals) > 0
	refusals := array.concat(b.refusals, unbound)
}

assessed(r, b, t, unbound) := {
	"ref": r.ref,
	"refusals": array.concat(array.concat(unbound, t.refusals), array.concat(mode_refusals(r, mode), columns.refusals)),
	"grounds": array.concat(b.grounds, t.grounds),
	"expires_at": b.expires_at,
	"resource": {
		"allow": true,
		"row_filter": joined(distinct(array.concat([b.filter], t.filters))),
		"columns": columns.rules,
		"constraints": constraints(r, b, t, mode),
	},
} if {
	count(b.refusals) == 0
	mode := modes[least(array.concat([mode_rank[b.mode]], t.modes))]
	columns := columns_of(r, b, t, proposals(r, t))
}

# METADATA
# title: A bearer token may use what its owner marked for it
# description: |
#   A certificate is bound to the connection by its key; a token is shown by whoever holds it. A way to be bound that is not
#   known, or a dataset that does not say, leaves this undefined, and so the answer: a refusal.
# custom: {code: bearer_not_permitted, source: "design doors.md, Arrow Flight SQL"}
bearer_refusals(_) := [] if input.caller.bound == "certificate"

bearer_refusals(r) := [] if {
	input.caller.bound == "bearer"
	r.bearer_ok == true
}

bearer_refusals(r) := [{
	"code": "bearer_not_permitted",
	"text": sprintf("%s may not be used with a bearer token", [r.dataset]),
	"ask_for": "a connection with your certificate, such as `tidegate proxy`; or bearer_ok in the catalogue entry",
	"decided_by": sprintf("the steward of %s", [r.owner]),
}] if {
	input.caller.bound == "bearer"
	r.bearer_ok == false
}

modes := ["closed", "match", "aggregate_at_home", "aggregate", "rows"]

# --- rows -------------------------------------------------------------------------------------------------------

# Each filter once, in order; `{}` (every row) adds nothing.
distinct(list) := [f |
	some i
	f := list[i]
	f != {}
	count([j | some j; list[j] == f; j < i]) == 0
]

joined(list) := {} if count(list) == 0

joined(list) := list[0] if count(list) == 1

joined(list) := {"type": "compound", "operator": "and", "value": list} if count(list) > 1

# --- columns ----------------------------------------------------------------------------------------------------

sensitivity_rank := {"public": 0, "internal": 1, "restricted": 2, "secret": 3}

# Masks that the catalogue entry and the overlays propose, as pairs of column and mask.
proposals(r, t) := [[name, m] |
	some by in array.concat([r.masks], t.masks)
	some name
	m := by[name]
]

# METADATA
# title: What is shown of each column
# description: |
#   A column is shown when the caller is cleared for it, class or agreement gives it, no overlay denies it, and at most one
#   mask is proposed. A column that is not shown refuses the resource, for the query reads it; the first of the codes that
#   applies says why. Written over sets of names: a function call for each column would cost more than the whole rest.
# custom: {codes: [column_above_clearance, column_not_in_agreement, column_denied_by_overlay, column_mask_conflict]}
columns_of(r, b, t, proposed) := {
	"rules": object.union(object.union(plain, masked), object.union(plain_protected, masked_protected)),
	"refusals": column_refusals(r, shown, cleared, b.columns, forbidden),
} if {
	rank := sensitivity_rank[input.caller.clearance]
	cleared := {c.name | some c in r.columns; sensitivity_rank[c.sensitivity] <= rank}
	forbidden := {name | some name in t.deny}
	to_mask := {p[0] | some p in proposed}
	torn := {name | some name in to_mask; count({p[1] | some p in proposed; p[0] == name}) > 1}
	shown := (cleared & b.columns) - (forbidden | torn)
	protected := {name | some name in array.concat(r.predicate_deny, t.predicate_deny)}
	plain := {name: {"access": "plain"} | some name in ((shown - to_mask) - protected)}
	plain_protected := {name: {"access": "plain", "in_predicate": "deny"} | some name in ((shown - to_mask) & protected)}
	masked := {p[0]: {"access": "masked", "mask": p[1]} | some p in proposed; p[0] in (shown - protected)}
	masked_protected := {p[0]: {"access": "masked", "mask": p[1], "in_predicate": "deny"} |
		some p in proposed
		p[0] in (shown & protected)
	}
}

column_refusals(r, shown, _, _, _) := [] if count(shown) == count(r.columns)

column_refusals(r, shown, cleared, given, forbidden) := [refusal |
	some state in ["above_clearance", "not_in_agreement", "denied_by_overlay", "mask_conflict"]
	some c in r.columns
	c.name in hidden[state]
	refusal := object.union({"code": sprintf("column_%s", [state])}, explained(r, c, state))
] if {
	count(shown) != count(r.columns)
	named := {c.name | some c in r.columns}
	hidden := {
		"above_clearance": named - cleared,
		"not_in_agreement": (named & cleared) - given,
		"denied_by_overlay": ((named & cleared) & given) & forbidden,
		"mask_conflict": ((named & cleared) & given) - (shown | forbidden),
	}
}

explained(r, c, "above_clearance") := {
	"text": sprintf("%s of %s is %s; the caller is cleared for %s", [c.name, r.dataset, c.sensitivity, input.caller.clearance]),
	"ask_for": sprintf("clearance %s, or a query without the column", [c.sensitivity]),
	"decided_by": "the operator of the exchange",
}

explained(r, c, "not_in_agreement") := {
	"text": sprintf("the agreement about %s does not cover the column %s", [r.dataset, c.name]),
	"ask_for": sprintf("an agreement that covers %s, or a query without it", [c.name]),
	"decided_by": sprintf("the steward of %s", [r.owner]),
}

explained(r, c, "denied_by_overlay") := {
	"text": sprintf("the rules of %s do not show the column %s", [r.owner, c.name]),
	"ask_for": "a query without the column",
	"decided_by": sprintf("the steward of %s", [r.owner]),
}

explained(r, c, "mask_conflict") := {
	"text": sprintf("two rules mask the column %s of %s differently, so that it cannot be shown", [c.name, r.dataset]),
	"ask_for": "one mask for the column, or a query without it",
	"decided_by": sprintf("the steward of %s", [r.owner]),
}

# --- constraints ------------------------------------------------------------------------------------------------

constraints(r, b, t, mode) := {
	"mode": mode,
	"min_group_size": greatest(array.concat([b.min_group_size, group_size_min(mode)], t.group_sizes)),
	"count_entity": r.subject_column,
	"allowed_aggregates": [name | some name in data.tidegate.vocabulary.aggregates; in_every(name, t.allowed_aggregates)],
	"max_rows": least(array.concat([data.tidegate.vocabulary.limits.rows_max], t.max_rows)),
	"key_lookup_only": mode == "match",
	"keys_max": data.tidegate.vocabulary.limits.keys_max,
	"keys_may_go_to": keys_may_go_to(mode, array.concat([b.keys_may_go_to], t.keys_may_go_to)),
}

# METADATA
# title: Whose nodes may be given keys of the dataset
# description: |
#   Those that class or agreement and every overlay name; `*` stands for every member. Only where rows are shared: a key of
#   data that is shared in groups is a person.
keys_may_go_to(mode, _) := [] if mode != "rows"

keys_may_go_to("rows", lists) := ["*"] if count([list | some list in lists; "*" in list]) == count(lists)

keys_may_go_to("rows", lists) := [name |
	some i
	name := named[i]
	name != "*"
	count([list | some list in lists; named_or_any(name, list)]) == count(lists)
	count([j | some j; named[j] == name; j < i]) == 0
] if {
	count([list | some list in lists; "*" in list]) < count(lists)
	named := [name | some list in lists; some name in list]
}

named_or_any(name, list) if count([item | some item in list; item in [name, "*"]]) > 0

group_size_min(mode) := 1 if mode == "rows"

group_size_min(mode) := data.tidegate.vocabulary.limits.group_size_min if mode != "rows"

in_every(name, lists) if {
	count([list | some list in lists; name in list]) == count(lists)
}

# METADATA
# title: An overlay may close what class and agreement opened
# custom: {code: closed_by_overlay}
mode_refusals(r, "closed") := [{
	"code": "closed_by_overlay",
	"text": sprintf("the rules of %s close %s", [r.owner, r.dataset]),
	"ask_for": "an exception in the department's own rules",
	"decided_by": sprintf("the steward of %s", [r.owner]),
}]

# METADATA
# title: Groups can be counted only where the dataset says whom to count
# custom: {code: subject_unknown}
mode_refusals(r, mode) := [{
	"code": "subject_unknown",
	"text": sprintf("%s may be used in groups only, and it names no column of subjects to count", [r.dataset]),
	"ask_for": "a subject column in the catalogue entry",
	"decided_by": sprintf("the steward of %s", [r.owner]),
}] if {
	mode in ["aggregate", "aggregate_at_home"]
	r.subject_column == ""
}

mode_refusals(r, mode) := [] if {
	mode in ["aggregate", "aggregate_at_home"]
	r.subject_column != ""
}

mode_refusals(_, mode) := [] if mode in ["rows", "match"]

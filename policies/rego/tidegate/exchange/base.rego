# What class and agreement give, before any overlay tightens it.
package tidegate.exchange

import rego.v1

# METADATA
# title: Where the three classes lead
# description: An open dataset is granted at once, a conditional one by an agreement, a closed one never.
# custom: {code: class_closed, source: "State Council Order 809 (2025-08-01)"}
base(r, named) := {
	"mode": "rows",
	"min_group_size": 1,
	"filter": {},
	"columns": named,
	"keys_may_go_to": ["*"],
	"expires_at": null,
	"refusals": [],
	"grounds": [{"code": "class_open", "text": sprintf("%s is open to every member", [r.dataset])}],
} if {
	r.class == "open"
}

base(r, named) := covered(r, named, chosen(r, named)) if r.class == "conditional"

base(r, _) := nothing([{
	"code": "class_closed",
	"text": sprintf("%s is closed by law: %s", [r.dataset, r.citation]),
	"ask_for": "nothing; no agreement can open it",
	"decided_by": sprintf("the law (%s)", [r.citation]),
}]) if {
	r.class == "closed"
}

nothing(refusals) := {
	"mode": "closed",
	"min_group_size": 1,
	"filter": {},
	"columns": set(),
	"keys_may_go_to": [],
	"expires_at": null,
	"refusals": refusals,
	"grounds": [],
}

# METADATA
# title: The agreement that covers a resource
# description: |
#   One agreement covers one resource: the rows of one are never mixed with the columns of another. Of several, the one
#   that leaves the fewest columns uncovered wins, then the one with the wider mode, the smaller group, the lower id.
# custom: {source: "design policy.md, Principles"}
chosen(r, named) := narrowed([{"id": a.id, "mode": mode_rank[a.mode], "group": a.min_group_size, "open": count(open), "terms": a} |
	some a in input.agreements
	matches(a, r)
	a.expires_at > input.request.time
	open := named - {name | some name in a.columns}
])

narrowed(list) := [] if count(list) == 0

narrowed(list) := [last.terms] if {
	count(list) > 0
	fewest := least([c.open | some c in list])
	covering := [c | some c in list; c.open == fewest]
	widest := greatest([c.mode | some c in covering])
	wide := [c | some c in covering; c.mode == widest]
	smallest := least([c.group | some c in wide])
	small := [c | some c in wide; c.group == smallest]
	first := sort([c.id | some c in small])[0]
	last := [c | some c in small; c.id == first][0]
}

# rego-cpp 1.5.2 orders numbers as texts in `sort`, `min` and `max` (10 before 2); its operators compare them rightly.
least(list) := [n | some n in list; count([m | some m in list; m < n]) == 0][0]

greatest(list) := [n | some n in list; count([m | some m in list; m > n]) == 0][0]

mode_rank := {"closed": 0, "match": 1, "aggregate_at_home": 2, "aggregate": 3, "rows": 4}

matches(a, r) if {
	a.dataset == r.dataset
	a.grantee == input.caller.member
	input.request.purpose in a.purposes
	basis_fits(a)
}

basis_fits(a) if a.legal_basis == input.request.legal_basis

# A purpose that needs no legal basis is covered by whatever the agreement rests on. Only where the bundle's own vocabulary
# says that it needs none: in a registry every purpose has one, and a node cannot know whether its broker left it out.
basis_fits(_) if {
	input.request.legal_basis == ""
	input.registered == null
}

covered(r, named, agreements) := by_agreement(r, named, agreements[0]) if count(agreements) == 1

covered(r, _, agreements) := nothing([uncovered_refusal(r, [a.id | some a in input.agreements; matches(a, r)])]) if count(agreements) == 0

by_agreement(r, named, a) := {
	"mode": a.mode,
	"min_group_size": a.min_group_size,
	"filter": a.row_filter,
	"columns": named & {name | some name in a.columns},
	"keys_may_go_to": object.get(a, "keys_may_go_to", []),
	"expires_at": a.expires_at,
	"refusals": [],
	"grounds": [{
		"code": "agreement",
		"text": sprintf("agreement %s covers %s for the purpose %s until %s", [a.id, r.dataset, input.request.purpose, a.expires_at]),
	}],
}

# METADATA
# title: A conditional dataset needs an agreement in force
# custom: {code: agreement_expired}
uncovered_refusal(r, expired) := {
	"code": "agreement_expired",
	"text": sprintf("the agreement about %s has expired", [r.dataset]),
	"ask_for": sprintf("a renewed agreement about %s for the purpose %s", [r.dataset, input.request.purpose]),
	"decided_by": sprintf("the steward of %s", [r.owner]),
} if {
	count(expired) > 0
}

# METADATA
# title: A conditional dataset needs an agreement for this purpose and legal basis
# custom: {code: agreement_missing}
uncovered_refusal(r, expired) := {
	"code": "agreement_missing",
	"text": sprintf("%s is conditional, and no agreement covers this purpose and legal basis", [r.dataset]),
	"ask_for": sprintf("an agreement about %s for the purpose %s", [r.dataset, input.request.purpose]),
	"decided_by": sprintf("the steward of %s", [r.owner]),
} if {
	count(expired) == 0
}

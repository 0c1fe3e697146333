# METADATA
# title: The exchange's mandatory rules
# description: |
#   One answer for one whole query. Everything that the rules need is in `input` (policies/schemas/question.schema.json);
#   `data.tidegate.vocabulary` holds small vocabularies, `data.tidegate.bundle` names the revision and its overlays.
#   Nothing is allowed by default. Where a rule or an overlay gives no proper value, `answer` is undefined, and the decision
#   point refuses. Output is objects and arrays only, so that every engine prints it alike. What is computed once is handed
#   on as an argument: not every engine remembers the value of a rule or a function. Access is computed by positive sets and
#   counts. Not used, because rego-cpp 1.5.2 has been seen to go wrong there: `not` and `else` in nested functions, `every`
#   inside `every`, `min`, `max` and `sort` of numbers, object.union over a shared key.
# scope: package
package tidegate.exchange

import rego.v1

# METADATA
# title: The answer with the revision that made it
# entrypoint: true
answer := {"revision": data.tidegate.bundle.revision, "decision": decision(request_refusals, assessments)} if {
	input.version == 1
	overlays_well_formed
	assessments := [assessment(r) | some r in input.resources]
	count(assessments) == count(input.resources)
}

decision(request, assessments) := {
	"version": 1,
	"allow": count(refusals) == 0,
	"reasons": reasons(refusals, assessments),
	"resources": {a.ref: sealed(a, count(request)) | some a in assessments},
	"obligations": {
		"expires_at": earliest([a.expires_at | some a in assessments; a.expires_at != null]),
		"cache_until": cache_until,
		"watermark": false,
		"notify_owner": false,
	},
} if {
	refusals := array.concat(request, [reason | some a in assessments; some reason in a.refusals])
}

reasons(refusals, _) := refusals if count(refusals) > 0

reasons(refusals, assessments) := array.concat(request_grounds, [reason |
	some a in assessments
	some reason in a.grounds
]) if {
	count(refusals) == 0
}

# Times are of one fixed form (UTC, microseconds), so that their order is the order of their texts.
earliest(times) := null if count(times) == 0

earliest(times) := sort(times)[0] if count(times) > 0

sealed(a, request_count) := a.resource if request_count + count(a.refusals) == 0

# A refused resource shows nothing, whoever reads it and however.
sealed(a, request_count) := {
	"allow": false,
	"row_filter": {},
	"columns": {},
	"constraints": {
		"mode": "closed",
		"min_group_size": 1,
		"count_entity": "",
		"allowed_aggregates": [],
		"max_rows": 0,
		"key_lookup_only": true,
		"keys_max": 0,
		"keys_may_go_to": [],
	},
} if {
	request_count + count(a.refusals) > 0
}

# METADATA
# title: An example of a department's overlay
# description: |
#   Planners of other members see flights from the two city airports only, tail numbers as pseudonyms that differ from
#   recipient to recipient, and never more than a million rows. The rule in force lies with the department.
package tidegate.overlay.aviation

import rego.v1

# Nothing below looks at the time or the id of a request, so what it gives holds for the same question as long as any.
cache_until := "9999-12-31T23:59:59.999999Z"

restrictions := {r.ref: restriction(r) | some r in input.resources}

restriction(r) := {} if r.dataset != "aviation.flights"

restriction(r) := {
	"filters": [{"type": "field", "field": "origin", "operator": "in", "value": ["JFK", "LGA"]}],
	"masks": {"tailnum": {"kind": "pseudonym", "key": "recipient"}},
	"max_rows": 1000000,
} if {
	r.dataset == "aviation.flights"
	input.request.purpose == "operations.planning"
}

restriction(r) := {"masks": {"tailnum": {"kind": "pseudonym", "key": "recipient"}}} if {
	r.dataset == "aviation.flights"
	input.request.purpose != "operations.planning"
}

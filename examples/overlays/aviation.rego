# METADATA
# title: The aviation authority's own rule
# description: |
#   For planning, other members see flights from the two airports of the city alone, and tail numbers as pseudonyms that
#   differ from recipient to recipient.
package tidegate.overlay.aviation

import rego.v1

# Nothing below looks at the time or the id of a request, so what it gives holds for the same question as long as any.
cache_until := "9999-12-31T23:59:59.999999Z"

restrictions := {r.ref: restriction(r) | some r in input.resources}

default restriction(_) := {}

restriction(r) := {
	"filters": [{"type": "field", "field": "origin", "operator": "in", "value": ["JFK", "LGA"]}],
	"masks": {"tailnum": {"kind": "pseudonym", "key": "recipient"}},
	"max_rows": 1000000,
} if {
	r.dataset == "aviation.flights"
	input.request.purpose == "operations.planning"
}

# METADATA
# title: An example of a city-wide overlay
# description: |
#   Members outside the government see groups of at least twenty subjects, and nothing where nobody can be counted;
#   personal identifiers never stand in a predicate.
package tidegate.overlay.city

import rego.v1

# Nothing below looks at the time or the id of a request, so what it gives holds for the same question as long as any.
cache_until := "9999-12-31T23:59:59.999999Z"

restrictions := {r.ref: object.union(by_tier(r), by_element(r)) | some r in input.resources}

by_tier(_) := {} if input.caller.tier == "government"

by_tier(r) := {} if {
	input.caller.tier != "government"
	r.class == "open"
}

by_tier(r) := {"mode": "aggregate", "min_group_size": 20} if {
	input.caller.tier != "government"
	r.class != "open"
}

by_element(r) := {"predicate_deny": [c.name | some c in r.columns; startswith(c.element, "person.")]}

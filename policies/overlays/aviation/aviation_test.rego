package tidegate.overlay.aviation_test

import rego.v1

import data.tidegate.overlay.aviation

question(dataset, purpose) := {"resources": [{"ref": "r0", "dataset": dataset}], "request": {"purpose": purpose}}

test_planning_sees_two_airports if {
	r := aviation.restrictions.r0 with input as question("aviation.flights", "operations.planning")
	r.filters[0].value == ["JFK", "LGA"]
	r.max_rows == 1000000
}

test_tail_numbers_are_pseudonyms_for_every_purpose if {
	r := aviation.restrictions.r0 with input as question("aviation.flights", "research.statistics")
	r.masks.tailnum.kind == "pseudonym"
	not r.filters
}

test_other_datasets_are_left_alone if {
	r := aviation.restrictions.r0 with input as question("weather.hourly", "operations.planning")
	r == {}
}

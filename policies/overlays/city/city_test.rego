package tidegate.overlay.city_test

import rego.v1

import data.tidegate.overlay.city

question(tier, class) := {
	"caller": {"tier": tier},
	"resources": [{"ref": "r0", "class": class, "columns": [{"name": "id", "element": "person.id"}, {"name": "n", "element": ""}]}],
}

test_external_members_see_groups if {
	r := city.restrictions.r0 with input as question("external", "conditional")
	r.mode == "aggregate"
	r.min_group_size == 20
}

test_government_and_open_data_are_left_alone if {
	not city.restrictions.r0.mode with input as question("government", "conditional")
	not city.restrictions.r0.mode with input as question("external", "open")
}

test_personal_identifiers_stand_in_no_predicate if {
	r := city.restrictions.r0 with input as question("government", "open")
	r.predicate_deny == ["id"]
}

package tidegate.exchange_test

import rego.v1

import data.tidegate.exchange

resource := {
	"ref": "r0", "dataset": "aviation.flights", "owner": "aviation", "class": "conditional", "citation": "", "subject_column": "", "bearer_ok": false,
	"columns": [
		{"name": "origin", "type": "VARCHAR", "sensitivity": "public", "element": "", "used_as": ["group"]},
		{"name": "tailnum", "type": "VARCHAR", "sensitivity": "restricted", "element": "", "used_as": ["output"]},
	],
	"masks": {"tailnum": {"kind": "redact"}}, "predicate_deny": [],
	"fields": {"origin": "VARCHAR", "tailnum": "VARCHAR"},
}

agreement := {
	"id": "a1", "dataset": "aviation.flights", "grantee": "health", "purposes": ["epidemic.control"], "legal_basis": "law.a",
	"columns": ["origin", "tailnum"], "mode": "rows", "min_group_size": 1, "row_filter": {}, "expires_at": "2027-01-01T00:00:00.000000Z",
}

question := {
	"version": 1,
	"caller": {"member": "health", "kind": "service", "name": "triage", "roles": ["analyst"], "clearance": "restricted", "tier": "government", "bound": "certificate"},
	"request": {
		"id": "q", "time": "2026-11-21T10:00:00.000000Z", "purpose": "epidemic.control",
		"legal_basis": "law.a", "door": "cli", "emergency": null,
	},
	"registered": true, "resources": [resource], "agreements": [agreement], "query": {},
}

changed(patch) := object.union(question, patch)

codes(q) := [reason.code | some reason in answered(q).reasons]

answered(q) := d if {
	a := exchange.answer with input as q with data.tidegate.bundle as {"revision": "test", "overlays": []}
	d := a.decision
}

test_agreement_opens if {
	d := answered(changed({}))
	d.allow == true
	d.resources.r0.columns.tailnum == {"access": "masked", "mask": {"kind": "redact"}}
	d.resources.r0.columns.origin == {"access": "plain"}
	d.obligations.expires_at == agreement.expires_at
}

test_nothing_without_agreement if {
	codes(changed({"agreements": []})) == ["agreement_missing"]
}

test_expired_agreement_opens_nothing if {
	codes(changed({"agreements": [object.union(agreement, {"expires_at": "2026-11-21T10:00:00.000000Z"})]})) == ["agreement_expired"]
}

test_agreement_of_another_grantee_opens_nothing if {
	codes(changed({"agreements": [object.union(agreement, {"grantee": "police"})]})) == ["agreement_missing"]
}

test_agreement_for_another_purpose_opens_nothing if {
	codes(changed({"agreements": [object.union(agreement, {"purposes": ["traffic.control"]})]})) == ["agreement_missing"]
}

test_agreement_on_another_legal_basis_opens_nothing if {
	codes(changed({"agreements": [object.union(agreement, {"legal_basis": "law.b"})]})) == ["agreement_missing"]
}

test_column_outside_the_agreement_refuses if {
	codes(changed({"agreements": [object.union(agreement, {"columns": ["origin"]})]})) == ["column_not_in_agreement"]
}

test_clearance_below_sensitivity_refuses if {
	codes(changed({"caller": {"clearance": "internal"}})) == ["column_above_clearance"]
}

test_closed_is_closed_whatever_was_agreed if {
	d := answered(changed({"resources": [object.union(resource, {"class": "closed", "citation": "Secrets Act 9"})]}))
	d.allow == false
	d.reasons[0].code == "class_closed"
	contains(d.reasons[0].text, "Secrets Act 9")
	d.resources.r0.columns == {}
}

test_open_needs_no_agreement if {
	answered(changed({"agreements": [], "resources": [object.union(resource, {"class": "open"})]})).allow == true
}

test_unregistered_purpose_refuses if {
	codes(changed({"registered": false})) == ["purpose_unknown", "legal_basis_unknown"]
}

test_node_and_broker_identities_do_not_query if {
	codes(changed({"caller": {"kind": "node"}})) == ["caller_kind"]
}

test_query_needs_the_role if {
	codes(changed({"caller": {"roles": ["auditor"]}})) == ["role_missing"]
}

test_emergency_opens_nothing if {
	codes(changed({"request": {"emergency": "flood"}})) == ["emergency_unavailable"]
}

test_groups_without_subject_refuse if {
	codes(changed({"agreements": [object.union(agreement, {"mode": "aggregate"})]})) == ["subject_unknown"]
}

test_missing_overlay_leaves_no_answer if {
	not exchange.answer with input as changed({}) with data.tidegate.bundle as {"revision": "test", "overlays": ["absent"]}
}

test_unknown_version_has_no_answer if {
	not exchange.answer with input as changed({"version": 2}) with data.tidegate.bundle as {"revision": "test", "overlays": []}
}

test_a_bearer_is_refused_where_the_owner_did_not_mark_the_dataset if {
	codes(changed({"caller": {"bound": "bearer"}})) == ["bearer_not_permitted"]
}

test_a_bearer_may_use_a_marked_dataset_as_anybody_else if {
	marked := object.union(resource, {"bearer_ok": true})
	answered(changed({"caller": {"bound": "bearer"}, "resources": [marked]})).allow == true
	codes(changed({"caller": {"bound": "bearer"}, "resources": [marked], "agreements": []})) == ["agreement_missing"]
}

test_one_unmarked_dataset_refuses_the_whole_query_of_a_bearer if {
	marked := object.union(resource, {"bearer_ok": true})
	other := object.union(resource, {"ref": "r1"})
	codes(changed({"caller": {"bound": "bearer"}, "resources": [marked, other]})) == ["bearer_not_permitted"]
}

test_a_bearer_is_told_everything_that_is_missing_at_once if {
	codes(changed({"caller": {"bound": "bearer"}, "agreements": []})) == ["agreement_missing", "bearer_not_permitted"]
}

test_no_answer_for_a_caller_that_is_bound_in_no_known_way if {
	count([1 | answered(changed({"caller": {"bound": "cookie"}}))]) == 0
	count([1 | answered(json.remove(question, ["/caller/bound"]))]) == 0
	count([1 | answered(question)]) == 1
}

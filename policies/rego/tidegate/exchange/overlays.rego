# Overlays tighten, and may not fall silent.
#
# An overlay is the package `tidegate.overlay.<name>` with `restrictions`: an object with one entry for EVERY resource of
# the question, by its ref. An entry may hold `filters`, `deny`, `masks`, `predicate_deny`, `mode`, `min_group_size`,
# `max_rows`, `allowed_aggregates`, `keys_may_go_to` and `refuse`; `{}` adds nothing. All of it is intersected, so it can only tighten. An
# overlay that is missing, gives no entry, or misspells a key leaves the answer undefined, which is a refusal.
package tidegate.exchange

import rego.v1

overlay_keys := {"filters", "deny", "masks", "predicate_deny", "mode", "min_group_size", "max_rows", "allowed_aggregates", "keys_may_go_to", "refuse"}

default overlays_well_formed := false

# Counted, because rego-cpp 1.5.2 gives no value for `every` inside `every`.
overlays_well_formed if {
	is_array(data.tidegate.bundle.overlays)
	good := [name |
		some name in data.tidegate.bundle.overlays
		some r in input.resources
		well_formed(data.tidegate.overlay[name].restrictions[r.ref])
	]
	count(good) == count(data.tidegate.bundle.overlays) * count(input.resources)
}

well_formed(t) if {
	is_object(t)
	count(object.keys(t) - overlay_keys) == 0
	objects(object.get(t, "filters", []))
	texts(object.get(t, "deny", []))
	texts(object.get(t, "predicate_deny", []))
	texts(object.get(t, "allowed_aggregates", []))
	texts(object.get(t, "keys_may_go_to", []))
	is_object(object.get(t, "masks", {}))
	objects([m | some m in object.get(t, "masks", {})])
	mode_rank[object.get(t, "mode", "rows")] >= 0
	whole(object.get(t, "min_group_size", 1), 1)
	whole(object.get(t, "max_rows", 0), 0)
	objects(object.get(t, "refuse", []))
}

objects(list) if {
	is_array(list)
	count([item | some item in list; is_object(item)]) == count(list)
}

texts(list) if {
	is_array(list)
	count([item | some item in list; is_string(item)]) == count(list)
}

whole(number, low) if {
	is_number(number)
	number >= low
	floor(number) == number
}

# What the overlays add to one resource, gathered: lists to unite, bounds to take the strictest of.
tightened(r) := gathered(
	[{"name": name, "by": data.tidegate.overlay[name].restrictions[r.ref]} |
		some name in data.tidegate.bundle.overlays
	],
	r,
)

gathered(list, r) := {
	"filters": [f | some t in list; some f in object.get(t.by, "filters", [])],
	"deny": [name | some t in list; some name in object.get(t.by, "deny", [])],
	"predicate_deny": [name | some t in list; some name in object.get(t.by, "predicate_deny", [])],
	"masks": [object.get(t.by, "masks", {}) | some t in list; object.get(t.by, "masks", {}) != {}],
	"modes": [mode_rank[t.by.mode] | some t in list; t.by.mode],
	"group_sizes": [t.by.min_group_size | some t in list; t.by.min_group_size],
	"max_rows": [t.by.max_rows | some t in list; is_number(t.by.max_rows)],
	"allowed_aggregates": [t.by.allowed_aggregates | some t in list; t.by.allowed_aggregates],
	"keys_may_go_to": [t.by.keys_may_go_to | some t in list; t.by.keys_may_go_to],
	"refusals": [reason | some t in list; some reason in object.get(t.by, "refuse", [])],
	"grounds": [ground |
		some t in list
		t.by != {}
		text := sprintf("the overlay %s tightens %s", [t.name, r.dataset])
		ground := {"code": "overlay", "text": text}
	],
}

# How long an answer holds for the same question, asked again under another id and at a later time.
#
# These rules look at the time in one way only: an agreement that has expired permits nothing. So an answer holds until the
# first agreement of the question ends, and never beyond the hour. What an overlay looks at is not known here: each must say
# itself until when its `restrictions` hold (`cache_until`, UTC with microseconds; a far year for "always"). One that says
# nothing, or says it in another form, forbids keeping the answer at all.
package tidegate.exchange

import rego.v1

cache_until := null if count(overlays_until) != count(data.tidegate.bundle.overlays)

cache_until := earliest(array.concat(array.concat(overlays_until, agreements_until), [hour_end])) if {
	count(overlays_until) == count(data.tidegate.bundle.overlays)
}

overlays_until := [text |
	some name in data.tidegate.bundle.overlays
	text := data.tidegate.overlay[name].cache_until
	is_moment(text)
]

agreements_until := [a.expires_at | some a in input.agreements; a.expires_at > input.request.time]

# Times are of one fixed form, so that the end of an hour is a text too.
hour_end := sprintf("%s:59:59.999999Z", [substring(input.request.time, 0, 13)])

is_moment(text) if {
	is_string(text)
	count(text) == 27
	substring(text, 10, 1) == "T"
	substring(text, 19, 1) == "."
	substring(text, 26, 1) == "Z"
}

# Who asks, and for what: rules that hold for the request as a whole.
package tidegate.exchange

import rego.v1

request_refusals := array.concat(
	array.concat(purpose_refusals, legal_basis_refusals),
	array.concat(array.concat(kind_refusals, role_refusals), emergency_refusals),
)

request_grounds := [{
	"code": "purpose_registered",
	"text": sprintf("the purpose %s is registered", [input.request.purpose]),
}]

# METADATA
# title: The purpose must be registered
# custom: {code: purpose_unknown, source: "design policy.md, purposes and legal bases are a registry"}
purpose_refusals := [] if purpose_known

purpose_refusals := [{
	"code": "purpose_unknown",
	"text": "the purpose is not in the exchange's registry",
	"ask_for": "a registered purpose; list them with `tidegate purposes list`",
	"decided_by": "the operator of the exchange",
}] if {
	not purpose_known
}

default purpose_known := false

purpose_known if input.registered == true

purpose_known if {
	input.registered == null
	is_object(data.tidegate.vocabulary.purposes[input.request.purpose])
}

# METADATA
# title: The legal basis must be one that is registered for the purpose
# custom: {code: legal_basis_unknown, source: "design policy.md, purposes and legal bases are a registry"}
legal_basis_refusals := [] if legal_basis_known

legal_basis_refusals := [{
	"code": "legal_basis_unknown",
	"text": "the legal basis is not one that is registered for this purpose",
	"ask_for": "a legal basis of the purpose; list them with `tidegate purposes list`",
	"decided_by": "the operator of the exchange",
}] if {
	not legal_basis_known
}

default legal_basis_known := false

legal_basis_known if input.registered == true

legal_basis_known if {
	input.registered == null
	input.request.legal_basis in data.tidegate.vocabulary.purposes[input.request.purpose].legal_bases
}

legal_basis_known if {
	input.registered == null
	count(data.tidegate.vocabulary.purposes[input.request.purpose].legal_bases) == 0
}

# METADATA
# title: Only services and persons ask; nodes and brokers carry
# custom: {code: caller_kind}
kind_refusals := [] if kind_may_ask

kind_refusals := [{
	"code": "caller_kind",
	"text": "this kind of identity may not query",
	"ask_for": "a certificate of a service or a person",
	"decided_by": "the operator of the exchange",
}] if {
	not kind_may_ask
}

default kind_may_ask := false

kind_may_ask if input.caller.kind in data.tidegate.vocabulary.kinds_that_may_query

# METADATA
# title: A query needs the role for it
# custom: {code: role_missing}
role_refusals := [] if role_held

role_refusals := [{
	"code": "role_missing",
	"text": "a query needs the role analyst",
	"ask_for": "the role analyst, granted with `tidegate member role`",
	"decided_by": "the operator of the exchange",
}] if {
	not role_held
}

default role_held := false

role_held if {
	some role in input.caller.roles
	role in data.tidegate.vocabulary.roles_that_may_query
}

# METADATA
# title: No emergency package is in force
# description: Packages are prepared agreements; there is no rule that would let the flag alone open anything.
# custom: {code: emergency_unavailable}
emergency_refusals := [] if no_emergency

emergency_refusals := [{
	"code": "emergency_unavailable",
	"text": "no emergency package covers this request",
	"ask_for": "an ordinary request",
	"decided_by": "the operator of the exchange",
}] if {
	not no_emergency
}

default no_emergency := false

no_emergency if input.request.emergency == null

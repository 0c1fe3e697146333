"""Everything about rules: the Rego bundle with its tests, the engines that evaluate it, and the decision point.

``bundle`` loads the exchange's rules and a department's overlays; ``engines`` evaluate them (embedded, or a real OPA
server); ``question`` makes the one question of a query; ``point`` asks it and trusts no part of the answer.
"""

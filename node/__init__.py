"""The department's own gate: keeps the data, admits, decides again, restricts, records, executes, signs and streams.

A node believes nothing that it can know itself: it checks the grant, re-parses the fragment, decides from its own
agreements, metadata and overlay, and restricts the fragment itself by the intersection of both decisions.
"""

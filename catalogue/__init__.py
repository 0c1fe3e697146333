"""The catalogue: who offers what under which terms, who takes part, and what was agreed.

Stands below broker and node and above policies, audit and engine. ``database`` opens the store, ``store`` is the
catalogue itself, ``members`` the directory of members and identities, ``wire`` the gRPC service.
"""

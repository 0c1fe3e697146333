"""The engine room: locked-down worker processes that broker and node share; a caller's SQL never runs outside of them.

``engine.pool`` runs queries in DuckDB workers, ``engine.planning`` runs pure planning functions in killable processes.
Neither kind of process holds a key, reaches the network, or outlives its parent.
"""

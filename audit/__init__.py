"""The transparency log: entries, durable writer, tiles and checkpoints, side store, search.

Beside ``policies`` and ``engine``, above ``tidegate``: broker and node each keep a log with it. The formats are those
of ``tidegate.tlog``; here is what makes them durable and searchable.
"""

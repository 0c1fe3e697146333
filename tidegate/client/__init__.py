"""The Python client: ``tidegate.connect()`` gives a session with a catalogue, queries and receipts.

It runs on Linux, macOS and Windows: nothing POSIX-only in here.
"""

"""Benchmarks: commands that any user can run (``python -m benchmarks.tpch --help``); they print JSON and a table for people."""

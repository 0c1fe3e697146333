"""A node's configuration for the tables of a PostgreSQL schema: what a department starts from, and what benchmarks serve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from node.config import Mode
from node.postgres import PostgresSource


def datasets_of(
    url: str, *, mode: Mode = "live", schema: str = "public", tables: Sequence[str] = (), **words: Any
) -> list[Mapping[str, Any]]:
    """Give one ``[[dataset]]`` table for each table of a schema.

    Args:
        tables: which of them; empty means all.
        words: of every dataset besides (``class``, ``refresh``, ``freshness`` ...).

    Raises:
        PeerError: NODE_SOURCE_AWAY, NODE_EXECUTE. CallerError: CONFIG_INVALID, the driver is not installed.
    """
    source = PostgresSource(url, statement_timeout_s=60)
    try:
        found = source.tables(schema)
    finally:
        source.close()
    kept = [name for name in found if not tables or name in tables]
    return [
        {"name": name, "source": "postgres", "url": url, "table": f"{schema}.{name}", "mode": mode, **words}
        for name in kept
    ]

"""A real PostgreSQL for tests: thrown away at the end, on a free loopback port, run as its own user under root."""

from __future__ import annotations

import atexit
import functools
import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psycopg
from psycopg import sql

from examples import postgres

MISSING = "PostgreSQL is not installed (Debian: apt-get install postgresql)"


@contextmanager
def postgres_server() -> Iterator[str | None]:
    """Run a server for the length of the block and give its URL (``postgresql://...``), or None when not installed.

    With TIDEGATE_REQUIRE_ALL=1 a missing server is a failure instead.
    """
    with postgres.postgres_server() as url:
        assert url is not None or os.environ.get("TIDEGATE_REQUIRE_ALL") != "1", MISSING
        yield url


@functools.cache
def postgres_url() -> str | None:
    """Give the URL of one server for this whole test process, started at the first call and stopped at its end."""
    stack = ExitStack()
    url = stack.enter_context(postgres_server())
    atexit.register(stack.close)
    return url


def fresh_database(server_url: str, *, template: str = "template1") -> str:
    """Make a database on the server, empty or a copy of another one, and give its URL."""
    name = f"t{secrets.token_hex(8)}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        connection.execute(statement.format(sql.Identifier(name), sql.Identifier(template)))
    return f"{server_url.rpartition('/')[0]}/{name}"

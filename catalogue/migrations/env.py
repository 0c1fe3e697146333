"""Alembic's environment: runs the revisions on the connection, and in the transaction, of ``catalogue.database``."""

from __future__ import annotations

from alembic import context

from catalogue.tables import METADATA


def run() -> None:
    """Run the migrations; there is no offline mode, so no URL is ever read from a file."""
    connection = context.config.attributes["connection"]
    context.configure(connection=connection, target_metadata=METADATA)
    with context.begin_transaction():
        context.run_migrations()


run()

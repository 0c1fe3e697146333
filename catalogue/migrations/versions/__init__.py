"""Alembic migrations of the catalogue's database; a revision that was released is never edited."""

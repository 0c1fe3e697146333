"""Open the catalogue's database, and the two kinds of transaction that everything in it uses.

SQLite (a file; WAL, synchronous=FULL) is the default, PostgreSQL comes by URL. ``reading`` sees one snapshot;
``writing`` counts a generation counter up before anything else, so that writers of one counter queue behind each other
on both engines and readers can tell from one number whether their caches are still true.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy import Connection, Engine, create_engine, event, select, text, update
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, OperationalError, ProgrammingError, SQLAlchemyError

from catalogue.tables import COUNTERS
from tidegate.core.errors import Code, error_for

CATALOGUE: Final = "catalogue"
MEMBERS: Final = "members"

SQLITE_BUSY_MS = 10_000  # a writer waits this long for another before it gives up
POSTGRES_CONNECT_S = 10
POSTGRES_STATEMENT_MS = (
    30_000  # nothing in a catalogue takes half a minute; a stuck lock must not hold a request thread
)
POOL_SIZE = 5
POOL_OVERFLOW = 27  # together 32, the callers' listener has no more threads at work in the catalogue
_MIGRATION_LOCK = 0x7469_6465_6761_7465  # "tidegate": PostgreSQL's advisory lock for two brokers that start at once
_WRITES = "tidegate_writes"


def open_database(url: str) -> Engine:
    """Open the database, make or upgrade its tables, and give the engine.

    Args:
        url: ``sqlite:///relative.db``, ``sqlite:////absolute.db`` or ``postgresql://user:password@host:port/database``.

    Raises:
        CallerError: CONFIG_INVALID; the URL is not one of these, or the database is of a newer version.
        InternalError: the database cannot be reached.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise error_for(Code.CONFIG_INVALID, "catalogue database: not a database URL") from error
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        engine = _open_sqlite(parsed)
    elif backend == "postgresql":
        engine = _open_postgresql(parsed)
    else:
        raise error_for(Code.CONFIG_INVALID, "catalogue database: expected a URL of sqlite or postgresql")
    try:
        _upgrade(engine)
    except BaseException:
        engine.dispose()
        raise
    return engine


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Give a connection that sees one snapshot and changes nothing."""
    with _translated():
        connection = engine.connect()
        if engine.dialect.name == "postgresql":
            connection = connection.execution_options(isolation_level="REPEATABLE READ")
        with connection, connection.begin():
            yield connection


@contextmanager
def writing(engine: Engine, *counters: str) -> Iterator[Connection]:
    """Give a connection whose changes all happen, or none does, and count the generations up.

    The first statement locks the counters' rows (PostgreSQL) or the database (SQLite, BEGIN IMMEDIATE) until the
    commit: of two writers the second sees all that the first did. Name several counters always in the order
    CATALOGUE, MEMBERS: two orders would be a deadlock.
    """
    with _translated(), engine.connect().execution_options(**{_WRITES: True}) as connection, connection.begin():
        for counter in counters:
            connection.execute(update(COUNTERS).where(COUNTERS.c.name == counter).values(value=COUNTERS.c.value + 1))
        yield connection


def generation(connection: Connection, counter: str) -> int:
    """Give the counter's number: equal numbers mean that nothing has changed."""
    return int(connection.execute(select(COUNTERS.c.value).where(COUNTERS.c.name == counter)).scalar_one())


def _told(error: SQLAlchemyError) -> str:
    """Say for the log what went wrong: never the statement, whose parameters name persons, nor a text that quotes a row."""
    kind = type(error).__name__
    if isinstance(error, OperationalError | ProgrammingError):
        return f"{kind}: {str(error.orig).splitlines()[0][:300] if str(error.orig) else ''}"
    return kind


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        raise error_for(Code.INTERNAL, "the catalogue's database does not answer", detail=_told(error)) from error


def _open_sqlite(url: URL) -> Engine:
    if not url.database or url.database == ":memory:" or url.query:
        raise error_for(Code.CONFIG_INVALID, "catalogue database: SQLite needs the path of a file")
    path = Path(url.database)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise error_for(
            Code.CONFIG_INVALID, "catalogue database: the file cannot be opened", detail=str(error)
        ) from error
    engine = create_engine(url, pool_size=POOL_SIZE, max_overflow=POOL_OVERFLOW)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver must not begin transactions of its own; _begin_sqlite does
    for pragma in (
        f"busy_timeout={SQLITE_BUSY_MS}",
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        "trusted_schema=OFF",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads first and writes later would fail with "database is locked" instead of waiting.
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _open_postgresql(url: URL) -> Engine:
    try:
        return create_engine(
            url.set(drivername="postgresql+psycopg"),
            pool_size=POOL_SIZE,
            max_overflow=POOL_OVERFLOW,
            pool_pre_ping=True,
            connect_args={
                "connect_timeout": POSTGRES_CONNECT_S,
                "options": f"-c statement_timeout={POSTGRES_STATEMENT_MS} -c TimeZone=UTC",
            },
        )
    except ModuleNotFoundError as error:
        message = "catalogue database: PostgreSQL's driver is not installed; pip install 'tidegate-exchange[postgres]'"
        raise error_for(Code.CONFIG_INVALID, message) from error


def _upgrade(engine: Engine) -> None:
    config = Config()
    config.set_main_option("script_location", "catalogue:migrations")
    with writing(engine) as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK})
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise error_for(
                Code.CONFIG_INVALID, "catalogue database: made by a newer version of Tidegate", detail=str(error)
            ) from error

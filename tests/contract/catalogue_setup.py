"""What the catalogue's contract suites share: the two databases that they run on, a clock that is held, datasets."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from sqlalchemy import Engine

from catalogue.database import open_database
from catalogue.members import MemberDirectory
from catalogue.purposes import Purpose
from catalogue.store import Catalogue
from tests.postgres import MISSING, fresh_database, postgres_url
from tidegate.core.dataset import Column, Dataset, DatasetClass
from tidegate.core.names import DatasetName

DATABASES = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]
EXCHANGE = "spiffe://city.example/member"


class HeldClock:
    """Time that moves only when a test moves it."""

    def __init__(self) -> None:
        self.moment = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
        self.elapsed_s = 0.0

    def now(self) -> datetime:
        return self.moment

    def monotonic_s(self) -> float:
        return self.elapsed_s

    def advance(self, **delta: float) -> None:
        step = timedelta(**delta)
        self.moment += step
        self.elapsed_s += step.total_seconds()


def database_url(kind: str, folder: Path) -> str:
    """Give the URL of an empty database of that kind, or skip the test with a clear word."""
    if kind == "sqlite":
        return f"sqlite:///{folder / 'catalogue.db'}"
    server = postgres_url()
    if server is None:
        if os.environ.get("TIDEGATE_REQUIRE_ALL") == "1":
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    return fresh_database(server)


@functools.cache
def _postgres_template() -> str:
    """Make the tables once for each test process; every test gets a copy of them."""
    server = postgres_url()
    assert server is not None
    url = fresh_database(server)
    open_database(url).dispose()
    return url.rpartition("/")[2]


@functools.cache
def _sqlite_template() -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "catalogue.db"
        open_database(f"sqlite:///{path}").dispose()
        return path.read_bytes()  # the last connection has put the WAL into the file


@contextmanager
def opened(kind: str, folder: Path) -> Iterator[Engine]:
    """Open a catalogue's database that is empty save for its tables."""
    server = postgres_url() if kind == "postgresql" else None
    copied = server is not None
    url = fresh_database(str(server), template=_postgres_template()) if copied else database_url(kind, folder)
    if kind == "sqlite":
        (folder / "catalogue.db").write_bytes(_sqlite_template())
        (folder / "catalogue.db").chmod(0o600)
    engine = open_database(url)
    try:
        yield engine
    finally:
        engine.dispose()


def city(engine: Engine, clock: HeldClock, **options: Any) -> tuple[Catalogue, MemberDirectory]:
    """Give a catalogue with four members and two purposes."""
    directory = MemberDirectory(engine, clock)
    for name in ("aviation", "weather", "health", "east"):
        directory.add_member(name, name.title(), "government")
    catalogue = Catalogue(engine, clock, signers=directory, **options)
    catalogue.add_purpose(Purpose("traffic.planning", "Traffic planning", ("law.roads",)))
    catalogue.add_purpose(Purpose("epidemic.control", "Epidemic control", ("law.health", "order.809")))
    return catalogue, directory


def dataset(name: str, **changes: Any) -> Dataset:
    """Give a dataset that is valid, with the changes."""
    parsed = DatasetName.parse(name)
    values: dict[str, Any] = {
        "name": parsed,
        "owner": parsed.department,
        "node": "n1",
        "title": parsed.name,
        "dataset_class": DatasetClass.CONDITIONAL,
        "columns": (Column("id", "BIGINT"), Column("value", "DOUBLE")),
    }
    return Dataset(**(values | changes))

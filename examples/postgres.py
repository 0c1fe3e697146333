"""A PostgreSQL server of one's own for an example: real, on a free loopback port, thrown away at the end.

The server refuses root, so under root it runs as the user that Debian's package made.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

START_S_MAX = 60.0
_SETTINGS = {
    "unix_socket_directories": "",
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "64MB",
    "max_connections": "60",
    "timezone": "UTC",
}


class PostgresError(Exception):
    """The server did not come up."""


def binaries() -> Path | None:
    """Give the folder of ``initdb`` and ``postgres``: from PATH, else where Debian puts them; the newest version."""
    found = shutil.which("initdb")
    if found and (Path(found).resolve().parent / "postgres").exists():
        return Path(found).resolve().parent
    folders = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return max(folders, key=lambda folder: float(folder.parent.name)) if folders else None


@contextmanager
def postgres_server(settings: Mapping[str, str] | None = None) -> Iterator[str | None]:
    """Run a server for the length of the block and give its URL (``postgresql://...``), or None when not installed.

    Args:
        settings: of the server (``shared_buffers``, ...), beside or instead of the usual ones, which suit small data.
    """
    folder = binaries()
    if folder is None:
        yield None
        return
    user = "postgres" if os.geteuid() == 0 else None
    data = Path(tempfile.mkdtemp(prefix="tidegate-postgres-"))
    try:
        password = secrets.token_hex(16)
        _initialise(folder, data, user, password)
        process, url = _start(folder, data, user, password, {**_SETTINGS, **(settings or {})})
        try:
            yield url
        finally:
            process.send_signal(signal.SIGINT)  # "fast": SIGTERM would wait for the clients to go
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    finally:
        shutil.rmtree(data, ignore_errors=True)


def _initialise(folder: Path, data: Path, user: str | None, password: str) -> None:
    secret = data / "password"
    secret.write_text(password + "\n")
    if user is not None:
        record = pwd.getpwnam(user)
        for path in (data, secret):
            os.chown(path, record.pw_uid, record.pw_gid)
    command = [str(folder / "initdb"), "-D", str(data / "data"), "-U", "tidegate", "-A", "scram-sha-256"]
    command += [f"--pwfile={secret}", "--no-sync", "-E", "UTF8", "--locale=C.UTF-8"]
    done = subprocess.run(command, user=user, cwd=data, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise PostgresError(f"initdb failed: {done.stderr}")


def _start(
    folder: Path, data: Path, user: str | None, password: str, settings: Mapping[str, str]
) -> tuple[subprocess.Popen[bytes], str]:
    for _ in range(5):  # another process may take the free port before the server does
        port = _free_port()
        command = [str(folder / "postgres"), "-D", str(data / "data"), "-h", "127.0.0.1", "-p", str(port)]
        for key, value in settings.items():
            command += ["-c", f"{key}={value}"]
        with (data / "server.log").open("wb") as log:
            process = subprocess.Popen(command, user=user, cwd=data, stdout=log, stderr=log)
        url = f"postgresql://tidegate:{password}@127.0.0.1:{port}/postgres"
        if _ready(process, url):
            return process, url
    raise PostgresError(f"PostgreSQL does not start: {(data / 'server.log').read_text(errors='replace')}")


def _ready(process: subprocess.Popen[bytes], url: str) -> bool:
    import psycopg

    deadline = time.monotonic() + START_S_MAX
    while time.monotonic() < deadline:
        try:
            psycopg.connect(url, connect_timeout=5).close()
        except psycopg.OperationalError:
            try:
                process.wait(timeout=0.05)
            except subprocess.TimeoutExpired:
                continue
            return False  # ended: most likely the port was taken
        else:
            return True
    process.kill()
    process.wait()
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

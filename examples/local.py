"""A whole exchange on this machine's loopback: the same commands, processes and certificates as anywhere else.

``LocalExchange`` makes the exchange, runs the broker and the nodes as processes of their own, and lets members join as they
would: with a one-time token. The demo and the federation tests use it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import tomli_w

from broker.setup import create_exchange
from engine import landlock
from tidegate.client.session import Session, open_session
from tidegate.core.errors import TidegateError
from tidegate.identity.folder import IdentityFolder
from tidegate.identity.joining import join

START_S_MAX = 60.0
STOP_S_MAX = 20.0


class StartError(Exception):
    """A process did not come up; the message holds the end of its log."""


@dataclass
class Running:
    """A process of ours with its log file."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def tail(self) -> str:
        """Give the end of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])


@dataclass
class LocalExchange:
    """An exchange below ``folder``. Use it as a context manager; processes end with it."""

    folder: Path
    name: str = "local"
    broker_settings: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    database: str = ""
    running: dict[str, Running] = field(default_factory=dict)
    _sessions: dict[str, Session] = field(default_factory=dict)

    def __enter__(self) -> LocalExchange:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def broker_folder(self) -> Path:
        """The exchange's own folder."""
        return self.folder / "broker"

    @property
    def log_folder(self) -> Path:
        """The audit log, as published: checkpoint and tiles."""
        return self.broker_folder / "log" / "published"

    def identity(self, member: str, name: str) -> Path:
        """Give the identity folder of a member's service, person or node."""
        return self.folder / "members" / member / name

    def start(self) -> None:
        """Make the exchange, run its broker, and join its operator."""
        token = create_exchange(
            self.broker_folder,
            exchange=self.name,
            host="127.0.0.1",
            listen="127.0.0.1",
            port=0,
            operator="operator",
            database=self.database,
        )
        if self.broker_settings:
            file = self.broker_folder / "broker.toml"
            document = tomllib.loads(file.read_text())
            for section, values in self.broker_settings.items():
                document[section] = {**document.get(section, {}), **values}
            file.write_text(tomli_w.dumps(document))
        self.start_broker()
        join(token, IdentityFolder(self.identity("operator", "operator")))

    def start_broker(self) -> None:
        """Run the broker and wait until it answers."""
        self._spawn("broker", ["up", str(self.broker_folder)])
        self._wait("broker", lambda: "broker up" in self.running["broker"].log.read_text(errors="replace"))

    def operator(self) -> Session:
        """Give the operator's session."""
        return self.session("operator", "operator")

    def session(self, member: str, name: str) -> Session:
        """Give a session of an identity that has joined."""
        key = f"{member}/{name}"
        if key not in self._sessions:
            self._sessions[key] = open_session(None, identity=str(self.identity(member, name)), purpose=None)
        return self._sessions[key]

    def join(
        self,
        member: str,
        name: str,
        *,
        kind: str = "service",
        roles: Sequence[str] = (),
        clearance: str = "internal",
        title: str = "",
        tier: str = "government",
    ) -> Path:
        """Let one identity of a member join, by a token as everywhere; give its identity folder."""
        fields = {
            "member": member,
            "name": name,
            "kind": kind,
            "roles": list(roles),
            "clearance": clearance,
            "title": title,
            "tier": tier,
        }
        token, _, _ = self.operator().transport.add_member(fields, os.urandom(16).hex())
        folder = self.identity(member, name)
        join(token, IdentityFolder(folder))
        return folder

    def start_node(
        self,
        member: str,
        datasets: Sequence[Mapping[str, object]],
        *,
        node: str = "node1",
        steward: str = "steward",
        settings: Mapping[str, object] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Path:
        """Write a node's configuration and run it; its node and steward identities must have joined. Give its TOML file."""
        folder = self.folder / "members" / member
        file = folder / f"{node}.toml"
        document = {
            "node": {
                "identity": str(self.identity(member, node)),
                "state": str(folder / f"{node}-state"),
                "stewards": [f"spiffe://{self.name}/member/{member}/person/{steward}"],
            },
            # All of a city's nodes share this one small machine.
            "limits": {"planners": 1, "workers": 1, "sandbox": "required" if landlock.abi() else "available"},
            "dataset": [dict(item) for item in datasets],
            **(settings or {}),
        }
        file.write_text(tomli_w.dumps(document), encoding="utf-8")
        self.run_node(member, node=node, environment=environment)
        return file

    def run_node(self, member: str, *, node: str = "node1", environment: Mapping[str, str] | None = None) -> None:
        """Run a node whose configuration is there."""
        file = self.folder / "members" / member / f"{node}.toml"
        self._spawn(f"{member}-{node}", ["node", "serve", str(file)], environment)

    def wait_attached(self, members: Sequence[str], limit_s: float = START_S_MAX) -> None:
        """Wait until every one of these members has a node attached; a node that copies a large database needs longer."""

        def attached() -> bool:
            listed = {item["name"]: item["attached"] for item in self.operator().transport.members()}
            return all(listed.get(member) for member in members)

        self._wait("nodes", attached, limit_s)

    def _spawn(self, name: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        logs = self.folder / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        path = logs / f"{name}.log"
        with path.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tidegate", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "GRPC_VERBOSITY": "NONE", **(environment or {})},
                start_new_session=True,  # Ctrl-C in the demo's terminal reaches the demo alone, which then stops them in order
            )
        self.running[name] = Running(name, process, path)

    def _wait(self, what: str, ready: Callable[[], bool], limit_s: float = START_S_MAX) -> None:
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            for item in self.running.values():
                if item.process.poll() is not None:
                    raise StartError(f"{item.name} ended with {item.process.returncode}:\n{item.tail()}")
            try:
                if ready():
                    return
            except TidegateError:
                pass  # not yet; the deadline decides
            time.sleep(0.05)
        tails = "\n".join(f"--- {item.name}\n{item.tail()}" for item in self.running.values())
        raise StartError(f"{what} did not come up in {limit_s:.0f} s:\n{tails}")

    def stop(self, name: str, *, kill: bool = False) -> int:
        """End one process: politely, or as a crash would."""
        item = self.running.pop(name)
        item.process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        try:
            return item.process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            item.process.kill()
            return item.process.wait()

    def close(self) -> None:
        """End every process: nodes first, then the broker."""
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()
        names = sorted(self.running, key=lambda name: name == "broker")
        for name in names:
            if name != "broker":
                self.running[name].process.send_signal(signal.SIGTERM)
        for name in names:
            self.stop(name)

"""The broker's configuration: one TOML file and the environment, read here and nowhere else; every problem told at once.

Paths in the file are relative to the file. Any value can be given by the environment: ``TIDEGATE_BROKER_<SECTION>_<KEY>``
(``TIDEGATE_BROKER_LISTEN_CALLERS``, ``TIDEGATE_BROKER_POLICY_OPA_URL``) wins over the file.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from tidegate.core.errors import Code, error_for
from tidegate.telemetry import TelemetrySettings, endpoint_problem

ENVIRONMENT_PREFIX = "TIDEGATE_BROKER_"
_MIB = 1 << 20

Address = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.\-\[\]:_]+:\d{1,5}$")]


def _endpoint(text: str) -> str:
    if problem := endpoint_problem(text):
        raise ValueError(problem)
    return text


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Exchange(_Section):
    """Who the broker is."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$")]
    broker: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = "broker1"
    host: str = "localhost"  # the name under which callers and nodes reach it; goes into the certificate's SANs


class Listen(_Section):
    """The listeners. Members are told the exchange's host with these ports. ``bearer`` is off where it is empty."""

    callers: Address = "0.0.0.0:7443"
    nodes: Address = "0.0.0.0:7444"
    enrolment: Address = "0.0.0.0:7445"
    bearer: Address | Literal[""] = ""
    admin: Address | Literal[""] = ""  # metrics and health over plain HTTP, for the operator's own network
    reflection: bool = False  # gRPC's reflection on the callers' listener, for grpcurl


class Storage(_Section):
    """Where the state lies. ``database``: empty for SQLite in the folder, or a PostgreSQL URL for several brokers."""

    database: str = ""
    log: str = "log"
    authority: str = "authority"


class Policy(_Section):
    """Which engine decides: the embedded one, or an OPA server by URL."""

    opa_url: str = ""
    opa_timeout_s: Annotated[float, Field(gt=0, le=30)] = 1.5
    overlays: tuple[str, ...] = ()


class Telemetry(_Section):
    """Where traces go (``tidegate.telemetry.TelemetrySettings``); ``endpoint`` empty: nothing is traced."""

    endpoint: Annotated[str, AfterValidator(_endpoint)] = ""
    ca: str = ""
    ratio: Annotated[float, Field(ge=0, le=1)] = 1.0


class Limits(_Section):
    """What may be under way at once, and what a worker may use."""

    requests_max: Annotated[int, Field(ge=1, le=10_000)] = 48
    requests_per_member_max: Annotated[int, Field(ge=1, le=10_000)] = 16
    callers_threads: Annotated[int, Field(ge=8, le=10_000)] = 96
    nodes_threads: Annotated[int, Field(ge=8, le=20_000)] = 512
    attachments_max: Annotated[int, Field(ge=1, le=10_000)] = 256
    join_workers: Annotated[int, Field(ge=1, le=256)] = 2
    planning_workers: Annotated[int, Field(ge=1, le=64)] = 2
    worker_threads: Annotated[int, Field(ge=1, le=64)] = 1
    worker_memory_mib: Annotated[int, Field(ge=64, le=1 << 20)] = 1024
    worker_address_space_mib: Annotated[int, Field(ge=512, le=1 << 22)] = 4096
    # The kernel's walls around workers, Landlock and seccomp: "available" runs without where the kernel has none.
    sandbox: Literal["required", "available"] = "required"
    spill: str = ""  # a directory on tmpfs or an encrypted mount; empty: no spill
    drain_s: Annotated[float, Field(ge=0, le=3600)] = 30.0

    @property
    def worker_memory_bytes(self) -> int:
        """DuckDB's own limit for one join worker."""
        return self.worker_memory_mib * _MIB

    @property
    def worker_address_space_bytes(self) -> int:
        """RLIMIT_AS of one join worker."""
        return self.worker_address_space_mib * _MIB


class BrokerConfig(_Section):
    """Everything that a broker is told. ``folder`` is where the file lies."""

    folder: Path
    exchange: Exchange
    listen: Listen = Listen()
    storage: Storage = Storage()
    policy: Policy = Policy()
    limits: Limits = Limits()
    telemetry: Telemetry = Telemetry()
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @property
    def database_url(self) -> str:
        """The catalogue's database."""
        return self.storage.database or f"sqlite:///{self.folder / 'catalogue.db'}"

    @property
    def traces(self) -> TelemetrySettings:
        """Where traces go."""
        ca = self.folder / self.telemetry.ca if self.telemetry.ca else None
        return TelemetrySettings(self.telemetry.endpoint, ca, self.telemetry.ratio)

    @property
    def log_folder(self) -> Path:
        """The audit log."""
        return self.folder / self.storage.log

    @property
    def authority_folder(self) -> Path:
        """The exchange's CA."""
        return self.folder / self.storage.authority

    @property
    def overlays(self) -> tuple[Path, ...]:
        """Rego files that tighten."""
        return tuple(self.folder / overlay for overlay in self.policy.overlays)


def load_config(path: Path, environment: Mapping[str, str]) -> BrokerConfig:
    """Read the file and the environment.

    Args:
        path: ``broker.toml``, or the folder that holds it.

    Raises:
        CallerError: CONFIG_INVALID; the message lists every problem.
    """
    file = path / "broker.toml" if path.is_dir() else path
    try:
        document: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        message = f"broker configuration: {file.name} is not there; make an exchange with `tidegate init`"
        raise error_for(Code.CONFIG_INVALID, message) from error
    except (OSError, UnicodeDecodeError) as error:
        raise error_for(Code.CONFIG_INVALID, "broker configuration: cannot be read", detail=repr(error)) from error
    except tomllib.TOMLDecodeError as error:
        raise error_for(Code.CONFIG_INVALID, f"broker configuration: not TOML: {error}") from error
    return parse_config(document, file.resolve().parent, environment)


def parse_config(document: Mapping[str, Any], folder: Path, environment: Mapping[str, str]) -> BrokerConfig:
    """Check a parsed document.

    Raises:
        CallerError: CONFIG_INVALID; the message lists every problem.
    """
    data: dict[str, Any] = {**document, "folder": folder}
    for name, value in environment.items():
        section, _, key = name.removeprefix(ENVIRONMENT_PREFIX).lower().partition("_")
        if name.startswith(ENVIRONMENT_PREFIX) and key and section != "log":
            data[section] = {**_table(data.get(section)), key: value}
        elif name == f"{ENVIRONMENT_PREFIX}LOG_LEVEL":
            data["log_level"] = value
    try:
        return BrokerConfig.model_validate(data)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise error_for(Code.CONFIG_INVALID, f"broker configuration: {problems}") from error


def _table(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}

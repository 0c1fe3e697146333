"""A node's configuration: one TOML file and the environment, read here and nowhere else; every problem told at once.

Paths in the file are relative to the file. Environment: ``TIDEGATE_NODE_IDENTITY``, ``TIDEGATE_NODE_STATE``,
``TIDEGATE_NODE_BROKERS`` (comma-separated), ``TIDEGATE_NODE_ADMIN``, ``TIDEGATE_NODE_LOG_LEVEL``, ``TIDEGATE_NODE_OPA_URL``,
``TIDEGATE_NODE_TELEMETRY`` win over the file; a PostgreSQL URL that holds a password is named by ``url_env``, so that the file
needs none.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypedDict, get_args

from node.sections import Problems, Section
from tidegate.core.dataset import SENSITIVITIES, DatasetClass
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.names import SpiffeId, is_strict_name
from tidegate.telemetry import TelemetrySettings, endpoint_problem

SourceKind = Literal["parquet", "csv", "duckdb", "postgres"]
Mode = Literal["live", "snapshot"]
Stale = Literal["refuse", "flag"]
LogLevel = Literal["debug", "info", "warning", "error"]
_MIB = 1 << 20
_CSV_OPTIONS = (
    "delim",
    "quote",
    "escape",
    "nullstr",
    "encoding",
    "dateformat",
    "timestampformat",
    "decimal_separator",
)


@dataclass(frozen=True, slots=True)
class ColumnConfig:
    """What the department says about one column; type and statistics come from the data.

    Args:
        mask: declared mask of a column that may be shown masked: ``pseudonym``, ``last_n:4``, ``bucket:10``; with
            ``;in_predicate=deny`` no condition, join or sort may read it (policies.question.column_mask).
    """

    description: str = ""
    sensitivity: str = "internal"
    element: str = ""
    mask: str = ""


@dataclass(frozen=True, slots=True)
class DatasetConfig:
    """One dataset that the node serves, and where its rows lie.

    Args:
        name: without the department; the node's own member is its department.
        paths: of the files (Parquet, CSV) or of the one DuckDB file; patterns are expanded when the configuration is read.
        table: ``table`` or ``schema.table`` of a DuckDB file or a PostgreSQL database.
        url: of the PostgreSQL database; never logged, never described.
        column_types: for CSV, DuckDB type texts that win over what the reader guesses.
        csv_options: of DuckDB's reader; see ``_CSV_OPTIONS``.
        mode: of a PostgreSQL dataset: ``live`` asks the database for each fragment, ``snapshot`` a copy of the node's own.
        refresh_s: of a snapshot, the interval between copies.
        promise_s: of a snapshot, how old an answer may be (``freshness`` as a duration); 0 promises nothing.
        stale: of a snapshot, whether an answer past the promise is refused or flagged.
        snapshot_bytes_max: what one copy may hold on disk; while the next one is made there are two.
    """

    name: str
    source: SourceKind
    title: str
    dataset_class: DatasetClass
    paths: tuple[Path, ...] = ()
    table: str = ""
    url: str = field(default="", repr=False)
    description: str = ""
    legal_basis: str = ""
    citation: str = ""
    subject_column: str = ""
    keys: tuple[str, ...] = ()
    freshness: str = ""
    tags: tuple[str, ...] = ()
    licence: str = ""
    hidden_from: tuple[str, ...] = ()
    bearer_ok: bool = False
    statistics: bool = True
    columns: Mapping[str, ColumnConfig] = field(default_factory=lambda: MappingProxyType({}))
    column_types: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    csv_options: Mapping[str, str | tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    mode: Mode = "live"
    refresh_s: float = 3_600.0
    promise_s: float = 0.0
    stale: Stale = "refuse"
    snapshot_bytes_max: int = 16 << 30
    extra: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What the locked-down workers may use, each."""

    planners: int = 2  # processes that parse fragments: one is enough where few brokers ask, and starts faster
    workers: int = 2  # one query runs in one worker; two keep a small machine busy
    threads: int = 1
    memory_bytes: int = 512 * _MIB  # DuckDB's own limit
    address_space_bytes: int = (
        2048 * _MIB
    )  # RLIMIT_AS beyond an idle worker: the wall for values that memory_limit ignores
    fragments_max: int = 32  # running or waiting at once; more are told to come back
    fragment_deadline_s_max: float = 600.0
    drain_s: float = 30.0  # how long a stop waits for answers under way
    sandbox: Literal["required", "available"] = "required"  # the kernel's walls around workers: Landlock and seccomp


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """Everything that a node is told.

    Args:
        identity: the identity folder that ``tidegate join`` made.
        state: log, agreements, mask keys and the status file; mode 0700.
        brokers: ``host:port`` of the nodes' listener of each broker; empty: the one that joining told.
        stewards: SPIFFE ids of persons and services of this member who may sign agreements; nobody else may.
        overlays: the department's own Rego (files or folders), which can only tighten.
        opa_url: of an OPA server; empty: the embedded engine.
        admin: ``host:port`` of the admin port; empty: none.
        traces: where the node's own spans go.
    """

    identity: Path
    state: Path
    brokers: tuple[str, ...]
    stewards: tuple[SpiffeId, ...]
    overlays: tuple[Path, ...]
    opa_url: str
    log_level: LogLevel
    limits: EngineLimits
    datasets: tuple[DatasetConfig, ...]
    admin: str = ""
    traces: TelemetrySettings = field(default_factory=TelemetrySettings)


def load_config(path: Path, environment: Mapping[str, str]) -> NodeConfig:
    """Read the file and the environment.

    Raises:
        CallerError: CONFIG_INVALID; the message lists every problem.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        message = f"node configuration: no such file: {path.name}; docs/guides/department.md shows one"
        raise error_for(Code.CONFIG_INVALID, message) from error
    except (OSError, UnicodeDecodeError) as error:
        raise error_for(Code.CONFIG_INVALID, "node configuration: cannot be read", detail=repr(error)) from error
    except tomllib.TOMLDecodeError as error:
        raise error_for(Code.CONFIG_INVALID, f"node configuration: not TOML: {error}") from error
    return parse_config(document, path.resolve().parent, environment)


def parse_config(document: Mapping[str, Any], base: Path, environment: Mapping[str, str]) -> NodeConfig:
    """Check a parsed document; paths are relative to ``base``.

    Raises:
        CallerError: CONFIG_INVALID; the message lists every problem.
    """
    problems = Problems()
    for key in sorted(set(document) - {"node", "limits", "policy", "telemetry", "dataset"}):
        problems.add(key, "unknown section")
    node = Section(document.get("node", {}), "node", problems, base, environment)
    policy = Section(document.get("policy", {}), "policy", problems, base, environment)
    config = NodeConfig(
        identity=node.path("identity", "TIDEGATE_NODE_IDENTITY"),
        state=node.path("state", "TIDEGATE_NODE_STATE"),
        brokers=_brokers(node),
        stewards=_stewards(node),
        overlays=policy.files("overlays", folders=True),
        opa_url=policy.text("opa_url", environment_name="TIDEGATE_NODE_OPA_URL"),
        log_level=node.choice("log_level", "info", get_args(LogLevel), "TIDEGATE_NODE_LOG_LEVEL"),
        limits=_limits(Section(document.get("limits", {}), "limits", problems, base, environment)),
        datasets=_datasets(document.get("dataset", []), problems, base, environment),
        admin=node.text("admin", environment_name="TIDEGATE_NODE_ADMIN"),
        traces=_traces(Section(document.get("telemetry", {}), "telemetry", problems, base, environment)),
    )
    node.end()
    policy.end()
    if problems.found:
        raise error_for(Code.CONFIG_INVALID, "node configuration: " + "; ".join(problems.found))
    return config


def _brokers(node: Section) -> tuple[str, ...]:
    override = node.environment.get("TIDEGATE_NODE_BROKERS", "")
    named = node.texts("brokers")
    brokers = tuple(item.strip() for item in override.split(",") if item.strip()) if override else named
    for address in brokers:
        host, colon, port = address.rpartition(":")
        if not (host and colon and port.isdigit() and 0 < int(port) < 65_536):
            node.bad("brokers", "expected host:port")
    return brokers


def _stewards(node: Section) -> tuple[SpiffeId, ...]:
    found = []
    for text in node.texts("stewards"):
        try:
            found.append(SpiffeId.parse(text))
        except TidegateError:
            node.bad("stewards", "expected SPIFFE ids (spiffe://exchange/member/NAME/person/NAME)")
    return tuple(found)


def _traces(section: Section) -> TelemetrySettings:
    endpoint = section.text("endpoint", environment_name="TIDEGATE_NODE_TELEMETRY")
    files = section.files("ca")
    ratio = section.take("ratio", 1.0)
    section.end()
    if problem := endpoint_problem(endpoint):
        section.bad("endpoint", problem)
        endpoint = ""
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 <= ratio <= 1:
        section.bad("ratio", "expected a number from 0 to 1")
        ratio = 1.0
    return TelemetrySettings(endpoint, files[0] if files else None, float(ratio))


def _limits(section: Section) -> EngineLimits:
    usual = EngineLimits()
    limits = EngineLimits(
        planners=section.number("planners", usual.planners, 1, 16),
        sandbox=section.choice("sandbox", usual.sandbox, ("required", "available")),
        workers=section.number("workers", usual.workers, 1, 64),
        threads=section.number("threads", usual.threads, 1, 64),
        memory_bytes=section.number("memory_mib", usual.memory_bytes // _MIB, 64, 1 << 20) * _MIB,
        address_space_bytes=section.number("address_space_mib", usual.address_space_bytes // _MIB, 512, 1 << 22) * _MIB,
        fragments_max=section.number("fragments_max", usual.fragments_max, 1, 10_000),
        fragment_deadline_s_max=float(
            section.number("fragment_deadline_s", int(usual.fragment_deadline_s_max), 1, 86_400)
        ),
        drain_s=float(section.number("drain_s", int(usual.drain_s), 0, 3_600)),
    )
    section.end()
    if limits.address_space_bytes <= limits.memory_bytes:
        section.bad("address_space_mib", "expected more than memory_mib")
    return limits


def _datasets(data: Any, problems: Problems, base: Path, environment: Mapping[str, str]) -> tuple[DatasetConfig, ...]:
    if not isinstance(data, list):
        problems.add("dataset", "expected [[dataset]] tables")
        return ()
    found: list[DatasetConfig] = []
    for position, item in enumerate(data):
        name = item.get("name") if isinstance(item, Mapping) else None
        where = f"dataset[{name if isinstance(name, str) else position}]"
        found.append(_dataset(Section(item, where, problems, base, environment)))
    names = [item.name.casefold() for item in found]
    for name in sorted({name for name in names if name and names.count(name) > 1}):
        problems.add(f"dataset[{name}]", "defined twice")
    return tuple(found)


def _dataset(section: Section) -> DatasetConfig:
    name = section.text("name", needed=True)
    if name and not is_strict_name(name):
        section.bad("name", "expected letters, digits, underscore")
    source: SourceKind = section.choice("source", "", get_args(SourceKind))
    dataset_class = section.choice("class", "conditional", tuple(item.value for item in DatasetClass))
    paths = section.files("path")
    table = section.text("table", name)
    url = _url(section)
    citation = section.text("citation")
    if source in ("parquet", "csv") and not paths:
        section.bad("path", "expected the files of the dataset")
    if source == "duckdb" and len(paths) != 1:
        section.bad("path", "expected exactly one DuckDB file")
    if source == "postgres" and not url:
        section.bad("url_env", "expected the name of an environment variable that holds the URL of the database")
    if dataset_class == "closed" and not citation:
        section.bad("citation", "class closed: expected the citation of the law that closes it")
    config = DatasetConfig(
        name=name,
        source=source,
        title=section.text("title", name),
        dataset_class=DatasetClass(dataset_class),
        paths=paths,
        table=table,
        url=url,
        description=section.text("description"),
        legal_basis=section.text("legal_basis"),
        citation=citation,
        subject_column=section.text("subject_column"),
        keys=section.texts("keys"),
        freshness=section.text("freshness"),
        tags=section.texts("tags"),
        licence=section.text("licence"),
        hidden_from=section.texts("hidden_from"),
        bearer_ok=section.flag("bearer_ok", default=False),
        statistics=section.flag("statistics", default=True),
        columns=_columns(section),
        column_types=section.mapping("column_types"),
        csv_options=_csv_options(section),
        extra=section.mapping("extra"),
        **_serving(section, source),
    )
    section.end()
    if source != "csv" and (config.csv_options or config.column_types):
        section.bad("csv", "options of a CSV reader, but the source is not csv")
    return config


class _Serving(TypedDict):
    mode: Mode
    refresh_s: float
    promise_s: float
    stale: Stale
    snapshot_bytes_max: int


def _serving(section: Section, source: SourceKind) -> _Serving:
    """Read how a PostgreSQL dataset is served; the words of a snapshot anywhere else are problems."""
    mode: Mode = section.choice("mode", "live", get_args(Mode))
    given = [key for key in ("refresh", "stale", "snapshot_mib") if section.take(key, None) is not None]
    if source != "postgres" and section.take("mode", None) is not None:
        section.bad("mode", "only a dataset of source postgres has one")
    if mode == "live":
        for key in given:
            section.bad(key, 'only a dataset of mode = "snapshot" has one')
    # `freshness` is free text for the catalogue, except where the node itself must keep it
    promised = mode == "snapshot" and bool(section.text("freshness"))
    if "stale" in given and not promised:
        section.bad("stale", "expected freshness, the promise that it is about, beside it")
    return _Serving(
        mode=mode,
        refresh_s=section.duration_s("refresh", 3_600.0, 1, 366 * 86_400),
        promise_s=section.duration_s("freshness", 0.0, 1, 3_660 * 86_400) if promised else 0.0,
        stale=section.choice("stale", "refuse", get_args(Stale)),
        snapshot_bytes_max=section.number("snapshot_mib", 16 << 10, 1, 1 << 24) * _MIB,
    )


def _csv_options(section: Section) -> Mapping[str, str | tuple[str, ...]]:
    data = section.take("csv", {})
    if not isinstance(data, Mapping):
        section.bad("csv", "expected a table")
        return MappingProxyType({})
    found: dict[str, str | tuple[str, ...]] = {}
    for name, value in data.items():
        several = name == "nullstr" and isinstance(value, list) and all(isinstance(item, str) for item in value)
        if name not in _CSV_OPTIONS or not (isinstance(value, str) or several):
            section.bad("csv", f"{name}: expected one of {', '.join(_CSV_OPTIONS)}, with a text")
            continue
        found[name] = value if isinstance(value, str) else tuple(value)
    return MappingProxyType(found)


def _url(section: Section) -> str:
    """Read the database's URL from the environment (preferred: no password in the file) or the file."""
    variable, url = section.text("url_env"), section.text("url")
    if variable and url:
        section.bad("url", "expected either url or url_env, got both")
    if variable:
        url = section.environment.get(variable, "")
        if not url:
            section.bad("url_env", "the environment variable is not set")
    if url and not url.startswith(("postgresql://", "postgres://")):
        section.bad("url", "expected postgresql://...")
    return url


def _columns(section: Section) -> Mapping[str, ColumnConfig]:
    data = section.take("columns", {})
    if not isinstance(data, Mapping):
        section.bad("columns", "expected tables")
        return MappingProxyType({})
    found = {}
    for name, item in data.items():
        column = Section(item, f"{section.where}.columns.{name}", section.problems, section.base, section.environment)
        found[name] = ColumnConfig(
            description=column.text("description"),
            sensitivity=column.choice("sensitivity", "internal", SENSITIVITIES),
            element=column.text("element"),
            mask=column.text("mask"),
        )
        column.end()
    return MappingProxyType(found)

"""The configuration is checked as a whole: every problem is told at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from node.config import NodeConfig, load_config, parse_config
from tidegate.core.errors import CallerError, Code

GOOD: dict[str, Any] = {
    "node": {"identity": "id", "state": "st", "stewards": ["spiffe://city.example/member/aviation/person/ann"]},
    "dataset": [{"name": "flights", "source": "parquet", "path": "*.parquet", "class": "open"}],
}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    for name in ("a.parquet", "b.parquet", "x.csv", "y.duckdb", "own.rego"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "rules").mkdir()
    return tmp_path


def changed(base: Path, environment: dict[str, str] | None = None, **sections: Any) -> NodeConfig:
    return parse_config({**GOOD, **sections}, base, environment or {})


def problems(base: Path, **sections: Any) -> str:
    with pytest.raises(CallerError) as caught:
        changed(base, **sections)
    assert caught.value.code is Code.CONFIG_INVALID
    return caught.value.message


def test_paths_are_relative_to_the_file_and_patterns_are_expanded(base: Path) -> None:
    config = changed(base)
    assert config.identity == base / "id"
    assert config.datasets[0].paths == (base / "a.parquet", base / "b.parquet")
    assert config.datasets[0].title == "flights"


def test_the_environment_wins_over_the_file(base: Path) -> None:
    environment = {
        "TIDEGATE_NODE_STATE": "elsewhere",
        "TIDEGATE_NODE_BROKERS": "a:1, b:2",
        "TIDEGATE_NODE_LOG_LEVEL": "debug",
        "TIDEGATE_NODE_OPA_URL": "http://127.0.0.1:8181",
        "DATABASE": "postgresql://reader:secret@db/x",
    }
    dataset = {"name": "w", "source": "postgres", "url_env": "DATABASE", "table": "public.w"}
    config = changed(base, environment, dataset=[dataset])
    assert (config.state, config.brokers, config.log_level) == (base / "elsewhere", ("a:1", "b:2"), "debug")
    assert config.opa_url == "http://127.0.0.1:8181"
    assert config.datasets[0].url == environment["DATABASE"]
    assert "secret" not in repr(config)


def test_overlays_may_be_files_or_folders(base: Path) -> None:
    config = changed(base, policy={"overlays": ["own.rego", "rules"]})
    assert config.overlays == (base / "own.rego", base / "rules")


def test_every_problem_is_told_at_once(base: Path) -> None:
    message = problems(
        base,
        node={"identity": 7, "brokers": ["nowhere"], "stewards": ["ann"], "typo": 1, "log_level": "loud"},
        limits={"workers": 0, "memory_mib": 4096, "address_space_mib": 1024},
        extra={},
        dataset=[
            {"name": "a-b", "source": "excel", "class": "secret"},
            {"name": "c", "source": "parquet", "path": "none.parquet"},
            {"name": "d", "source": "duckdb", "path": ["y.duckdb", "x.csv"]},
            {"name": "e", "source": "postgres", "url_env": "NOT_SET"},
            {"name": "f", "source": "csv", "path": "x.csv", "class": "closed", "csv": {"auto": "x"}},
            {"name": "f", "source": "parquet", "path": "a.parquet", "csv": {"delim": ";"}},
            {"name": "g", "source": "csv", "path": "x.csv", "columns": {"h": {"sensitivity": "high", "typ": "x"}}},
        ],
    )
    for part in (
        "extra: unknown section",
        "node.identity: expected a text",
        "node.brokers: expected host:port",
        "node.stewards: expected SPIFFE ids",
        "node.typo: unknown key",
        "node.log_level: expected one of",
        "limits.workers: expected a whole number",
        "limits.address_space_mib: expected more than memory_mib",
        "dataset[a-b].name",
        "dataset[a-b].source",
        "dataset[a-b].class",
        "dataset[c].path: no such file: none.parquet",
        "dataset[d].path: expected exactly one DuckDB file",
        "dataset[e].url_env: the environment variable is not set",
        "dataset[f].citation",
        "dataset[f].csv: auto",
        "dataset[f].csv: options of a CSV reader",
        "dataset[f]: defined twice",
        "dataset[g].columns.h.sensitivity",
        "dataset[g].columns.h.typ: unknown key",
    ):
        assert part in message, part


@pytest.mark.parametrize("section", ["node", "limits", "policy"])
def test_a_section_that_is_no_table_is_a_problem(base: Path, section: str) -> None:
    assert f"{section}: expected a table" in problems(base, **{section: 3})


def test_datasets_that_are_no_tables_are_a_problem(base: Path) -> None:
    assert "dataset: expected" in problems(base, dataset={"name": "x"})
    assert "dataset[0]: expected a table" in problems(base, dataset=["x"])


@pytest.mark.parametrize(
    ("data", "word"), [(b"[node", "not TOML"), (b"\xff", "cannot be read"), (None, "no such file")]
)
def test_a_file_that_cannot_be_read_is_a_clear_error(tmp_path: Path, data: bytes | None, word: str) -> None:
    path = tmp_path / "node.toml"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(CallerError, match=word):
        load_config(path, {})

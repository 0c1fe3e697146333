"""The small parts of the rooms: admission, used ids, what a plan may name, the relay, names on the answer, configuration."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from broker.admission import Admission
from broker.config import load_config, parse_config
from broker.deliver import rename
from broker.join import validated
from broker.plan import mentioned
from broker.replay import KEEP_S, UsedIds
from tests.fakes.exchange import ManualClock
from tidegate import ipc
from tidegate.core.dataset import Column, Dataset, DatasetClass
from tidegate.core.errors import Code, TidegateError
from tidegate.core.names import DatasetName


def test_one_member_cannot_take_every_place() -> None:
    admission = Admission(requests_max=3, requests_per_member_max=2)
    with admission.admitted("a"), admission.admitted("a"):
        with pytest.raises(TidegateError) as caught, admission.admitted("a"):
            pass
        assert caught.value.code is Code.BUSY and caught.value.retry_after_s > 0
        with admission.admitted("b"), pytest.raises(TidegateError), admission.admitted("c"):
            pass
    with admission.admitted("a"):
        pass


def test_draining_waits_for_what_is_under_way_and_admits_nothing_more() -> None:
    admission = Admission(requests_max=3, requests_per_member_max=3)
    inside, leave = threading.Event(), threading.Event()

    def request() -> None:
        with admission.admitted("a"):
            inside.set()
            leave.wait(10)

    running = threading.Thread(target=request)
    running.start()
    inside.wait(10)
    assert admission.drain(0.0) is False
    with pytest.raises(TidegateError), admission.admitted("b"):
        pass
    leave.set()
    assert admission.drain(10.0) is True
    running.join()


def test_a_request_id_is_used_once_and_forgotten_in_the_end() -> None:
    clock = ManualClock()
    used = UsedIds(clock=clock)
    assert used.take("a") and not used.take("a") and used.take("b")
    clock.move(seconds=KEEP_S + 1)
    assert used.take("a")


def dataset(name: str, *parts: str) -> Dataset:
    return Dataset(
        name=DatasetName.parse(name),
        owner=name.partition(".")[0],
        node="n",
        title="",
        dataset_class=DatasetClass.OPEN,
        columns=(Column("a", "BIGINT"),),
        parts=tuple(DatasetName.parse(part) for part in parts),
    )


def test_only_what_stands_in_the_text_is_planned_with_and_the_parts_of_its_collections() -> None:
    names = ("aviation.flights", "health.cases", "city.residents", "d1.people", "d2.people_2")
    schema = {DatasetName.parse(name): dataset(name) for name in names}
    schema[DatasetName.parse("city.residents")] = dataset("city.residents", "d1.people", "d2.people_2")
    assert set(map(str, mentioned('SELECT * FROM Aviation."FLIGHTS"', schema))) == {"aviation.flights"}
    assert set(map(str, mentioned("from city.residents", schema))) == {"city.residents", "d1.people", "d2.people_2"}
    assert mentioned("SELECT 1", schema) == {}


TABLE = pa.table({"c0": [1, 2, 3], "c1": ["a", "b", "c"]})


def test_the_relay_passes_the_very_bytes_on_with_their_rows() -> None:
    chunks = list(ipc.cut(TABLE.schema, TABLE.to_batches(max_chunksize=2)))
    assert list(validated(iter(chunks))) == [(chunks[0], 0), (chunks[1], 2), (chunks[2], 1)]


def test_the_relay_stops_at_the_first_batch_that_does_not_validate() -> None:
    chunks = list(ipc.cut(TABLE.schema, TABLE.to_batches(max_chunksize=2)))
    broken = chunks[1].replace((1).to_bytes(4, "little") + (2).to_bytes(4, "little"), b"\xff" * 8)
    assert broken != chunks[1]
    relayed = validated(iter([chunks[0], broken, chunks[2]]))
    assert next(relayed) == (chunks[0], 0)
    with pytest.raises(TidegateError) as caught:
        next(relayed)
    assert caught.value.code is Code.FETCH_INVALID_DATA


@pytest.mark.parametrize("glue", [(1, 3), (0, 2)])
def test_the_relay_holds_a_chunk_to_one_batch(glue: tuple[int, int]) -> None:
    chunks = list(ipc.cut(TABLE.schema, TABLE.to_batches(max_chunksize=2)))
    start, end = glue
    glued = [*chunks[:start], b"".join(chunks[start:end]), *chunks[end:]]

    def all_of() -> Iterator[tuple[bytes, int]]:
        yield from validated(iter(glued))

    with pytest.raises(TidegateError):
        list(all_of())


def test_the_callers_names_are_set_on_the_schema_and_may_repeat() -> None:
    assert rename(TABLE.schema, ("x", "x")).names == ["x", "x"]
    with pytest.raises(TidegateError) as caught:
        rename(TABLE.schema, ("x",))
    assert caught.value.code is Code.INTERNAL


GOOD = {"exchange": {"name": "nyc", "host": "localhost"}}


def test_defaults_are_enough() -> None:
    config = parse_config(GOOD, Path("/x"), {})
    assert config.database_url == "sqlite:////x/catalogue.db"
    assert config.limits.worker_memory_bytes == 1 << 30


def test_every_problem_is_told_at_once() -> None:
    document = {
        "exchange": {"name": "N Y C"},
        "listen": {"callers": "nowhere"},
        "limits": {"join_workers": 0},
        "more": 1,
    }
    with pytest.raises(TidegateError) as caught:
        parse_config(document, Path("/x"), {})
    assert caught.value.code is Code.CONFIG_INVALID
    for part in ("exchange.name", "listen.callers", "limits.join_workers", "more"):
        assert part in caught.value.message


def test_the_environment_wins() -> None:
    environment = {
        "TIDEGATE_BROKER_LISTEN_CALLERS": "127.0.0.1:1",
        "TIDEGATE_BROKER_POLICY_OPA_URL": "http://127.0.0.1:8181",
        "TIDEGATE_BROKER_LIMITS_JOIN_WORKERS": "5",
        "TIDEGATE_BROKER_LOG_LEVEL": "debug",
        "HOME": "/x",
    }
    config = parse_config(GOOD, Path("/x"), environment)
    assert (config.listen.callers, config.policy.opa_url) == ("127.0.0.1:1", "http://127.0.0.1:8181")
    assert (config.limits.join_workers, config.log_level) == (5, "debug")


@pytest.mark.parametrize("content", [None, b"\xff", b"[exchange"])
def test_a_file_that_cannot_be_read_is_a_clear_error(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "broker.toml").write_bytes(content)
    with pytest.raises(TidegateError) as caught:
        load_config(tmp_path, {})
    assert caught.value.code is Code.CONFIG_INVALID
    assert str(tmp_path) not in caught.value.message

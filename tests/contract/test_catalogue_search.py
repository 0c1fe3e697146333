"""Search finds, counts and ranks the same on SQLite and PostgreSQL, and never counts what is hidden."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from catalogue.search import SearchQuery
from catalogue.store import Catalogue
from tests.contract.catalogue_setup import DATABASES, HeldClock, city, dataset, opened
from tidegate.core.dataset import Column, Dataset, DatasetClass
from tidegate.core.errors import Code, TidegateError
from tidegate.core.names import DatasetName

ENTRIES = (
    dataset(
        "aviation.flights",
        title="Flights from three airports",
        description="Every departure with its delay, carrier and tail number",
        tags=("transport", "航班"),
        dataset_class=DatasetClass.OPEN,
        columns=(
            Column("dep_delay", "DOUBLE", "departure delay in minutes"),
            Column("tailnum", "VARCHAR", element="aircraft.tail_number"),
        ),
    ),
    dataset("aviation.airlines", title="Airlines", columns=(Column("carrier", "VARCHAR", element="enterprise.code"),)),
    dataset(
        "weather.hours",
        title="Weather by hour",
        description="Wind, precipitation and visibility at the airports; a cause of flight delays",
        dataset_class=DatasetClass.OPEN,
        columns=(Column("origin", "VARCHAR"), Column("wind_speed", "DOUBLE")),
    ),
    dataset(
        "health.cases",
        title="传染病病例登记",
        description="按街道统计的人口与病例",
        tags=("流行病",),
        columns=(Column("身份证", "VARCHAR", "居民身份证号码", element="person.id"), Column("发病日期", "DATE")),
    ),
    dataset(
        "east.residents",
        title="住民基本台帳とカタカナ",
        description="서울특별시 인구 조사",
        columns=(Column("id", "BIGINT", element="person.id"),),
    ),
    dataset(
        "east.registry",
        title="Secret registry of flights",
        hidden_from=("health",),
        tags=("transport",),
        columns=(Column("tailnum", "VARCHAR", element="aircraft.owner"),),
    ),
)


@pytest.fixture(scope="module", params=DATABASES)
def catalogue(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogue]:
    with opened(request.param, tmp_path_factory.mktemp("search")) as engine:
        yield filled(engine)


def filled(engine: Engine) -> Catalogue:
    catalogue, _ = city(engine, HeldClock())
    for entry in ENTRIES:
        catalogue.register(entry)
    return catalogue


def names(catalogue: Catalogue, words: str = "", member: str = "health", **filters: Any) -> list[str]:
    found = catalogue.search(member, SearchQuery(words=words, **filters))
    assert found.total == len(found.datasets)
    return [str(item.name) for item in found.datasets]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("flights", ["aviation.flights"]),
        ("FLIGHTS", ["aviation.flights"]),
        ("ｆｌｉｇｈｔｓ", ["aviation.flights"]),
        (
            "flight",
            ["aviation.flights", "weather.hours"],
        ),  # a beginning is enough; a title says more than a description
        ("flight delay", ["aviation.flights", "weather.hours"]),
        ("flight wind", ["weather.hours"]),
        ("delay flight zebra", []),
        ("dep_delay", ["aviation.flights"]),
        ("tail_number", ["aviation.flights"]),
        ("enterprise.code", ["aviation.airlines"]),
        ("aviation.flights", ["aviation.flights"]),
        ("lights", []),
        ("人口", ["health.cases"]),  # two characters: what both engines' own tokenisers miss
        ("病例", ["health.cases"]),
        ("例", ["health.cases"]),
        ("传染病病例", ["health.cases"]),
        ("病例 街道", ["health.cases"]),
        ("口人", []),
        ("病病病", []),  # every bigram occurs, the run does not
        ("身份证", ["health.cases"]),
        ("航班", ["aviation.flights"]),
        ("台帳", ["east.residents"]),
        ("カタカナ", ["east.residents"]),
        ("ｶﾀｶﾅ", ["east.residents"]),
        ("특별", ["east.residents"]),
        ("인구", ["east.residents"]),
        ("  ", sorted(str(entry.name) for entry in ENTRIES if entry.name.name != "registry")),
    ],
)
def test_words(catalogue: Catalogue, words: str, expected: list[str]) -> None:
    assert names(catalogue, words) == expected


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"column": "TAILNUM"}, ["aviation.flights"]),
        ({"column": "tail"}, []),
        ({"column": "身份证"}, ["health.cases"]),
        ({"element": "person.id"}, ["east.residents", "health.cases"]),
        ({"element": "person"}, ["east.residents", "health.cases"]),
        ({"element": "pers"}, []),
        ({"dataset_class": "open"}, ["aviation.flights", "weather.hours"]),
        ({"owner": "aviation"}, ["aviation.airlines", "aviation.flights"]),
        ({"owner": "aviation", "dataset_class": "open"}, ["aviation.flights"]),
        ({"words": "flight", "owner": "weather"}, ["weather.hours"]),
    ],
)
def test_filters(catalogue: Catalogue, filters: dict[str, str], expected: list[str]) -> None:
    assert names(catalogue, **filters) == expected


def test_hidden_ones_are_not_found_counted_or_hinted_at(catalogue: Catalogue) -> None:
    assert names(catalogue, "flights", member="weather") == ["aviation.flights", "east.registry"]
    found = catalogue.search("health", SearchQuery(words="flights"))
    assert found.total == 1
    assert found.facets == {
        "class": {"open": 1},
        "element": {"aircraft.tail_number": 1},
        "owner": {"aviation": 1},
        "tag": {"transport": 1, "航班": 1},
    }
    assert names(catalogue, element="aircraft.owner") == []
    assert names(catalogue, "secret") == []


def test_pages_give_every_hit_once(catalogue: Catalogue) -> None:
    seen: list[str] = []
    token = ""
    while True:
        found = catalogue.search("weather", SearchQuery(words="a"), page_size=1, page_token=token)
        seen += [str(item.name) for item in found.datasets]
        token = found.next_page_token
        if not token:
            break
    assert len(seen) == len(set(seen)) == found.total > 2


@pytest.mark.parametrize(
    ("query", "token"),
    [
        (SearchQuery(words="!!!"), ""),
        (SearchQuery(words="x" * 501), ""),
        (SearchQuery(words=" ".join(f"w{number}" for number in range(17))), ""),
        (SearchQuery(dataset_class="secret"), ""),
        (SearchQuery(column="c" * 201), ""),
        (SearchQuery(), "bm9uc2Vuc2U"),
        (SearchQuery(), "WyJzZWFyY2giLCJhIiwiYiJd"),
    ],
)
def test_a_query_that_makes_no_sense_is_refused(catalogue: Catalogue, query: SearchQuery, token: str) -> None:
    with pytest.raises(TidegateError) as caught:
        catalogue.search("health", query, page_token=token)
    assert caught.value.code is Code.CAT_INVALID


@pytest.mark.parametrize(
    "words", ['"', "' OR 1=1 --", "a:* | b", "NEAR(a b)", "tokens:x", "\\", "a\x00b", "-a", "^a", "a* b*", "🛫"]
)
def test_operators_of_the_engines_are_only_words(catalogue: Catalogue, words: str) -> None:
    try:
        found = names(catalogue, words)
    except TidegateError as error:
        found = [error.code.value]
    assert "east.registry" not in found
    assert "TG-INTERNAL-001" not in found


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.text(max_size=30))
def test_no_text_breaks_the_index(catalogue: Catalogue, words: str) -> None:
    try:
        names(catalogue, words)
    except TidegateError as error:
        assert error.code is Code.CAT_INVALID  # noqa: PT017 - a refusal is fine, an engine's error is not


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_stretch_of_a_title_finds_it(catalogue: Catalogue, data: st.DataObject) -> None:
    entry: Dataset = data.draw(st.sampled_from([item for item in ENTRIES if not item.title.isascii()]))
    first = data.draw(st.integers(0, len(entry.title) - 1))
    last = data.draw(st.integers(first + 1, len(entry.title)))
    assert str(entry.name) in names(catalogue, entry.title[first:last])


@pytest.mark.parametrize("kind", DATABASES)
def test_the_index_follows_changes(kind: str, tmp_path: Path) -> None:
    with opened(kind, tmp_path) as engine:
        catalogue = filled(engine)
        flights = catalogue.dataset("aviation", DatasetName("aviation", "flights"))
        catalogue.update(replace(flights, title="Departures", description="", tags=("新词",)), expected_version=1)
        assert names(catalogue, "airports") == ["weather.hours"]
        assert names(catalogue, "departures") == ["aviation.flights"]
        assert names(catalogue, "新词") == ["aviation.flights"]
        catalogue.withdraw("aviation", flights.name, reason="old")
        assert names(catalogue, "departures") == []
        assert names(catalogue, "departures", member="aviation") == []

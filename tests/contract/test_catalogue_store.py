"""The catalogue's datasets behave the same on SQLite and PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, text

from catalogue.database import CATALOGUE, MEMBERS, generation, open_database, reading, writing
from catalogue.store import Catalogue
from catalogue.tables import METADATA
from tests.contract.catalogue_setup import DATABASES, HeldClock, city, database_url, dataset, opened
from tidegate.core.dataset import Column, DatasetClass
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.names import DatasetName

FLIGHTS = DatasetName("aviation", "flights")


@pytest.fixture(params=DATABASES)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    with opened(request.param, tmp_path) as engine:
        yield engine


@pytest.fixture
def clock() -> HeldClock:
    return HeldClock()


@pytest.fixture
def catalogue(engine: Engine, clock: HeldClock) -> Catalogue:
    return city(engine, clock)[0]


def refused(code: Code, call: Any, *args: Any, **kwargs: Any) -> TidegateError:
    with pytest.raises(TidegateError) as caught:
        call(*args, **kwargs)
    assert caught.value.code is code, caught.value
    return caught.value


def test_what_was_registered_comes_back_and_survives_a_restart(
    catalogue: Catalogue, engine: Engine, clock: HeldClock
) -> None:
    flights = dataset(
        "aviation.flights",
        title="Flights",
        description="Every departure\nof 2013",
        dataset_class=DatasetClass.CLOSED,
        citation="Air Act 7",
        subject_column="id",
        keys=("id",),
        rows=336_776,
        tags=("航班",),
        columns=(
            Column("id", "bigint", element="person.id", sensitivity="restricted"),
            Column("延误", "decimal(12, 2)", distinct=12, minimum="-43", maximum="1301"),
        ),
    )
    done = catalogue.register(flights, actor="spiffe://x/member/aviation/person/a")
    assert done.dataset.columns[1].type == "DECIMAL(12,2)"
    assert catalogue.dataset("weather", FLIGHTS) == done.dataset
    assert Catalogue(engine, clock).dataset("weather", FLIGHTS) == done.dataset


def test_versions_count_up_and_old_ones_stay(catalogue: Catalogue) -> None:
    first = catalogue.register(dataset("aviation.flights"), actor="spiffe://x/member/aviation/person/a").dataset
    second = catalogue.update(replace(first, title="Flights"), expected_version=1, actor="someone")
    assert (first.version, second.version) == (1, 2)
    assert catalogue.dataset("health", FLIGHTS).title == "Flights"
    assert catalogue.dataset("health", FLIGHTS, 1).title == "flights"
    assert [item.number for item in catalogue.versions("health", FLIGHTS)] == [1, 2]
    assert [item.actor for item in catalogue.versions("aviation", FLIGHTS)] == [
        "spiffe://x/member/aviation/person/a",
        "someone",
    ]
    assert {item.actor for item in catalogue.versions("health", FLIGHTS)} == {""}
    refused(Code.CAT_NOT_FOUND, catalogue.dataset, "health", FLIGHTS, 3)


def test_a_change_of_a_version_that_is_gone_is_a_conflict(catalogue: Catalogue) -> None:
    first = catalogue.register(dataset("aviation.flights")).dataset
    catalogue.update(replace(first, title="one"), expected_version=1)
    refused(Code.CAT_CONFLICT, catalogue.update, replace(first, title="two"), expected_version=1)
    assert catalogue.dataset("aviation", FLIGHTS).title == "one"


def test_of_many_updates_at_once_exactly_one_succeeds(catalogue: Catalogue) -> None:
    first = catalogue.register(dataset("aviation.flights")).dataset
    start = threading.Barrier(8)

    def change(number: int) -> str:
        start.wait()
        try:
            catalogue.update(replace(first, title=f"title {number}"), expected_version=1)
        except TidegateError as error:
            return error.code.name
        return "done"

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(change, range(8))) == ["CAT_CONFLICT"] * 7 + ["done"]
    assert catalogue.dataset("aviation", FLIGHTS).version == 2


def test_a_name_is_taken_once_and_case_does_not_make_another(catalogue: Catalogue) -> None:
    catalogue.register(dataset("aviation.flights"))
    refused(Code.CAT_CONFLICT, catalogue.register, dataset("aviation.flights"))
    refused(Code.CAT_CONFLICT, catalogue.register, dataset("aviation.Flights"))


def test_withdrawn_is_gone_for_others_and_can_come_back(catalogue: Catalogue) -> None:
    catalogue.register(dataset("aviation.flights"))
    refused(Code.CAT_INVALID, catalogue.withdraw, "aviation", FLIGHTS, reason=" ")
    refused(Code.CAT_NOT_FOUND, catalogue.withdraw, "weather", FLIGHTS, reason="not mine")
    catalogue.withdraw("aviation", FLIGHTS, reason="replaced")
    refused(Code.CAT_NOT_FOUND, catalogue.dataset, "weather", FLIGHTS)
    refused(Code.CAT_NOT_FOUND, catalogue.versions, "weather", FLIGHTS)
    refused(Code.CAT_NOT_FOUND, catalogue.withdraw, "aviation", FLIGHTS, reason="again")
    assert catalogue.dataset("aviation", FLIGHTS).withdrawn
    assert FLIGHTS not in catalogue.schema_for("aviation")[1]
    assert catalogue.list_datasets("aviation").datasets == ()
    assert catalogue.register(dataset("aviation.flights", title="back")).dataset.version == 3
    assert catalogue.dataset("weather", FLIGHTS).title == "back"
    assert [item.reason for item in catalogue.versions("aviation", FLIGHTS)] == ["registered", "replaced", "registered"]


def test_hidden_and_unknown_look_alike(catalogue: Catalogue) -> None:
    catalogue.register(dataset("aviation.flights", hidden_from=("weather",)))
    hidden = refused(Code.CAT_NOT_FOUND, catalogue.dataset, "weather", FLIGHTS)
    unknown = refused(Code.CAT_NOT_FOUND, catalogue.dataset, "weather", DatasetName("aviation", "none"))
    assert (str(hidden), hidden.info, hidden.reasons) == (str(unknown), unknown.info, unknown.reasons)
    assert FLIGHTS not in catalogue.schema_for("weather")[1]
    assert catalogue.list_datasets("weather").datasets == ()
    assert FLIGHTS in catalogue.schema_for("health")[1]
    assert catalogue.dataset("health", FLIGHTS).hidden_from == ()
    assert catalogue.dataset("aviation", FLIGHTS).hidden_from == ("weather",)


def test_hidden_from_everybody_means_those_who_join_later_too(catalogue: Catalogue) -> None:
    catalogue.register(dataset("aviation.flights", hidden_from=("*",)))
    assert [name for name in ("aviation", "health", "later") if FLIGHTS in catalogue.schema_for(name)[1]] == [
        "aviation"
    ]


def test_an_old_version_is_hidden_when_the_newest_is(catalogue: Catalogue) -> None:
    first = catalogue.register(dataset("aviation.flights")).dataset
    catalogue.update(replace(first, hidden_from=("weather",)), expected_version=1)
    refused(Code.CAT_NOT_FOUND, catalogue.dataset, "weather", FLIGHTS, 1)


def test_the_schema_is_kept_while_nothing_changes_and_fresh_after_a_change(catalogue: Catalogue) -> None:
    catalogue.register(dataset("aviation.flights"))
    number, schema = catalogue.schema_for("health")
    again, same = catalogue.schema_for("health")
    assert (again, same is schema) == (number, True)
    catalogue.register(dataset("weather.hours"))
    later, more = catalogue.schema_for("health")
    assert later > number
    assert set(more) == {FLIGHTS, DatasetName("weather", "hours")}


def test_another_broker_on_the_same_database_sees_a_change_at_once(
    catalogue: Catalogue, engine: Engine, clock: HeldClock
) -> None:
    other = Catalogue(engine, clock)
    assert other.schema_for("health")[1] == {}
    first = catalogue.register(dataset("aviation.flights")).dataset
    assert set(other.schema_for("health")[1]) == {FLIGHTS}
    catalogue.update(replace(first, title="new"), expected_version=1)
    assert other.schema_for("health")[1][FLIGHTS].title == "new"


class TestRetries:
    """A write that is sent twice happens once."""

    def test_a_retry_gets_the_first_answer(self, catalogue: Catalogue) -> None:
        entries: list[Mapping[str, Any]] = []
        one = catalogue.register(dataset("aviation.flights"), idempotency_key="k1", record=entries.append)
        catalogue.update(replace(one.dataset, title="new"), expected_version=1, idempotency_key="k2")
        assert catalogue.register(dataset("aviation.flights"), idempotency_key="k1", record=entries.append) == one
        again = catalogue.update(replace(one.dataset, title="new"), expected_version=1, idempotency_key="k2")
        assert again.version == 2
        catalogue.withdraw("aviation", FLIGHTS, reason="old", idempotency_key="k3")
        catalogue.withdraw("aviation", FLIGHTS, reason="old", idempotency_key="k3")
        assert len(entries) == 1
        assert catalogue.dataset("aviation", FLIGHTS).version == 3

    def test_a_key_is_good_for_one_request(self, catalogue: Catalogue) -> None:
        catalogue.register(dataset("aviation.flights"), idempotency_key="k1")
        refused(Code.CAT_CONFLICT, catalogue.register, dataset("aviation.planes"), idempotency_key="k1")
        refused(Code.CAT_INVALID, catalogue.register, dataset("aviation.planes"), idempotency_key="k" * 101)

    def test_two_members_may_use_the_same_key(self, catalogue: Catalogue) -> None:
        catalogue.register(dataset("aviation.flights"), idempotency_key="k1")
        assert catalogue.register(dataset("weather.hours"), idempotency_key="k1").dataset.owner == "weather"

    def test_a_key_is_forgotten_after_a_week(self, catalogue: Catalogue, clock: HeldClock) -> None:
        catalogue.register(dataset("aviation.flights"), idempotency_key="k1")
        clock.advance(days=8)
        catalogue.register(dataset("weather.hours"))
        refused(Code.CAT_CONFLICT, catalogue.register, dataset("aviation.flights"), idempotency_key="k1")


class TestRecording:
    """What cannot be recorded does not happen."""

    def test_a_change_whose_entry_fails_is_undone(self, catalogue: Catalogue) -> None:
        def fail(_entry: Mapping[str, Any]) -> None:
            raise error_for(Code.AUDIT_UNAVAILABLE)

        refused(Code.AUDIT_UNAVAILABLE, catalogue.register, dataset("aviation.flights"), record=fail)
        refused(Code.CAT_NOT_FOUND, catalogue.dataset, "aviation", FLIGHTS)
        first = catalogue.register(dataset("aviation.flights")).dataset
        refused(Code.AUDIT_UNAVAILABLE, catalogue.update, replace(first, title="x"), expected_version=1, record=fail)
        refused(Code.AUDIT_UNAVAILABLE, catalogue.withdraw, "aviation", FLIGHTS, reason="r", record=fail)
        assert catalogue.dataset("aviation", FLIGHTS) == first

    def test_the_entry_names_what_was_done(self, catalogue: Catalogue) -> None:
        entries: list[Mapping[str, Any]] = []
        first = catalogue.register(dataset("aviation.flights"), record=entries.append).dataset
        catalogue.update(replace(first, title="x"), expected_version=1, record=entries.append)
        catalogue.withdraw("aviation", FLIGHTS, reason="old", record=entries.append)
        assert [(entry["action"], entry["dataset"], entry["version"]) for entry in entries] == [
            ("register", "aviation.flights", 1),
            ("update", "aviation.flights", 2),
            ("withdraw", "aviation.flights", 3),
        ]
        assert len({entry["document_sha256"] for entry in entries}) == 3


class TestCollections:
    """One dataset in parts that several members hold."""

    @pytest.fixture
    def parts(self, catalogue: Catalogue) -> tuple[DatasetName, ...]:
        for owner in ("health", "east"):
            catalogue.register(dataset(f"{owner}.residents"))
        return (DatasetName("health", "residents"), DatasetName("east", "residents"))

    def collection(self, parts: tuple[DatasetName, ...], **changes: Any) -> Any:
        return dataset("city.residents", **({"owner": "health", "node": "", "parts": parts} | changes))

    def test_is_known_to_those_who_may_know_all_parts(
        self, catalogue: Catalogue, parts: tuple[DatasetName, ...]
    ) -> None:
        name = catalogue.register(self.collection(parts)).dataset.name
        assert name in catalogue.schema_for("aviation")[1]
        east = catalogue.dataset("east", parts[1])
        catalogue.update(replace(east, hidden_from=("aviation",)), expected_version=1)
        assert name not in catalogue.schema_for("aviation")[1]
        refused(Code.CAT_NOT_FOUND, catalogue.dataset, "aviation", name)
        assert name in catalogue.schema_for("weather")[1]

    def test_cannot_be_queried_when_a_part_is_gone_or_has_changed(
        self, catalogue: Catalogue, parts: tuple[DatasetName, ...]
    ) -> None:
        name = catalogue.register(self.collection(parts)).dataset.name
        east = catalogue.dataset("east", parts[1])
        other = catalogue.update(replace(east, columns=(Column("id", "VARCHAR"),)), expected_version=1)
        assert name not in catalogue.schema_for("health")[1]
        catalogue.update(replace(other, columns=east.columns), expected_version=2)
        assert name in catalogue.schema_for("health")[1]
        catalogue.withdraw("east", parts[1], reason="gone")
        assert name not in catalogue.schema_for("health")[1]
        assert catalogue.dataset("health", name).parts == parts

    def test_needs_sound_parts(self, catalogue: Catalogue, parts: tuple[DatasetName, ...]) -> None:
        register, make = catalogue.register, self.collection
        refused(Code.CAT_INVALID, register, make((*parts, DatasetName("east", "none"))))
        refused(Code.CAT_INVALID, register, make((parts[0], parts[0])))
        refused(Code.CAT_INVALID, register, make(parts, columns=(Column("id", "BIGINT"),)))
        refused(Code.CAT_INVALID, register, make(parts, node="n1"))
        catalogue.register(dataset("weather.residents", hidden_from=("health",)))
        refused(Code.CAT_INVALID, register, make((*parts, DatasetName("weather", "residents"))))
        register(make(parts))
        nested = dataset("city.nested", owner="health", node="", parts=(DatasetName("city", "residents"),))
        refused(Code.CAT_INVALID, register, nested)

    def test_a_namespace_belongs_to_who_used_it_first(
        self, catalogue: Catalogue, engine: Engine, clock: HeldClock, parts: tuple[DatasetName, ...]
    ) -> None:
        catalogue.register(self.collection(parts))
        refused(
            Code.CAT_CONFLICT,
            catalogue.register,
            replace(self.collection(parts, owner="east"), name=DatasetName("city", "b")),
        )
        refused(Code.CAT_CONFLICT, catalogue.register, replace(self.collection(parts), name=DatasetName("east", "b")))
        refused(Code.CAT_CONFLICT, city(engine, clock)[1].add_member, "city", "City", "government")

    def test_a_dataset_does_not_become_a_collection(self, catalogue: Catalogue, parts: tuple[DatasetName, ...]) -> None:
        plain = catalogue.dataset("health", parts[0])
        changed = replace(plain, node="", parts=(parts[1],))
        refused(Code.CAT_INVALID, catalogue.update, changed, expected_version=1)


def test_owner_must_be_a_member_that_was_not_revoked(catalogue: Catalogue, engine: Engine, clock: HeldClock) -> None:
    refused(Code.ID_MEMBER_UNKNOWN, catalogue.register, dataset("nobody.things"))
    city(engine, clock)[1].revoke(member="east", reason="left")
    refused(Code.ID_MEMBER_UNKNOWN, catalogue.register, dataset("east.things"))


def test_pages_are_whole_sorted_and_stable(catalogue: Catalogue) -> None:
    names = [f"aviation.{letter}" for letter in ("b", "a", "Z", "表", "_c", "d", "É")]
    for name in names:
        catalogue.register(dataset(name))
    seen: list[str] = []
    token = ""
    while True:
        page = catalogue.list_datasets("health", page_size=2, page_token=token)
        assert len(page.datasets) <= 2
        seen += [str(item.name) for item in page.datasets]
        token = page.next_page_token
        if not token:
            break
        catalogue.register(dataset(f"aviation.{'A' * len(seen)}"))  # arrives before the place: no one is shown twice
    assert seen == sorted(set(seen))
    assert set(names) <= set(seen)


@pytest.mark.parametrize(
    "token", ["x", "!!", "WyJtZW1iZXJzIiwiYSJd", "W10", "WyJkYXRhc2V0cyJd", "W1tbW10=", "é", "A" * 3_000]
)
def test_a_page_token_that_we_did_not_give_is_refused(catalogue: Catalogue, token: str) -> None:
    refused(Code.CAT_INVALID, catalogue.list_datasets, "health", page_token=token)


def test_asked_twice_is_noticed_and_nothing_is_stopped(catalogue: Catalogue) -> None:
    address = Column("address", "VARCHAR", element="person.address")
    catalogue.register(dataset("health.people", columns=(Column("id", "BIGINT", element="person.id"), address)))
    catalogue.register(
        dataset("east.secret_people", columns=(address,), hidden_from=("aviation",), dataset_class=DatasetClass.OPEN)
    )
    entries: list[Mapping[str, Any]] = []
    new = dataset(
        "aviation.passengers",
        keys=("pid",),
        columns=(Column("pid", "BIGINT", element="person.id"), Column("home", "VARCHAR", element="person.address")),
    )
    done = catalogue.register(new, record=entries.append)
    assert len(done.notices) == 1
    assert "home" in done.notices[0]
    assert "already held by health in health.people" in done.notices[0]
    assert "ask a steward of health" in done.notices[0]
    assert entries[0]["already_held"] == ["health.people"]


class TestDatabase:
    """Opening, upgrading, failing."""

    def test_migrations_make_exactly_the_tables_that_the_code_uses(self, engine: Engine) -> None:
        with reading(engine) as connection:
            context = MigrationContext.configure(connection)
            found = [item for item in compare_metadata(context, METADATA) if "search_index" not in str(item)]
        assert found == []

    def test_opening_twice_keeps_what_is_there(self, engine: Engine, catalogue: Catalogue) -> None:
        catalogue.register(dataset("aviation.flights"))
        again = open_database(engine.url.render_as_string(hide_password=False))
        try:
            assert set(Catalogue(again, HeldClock()).schema_for("health")[1]) == {FLIGHTS}
        finally:
            again.dispose()

    def test_a_newer_database_is_not_touched(self, engine: Engine) -> None:
        with writing(engine) as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        refused(Code.CONFIG_INVALID, open_database, engine.url.render_as_string(hide_password=False))

    def test_a_failed_transaction_leaves_nothing(self, engine: Engine) -> None:
        with reading(engine) as connection:
            before = generation(connection, CATALOGUE)
        with pytest.raises(RuntimeError), writing(engine, CATALOGUE):
            raise RuntimeError
        with reading(engine) as connection:
            assert generation(connection, CATALOGUE) == before

    def test_readers_see_one_snapshot(self, engine: Engine) -> None:
        with reading(engine) as reader:
            before = generation(reader, MEMBERS)
            with writing(engine, MEMBERS):
                pass
            assert generation(reader, MEMBERS) == before
        with reading(engine) as reader:
            assert generation(reader, MEMBERS) == before + 1

    def test_an_error_of_the_engine_shows_nothing_to_the_caller(self, engine: Engine) -> None:
        with pytest.raises(TidegateError) as caught, reading(engine) as connection:
            connection.execute(text("SELECT secret FROM nowhere"))
        assert caught.value.code is Code.INTERNAL
        assert "nowhere" not in str(caught.value)
        assert "nowhere" in caught.value.detail


@pytest.mark.parametrize("kind", DATABASES)
def test_two_brokers_that_start_at_once_upgrade_once(kind: str, tmp_path: Path) -> None:
    url = database_url(kind, tmp_path)
    start = threading.Barrier(4)

    def begin(_number: int) -> int:
        start.wait()
        engine = open_database(url)
        try:
            with reading(engine) as connection:
                return generation(connection, CATALOGUE)
        finally:
            engine.dispose()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(begin, range(4))) == [1, 1, 1, 1]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "mysql://h/db",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///a.db?mode=ro",
        "sqlite:////dev/null/x.db",
    ],
)
def test_a_url_that_is_none_of_ours_is_refused(url: str) -> None:
    refused(Code.CONFIG_INVALID, open_database, url)


def test_the_file_is_private_and_durable(tmp_path: Path) -> None:
    engine = open_database(database_url("sqlite", tmp_path))
    with reading(engine) as connection:
        assert (tmp_path / "catalogue.db").stat().st_mode & 0o777 == 0o600
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    engine.dispose()

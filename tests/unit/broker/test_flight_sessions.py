"""Sessions of the second door: by cookie or by connection, never another caller's, bounded, gone when unused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from broker.wire.flight import sessions as module
from broker.wire.flight.sessions import COOKIE, IDLE_S, OPTIONS_MAX, Link, Sessions
from catalogue.store import Catalogue
from tests.contract.catalogue_setup import HeldClock, city, dataset, opened
from tidegate.core.caller import Caller
from tidegate.core.clock import SystemIds
from tidegate.core.errors import Code, TidegateError
from tidegate.core.names import SpiffeId
from tidegate.v1 import flight_pb2 as flight

EXCHANGE = "city.example"
HERE, THERE = Link("ipv4:127.0.0.1:1001"), Link("ipv4:127.0.0.1:1002")


def caller(member: str, fingerprint: str = "") -> Caller:
    spiffe = SpiffeId.parse(f"spiffe://{EXCHANGE}/member/{member}/service/desk")
    return Caller(spiffe, ("analyst",), "internal", "government", fingerprint or member)


@pytest.fixture
def clock() -> HeldClock:
    return HeldClock()


@pytest.fixture
def catalogue(tmp_path: Path, clock: HeldClock) -> Iterator[Catalogue]:
    with opened("sqlite", tmp_path) as engine:
        found, _ = city(engine, clock)
        found.register(dataset("aviation.flights"))
        found.register(dataset("weather.hours"))
        found.register(dataset("health.cases", hidden_from=("east",)))
        yield found


@pytest.fixture
def sessions(catalogue: Catalogue, clock: HeldClock) -> Sessions:
    return Sessions(catalogue, EXCHANGE, clock=clock, ids=SystemIds())


def options(**values: Any) -> flight.FlightSetSessionOptionsRequest:
    request = flight.FlightSetSessionOptionsRequest()
    for name, value in values.items():
        if value is None:
            request.session_options[name].SetInParent()
        elif isinstance(value, bool):
            request.session_options[name].bool_value = value
        elif isinstance(value, int):
            request.session_options[name].int64_value = value
        elif isinstance(value, float):
            request.session_options[name].double_value = value
        elif isinstance(value, list):
            request.session_options[name].string_list_value.values.extend(value)
        else:
            request.session_options[name].string_value = value
    return request


def set_options(sessions: Sessions, who: Caller, link: Link, **values: Any) -> tuple[dict[str, int], str]:
    """Set options; give the errors, and the session id of the cookie that came back or nothing."""
    result, headers = sessions.set_options(options(**values), who, link)
    cookie = dict(headers).get("set-cookie", "")
    name, _, rest = cookie.partition("=")
    assert name == (COOKIE if cookie else "")
    return {key: error.value for key, error in result.errors.items()}, rest.partition(";")[0]


def read(sessions: Sessions, who: Caller, link: Link) -> dict[str, str]:
    return {key: value.string_value for key, value in sessions.get_options(who, link).session_options.items()}


def test_a_client_without_cookies_keeps_its_options_on_its_connection(sessions: Sessions) -> None:
    assert read(sessions, caller("east"), HERE) == {"catalog": EXCHANGE, "schema": ""}
    errors, _ = set_options(sessions, caller("east"), HERE, schema="aviation", catalog=EXCHANGE)
    assert errors == {}
    assert read(sessions, caller("east"), HERE) == {"catalog": EXCHANGE, "schema": "aviation"}
    assert sessions.department(caller("east"), HERE) == "aviation"
    assert sessions.department(caller("east"), THERE) == ""
    set_options(sessions, caller("east"), HERE, schema="weather")
    assert sessions.department(caller("east"), HERE) == "weather"
    set_options(sessions, caller("east"), HERE, schema=None)
    assert sessions.department(caller("east"), HERE) == ""


def test_a_client_with_cookies_keeps_them_over_connections_and_leaves_the_connection_to_others(
    sessions: Sessions,
) -> None:
    _, token = set_options(sessions, caller("east"), HERE, schema="aviation")
    assert sessions.department(caller("east"), Link(HERE.peer, token)) == "aviation"
    assert sessions.department(caller("east"), Link(THERE.peer, token)) == "aviation"
    assert sessions.department(caller("east"), HERE) == "", "another client behind the same proxy"
    assert set_options(sessions, caller("east"), Link(THERE.peer, token), schema="weather") == ({}, "")
    assert sessions.department(caller("east"), Link(HERE.peer, token)) == "weather"


def test_nobody_meets_anothers_session_neither_by_cookie_nor_by_connection(sessions: Sessions) -> None:
    _, token = set_options(sessions, caller("east"), HERE, schema="aviation")
    for stranger in (caller("weather"), caller("east", "another-certificate")):
        for link in (HERE, Link(HERE.peer, token), Link(THERE.peer, token)):
            assert sessions.department(stranger, link) == ""
        sessions.close(stranger, Link(HERE.peer, token))
        set_options(sessions, stranger, Link(HERE.peer, token), schema="weather")
    assert sessions.department(caller("east"), Link(HERE.peer, token)) == "aviation"


@pytest.mark.parametrize(
    "value", ["health", "nobody", "AVIATION ", True, 7, 1.5, ["aviation"], "x" * 10_000, "aviation.flights"]
)
def test_a_department_that_must_not_be_known_is_as_good_as_none(sessions: Sessions, value: Any) -> None:
    assert set_options(sessions, caller("east"), HERE, schema=value) == ({"schema": module._INVALID_VALUE}, "")
    assert sessions.department(caller("east"), HERE) == ""


def test_who_may_know_it_may_set_it_in_any_case(sessions: Sessions) -> None:
    assert set_options(sessions, caller("weather"), HERE, schema="Health")[0] == {}
    assert sessions.department(caller("weather"), HERE) == "health"


def test_names_and_catalogs_that_are_none_are_said_and_the_rest_holds(sessions: Sessions) -> None:
    errors, _ = set_options(sessions, caller("east"), HERE, schema="aviation", catalog="other", timezone="UTC")
    assert errors == {"catalog": module._INVALID_VALUE, "timezone": module._INVALID_NAME}
    assert read(sessions, caller("east"), HERE) == {"catalog": EXCHANGE, "schema": "aviation"}


def test_closing_ends_it_and_may_be_done_twice(sessions: Sessions) -> None:
    closed = flight.FlightCloseSessionResult.STATUS_CLOSED
    _, token = set_options(sessions, caller("east"), HERE, schema="aviation")
    assert sessions.close(caller("east"), HERE).status == closed == sessions.close(caller("east"), HERE).status
    assert sessions.department(caller("east"), HERE) == ""
    assert sessions.department(caller("east"), Link(THERE.peer, token)) == ""


def test_a_session_ends_when_it_is_not_used(sessions: Sessions, clock: HeldClock) -> None:
    set_options(sessions, caller("east"), HERE, schema="aviation")
    for _ in range(3):
        clock.advance(seconds=IDLE_S - 1)
        assert sessions.department(caller("east"), HERE) == "aviation"
    clock.advance(seconds=IDLE_S)
    assert sessions.department(caller("east"), HERE) == ""


def test_who_opens_ever_more_sessions_loses_its_own(sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    set_options(sessions, caller("weather"), HERE, schema="aviation")
    for number in range(module.SESSIONS_MAX + 10):
        set_options(sessions, caller("east"), Link(f"peer {number}"), schema="aviation")
    assert sessions.department(caller("weather"), HERE) == "aviation"
    assert sessions.department(caller("east"), Link("peer 0")) == ""
    assert sessions.department(caller("east"), Link(f"peer {module.SESSIONS_MAX}")) == "aviation"


def test_a_request_with_ever_more_options_is_refused(sessions: Sessions) -> None:
    with pytest.raises(TidegateError) as caught:
        sessions.set_options(options(**{f"o{n}": "" for n in range(OPTIONS_MAX + 1)}), caller("east"), HERE)
    assert caught.value.code is Code.WIRE_INVALID


class Call:
    """The part of a call that names its peer."""

    def __init__(self, *metadata: tuple[str, str | bytes]) -> None:
        self._metadata = metadata

    def peer(self) -> str:
        return HERE.peer

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return self._metadata


TOKEN = "0123456789abcdef" * 2


@pytest.mark.parametrize(
    ("metadata", "cookie"),
    [
        ((), ""),
        ((("cookie", f"{COOKIE}={TOKEN}"),), TOKEN),
        ((("cookie", f'a=b; {COOKIE}="{TOKEN}"; c=d'),), TOKEN),
        ((("cookie", "a=b"), ("cookie", f"{COOKIE}={TOKEN}")), TOKEN),
        ((("cookie", f"{COOKIE}=x"),), ""),
        ((("cookie", f"{COOKIE}={TOKEN}0"),), ""),
        ((("cookie", f"x{COOKIE}={TOKEN}"),), ""),
        ((("cookie", ";;=;="),), ""),
        ((("cookie-bin", f"{COOKIE}={TOKEN}".encode()),), ""),
    ],
)
def test_the_cookie_is_read_off_the_call(metadata: Any, cookie: str) -> None:
    assert Link.of(Call(*metadata)) == Link(HERE.peer, cookie)  # type: ignore[arg-type]

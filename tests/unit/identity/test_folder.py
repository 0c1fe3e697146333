"""The identity folder: what is saved comes back, what is damaged is named, nothing is half written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from tests.fakes.exchange import START, SmallExchange
from tidegate.core.errors import Code, TidegateError
from tidegate.identity import keys
from tidegate.identity.folder import ExchangeInfo, IdentityFolder


def test_an_identity_comes_back_as_it_was(exchange: SmallExchange, tmp_path: Path) -> None:
    folder, identity = IdentityFolder(tmp_path / "id"), exchange.member()
    assert not folder.exists
    folder.save(identity)
    loaded = folder.load()
    assert folder.exists
    assert loaded.key.private_numbers() == identity.key.private_numbers()
    assert replace(loaded, key=identity.key) == identity
    assert (tmp_path / "id" / "identity.pem").stat().st_mode & 0o777 == 0o600
    assert sorted(item.name for item in (tmp_path / "id").iterdir()) == ["exchange.json", "identity.pem"]


def test_no_identity_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(TidegateError, match="tidegate join") as caught:
        IdentityFolder(tmp_path).load()
    assert caught.value.code is Code.CLIENT_NO_CONTEXT


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: (path / "identity.pem").write_bytes((path / "identity.pem").read_bytes()[:900]),
    "no root": lambda path: (path / "identity.pem").write_bytes(
        (path / "identity.pem").read_bytes().rpartition(b"-----BEGIN CERTIFICATE-----")[0]
    ),
    "empty": lambda path: (path / "identity.pem").write_bytes(b""),
    "no exchange": lambda path: (path / "exchange.json").unlink(),
    "exchange not JSON": lambda path: (path / "exchange.json").write_text("{"),
    "exchange without a field": lambda path: (path / "exchange.json").write_text('{"exchange":"city.example"}'),
    "open to others": lambda path: (path / "identity.pem").chmod(0o644),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_folder_is_refused(exchange: SmallExchange, tmp_path: Path, name: str) -> None:
    folder = IdentityFolder(tmp_path)
    folder.save(exchange.member())
    DAMAGE[name](tmp_path)
    with pytest.raises(TidegateError) as caught:
        folder.load()
    assert caught.value.code is Code.CONFIG_INVALID
    assert str(tmp_path) not in str(caught.value)
    error = folder.check(START)
    assert error is not None
    assert error.code is Code.CONFIG_INVALID


def test_check_says_what_a_server_would_not(exchange: SmallExchange, tmp_path: Path) -> None:
    identity = exchange.member()
    folder = IdentityFolder(tmp_path)
    folder.save(identity)
    assert folder.check(START) is None
    expired = folder.check(START + timedelta(days=2))
    assert expired is not None
    assert expired.code is Code.ID_CERTIFICATE_EXPIRED
    assert "2026-05-05T12:00:00Z" in str(expired)
    for wrong in (
        replace(identity, key=keys.new_key()),
        replace(identity, exchange=replace(identity.exchange, exchange="other.example")),
        replace(identity, chain_pem=identity.root_pem),
    ):
        with pytest.raises(TidegateError) as caught:
            wrong.check(START)
        assert caught.value.code is Code.ID_CERTIFICATE_INVALID


def test_a_folder_that_cannot_be_written_is_found_before_a_token_is_spent(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TidegateError, match="cannot be written"):
        IdentityFolder(tmp_path / "file" / "below").prepare()


def test_a_failed_save_keeps_the_old_identity(exchange: SmallExchange, tmp_path: Path) -> None:
    folder, old = IdentityFolder(tmp_path), exchange.member(name="old")
    folder.save(old)
    (tmp_path / "exchange.json").unlink()
    (tmp_path / "exchange.json").mkdir()  # the first of the two writes fails
    with pytest.raises(TidegateError):
        folder.save(exchange.member(name="new"))
    assert old.certificate_pem in (tmp_path / "identity.pem").read_bytes()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"exchange":"a","callers":"b","nodes":"c","enrolment":"d","log_origin":"e"}',
        '{"exchange":"a","callers":"b","nodes":"c","enrolment":"d","log_origin":"e","log_verifier_key":"f","more":"g"}',
        '{"exchange":"a","callers":"","nodes":"c","enrolment":"d","log_origin":"e","log_verifier_key":"f"}',
        '{"exchange":"a","callers":7,"nodes":"c","enrolment":"d","log_origin":"e","log_verifier_key":"f"}',
        '{"exchange":"a","callers":"b\\u001b[2J","nodes":"c","enrolment":"d","log_origin":"e","log_verifier_key":"f"}',
        '{"exchange":"a","exchange":"b","callers":"b","nodes":"c","enrolment":"d","log_origin":"e","log_verifier_key":"f"}',
    ],
)
def test_a_description_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(TidegateError) as caught:
        ExchangeInfo.from_text(text)
    assert caught.value.code is Code.WIRE_INVALID


def test_a_description_comes_back_as_it_was(exchange: SmallExchange) -> None:
    assert ExchangeInfo.from_text(exchange.info.to_text()) == exchange.info

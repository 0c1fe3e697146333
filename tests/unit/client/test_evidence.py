"""Saved answers verify offline, with the log's key alone; one changed byte anywhere fails them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from audit.log import AuditLog
from tests.fakes.scripted_query import REQUEST, ScriptedExchange, tables
from tidegate.client.evidence import verify_evidence
from tidegate.client.receipts import verify_saved
from tidegate.core.clock import SystemClock, SystemIds
from tidegate.core.errors import CallerError, Code, IntegrityError, TidegateError

RECEIPT_FILES = ("receipt.note", "entry.json", "proof.tlog-proof")
FILES = (
    "answer.arrow",
    "answer.json",
    *(f"{receipt}/{name}" for receipt in ("decision", "outcome") for name in RECEIPT_FILES),
)


@pytest.fixture(scope="module")
def saved(exchange: ScriptedExchange, tmp_path_factory: pytest.TempPathFactory) -> Path:
    result = exchange.ask(exchange.honest(tables(50)), keep=tmp_path_factory.mktemp("saved") / "answer")
    return result.save()


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def fails(folder: Path, key: str) -> TidegateError:
    with pytest.raises(TidegateError) as caught:
        verify_evidence(folder, key)
    return caught.value


def test_it_verifies_and_any_arrow_reader_reads_it(exchange: ScriptedExchange, saved: Path) -> None:
    verified = verify_evidence(saved, exchange.log.verifier_key)
    assert verified.request_id == REQUEST
    assert verified.decision.index + 1 == verified.outcome.index
    with (saved / "answer.arrow").open("rb") as file:
        assert pa.ipc.open_stream(file).read_all().equals(tables(50))
    assert {str(path.relative_to(saved)) for path in saved.rglob("*") if path.is_file()} == set(FILES)
    assert verify_saved(saved / "decision", exchange.log.verifier_key).index == verified.decision.index


@pytest.mark.parametrize("name", FILES)
def test_one_changed_byte_anywhere_fails_it(exchange: ScriptedExchange, copy: Path, name: str) -> None:
    data = (copy / name).read_bytes()
    for position in {*range(0, len(data), max(len(data) // 40, 1)), len(data) - 1}:
        (copy / name).write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        if name == "answer.json" and _says_the_same(copy / name, data):
            continue  # white space of the JSON beside the answer carries nothing; every other byte counts
        assert fails(copy, exchange.log.verifier_key).code is Code.AUDIT_VERIFICATION, position


def _says_the_same(path: Path, data: bytes) -> bool:
    try:
        return bool(json.loads(path.read_bytes()) == json.loads(data))
    except ValueError:
        return False


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_said(exchange: ScriptedExchange, copy: Path, name: str) -> None:
    (copy / name).unlink()
    error = fails(copy, exchange.log.verifier_key)
    assert (type(error), error.code) == (CallerError, Code.CLIENT_INPUT)
    assert "expected a folder with" in error.message


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_short_or_grown_or_empty(exchange: ScriptedExchange, copy: Path, name: str) -> None:
    data = (copy / name).read_bytes()
    for wrong in (b"", data[: len(data) // 2], data + b"x"):
        (copy / name).write_bytes(wrong)
        assert fails(copy, exchange.log.verifier_key).code is Code.AUDIT_VERIFICATION


@pytest.mark.parametrize(
    "text", ["{}", "[]", '{"digest": 1, "nonce": "00"}', '{"digest": "00", "nonce": null}', "\udc00", "x" * 5000]
)
def test_a_digest_file_of_another_form(exchange: ScriptedExchange, copy: Path, text: str) -> None:
    (copy / "answer.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert fails(copy, exchange.log.verifier_key).code is Code.AUDIT_VERIFICATION


def test_another_logs_key(saved: Path, tmp_path: Path) -> None:
    other = AuditLog.create(tmp_path / "log", "scripted/audit", SystemClock(), SystemIds(), reserve_bytes=0)
    other.close()
    assert isinstance(fails(saved, other.verifier_key), IntegrityError)


@pytest.mark.parametrize("key", ["", "x", "scripted/audit+00000000+AAAA"])
def test_a_key_that_is_none(saved: Path, key: str) -> None:
    fails(saved, key)


def mix(what: str) -> Callable[[Path, Path], None]:
    def replace(copy: Path, other: Path) -> None:
        shutil.rmtree(copy / what)
        shutil.copytree(other / what, copy / what)

    return replace


def swap(copy: Path, other: Path) -> None:
    del other
    (copy / "decision").rename(copy / "x")
    (copy / "outcome").rename(copy / "decision")
    (copy / "x").rename(copy / "outcome")


def twice(copy: Path, other: Path) -> None:
    del other
    shutil.rmtree(copy / "decision")
    shutil.copytree(copy / "outcome", copy / "decision")


def other_answer(copy: Path, other: Path) -> None:
    for name in ("answer.arrow", "answer.json"):
        shutil.copy(other / name, copy / name)


@pytest.mark.parametrize("forge", [mix("decision"), mix("outcome"), swap, twice, other_answer])
def test_genuine_parts_in_the_wrong_place(
    exchange: ScriptedExchange, copy: Path, tmp_path: Path, forge: Callable[[Path, Path], None]
) -> None:
    messages = exchange.honest(tables(51), request_id="ee" * 16)
    messages[0].started.request_id = "ee" * 16
    other = exchange.ask(messages, keep=tmp_path / "other").save()
    verify_evidence(other, exchange.log.verifier_key)
    forge(copy, other)
    assert fails(copy, exchange.log.verifier_key).code is Code.AUDIT_VERIFICATION


def test_a_proof_of_another_entry(exchange: ScriptedExchange, copy: Path) -> None:
    shutil.copy(copy / "decision/proof.tlog-proof", copy / "outcome/proof.tlog-proof")
    assert "another entry" in fails(copy, exchange.log.verifier_key).message


@pytest.mark.parametrize("entry", [b"[]", b"null", b"{", b"\xff"])
def test_an_entry_of_another_form(exchange: ScriptedExchange, entry: bytes) -> None:
    """Even when a log has signed it, for whatever reason, it is no entry."""
    messages = exchange.honest(tables())
    messages[0].started.receipt.entry = entry
    receipt = exchange.ask(messages).receipt
    with pytest.raises(IntegrityError):
        receipt.verify()
    with pytest.raises(IntegrityError):
        _ = receipt.entry

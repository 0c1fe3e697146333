"""An answer is one only when its last word came and its bytes are those that the log commits to."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from tests.fakes.scripted_query import REQUEST, ScriptedExchange, changed, tables
from tidegate.core.errors import CallerError, Code, IntegrityError, PeerError, TidegateError
from tidegate.v1 import common_pb2, query_service_pb2


def test_an_honest_answer(exchange: ScriptedExchange) -> None:
    result = exchange.ask(exchange.honest(tables()))
    assert result.to_arrow().equals(tables())
    assert result.to_arrow() is result.to_arrow()
    result.verify()
    assert result.request_id == REQUEST
    assert result.report == [{"member": "aviation", "rows": 3, "rules": ["aviation.flights: carrier: masked (hash)"]}]
    assert result.banner() == [
        "aviation.flights: rows filtered by origin; masked: tailnum (pseudonym); "
        "aggregates only, groups of at least 10 subjects",
        "aviation, at its own gate: aviation.flights: carrier: masked (hash)",
    ]
    assert (result.receipt.entry["type"], result.outcome.entry["type"]) == ("decision", "outcome")


def test_an_answer_without_rows(exchange: ScriptedExchange) -> None:
    result = exchange.ask(exchange.honest(tables(0)))
    assert result.to_arrow().num_rows == 0
    assert result.to_arrow().schema.equals(tables().schema)
    result.verify()


def test_many_batches_through_the_reader(exchange: ScriptedExchange) -> None:
    table = pa.concat_tables([tables(5), tables(7), tables(1)])
    result = exchange.ask(exchange.honest(table))
    assert result.reader().read_all().equals(table)
    assert result.finished.rows == 13
    with pytest.raises(CallerError, match="taken before"):
        result.reader()
    with pytest.raises(CallerError, match="taken before"):
        result.to_arrow()


def test_the_reader_after_the_table(exchange: ScriptedExchange) -> None:
    result = exchange.ask(exchange.honest(tables()))
    result.to_arrow()
    assert result.reader().read_all().equals(tables())


def test_html_shows_the_banner_and_escapes_the_data(exchange: ScriptedExchange) -> None:
    table = pa.table({"<b>": ["<script>alert(1)</script>"]})
    text = exchange.ask(exchange.honest(table))._repr_html_()
    assert "<script>" not in text
    assert "<b>" not in text
    assert "&lt;script&gt;" in text
    assert "rows filtered" in text


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_a_stream_that_is_cut_short_is_no_answer(exchange: ScriptedExchange, kept: int) -> None:
    messages = exchange.honest(pa.concat_tables([tables(2), tables(2)]))[:kept]
    with pytest.raises(PeerError, match="ended before its last word") as caught:
        exchange.ask(messages).to_arrow()
    assert caught.value.code is Code.CLIENT_UNREACHABLE


def test_the_reader_gives_the_error_of_a_cut_too(exchange: ScriptedExchange) -> None:
    with pytest.raises(PeerError, match="ended before its last word"):
        exchange.ask(exchange.honest(tables())[:2]).reader().read_all()


def test_an_answer_must_begin_with_its_first_word(exchange: ScriptedExchange) -> None:
    with pytest.raises(PeerError):
        exchange.ask(exchange.honest(tables())[1:])


def test_another_digest_than_that_of_the_bytes(exchange: ScriptedExchange) -> None:
    messages = changed(exchange.honest(tables()), -1, "finished", result_digest="0" * 64)
    with pytest.raises(IntegrityError, match="not those that the broker recorded"):
        exchange.ask(messages).to_arrow()


def test_another_value_in_the_bytes(exchange: ScriptedExchange) -> None:
    messages = exchange.honest(tables())
    data = messages[1].batch.ipc
    assert b"row 1" in data
    messages = changed(messages, 1, "batch", ipc=data.replace(b"row 1", b"row 9"))
    with pytest.raises(IntegrityError, match="not those that the broker recorded"):
        exchange.ask(messages).to_arrow()


def test_a_batch_left_out(exchange: ScriptedExchange) -> None:
    messages = exchange.honest(pa.concat_tables([tables(2), tables(2)]))
    del messages[1]
    with pytest.raises(IntegrityError):
        exchange.ask(messages).to_arrow()


def test_a_batch_after_the_last_word(exchange: ScriptedExchange) -> None:
    messages = exchange.honest(tables())
    with pytest.raises(IntegrityError):
        exchange.ask([*messages, messages[1]]).to_arrow()


def test_bytes_that_are_no_arrow(exchange: ScriptedExchange) -> None:
    messages = changed(exchange.honest(tables()), 1, "batch", ipc=b"\xff" * 64)
    with pytest.raises(IntegrityError) as caught:
        exchange.ask(messages).to_arrow()
    assert caught.value.code is Code.FETCH_INVALID_DATA


@pytest.mark.parametrize("text", ["{", "[1]", "NaN", '{"a": 1, "a": 2}', "[" * 100_000])
def test_a_disclosure_that_is_no_object(exchange: ScriptedExchange, text: str) -> None:
    messages = changed(exchange.honest(tables()), 0, "started", disclosure_json=text)
    with pytest.raises(TidegateError, match="disclosure") as caught:
        exchange.ask(messages)
    assert caught.value.code is Code.WIRE_INVALID


def test_a_report_that_is_no_list(exchange: ScriptedExchange) -> None:
    messages = changed(exchange.honest(tables()), -1, "finished", report_json="{}")
    with pytest.raises(TidegateError, match="report"):
        exchange.ask(messages).to_arrow()


@pytest.mark.parametrize("nonce", ["", "zz", "00", "00" * 32, "00" * 33])
def test_a_salt_that_does_not_open_the_commitment(exchange: ScriptedExchange, nonce: str) -> None:
    result = exchange.ask(changed(exchange.honest(tables()), -1, "finished", digest_nonce=nonce))
    result.to_arrow()
    with pytest.raises(IntegrityError, match="another result"):
        result.verify()


def test_the_outcome_of_another_answer(exchange: ScriptedExchange) -> None:
    other = exchange.honest(tables(9))[-1].finished
    messages = changed(
        exchange.honest(tables()), -1, "finished", receipt=other.receipt, digest_nonce=other.digest_nonce
    )
    result = exchange.ask(messages)
    result.to_arrow()
    with pytest.raises(IntegrityError, match="another result"):
        result.verify()


def test_the_receipt_of_another_request(exchange: ScriptedExchange) -> None:
    other = exchange.honest(tables(), request_id="cd" * 16)[0].started.receipt
    result = exchange.ask(changed(exchange.honest(tables()), 0, "started", receipt=other))
    with pytest.raises(IntegrityError, match="another request"):
        result.verify()


def test_no_receipt_at_all(exchange: ScriptedExchange) -> None:
    result = exchange.ask(changed(exchange.honest(tables()), 0, "started", receipt=common_pb2.Receipt()))
    with pytest.raises(IntegrityError):
        result.verify()


def test_a_message_of_a_newer_broker_is_not_data(exchange: ScriptedExchange) -> None:
    newer = query_service_pb2.ExecuteResponse.FromString(b"\x7a\x02hi")  # field 15, which this client does not know
    assert newer.WhichOneof("kind") is None
    messages = exchange.honest(tables())
    assert exchange.ask([messages[0], newer, *messages[1:]]).to_arrow().equals(tables())


def test_what_was_not_kept_cannot_be_saved(exchange: ScriptedExchange) -> None:
    with pytest.raises(CallerError, match="keep=folder"):
        exchange.ask(exchange.honest(tables())).save()


def test_an_answer_that_fails_leaves_no_file(exchange: ScriptedExchange, tmp_path: Path) -> None:
    with pytest.raises(PeerError):
        exchange.ask(exchange.honest(tables())[:2], keep=tmp_path / "kept").to_arrow()
    assert list((tmp_path / "kept").iterdir()) == []

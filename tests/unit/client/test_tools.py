"""What the client says without any exchange: options for tools, extras that are missing, errors of ADBC, pages of HTML."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

import tidegate
from tidegate.client.expressions import statement
from tidegate.client.extras import load
from tidegate.client.preview import BANNER_LINES_MAX, COLUMNS_MAX, ROWS_MAX, page
from tidegate.client.telling import error_lines
from tidegate.client.tools import ToolOptions, call_headers
from tidegate.core.errors import CallerError, Code, Reason, error_for
from tidegate.wire import to_detail

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def options(folder: str = "/ids/lin & co", purpose: str = "transport.planning") -> ToolOptions:
    private = Path(folder) / "identity.pem"
    return ToolOptions(
        "city", "broker.example:7443", private, private, Path(folder) / "ca.pem", NOW, call_headers(purpose, "a=b&c")
    )


def test_the_jdbc_url_carries_paths_and_headers_whatever_letters_are_in_them() -> None:
    made = urlsplit(options().jdbc_url.removeprefix("jdbc:"))
    assert (made.scheme, made.netloc) == ("arrow-flight-sql", "broker.example:7443")
    assert {name: value for name, (value,) in parse_qs(made.query).items()} == {
        "useEncryption": "true",
        "tlsRootCerts": "/ids/lin & co/ca.pem",
        "clientCertificate": "/ids/lin & co/identity.pem",
        "clientKey": "/ids/lin & co/identity.pem",
        "x-tidegate-purpose": "transport.planning",
        "x-tidegate-legal-basis": "a=b&c",
    }


def test_without_a_purpose_no_header_is_named() -> None:
    assert call_headers("", "") == {}
    document = options(purpose="").to_json()
    assert "x-tidegate-purpose" not in document["jdbc"]["url"]
    assert list(document["adbc"]["options"]) == ["adbc.flight.sql.rpc.call_header.x-tidegate-legal-basis"]


@pytest.mark.parametrize("bad", ["a\nb", " a", "p\u00fc", "x" * 201, "a\x00"])
def test_a_purpose_that_no_header_can_carry_is_refused(bad: str) -> None:
    with pytest.raises(CallerError) as caught:
        call_headers(bad, "")
    assert caught.value.code is Code.CLIENT_INPUT


def test_an_extra_that_is_missing_is_named_with_the_command() -> None:
    with pytest.raises(CallerError, match=r"no_such_driver is not installed.*pip install 'tidegate\[adbc\]'"):
        load("no_such_driver.dbapi", "adbc")


def test_the_module_has_what_pep_249_asks_for() -> None:
    module: Any = tidegate.dbapi
    assert (module.apilevel, module.threadsafety, module.paramstyle) == ("2.0", 1, "qmark")
    for name in (
        "Warning",
        "Error",
        "InterfaceError",
        "DatabaseError",
        "DataError",
        "OperationalError",
        "IntegrityError",
    ):
        assert issubclass(getattr(module, name), Exception)
    assert issubclass(module.ProgrammingError, module.DatabaseError)
    assert {"connect", "Binary", "Date"} - set(dir(module)) <= {"Binary"}
    with pytest.raises(AttributeError):
        module.no_such_name  # noqa: B018
    with pytest.raises(AttributeError):
        tidegate.no_such_name  # noqa: B018


class _DriverError(Exception):
    def __init__(self, details: Any) -> None:
        super().__init__("an error of a driver")
        self.details = details


def test_what_the_exchange_says_is_read_out_of_a_drivers_error() -> None:
    refused = error_for(Code.POLICY_REFUSED, "no", reasons=(Reason("agreement_missing", "none"),), request_id="ab")
    refused.receipt = b"note"
    packed = AnyMessage()
    packed.Pack(to_detail(refused))
    error = _DriverError([("other", b"x"), (b"grpc-status-details-bin", packed.SerializeToString())])
    found = tidegate.dbapi.error_of(error)
    assert found is not None
    assert (found.code, found.reasons, found.request_id, found.receipt) == (
        Code.POLICY_REFUSED,
        refused.reasons,
        "ab",
        b"note",
    )
    around = RuntimeError("of a library around it")
    around.__cause__ = error
    again = tidegate.dbapi.error_of(around)
    assert again is not None
    assert again.code is Code.POLICY_REFUSED


@pytest.mark.parametrize(
    "details",
    [
        None,
        [],
        [("grpc-status-details-bin", b"\xff\xff")],
        [("grpc-status-details-bin", "text")],
        [("grpc-status-details-bin", b"x" * 9_000)],
        [("grpc-status-details-bin", AnyMessage(type_url="a/b.C").SerializeToString())],
    ],
)
def test_an_error_in_which_the_exchange_says_nothing_is_none_of_ours(details: Any) -> None:
    assert tidegate.dbapi.error_of(_DriverError(details)) is None


def test_an_errors_lines_move_no_terminal() -> None:
    error = error_for(Code.POLICY_REFUSED, "no", reasons=(Reason("r", "why\x1b[2J", "ask", "somebody"),))
    assert error_lines(error)[:4] == [
        "error TG-POLICY-001: no",
        "  reason   r: why[2J",
        "  ask for  ask",
        "  decided  by somebody",
    ]


def test_a_page_is_bounded_and_shows_what_python_has_no_value_for() -> None:
    wide = pa.table({f"c{number}": ["x" * 10_000] * 100 for number in range(COLUMNS_MAX + 5)})
    text = page(wide, [f"line {number}" for number in range(BANNER_LINES_MAX + 9)], request_id="ab", receipts=[1, 2])
    assert len(text) < ROWS_MAX * COLUMNS_MAX * 300 + 20_000
    assert text.count("<tr>") == ROWS_MAX + 1
    assert "and 9 more" in text
    assert "55 columns, 50 shown" in text
    moments = pa.table({"fine": pa.array([1], pa.timestamp("ns")), "far": pa.array([2**40], pa.timestamp("s"))})
    assert "1970-01-01 00:00:00.000000001" in page(moments, [], request_id="ab", receipts=[1])


def test_control_characters_of_an_expression_are_spelled() -> None:
    ibis = pytest.importorskip("ibis")
    table = ibis.table({"t": "string"}, name="x", database="d")
    sql, params = statement(table.select(y=table.t.strip(), z=table.t + "a\x0b'b\x00"))
    assert params is None
    assert "CHR(11)" in sql
    assert "'''b'" in sql
    assert not set(sql) & set(map(chr, [*range(9), *range(11, 32), 127]))
    assert statement("SELECT '\x0b'") == ("SELECT '\x0b'", None)

"""The family of errors: every code has one row, one branch, and survives the way between processes."""

from __future__ import annotations

import pickle

import grpc
import pytest

from tidegate.core.errors import CODES, Code, Exit, Family, Reason, TidegateError, error_for


def test_every_code_has_its_row() -> None:
    assert set(CODES) == set(Code)


def test_code_values_are_unique_and_of_the_form() -> None:
    values = [code.value for code in Code]
    assert len(set(values)) == len(values)
    assert all(value.startswith("TG-") and value[-3:].isdigit() for value in values)


@pytest.mark.parametrize("code", list(Code))
def test_every_status_is_one_of_grpcs_and_no_failure_exits_with_ok(code: Code) -> None:
    info = CODES[code]
    assert hasattr(grpc.StatusCode, info.grpc_status)
    assert info.exit is not Exit.OK
    assert info.title and info.next_step


@pytest.mark.parametrize("code", list(Code))
def test_an_error_belongs_to_the_branch_of_its_family(code: Code) -> None:
    names = {
        Family.CALLER: "CallerError",
        Family.REFUSED: "Refused",
        Family.OVERLOAD: "Overloaded",
        Family.PEER: "PeerError",
        Family.INTEGRITY: "IntegrityError",
        Family.INTERNAL: "InternalError",
    }
    assert type(error_for(code)).__name__ == names[CODES[code].family]


def test_an_error_survives_pickling_whole() -> None:
    error = error_for(
        Code.POLICY_REFUSED,
        "no",
        detail="private",
        reasons=(Reason("a", "b", "c", "d"),),
        request_id="1",
        retry_after_s=2.0,
    )
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, TidegateError)
    assert (again.code, again.message, again.detail, again.reasons) == (error.code, "no", "private", error.reasons)
    assert (again.request_id, again.retry_after_s) == ("1", 2.0)


def test_an_empty_message_becomes_the_title() -> None:
    assert error_for(Code.BUSY).message == CODES[Code.BUSY].title
    assert "private" not in str(error_for(Code.BUSY, detail="private"))

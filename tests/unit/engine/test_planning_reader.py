"""What comes back from a planning process is read from a closed list, in the form of every supported Python."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from engine.planning import _MODULES, _Reader
from tidegate.core.errors import Code, TidegateError


class Calls:
    """Pickles as a call of a function, as any object may."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def read(value: Any) -> Any:
    return _Reader(pickle.dumps(value, protocol=5), _MODULES).load()


def test_a_member_of_an_enum_is_read_in_both_forms() -> None:
    # Python up to 3.11.3 pickles a member as getattr(class, name), later ones as class(value).
    assert read(Calls(getattr, Code, "PLAN_NOT_ALLOWED")) is Code.PLAN_NOT_ALLOWED
    assert read(Calls(Code, Code.PLAN_NOT_ALLOWED.value)) is Code.PLAN_NOT_ALLOWED


@pytest.mark.parametrize(
    "attack",
    [
        Calls(getattr, TidegateError, "__init__"),
        Calls(getattr, Code, "__subclasses__"),
        Calls(getattr, Code, "__class__"),
        Calls(getattr, "text", "format"),
        Calls(getattr, Code.PLAN_NOT_ALLOWED, "name"),
        Calls(eval, "1"),
        Calls(print, "x"),
    ],
)
def test_no_other_attribute_and_no_function_is_reached(attack: Calls) -> None:
    with pytest.raises((pickle.UnpicklingError, KeyError)):
        read(attack)
